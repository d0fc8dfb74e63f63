"""Which boot of the host this is, and which leases were made before it: no container outlives its kernel.

A lease is judged by the boot id recorded with it. Only a lease without a record, made by the reference, is
judged by clocks, and then by the earlier of two: a machine without a battery clock starts in the past and
jumps forward later, which must not make this boot's leases look old.
"""

import os
import time
from collections.abc import Callable
from typing import NamedTuple

from cni_plugins.ipam_hostlocal.index import Entry

UNKNOWN = "-"
_ID = "/proc/sys/kernel/random/boot_id"
_MOUNTED_AT_BOOT = "/sys"  # sysfs keeps the time of its mount, taken from the clock as it was then


class Boot(NamedTuple):
    """`name` is the boot id, shortened; `began` answers in nanoseconds, 0 when it cannot be told."""

    name: str
    began: Callable[[], int]

    def outlived_by(self, record: Entry | None, mtime: int) -> bool:
        """Say whether a lease file, last written at `mtime`, is from before this boot."""
        if self.name == UNKNOWN:
            return False
        # Written while nobody could tell which boot it was: such a record says nothing.
        if record is None or record.boot == UNKNOWN:
            return mtime < self.began()
        # A newer file of that name was written since, by somebody else: the record is not about it.
        return record.boot != self.name and mtime <= record.mtime


def current() -> Boot:
    return Boot(_name(), _began)


def _name() -> str:
    """Return twelve digits of the boot id: enough to tell boots of one host apart."""
    try:
        fd = os.open(_ID, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return UNKNOWN
    try:
        return os.read(fd, 64).decode("ascii", "replace").replace("-", "").strip()[:12] or UNKNOWN
    finally:
        os.close(fd)


def _began() -> int:
    """Return the earliest instant this boot can have begun at, by what the clock said then and says now."""
    try:
        mounted = os.stat(_MOUNTED_AT_BOOT).st_mtime_ns
    except OSError:
        return 0
    return min(mounted, time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME))
