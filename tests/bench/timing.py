"""One measured call: a real process start with its configuration on a real pipe."""

import os
import select
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_PIPE_ROOM = (
    60_000  # bytes; the configuration must fit so that nobody has to feed the pipe while the clock runs
)


@dataclass(frozen=True)
class Call:
    """What is started: the program, its environment, its standard input, its further words."""

    program: Path
    env: Mapping[str, str]
    stdin: bytes
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measured:
    """What a call took, in seconds, and what it said."""

    wall: float
    cpu: float
    code: int
    stdout: bytes


@dataclass
class Running:
    """A process that was started and the pipe its answer comes through."""

    pid: int
    answer: int
    begun: float

    def finish(self) -> Measured:
        """Wait for the end; the CPU time includes the programs it started itself."""
        _, status, usage = os.wait4(self.pid, 0)
        wall = time.perf_counter() - self.begun
        stdout = _drain(self.answer)
        return Measured(wall, usage.ru_utime + usage.ru_stime, os.waitstatus_to_exitcode(status), stdout)


def start(call: Call) -> Running:
    """Start the process in the namespace where the calling thread stands."""
    if len(call.stdin) > _PIPE_ROOM:
        raise ValueError("the configuration does not fit into the pipe")
    question, question_end = os.pipe()
    answer, answer_end = os.pipe()
    os.write(question_end, call.stdin)
    os.close(question_end)
    actions = [
        (os.POSIX_SPAWN_DUP2, question, 0),
        (os.POSIX_SPAWN_DUP2, answer_end, 1),
        (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
    ]
    begun = time.perf_counter()
    pid = os.posix_spawn(
        call.program,
        [str(call.program), *call.words],
        call.env,
        file_actions=actions,
        setsigdef=[signal.SIGPIPE],
    )
    os.close(question)
    os.close(answer_end)
    return Running(pid, answer, begun)


def measure(call: Call) -> Measured:
    """Start, wait, tell."""
    return start(call).finish()


def _drain(descriptor: int) -> bytes:
    try:
        ready, _, _ = select.select([descriptor], [], [], 0)
        return os.read(descriptor, 1 << 20) if ready else b""
    finally:
        os.close(descriptor)
