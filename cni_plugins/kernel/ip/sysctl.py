"""Reads and writes settings under /proc/sys/net of the host or the sandbox."""

import errno
import os

from cni_plugins.kernel.deed import deed
from cni_plugins.kernel.session.session import Session
from cni_plugins.steps.ip import REQUIRED, WANTED, EnsureSysctl
from cni_plugins.steps.step import SANDBOX, UNCHANGED, Place

_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
_LONGEST = 4096  # bytes


def ensure(session: Session, step: EnsureSysctl) -> str:
    """Write the value if it differs; return the old one."""
    with session.inside(step.where):
        is_optional = step.need != REQUIRED
        before = _read(step.key, optional=is_optional)
        if before is None or before == step.value:
            return UNCHANGED
        try:
            _write(step.key, step.value)
        except OSError as err:
            if is_optional and err.errno in _READ_ONLY:
                return UNCHANGED
            raise
        return before


def differs(session: Session, step: EnsureSysctl) -> str:
    if step.need == WANTED:
        return ""  # a later plugin of the chain, or the container, may have chosen another value
    found = value(session, step.where, step.key)
    if found is None and step.need == REQUIRED:
        return f"sysctl net.{'.'.join(step.key)} does not exist in the {step.where}"
    if found is None or found == step.value:
        return ""
    return f"sysctl net.{'.'.join(step.key)} is {found}, not {step.value}"


def has_ipv6(session: Session, link: str) -> bool:
    """Say whether a link of the sandbox takes IPv6 addresses."""
    with session.inside(SANDBOX):
        return _read(("ipv6", "conf", link, "disable_ipv6"), optional=True) == "0"


def exists(session: Session, where: Place, key: tuple[str, ...]) -> bool:
    return value(session, where, key) is not None


def value(session: Session, where: Place, key: tuple[str, ...]) -> str | None:
    """Return the value of a setting, None if there is no such setting."""
    with session.inside(where):
        return _read(key, optional=True)


def names(session: Session, where: Place, directory: tuple[str, ...]) -> list[str]:
    """Return the names in a directory of settings, such as those of links."""
    with session.inside(where):
        return os.listdir(_path(directory))


def _path(key: tuple[str, ...]) -> str:
    return "/proc/sys/net/" + "/".join(key)


def _read(key: tuple[str, ...], *, optional: bool) -> str | None:
    try:
        return read_file(_path(key))
    except FileNotFoundError:
        if optional:
            return None
        raise


def read_file(path: str) -> str:
    """Return the content of a small file in /proc; a file object would take three times as long."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, _LONGEST).decode("ascii", "replace").strip()
    finally:
        os.close(fd)


def _write(key: tuple[str, ...], value: str) -> None:
    fd = os.open(_path(key), os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


DEEDS = deed(EnsureSysctl, ensure, differs)
