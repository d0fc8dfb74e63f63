"""
Network namespaces for all tiers: create, name, enter, run a command inside, remove.

A `Namespace` is held by a descriptor of this process and reached under /proc, so the kernel removes it when
the process ends, however it ends. It needs no root but that of a user namespace (`unshare -rmn`). `add` and
`remove` work on names below /run/netns, for runtimes and tools that want one.
"""

from __future__ import annotations

import ctypes
import fcntl
import itertools
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Self

_CLONE_NEWNET = 0x40000000
_HERE = "/proc/thread-self/ns/net"
_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
_libc = ctypes.CDLL(None, use_errno=True)
# A descriptor's number is not used again soon: the path of a closed namespace must not lead to another file.
_descriptors = itertools.cycle(range(500, 1000))


def run(*words: str, input: str | None = None) -> str:  # noqa: A002  as subprocess calls it
    """Run a tool in the namespace of the calling thread.

    :raises RuntimeError: when it fails, with what it printed
    """
    done = subprocess.run(words, input=input, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


@contextmanager
def entered(path: str | Path) -> Iterator[None]:
    """Move the calling thread, and what it starts, into a namespace for a block; its sockets stay there."""
    with Path(_HERE).open("rb") as back, Path(path).open("rb") as there:
        _set(there.fileno())
        try:
            yield
        finally:
            _set(back.fileno())


class Namespace:
    """A new network namespace without a name, its loopback down, as a runtime makes it."""

    def __init__(self) -> None:
        with Path(_HERE).open("rb") as back:
            if _libc.unshare(_CLONE_NEWNET) != 0:
                raise _error("unshare")
            try:
                with Path(_HERE).open("rb") as made:
                    number = next(_descriptors)
                    self._descriptor = fcntl.fcntl(made, fcntl.F_DUPFD_CLOEXEC, number)
                # Linux copies it from the machine's first namespace, so tests would differ between machines.
                _FORWARDING.write_text("0")
            finally:
                _set(back.fileno())
        self.path = f"/proc/{os.getpid()}/fd/{self._descriptor}"
        """Where every process that may look at this one finds it."""

    def entered(self) -> AbstractContextManager[None]:
        """Move the calling thread inside for a block."""
        return entered(self.path)

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command inside and return what it printed."""
        with self.entered():
            done = subprocess.run(command, capture_output=True, text=True)
        assert not check or done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def succeeds(self, *command: str) -> bool:
        """Run a command inside and say whether it succeeded."""
        with self.entered():
            return subprocess.run(command, capture_output=True).returncode == 0

    def close(self) -> None:
        """Let go of it; the kernel removes it once nobody else holds it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def add(names: Iterable[str], run: Callable[..., Any] = run) -> list[str]:
    """Create namespaces for `ip netns` with one start of it; return their paths.

    :param run: runs a command where the names are to be known; on this machine if not given
    """
    names = list(names)
    run("ip", "-batch", "-", input="".join(f"netns add {name}\n" for name in names))
    return [f"/run/netns/{name}" for name in names]


def remove(names: Iterable[str], run: Callable[..., Any] = run) -> None:
    """Remove namespaces that `add` created."""
    run("ip", "-batch", "-", input="".join(f"netns del {name}\n" for name in names))


def _set(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        raise _error("setns")


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")
