"""Reads passwords, tokens and keys from files, and keeps them out of what is printed."""

import os
import stat
from collections.abc import Iterable

from cni_plugins.registries.store import Unusable

_LARGEST = 64 << 10
_OTHERS_READ = 0o077
_OTHERS_WRITE = 0o022


class Secret:
    """The text of a file that only root can read; read again when the file has changed.

    Its repr has the path only.
    """

    def __init__(self, key: str, path: str) -> None:
        self._key, self._path = key, path
        self._seen: tuple[int, ...] = ()
        self._text = ""

    def text(self) -> str:
        """Return the secret, without the white space at its ends.

        :raises Unusable: when others may read or write the file, or there is nothing in it.
        """
        fd = _open(self._key, self._path)
        try:
            found = os.fstat(fd)
            version = (found.st_ino, found.st_dev, found.st_mtime_ns, found.st_ctime_ns, found.st_size)
            if version != self._seen:
                _require(self._key, self._path, found, _OTHERS_READ)
                self._text = _decode(self._key, self._path, os.read(fd, _LARGEST))
                self._seen = version
        finally:
            os.close(fd)
        return self._text

    def known(self) -> str:
        """Return what was read last."""
        return self._text

    def __repr__(self) -> str:
        return f"Secret({self._path})"


def require_private(key: str, path: str) -> str:
    """Return the path of a file that only root can read.

    :raises Unusable: for any other.
    """
    return _checked(key, path, _OTHERS_READ)


def require_trusted(key: str, path: str) -> str:
    """Return the path of a file that only root can write.

    :raises Unusable: for any other.
    """
    return _checked(key, path, _OTHERS_WRITE)


def redact(text: str, secrets: Iterable[str]) -> str:
    """Return a text without secrets, in one line."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "…")
    return " ".join(text.split())


def _checked(key: str, path: str, others: int) -> str:
    fd = _open(key, path)
    try:
        _require(key, path, os.fstat(fd), others)
    finally:
        os.close(fd)
    return path


def _open(key: str, path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise Unusable(f"{key} {path}: {error.strerror}") from None


def _require(key: str, path: str, found: os.stat_result, others: int) -> None:
    """:raises Unusable: for a file of another user than root or us, or that others may read or change."""
    if not stat.S_ISREG(found.st_mode):
        raise Unusable(f"{key} {path} is no regular file")
    if found.st_uid not in (0, os.geteuid()):
        raise Unusable(f"{key} {path} belongs to user {found.st_uid}, and must belong to root")
    if found.st_mode & others:
        allowed = "read or write" if others == _OTHERS_READ else "write"
        mode = f"{stat.S_IMODE(found.st_mode):04o}"
        raise Unusable(f"{key} {path} has mode {mode}; only root may {allowed} it")


def _decode(key: str, path: str, found: bytes) -> str:
    try:
        text = found.decode().strip()
    except UnicodeDecodeError:
        raise Unusable(f"{key} {path} is no text") from None
    if not text or not text.isprintable() or not text.isascii():
        raise Unusable(f"{key} {path} must have one line of printable ASCII")
    return text
