"""Lists routes as the kernel has them: those of one table out of one link, or all that lead somewhere."""

from collections.abc import Iterator
from ipaddress import IPv4Interface, IPv6Interface
from typing import NamedTuple

from cni_plugins.kernel.netlink import rtnetlink as wire
from cni_plugins.kernel.netlink.attributes import attributes
from cni_plugins.kernel.netlink.rtnetlink import read_number
from cni_plugins.kernel.netlink.socket import NLM_F_DUMP, Answer, Refused, is_absent
from cni_plugins.kernel.session.session import Session
from cni_plugins.protocol.fields import IPInterface, IPNetwork
from cni_plugins.steps.step import HOST, Place

_VERSIONS = {family: version for version, family in wire.FAMILY.items()}
# linux/rtnetlink.h: local, broadcast, anycast and multicast routes repeat what addresses say.
_OF_ADDRESSES = (2, 3, 4, 5)
_INTERFACE: dict[int, type[IPInterface]] = {4: IPv4Interface, 6: IPv6Interface}


class ListedRoute(NamedTuple):
    """A route as the kernel lists it; attributes by number, as they are in the message."""

    head: wire.RouteHead
    attrs: dict[int, bytes]

    @property
    def table(self) -> int:
        return read_number(self.attrs.get(wire.RTA_TABLE)) or self.head.table

    @property
    def dst(self) -> IPInterface:
        version = _VERSIONS[self.head.family]
        return _INTERFACE[version]((self._address(version), self.head.dst_len))

    def leads_to(self, network: IPNetwork) -> bool:
        found = self._address(network.version), self.head.dst_len
        return found == (network.network_address.packed, network.prefixlen)

    def _address(self, version: int) -> bytes:
        """Return the destination, which the kernel leaves out of a default route."""
        return self.attrs.get(wire.RTA_DST, bytes(wire.FULL_LENGTH[version] // 8))

    @property
    def hops(self) -> list[tuple[int, dict[int, bytes]]]:
        """Return link and attributes of each next hop; equal-cost routes have several."""
        several = next_hops(self.attrs.get(wire.RTA_MULTIPATH, b""))
        found = [(index, dict(attributes(rest))) for index, _, _, rest in several]
        return found or [(read_number(self.attrs.get(wire.RTA_OIF)), self.attrs)]

    def metric(self, kind: int) -> int:
        return read_number(dict(attributes(self.attrs.get(wire.RTA_METRICS, b""))).get(kind))


def next_hops(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield link, flags, weight and attributes of each next hop in RTA_MULTIPATH."""
    while len(data) >= wire.RTNEXTHOP.size:
        length, flags, weight, index = wire.RTNEXTHOP.unpack_from(data)
        length = max(length, wire.RTNEXTHOP.size)
        yield index, flags, weight, data[wire.RTNEXTHOP.size : length]
        data = data[(length + 3) & ~3 :]


def of_table(session: Session, where: Place, version: int, table: int, index: int) -> list[ListedRoute]:
    """Return the routes of one IP version in a table with a next hop on a link, in the kernel's order."""
    head = wire.RouteHead(wire.FAMILY[version])
    # A host may have a hundred thousand others, which the kernel leaves out.
    wanted = wire.number(wire.RTA_TABLE, table), wire.number(wire.RTA_OIF, index)
    try:
        answers = session.rtnl(where).dump(wire.route(wire.RTM_GETROUTE, NLM_F_DUMP, head, *wanted))
    except Refused as err:
        if is_absent(err):  # a table without routes
            return []
        raise
    # Without IPv6, the kernel lists the routes of all families.
    routes = [_decoded(answer) for answer in answers if answer.data[wire.BODY] == head.family]
    # Kernels before 4.20 list all routes.
    return [route for route in routes if route.table == table and _uses(route, index)]


def every(session: Session, version: int) -> list[ListedRoute]:
    """Return the host's routes of one IP version in all tables, without those that addresses bring about."""
    head = wire.RouteHead(wire.FAMILY[version])
    answers = session.rtnl(HOST).dump(wire.route(wire.RTM_GETROUTE, NLM_F_DUMP, head))
    routes = [_decoded(answer) for answer in answers if answer.data[wire.BODY] == head.family]
    return [route for route in routes if route.head.kind not in _OF_ADDRESSES]


def _decoded(answer: Answer) -> ListedRoute:
    head = wire.RouteHead(*wire.RTMSG.unpack_from(answer.data, wire.BODY))
    return ListedRoute(head, dict(attributes(answer.data, wire.BODY + wire.RTMSG.size)))


def _uses(route: ListedRoute, index: int) -> bool:
    """Say whether a next hop is on the link; the kernel may list the number of a next hop object only."""
    links = {link for link, _ in route.hops}
    return index in links or (links == {0} and wire.RTA_NH_ID in route.attrs)
