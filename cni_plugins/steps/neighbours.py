"""Defines the steps for neighbours, and for routes of the host to single neighbours."""

from cni_plugins.protocol.fields import IPAddress
from cni_plugins.steps.step import PASSING, Place, Removal, Step, place


class EnsureNeighbour(Step):
    """The link-layer address of a neighbour is permanent, so that ARP and ND are not needed.

    The kernel drops it when the link goes down or gets another address.

    :param can_be_asked: the neighbour answers ARP and ND as well, so CHECK does not miss the entry.
    """

    where: Place
    link: str
    address: IPAddress
    mac: str
    can_be_asked: bool = False

    kept_because = "goes with the link"

    def phrase(self) -> str:
        return f"add neighbour {self.address} to {self.link} {place(self.where)}"


class Advertise(Step):
    """Neighbours learn the link-layer address of IPv6 addresses, whatever they knew (RFC 4861, 7.2.6).

    The kernel announces no optimistic address in a way that makes others drop a former owner's entry.
    """

    link: str
    mac: str
    addresses: tuple[IPAddress, ...]

    kept_because = "an announcement cannot be undone"
    not_repaired_because = PASSING

    def phrase(self) -> str:
        return f"advertise {', '.join(map(str, self.addresses))} on {self.link}"


class EnsureHostRoutes(Step):
    """Routes of the host to single addresses behind a link, marked with the attachment they belong to.

    :param mac: their link-layer address, so that the host sends no ARP and ND requests, which would tell all
        neighbours on the wire that its own address is that of the link; empty: it may ask.
    :param mark: the route's metric, the one field of a route that its maker may choose freely.
    :param sources: the source addresses of packets that the host itself sends there, at most one of each
        family.
    """

    link: str
    addresses: tuple[IPAddress, ...]
    mark: int
    sources: tuple[IPAddress, ...] = ()
    mac: str = ""

    may_be_half_done = True
    not_repaired_because = ""

    def inverse(self, before: str) -> Step:
        return DelHostRoutes(self.link, self.mark)

    def phrase(self) -> str:
        return f"add host routes to {', '.join(map(str, self.addresses))} out of {self.link}"


class DelHostRoutes(Removal):
    """No route with this mark leads out of the link, and the neighbours of those that did are forgotten."""

    link: str
    mark: int

    def phrase(self) -> str:
        return f"delete host routes out of {self.link}"
