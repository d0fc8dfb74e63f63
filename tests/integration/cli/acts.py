"""Installing and uninstalling as the commands do, and what there is afterwards."""

from pathlib import Path

from cni_plugins.cli.install import install as installing
from cni_plugins.cli.install import record
from cni_plugins.cli.install import uninstall as uninstalling
from cni_plugins.cli.install.layout import Places, batches


def install(places: Places, source: Path) -> list[str]:
    wanted = batches(places, source)
    with installing.only_one(places):
        changes = installing.plan(places, wanted, record.read(places.record))
        installing.carry_out(places, changes)
    return list(changes.lines())


def uninstall(places: Places) -> list[str]:
    with installing.only_one(places):
        changes = uninstalling.plan(places, record.read(places.record))
        uninstalling.carry_out(places, changes)
    return list(changes.lines())


def files(root: Path) -> dict[str, str]:
    """Return every file below, with its content or where it leads to."""
    return {
        str(path.relative_to(root)): f"-> {path.readlink()}" if path.is_symlink() else path.read_text()
        for path in sorted(root.rglob("*"))
        if path.is_symlink() or path.is_file()
    }
