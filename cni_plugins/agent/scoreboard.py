"""What the agent's processes know of each other: one page of shared memory for each worker.

Only the worker writes into its slot (and its parent, while no worker holds it), anybody reads. Nothing is
locked: a reader may see a count and the next one an instant apart, which a status page can bear.
"""

import mmap
import struct
import time
from typing import Any, NamedTuple

from cni_plugins.agent.protocol import REASONS

_SLOT = 4096
_HEAD = struct.Struct("=QdQQd")  # pid, started, served, recycled, busy since (0: idle)
_STARTED, _SERVED, _RECYCLED, _BUSY = 8, 16, 24, 32
_REFUSED_AT = _HEAD.size
_COUNT = struct.Struct("=Q")
_TEXT = 374  # bytes
_ERROR = struct.Struct(f"=dH{_TEXT}s")  # when, how many bytes of text, text
_ERRORS = 8
_ERRORS_AT = 1024


class Error(NamedTuple):
    """One failed request."""

    when: float
    text: str


class Slot:
    """One worker's page."""

    def __init__(self, table: mmap.mmap, number: int) -> None:
        self._table = table
        self._at = number * _SLOT

    def begin(self, pid: int) -> None:
        """A worker starts; what its predecessors served stays."""
        self._set(0, pid)
        self._write(_STARTED, time.time())
        self._write(_BUSY, 0.0)

    def recycled(self) -> None:
        self._add(_RECYCLED)

    def busy(self) -> None:
        self._write(_BUSY, time.monotonic())

    def idle(self) -> None:
        self._write(_BUSY, 0.0)

    def served(self) -> None:
        self._add(_SERVED)

    def refused(self, reason: str) -> None:
        self._add(_REFUSED_AT + REASONS.index(reason) * _COUNT.size)

    def failed(self, text: str) -> None:
        """Keep the text, in the place of the oldest one."""
        data = text.encode(errors="replace")[:_TEXT]
        places = (self._at + _ERRORS_AT + number * _ERROR.size for number in range(_ERRORS))
        oldest = min(places, key=lambda at: _ERROR.unpack_from(self._table, at)[0])
        _ERROR.pack_into(self._table, oldest, time.time(), len(data), data)

    @property
    def pid(self) -> int:
        return self._head()[0]

    @property
    def busy_since(self) -> float:
        """Return the monotonic clock at the begin of the request under way; 0 when there is none."""
        return self._head()[4]

    def refusals(self) -> dict[str, int]:
        counts = (
            _COUNT.unpack_from(self._table, self._at + _REFUSED_AT + n * _COUNT.size)
            for n in range(len(REASONS))
        )
        return {reason: count for reason, (count,) in zip(REASONS, counts, strict=True)}

    def errors(self) -> list[Error]:
        found = (
            _ERROR.unpack_from(self._table, self._at + _ERRORS_AT + n * _ERROR.size) for n in range(_ERRORS)
        )
        return [Error(when, text[:length].decode(errors="replace")) for when, length, text in found if when]

    def page(self) -> dict[str, Any]:
        """Return what the status shows of this worker; times in seconds."""
        pid, started, served, recycled, busy = self._head()
        return {
            "pid": pid,
            "uptime": round(time.time() - started, 1),
            "served": served,
            "recycled": recycled,
            "busy": round(time.monotonic() - busy, 3) if busy else 0.0,
        }

    def _head(self) -> tuple[int, float, int, int, float]:
        pid, started, served, recycled, busy = _HEAD.unpack_from(self._table, self._at)
        return pid, started, served, recycled, busy

    def _set(self, offset: int, value: int) -> None:
        _COUNT.pack_into(self._table, self._at + offset, value)

    def _write(self, offset: int, value: float) -> None:
        struct.pack_into("=d", self._table, self._at + offset, value)

    def _add(self, offset: int) -> None:
        (before,) = _COUNT.unpack_from(self._table, self._at + offset)
        self._set(offset, before + 1)


class Scoreboard:
    """All slots, in memory that forked workers share."""

    def __init__(self, workers: int) -> None:
        memory = mmap.mmap(-1, workers * _SLOT)
        self.slots = tuple(Slot(memory, number) for number in range(workers))
        self.started = time.time()

    def refusals(self) -> dict[str, int]:
        each = [slot.refusals() for slot in self.slots]
        return {reason: sum(counts[reason] for counts in each) for reason in REASONS}

    def page(self, build: str, pid: int) -> dict[str, Any]:
        """Return the status as JSON takes it; the newest error is the last."""
        errors = sorted(error for slot in self.slots for error in slot.errors())
        workers = [slot.page() for slot in self.slots]
        return {
            "build": build,
            "pid": pid,
            "uptime": round(time.time() - self.started, 1),
            "served": sum(worker["served"] for worker in workers),
            "refused": self.refusals(),
            "workers": workers,
            "errors": [{"time": error.when, "text": error.text} for error in errors[-_ERRORS:]],
        }
