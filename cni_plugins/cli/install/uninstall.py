"""Uninstalls the suite: removes installed files that are unchanged, and restores the ones that were kept.

Leases, networks and directories that other programs use are left.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from cni_plugins.cli.install.existing import existing_file
from cni_plugins.cli.install.layout import UNITS, Places
from cni_plugins.cli.install.record import InstallRecord, RecordedFile
from cni_plugins.cli.install.replace import Batch, flush, put


class Restore(NamedTuple):
    """A kept file, and the name to restore."""

    kept: Path
    path: Path


class Remove(NamedTuple):
    """An installed file to remove."""

    path: Path


class Leave(NamedTuple):
    """A file that is left, as it is not, or no longer, the installed one."""

    path: Path
    why: str


class UninstallPlan(NamedTuple):
    """The changes of an uninstall, and the record of files that remain installed."""

    steps: tuple[Restore | Remove | Leave, ...]
    rest: InstallRecord

    def lines(self) -> Iterator[str]:
        for step in self.steps:
            match step:
                case Restore(kept, path):
                    yield f"restore {path} from {kept.name}"
                case Remove(path):
                    yield f"remove {path}"
                case Leave(path, why):
                    yield f"leave {path}, {why}"

    def touches_units(self) -> bool:
        return any(not isinstance(step, Leave) and step.path.name in UNITS for step in self.steps)


def plan(places: Places, record: InstallRecord) -> UninstallPlan:
    rest = dict(record.files)
    steps: list[Restore | Remove | Leave] = []
    for path in places.names():
        entry = rest.pop(places.on_node(path), None)
        if entry:
            steps += _steps(path, entry)
    elsewhere = (Leave(Path(name), "which is outside the directories of these options") for name in rest)
    return UninstallPlan((*steps, *elsewhere), InstallRecord(files=rest))


def _steps(path: Path, entry: RecordedFile) -> Iterator[Restore | Remove | Leave]:
    present = existing_file(path)
    kept = path.with_name(entry.kept) if entry.kept and os.path.lexists(path.with_name(entry.kept)) else None
    if present and not present.is_ours(entry):
        yield Leave(path, "which is not the installed file")
        if kept and os.path.samestat(kept.lstat(), path.lstat()):
            yield Remove(kept)  # an install was killed after keeping the file, before replacing it
        elif kept:
            yield Leave(kept, "which existed before the install")
    elif kept:
        yield Restore(kept, path)
    elif present:
        yield Remove(path)


def carry_out(places: Places, changes: UninstallPlan) -> None:
    """Make the changes; the record is removed last, so that an interrupted uninstall can be repeated."""
    for step in changes.steps:
        match step:
            case Restore(kept, path):
                kept.replace(path)
            case Remove(path):
                path.unlink(missing_ok=True)
            case Leave():
                continue
        flush(step.path.parent)
    if changes.rest.files:
        put([Batch(places.notes, (places.record.name,), changes.rest.text(), 0o644)])
        return
    places.record.unlink(missing_ok=True)
    with suppress(OSError):  # it contains foreign files
        places.notes.rmdir()
