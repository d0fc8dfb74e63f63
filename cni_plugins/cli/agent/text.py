"""Formats the agent's status document as lines of text, with pure functions."""

import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from cni_plugins.cli.text import table

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"))

# Descriptions of the reasons in agent/protocol.py.
_REASONS = {
    "build": "called from another build",
    "place": "called from another namespace or root directory",
    "message": "sent a malformed message",
    "descriptors": "sent unexpected descriptors",
    "user": "called as another user",
    "left": "disconnected before the request began",
}


def lines(document: dict[str, Any]) -> Iterator[str]:
    """:param document: the document that `Scoreboard.status` of the agent returns"""
    yield f"agent    build {document['build']}, pid {document['pid']}, up {duration(document['uptime'])}"
    yield f"served   {document['served']}"
    refused = {reason: count for reason, count in document["refused"].items() if count}
    yield f"refused  {sum(refused.values())}"
    yield from (f"         {count} {_REASONS.get(reason, reason)}" for reason, count in refused.items())
    yield from _repairs(document.get("repair", {}))
    yield from _networks(document.get("keeper", []))
    yield ""
    yield from table(("WORKER", "UP", "SERVED", "RECYCLED", "NOW"), map(_worker, document["workers"]))
    yield ""
    yield "errors   none" if not document["errors"] else "errors"
    for error in document["errors"]:
        when = datetime.fromtimestamp(error["time"]).astimezone()
        yield f"  {when:%Y-%m-%d %H:%M:%S}  {error['text']}"


def _repairs(count: dict[str, int]) -> Iterator[str]:
    """Yield the line about repairs, if there were any; an agent of an older build has no counts."""
    if count.get("repairs") or count.get("failures"):
        steps, failures = count.get("steps", 0), count.get("failures", 0)
        yield f"repaired {count.get('repairs', 0)} times, {steps} differences, {failures} failures"


def _networks(states: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a table of the networks in stores, if there are any."""
    if not states:
        return
    yield ""
    yield from table(("NETWORK", "STORE", "STATE", "PEERS", "CONFIRMED", "TROUBLE"), map(_network, states))


def _network(state: dict[str, Any]) -> tuple[str, ...]:
    silent = state.get("silentCount", 0)
    count = f"{state.get('peers', 0)}{f', {silent} silent' if silent else ''}"
    return (
        str(state["network"]),
        str(state.get("registry", "-")),
        str(state["state"]),
        count,
        age(state.get("confirmed", 0.0)),
        str(state.get("trouble", "")) or "-",
    )


def age(when: float) -> str:
    """Format how long ago a time was."""
    return f"{duration(max(0.0, time.time() - when))} ago" if when else "never"


def duration(seconds: float) -> str:
    """Format a duration in its two largest units."""
    rest = int(seconds)
    parts: list[str] = []
    for size, unit in _UNITS:
        count, rest = divmod(rest, size)
        if count or parts:
            parts.append(f"{count} {unit}")
    return " ".join([*parts, f"{rest} s"][:2])


def _worker(worker: dict[str, Any]) -> tuple[str, ...]:
    now = f"busy for {worker['busy']:.1f} s" if worker["busy"] else "idle"
    numbers = (str(worker[key]) for key in ("served", "recycled"))
    return (str(worker["pid"]), duration(worker["uptime"]), *numbers, now)
