"""Runs the agent's parent process: holds the socket, supervises the workers, and never handles a request.

A worker that exits is replaced; one that hangs is killed first. On SIGTERM the agent finishes the requests
under way, then exits. On SIGHUP, or when its executable has been replaced on disk, it executes the new one in
the same process, with the same socket, while the old workers finish; callers wait a moment, and none fails.

The process that an earlier call has left behind (linger.py) is the same, but it ends after some time
without a call, and when another has taken its place.
"""

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from cni_plugins.agent import preload
from cni_plugins.agent.journal import Journal, ServedRequest
from cni_plugins.agent.listener import OWN, CannotListen, Listener, duplicated_to_fd_3, open_listener
from cni_plugins.agent.metrics import address as metrics_address
from cni_plugins.agent.metrics.channel import Channel
from cni_plugins.agent.protocol import Call
from cni_plugins.agent.scoreboard import Scoreboard, Slot
from cni_plugins.agent.systemd import Supervisor
from cni_plugins.agent.worker import WorkerContext, work
from cni_plugins.engine.build import BUILD

SOCKET = "/run/cni-plugins/agent.sock"  # the executables' default
_SIGNALS = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_TICK = 1.0  # seconds between two checks of the workers
_SHORTEST_LIFE = 1.0  # seconds; a process that exits sooner is not replaced at once
_DRAIN = 20.0  # seconds that requests under way have to finish when the agent ends
_MOST_LINGERING = 8  # workers


class Options(NamedTuple):
    """Options of `cnictl agent`; times in seconds, `metrics` empty for none, directories for the defaults."""

    workers: int
    socket: str = SOCKET
    recycle_after: int = 10_000
    request_timeout: float = 120.0
    metrics: str = ""
    repair: bool = True
    keeper: bool = True
    cache_dir: tuple[str, ...] = ()
    plugin_dir: tuple[str, ...] = ()
    conf_dir: str = ""


def default_workers() -> int:
    return max(2, len(os.sched_getaffinity(0)))


def serve(options: Options) -> int:
    """Run until SIGTERM or SIGINT; return the exit code."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    journal = Journal(os.dup(2), prioritised="JOURNAL_STREAM" in os.environ)
    program = _Program()
    supervisor = Supervisor(os.environ)
    try:
        if options.metrics:
            metrics_address.parse(options.metrics)
        listener = open_listener(options.socket, os.environ)
    except CannotListen as err:
        journal.warn(f"agent: {err}")
        return 1
    late = (preload.FOR_REPAIR if options.repair else ()) + (preload.FOR_KEEPER if options.keeper else ())
    preload.preload((*preload.ALL, *late))
    _Agent(options, listener, journal, supervisor, program).run()
    return 0


def linger(listening: socket.socket, lock: int, seconds: float) -> None:
    """Be an agent until there was no call for some time, or another process has taken this one's place.

    :param lock: see linger.leave_behind.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    journal = Journal(os.dup(2), prioritised=False)
    path: str = listening.getsockname()
    listener = Listener(listening, path, own=False)
    preload.preload(preload.USUAL)
    workers = min(default_workers(), _MOST_LINGERING)
    agent = _Agent(
        Options(workers, path, repair=False, keeper=False), listener, journal, Supervisor({}), _Program()
    )
    agent.stay = _Stay(lock, path, seconds)
    agent.run()


class _Stay:
    """The right to be called: a locked file beside the socket, which callers remove if this process stops."""

    def __init__(self, lock: int, socket_path: str, idle: float) -> None:
        self._lock = lock
        self._socket = socket_path
        self._file = f"{socket_path.removesuffix('.sock')}.first"
        self.idle = idle

    def is_valid(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._lock), os.stat(self._file))
        except OSError:
            return False

    def show_life(self) -> None:
        os.utime(self._lock)

    def end(self) -> None:
        """Let the next caller be the first one, at once."""
        if self.is_valid():
            with suppress(OSError):
                os.unlink(self._socket)
            os.unlink(self._file)


class _Program:
    """The executable that this process was started from, and whether an upgrade has replaced it."""

    def __init__(self) -> None:
        frozen = getattr(sys, "frozen", False)
        self.path = os.readlink("/proc/self/exe").removesuffix(" (deleted)") if frozen else sys.executable
        self._words = [self.path, *sys.argv[1:]] if frozen else sys.orig_argv
        self._started = self._identity()

    def _identity(self) -> tuple[int, int, int]:
        try:
            status = os.stat(self.path)
        except OSError:  # an upgrade has removed it and not yet written the new one
            return (0, 0, 0)
        return status.st_dev, status.st_ino, status.st_mtime_ns

    def is_replaced(self) -> bool:
        now = self._identity()
        return any(now) and now != self._started

    def become(self, listener: Listener, environment: dict[str, str]) -> str:
        """Execute the program again in this process, with socket activation; return why that failed."""
        name = {"LISTEN_FDNAMES": OWN} if listener.own else {}
        handed = {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid()), **name, **environment}
        with duplicated_to_fd_3(listener.socket):
            try:
                os.execve(self.path, self._words, {**os.environ, **handed})  # noqa: S606 (no shell is wanted)
            except OSError as err:
                self._started = self._identity()  # try again only when it is replaced again
                return err.strerror or str(err)


class _Child(NamedTuple):
    """A child process: the function it runs, its slot if it is a worker, and its start time."""

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
        self._lifeline, self._lifeline_writer = os.pipe()
        self._scoreboard = Scoreboard(options.workers)
        channel = Channel() if options.metrics else None
        context = WorkerContext(
            listener=listener.socket,
            lifeline=self._lifeline,
            scoreboard=self._scoreboard,
            build=BUILD,
            recycle_after=options.recycle_after,
            journal=journal,
            report=channel.report if channel else _no_report,
        )
        self._waiting = [_Child(partial(work, context, slot), slot) for slot in self._scoreboard.slots]
        if channel:
            export = partial(_export, channel, options.metrics, self._scoreboard, self._lifeline)
            self._waiting.append(_Child(export, None))
        if options.repair:
            watch = partial(_watch, options, self._scoreboard, self._lifeline, journal)
            self._waiting.append(_Child(watch, None))
        if options.keeper:
            keep = partial(_keep, options, self._lifeline, journal)
            self._waiting.append(_Child(keep, None))
        self._children: dict[int, _Child] = {}
        self._build_mismatches = 0
        self._served = 0
        self._last_served = time.monotonic()
        self.stay: _Stay | None = None
        """Of a process that was left behind."""

    def run(self) -> None:
        """Supervise the children until SIGTERM or SIGINT."""
        self._start_waiting()
        self._supervisor.notify("READY=1", f"STATUS={self._options.workers} workers")
        self._journal.note(f"agent {BUILD}: {self._options.workers} workers at {self._options.socket}")
        number = 0
        while number not in (signal.SIGTERM, signal.SIGINT):
            number = self._supervise()
            if number == signal.SIGHUP and not self.stay:
                self._reexec()
        self._supervisor.notify("STOPPING=1")
        self._journal.note(f"agent {BUILD}: {signal.Signals(number).name}, finishing the requests under way")
        self._drain()

    def _reexec(self) -> None:
        """Execute the installed program; the old workers see the lifeline close, and finish."""
        self._supervisor.notify("RELOADING=1")
        self._journal.note(f"agent {BUILD}: becoming {self._program.path}")
        failure = self._program.become(self._listener, self._supervisor.environment())
        self._journal.warn(f"agent: cannot become {self._program.path}: {failure}; going on as before")
        self._supervisor.notify("READY=1")

    def _supervise(self) -> int:
        """Wait for a signal or a tick, check the workers, and return the signal to act on, or 0."""
        info = signal.sigtimedwait(_SIGNALS, _TICK)
        self._reap()
        self._kill_hung()
        self._show_progress()
        if self._supervisor.watchdog:
            self._supervisor.notify("WATCHDOG=1")
        mismatches, self._build_mismatches = self._build_mismatches, self._scoreboard.refusals()["build"]
        if mismatches != self._build_mismatches and self._program.is_replaced():
            return signal.SIGHUP
        if info is None:
            self._start_waiting()
            return signal.SIGTERM if self._is_over() else 0
        return info.si_signo

    def _is_over(self) -> bool:
        """Whether a process that was left behind has done its time or lost its place; not in a request."""
        if not self.stay:
            return False
        if any(slot.busy_since for slot in self._scoreboard.slots):
            self._last_served = time.monotonic()
            return False
        is_idle = time.monotonic() - self._last_served > self.stay.idle
        return is_idle or not self.stay.is_valid()

    def _show_progress(self) -> None:
        """Set the times at which callers that wait look (handoff.c): of the socket if calls were served."""
        before, self._served = self._served, self._scoreboard.served()
        if self._served != before:
            self._last_served = time.monotonic()
            with suppress(OSError):
                os.utime(self._options.socket)
        if self.stay:
            self.stay.show_life()

    def _start_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for child in waiting:
            self._start(child)

    def _start(self, child: _Child) -> None:
        """Fork a child; when the kernel refuses, try again at the next tick."""
        try:
            pid = os.fork()
        except OSError as err:
            self._journal.warn(f"cannot start a process: {err.strerror}")
            self._waiting.append(child)
            return
        if pid == 0:
            os.setpgid(0, 0)  # programs started by a request are killed together with the worker
            self._run_child(child.body)
        with suppress(OSError):  # in both processes, so that the group exists before it is signalled
            os.setpgid(pid, pid)
        self._children[pid] = child._replace(begun=time.monotonic())

    def _run_child(self, body: Callable[[], None]) -> None:
        """Run a child's function and exit; never return into the parent's code."""
        code = 1
        try:
            os.close(self._lifeline_writer)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            body()
            code = 0
        except BaseException:  # noqa: BLE001 (this process ends; the parent starts another)
            self._journal.warn(traceback.format_exc())
        finally:
            os._exit(code)

    def _reap(self) -> None:
        while self._children:
            exited = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if exited is None:
                return
            if exited.si_pid in self._children:
                with suppress(ProcessLookupError):  # programs it started must not go on running
                    os.killpg(exited.si_pid, signal.SIGKILL)
            pid, status = os.waitpid(exited.si_pid, 0)
            child = self._children.pop(pid, None)
            if child is None:  # a worker of the previous agent, or an adopted orphan
                continue
            if status:
                self._journal.warn(f"worker {pid} ended: {_describe_exit(status)}")
            if child.slot:
                child.slot.idle()  # otherwise its successor would count as hung
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
                self._journal.warn(f"worker {pid} is hung in a request: killing it")
                with suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)

    def _drain(self) -> None:
        """Let the workers finish, for at most _DRAIN seconds; new connections are closed at once."""
        self._listener.remove()
        if self.stay:
            self.stay.end()
        os.close(self._lifeline_writer)
        deadline = time.monotonic() + _DRAIN
        while self._children and time.monotonic() < deadline:
            self._listener.reject_waiting()
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid:
                self._children.pop(pid, None)
            else:
                signal.sigtimedwait({signal.SIGCHLD}, 0.1)
        for pid in self._children:
            self._journal.warn(f"worker {pid} did not finish in time: killing it")
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)


def _export(channel: Channel, address: str, scoreboard: Scoreboard, lifeline: int) -> None:
    """Run the metrics exporter; return when the lifeline is closed."""
    from cni_plugins.agent.metrics import exporter

    exporter.run(channel, metrics_address.parse(address), scoreboard, lifeline)


def _watch(options: Options, scoreboard: Scoreboard, lifeline: int, journal: Journal) -> None:
    """Watch for changes to the ruleset and repair them; return when the lifeline is closed."""
    from cni_plugins.agent.repair import watch

    scope = watch.scope(options.cache_dir, options.plugin_dir, options.conf_dir)
    watch.run(watch.WatchContext(scope, scoreboard, lifeline, journal))


def _keep(options: Options, lifeline: int, journal: Journal) -> None:
    """Follow the networks whose peers come from a store or file; return when the lifeline is closed."""
    from cni_plugins.agent import keeping

    keeping.run(options.conf_dir, lifeline, journal)


def _no_report(_record: ServedRequest, _call: Call) -> None:
    pass


def _describe_exit(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
