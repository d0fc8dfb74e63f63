"""Tells who this host is in a store: its name, and a random number that it keeps for ever."""

import fcntl
import os
import re
import secrets
import time

from cni_plugins.contract.registry_config import RegistrySection
from cni_plugins.contract.snapshot import KEPT, make_private, write_text
from cni_plugins.registries.network_registry import Member

_NUMBER = re.compile(r"[0-9a-f]{32}")
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


def member(section: RegistrySection, kept: str = KEPT) -> Member:
    """Return this host.

    :raises OSError: when its number can be neither read nor written.
    """
    return Member(section.node or os.uname().nodename, host_id(kept))


def host_id(kept: str = KEPT) -> str:
    """Return the number of this installation, which the first call creates."""
    path = f"{kept}/host-id"
    found = _read(path)
    if found:
        return found
    make_private(kept)
    fd = os.open(f"{kept}/.host-id.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        if not _read(path):  # nor has another process written it meanwhile
            write_text(kept, "host-id", f"{secrets.token_hex(16)}\n", durable=True)
    finally:
        os.close(fd)
    return _read(path)


def _read(path: str) -> str:
    try:
        with open(path) as file:
            text = file.read(64).strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return ""
    return text if _NUMBER.fullmatch(text) else ""


def boot_id() -> str:
    """Return what is different after each boot, and on every other host."""
    with open(_BOOT_ID) as file:
        return file.read().strip()


def boot_time() -> float:
    """Return the seconds since the boot, which no change of the clock affects; alike in all processes."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
