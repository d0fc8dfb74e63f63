"""Reads and writes single lease files: named by the address, containing container id, CR LF and ifname.

The format is that of the reference plugin. No function follows a symbolic link, waits for the writer of a
fifo, or reads more than the maximum length of a lease; any other file is at worst reported as not a lease.
"""

import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

SEPARATOR = "\r\n"
_LIMIT = 4096  # bytes
_SAFE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITTEN = frozenset("0123456789abcdef.:")
_DOTS = 3
_PARTS = 2
EMPTY = "is empty"
_NO_FILE = "is not a regular file"
_NEVER = 1 << 63  # a modification time later than any boot


class LeaseFile(NamedTuple):
    """A file that reserves an address; without an owner it is not a lease, and `fault` says why.

    If it is `unread` it may be a lease of any owner: it could not be opened or read.
    """

    name: str
    owner: str
    mtime: int = _NEVER
    fault: str = ""
    unread: bool = False


def owner_of(container_id: str, ifname: str = "") -> str:
    """Return the content of a lease file; releases before 0.7 wrote the container id alone."""
    return f"{container_id}{SEPARATOR}{ifname}" if ifname else container_id


def is_address(name: str) -> bool:
    """Distinguish names of leases from `lock`, `last_reserved_ip.0` and other files in the directory."""
    return _WRITTEN.issuperset(name) and (":" in name or name.count(".") == _DOTS)


def read(name: str, directory: int) -> LeaseFile | None:
    """Return the file of an address, None when the address is free.

    :raises OSError: when the file may be a lease, and cannot be read.
    """
    try:
        fd = os.open(name, os.O_RDONLY | _SAFE, dir_fd=directory)
    except FileNotFoundError:
        return None
    except OSError:
        if _is_file(name, directory):
            raise
        return LeaseFile(name, "", fault=_NO_FILE)
    try:
        return _look(name, fd)
    finally:
        os.close(fd)


def read_all(directory: int) -> Iterator[LeaseFile]:
    for name in os.listdir(directory):
        found = _read_if_possible(name, directory) if is_address(name) else None
        if found is not None:
            yield found


def _read_if_possible(name: str, directory: int) -> LeaseFile | None:
    try:
        return read(name, directory)
    except OSError as err:
        return LeaseFile(name, "", fault=f"cannot be read ({err.strerror})", unread=True)


def _is_file(name: str, directory: int) -> bool:
    # A link, a socket or a device can never be opened in this way, and is not a lease.
    return stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)


def read_text(name: str, directory: int) -> str:
    """Return the text of a small file, empty when the file is missing or is not text."""
    try:
        fd = os.open(name, os.O_RDONLY | _SAFE, dir_fd=directory)
    except OSError:
        return ""
    try:
        return _text(os.read(fd, _LIMIT)) if stat.S_ISREG(os.fstat(fd).st_mode) else ""
    finally:
        os.close(fd)


def write_new(name: str, text: str, directory: int) -> int:
    """Create a file that must not exist, or on failure leave none; return its modification time."""
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFE, 0o600, dir_fd=directory)
    try:
        os.write(fd, text.encode())
        return os.fstat(fd).st_mtime_ns
    except OSError:
        os.unlink(name, dir_fd=directory)
        raise
    finally:
        os.close(fd)


def overwrite(name: str, text: str, directory: int) -> None:
    """Replace the text of a small file in its present block, which works even on a full disk."""
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | _SAFE, 0o600, dir_fd=directory)
    try:
        os.truncate(fd, os.pwrite(fd, text.encode(), 0))
    finally:
        os.close(fd)


def discard(name: str, directory: int) -> None:
    """Remove any kind of file at an address, except a directory that is not empty."""
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        pass
    except IsADirectoryError:
        os.rmdir(name, dir_fd=directory)


def _look(name: str, fd: int) -> LeaseFile:
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        return LeaseFile(name, "", fault=_NO_FILE)
    data = os.read(fd, _LIMIT + 1)
    if not data:
        return LeaseFile(name, "", found.st_mtime_ns, EMPTY)
    owner = _text(data) if len(data) <= _LIMIT else ""
    parts = owner.split(SEPARATOR)
    if len(parts) > _PARTS or not all(part and part.isprintable() for part in parts):
        return LeaseFile(name, "", found.st_mtime_ns, "does not name a container")
    return LeaseFile(name, owner, found.st_mtime_ns)


def _text(data: bytes) -> str:
    try:
        return data.decode().strip()
    except UnicodeDecodeError:
        return ""
