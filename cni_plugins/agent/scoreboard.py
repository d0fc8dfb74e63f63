"""Shares each worker's state with the other processes of the agent: one page of shared memory per worker.

Only the worker writes to its slot (and its parent, while no worker uses it); all processes read. There are no
locks: counters read one after the other may be an instant apart, which is accurate enough for a status.
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
    """The counters and latest errors of one worker, in its page of shared memory."""

    def __init__(self, table: mmap.mmap, number: int) -> None:
        self._table = table
        self._at = number * _SLOT

    def begin(self, pid: int) -> None:
        """Mark the start of a worker; the counts of its predecessors are kept."""
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
        """Store the text of an error, in place of the oldest one."""
        data = text.encode(errors="replace")[:_TEXT]
        places = (self._at + _ERRORS_AT + number * _ERROR.size for number in range(_ERRORS))
        oldest = min(places, key=lambda at: _ERROR.unpack_from(self._table, at)[0])
        _ERROR.pack_into(self._table, oldest, time.time(), len(data), data)

    @property
    def pid(self) -> int:
        return self._head()[0]

    @property
    def busy_since(self) -> float:
        """Return the monotonic clock at the start of the current request, in seconds; 0 when idle."""
        return self._head()[4]

    @property
    def served_count(self) -> int:
        return self._head()[2]

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

    def status(self) -> dict[str, Any]:
        """Return this worker's entry in the status document; times in seconds."""
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


class RepairCounts:
    """What the agent has repaired: only the process that watches for changes writes to it."""

    def __init__(self, table: mmap.mmap, at: int) -> None:
        self._table = table
        self._at = at

    def looked(self, steps: int, failures: int) -> None:
        """Count a look.

        :param steps: how many differences were repaired; none: this was no repair.
        :param failures: how many attachments and networks could not be repaired.
        """
        for number, count in enumerate((1, int(steps > 0), steps, failures)):
            self._add(number, count)

    def status(self) -> dict[str, int]:
        names = ("looks", "repairs", "steps", "failures")
        return {name: self._get(number) for number, name in enumerate(names)}

    def _get(self, number: int) -> int:
        (count,) = _COUNT.unpack_from(self._table, self._at + number * _COUNT.size)
        return int(count)

    def _add(self, number: int, count: int) -> None:
        _COUNT.pack_into(self._table, self._at + number * _COUNT.size, self._get(number) + count)


class Scoreboard:
    """The slots of all workers and the counts of repairs, in memory that forked processes share."""

    def __init__(self, workers: int) -> None:
        memory = mmap.mmap(-1, (workers + 1) * _SLOT)
        self.slots = tuple(Slot(memory, number) for number in range(workers))
        self.repairs = RepairCounts(memory, workers * _SLOT)
        self.started = time.time()

    def refusals(self) -> dict[str, int]:
        each = [slot.refusals() for slot in self.slots]
        return {reason: sum(counts[reason] for counts in each) for reason in REASONS}

    def served(self) -> int:
        """Return how many calls all workers have served."""
        return sum(slot.served_count for slot in self.slots)

    def status(self, build: str, pid: int) -> dict[str, Any]:
        """Return the status document, ready for JSON; the newest error is the last."""
        errors = sorted(error for slot in self.slots for error in slot.errors())
        workers = [slot.status() for slot in self.slots]
        return {
            "build": build,
            "pid": pid,
            "uptime": round(time.time() - self.started, 1),
            "served": sum(worker["served"] for worker in workers),
            "refused": self.refusals(),
            "repair": self.repairs.status(),
            "workers": workers,
            "errors": [{"time": error.when, "text": error.text} for error in errors[-_ERRORS:]],
        }
