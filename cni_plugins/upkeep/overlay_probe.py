"""Measures the path to every peer of an overlay, and says what is wrong with it.

What a peer does not answer is asked again from below, until one cause is left, or the causes that nothing
distinguishes from here. Nothing is changed, unless measured MTUs are to be written.
"""

import errno
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from functools import partial
from typing import NamedTuple

from cni_plugins.kernel import echo
from cni_plugins.kernel.overlay import path
from cni_plugins.kernel.overlay import peers as peer_tables
from cni_plugins.kernel.overlay.path import End, Tunnel
from cni_plugins.kernel.session.session import Session
from cni_plugins.protocol.fields import Conf, IPAddress, IPNetwork
from cni_plugins.upkeep.overlay import State, View, routes, view_in
from cni_plugins.upkeep.overlay_ways import TUNNEL, ways_to
from cni_plugins.vxlan.addressing import node_address
from cni_plugins.vxlan.config import Overlay
from cni_plugins.vxlan.identity import vtep_mac
from cni_plugins.vxlan.local_host import OVERHEAD
from cni_plugins.vxlan.records import Record

_ECHO_PATIENCE = 1.0  # seconds
_LEAST_PATIENCE = 0.2  # seconds; peers that answered before get this, or _RTT_FACTOR round trips if longer
_RTT_FACTOR = 10
_ONE_HOP = 1
_WRITE = "cnictl overlay probe --write"


class Cause(StrEnum):
    """What is wrong with a peer. The words are part of the JSON document."""

    SILENT = "no answer"
    REFUSED = "port refused"
    FILTERED = "port filtered"
    UNKNOWN = "no answer inside"
    NO_ENTRY = "no entry"
    WRONG_MAC = "wrong MAC"
    ANOTHER_HOST = "another host"
    PATH_MTU = "path MTU"


class Finding(NamedTuple):
    """One thing that is wrong with a peer, or, if it is no fault, that explains what was measured."""

    cause: Cause
    text: str
    is_fault: bool = True


class Probe(NamedTuple):
    """Measurements of one peer, None if it did not answer. Times are in seconds.

    :param mtu: MTU of the underlay's path: the largest packet answered without fragmentation.
    :param inside: round-trip time to the peer's own address in the overlay.
    """

    peer: Record
    rtt: float | None
    mtu: int | None
    inside: float | None
    findings: tuple[Finding, ...] = ()


class Answers(NamedTuple):
    """What the peers answered, by their VTEPs.

    :param ends: the address of each in the overlay, as far as it is known.
    :param near: round-trip times inside of those that answer as the first hop; `far`: of those that answer
        only if more hops are allowed.
    :param refused: error numbers of packets to the VXLAN port, `macs` the MAC addresses of VXLAN links, both
        of peers that are silent inside.
    """

    times: Mapping[IPAddress, float]
    mtus: Mapping[IPAddress, int | None]
    ends: Mapping[IPAddress, IPAddress]
    near: Mapping[IPAddress, float]
    far: Mapping[IPAddress, float]
    refused: Mapping[IPAddress, int]
    macs: Mapping[IPAddress, str]


def probe(network: str, conf: Conf, *, write: bool = False) -> tuple[View, tuple[Probe, ...]]:
    """Measure the path to every peer.

    :param write: set the MTUs that were found on the routes.
    :raises CniError: as `upkeep.overlay.view`.
    """
    with Session(None) as session:
        seen = view_in(session, network, conf, with_tables=True)
        answers = _ask(seen)
        if write:
            peer_tables.set_measured(session, network, route_mtus(seen, answers.mtus))
            seen = seen._replace(routes=routes(session, network))
    return seen, tuple(_probe(seen, answers, peer) for peer in seen.host.others)


def _probe(seen: View, answers: Answers, peer: Record) -> Probe:
    inside = answers.near.get(peer.vtep)
    found = Probe(peer, answers.times.get(peer.vtep), answers.mtus.get(peer.vtep), inside)
    return found._replace(findings=tuple(findings(seen, answers, peer)))


# ---------------------------------------------------------------------------------------------- asking


def _ask(seen: View) -> Answers:
    peers, source = seen.host.others, seen.host.local
    times = echo.echo([peer.vtep for peer in peers], timeout=_ECHO_PATIENCE, source=source)
    patience = min(_ECHO_PATIENCE, max(_LEAST_PATIENCE, _RTT_FACTOR * max(times.values(), default=0.0)))
    mtus = echo.path_mtu(list(times), seen.host.mtu, patience, source=source)
    ends = {} if seen.state == State.IDLE else inner_ends(seen)
    near = _inside(ends, _ONE_HOP)
    silent = {vtep: end for vtep, end in ends.items() if vtep not in near}
    far = _inside(silent, 0)
    if far:  # once more, before another host is accused
        near |= _inside({vtep: ends[vtep] for vtep in far}, _ONE_HOP)
        far = {vtep: time for vtep, time in far.items() if vtep not in near}
    below = [vtep for vtep in silent if vtep not in far and vtep in times]
    tunnel = _tunnel(seen)
    if tunnel is None or not below:
        return Answers(times, mtus, ends, near, far, {}, {})
    refused = path.refusals(tunnel, below, _ECHO_PATIENCE)
    open_ = [vtep for vtep in below if vtep not in refused]
    asked = [end for vtep in open_ for end in _tunnel_end(seen, vtep, ends[vtep])]
    return Answers(times, mtus, ends, near, far, refused, path.macs(tunnel, asked, _ECHO_PATIENCE))


def _inside(ends: Mapping[IPAddress, IPAddress], hops: int) -> dict[IPAddress, float]:
    """Return the times by VTEP; a lost packet is no silence, so those without an answer are asked twice."""
    found = echo.echo(list(ends.values()), timeout=_ECHO_PATIENCE, hops=hops) if ends else {}
    again = [end for end in ends.values() if end not in found]
    found |= echo.echo(again, timeout=_ECHO_PATIENCE, hops=hops) if again else {}
    return {vtep: found[end] for vtep, end in ends.items() if end in found}


def _tunnel(seen: View) -> Tunnel | None:
    overlay, link = seen.overlay, seen.overlay.vxlan
    if not link or link not in seen.tables.mtus:
        return None
    return Tunnel(link, overlay.vni, overlay.config.port, seen.host.local, seen.host.mac)


def _tunnel_end(seen: View, vtep: IPAddress, theirs: IPAddress) -> Iterator[End]:
    """Yield both ends of the tunnel to a peer whose MAC address this host has from the list."""
    if seen.overlay.config.mode == "l2":  # computed from addresses, so that none can be wrong
        return
    ours = (net.network_address for net in seen.host.own.subnets if net.version == theirs.version)
    yield from (End(vtep, address, theirs) for address in ours)


def inner_ends(seen: View) -> dict[IPAddress, IPAddress]:
    """Return the known addresses of the peers themselves in the overlay, by their VTEPs."""
    found = ((peer.vtep, _inner_end(seen.overlay, peer)) for peer in seen.host.others)
    return {vtep: end for vtep, end in found if end is not None}


def _inner_end(overlay: Overlay, peer: Record) -> IPAddress | None:
    """Return a host's own address in the overlay; without a VXLAN link that is its gateway address."""
    if overlay.config.mode == "l3":
        first = next(iter(peer.subnets), None)
        if first is None:
            return None
        return first.network_address if overlay.vxlan else overlay.gateway(first)
    node = node_address(overlay, peer.blocks, overlay.config.within[0])
    return None if node is None else node.ip


def route_mtus(seen: View, mtus: Mapping[IPAddress, int | None]) -> dict[IPNetwork, int]:
    """Return the MTU of every route with a measured path: the smallest, if it leads to several peers."""
    tunnelled = {route.dst for route in seen.entries.routes if route.link == seen.overlay.vxlan}
    wanted: dict[IPNetwork, int] = {}
    for peer in seen.host.others:
        path_mtu = mtus.get(peer.vtep)
        for dst in seen.routes_to(peer) if path_mtu else ():
            largest = (path_mtu or 0) - (OVERHEAD[seen.host.local.version] if dst in tunnelled else 0)
            wanted[dst] = min(wanted.get(dst, largest), largest)
    return wanted


# ------------------------------------------------------------------------------------- what is wrong


def findings(seen: View, answers: Answers, peer: Record) -> Iterator[Finding]:
    """Yield what is wrong with one peer: a pure function of what this host has and the peers answered."""
    vtep = peer.vtep
    is_inside = vtep in answers.near or vtep in answers.far
    if vtep not in answers.times and not is_inside:
        yield Finding(Cause.SILENT, "no answer")
        return
    if vtep in answers.far:
        end = answers.ends[vtep]
        yield Finding(
            Cause.ANOTHER_HOST,
            f"its address {end} is answered by another host, behind it: "
            "the lists disagree about whose the subnet is",
        )
    elif vtep in answers.ends and not is_inside:
        yield _silence(seen, answers, peer)
    yield from _narrow(seen, answers, peer)


def _silence(seen: View, answers: Answers, peer: Record) -> Finding:
    """Return why a peer answers on the underlay, but not inside."""
    vtep = peer.vtep
    lacking = next((way.lacks for way in ways_to(seen, peer) if way.lacks), "")
    if lacking:
        return Finding(Cause.NO_ENTRY, f"this host lacks its {lacking}: run cnictl overlay sync")
    if vtep in answers.macs:
        programmed, actual = peer.mac or vtep_mac(vtep), answers.macs[vtep]
        return Finding(
            Cause.WRONG_MAC,
            f"its VXLAN link has MAC address {actual}, not {programmed}: correct mac in its record",
        )
    return _refusal(seen, answers.refused[vtep]) if vtep in answers.refused else _unknown(seen)


def _refusal(seen: View, reason: int) -> Finding:
    """Return what an error of a packet to the VXLAN port means; a host without containers is no fault."""
    port = seen.overlay.config.port
    if reason == errno.ECONNREFUSED:
        why = "no container of the network is there, or its firewall rejects them"
        return Finding(
            Cause.REFUSED, f"it refuses packets to UDP port {port}: {why}", seen.overlay.config.keep
        )
    return Finding(Cause.FILTERED, f"packets to UDP port {port} are rejected on the way")


def _unknown(seen: View) -> Finding:
    if not seen.overlay.vxlan:
        return Finding(Cause.UNKNOWN, "no answer inside: it or the underlay drops packets of the overlay")
    return Finding(
        Cause.UNKNOWN,
        f"no answer inside: UDP port {seen.overlay.config.port} is blocked on the way, its list lacks us"
        " (compare the digests of cnictl overlay status), or no container of the network is there",
    )


def _narrow(seen: View, answers: Answers, peer: Record) -> Iterator[Finding]:
    """Yield a finding for each way with a larger MTU than the path has."""
    measured = answers.mtus.get(peer.vtep)
    if not measured:
        return
    ways = ways_to(seen, peer)
    fitting = partial(_left_by, seen, measured)
    wide = [(way, fitting(way.how == TUNNEL)) for way in ways if way.mtu is not None]
    for mtu, left in dict.fromkeys((way.mtu, left) for way, left in wide if (way.mtu or 0) > left):
        is_l2 = seen.overlay.config.mode == "l2"  # without routes to write it to
        what, remedy = ("the overlay", "set mtu") if is_l2 else ("the route", f"set mtu, or run {_WRITE}")
        yield Finding(Cause.PATH_MTU, f"path MTU {measured} leaves {left}, but {what} has {mtu}: {remedy}")


def _left_by(seen: View, path_mtu: int, is_tunnelled: bool) -> int:  # noqa: FBT001
    return path_mtu - (OVERHEAD[seen.host.local.version] if is_tunnelled else 0)


def faults(probes: Iterable[Probe]) -> list[tuple[Probe, Finding]]:
    return [(probe, found) for probe in probes for found in probe.findings if found.is_fault]
