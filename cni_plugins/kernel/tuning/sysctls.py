"""Writes and compares settings of a sandbox under /proc/sys/net that a config names."""

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv6Address

from cni_plugins.kernel.deed import deed
from cni_plugins.kernel.session.session import Session
from cni_plugins.steps.step import SANDBOX, UNCHANGED
from cni_plugins.steps.tuning import Key, WriteSysctl, sysctl_name

# A list of ports can be longer than a page: it is read at once, as far as the buffer reaches, and written in
# pages; anything else is taken at once (proc_do_large_bitmap, kernel/sysctl.c).
_PAGE, _LONGEST = 4096, 1 << 20  # bytes
_MAY_GO_ON = _PAGE // 2
# Settings that trigger something are write-only, also for root; a secret that was never set cannot be read.
_UNREADABLE = (errno.EACCES, errno.EPERM, errno.EIO)
_PORTS = frozenset("0123456789,-")


def write(session: Session, step: WriteSysctl) -> str:
    """Write the value; return the old one. A refused value may have been taken in part, which is undone."""
    with session.inside(SANDBOX):
        before = read(step.key)
        try:
            put(step.key, step.value)
        except OSError:
            if before is not None:
                with suppress(OSError):
                    put(step.key, before)
            raise
    return UNCHANGED if before is None else before


def _differs(session: Session, step: WriteSysctl) -> str:
    name = sysctl_name(step.key)
    with session.inside(SANDBOX):
        try:
            found = read(step.key)
        except FileNotFoundError:
            return f"sysctl {name} does not exist in the sandbox"
    if found is None or is_same(found, step.value):
        return ""
    return f"sysctl {name} is {' '.join(found.split())!r}, not {step.value!r}"


def read(key: Key) -> str | None:
    """Return the value of a setting in the current namespace, None if it cannot be read.

    :raises OSError: if there is no such setting.
    """
    try:
        fd = os.open(_path(key), os.O_RDONLY | os.O_CLOEXEC)
        try:
            value = os.read(fd, _PAGE)
            if len(value) > _MAY_GO_ON:
                os.lseek(fd, 0, os.SEEK_SET)
                value = os.read(fd, _LONGEST)
        finally:
            os.close(fd)
    except OSError as err:
        if err.errno in _UNREADABLE:
            return None
        raise
    return value.decode(errors="surrogateescape").rstrip("\n")


def put(key: Key, value: str) -> None:
    """Write a setting in the current namespace.

    :raises OSError: if there is no such setting, or the kernel does not take the whole value.
    """
    data = f"{value}\n".encode(errors="surrogateescape")  # an empty value would write nothing
    fd = os.open(_path(key), os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    try:
        while data:
            taken = os.write(fd, data)
            data = data[taken:].lstrip()
            if data and taken < _MAY_GO_ON:  # of "1 2" for a single number, the kernel takes the 1
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), _path(key))
    finally:
        os.close(fd)


def _path(key: Key) -> str:
    return "/proc/sys/net/" + "/".join(key)


def is_same(found: str, wanted: str) -> bool:
    """Say whether the kernel shows a value that was written; it has a form of its own for most."""
    return found.split() == wanted.split() or _canonical(found) == _canonical(wanted)


def _canonical(value: str) -> list[str]:
    """Return the words of a value as the kernel shows them."""
    return [_word(word) for word in value.split()]


def _word(word: str) -> str:
    with suppress(ValueError):
        if ":" in word:
            return str(IPv6Address(word))
        if _PORTS.issuperset(word) and not word.startswith("-") and ("," in word or "-" in word):
            return ",".join(_merged(word))
        return str(_number(word))
    return word.lower()


def _number(word: str) -> int:
    """:raises ValueError: if the word is not a number as the kernel reads one: in C's notation."""
    digits = word.lstrip("-")
    is_octal = len(digits) > 1 and digits.startswith("0") and digits.isdigit()
    return int(word, 8 if is_octal else 0)


def _merged(ports: str) -> Iterator[str]:
    """Yield a list of ports and ranges in order, neighbours joined (proc_do_large_bitmap).

    :raises ValueError: if it is not such a list.
    """
    pairs = [tuple(map(int, part.split("-"))) for part in ports.split(",") if part]
    joined: list[tuple[int, int]] = []
    for first, last in sorted((pair[0], pair[-1]) for pair in pairs):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = joined[-1][0], max(last, joined[-1][1])
        else:
            joined.append((first, last))
    for first, last in joined:
        yield str(first) if first == last else f"{first}-{last}"


DEEDS = deed(WriteSysctl, write, _differs)
