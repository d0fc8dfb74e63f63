"""The one place where peers become entries: a pure function from all hosts to what the kernel of one holds.

ADD, CHECK and sync all use it, whatever backend the peers came from.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from cni_plugins.contract.facts import Way
from cni_plugins.errors import InvalidNetworkConfig
from cni_plugins.spec.fields import IPAddress, IPNetwork
from cni_plugins.steps.overlays import FLOOD, EnsurePeers, PeerRoute
from cni_plugins.vxlan.addressing import addresses_of, twin
from cni_plugins.vxlan.config import Overlay
from cni_plugins.vxlan.identity import ContainerMacs, vtep_mac
from cni_plugins.vxlan.records import Record
from cni_plugins.vxlan.site import OVERHEAD, Site


def picture(overlay: Overlay, site: Site, ways: Mapping[IPAddress, Way]) -> EnsurePeers:
    """Return everything that the kernel of this host holds because of its peers.

    :param ways: how the host would send to its peers' VTEPs, where that matters.
    :raises InvalidNetworkConfig: when a peer cannot be reached as the config demands.
    """
    if overlay.config.mode == "l2":
        return _stretched(overlay, site)
    return _routed(overlay, site, ways) if overlay.programmed else _asking(overlay, site)


# ---------------------------------------------------------------------------------------------- l3


class _Hop(NamedTuple):
    """One subnet of a peer, and the way to it; `neighbour` where that leads through the tunnel."""

    route: PeerRoute
    peer: Record
    neighbour: IPAddress | None = None


def _routed(overlay: Overlay, site: Site, ways: Mapping[IPAddress, Way]) -> EnsurePeers:
    hops = [_hop(overlay, site, peer, subnet, ways) for peer in site.others for subnet in peer.subnets]
    tunnelled = [(hop.neighbour, _mac(hop.peer), hop.peer.vtep) for hop in hops if hop.neighbour is not None]
    return EnsurePeers(
        overlay.network,
        overlay.vxlan,
        fdb=tuple(dict.fromkeys((mac, vtep) for _, mac, vtep in tunnelled)),
        at=overlay.vxlan,
        neighbours=tuple((address, mac) for address, mac, _ in tunnelled),
        routes=(*(hop.route for hop in hops), *_dead_ends(overlay, site, hops)),
    )


def _hop(
    overlay: Overlay, site: Site, peer: Record, subnet: IPNetwork, ways: Mapping[IPAddress, Way]
) -> _Hop:
    way = _direct(overlay, peer, subnet, ways.get(peer.vtep))
    if way is not None:
        return _Hop(PeerRoute(subnet, way.link, peer.vtep), peer)
    gateway = subnet.network_address
    mtu = min(site.inner_mtu, _mtu(peer, site) - OVERHEAD[site.local.version])
    return _Hop(PeerRoute(subnet, overlay.vxlan, gateway, mtu, onlink=True), peer, gateway)


def _direct(overlay: Overlay, peer: Record, subnet: IPNetwork, way: Way | None) -> Way | None:
    """Return the way to a peer without encapsulation, None when its packets go through the tunnel.

    :raises InvalidNetworkConfig: when there is to be no tunnel, and no such way either.
    """
    chosen = overlay.config.direct_routing
    reason = ""
    if chosen == "off":
        return None
    if way is None:
        reason = "is not reachable"
    elif way.gateway is not None:
        reason = f"is behind gateway {way.gateway}"
    elif subnet.version != peer.vtep.version:
        reason = f"has an IPv{peer.vtep.version} address, and its subnet {subnet} is of IPv{subnet.version}"
    if not reason:
        return way
    if chosen == "always":
        raise InvalidNetworkConfig(
            f"peer {peer.node} ({peer.vtep}) {reason}: nothing can be sent to it without encapsulation",
            "directRouting is always; with same-subnet it is encapsulated",
        )
    return None


def _asking(overlay: Overlay, site: Site) -> EnsurePeers:
    """Return the entries of a host that knows its peers' VTEPs only: it asks all of them, by ARP and ND."""
    return EnsurePeers(
        overlay.network,
        overlay.vxlan,
        fdb=_flood(site),
        at=overlay.vxlan,
        routes=(
            *(PeerRoute(network, overlay.vxlan, mtu=site.inner_mtu) for network in overlay.config.within),
            *map(PeerRoute, site.own.subnets),
        ),
    )


def _dead_ends(overlay: Overlay, site: Site, hops: list[_Hop]) -> Iterator[PeerRoute]:
    """Yield what keeps packets to addresses that no host has from leaving by the default route, in clear."""
    taken = {hop.route.dst for hop in hops}
    for network in dict.fromkeys((*site.own.subnets, *overlay.config.within)):
        if network not in taken:
            yield PeerRoute(network)


# ---------------------------------------------------------------------------------------------- l2


def _stretched(overlay: Overlay, site: Site) -> EnsurePeers:
    if not overlay.programmed:
        return EnsurePeers(overlay.network, overlay.vxlan, fdb=_flood(site), at=overlay.bridge)
    macs = ContainerMacs(overlay.vni)
    known = [
        (address, macs.of(address), peer.vtep)
        for peer in site.others
        for block in peer.blocks
        for address in addresses_of(overlay, block)
    ]
    twins = ((twin(overlay, address), mac) for address, mac, _ in known)
    return EnsurePeers(
        overlay.network,
        overlay.vxlan,
        fdb=tuple((mac, vtep) for _, mac, vtep in known),
        behind=tuple(mac for _, mac, _ in known),
        at=overlay.bridge,
        neighbours=(
            *((address, mac) for address, mac, _ in known),
            *((other, mac) for other, mac in twins if other is not None),
        ),
    )


def _flood(site: Site) -> tuple[tuple[str, IPAddress], ...]:
    return tuple((FLOOD, peer.vtep) for peer in site.others)


def _mac(peer: Record) -> str:
    return peer.mac or vtep_mac(peer.vtep)


def _mtu(peer: Record, site: Site) -> int:
    return min(peer.mtu or site.mtu, site.mtu)
