"""Says how packets reach an overlay's peers, from what is in the kernel: pure functions.

What the list of peers requires, and the kernel lacks, is named; so the answer differs from the plan whenever
packets do.
"""

from collections.abc import Iterator
from typing import NamedTuple

from cni_plugins.kernel.overlay.peers import OverlayRoute
from cni_plugins.protocol.fields import IPAddress, IPNetwork
from cni_plugins.steps.overlay import FLOOD
from cni_plugins.upkeep.overlay import State, View
from cni_plugins.vxlan.addressing import addresses_of
from cni_plugins.vxlan.identity import ContainerMacs
from cni_plugins.vxlan.records import Record

TUNNEL, DIRECT, NONE = "tunnel", "direct", "none"


class Way(NamedTuple):
    """How packets reach the containers of a peer in one network.

    :param how: `tunnel`, `direct`, or `none` if the kernel has no way.
    :param mtu: of the route, or, if it has none, of the link; None without a way.
    :param vtep: where the tunnel leads, None if packets are not encapsulated.
    :param lacks: what is missing in the kernel, empty if nothing is.
    """

    to: IPNetwork
    how: str
    link: str = ""
    mtu: int | None = None
    measured: bool = False
    vtep: IPAddress | None = None
    lacks: str = ""


def ways_to(seen: View, record: Record) -> list[Way]:
    """Return how a peer's containers are reached: by the routes to them, or, in mode l2, by the bridge.

    A host without containers reaches none of them.
    """
    if seen.state == State.IDLE:
        return []
    if seen.overlay.config.mode == "l2":
        return [_stretched(seen, record, network) for network in seen.overlay.config.within]
    return [_routed(seen, record, dst) for dst in seen.routes_to(record)]


def _stretched(seen: View, record: Record, network: IPNetwork) -> Way:
    link, tables = seen.overlay.vxlan, seen.tables
    if link not in tables.mtus:
        return Way(network, NONE, lacks=f"link {link}")
    way = Way(network, TUNNEL, link, tables.mtus[link], vtep=record.vtep)
    if not seen.overlay.programmed:
        return _flooded(seen, record, way)
    macs = [mac for mac in _macs(seen, record) if not _is_forwarded(seen, mac, record.vtep)]
    if not macs:
        return way
    return way._replace(lacks=f"{len(macs)} of {len(list(_macs(seen, record)))} forwarding entries")


def _macs(seen: View, record: Record) -> Iterator[str]:
    macs = ContainerMacs(seen.overlay.vni)
    return (macs.of(address) for block in record.blocks for address in addresses_of(seen.overlay, block))


def _is_forwarded(seen: View, mac: str, vtep: IPAddress) -> bool:
    return mac in seen.tables.behind and seen.tables.to.get(mac) == frozenset({vtep})


def _flooded(seen: View, record: Record, way: Way) -> Way:
    if record.vtep in seen.tables.to.get(FLOOD, ()):
        return way
    return way._replace(how=NONE, vtep=None, lacks="forwarding entry")


def _routed(seen: View, record: Record, dst: IPNetwork) -> Way:
    route, overlay = seen.routes.get(dst), seen.overlay
    if route is None:
        return Way(dst, NONE, lacks="route")
    mtu = route.mtu or seen.tables.mtus.get(route.link)
    way = Way(dst, DIRECT, route.link, mtu, route.measured)
    if route.link != overlay.vxlan:
        wrong = route.via is not None and route.via != record.vtep
        return way._replace(lacks=f"route via {record.vtep}") if wrong else way
    way = way._replace(how=TUNNEL, vtep=record.vtep)
    return _programmed(seen, way, route) if overlay.programmed else _flooded(seen, record, way)


def _programmed(seen: View, way: Way, route: OverlayRoute) -> Way:
    """Follow the route to its neighbour, and that to the VTEP."""
    mac = seen.tables.neighbours.get(route.via) if route.via is not None else None
    if mac is None:
        return way._replace(how=NONE, vtep=None, lacks="neighbour")
    vteps = seen.tables.to.get(mac, frozenset())
    if not vteps:
        return way._replace(how=NONE, vtep=None, lacks="forwarding entry")
    return way._replace(vtep=next(iter(vteps)))
