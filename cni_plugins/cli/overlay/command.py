"""Defines `cnictl overlay`: synchronises, shows and measures the overlay networks of this host."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cni_plugins.cli.failure import Failed
from cni_plugins.cli.output import fail, print_answer
from cni_plugins.cli.overlay import flannel

if TYPE_CHECKING:
    from cni_plugins.cli.overlay.text import NetworkOutcome
    from cni_plugins.upkeep.overlay_configs import Configured, FoundConfigs

# Help is explicit: freezing strips docstrings.
app = typer.Typer(
    no_args_is_help=True, help="Inspect and repair this host's overlay networks (plugin vxlan)."
)

app.add_typer(flannel.importing, name="import")
app.add_typer(flannel.exporting, name="export")

Networks = Annotated[list[str] | None, typer.Argument(metavar="[NETWORK]...", help="Default: all.")]
ConfDir = Annotated[Path, typer.Option(help="Directory of the runtime's network configs.")]
Conf = Annotated[Path | None, typer.Option(help="File with a network config or list, not a directory.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
CacheDir = Annotated[
    list[Path] | None,
    typer.Option(
        help="Directory where libcni remembers attachments, for networks that have no file, such"
        " as those of multus; may be repeated. Default: /var/lib/cni and /var/lib/cni/multus."
    ),
]
_CONF_DIR = Path("/etc/cni/net.d")


@app.command(help="Read the stores, and update the kernel to match config and peers, as the next ADD would.")
def sync(
    networks: Networks = None,
    *,
    create: Annotated[
        bool, typer.Option("--create", help="Also for networks without a container on this host.")
    ] = False,
    conf_dir: ConfDir = _CONF_DIR,
    cache_dir: CacheDir = None,
    conf: Conf = None,
    as_json: AsJson = False,
) -> None:
    from cni_plugins.cli.overlay import document, stores, text
    from cni_plugins.upkeep import overlay

    found = _load(conf_dir, cache_dir, conf, networks)
    troubles = stores.read_all(found.networks)
    outcomes = _for_each(
        found, lambda one: text.NetworkOutcome(one, overlay.sync(one.network, one.conf, create=create))
    )
    _show(document.sync(outcomes) if as_json else text.sync_lines(outcomes), found)
    fail([*found.faults, *troubles, *text.faults(outcomes), *text.unrepaired(outcomes)])


@app.command(help="Give up what a host owns in the stores of networks, so that others may have it.")
def release(
    node: Annotated[str, typer.Argument(help="The host's name in the stores.")],
    networks: Networks = None,
    *,
    force: Annotated[bool, typer.Option("--force", help="Also if the host shows life.")] = False,
    conf_dir: ConfDir = _CONF_DIR,
    conf: Conf = None,
    as_json: AsJson = False,
) -> None:
    from cni_plugins.cli.overlay import stores

    found = _load(conf_dir, None, conf, networks)
    released = stores.release(found.networks, node, force=force, named=bool(networks))
    _show(
        stores.released_document(node, released) if as_json else stores.released_lines(node, released), found
    )
    fail([*found.faults, *(f"network {one.network}: {one.error}" for one in released if one.error)])


@app.command(help="Show each network, and every difference between the kernel and its intended state.")
def status(
    networks: Networks = None,
    *,
    conf_dir: ConfDir = _CONF_DIR,
    cache_dir: CacheDir = None,
    conf: Conf = None,
    as_json: AsJson = False,
) -> None:
    from cni_plugins.cli.overlay import document, text

    found = _load(conf_dir, cache_dir, conf, networks)
    outcomes = _views(found, with_filters=True)
    _show(document.status(outcomes) if as_json else text.status_lines(outcomes), found)
    fail([*found.faults, *text.faults(outcomes), *text.drifts(outcomes), *text.blocked(outcomes)])


@app.command(help="Show the hosts of each network, this one marked with *, and how packets reach them.")
def peers(
    networks: Networks = None,
    *,
    conf_dir: ConfDir = _CONF_DIR,
    cache_dir: CacheDir = None,
    conf: Conf = None,
    as_json: AsJson = False,
) -> None:
    from cni_plugins.cli.overlay import document, text

    found = _load(conf_dir, cache_dir, conf, networks)
    outcomes = _views(found, with_tables=True)
    _show(document.peers(outcomes) if as_json else text.peers_lines(outcomes), found)
    fail([*found.faults, *text.faults(outcomes)])


@app.command(
    help="Measure the path to each peer: round-trip time and MTU on the underlay, time inside the overlay."
)
def probe(
    networks: Networks = None,
    *,
    write: Annotated[
        bool, typer.Option("--write", help="Write the measured path MTU into the routes to each peer.")
    ] = False,
    conf_dir: ConfDir = _CONF_DIR,
    cache_dir: CacheDir = None,
    conf: Conf = None,
    as_json: AsJson = False,
) -> None:
    from cni_plugins.cli.overlay import document, text
    from cni_plugins.upkeep import overlay_probe

    found = _load(conf_dir, cache_dir, conf, networks)
    outcomes = _for_each(
        found, lambda one: text.NetworkOutcome(one, *overlay_probe.probe(one.network, one.conf, write=write))
    )
    lines = text.probe_lines(outcomes, written=write)
    _show(document.probe(outcomes) if as_json else lines, found)
    fail([*found.faults, *text.faults(outcomes), *text.drifts(outcomes), *text.failed_probes(outcomes)])


def _load(
    conf_dir: Path, cache_dirs: list[Path] | None, conf: Path | None, names: list[str] | None
) -> "FoundConfigs":
    from cni_plugins.cli.overlay.select import in_directory, select
    from cni_plugins.upkeep import caches, overlay_configs

    if os.geteuid() != 0:
        raise Failed("must be run as root: the kernel shows overlay state to no other user")
    if conf is not None:
        return select(overlay_configs.in_file(conf), names or (), str(conf), is_asked_for=True)
    cached = caches.read(cache_dirs or caches.DEFAULT).attachments
    remembered = overlay_configs.of_attachments(cached)
    there = in_directory(conf_dir, may_be_absent=conf_dir == _CONF_DIR)
    found = overlay_configs.with_remembered(there, remembered)
    return select(found, names or (), str(conf_dir))


def _views(found: "FoundConfigs", **details: bool) -> "list[NetworkOutcome]":
    """Look at each network, with details as of `upkeep.overlay.view`."""
    from cni_plugins.cli.overlay import text
    from cni_plugins.upkeep import overlay

    def seen(one: "Configured") -> "NetworkOutcome":
        return text.NetworkOutcome(one, overlay.view(one.network, one.conf, **details))

    return _for_each(found, seen)


def _for_each(found: "FoundConfigs", do: "Callable[[Configured], NetworkOutcome]") -> "list[NetworkOutcome]":
    """Apply a function to each network; an error in one does not stop the others."""
    return [_outcome(one, do) for one in found.networks]


def _outcome(one: "Configured", do: "Callable[[Configured], NetworkOutcome]") -> "NetworkOutcome":
    from cni_plugins.cli.overlay import text
    from cni_plugins.errors import CniError, KernelRefused

    try:
        return do(one)
    except CniError as err:
        return text.NetworkOutcome(one, error=err)
    except OSError as err:
        refused = KernelRefused(err.strerror or str(err), err.filename or "", err.errno or 0)
        return text.NetworkOutcome(one, error=refused)


def _show(answer: Iterable[Any], found: "FoundConfigs") -> None:
    """:param answer: a JSON document, or lines of text"""
    if not (found.networks or found.faults or isinstance(answer, list)):
        typer.echo(f"no overlay network in {found.place}")
    print_answer(answer)
