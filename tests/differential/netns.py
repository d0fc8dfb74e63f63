"""Network namespaces for the tests: made, entered by the calling thread, and removed whatever happens."""

import contextlib
import ctypes
import itertools
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

PREFIX = "cnid"
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count()


def run(*words: str) -> str:
    """Run a tool where the calling thread stands.

    :raises RuntimeError: when it fails, with what it said.
    """
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def fresh_name(role: str) -> str:
    """A netns name nobody else uses: prefix, process, number, role."""
    return f"{PREFIX}-{os.getpid():x}-{next(_numbers)}-{role}"


def path_of(name: str) -> str:
    """Where `ip netns` keeps the namespace."""
    return f"/run/netns/{name}"


def add(name: str) -> str:
    """Make a netns with its loopback down, as a runtime would."""
    run("ip", "netns", "add", name)
    return name


def remove(name: str) -> None:
    """Remove a netns; one that is gone already is no error."""
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@contextlib.contextmanager
def entered(name: str) -> Iterator[None]:
    """Let the calling thread, and the children it starts, stand in the netns."""
    with Path("/proc/thread-self/ns/net").open("rb") as home, Path(path_of(name)).open("rb") as target:
        _setns(target.fileno())
        try:
            yield
        finally:
            _setns(home.fileno())


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"setns: {os.strerror(error)}")
