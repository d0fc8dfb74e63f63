"""Defines `cnictl repair`: brings back what attachments lack in the host, such as flushed rules."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cni_plugins.cli.failure import Failed
from cni_plugins.cli.output import print_answer, warn
from cni_plugins.cli.text import plain

if TYPE_CHECKING:
    from cni_plugins.upkeep.repair import RepairReport, Scope

# Help is explicit: freezing strips docstrings.
HELP = (
    "Compare every attachment that a container runtime remembers with the kernel, and bring back what is"
    " missing in the host, such as rules after `nft flush ruleset`. Containers are not touched."
)
Networks = Annotated[list[str] | None, typer.Option("--network", help="Only this network; may be repeated.")]
CacheDirs = Annotated[
    list[Path] | None,
    typer.Option(
        "--cache-dir",
        help="Directory where libcni remembers attachments; may be repeated."
        " Default: /var/lib/cni and /var/lib/cni/multus.",
    ),
]
PluginDirs = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin-dir",
        help="The runtime's directory of plugins, in which those of this suite are told from others; may be"
        " repeated. Default: /opt/cni/bin, then those of podman and CRI-O.",
    ),
]
ConfDir = Annotated[
    Path | None, typer.Option(help="Directory of the runtime's network configs, for overlays.")
]


def repair(
    *,
    network: Networks = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what is missing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    cache_dir: CacheDirs = None,
    plugin_dir: PluginDirs = None,
    conf_dir: ConfDir = None,
) -> None:
    from cni_plugins.cli.repair import text

    if os.geteuid() != 0:
        raise Failed("must be run as root: the kernel shows rules to no other user")
    scope = _scope(network, cache_dir, plugin_dir, conf_dir)
    report = _repaired(scope, dry_run=dry_run)
    if network:
        _require_known(network, report)
    _show(report, as_json=as_json)
    if not dry_run:
        _settle(scope, report)
    failure = text.failure(report)
    if failure:
        raise Failed(plain(failure))


def _show(report: "RepairReport", *, as_json: bool) -> None:
    from cni_plugins.cli.repair import document, text

    print_answer(document.document(report) if as_json else text.lines(report))
    warn(report.faults)


def _settle(scope: "Scope", report: "RepairReport") -> None:
    """Give a DEL that was under way the time to end, and remove what it has not seen."""
    from cni_plugins.upkeep import repair as upkeep

    repaired = [one for one in report.attachments if one.differences]
    if repaired:
        time.sleep(upkeep.SETTLING)
        for gone in upkeep.take_back_departed(scope, repaired):
            typer.echo(f"cnictl: {plain(gone)}: deleted meanwhile, and so are its rules", err=True)


def _scope(
    networks: list[str] | None,
    cache_dirs: list[Path] | None,
    plugin_dirs: list[Path] | None,
    conf_dir: Path | None,
) -> "Scope":
    from cni_plugins.upkeep.repair import Scope

    usual = Scope()
    return Scope(
        tuple(cache_dirs or usual.cache_dirs),
        tuple(plugin_dirs or usual.plugin_dirs),
        conf_dir or usual.conf_dir,
        tuple(networks or ()),
    )


def _repaired(scope: "Scope", *, dry_run: bool) -> "RepairReport":
    from cni_plugins.upkeep import repair as upkeep

    try:
        return upkeep.repair(scope, dry_run=dry_run)
    except OSError as err:
        raise Failed(f"cannot look at the rules of this host: {err.strerror}") from err


def _require_known(networks: list[str], report: "RepairReport") -> None:
    known = {one.of.attachment.network for one in report.attachments}
    unknown = next((name for name in networks if name not in known), None)
    if unknown is not None:
        raise Failed(f"no runtime remembers an attachment of network {unknown}")
