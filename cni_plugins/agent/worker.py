"""Serves calls in one worker process: accepts them one after another, and runs each with `engine.run`.

A call must leave the worker as it found it: after each one, namespaces, descriptors, directory and umask are
as before, or the worker exits and is replaced.
"""

import os
import select
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import NamedTuple

from cni_plugins.agent import protocol
from cni_plugins.agent.journal import Journal, ServedRequest, record
from cni_plugins.agent.protocol import Call, CallRefused
from cni_plugins.agent.scoreboard import Scoreboard, Slot
from cni_plugins.engine.program import Program
from cni_plugins.engine.run import Outcome, run
from cni_plugins.kernel.session.session import Residence, nft_socket

_TIMEOUT = 2.0  # seconds for a caller to send its call, to send the go, and to read the answer
_UMASK = 0o077  # between requests, when no file is created
_AGENT_VARIABLE = "CNI_PLUGINS_AGENT"  # also in packaging/handoff.c


class WorkerContext(NamedTuple):
    """Values shared by all workers of one agent.

    :param lifeline: a pipe; its end of file tells the workers to finish.
    :param report: called after the answer of every request that was served.
    """

    listener: socket.socket
    lifeline: int
    scoreboard: Scoreboard
    build: str
    recycle_after: int
    journal: Journal
    report: Callable[[ServedRequest, Call], None]


def work(context: WorkerContext, slot: Slot) -> None:
    """Serve until the agent ends, `recycle_after` calls were served, or a call has left something behind."""
    worker = _Worker(context, slot)
    slot.begin(os.getpid())
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _ignore_signal)
    with select.epoll() as events:
        # One caller wakes one worker.
        events.register(context.listener, select.EPOLLIN | select.EPOLLEXCLUSIVE)
        events.register(context.lifeline, select.EPOLLHUP)
        worker.remember_state()
        for _ in range(context.recycle_after):
            if not worker.next_call(events):
                return
            if not worker.is_unchanged():
                context.journal.warn(f"worker {os.getpid()}: a request left something behind")
                return


def _ignore_signal(_number: int, _frame: object) -> None:
    """Ignore signals sent to the whole group by a terminal or supervisor: the parent acts on them."""


class _Worker:
    def __init__(self, context: WorkerContext, slot: Slot) -> None:
        self._context = context
        self._slot = slot
        self._places = protocol.places()
        self._stderr = os.dup(2)
        self._nft = nft_socket()
        self._lowest_free = 0
        self._is_intact = True

    def remember_state(self) -> None:
        """Remember the state that must be the same after every request."""
        self._lowest_free = _lowest_free()

    def is_unchanged(self) -> bool:
        return self._is_intact and _lowest_free() == self._lowest_free and protocol.places() == self._places

    def next_call(self, events: select.epoll) -> bool:
        """Wait for a call and serve it; return False when the agent ends."""
        while True:
            ready = {fd for fd, _ in events.poll()}
            if self._context.lifeline in ready:
                return False
            try:
                connection, _ = self._context.listener.accept()
            except OSError:  # another worker was faster, or the caller has disconnected
                continue
            break
        with connection, ExitStack() as owned:
            self._slot.busy()
            try:
                self._serve_call(connection, owned)
            except CallRefused as err:
                self._slot.refused(err.reason)
            except OSError:
                self._slot.refused("left")
            finally:
                self._slot.idle()
        return True

    def _serve_call(self, connection: socket.socket, owned: ExitStack) -> None:
        begun = time.monotonic()
        connection.settimeout(_TIMEOUT)
        caller = protocol.require_own_user(connection)
        data, fds = protocol.receive(connection, owned)
        if data.startswith(protocol.STATUS):
            self._show_status(connection)
            return
        call = protocol.parse(data, fds, self._context.build, self._places)
        if protocol.places_of(caller) != self._places:
            raise CallRefused("place")
        environment = _without_agent(call)
        owned.callback(self._restore_environment)
        self._adopt_environment(call, environment)
        connection.send(protocol.TAKEN)
        os.dup2(protocol.receive_go(connection, owned), 2)
        outcome = self._run(call, environment, Residence(self._nft, _connection_check(connection)))
        _deliver(connection, outcome)
        self._record_outcome(call, outcome, time.monotonic() - begun)

    def _adopt_environment(self, call: Call, environment: dict[str, str]) -> None:
        """Adopt the caller's environment, directory and umask, which programs run by the request inherit."""
        os.environ.clear()
        os.environ.update(environment)
        os.fchdir(call.descriptors.directory)
        os.umask(call.umask)

    def _restore_environment(self) -> None:
        os.dup2(self._stderr, 2)
        os.umask(_UMASK)
        os.chdir("/")

    def _run(self, call: Call, environment: dict[str, str], residence: Residence) -> Outcome:
        file = os.fstat(call.descriptors.program)
        program = Program(file.st_dev, file.st_ino, residence, self._context.build)
        return run(call.name, environment, call.read, program)

    def _record_outcome(self, call: Call, outcome: Outcome, seconds: float) -> None:
        served = record(call, outcome, seconds)
        self._slot.served()
        self._context.journal.note(served.line())
        if outcome.code:
            self._slot.failed(served.line())
        if outcome.trace:
            self._is_intact = False  # an unexpected exception: the state of this process is unknown
            self._context.journal.warn(outcome.trace)
        self._context.report(served, call)

    def _show_status(self, connection: socket.socket) -> None:
        import json

        status = self._context.scoreboard.status(self._context.build, os.getppid())
        protocol.answer(connection, 0, json.dumps(status).encode(), b"")


def _without_agent(call: Call) -> dict[str, str]:
    """Keep IPAM executables from calling the agent: all workers may be waiting for such a child."""
    return {**call.environment, _AGENT_VARIABLE: ""}


def _deliver(connection: socket.socket, outcome: Outcome) -> None:
    """Send the answer; if the caller is gone, the runtime sends a DEL that removes what was done."""
    with suppress(OSError):
        protocol.answer(connection, outcome.code, outcome.stdout, outcome.trace.encode(errors="replace"))


def _connection_check(connection: socket.socket) -> Callable[[], bool]:
    """Return a function that says whether the caller is still connected; it sends no further message."""
    poll = select.poll()
    poll.register(connection, select.POLLIN | select.POLLRDHUP)
    return lambda: not poll.poll(0)


def _lowest_free() -> int:
    fd = os.dup(0)
    os.close(fd)
    return fd
