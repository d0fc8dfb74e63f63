"""The agent's parent process: keeps the socket and the workers, and never touches a request.

A worker that ends is replaced, one that hangs is killed first. SIGTERM: finish what was begun, then end.
SIGHUP, or the discovery that our executable has been replaced: become the new executable at once, with the
same socket, while the old workers finish what they have begun; callers wait a moment and none is lost.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from cni_plugins.agent import preload
from cni_plugins.agent.build import BUILD
from cni_plugins.agent.journal import Journal, ServedRequest
from cni_plugins.agent.listener import OWN, Listener, Unusable, in_its_place, open_listener
from cni_plugins.agent.metrics import address as metrics_address
from cni_plugins.agent.metrics.channel import Channel
from cni_plugins.agent.protocol import Call
from cni_plugins.agent.scoreboard import Scoreboard, Slot
from cni_plugins.agent.systemd import Supervisor
from cni_plugins.agent.worker import Surroundings, work

SOCKET = "/run/cni-plugins/agent.sock"  # where the executables look
_SIGNALS = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_TICK = 1.0  # seconds between looks at the workers
_SHORTEST_LIFE = 1.0  # seconds; a process that ends sooner is not replaced at once
_DRAIN = 20.0  # seconds for requests under way when the agent ends


class Options(NamedTuple):
    """How the agent is to run; seconds, and an empty text for no metrics."""

    workers: int
    socket: str = SOCKET
    recycle_after: int = 10_000
    request_timeout: float = 120.0
    metrics: str = ""


def default_workers() -> int:
    return max(2, len(os.sched_getaffinity(0)))


def serve(options: Options) -> int:
    """Run until told to end; return the exit code."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    journal = Journal(os.dup(2), prioritised="JOURNAL_STREAM" in os.environ)
    program = _Program()
    supervisor = Supervisor(os.environ)
    try:
        if options.metrics:
            metrics_address.parse(options.metrics)
        listener = open_listener(options.socket, os.environ)
    except Unusable as err:
        journal.warn(f"agent: {err}")
        return 1
    preload.preload()
    _Agent(options, listener, journal, supervisor, program).run()
    return 0


class _Program:
    """The executable this process was started from, which an upgrade replaces."""

    def __init__(self) -> None:
        frozen = getattr(sys, "frozen", False)
        self.path = os.readlink("/proc/self/exe").removesuffix(" (deleted)") if frozen else sys.executable
        self._words = [self.path, *sys.argv[1:]] if frozen else sys.orig_argv
        self._started = self._identity()

    def _identity(self) -> tuple[int, int, int]:
        try:
            status = os.stat(self.path)
        except OSError:  # between two steps of somebody's upgrade
            return (0, 0, 0)
        return status.st_dev, status.st_ino, status.st_mtime_ns

    def is_replaced(self) -> bool:
        now = self._identity()
        return any(now) and now != self._started

    def become(self, listener: Listener, environment: dict[str, str]) -> str:
        """Start the executable anew in this process, as a supervisor would; return why that failed."""
        name = {"LISTEN_FDNAMES": OWN} if listener.own else {}
        handed = {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid()), **name, **environment}
        with in_its_place(listener.socket):
            try:
                os.execve(self.path, self._words, {**os.environ, **handed})  # noqa: S606 (no shell is wanted)
            except OSError as err:
                self._started = self._identity()  # once is enough, until there is another
                return err.strerror or str(err)


class _Child(NamedTuple):
    """A process of ours: what it does, and since when."""

    body: Callable[[], None]
    slot: Slot | None
    begun: float = 0.0


class _Agent:
    def __init__(
        self,
        options: Options,
        listener: Listener,
        journal: Journal,
        supervisor: Supervisor,
        program: _Program,
    ) -> None:
        self._options = options
        self._listener = listener
        self._journal = journal
        self._supervisor = supervisor
        self._program = program
        self._lifeline, self._hold = os.pipe()
        self._table = Scoreboard(options.workers)
        channel = Channel() if options.metrics else None
        around = Surroundings(
            listener=listener.socket,
            lifeline=self._lifeline,
            table=self._table,
            build=BUILD,
            recycle_after=options.recycle_after,
            journal=journal,
            tell=channel.tell if channel else _tell_nobody,
        )
        self._waiting = [_Child(partial(work, around, slot), slot) for slot in self._table.slots]
        if channel:
            export = partial(_export, channel, options.metrics, self._table, self._lifeline)
            self._waiting.append(_Child(export, None))
        self._children: dict[int, _Child] = {}
        self._strangers = 0

    def run(self) -> None:
        """Serve until told to end."""
        self._start_waiting()
        self._supervisor.tell("READY=1", f"STATUS={self._options.workers} workers")
        self._journal.note(f"agent {BUILD}: {self._options.workers} workers at {self._options.socket}")
        number = 0
        while number not in (signal.SIGTERM, signal.SIGINT):
            number = self._look_after()
            if number == signal.SIGHUP:
                self._renew()
        self._supervisor.tell("STOPPING=1")
        self._journal.note(f"agent {BUILD}: {signal.Signals(number).name}, finishing what was begun")
        self._drain()

    def _renew(self) -> None:
        """Become the executable that is there now. Our workers see the lifeline end, and finish."""
        self._supervisor.tell("RELOADING=1")
        self._journal.note(f"agent {BUILD}: becoming {self._program.path}")
        failure = self._program.become(self._listener, self._supervisor.environment())
        self._journal.warn(f"agent: cannot become {self._program.path}: {failure}; going on as before")
        self._supervisor.tell("READY=1")

    def _look_after(self) -> int:
        """Wait for a signal or a tick, see to the workers, return what should be obeyed: a signal, or 0."""
        info = signal.sigtimedwait(_SIGNALS, _TICK)
        self._reap()
        self._kill_hung()
        if self._supervisor.watchdog:
            self._supervisor.tell("WATCHDOG=1")
        strangers, self._strangers = self._strangers, self._table.refusals()["build"]
        if strangers != self._strangers and self._program.is_replaced():
            return signal.SIGHUP
        if info is None:
            self._start_waiting()
            return 0
        return info.si_signo

    def _start_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for child in waiting:
            self._start(child)

    def _start(self, child: _Child) -> None:
        """Start a child, or have it wait for the next tick where there is no room for it."""
        try:
            pid = os.fork()
        except OSError as err:
            self._journal.warn(f"cannot start a worker: {err.strerror}")
            self._waiting.append(child)
            return
        if pid == 0:
            os.setpgid(0, 0)  # what a request starts ends with its worker
            self._live(child.body)
        with suppress(OSError):  # whoever is first: nobody is signalled before
            os.setpgid(pid, pid)
        self._children[pid] = child._replace(begun=time.monotonic())

    def _live(self, body: Callable[[], None]) -> None:
        """Be a child: never return into what the parent was doing."""
        code = 1
        try:
            os.close(self._hold)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            body()
            code = 0
        except BaseException:  # noqa: BLE001 (the end of this process; the parent starts another)
            self._journal.warn(traceback.format_exc())
        finally:
            os._exit(code)

    def _reap(self) -> None:
        while self._children:
            over = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if over is None:
                return
            if over.si_pid in self._children:
                with suppress(ProcessLookupError):  # what it had started must not run on
                    os.killpg(over.si_pid, signal.SIGKILL)
            pid, status = os.waitpid(over.si_pid, 0)
            child = self._children.pop(pid, None)
            if child is None:  # a worker of our predecessor, or somebody's orphan
                continue
            if status:
                self._journal.warn(f"worker {pid} ended: {_ending(status)}")
            if child.slot:
                child.slot.idle()  # or its successor would be taken to hang
                child.slot.recycled()
            if time.monotonic() - child.begun < _SHORTEST_LIFE:
                self._waiting.append(child)
            else:
                self._start(child)

    def _kill_hung(self) -> None:
        now = time.monotonic()
        for pid, child in self._children.items():
            busy = child.slot.busy_since if child.slot else 0.0
            if busy and now - busy > self._options.request_timeout:
                self._journal.warn(f"worker {pid} hangs in a request, and is killed")
                with suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)

    def _drain(self) -> None:
        """Let the workers finish, for as long as a supervisor will wait; who still calls is sent away."""
        self._listener.remove()
        os.close(self._hold)
        deadline = time.monotonic() + _DRAIN
        while self._children and time.monotonic() < deadline:
            self._listener.send_away()
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid:
                self._children.pop(pid, None)
            else:
                signal.sigtimedwait({signal.SIGCHLD}, 0.1)
        for pid in self._children:
            self._journal.warn(f"worker {pid} did not finish, and is killed")
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)


def _export(channel: Channel, address: str, scoreboard: Scoreboard, lifeline: int) -> None:
    """Count what is reported and serve it; return at the lifeline's end of file."""
    from cni_plugins.agent.metrics import exporter

    exporter.run(channel, metrics_address.parse(address), scoreboard, lifeline)


def _tell_nobody(_record: ServedRequest, _call: Call) -> None:
    pass


def _ending(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
