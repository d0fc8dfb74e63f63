"""Opens the data directory. No other file does, and none of it is given out without the network's lock.

    <dataDir>/<network>/10.1.0.2             the lease: who holds the address
    <dataDir>/<network>/last_reserved_ip.0   where range set 0 goes on
    <dataDir>/<network>/lock                 flock, shared with the reference
    <dataDir>/.cni-plugins/<network>/        ours: see index.py; no network name begins with a dot

The first three are the reference's format, byte by byte.
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import accumulate

from cni_plugins.errors import IoFailed
from cni_plugins.ipam_hostlocal import boot
from cni_plugins.ipam_hostlocal.boot import Boot
from cni_plugins.ipam_hostlocal.index import NOWHERE
from cni_plugins.ipam_hostlocal.leases import Leases

SIDE = ".cni-plugins"
_LOCK = "lock"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@contextmanager
def opened(data_dir: str, network: str, now: Boot | None = None) -> Iterator[Leases]:
    """Hold the lock of a network, whose directory is made if need be.

    :param now: the boot this is; asked of the kernel when not given.
    :raises IoFailed: when the disk refuses anything, here and in the body.
    """
    with _disk_trouble(f"{data_dir}/{network}"), ExitStack() as closing:
        own, directory = _directories(closing, data_dir, network, create=True, complete=True)
        yield Leases(directory, own, now or boot.current())


@contextmanager
def existing(data_dir: str, network: str, *, complete: bool = False) -> Iterator[Leases | None]:
    """Hold the lock of a network, or give None when it has no directory.

    :param complete: refuse a disk that has no room for the index, instead of going on without it.
    :raises IoFailed: when the disk refuses anything, here and in the body.
    """
    with _disk_trouble(f"{data_dir}/{network}"), ExitStack() as closing:
        try:
            own, directory = _directories(closing, data_dir, network, create=False, complete=complete)
        except FileNotFoundError:
            leases = None
        else:
            leases = Leases(directory, own, boot.current())
        yield leases


def check_can_be_made(data_dir: str) -> None:
    """Say whether an ADD could make the data directory, without making anything.

    :raises IoFailed: when the nearest directory that exists cannot be written.
    """
    nearest = data_dir
    while not os.path.lexists(nearest):
        nearest = os.path.dirname(nearest)
    if not os.path.isdir(nearest) or not os.access(nearest, os.W_OK | os.X_OK):
        raise IoFailed(
            f"leases in {data_dir}: cannot be made", f"{nearest} is not a directory that can be written"
        )


def _directories(
    closing: ExitStack, data_dir: str, network: str, *, create: bool, complete: bool
) -> tuple[int, int]:
    """Open the side directory and the network's own, whose lock is then held."""
    base = _base(data_dir, create=create)
    closing.callback(os.close, base)
    leases = _below(base, network, create=create)
    closing.callback(os.close, leases)
    closing.callback(os.close, _locked(leases))
    try:
        own = _beside(base, network)
    except OSError:
        # Freeing an address takes no room, so it must not ask for any.
        if complete:
            raise
        return NOWHERE, leases
    closing.callback(os.close, own)
    return own, leases


def _beside(base: int, network: str) -> int:
    side = _below(base, SIDE, create=True)
    try:
        return _below(side, network, create=True)
    finally:
        os.close(side)


def _base(data_dir: str, *, create: bool) -> int:
    try:
        return os.open(data_dir, _DIRECTORY)
    except FileNotFoundError:
        if not create:
            raise
        _make(data_dir)
        return os.open(data_dir, _DIRECTORY)


def _make(path: str) -> None:
    # os.makedirs would leave the rights of the parents to the umask, which some runtimes set to 0.
    for part in accumulate(path.split("/"), "{}/{}".format):
        if part and not os.path.isdir(part):
            with suppress(FileExistsError):
                os.mkdir(part, 0o755)


def _below(parent: int, name: str, *, create: bool) -> int:
    try:
        return os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    except FileNotFoundError:
        if not create:
            raise
        with suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=parent)
        return os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)


def _locked(directory: int) -> int:
    flags = os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(_LOCK, flags, 0o750, dir_fd=directory)
    except OSError as err:
        if err.errno != errno.EROFS:
            raise
        # Nobody can change anything here: whatever is locked will do for reading.
        fd = os.open(".", _DIRECTORY, dir_fd=directory)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
    except OSError as err:
        os.close(fd)
        raise OSError(err.errno, err.strerror, _LOCK) from err
    return fd


@contextmanager
def _disk_trouble(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        at = path if err.filename is None else f"{path}, {os.fsdecode(err.filename)}"
        raise IoFailed(
            f"leases in {path}: {err.strerror}", f"{at}: {err.strerror} (errno {err.errno})"
        ) from err
