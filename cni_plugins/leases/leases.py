"""Reads and changes the leases of one network, while store.py holds its lock.

A lease is recorded in the index before it becomes visible, and removed before its record is, so whenever this
process is killed the index lists every lease of ours. A lease file appears complete: it is written in the
side directory, then linked to its name, which fails if the name already exists.
"""

import errno
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress

from cni_plugins.leases import leasefile
from cni_plugins.leases.boot import UNKNOWN, Boot
from cni_plugins.leases.index import NO_ENTRY, Entry, Index, key
from cni_plugins.leases.leasefile import LeaseFile

_NEW = "new"
_LAST = "last_reserved_ip."
# One system call per address, until listing them all, at a tenth of that cost for each, is cheaper.
_PROBES = 1024
_BLOCK = 4096  # bytes
# Errors of link() that mean no hard links: the directories are on different file systems, or it has none.
_NO_LINKS = (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK)


class Leases:
    """The leases of one network, while its lock is held."""

    def __init__(self, leases: int, side: int, now: Boot) -> None:
        self._leases = leases
        self._side = side
        self._now = now
        self._index = Index(side)
        found = os.fstat(leases)
        self._seal_time: int | None = found.st_mtime_ns
        self._in_doubt = now.name == UNKNOWN
        if not self._index.is_sealed(now.name, found):
            self.rebuild()

    def held(self, owner: str) -> tuple[str, ...]:
        """Return the addresses that an owner holds."""
        return tuple(name for name in self._recorded(owner).names if self.owner(name) == owner)

    def _recorded(self, owner: str) -> Entry:
        """Return the record of an owner, after reading all leases if somebody wrote to one of them in place.

        That leaves no trace in the directory.
        """
        entry = self._index.get(owner)
        if any(self.owner(name) not in ("", owner) for name in entry.names):
            self.rebuild()
            entry = self._index.get(owner)
        return entry

    def owner(self, name: str) -> str:
        """Return the owner of an address, empty when it is free or its file is not a lease."""
        found = leasefile.read(name, self._leases)
        return found.owner if found else ""

    def last_reserved(self, number: int) -> str:
        return leasefile.read_text(f"{_LAST}{number}", self._leases)

    def taken(self, but: Iterable[str] = ()) -> Callable[[str], bool]:
        """Return a function that says whether an address is taken; after many calls it lists the directory.

        :param but: addresses that count as free.
        """
        free, calls, listed = frozenset(but), 0, frozenset[str]()

        def is_taken(name: str) -> bool:
            nonlocal calls, listed
            calls += 1
            if calls == _PROBES:
                listed = frozenset(os.listdir(self._leases))
            return name not in free and (name in listed if calls >= _PROBES else self._exists(name))

        return is_taken

    def invalid_files(self) -> tuple[LeaseFile, ...]:
        """Return the files that reserve an address and are not leases."""
        return tuple(found for found in leasefile.read_all(self._leases) if not found.owner)

    def check_writable(self) -> None:
        """:raises OSError: when a lease could not be written now."""
        # A whole block, because an empty file can be created even if no block is free.
        self._write_side_file(" " * _BLOCK)
        os.unlink(_NEW, dir_fd=self._side)
        self._index.check_writable()
        self._seal()
        if not os.access(".", os.W_OK, dir_fd=self._leases):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), ".")

    def reserve(self, owner: str, names: Sequence[str], last: Mapping[int, str]) -> None:
        """Reserve free addresses for an owner, all or none.

        :param last: for each range set, the address to record as the last one given.
        """
        before = self._index.get(owner)._replace(names=self.held(owner))
        # A failed reservation is not sealed: if the undo fails as well, the next call reads all leases.
        with ExitStack() as undo:
            mtime = self._write_side_file(owner)
            undo.callback(self._index.put, owner, before)
            self._index.put(owner, Entry(self._now.name, max(mtime, before.mtime), (*before.names, *names)))
            for name in names:
                self._publish(name, owner, mtime)
                undo.callback(leasefile.discard, name, self._leases)
            for number, name in last.items():
                leasefile.overwrite(f"{_LAST}{number}", name, self._leases)
            undo.pop_all()
        # The reservation is complete; the next call removes this file if it stays.
        with suppress(OSError):
            os.unlink(_NEW, dir_fd=self._side)
        self._seal()

    def release(self, owner: str) -> bool:
        """Free all addresses of an owner; return whether there were any."""
        entry = self._recorded(owner)
        if entry is NO_ENTRY:
            return False
        held = [name for name in entry.names if self._belongs(name, owner)]
        # After a failure an exit stack goes on with the next callback, and raises at the end.
        with ExitStack() as every:
            for name in held:
                every.callback(leasefile.discard, name, self._leases)
        self._index.drop(owner)
        self._seal()
        return bool(held)

    def give_back(self, owner: str, names: Sequence[str]) -> None:
        """Free some of an owner's addresses."""
        for name in names:
            if self._belongs(name, owner):
                leasefile.discard(name, self._leases)
        entry = self._index.get(owner)
        left = tuple(name for name in entry.names if name not in names)
        # On a full disk the record keeps listing too many addresses, which is harmless.
        with suppress(OSError):
            self._index.put(owner, entry._replace(names=left))
        self._seal()

    def empty_files(self) -> tuple[str, ...]:
        """Return addresses whose file is empty: every writer holds the lock, so this one was killed."""
        return tuple(found.name for found in self.invalid_files() if found.fault == leasefile.EMPTY)

    def discard_empty_files(self) -> None:
        """Free the addresses that empty_files() returns; other invalid files are left to GC."""
        for name in self.empty_files():
            with suppress(OSError):
                leasefile.discard(name, self._leases)
        self._seal()

    def collect(self, is_valid: Callable[[str], bool]) -> list[str]:
        """Free every address without a valid owner; return those that could not be freed, with the reason."""
        kept, faults = [], []
        for found in self._read_all():
            if found.owner and is_valid(found.owner):
                kept.append(found)
                continue
            fault = found.fault if found.unread else self._try_discard(found)
            if fault:
                faults.append(f"{found.name} {fault}")
                kept.append(found)
        self._record(kept, self._index.all_entries())
        return faults

    def rebuild(self) -> None:
        """Read all leases and rewrite the index; after a reboot, remove the leases of earlier boots."""
        known = self._index.all_entries()
        found = self._read_all()
        if self._index.boot() != self._now.name:
            found = self._without_earlier_boots(found, known)
        self._record(found, known)

    def _read_all(self) -> list[LeaseFile]:
        found = list(leasefile.read_all(self._leases))
        self._in_doubt |= any(one.unread for one in found)
        return found

    def _try_discard(self, found: LeaseFile) -> str:
        """Free an address; return why it cannot be freed, or an empty text."""
        try:
            leasefile.discard(found.name, self._leases)
        except OSError as err:
            return f"{found.fault or 'is leased'}: {err.strerror}"
        return ""

    def _exists(self, name: str) -> bool:
        try:
            os.stat(name, dir_fd=self._leases, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def _belongs(self, name: str, owner: str) -> bool:
        # Without hard links, a killed process may leave an empty file that it had recorded but not written.
        found = leasefile.read(name, self._leases)
        return found is not None and (found.owner == owner or found.fault == leasefile.EMPTY)

    def _write_side_file(self, owner: str) -> int:
        # Removed, not truncated: a killed process may have left it as a second name of a live lease.
        leasefile.discard(_NEW, self._side)
        return leasefile.write_new(_NEW, owner, self._side)

    def _publish(self, name: str, owner: str, mtime: int) -> None:
        try:
            os.link(_NEW, name, src_dir_fd=self._side, dst_dir_fd=self._leases, follow_symlinks=False)
        except OSError as err:
            if err.errno not in _NO_LINKS:
                raise
            leasefile.write_new(name, owner, self._leases)
            os.utime(name, ns=(mtime, mtime), dir_fd=self._leases, follow_symlinks=False)

    def _without_earlier_boots(
        self, found: Sequence[LeaseFile], known: Mapping[str, Entry]
    ) -> list[LeaseFile]:
        kept = []
        for lease in found:
            record = known.get(key(lease.owner), NO_ENTRY)
            # A record of another owner belongs to an earlier lease of this address.
            about = record if lease.name in record.names else None
            outlived = not lease.unread and self._now.is_later_than(about, lease.mtime)
            stays = not outlived or bool(self._try_discard(lease))
            self._in_doubt |= outlived and stays
            if stays:
                kept.append(lease)
        return kept

    def _record(self, found: Iterable[LeaseFile], known: Mapping[str, Entry]) -> None:
        wanted = self._entries(found, known)
        if self._index.replace(known, wanted) and not self._in_doubt:
            self._choose_seal()
        else:
            self._seal_time = None
            self._index.use_entries(wanted)

    def _entries(self, found: Iterable[LeaseFile], known: Mapping[str, Entry]) -> dict[str, Entry]:
        owners: dict[str, list[LeaseFile]] = {}
        unread = set()
        for lease in found:
            if lease.owner:
                owners.setdefault(key(lease.owner), []).append(lease)
            elif lease.unread:
                unread.add(lease.name)
        entries = {name: self._entry(leases, known.get(name)) for name, leases in owners.items()}
        for name, record in known.items() if unread else ():
            entry = entries.get(name, record._replace(names=()))
            names = {*entry.names, *unread.intersection(record.names)}
            if names:
                entries[name] = entry._replace(names=tuple(sorted(names)))
        return entries

    def _entry(self, leases: Sequence[LeaseFile], known: Entry | None) -> Entry:
        names = tuple(sorted(one.name for one in leases))
        if not self._in_doubt:
            return Entry(self._now.name, max(one.mtime for one in leases), names)
        # Existing records stay valid; for other leases the clock decides, or a later call with a boot id.
        if known:
            return known._replace(names=names)
        return Entry(UNKNOWN, max(one.mtime for one in leases), names)

    def _choose_seal(self) -> None:
        # Whole seconds, as some file systems store no fractions; in the past, so no later write can have it.
        self._seal_time = (int(time.time()) - 10) * 1_000_000_000
        self._seal()
        found = os.fstat(self._leases)
        if found.st_mtime_ns == self._seal_time:
            with suppress(OSError):
                self._index.remember_seal(self._now.name, found)
                self._seal()

    def _seal(self) -> None:
        if self._seal_time is None:
            return
        # If this is refused, as in another user's directory, the index is not used: slower, but correct.
        with suppress(OSError):
            for directory in (self._leases, self._side):
                os.utime(directory, ns=(self._seal_time, self._seal_time))
