"""Defines the commands `cnictl install` and `cnictl uninstall`."""

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cni_plugins.cli.failure import Failed

if TYPE_CHECKING:
    from cni_plugins.cli.install.layout import Places
    from cni_plugins.cli.install.systemd import Commands


def _absolute(path: str) -> str:
    # The path is written to a unit file, where some characters have a special meaning.
    if not re.fullmatch(r"/[\w/.+-]*", path, re.ASCII) or ".." in path.split("/"):
        raise typer.BadParameter("must be an absolute path of plain characters, without ..")
    return path


# Help is explicit: freezing strips docstrings.
INSTALL_HELP = (
    "Install the plugins, cnictl, the agent's systemd units and an example config. "
    "Files in use are replaced by rename; a file of another origin is kept as NAME.orig."
)
UNINSTALL_HELP = "Remove the installed files, and restore those that were kept. Leases and networks stay."

Prefix = Annotated[
    str, typer.Option(callback=_absolute, help="Directory for cnictl, the units and the record.")
]
BinDir = Annotated[
    str, typer.Option(callback=_absolute, help="Directory where the runtime looks for plugins.")
]
Destdir = Annotated[str, typer.Option(help="Install into this root directory of an image, not on this node.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the changes without making them.")]
Source = Annotated[
    Path | None, typer.Option("--from", help="Directory of the executables. Default: that of cnictl.")
]
Start = Annotated[bool, typer.Option(help="Start or reload the agent with systemd, or print the commands.")]


def install(
    *,
    prefix: Prefix = "/usr/local",
    destdir: Destdir = "",
    bin_dir: BinDir = "/opt/cni/bin",
    source: Source = None,
    dry_run: DryRun = False,
    start: Start = True,
) -> None:
    from cni_plugins.cli.install import install as work
    from cni_plugins.cli.install import record, systemd
    from cni_plugins.cli.install.layout import batches

    with _os_errors_as_failed():
        places = _places(prefix, destdir, bin_dir)
        wanted = batches(places, source or _default_source())
        with nullcontext() if dry_run else work.only_one(places):
            changes = work.plan(places, wanted, record.read(places.record))
            if not dry_run:
                work.carry_out(places, changes)
            _print(changes.lines(), dry_run=dry_run)
    if not any(changes):
        typer.echo("nothing to install: everything is up to date")
    if start and systemd.is_running(places):
        _systemctl(systemd.START, dry_run=dry_run)
    else:
        typer.echo("to start the agent, or to upgrade a running one to this build:")
        typer.echo("\n".join(f"  {line}" for line in systemd.lines(systemd.to_start(places))))


def uninstall(
    *,
    prefix: Prefix = "/usr/local",
    destdir: Destdir = "",
    bin_dir: BinDir = "/opt/cni/bin",
    dry_run: DryRun = False,
) -> None:
    from cni_plugins.cli.install import record, systemd
    from cni_plugins.cli.install import uninstall as work
    from cni_plugins.cli.install.install import only_one

    with _os_errors_as_failed():
        places = _places(prefix, destdir, bin_dir)
        if not places.notes.exists():
            typer.echo(f"nothing to uninstall: there is no {places.record}")
            return
        with nullcontext() if dry_run else only_one(places):
            changes = work.plan(places, record.read(places.record))
            affects_systemd = systemd.is_running(places) and changes.touches_units()
            _systemctl(systemd.STOP if affects_systemd else (), dry_run=dry_run)
            if not dry_run:
                work.carry_out(places, changes)
            _print(changes.lines(), dry_run=dry_run)
            _systemctl(systemd.FORGET if affects_systemd else (), dry_run=dry_run)


def _systemctl(commands: "Commands", *, dry_run: bool) -> None:
    from cni_plugins.cli.install import systemd

    if not dry_run:
        systemd.run(commands)
    _print((f"run {line}" for line in systemd.lines(commands)), dry_run=dry_run)


def _places(prefix: str, destdir: str, bin_dir: str) -> "Places":
    from cni_plugins.cli.install.existing import require_safe
    from cni_plugins.cli.install.layout import Places

    root = str(Path(destdir).absolute()) if destdir else ""
    places = Places("" if root == "/" else root, prefix, bin_dir)
    require_safe(places)
    os.umask(0o022)
    return places


def _default_source() -> Path:
    """Return the directory of the running executable, or of `make freeze` when run from the sources."""
    if getattr(sys, "frozen", False):
        return Path(os.readlink("/proc/self/exe")).parent
    return Path(__file__).parents[3] / "dist"


def _print(lines: Iterable[str], *, dry_run: bool) -> None:
    for line in lines:
        typer.echo(f"would {line}" if dry_run else line)


@contextmanager
def _os_errors_as_failed() -> Iterator[None]:
    """Turn an OSError into a message for the operator."""
    try:
        yield
    except PermissionError as err:
        raise Failed(f"{err.filename}: {err.strerror}: must be run as root, or with --destdir") from err
    except OSError as err:
        raise Failed(f"{err.filename or 'a file'}: {err.strerror}") from err
