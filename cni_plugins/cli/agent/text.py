"""The status of the agent as lines of text: a pure function of the document that the agent sends."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from cni_plugins.cli.text import table

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"))

# The reasons of agent/protocol.py in words.
_REASONS = {
    "build": "called from another build",
    "place": "called from another namespace or root directory",
    "message": "sent what no caller of ours sends",
    "descriptors": "sent descriptors that no caller of ours sends",
    "user": "called as another user",
    "left": "left before the call had begun",
}


def lines(page: dict[str, Any]) -> Iterator[str]:
    """:param page: the document that `Scoreboard.page` of the agent returns"""
    yield f"agent    build {page['build']}, pid {page['pid']}, up {duration(page['uptime'])}"
    yield f"served   {page['served']}"
    refused = {reason: count for reason, count in page["refused"].items() if count}
    yield f"refused  {sum(refused.values())}{'' if refused else ': no caller had to do it by itself'}"
    yield from (f"         {count} {_REASONS.get(reason, reason)}" for reason, count in refused.items())
    yield ""
    yield from table(("WORKER", "UP", "SERVED", "RECYCLED", "NOW"), map(_worker, page["workers"]))
    yield ""
    yield "errors   none" if not page["errors"] else "errors"
    for error in page["errors"]:
        when = datetime.fromtimestamp(error["time"]).astimezone()
        yield f"  {when:%Y-%m-%d %H:%M:%S}  {error['text']}"


def duration(seconds: float) -> str:
    """Return it in the two largest units that say something."""
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
