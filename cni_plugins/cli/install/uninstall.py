"""Uninstalling: take away what an install put there and is still ours, and give back what it kept.

Leases, networks and directories that others use stay.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from cni_plugins.cli.install.existing import look
from cni_plugins.cli.install.layout import UNITS, Places
from cni_plugins.cli.install.record import InstallRecord, RecordedFile
from cni_plugins.cli.install.replace import Batch, flush, put


class Restore(NamedTuple):
    """What was kept, and the name it gets back."""

    kept: Path
    path: Path


class Remove(NamedTuple):
    """A file that is ours."""

    path: Path


class Leave(NamedTuple):
    """A file that is not ours, or not ours any more."""

    path: Path
    why: str


class UninstallPlan(NamedTuple):
    """What an uninstall would change, and what stays recorded."""

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
    elsewhere = (Leave(Path(name), "as these options do not lead there") for name in rest)
    return UninstallPlan((*steps, *elsewhere), InstallRecord(files=rest))


def _steps(path: Path, entry: RecordedFile) -> Iterator[Restore | Remove | Leave]:
    present = look(path)
    kept = path.with_name(entry.kept) if entry.kept and os.path.lexists(path.with_name(entry.kept)) else None
    if present and not present.is_ours(entry):
        yield Leave(path, "as it is not what was installed")
        if kept and os.path.samestat(kept.lstat(), path.lstat()):
            yield Remove(kept)  # an install was killed that had kept it, and not replaced it yet
        elif kept:
            yield Leave(kept, "which was there before")
    elif kept:
        yield Restore(kept, path)
    elif present:
        yield Remove(path)


def carry_out(places: Places, changes: UninstallPlan) -> None:
    """Make the changes; the record goes last, so that what was not done can be done later."""
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
    with suppress(OSError):  # somebody put something of his own there
        places.notes.rmdir()
