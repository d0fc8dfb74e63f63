"""One request's hold on the kernel: the host's and the sandbox's namespaces, sockets opened on first use."""

import fcntl
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from types import TracebackType
from typing import NamedTuple, Self

from cni_plugins.errors import InvalidNetns, TryAgainLater
from cni_plugins.kernel import netns
from cni_plugins.kernel.wire import Socket
from cni_plugins.spec.attachment import Attachment, digest
from cni_plugins.steps.places import HOST, SANDBOX, Place

_NETLINK_ROUTE, _NETLINK_NETFILTER = 0, 12  # linux/netlink.h
_LOCKED = "/proc/sys/net/ipv4/tcp_fastopen_key"
_LOCK_PATIENCE = 2.0  # seconds
_LOCK_PAUSE = 0.005
_ATTACHMENT_PATIENCE = 5.0  # seconds
_MOST_THREADS = 64  # of one request: GC may find thousands of links
_RTMGRP_LINK = 1  # linux/rtnetlink.h


class Residence(NamedTuple):
    """What a process that answers many requests has for each of them.

    :param nft: see nft_socket.
    :param is_wanted: whether there is still somebody to be answered. A caller that is killed kills what it
        had begun, unless somebody else does it for him.
    """

    nft: Socket
    is_wanted: Callable[[], bool]


def nft_socket() -> Socket:
    """Return a socket for all requests of a process that stays in its namespace.

    To close one after a removal takes 10 ms, and holds up the transactions of others meanwhile: the kernel
    waits for its own tidying first, under commit_mutex (nft_rcv_nl_event, net/netfilter/nf_tables_api.c).
    """
    return Socket(_NETLINK_NETFILTER)


class Session:
    """Holds descriptors for one request; a context manager, so none outlives it.

    :param sandbox: an open namespace, or None where there is none (any more).
    """

    def __init__(self, sandbox: int | None, path: str = "", residence: Residence | None = None) -> None:
        self.host = netns.open_own()
        self.sandbox = sandbox
        self.path = path
        # Of links seen in this request, by place and name; see links.with_index.
        self.indexes: dict[tuple[Place, str], int] = {}
        self._residence = residence
        self._attachment: int | None = None
        self._threads = 0
        self._sockets: dict[tuple[int, Place], Socket] = {}
        self._lock: int | None = None
        self._alone = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        for item in self._sockets.values():
            item.close()
        for fd in (self.host, self.sandbox, self._lock, self._attachment):
            if fd is not None:
                os.close(fd)

    def inside(self, where: Place) -> AbstractContextManager[None]:
        """Return a block that runs in the place's network namespace."""
        return netns.entered(self._sandbox(), self.host) if where == SANDBOX else nullcontext()

    def fd(self, where: Place) -> int:
        return self._sandbox() if where == SANDBOX else self.host

    def rtnl(self, where: Place) -> Socket:
        return self._socket(_NETLINK_ROUTE, where)

    def nft(self) -> Socket:
        return self._residence.nft if self._residence else self._socket(_NETLINK_NETFILTER, HOST)

    def may_leave_threads(self) -> bool:
        """Say whether one more thread may sit out what the kernel takes its time for.

        A process that ends after this request would wait for it in the end.
        """
        self._threads += 1
        return self._residence is not None and self._threads <= _MOST_THREADS

    def link_listener(self, where: Place) -> Socket:
        """Return a new socket that is told of every change to a link; the caller closes it."""
        with self.inside(where):
            return Socket(_NETLINK_ROUTE, _RTMGRP_LINK)

    def _socket(self, protocol: int, where: Place) -> Socket:
        found = self._sockets.get((protocol, where))
        if found is None:
            with self.inside(where):
                found = self._sockets[protocol, where] = Socket(protocol)
        return found

    def _sandbox(self) -> int:
        if self.sandbox is None:
            raise InvalidNetns(
                "this needs a network namespace, and there is none", f"CNI_NETNS is {self.path!r}"
            )
        return self.sandbox

    def require_caller(self) -> None:
        """:raises TryAgainLater: when nobody waits for the answer any more."""
        if self._residence and not self._residence.is_wanted():
            raise TryAgainLater("the caller of this request is gone", "whatever it had done is taken back")

    def hold_attachment(self, attachment: Attachment) -> None:
        """Keep other requests about the same attachment waiting until the session ends.

        A runtime that kills its plugin in the middle of ADD sends DEL at once; an ADD that goes on regardless
        in a process that stays must not come after that. Waited for in vain, the request goes on without.
        """
        offset = int(digest("\0".join(attachment), 15), 16)
        lock = struct.pack("hhlli", fcntl.F_WRLCK, os.SEEK_SET, offset, 1, 0)  # struct flock, fcntl(2)
        try:
            self._attachment = os.open(_LOCKED, os.O_RDWR | os.O_CLOEXEC)
            take = partial(fcntl.fcntl, self._attachment, fcntl.F_OFD_SETLK, lock)
            _try_until(take, _ATTACHMENT_PATIENCE)
        except OSError:  # a kernel without IPv4, or a root who may not write there
            return

    def share_host(self) -> None:
        """Hold the host against removal of shared objects, such as idle bridges, until the session ends.

        Sharers do not wait for each other.
        """
        if self._lock is None:
            self._lock = _open_lock()
        _take_lock(self._lock, fcntl.LOCK_SH)

    def unshare_host(self) -> None:
        """Let go of the host before the session ends, as there may be something to wait for."""
        if self._lock is not None:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    @contextmanager
    def host_alone(self) -> Iterator[bool]:
        """Yield whether nobody else is in the middle of an ADD, and keep others out until the block ends."""
        if self._alone:  # within such a block, whose end is the end of it
            yield True
            return
        held = self._lock
        fd = _open_lock() if held is None else held
        try:
            self._alone = _take_lock(fd, fcntl.LOCK_EX)
            yield self._alone
        finally:
            self._alone = False
            if held is None:
                os.close(fd)
            else:
                fcntl.flock(fd, fcntl.LOCK_UN)


def _open_lock() -> int:
    """Open what the host's lock is held on: a setting of every network namespace that only root may open.

    So there is no file to make or leave behind, and no unprivileged process can stand in the way.
    """
    try:
        return os.open(_LOCKED, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # a kernel without IPv4
        return netns.open_own()


def _take_lock(fd: int, kind: int) -> bool:
    """Take a lock within the patience there is; say whether it was had."""
    return _try_until(partial(fcntl.flock, fd, kind | fcntl.LOCK_NB), _LOCK_PATIENCE)


def _try_until(take: Callable[[], object], patience: float) -> bool:
    deadline = time.monotonic() + patience
    while True:
        try:
            take()
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(_LOCK_PAUSE)
        else:
            return True
