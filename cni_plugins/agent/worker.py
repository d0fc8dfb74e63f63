"""One worker: takes calls off the socket, one after another, and answers each by the engine's only road.

A call changes nothing in the worker that the next one could notice: namespace, descriptors, directory and
environment are as before, or the worker ends and another takes its place.
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
from cni_plugins.agent.protocol import Call, Unfit
from cni_plugins.agent.scoreboard import Scoreboard, Slot
from cni_plugins.engine.program import Program
from cni_plugins.engine.run import Outcome, run
from cni_plugins.kernel.session.session import Residence, nft_socket

_PATIENCE = 2.0  # seconds for a caller to send its call, to say go, and to take the answer
_UMASK = 0o077  # between requests, where nothing is written
_AGENT_VARIABLE = "CNI_PLUGINS_AGENT"  # as packaging/handoff.c has it


class Surroundings(NamedTuple):
    """What all workers of one agent have in common.

    :param lifeline: its end of file says that the agent wants no more work done.
    :param tell: told of every request that was served, after its answer.
    """

    listener: socket.socket
    lifeline: int
    table: Scoreboard
    build: str
    recycle_after: int
    journal: Journal
    tell: Callable[[ServedRequest, Call], None]


def work(around: Surroundings, slot: Slot) -> None:
    """Serve until the agent ends, enough was served, or something is not as it was."""
    worker = _Worker(around, slot)
    slot.begin(os.getpid())
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _not_for_us)
    with select.epoll() as events:
        # One caller wakes one worker.
        events.register(around.listener, select.EPOLLIN | select.EPOLLEXCLUSIVE)
        events.register(around.lifeline, select.EPOLLHUP)
        worker.settle()
        for _ in range(around.recycle_after):
            if not worker.next_call(events):
                return
            if not worker.is_unchanged():
                around.journal.warn(f"worker {os.getpid()}: a request left something behind")
                return


def _not_for_us(_number: int, _frame: object) -> None:
    """Signals to the whole group, a terminal's or a supervisor's, are the parent's to act upon."""


class _Worker:
    def __init__(self, around: Surroundings, slot: Slot) -> None:
        self._around = around
        self._slot = slot
        self._here = protocol.places()
        self._stderr = os.dup(2)
        self._nft = nft_socket()
        self._free = 0
        self._is_sound = True

    def settle(self) -> None:
        """Remember what must be the same after every request."""
        self._free = _lowest_free()

    def is_unchanged(self) -> bool:
        return self._is_sound and _lowest_free() == self._free and protocol.places() == self._here

    def next_call(self, events: select.epoll) -> bool:
        """Wait for a call and answer it; say whether to go on."""
        while True:
            ready = {fd for fd, _ in events.poll()}
            if self._around.lifeline in ready:
                return False
            try:
                connection, _ = self._around.listener.accept()
            except OSError:  # another worker was faster, or the caller has left again
                continue
            break
        with connection, ExitStack() as owned:
            self._slot.busy()
            try:
                self._attend(connection, owned)
            except Unfit as err:
                self._slot.refused(err.reason)
            except OSError:
                self._slot.refused("left")
            finally:
                self._slot.idle()
        return True

    def _attend(self, connection: socket.socket, owned: ExitStack) -> None:
        begun = time.monotonic()
        connection.settimeout(_PATIENCE)
        protocol.require_own_user(connection)
        data, fds = protocol.receive(connection, owned)
        if data.startswith(protocol.STATUS):
            self._show_status(connection)
            return
        call = protocol.parse(data, fds, self._around.build, self._here)
        environment = _for_children(call)
        owned.callback(self._return)
        self._stand_in(call, environment)
        connection.send(protocol.TAKEN)
        os.dup2(protocol.receive_go(connection, owned), 2)
        outcome = self._run(call, environment, Residence(self._nft, _presence(connection)))
        _deliver(connection, outcome)
        self._close_books(call, outcome, time.monotonic() - begun)

    def _stand_in(self, call: Call, environment: dict[str, str]) -> None:
        """Take the caller's place: what a program it starts would have from it."""
        os.environ.clear()
        os.environ.update(environment)
        os.fchdir(call.descriptors.directory)
        os.umask(call.umask)

    def _return(self) -> None:
        os.dup2(self._stderr, 2)
        os.umask(_UMASK)
        os.chdir("/")

    def _run(self, call: Call, environment: dict[str, str], residence: Residence) -> Outcome:
        file = os.fstat(call.descriptors.program)
        return run(call.name, environment, call.read, Program(file.st_dev, file.st_ino, residence))

    def _close_books(self, call: Call, outcome: Outcome, seconds: float) -> None:
        told = record(call, outcome, seconds)
        self._slot.served()
        self._around.journal.note(told.line())
        if outcome.code:
            self._slot.failed(told.line())
        if outcome.trace:
            self._is_sound = False  # a fault of ours; nobody knows what it left half done
            self._around.journal.warn(outcome.trace)
        self._around.tell(told, call)

    def _show_status(self, connection: socket.socket) -> None:
        import json

        page = self._around.table.page(self._around.build, os.getppid())
        text = json.dumps(page).encode()
        protocol.answer(connection, 0, text, b"")


def _for_children(call: Call) -> dict[str, str]:
    """An executable of ours run as IPAM plugin must not wait for a worker: all may be waiting for it."""
    return {**call.environment, _AGENT_VARIABLE: ""}


def _deliver(connection: socket.socket, outcome: Outcome) -> None:
    """Answer. Nobody may be there any more: then the runtime's DEL comes after all that was done."""
    with suppress(OSError):
        protocol.answer(connection, outcome.code, outcome.stdout, outcome.trace.encode(errors="replace"))


def _presence(connection: socket.socket) -> Callable[[], bool]:
    """Return what tells whether the caller still lives; it has nothing more to say."""
    poll = select.poll()
    poll.register(connection, select.POLLIN | select.POLLRDHUP)
    return lambda: not poll.poll(0)


def _lowest_free() -> int:
    fd = os.dup(0)
    os.close(fd)
    return fd
