"""Reads, writes and removes files in the directory of backups, which nobody else may write to.

A file is replaced by rename, so it is complete at any time, also for the reference. It is not forced to disk:
after a power failure there is no sandbox left whose settings it could give back.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from cni_plugins.errors import IoFailed, TryAgainLater

_SAFE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_LIMIT = 1 << 21  # bytes
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_ROOT = 0
SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN)


def fault_of(path: str) -> str:
    """Return why a directory cannot take backups, empty if it can; it may not exist yet."""
    try:
        fd = os.open(path, _DIRECTORY)
    except FileNotFoundError:
        parent = os.path.dirname(path.rstrip("/"))
        return fault_of_parent(parent or "/")
    except OSError as err:
        return f"{path}: {err.strerror}"
    try:
        return _distrust(fd, path) or ("" if os.access(path, os.W_OK) else f"{path} cannot be written to")
    finally:
        os.close(fd)


def fault_of_parent(path: str) -> str:
    """Return why a directory cannot be created below the nearest parent that exists, empty if it can."""
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    is_usable = os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK)
    return "" if is_usable else f"no directory can be created in {path}"


@contextmanager
def created(path: str) -> Iterator[int]:
    """Open the directory, and create it if it does not exist.

    :raises IoFailed: if that is not possible, or others can write there, or the block cannot.
    :raises TryAgainLater: if the host is short of resources.
    """
    try:
        fd = _open_or_create(path)
        try:
            fault = _distrust(fd, path)
            if fault:
                raise IoFailed(f"dataDir is not safe: {fault}", f"dataDir is {path}")
            yield fd
        finally:
            os.close(fd)
    except OSError as err:
        kind = TryAgainLater if err.errno in SHORTAGES else IoFailed
        raise kind(f"dataDir cannot be used: {err.strerror}", f"dataDir is {path}") from err


def _open_or_create(path: str) -> int:
    try:
        return os.open(path, _DIRECTORY)
    except FileNotFoundError:
        _make(os.path.dirname(path.rstrip("/")))
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)
        return os.open(path, _DIRECTORY)


def _make(path: str) -> None:
    """Create a directory and those above it; a runtime's umask must not make them writable for others."""
    if not path or os.path.isdir(path):
        return
    _make(os.path.dirname(path))
    with suppress(FileExistsError):
        os.mkdir(path, 0o755)


@contextmanager
def existing(path: str) -> Iterator[int | None]:
    """Open the directory if it can be one that ADD has used.

    :raises OSError: if the host is short of resources.
    """
    try:
        fd = os.open(path, _DIRECTORY)
    except OSError as err:
        if err.errno in SHORTAGES:
            raise
        yield None
        return
    try:
        yield fd
    finally:
        os.close(fd)


def _distrust(fd: int, name: str) -> str:
    """Return why an open file or directory is not trusted, empty if it is."""
    found = os.fstat(fd)
    if found.st_uid not in (_ROOT, os.geteuid()):
        return f"{name} belongs to user {found.st_uid}"
    if found.st_mode & _OTHERS_WRITE:
        return f"{name} can be written to by others"
    return ""


def read(directory: int, name: str) -> bytes | None:
    """Return the content of a file, None if it is absent; empty if it is no backup whatever it contains.

    :raises OSError: if the host is short of resources.
    """
    try:
        fd = os.open(name, os.O_RDONLY | _SAFE, dir_fd=directory)
    except FileNotFoundError:
        return None
    except OSError as err:
        if err.errno in SHORTAGES:
            raise
        return b""  # a symbolic link, a socket
    try:
        found = os.fstat(fd)
        is_file = stat.S_ISREG(found.st_mode) and found.st_size <= _LIMIT
        if not is_file or _distrust(fd, name) or _distrust(directory, ""):
            return b""
        return os.read(fd, found.st_size)
    finally:
        os.close(fd)


def write(directory: int, name: str, unfinished: str, content: str) -> None:
    """Replace a file, or on failure leave it as it is.

    :param unfinished: the name of the new file until it is complete.
    """
    discard(directory, unfinished)
    fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFE, 0o600, dir_fd=directory)
    try:
        _write_all(fd, content.encode(errors="surrogateescape"))
        os.rename(unfinished, name, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:
        discard(directory, unfinished)
        raise
    finally:
        os.close(fd)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def discard(directory: int, name: str) -> None:
    """Remove a file of any kind; it may be absent. A directory with files in it stays."""
    with suppress(FileNotFoundError):
        try:
            os.unlink(name, dir_fd=directory)
        except (IsADirectoryError, PermissionError):
            with suppress(OSError):
                os.rmdir(name, dir_fd=directory)
                return
            if not stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                raise
