"""Installing: decide what differs from what is wanted, then change that and nothing else.

Plugins of others are not looked at. A file of theirs under one of our names is kept beside, and uninstall
gives it back.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import NamedTuple

from cni_plugins.cli.install.existing import Present, look
from cni_plugins.cli.install.layout import Places, digest
from cni_plugins.cli.install.record import InstallRecord, RecordedFile
from cni_plugins.cli.install.replace import Batch, flush, is_at, locked, put


class Keep(NamedTuple):
    """A file of somebody else, and the name under which it stays."""

    path: Path
    kept: str


class InstallPlan(NamedTuple):
    """What an install would change: nothing, when all of it is empty."""

    keep: tuple[Keep, ...] = ()
    put: tuple[Batch, ...] = ()
    record: InstallRecord | None = None

    def lines(self) -> Iterator[str]:
        yield from (f"keep {keep.path} as {keep.kept}" for keep in self.keep)
        yield from (f"put {batch.directory}: {' '.join(batch.names)}" for batch in self.put)
        if self.record and not self.put:
            yield "record what is there already"


def plan(places: Places, wanted: tuple[Batch, ...], record: InstallRecord) -> InstallPlan:
    files, keeps, puts = dict(record.files), list[Keep](), list[Batch]()
    for batch in wanted:
        content = digest(batch.content)
        found = {name: look(batch.directory / name) for name in batch.names}
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
    """Hard links of one file, all of them: a plugin tells by it that another is the same program."""
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
    """Return a name nobody uses, or that of the very file we are to keep."""
    names = (f"{path.name}.orig{f'.{number}' if number else ''}" for number in count())
    return next(name for name in names if _is_free(look(path.with_name(name)), present))


def _is_free(there: Present | None, present: Present) -> bool:
    return there is None or there.inode == present.inode or "" != there.digest == present.digest


def carry_out(places: Places, changes: InstallPlan) -> None:
    """Make the changes, or none of them if one cannot be made.

    What is kept and recorded comes before the first name is changed. Killed in between, the next install
    finds the same file still to be kept, and its name already there.
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
    """Wait until no other install or uninstall of this prefix runs, and keep others waiting."""
    with ExitStack() as held:
        while not _hold(places.notes, held):
            pass  # an uninstall that we waited for has removed it
        yield


def _hold(directory: Path, held: ExitStack) -> bool:
    directory.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        return is_at(held.enter_context(locked(directory, patient=True)), directory)
    return False
