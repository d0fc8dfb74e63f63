"""Formats what `cnictl overlay` prints from views and measurements, with pure functions."""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from cni_plugins.cli.overlay import stores
from cni_plugins.cli.text import table
from cni_plugins.contract.registry_config import KINDS
from cni_plugins.errors import CniError
from cni_plugins.protocol.fields import IPAddress, IPNetwork, get
from cni_plugins.steps.overlay import PeerRoute
from cni_plugins.upkeep.overlay import Probe, State, View
from cni_plugins.upkeep.overlay_configs import Configured
from cni_plugins.vxlan.records import Record

_TUNNEL, _DIRECT = "tunnel", "direct"
_NONE = "-"
_MOST_NAMED = 10
_REST = re.compile(r"and (\d+) more")


class NetworkOutcome(NamedTuple):
    """The outcome of a command for one network: a view, or an error."""

    of: Configured
    seen: View | None = None
    probes: tuple[Probe, ...] = ()
    error: CniError | None = None


class Way(NamedTuple):
    """How packets reach containers of a peer.

    :param mtu: of the route, or, if it has none, of the link.
    """

    to: IPNetwork
    how: str
    link: str
    mtu: int
    measured: bool = False

    def text(self) -> str:
        return f"{self.how} via {self.link}"

    def mtu_text(self) -> str:
        return f"{self.mtu}{' measured' if self.measured else ''}"


# ------------------------------------------------------------------------------------------------ sentences


def faults(outcomes: Iterable[NetworkOutcome]) -> Iterator[str]:
    for outcome in outcomes:
        if outcome.error is not None:
            yield f"network {outcome.of.network}: {_error_text(outcome.error)}"


def drifts(outcomes: Iterable[NetworkOutcome]) -> Iterator[str]:
    for outcome in outcomes:
        if outcome.seen is not None and outcome.seen.state == State.DRIFTED:
            count = sum(map(_number_in, outcome.seen.differences))
            found = _counted(count, "difference")
            yield f"network {outcome.of.network}: {found}, which cnictl overlay sync repairs"


def _number_in(difference: str) -> int:
    """Return how many differences a phrase stands for: `and 12 more` ends a long list."""
    rest = _REST.fullmatch(difference)
    return int(rest[1]) if rest else 1


def unrepaired(outcomes: Iterable[NetworkOutcome]) -> Iterator[str]:
    """Yield the differences that sync cannot repair."""
    for outcome in outcomes:
        if outcome.seen is not None and outcome.seen.state == State.DRIFTED:
            yield f"network {outcome.of.network}: {'; '.join(outcome.seen.differences)}"


def unanswered(outcomes: Iterable[NetworkOutcome]) -> Iterator[str]:
    for outcome in outcomes:
        silent = [probe.peer for probe in outcome.probes if probe.rtt is None and probe.inside is None]
        if silent:
            named = [f"{peer.node} ({peer.vtep})" for peer in silent[:_MOST_NAMED]]
            more = [f"{len(silent) - _MOST_NAMED} more"] if len(silent) > _MOST_NAMED else []
            yield f"network {outcome.of.network}: no answer from {', '.join([*named, *more])}"


def _error_text(error: CniError) -> str:
    details = error.full_details()
    more = f" ({details})" if details and details not in error.msg else ""
    return f"{error.msg}{more}, code {error.code}"


# ------------------------------------------------------------------------------------------------ lines


def sync_lines(outcomes: Iterable[NetworkOutcome]) -> Iterator[str]:
    for of, seen, _, _ in outcomes:
        if seen is not None:
            yield f"{of.network}: {_state(seen)}"
            yield from (f"  {difference}" for difference in seen.differences)


def _state(seen: View) -> str:
    return f"{seen.state}{', no container here' if seen.state == State.IDLE else ''}"


def status_lines(outcomes: Iterable[NetworkOutcome]) -> Iterator[str]:
    for of, seen, _, _ in outcomes:
        if seen is None:
            continue
        overlay, site = seen.overlay, seen.host
        yield f"{of.network}: {_state(seen)}"
        yield f"  mode      {overlay.config.mode}, {_encapsulation(seen)}"
        yield f"  underlay  {site.link}, {site.local}, MTU {site.mtu}"
        yield f"  MTU       {site.inner_mtu}"
        yield f"  backend   {backend(seen)}, {_count(seen)}"
        count = entries(seen)
        neighbours, routes = (_counted(count[f"{what}s"], what) for what in ("neighbour", "route"))
        yield f"  entries   {count['fdb']} forwarding, {neighbours}, {routes}"
        if backend(seen) in KINDS:
            yield from stores.status_lines(overlay.network)
        yield from (f"  drifted   {difference}" for difference in seen.differences)


def _encapsulation(seen: View) -> str:
    overlay = seen.overlay
    return f"VNI {overlay.vni}, port {overlay.config.port}" if overlay.vxlan else "never encapsulated"


def _count(seen: View) -> str:
    if seen.overlay.roster.records is None:
        return "peers are discovered on demand"
    return _counted(len(seen.host.others), "peer")


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def backend(seen: View) -> str:
    return str(get(seen.overlay.config.backend, "type"))


def peers_lines(outcomes: Iterable[NetworkOutcome]) -> Iterator[str]:
    head = ("NODE", "VTEP", "ADDRESSES", "REACHED", "MTU")
    for of, seen, _, _ in outcomes:
        if seen is not None:
            yield _heading(of, seen)
            yield from table(head, (_peer_row(seen, record) for record in hosts(seen)))


def probe_lines(outcomes: Iterable[NetworkOutcome], *, written: bool) -> Iterator[str]:
    head = ("NODE", "VTEP", "RTT", "PATH MTU", "INSIDE", "ROUTE MTU")
    for of, seen, probes, _ in outcomes:
        if seen is None:
            continue
        yield _heading(of, seen)
        yield from table(head, (_probe_row(seen, probe) for probe in probes)) if probes else ()
        if written and not seen.routes:
            why = (
                "mode l2 has none" if seen.overlay.config.mode == "l2" else "the first container creates them"
            )
            yield f"no routes to write to: {why}"


def _heading(of: Configured, seen: View) -> str:
    return f"{of.network}: {_state(seen)}, mode {seen.overlay.config.mode}, {backend(seen)}, {_count(seen)}"


def _peer_row(seen: View, record: Record) -> tuple[str, ...]:
    mark = "*" if record == seen.host.own else ""
    addresses = _listed(map(str, parts(record)))
    if mark:
        way = f"own host via {seen.host.link}", str(seen.host.mtu)
    else:
        ways = ways_to(seen, record)
        way = _listed(way.text() for way in ways), _listed(way.mtu_text() for way in ways)
    return f"{record.node}{mark}", str(record.vtep), addresses, *way


def _probe_row(seen: View, probe: Probe) -> tuple[str, ...]:
    path = str(probe.mtu) if probe.mtu else _NONE
    route = _listed(way.mtu_text() for way in ways_to(seen, probe.peer) if seen.routes)
    times = _time(probe.rtt), path, _time(probe.inside)
    return probe.peer.node, str(probe.peer.vtep), *times, route


def _listed(texts: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(texts)) or _NONE


def _time(seconds: float | None) -> str:
    return _NONE if seconds is None else f"{seconds * 1000:.2f} ms"


# ------------------------------------------------------------------------------------------------ hosts


def hosts(seen: View) -> list[Record]:
    return sorted((seen.host.own, *seen.host.others), key=_order)


def _order(record: Record) -> tuple[int, IPAddress]:
    return record.vtep.version, record.vtep


def parts(record: Record) -> tuple[object, ...]:
    return (*record.subnets, *record.blocks)


def ways_to(seen: View, record: Record) -> list[Way]:
    """Return how a peer's containers are reached: by the routes to them, or, in mode l2, by the bridge."""
    overlay, listed = seen.overlay, seen.routes_to(record)
    if not listed:
        return [Way(net, _TUNNEL, overlay.vxlan, seen.host.inner_mtu) for net in overlay.config.within]
    planned = {route.dst: route for route in seen.entries.routes if route.link}
    return [_way(seen, planned[dst]) for dst in listed]


def _way(seen: View, planned: PeerRoute) -> Way:
    """Describe the kernel's route if it exists, otherwise the planned one."""
    tunnelled = planned.link == seen.overlay.vxlan
    there = seen.routes.get(planned.dst)
    mtu, measured = (planned.mtu, False) if there is None else (there.mtu, there.measured)
    usual = seen.host.inner_mtu if tunnelled else seen.host.mtu
    return Way(planned.dst, _TUNNEL if tunnelled else _DIRECT, planned.link, mtu or usual, measured)


def entries(seen: View) -> dict[str, int]:
    wanted = seen.entries
    return {
        "fdb": len(wanted.fdb) + len(wanted.behind),
        "neighbours": len(wanted.neighbours),
        "routes": len(wanted.routes),
    }
