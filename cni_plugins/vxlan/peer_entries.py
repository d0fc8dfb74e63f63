"""Computes the FDB, neighbour and route entries of one host from the records of all peers.

This is the only place that does so: ADD, CHECK and sync use it, for every backend.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from cni_plugins.contract.facts import NextHop
from cni_plugins.errors import InvalidNetworkConfig
from cni_plugins.protocol.fields import IPAddress, IPNetwork
from cni_plugins.steps.overlay import FLOOD, EnsurePeers, PeerRoute
from cni_plugins.vxlan.addressing import addresses_of, twin
from cni_plugins.vxlan.config import Overlay
from cni_plugins.vxlan.identity import ContainerMacs, vtep_mac
from cni_plugins.vxlan.local_host import OVERHEAD, LocalHost
from cni_plugins.vxlan.records import Record


def peer_entries(overlay: Overlay, host: LocalHost, routes_to: Mapping[IPAddress, NextHop]) -> EnsurePeers:
    """Return all kernel entries of this host for its peers.

    :param routes_to: next hops to the peers' VTEPs, needed with `directRouting` only.
    :raises InvalidNetworkConfig: when a peer cannot be reached as the config requires.
    """
    if overlay.config.direct_routing != "off":
        return _routed(overlay, host, routes_to)
    return overlay.roster.known.kept(_key(overlay, host), lambda: _tunnelled(overlay, host))


def sources(overlay: Overlay, host: LocalHost) -> tuple[IPAddress, ...] | None:
    """Return the addresses that send VXLAN packets to this host, None if they are not known."""
    if overlay.roster.records is None or not overlay.vxlan:
        return None
    known = overlay.roster.known
    return known.kept(("sources", host.own.vtep), lambda: tuple(peer.vtep for peer in host.others))


def _key(overlay: Overlay, host: LocalHost) -> tuple[object, ...]:
    """Return all that the entries depend on beside the records, so that they are computed once."""
    config = overlay.config
    asked = (config.mode, config.within, config.bum, tuple(config.gateway), overlay.roster.group)
    here = (host.link, host.local, host.own, host.mtu, host.inner_mtu)
    return ("entries", overlay.network, overlay.vni, *asked, *here)


def _tunnelled(overlay: Overlay, host: LocalHost) -> EnsurePeers:
    if overlay.config.mode == "l2":
        return _stretched(overlay, host)
    return _routed(overlay, host, {}) if overlay.programmed else _flooded(overlay, host)


def content(overlay: Overlay, host: LocalHost) -> str:
    """Return a digest of the entries and sources of a host without plain routes."""
    entries, listed = peer_entries(overlay, host, {}), sources(overlay, host)
    key = ("content", *_key(overlay, host))
    return overlay.roster.known.kept(key, lambda: _digest(entries, listed))


def _digest(entries: EnsurePeers, listed: tuple[IPAddress, ...] | None) -> str:
    """Return a digest of all entries; another release may compute others from the same records."""
    found = hashlib.sha512()
    for part in (
        (mac.encode() + to.packed for mac, to in entries.fdb),
        (mac.encode() for mac in entries.behind),
        (address.packed + mac.encode() for address, mac in entries.neighbours),
        (repr(tuple(map(str, route))).encode() for route in entries.routes),
        (source.packed for source in listed or ()),
    ):
        found.update(b"\n\n" + b"\n".join(part))
    return found.hexdigest()


# ---------------------------------------------------------------------------------------------- l3


class _Hop(NamedTuple):
    """One subnet of a peer and the route to it; `neighbour` is its gateway if that is through the tunnel."""

    route: PeerRoute
    peer: Record
    neighbour: IPAddress | None = None


def _routed(overlay: Overlay, host: LocalHost, routes_to: Mapping[IPAddress, NextHop]) -> EnsurePeers:
    hops = [_hop(overlay, host, peer, subnet, routes_to) for peer in host.others for subnet in peer.subnets]
    tunnelled = [(hop.neighbour, _mac(hop.peer), hop.peer.vtep) for hop in hops if hop.neighbour is not None]
    return EnsurePeers(
        overlay.network,
        overlay.vxlan,
        fdb=tuple(dict.fromkeys((mac, vtep) for _, mac, vtep in tunnelled)),
        at=overlay.vxlan,
        neighbours=tuple((address, mac) for address, mac, _ in tunnelled),
        routes=(*(hop.route for hop in hops), *_drop_routes(overlay, host, hops)),
    )


def _hop(
    overlay: Overlay, host: LocalHost, peer: Record, subnet: IPNetwork, routes_to: Mapping[IPAddress, NextHop]
) -> _Hop:
    hop = _direct(overlay, peer, subnet, routes_to.get(peer.vtep))
    if hop is not None:
        return _Hop(PeerRoute(subnet, hop.link, peer.vtep), peer)
    gateway = subnet.network_address
    mtu = min(host.inner_mtu, _mtu(peer, host) - OVERHEAD[host.local.version])
    return _Hop(PeerRoute(subnet, overlay.vxlan, gateway, mtu, onlink=True), peer, gateway)


def _direct(overlay: Overlay, peer: Record, subnet: IPNetwork, hop: NextHop | None) -> NextHop | None:
    """Return the next hop to a peer without encapsulation, None if its packets go through the tunnel.

    :raises InvalidNetworkConfig: when there is no such next hop and directRouting is `always`.
    """
    chosen = overlay.config.direct_routing
    reason = ""
    if chosen == "off":
        return None
    if hop is None:
        reason = "is not reachable"
    elif hop.gateway is not None:
        reason = f"is behind gateway {hop.gateway}"
    elif subnet.version != peer.vtep.version:
        reason = f"has an IPv{peer.vtep.version} address, but its subnet {subnet} is IPv{subnet.version}"
    if not reason:
        return hop
    if chosen == "always":
        raise InvalidNetworkConfig(
            f"peer {peer.node} ({peer.vtep}) {reason}: nothing can be sent to it without encapsulation",
            "directRouting is always; with same-subnet it is encapsulated",
        )
    return None


def _flooded(overlay: Overlay, host: LocalHost) -> EnsurePeers:
    """Return the entries of a host that knows only its peers' VTEPs: it floods ARP and ND to all of them."""
    return EnsurePeers(
        overlay.network,
        overlay.vxlan,
        fdb=_flood(host),
        at=overlay.vxlan,
        routes=(
            *(PeerRoute(network, overlay.vxlan, mtu=host.inner_mtu) for network in overlay.config.within),
            *map(PeerRoute, host.own.subnets),
        ),
    )


def _drop_routes(overlay: Overlay, host: LocalHost, hops: list[_Hop]) -> Iterator[PeerRoute]:
    """Yield blackhole routes: packets to unassigned addresses must not leave unencapsulated."""
    taken = {hop.route.dst for hop in hops}
    for network in dict.fromkeys((*host.own.subnets, *overlay.config.within)):
        if network not in taken:
            yield PeerRoute(network)


# ---------------------------------------------------------------------------------------------- l2


def _stretched(overlay: Overlay, host: LocalHost) -> EnsurePeers:
    # Behind the bridge's own routes, for when it is gone: packets must not leave unencapsulated.
    dropped = tuple(map(PeerRoute, overlay.config.within))
    if not overlay.programmed:
        return EnsurePeers(
            overlay.network, overlay.vxlan, fdb=_flood(host), at=overlay.bridge, routes=dropped
        )
    macs = ContainerMacs(overlay.vni)
    known = [
        (address, macs.of(address), peer.vtep)
        for peer in host.others
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
        routes=dropped,
    )


def _flood(host: LocalHost) -> tuple[tuple[str, IPAddress], ...]:
    return tuple((FLOOD, peer.vtep) for peer in host.others)


def _mac(peer: Record) -> str:
    return peer.mac or vtep_mac(peer.vtep)


def _mtu(peer: Record, host: LocalHost) -> int:
    return min(peer.mtu or host.mtu, host.mtu)
