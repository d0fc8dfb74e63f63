"""The status of the agent as a page of text. A pure function: what the agent said in, lines out."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"))

# What agent/message.py calls the reasons, in words.
_REASONS = {
    "build": "called from another build",
    "place": "called from another namespace or root directory",
    "message": "sent what no caller of ours sends",
    "descriptors": "sent descriptors that no caller of ours sends",
    "user": "called as another user",
    "left": "left before the call had begun",
}


def lines(page: dict[str, Any]) -> Iterator[str]:
    """:param page: what `Table.page` of the agent made"""
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


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    table = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()
