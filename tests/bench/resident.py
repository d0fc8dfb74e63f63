"""A resident agent for one column: started in its host namespace, asked whether it served, stopped."""

import contextlib
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cni_plugins.agent import status
from tests.differential.fixture import PREFIX
from tests.differential.suites import TOOL_PATH, Suite
from tests.namespaces import Namespace

PROGRAM = "cnictl"
VARIABLE = "CNI_PLUGINS_AGENT"  # where the executables look for the socket; empty: no agent
LINGER = "CNI_PLUGINS_LINGER"  # seconds for which a call leaves something behind, 0: it neither does nor asks
_START, _STOP, _BOOKS = 20.0, 25.0, 3.0  # seconds: until it answers, until it has ended, until it has counted
_TICKS = os.sysconf("SC_CLK_TCK")
_MILLISECONDS = re.compile(r" ms=([\d.]+) ")


@dataclass
class Agent:
    """One running agent; `calls` is how many it should have served."""

    pid: int
    socket: str
    journal: Path
    workers: tuple[int, ...]
    calls: int = 0

    @property
    def pids(self) -> tuple[int, ...]:
        """Its processes, the parent first."""
        return (self.pid, *self.workers)

    def cpu(self) -> float:
        """Seconds of CPU time of all its processes, and of the programs they ran.

        :raises RuntimeError: when one of them is gone, and its time with it.
        """
        return sum(map(_cpu, self.pids))

    def settled_cpu(self) -> float:
        """The same, once nothing is done any more: a worker goes on for an instant after its answer."""
        before = self.cpu()
        while True:
            time.sleep(0.002)
            now = self.cpu()
            if now == before:
                return now
            before = now

    def confirm(self) -> None:
        """:raises RuntimeError: when a call was not served by the agent: the column would not be warm."""
        end = time.monotonic() + _BOOKS
        while (page := status.ask(self.socket))["served"] < self.calls and time.monotonic() < end:
            time.sleep(0.01)
        if page["served"] != self.calls:
            raise RuntimeError(
                f"the agent served {page['served']} of {self.calls} calls; sent back: {page['refused']}"
            )

    def own_times(self, plugin: str, command: str) -> list[float]:
        """Milliseconds of every such call so far, as the agent's journal has them."""
        wanted = f" plugin={plugin} command={command} "
        lines = self.journal.read_text().splitlines()
        return [
            float(found.group(1))
            for line in lines
            if wanted in line and (found := _MILLISECONDS.search(line))
        ]


def absence(suite: Suite) -> str | None:
    """Why that suite has no agent, or None."""
    return None if suite.program(PROGRAM).is_file() else f"ours, warm: {PROGRAM} not in {suite.directory}"


@contextlib.contextmanager
def running(
    suite: Suite, host: Namespace | None, workers: int | None = None, words: Sequence[str] = ()
) -> Iterator[Agent]:
    """An agent in that netns, None: in this one, with as many workers as it takes by itself.

    :param words: further options.
    """
    with tempfile.TemporaryDirectory(prefix=PREFIX) as directory:
        socket, journal = Path(directory, "agent.sock"), Path(directory, "journal")
        # Not the caches of the machine: it would repair what they remember.
        own = ("--socket", str(socket), "--cache-dir", directory)
        command = [suite.program(PROGRAM), "agent", *own, *words]
        if workers:
            command += ["--workers", str(workers)]
        with host.entered() if host else contextlib.nullcontext(), journal.open("wb") as lines:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=lines,
                env={"PATH": TOOL_PATH},
            )
        try:
            page = _ready(process, str(socket), journal)
            yield Agent(process.pid, str(socket), journal, tuple(worker["pid"] for worker in page["workers"]))
        finally:
            _stop(process)


def _ready(process: subprocess.Popen[bytes], socket: str, journal: Path) -> dict[str, Any]:
    end = time.monotonic() + _START
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(status.NoAgent):
            page = status.ask(socket)
            # A worker is listed without its number until it has begun.
            if all(worker["pid"] for worker in page["workers"]):
                return page
        time.sleep(0.02)
    raise RuntimeError(
        f"the agent does not answer: {journal.read_text().strip()[-300:] or 'it says nothing'}"
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _cpu(pid: int) -> float:
    """clock_getcpuclockid(3) for the process itself; its children's time only comes in ticks."""
    try:
        own = time.clock_gettime((~pid << 3) | 2)
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError as err:
        raise RuntimeError(f"process {pid} of the agent is gone") from err
    return own + (int(fields[13]) + int(fields[14])) / _TICKS
