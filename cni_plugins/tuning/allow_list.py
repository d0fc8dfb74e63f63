"""Reads the administrator's list of sysctls that networks may set: a Go regular expression on each line."""

import os
import stat
from functools import lru_cache
from typing import TYPE_CHECKING

from cni_plugins.errors import InvalidNetworkConfig, IoFailed

if TYPE_CHECKING:
    from cni_plugins.tuning.regexp import Pattern

PATH = "/etc/cni/tuning/allowlist.conf"
_LIMIT = 1 << 20  # bytes


def require_allowed(names: tuple[str, ...]) -> None:
    """Refuse sysctls that no line matches, as the config spells them; without a file all are allowed.

    Every line is compiled, so that a broken one is found with the first sysctl and not with some later one.

    :raises InvalidNetworkConfig: for a sysctl that is not allowed, and for a broken line.
    :raises IoFailed: when there is a file that cannot be read.
    """
    lines = _lines() if names else None
    if lines is None:
        return
    patterns = [_pattern(line, number) for number, line in lines]
    for name in names:
        if not any(pattern.is_in(name) for pattern in patterns):
            listed = " ".join(line for _, line in lines)
            raise InvalidNetworkConfig(
                f"Sysctl {name} is not allowed. Only the following sysctls are allowed: [{listed}]",
                f"the list is {PATH}",
            )


@lru_cache(256)
def _pattern(line: str, number: int) -> "Pattern":
    from cni_plugins.tuning.regexp import BadPattern, compiled

    try:
        return compiled(line)
    except BadPattern as err:
        raise InvalidNetworkConfig(
            f"{PATH}, line {number}: {err}", f"{line} is not a regular expression of Go"
        ) from err


def _lines() -> list[tuple[int, str]] | None:
    """Return the lines with their numbers, None if there is no file."""
    try:
        text = _read().decode()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as err:
        raise IoFailed(f"the list of allowed sysctls cannot be read: {err.strerror}", PATH) from err
    except UnicodeDecodeError as err:
        raise InvalidNetworkConfig("the list of allowed sysctls is not UTF-8", PATH) from err
    stripped = ((number, line.strip()) for number, line in enumerate(text.split("\n"), 1))
    return [(number, line) for number, line in stripped if line]


def _read() -> bytes:
    fd = os.open(PATH, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise IoFailed("the list of allowed sysctls is not a file", PATH)
        with os.fdopen(os.dup(fd), "rb") as file:
            data = file.read(_LIMIT + 1)
    finally:
        os.close(fd)
    if len(data) > _LIMIT:
        raise IoFailed("the list of allowed sysctls is too large", f"{PATH} has more than {_LIMIT} bytes")
    return data
