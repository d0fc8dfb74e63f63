"""Opens, identifies, enters and leaves network namespaces."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING

from cni_plugins.errors import InvalidNetns

if TYPE_CHECKING:
    import ctypes

OWN = "/proc/thread-self/ns/net"
_NS_GET_NSTYPE = 0xB703  # linux/nsfs.h
_CLONE_NEWNET = 0x40000000  # linux/sched.h


def open_own() -> int:
    return os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)


def open_sandbox(path: str) -> int:
    """Open the namespace that the runtime names.

    :raises InvalidNetns: if the path does not exist, or is not a network namespace.
    """
    try:
        # O_NONBLOCK: a hostile or broken path may be a FIFO.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as err:
        reason = err.strerror if isinstance(err, OSError) else str(err)
        raise InvalidNetns(f'failed to open netns "{path}": {reason}', f"CNI_NETNS is {path!r}") from err
    kind = None
    with suppress(OSError):
        kind = fcntl.ioctl(fd, _NS_GET_NSTYPE)
    if kind != _CLONE_NEWNET:
        os.close(fd)
        raise InvalidNetns(f'"{path}" is not a network namespace', f"CNI_NETNS is {path!r}")
    return fd


def refuse_own(fd: int, path: str) -> None:
    """:raises InvalidNetns: if the namespace is the plugin's own; the descriptor is closed in that case."""
    if os.path.samestat(os.fstat(fd), os.stat(OWN)):
        os.close(fd)
        raise InvalidNetns(
            "plugin's netns and netns from CNI_NETNS should not be the same", f"CNI_NETNS is {path!r}"
        )


@contextmanager
def entered(fd: int, back: int) -> Iterator[None]:
    """Run a block with the calling thread in another network namespace."""
    _setns(fd)
    try:
        yield
    finally:
        _setns(back)


@contextmanager
def throw_away(back: int) -> Iterator[None]:
    """Run a block in a new, empty network namespace that is destroyed afterwards."""
    _call("unshare", _CLONE_NEWNET)
    try:
        yield
    finally:
        _setns(back)


def _setns(fd: int) -> None:
    _call("setns", fd, _CLONE_NEWNET)


def _call(name: str, *args: int) -> None:
    """Call what Python 3.12 has in `os`, as the frozen program does in any version (packaging/inside.c)."""
    if hasattr(os, name):
        getattr(os, name)(*args)
        return
    import ctypes

    if getattr(_libc(), name)(*args) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)


@cache
def _libc() -> "ctypes.CDLL":
    import ctypes

    return ctypes.CDLL(None, use_errno=True)


def identity(fd: int) -> str:
    status = os.fstat(fd)
    return f"{status.st_dev}:{status.st_ino}"
