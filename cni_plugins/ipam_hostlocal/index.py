"""Remembers beside the leases which addresses each owner holds, so that nobody has to read them all.

It lies outside the network directory, where the reference reads every file. One symbolic link per owner,
named by the digest of the owner, its target the record: made and read in one system call, never seen half
written.

The index is a hint. It may name too much, since every name is looked up before it counts; it must not name
too little, so it is believed only while nobody else has written into the network directory. After each write
of ours the modification time of that directory is set back to one fixed instant of the past, the *seal*, and
a write by anybody replaces it by the time of that write. Recording the time of our last write instead would
not do: another write within the same tick of the kernel's clock (1 to 10 ms) would go unseen.
"""

import os
from typing import NamedTuple

from cni_plugins.ipam_hostlocal import leasefile
from cni_plugins.spec.attachment import digest

_FORMAT = "1"
_STATE = "state"
_NEW = "next"
_DIGITS = 32


class Entry(NamedTuple):
    """The addresses of one owner, the boot they were seen in, and when the newest of them was written."""

    boot: str
    mtime: int
    names: tuple[str, ...]


NOTHING = Entry("", 0, ())


class Index:
    """The records of one network, in the directory `fd`; the caller holds the network's lock."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def get(self, owner: str) -> Entry:
        return self._read(key(owner)) or NOTHING

    def put(self, owner: str, entry: Entry) -> None:
        if entry.names:
            self._write(key(owner), " ".join((entry.boot, str(entry.mtime), *entry.names)))
        else:
            self.drop(key(owner))

    def drop(self, name: str) -> None:
        leasefile.discard(name, self._fd)

    def everything(self) -> dict[str, Entry]:
        """Return all records by key; remove what is none."""
        found = {}
        for name in os.listdir(self._fd):
            entry = self._read(name)
            if entry:
                found[name] = entry
            elif name != _STATE:
                self.drop(name)
        return found

    def boot(self) -> str:
        """Return the boot in which the whole directory was last read."""
        return self._target(_STATE).partition(" ")[2].partition(" ")[0]

    def is_sealed(self, boot: str, directory: os.stat_result) -> bool:
        return self._target(_STATE) == _state(boot, directory)

    def remember_seal(self, boot: str, directory: os.stat_result) -> None:
        self._write(_STATE, _state(boot, directory))

    def _read(self, name: str) -> Entry | None:
        boot, _, rest = self._target(name).partition(" ")
        mtime, _, names = rest.partition(" ")
        return Entry(boot, int(mtime), tuple(names.split(" "))) if mtime.isdigit() and names else None

    def _target(self, name: str) -> str:
        # EINVAL: not a symbolic link. Whatever else lies there was not put there by us, and says nothing.
        try:
            return os.readlink(name, dir_fd=self._fd)
        except OSError:
            return ""

    def _write(self, name: str, target: str) -> None:
        try:
            os.symlink(target, name, dir_fd=self._fd)
        except FileExistsError:
            self.drop(_NEW)
            os.symlink(target, _NEW, dir_fd=self._fd)
            os.rename(_NEW, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)


def key(owner: str) -> str:
    return digest(owner, _DIGITS)


def _state(boot: str, directory: os.stat_result) -> str:
    return f"{_FORMAT} {boot} {directory.st_dev} {directory.st_ino} {directory.st_mtime_ns}"
