"""Words for addresses and routes."""

from typing import NamedTuple

from cni_plugins.spec.fields import IPAddress, IPInterface
from cni_plugins.steps.places import Place


class EnsureAddress(NamedTuple):
    """The link bears the address; `skip_dad` makes an IPv6 address usable at once (RFC 4862, 5.4)."""

    where: Place
    link: str
    address: IPInterface
    skip_dad: bool = False


class DelAddress(NamedTuple):
    """The link does not bear the address."""

    where: Place
    link: str
    address: IPInterface


class AddRoute(NamedTuple):
    """A route out of the link; zero and None leave the value to the kernel.

    `onlink`: the gateway is a neighbour although no subnet of the link holds it.
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


class DelRoute(NamedTuple):
    """No such route out of the link."""

    where: Place
    link: str
    dst: IPInterface
    gw: IPAddress | None = None
    priority: int = 0
    table: int | None = None


class AwaitAddresses(NamedTuple):
    """Duplicate address detection has let every address of the link pass."""

    where: Place
    link: str
