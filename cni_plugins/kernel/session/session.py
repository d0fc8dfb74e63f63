"""Holds the kernel resources of one request: both namespaces, sockets opened on first use, and locks."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import NamedTuple, Self, TypeVar, cast

from cni_plugins.errors import InvalidNetns, TryAgainLater
from cni_plugins.kernel.netlink.socket import Socket
from cni_plugins.kernel.session import netns
from cni_plugins.kernel.session.locks import HostLock, NetworkLock, lock_attachment, lock_sandbox
from cni_plugins.ownership import Attachment
from cni_plugins.steps.step import HOST, SANDBOX, Place

_NETLINK_ROUTE, _NETLINK_NETFILTER = 0, 12  # linux/netlink.h
_MOST_THREADS = 64  # per request: GC may find thousands of links
_RTMGRP_LINK = 1  # linux/rtnetlink.h

T = TypeVar("T")


class Residence(NamedTuple):
    """Resources that a process for many requests provides to each of them.

    :param nft: see nft_socket.
    :param is_wanted: whether the caller still waits for the answer. The changes of a caller that was killed
        must be undone here, as no other process does that.
    :param memory: what was read of the host, if attachment after attachment is compared and repaired; see
        `Session.remembered`.
    """

    nft: Socket
    is_wanted: Callable[[], bool]
    memory: dict[object, object] | None = None


def nft_socket() -> Socket:
    """Return a socket for all requests of a process that stays in its namespace.

    Closing a socket after a removal takes 10 ms and blocks other transactions meanwhile: the kernel first
    waits for its own clean-up, under commit_mutex (nft_rcv_nl_event, net/netfilter/nf_tables_api.c).
    """
    return Socket(_NETLINK_NETFILTER)


class Session:
    """Holds the descriptors of one request; as a context manager, it closes all of them at the end.

    :param sandbox: an open namespace, or None if there is none (any more).
    """

    def __init__(self, sandbox: int | None, path: str = "", residence: Residence | None = None) -> None:
        self.host = netns.open_own()
        self.sandbox = sandbox
        self.path = path
        # Indexes of the links found in this request, by place and name; see links.on_index.
        self.indexes: dict[tuple[Place, str], int] = {}
        self._residence = residence
        self._attachment: int | None = None
        self._sandbox_lock: int | None = None
        self._threads = 0
        self._sockets: dict[tuple[int, Place], Socket] = {}
        self._host_lock = HostLock()
        self._network_locks: dict[str, NetworkLock] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        for item in self._sockets.values():
            item.close()
        self._host_lock.close()
        for lock in self._network_locks.values():
            lock.close()
        for fd in (self.host, self.sandbox, self._attachment, self._sandbox_lock):
            if fd is not None:
                os.close(fd)

    def inside(self, where: Place) -> AbstractContextManager[None]:
        """Return a context manager that runs its block in the network namespace of a place."""
        return netns.entered(self._sandbox(), self.host) if where == SANDBOX else nullcontext()

    def fd(self, where: Place) -> int:
        """Return the descriptor of the network namespace of a place."""
        return self._sandbox() if where == SANDBOX else self.host

    def rtnl(self, where: Place) -> Socket:
        """Return the rtnetlink socket of a place."""
        return self._socket(_NETLINK_ROUTE, where)

    def nft(self) -> Socket:
        """Return the nf_tables socket of the host."""
        return self._residence.nft if self._residence else self._socket(_NETLINK_NETFILTER, HOST)

    def remembered(self, key: object, find: Callable[[], T]) -> T:
        """Return what `find` returns, or, while many attachments are compared, what it once returned.

        A table is then read once, and not for each of them. Only comparisons may ask: what changes the kernel
        looks at it as it is.
        """
        memory = self._memory
        if memory is None:
            return find()
        if key not in memory:
            memory[key] = find()
        return cast("T", memory[key])

    def forget(self) -> None:
        """Forget what was remembered, as it has changed."""
        if self._memory is not None:
            self._memory.clear()

    @property
    def is_repair(self) -> bool:
        """Whether attachments are repaired, so that nothing of another attachment may be replaced."""
        return self._memory is not None

    @property
    def _memory(self) -> dict[object, object] | None:
        return self._residence.memory if self._residence else None

    def may_leave_threads(self) -> bool:
        """Say whether one more thread may wait for a slow system call while the request continues.

        A process that exits after this request would have to wait for the thread before it exits.
        """
        self._threads += 1
        return self._residence is not None and self._threads <= _MOST_THREADS

    def new_rtnl(self, where: Place, groups: int = 0) -> Socket:
        """Return a new rtnetlink socket of a place; the caller must close it."""
        with self.inside(where):
            return Socket(_NETLINK_ROUTE, groups)

    def link_listener(self, where: Place) -> Socket:
        """Return a new socket that is notified of every change to a link; the caller must close it."""
        return self.new_rtnl(where, _RTMGRP_LINK)

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
        """:raises TryAgainLater: if the caller no longer waits for the answer."""
        if self._residence and not self._residence.is_wanted():
            raise TryAgainLater("the caller of this request is gone", "its changes have been undone")

    def hold_attachment(self, attachment: Attachment) -> None:
        """Make other requests for the same attachment wait until the session ends."""
        self._attachment = lock_attachment(attachment)

    def hold_sandbox(self) -> None:
        """Make other requests that call this for the same sandbox wait until the session ends.

        :raises TryAgainLater: if another one does not end.
        """
        if self._sandbox_lock is None:
            self._sandbox_lock = lock_sandbox(netns.identity(self._sandbox()))

    def network_lock(self, network: str) -> NetworkLock:
        """Return the lock of what attachments of a network share; it is released when the session ends.

        It is taken before that of the host.
        """
        lock = self._network_locks.get(network)
        if lock is None:
            lock = self._network_locks[network] = NetworkLock(network)
        return lock

    def share_host(self) -> None:
        """Protect shared objects from removal until the session ends; see locks.HostLock."""
        self._host_lock.share()

    def unshare_host(self) -> None:
        """Release that protection before the session ends, as a long wait may follow."""
        self._host_lock.unshare()

    def host_alone(self) -> AbstractContextManager[bool]:
        """Return a context manager that yields whether no other ADD is in progress, and makes others wait."""
        return self._host_lock.exclusive()
