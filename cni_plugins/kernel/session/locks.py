"""Provides locks between processes, on a sysctl file of the network namespace that only root may open.

Thus no file has to be created or removed, and no unprivileged process can hold the locks.
"""

import fcntl
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

from cni_plugins.errors import TryAgainLater
from cni_plugins.kernel.session import netns
from cni_plugins.ownership import Attachment, digest

_LOCKED = "/proc/sys/net/ipv4/tcp_fastopen_key"
_HOST_TIMEOUT = 2.0  # seconds
_ATTACHMENT_TIMEOUT = 5.0  # seconds
_SANDBOX_TIMEOUT = 5.0  # seconds
_NETWORK_TIMEOUT = 30.0  # seconds; ten thousand peers are entered in a fraction of it
_PAUSE = 0.005


def lock_attachment(attachment: Attachment) -> int | None:
    """Make other requests for the same attachment wait until the returned descriptor is closed.

    A runtime that kills its plugin in the middle of ADD sends DEL at once; an ADD that continues in an agent
    must not finish after that DEL. After a timeout the request continues without the lock.
    """
    return lock_name(_name_of(attachment))


def lock_name(name: str, timeout: float = _ATTACHMENT_TIMEOUT) -> int | None:
    """Make others that lock this name wait, for some seconds, until the returned descriptor is closed."""
    fd, _ = _lock_octet(name, timeout)
    return fd


def lock_sandbox(identity: str) -> int | None:
    """Make other requests that lock the same sandbox wait until the returned descriptor is closed.

    The lock is on a file of the host, and not on the sandbox's own, which the container could hold.

    :param identity: of its network namespace.
    :raises TryAgainLater: if another request holds the lock too long.
    """
    fd, is_held = _lock_octet(f"sandbox\0{identity}", _SANDBOX_TIMEOUT)
    if fd is not None and not is_held:
        os.close(fd)
        raise TryAgainLater(
            "another request is changing the routing tables of this sandbox",
            f"it has not ended within {_SANDBOX_TIMEOUT:.0f} s",
        )
    return fd


def _lock_octet(name: str, timeout: float) -> tuple[int | None, bool]:
    """Try to lock one octet of the file, whose offset is computed from a name.

    :returns: a descriptor, None where there are no such locks; and whether the lock was acquired.
    """
    fd = _open_for_octets()
    if fd is None:
        return None, False
    try:
        return fd, _try_until(partial(_set_octet, fd, fcntl.F_WRLCK, name), timeout)
    except OSError:  # a kernel without open file description locks
        os.close(fd)
        return None, False


@contextmanager
def locked(name: str, timeout: float = _ATTACHMENT_TIMEOUT) -> Iterator[None]:
    """Hold the lock of a name during the block; after the timeout it begins without."""
    fd = lock_name(name, timeout)
    try:
        yield
    finally:
        if fd is not None:
            os.close(fd)


class AttachmentLocks:
    """The locks of many attachments at once, on one descriptor."""

    def __init__(self) -> None:
        self._fd = _open_for_octets()

    def take(self, attachment: Attachment, timeout: float) -> bool:
        """Say whether no request for the attachment is under way, and make others wait until `release`."""
        if self._fd is None:
            return True
        try:
            return _try_until(partial(_set_octet, self._fd, fcntl.F_WRLCK, _name_of(attachment)), timeout)
        except OSError:  # a kernel without open file description locks
            return True

    def release(self, attachment: Attachment) -> None:
        if self._fd is not None:
            with suppress(OSError):
                _set_octet(self._fd, fcntl.F_UNLCK, _name_of(attachment))

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class NetworkLock:
    """The lock of what all attachments of a network on this host share.

    Requests that change nothing of it share the lock; one that does has it alone. Who waits to have it alone
    keeps others from joining those who share it (the gate), so that it does not wait for ever.
    """

    def __init__(self, network: str) -> None:
        self._fd = _open_for_octets() if network else None
        self._network = network
        self._name, self._gate = f"network\0{network}", f"gate\0{network}"

    def share(self) -> None:
        """:raises TryAgainLater: if another request changes the network for too long."""
        self._pass(fcntl.F_RDLCK)

    def take(self) -> None:
        """Have the lock alone; it is released first, so what was seen under it may have changed.

        :raises TryAgainLater: if other requests do not end.
        """
        self.release()
        self._pass(fcntl.F_WRLCK)

    def ease(self) -> None:
        """Let others share the lock that was held alone."""
        if self._fd is not None:
            _set_octet(self._fd, fcntl.F_RDLCK, self._name)

    def release(self) -> None:
        if self._fd is not None:
            for name in (self._name, self._gate):
                _set_octet(self._fd, fcntl.F_UNLCK, name)

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _pass(self, kind: int) -> None:
        if self._fd is None:
            return
        deadline = time.monotonic() + _NETWORK_TIMEOUT
        for name in (self._gate, self._name):
            left = max(deadline - time.monotonic(), 0.0)
            try:
                is_held = _try_until(partial(_set_octet, self._fd, kind, name), left)
            except OSError:  # a kernel without open file description locks
                self.close()
                return
            if not is_held:
                self.release()
                raise TryAgainLater(
                    f"another request is changing network {self._network} on this host",
                    f"it has not ended within {_NETWORK_TIMEOUT:.0f} s",
                )
        _set_octet(self._fd, fcntl.F_UNLCK, self._gate)


NO_LOCK = NetworkLock("")  # for requests whose plan is about no network as a whole


def _name_of(attachment: Attachment) -> str:
    return "\0".join(attachment)


def _open_for_octets() -> int | None:
    try:
        return os.open(_LOCKED, os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # a kernel without IPv4, or root without permission to write there
        return None


def _set_octet(fd: int, kind: int, name: str) -> None:
    """:raises BlockingIOError: if another holds it."""
    offset = int(digest(name, 15), 16)
    lock = struct.pack("hhlli", kind, os.SEEK_SET, offset, 1, 0)  # struct flock, fcntl(2)
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, lock)


class HostLock:
    """Protects shared objects of the host, such as idle bridges, from removal while an ADD is using them."""

    def __init__(self) -> None:
        self._fd: int | None = None
        self._is_exclusive = False

    def share(self) -> None:
        """Acquire the lock in shared mode; it is held until it is released."""
        if self._fd is None:
            self._fd = _open()
        _take(self._fd, fcntl.LOCK_SH)

    def unshare(self) -> None:
        """Release the shared lock early, before a long wait."""
        if self._fd is not None:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    @contextmanager
    def exclusive(self) -> Iterator[bool]:
        """Yield whether the lock was acquired: no other ADD is in progress, and none can start meanwhile."""
        if self._is_exclusive:  # the enclosing block releases it
            yield True
            return
        held = self._fd
        fd = _open() if held is None else held
        try:
            self._is_exclusive = _take(fd, fcntl.LOCK_EX)
            yield self._is_exclusive
        finally:
            self._is_exclusive = False
            if held is None:
                os.close(fd)
            else:
                fcntl.flock(fd, fcntl.LOCK_UN)

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _open() -> int:
    try:
        return os.open(_LOCKED, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # a kernel without IPv4
        return netns.open_own()


def _take(fd: int, kind: int) -> bool:
    """Try to take a lock before the timeout; say whether that succeeded."""
    return _try_until(partial(fcntl.flock, fd, kind | fcntl.LOCK_NB), _HOST_TIMEOUT)


def _try_until(take: Callable[[], object], timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while True:
        try:
            take()
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(_PAUSE)
        else:
            return True
