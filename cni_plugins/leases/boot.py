"""Identifies the boot of the host, and the leases of earlier boots: no container survives a reboot.

The boot id recorded with a lease decides. Only a lease without a record, written by the reference plugin, is
compared by time, with the earlier of two clock readings: a machine without a battery-backed clock starts in
the past and jumps forward later, which must not make leases of this boot look old.
"""

import os
import time
from collections.abc import Callable
from typing import NamedTuple

from cni_plugins.leases.index import Entry

UNKNOWN = "-"
_ID = "/proc/sys/kernel/random/boot_id"
_MOUNTED_AT_BOOT = "/sys"  # sysfs keeps the time of its mount, taken from the clock as it was then


class Boot(NamedTuple):
    """`name` is the shortened boot id; `began` returns nanoseconds since the epoch, 0 when unknown."""

    name: str
    began: Callable[[], int]

    def is_later_than(self, record: Entry | None, mtime: int) -> bool:
        """Say whether a lease file, last written at `mtime`, is from before this boot."""
        if self.name == UNKNOWN:
            return False
        # A record written while the boot id was unknown says nothing.
        if record is None or record.boot == UNKNOWN:
            return mtime < self.began()
        # If another program has since written a newer file of that name, the record does not apply to it.
        return record.boot != self.name and mtime <= record.mtime


def current() -> Boot:
    return Boot(_name(), _began)


def _name() -> str:
    """Return the first twelve digits of the boot id: enough to distinguish the boots of one host."""
    try:
        fd = os.open(_ID, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return UNKNOWN
    try:
        return os.read(fd, 64).decode("ascii", "replace").replace("-", "").strip()[:12] or UNKNOWN
    finally:
        os.close(fd)


def _began() -> int:
    """Return the earliest possible time of this boot in nanoseconds, by the clock then and the clock now."""
    try:
        mounted = os.stat(_MOUNTED_AT_BOOT).st_mtime_ns
    except OSError:
        return 0
    return min(mounted, time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME))
