"""Builds the JSON documents of `cnictl overlay … --json` from views and measurements, with pure functions.

docs/cnictl.md lists the keys, whose meaning never changes.
"""

from collections.abc import Iterable
from typing import Any

from cni_plugins.cli.overlay import stores
from cni_plugins.cli.overlay.text import NetworkOutcome, Way, backend, entries, hosts, parts, ways_to
from cni_plugins.contract.registry_config import KINDS
from cni_plugins.protocol.fields import get
from cni_plugins.upkeep.overlay import Probe, View
from cni_plugins.vxlan.records import Record


def sync(outcomes: Iterable[NetworkOutcome]) -> list[dict[str, Any]]:
    return [_document(one) for one in outcomes]


def status(outcomes: Iterable[NetworkOutcome]) -> list[dict[str, Any]]:
    return [{**_document(one), **(_status(one.seen) if one.seen else {}), **_store(one)} for one in outcomes]


def _store(outcome: NetworkOutcome) -> dict[str, Any]:
    """Return what is told of a network's store, also if its peers are not known yet."""
    found = get(outcome.of.conf, "backend")
    is_in_store = isinstance(found, dict) and get(found, "type") in KINDS
    return {"store": stores.status_document(outcome.of.network)} if is_in_store else {}


def peers(outcomes: Iterable[NetworkOutcome]) -> list[dict[str, Any]]:
    return [
        {
            **_document(one),
            **({"peers": [_peer(one.seen, peer) for peer in hosts(one.seen)]} if one.seen else {}),
        }
        for one in outcomes
    ]


def probe(outcomes: Iterable[NetworkOutcome]) -> list[dict[str, Any]]:
    return [
        {
            **_document(one),
            **({"peers": [_probed(one.seen, probe) for probe in one.probes]} if one.seen else {}),
        }
        for one in outcomes
    ]


def _document(outcome: NetworkOutcome) -> dict[str, Any]:
    """Return the keys of a network that all documents have."""
    seen, error = outcome.seen, outcome.error
    return {
        "network": outcome.of.network,
        "file": outcome.of.file,
        "state": "at fault" if seen is None else str(seen.state),
        "differences": [] if seen is None else list(seen.differences),
        "error": None
        if error is None
        else {"code": error.code, "msg": error.msg, "details": error.full_details()},
    }


def _status(seen: View) -> dict[str, Any]:
    overlay, site = seen.overlay, seen.host
    tunnel = bool(overlay.vxlan)
    return {
        "mode": overlay.config.mode,
        "vni": overlay.vni if tunnel else None,
        "port": overlay.config.port if tunnel else None,
        "underlay": {"link": site.link, "address": str(site.local), "mtu": site.mtu},
        "mtu": site.inner_mtu,
        "backend": backend(seen),
        "peers": None if overlay.roster.records is None else len(site.others),
        "entries": entries(seen),
    }


def _peer(seen: View, record: Record) -> dict[str, Any]:
    own = record == seen.host.own
    return {
        "node": record.node,
        "vtep": str(record.vtep),
        "addresses": list(map(str, parts(record))),
        "own": own,
        "ways": [] if own else [_way(way) for way in ways_to(seen, record)],
    }


def _probed(seen: View, probe: Probe) -> dict[str, Any]:
    return {
        "node": probe.peer.node,
        "vtep": str(probe.peer.vtep),
        "rtt_ms": _milliseconds(probe.rtt),
        "path_mtu": probe.mtu,
        "inside_ms": _milliseconds(probe.inside),
        "ways": [_way(way) for way in ways_to(seen, probe.peer)],
    }


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


def _way(way: Way) -> dict[str, Any]:
    return {**way._asdict(), "to": str(way.to)}
