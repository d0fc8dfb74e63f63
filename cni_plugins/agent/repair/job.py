"""Looks and repairs in a process of its own, which tells what it did through a pipe and ends.

So the process that waits for changes stays small, and never blocks.
"""

import gc
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from cni_plugins.upkeep import repair as upkeep
from cni_plugins.upkeep.overlay import State
from cni_plugins.upkeep.overlay_repair import OverlayOutcome
from cni_plugins.upkeep.repair import RepairOutcome, RepairReport, Scope

_SETTLE = (upkeep.SETTLING, 4.0)  # seconds before each look for containers that were deleted meanwhile
NAME = "cni-repair"  # in /proc/PID/comm: the kernel tells it with each change, also where pids differ
_MOST = 2000  # things told of one look


class Event(NamedTuple):
    """Something that was repaired, or could not be; `ifname` is empty for what belongs to a whole network."""

    network: str
    container: str
    ifname: str
    plugins: str
    what: tuple[str, ...]


class JobResult(NamedTuple):
    """What a look did; `problems` is what was broken in the caches, `departed` what was removed again."""

    seconds: float = 0.0
    repaired: tuple[Event, ...] = ()
    failed: tuple[Event, ...] = ()
    problems: tuple[str, ...] = ()
    departed: tuple[str, ...] = ()


class Job:
    """A look under way; `fileno` becomes readable when a result arrives, or the process has ended."""

    def __init__(self, scope: Scope) -> None:
        self._read, write = os.pipe()
        os.set_blocking(self._read, False)
        self._buffer = b""
        self.is_looking = True
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._read)
            _run(lambda result: _send(write, result), scope)
        os.close(write)

    def fileno(self) -> int:
        return self._read

    def results(self) -> list[JobResult] | None:
        """Return the results that have arrived, None after the last one."""
        is_over = False
        try:
            while not is_over:
                part = os.read(self._read, 1 << 16)
                self._buffer += part
                is_over = not part
        except BlockingIOError:
            pass
        *lines, self._buffer = self._buffer.split(b"\n")
        if not lines and is_over:
            os.close(self._read)
            os.waitpid(self.pid, 0)
            return None
        return [_result(line) for line in lines]


def _run(send: Callable[[JobResult], None], scope: Scope) -> None:
    """Do the work, and end this process."""
    with suppress(OSError), open("/proc/self/comm", "w") as file:
        file.write(NAME)
    code = 1
    try:
        gc.disable()
        begun = time.monotonic()
        report = upkeep.repair(scope, in_sandboxes=False)
        send(told(report, time.monotonic() - begun))
        repaired = [one for one in report.attachments if one.differences]
        for pause in _SETTLE if repaired else ():
            time.sleep(pause)
            departed = upkeep.take_back_departed(scope, repaired)
            if departed:
                send(JobResult(departed=tuple(departed)))
        code = 0
    except Exception as err:  # noqa: BLE001 (this process ends; the next change starts another)
        send(JobResult(failed=(Event("", "", "", "", (f"{err} ({type(err).__name__})",)),)))
    finally:
        os._exit(code)


def told(report: RepairReport, seconds: float) -> JobResult:
    """Return what is to be told of a report."""
    repaired = [_event(one, one.differences) for one in report.attachments if one.differences]
    failed = [_event(one, one.remaining) for one in report.attachments if one.remaining]
    repaired += [
        _network_event(one)
        for one in report.overlays
        if one.seen and one.seen.state in (State.REPAIRED, State.CREATED)
    ]
    failed += [_network_event(one) for one in report.overlays if one.is_at_fault]
    return JobResult(seconds, tuple(repaired[:_MOST]), tuple(failed[:_MOST]), report.faults[:_MOST])


def _event(one: RepairOutcome, what: tuple[str, ...]) -> Event:
    return Event(*one.of.attachment, ",".join(one.plugins), what)


def _network_event(one: OverlayOutcome) -> Event:
    what = one.seen.differences if one.seen else (one.error,)
    return Event(one.network, "", "", "vxlan", what)


def _send(fd: int, result: JobResult) -> None:
    data = json.dumps(result).encode() + b"\n"
    while data:
        data = data[os.write(fd, data) :]


def _result(line: bytes) -> JobResult:
    fields: list[Any] = json.loads(line)
    seconds, repaired, failed, problems, departed = fields
    return JobResult(seconds, _events(repaired), _events(failed), tuple(problems), tuple(departed))


def _events(items: list[list[Any]]) -> tuple[Event, ...]:
    return tuple(
        Event(network, container, ifname, plugins, tuple(what))
        for network, container, ifname, plugins, what in items
    )
