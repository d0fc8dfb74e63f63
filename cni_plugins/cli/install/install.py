"""Installs the suite: compares the wanted files with the existing ones, and changes only those that differ.

Foreign plugins are left alone. A foreign file under one of our names is kept under another name in the same
directory, and uninstall restores it.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import NamedTuple

from cni_plugins.cli.install.existing import Present, existing_file
from cni_plugins.cli.install.layout import Places, digest
from cni_plugins.cli.install.record import InstallRecord, RecordedFile
from cni_plugins.cli.install.replace import Batch, flush, is_at, locked, put


class Keep(NamedTuple):
    """A foreign file, and the name under which it is kept."""

    path: Path
    kept: str


class InstallPlan(NamedTuple):
    """The changes of an install; none if all fields are empty."""

    keep: tuple[Keep, ...] = ()
    put: tuple[Batch, ...] = ()
    record: InstallRecord | None = None

    def lines(self) -> Iterator[str]:
        yield from (f"keep {keep.path} as {keep.kept}" for keep in self.keep)
        yield from (f"put {batch.directory}: {' '.join(batch.names)}" for batch in self.put)
        if self.record and not self.put:
            yield "record the files that are up to date"


def plan(places: Places, wanted: tuple[Batch, ...], record: InstallRecord) -> InstallPlan:
    files, keeps, puts = dict(record.files), list[Keep](), list[Batch]()
    for batch in wanted:
        content = digest(batch.content)
        found = {name: existing_file(batch.directory / name) for name in batch.names}
        if not _is_as_wanted(batch, content, list(found.values())):
            puts.append(batch)
        for name, present in found.items():
            path = batch.directory / name
            before = files.get(places.on_node(path))
            kept = before.kept if before else None
            if present and present.digest != content and not present.is_ours(before):
                kept = _free_name(path, present)
                keeps.append(Keep(path, kept))
            files[places.on_node(path)] = _entry(content, present, before, kept)
    changed = InstallRecord(files=files)
    return InstallPlan(tuple(keeps), tuple(puts), changed if changed != record else None)


def _is_as_wanted(batch: Batch, content: str, found: list[Present | None]) -> bool:
    """Say whether all names are hard links of the wanted file: a plugin recognises its program by that."""
    return len({present and present.inode for present in found}) == 1 and all(
        present is not None and present.digest == content and present.mode == batch.mode for present in found
    )


def _entry(
    content: str, present: Present | None, before: RecordedFile | None, kept: str | None
) -> RecordedFile:
    if before and content == before.digests[0] and kept == before.kept:
        return before
    ours = present is not None and present.is_ours(before) and present.digest != content
    return RecordedFile(digests=(content, present.digest) if present and ours else (content,), kept=kept)


def _free_name(path: Path, present: Present) -> str:
    """Return an unused name, or one under which this very file has been kept already."""
    names = (f"{path.name}.orig{f'.{number}' if number else ''}" for number in count())
    return next(name for name in names if _is_free(existing_file(path.with_name(name)), present))


def _is_free(there: Present | None, present: Present) -> bool:
    return there is None or there.inode == present.inode or "" != there.digest == present.digest


def carry_out(places: Places, changes: InstallPlan) -> None:
    """Make all changes, or none if one fails.

    Foreign files are kept, and the record is written, before the first name is changed. If the process is
    killed in between, the next install finds the same file to keep, already under its new name.
    """
    with ExitStack() as undo:

        def prepare() -> None:
            for keep in changes.keep:
                _keep(keep, undo)
            if changes.record:
                name, text = places.record.name, changes.record.text()
                put([Batch(places.notes, (name,), text, 0o644)])

        put(changes.put, prepare)
        undo.pop_all()


def _keep(keep: Keep, undo: ExitStack) -> None:
    kept = keep.path.with_name(keep.kept)
    if os.path.lexists(kept):
        return
    if keep.path.is_symlink():
        kept.symlink_to(keep.path.readlink())
    else:
        kept.hardlink_to(keep.path)
    undo.callback(kept.unlink, missing_ok=True)
    flush(kept.parent)


@contextmanager
def only_one(places: Places) -> Iterator[None]:
    """Hold the lock of this prefix, so that no other install or uninstall runs at the same time."""
    with ExitStack() as held:
        while not _lock_directory(places.notes, held):
            pass  # the uninstall that held the lock has removed the directory
        yield


def _lock_directory(directory: Path, held: ExitStack) -> bool:
    directory.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        return is_at(held.enter_context(locked(directory, patient=True)), directory)
    return False
