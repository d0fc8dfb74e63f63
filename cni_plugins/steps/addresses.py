"""Words for addresses and routes."""

from typing import NamedTuple

from cni_plugins.spec.fields import IPAddress, IPInterface
from cni_plugins.steps.places import Place


class EnsureAddress(NamedTuple):
    """The link bears the address.

    :param skip_dad: an IPv6 address is usable at once, without duplicate address detection (RFC 4862, 5.4).
    :param optimistic: it is usable while that goes on (RFC 4429); where the kernel cannot, as `skip_dad`.
    :param prefix_route: the kernel routes the address's subnet to the link.
    :param metric: of that route, 0: the kernel's default.
    :param scope: how far an IPv4 address is valid (linux/rtnetlink.h): one of scope link is no source of what
        goes further.
    :param spared: the host answers to an IPv6 address, but sends from others (deprecated: RFC 4862, 5.5.4).
    """

    where: Place
    link: str
    address: IPInterface
    skip_dad: bool = False
    optimistic: bool = False
    prefix_route: bool = True
    metric: int = 0
    scope: int = 0
    spared: bool = False


class DelAddress(NamedTuple):
    """The link does not bear the address."""

    where: Place
    link: str
    address: IPInterface


class AddRoute(NamedTuple):
    """A route out of the link; zero and None leave the value to the kernel.

    :param onlink: the gateway is a neighbour although no subnet of the link holds it.
    :param src: the source address of what the host itself sends that way.
    :param exclusive: refused where there is a route to `dst` already, whatever its link.
    """

    where: Place
    link: str
    dst: IPInterface
    gw: IPAddress | None = None
    mtu: int = 0
    advmss: int = 0
    priority: int = 0
    table: int | None = None
    scope: int | None = None
    onlink: bool = False
    src: IPAddress | None = None
    exclusive: bool = False


class DelRoute(NamedTuple):
    """No such route out of the link."""

    where: Place
    link: str
    dst: IPInterface
    gw: IPAddress | None = None
    priority: int = 0
    table: int | None = None


class EnsureNeighbour(NamedTuple):
    """The link-layer address of a neighbour is known for good, so that nobody has to be asked for it.

    The kernel forgets it when the link goes down or gets another address.

    :param can_be_asked: the neighbour would answer itself, too.
    """

    where: Place
    link: str
    address: IPAddress
    mac: str
    can_be_asked: bool = False


class EnsureHostRoutes(NamedTuple):
    """Routes of the host to single addresses behind a link, marked with the attachment they belong to.

    :param mark: stands in the route's metric, the one field of a route that is the maker's to choose.
    :param sources: the source addresses of what the host itself sends there, at most one of each family.
    """

    link: str
    addresses: tuple[IPAddress, ...]
    mark: int
    sources: tuple[IPAddress, ...] = ()


class DelHostRoutes(NamedTuple):
    """No route of this mark leads out of the link."""

    link: str
    mark: int


class AwaitAddresses(NamedTuple):
    """Duplicate address detection has let every address of the link pass."""

    where: Place
    link: str
