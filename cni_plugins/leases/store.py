"""Opens the data directory, as the only module to do so, and gives access only under the network's lock.

    <dataDir>/<network>/10.1.0.2             the lease: contains the owner of the address
    <dataDir>/<network>/last_reserved_ip.0   the address that range set 0 gave last
    <dataDir>/<network>/lock                 flock, shared with the reference
    <dataDir>/.cni-plugins/<network>/        ours: see index.py; no network name begins with a dot

The first three have the reference plugin's format, byte by byte.
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import accumulate

from cni_plugins.errors import IoFailed
from cni_plugins.leases import boot
from cni_plugins.leases.boot import Boot
from cni_plugins.leases.index import NO_DIRECTORY
from cni_plugins.leases.leases import Leases

SIDE = ".cni-plugins"
_LOCK = "lock"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@contextmanager
def opened(data_dir: str, network: str, now: Boot | None = None) -> Iterator[Leases]:
    """Hold the lock of a network, and create its directory if it is missing.

    :param now: the current boot; read from the kernel by default.
    :raises IoFailed: for every OSError, here and in the body.
    """
    with _as_io_failed(f"{data_dir}/{network}"), ExitStack() as closing:
        own, directory = _directories(closing, data_dir, network, create=True, complete=True)
        yield Leases(directory, own, now or boot.current())


@contextmanager
def existing(data_dir: str, network: str, *, complete: bool = False) -> Iterator[Leases | None]:
    """Hold the lock of a network; yield None when it has no directory.

    :param complete: fail when the index cannot be opened, instead of going on without it.
    :raises IoFailed: for every OSError, here and in the body.
    """
    with _as_io_failed(f"{data_dir}/{network}"), ExitStack() as closing:
        try:
            own, directory = _directories(closing, data_dir, network, create=False, complete=complete)
        except FileNotFoundError:
            leases = None
        else:
            leases = Leases(directory, own, boot.current())
        yield leases


def check_can_be_made(data_dir: str) -> None:
    """Check that an ADD could create the data directory, without creating it.

    :raises IoFailed: when the nearest existing directory is not writable.
    """
    nearest = data_dir
    while not os.path.lexists(nearest):
        nearest = os.path.dirname(nearest)
    if not os.path.isdir(nearest) or not os.access(nearest, os.W_OK | os.X_OK):
        raise IoFailed(f"leases in {data_dir}: cannot be created", f"{nearest} is not a writable directory")


def _directories(
    closing: ExitStack, data_dir: str, network: str, *, create: bool, complete: bool
) -> tuple[int, int]:
    """Open the side directory and the network directory, and lock the latter."""
    base = _open_data_dir(data_dir, create=create)
    closing.callback(os.close, base)
    leases = _open_subdirectory(base, network, create=create)
    closing.callback(os.close, leases)
    closing.callback(os.close, _lock(leases))
    try:
        own = _open_side_directory(base, network)
    except OSError:
        # Freeing an address needs no disk space, so a full disk must not prevent it.
        if complete:
            raise
        return NO_DIRECTORY, leases
    closing.callback(os.close, own)
    return own, leases


def _open_side_directory(base: int, network: str) -> int:
    side = _open_subdirectory(base, SIDE, create=True)
    try:
        return _open_subdirectory(side, network, create=True)
    finally:
        os.close(side)


def _open_data_dir(data_dir: str, *, create: bool) -> int:
    try:
        return os.open(data_dir, _DIRECTORY)
    except FileNotFoundError:
        if not create:
            raise
        _make_directories(data_dir)
        return os.open(data_dir, _DIRECTORY)


def _make_directories(path: str) -> None:
    # os.makedirs() would leave the mode of the parents to the umask, which some runtimes set to 0.
    for part in accumulate(path.split("/"), "{}/{}".format):
        if part and not os.path.isdir(part):
            with suppress(FileExistsError):
                os.mkdir(part, 0o755)


def _open_subdirectory(parent: int, name: str, *, create: bool) -> int:
    try:
        return os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    except FileNotFoundError:
        if not create:
            raise
        with suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=parent)
        return os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)


def _lock(directory: int) -> int:
    flags = os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(_LOCK, flags, 0o750, dir_fd=directory)
    except OSError as err:
        if err.errno != errno.EROFS:
            raise
        # On a read-only file system no process can change anything: any lock is good enough for reading.
        fd = os.open(".", _DIRECTORY, dir_fd=directory)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
    except OSError as err:
        os.close(fd)
        raise OSError(err.errno, err.strerror, _LOCK) from err
    return fd


@contextmanager
def _as_io_failed(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        at = path if err.filename is None else f"{path}, {os.fsdecode(err.filename)}"
        raise IoFailed(
            f"leases in {path}: {err.strerror}", f"{at}: {err.strerror} (errno {err.errno})"
        ) from err
