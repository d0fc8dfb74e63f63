"""Records which addresses each owner holds, so that a call need not read all lease files.

The index is kept outside the network directory, of which the reference plugin reads every file. It has one
symbolic link per owner, named by the digest of the owner, with the record as its target: a link is written
and read in one system call, and never seen half written.

The index is a hint. It may list too many addresses, since each lease is read before it counts; it must
not list too few, so it is trusted only while no other program has written to the network directory, or has
removed records, as programs do that clear what is old. After each of our writes the modification times of
both are set back to a fixed time in the past, the *seal*, and a write by any other program replaces it by the
current time. Recording the time of our last write instead would not be safe: another write within the same
tick of the kernel's clock (1 to 10 ms) would go unnoticed.
"""

import errno
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

from cni_plugins.leases import leasefile
from cni_plugins.ownership import digest

_FORMAT = "1"
_STATE = "state"
_NEW = "next"
_PROBE = "probe"
_DIGITS = 32


class Entry(NamedTuple):
    """The addresses of one owner, the boot in which they were recorded, and the newest modification time."""

    boot: str
    mtime: int
    names: tuple[str, ...]


NO_ENTRY = Entry("", 0, ())
NO_DIRECTORY = -1  # instead of a directory descriptor: the kernel refuses every call on it


class Index:
    """The records of one network, in the directory `fd`; the caller holds the network's lock.

    If `fd` is NO_DIRECTORY there are no records, and none can be written.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._seen: dict[str, Entry] | None = None

    def get(self, owner: str) -> Entry:
        name = key(owner)
        found = self._read(name) if self._seen is None else self._seen.get(name)
        return found or NO_ENTRY

    def put(self, owner: str, entry: Entry) -> None:
        """:raises OSError: when the record cannot be written."""
        if not entry.names:
            self.drop(owner)
            return
        try:
            self._put(key(owner), entry)
        except OSError as err:
            # Too many addresses for one record: acceptable if the next call reads all leases anyway.
            if self._seen is None or err.errno != errno.ENAMETOOLONG:
                raise
        if self._seen is not None:
            self._seen[key(owner)] = entry

    def check_writable(self) -> None:
        """:raises OSError: when no record can be written, as on a file system without symbolic links."""
        with suppress(FileExistsError):
            os.symlink(_PROBE, _PROBE, dir_fd=self._fd)
        self._discard(_PROBE)

    def drop(self, owner: str) -> None:
        if self._seen is not None:
            self._seen.pop(key(owner), None)
        self._discard(key(owner))

    def all_entries(self) -> dict[str, Entry]:
        """Return all records by key; remove other files, as far as possible."""
        found = {}
        for name in self._names():
            entry = self._read(name)
            if entry:
                found[name] = entry
            elif name != _STATE:
                self._discard(name)
        return found

    def replace(self, known: Mapping[str, Entry], wanted: Mapping[str, Entry]) -> bool:
        """Replace the records `known` by `wanted`; return whether all could be written."""
        failed = False
        for name, entry in wanted.items():
            try:
                if known.get(name) != entry:
                    self._put(name, entry)
            except OSError:
                failed = True
        for stale in known.keys() - wanted.keys():
            self._discard(stale)
        return not failed

    def use_entries(self, seen: Mapping[str, Entry]) -> None:
        """Answer from the leases just read, because the records are incomplete or cannot be trusted later."""
        self._seen = dict(seen)

    def boot(self) -> str:
        """Return the boot in which all leases were last read."""
        return self._target(_STATE).partition(" ")[2].partition(" ")[0]

    def is_sealed(self, boot: str, directory: os.stat_result) -> bool:
        is_known = self._target(_STATE) == _state(boot, directory)
        return is_known and os.fstat(self._fd).st_mtime_ns == directory.st_mtime_ns

    def remember_seal(self, boot: str, directory: os.stat_result) -> None:
        self._write(_STATE, _state(boot, directory))

    def _names(self) -> list[str]:
        try:
            return os.listdir(self._fd)
        except OSError:
            return []

    def _discard(self, name: str) -> None:
        # A superfluous record does no harm, nor does a foreign directory that is not empty.
        with suppress(OSError):
            leasefile.discard(name, self._fd)

    def _put(self, name: str, entry: Entry) -> None:
        try:
            self._write(name, " ".join((entry.boot, str(entry.mtime), *entry.names)))
        except OSError as err:
            # The error of symlink() names the target, which here is a list of all the owner's addresses.
            raise OSError(err.errno, err.strerror, name) from err

    def _read(self, name: str) -> Entry | None:
        boot, _, rest = self._target(name).partition(" ")
        mtime, _, names = rest.partition(" ")
        return Entry(boot, int(mtime), tuple(names.split(" "))) if mtime.isdecimal() and names else None

    def _target(self, name: str) -> str:
        # EINVAL: not a symbolic link, so not one of our records.
        try:
            return os.readlink(name, dir_fd=self._fd)
        except OSError:
            return ""

    def _write(self, name: str, target: str) -> None:
        try:
            os.symlink(target, name, dir_fd=self._fd)
        except FileExistsError:
            self._discard(_NEW)
            os.symlink(target, _NEW, dir_fd=self._fd)
            os.rename(_NEW, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)


def key(owner: str) -> str:
    return digest(owner, _DIGITS)


def _state(boot: str, directory: os.stat_result) -> str:
    return f"{_FORMAT} {boot} {directory.st_dev} {directory.st_ino} {directory.st_mtime_ns}"
