"""Defines `cnictl ipam`: shows, keeps and releases what hosts have of networks with IPAM plugin cluster."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cni_plugins.cli.failure import Failed
from cni_plugins.cli.output import fail, print_answer

if TYPE_CHECKING:
    from cni_plugins.keeper.blocks_configs import FoundNetworks

# Help is explicit: freezing strips docstrings.
app = typer.Typer(
    no_args_is_help=True, help="Show and release what hosts have of shared subnets (IPAM plugin cluster)."
)

Networks = Annotated[list[str] | None, typer.Argument(metavar="[NETWORK]...", help="Default: all.")]
ConfDir = Annotated[Path, typer.Option(help="Directory of the runtime's network configs.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_CONF_DIR = Path("/etc/cni/net.d")


@app.command(help="Show the blocks and fixed addresses of all hosts, this one marked with *, and their use.")
def show(
    networks: Networks = None,
    *,
    local: Annotated[
        bool, typer.Option("--local", help="Only this host's, as its files have them; without the store.")
    ] = False,
    conf_dir: ConfDir = _CONF_DIR,
    as_json: AsJson = False,
) -> None:
    from cni_plugins.cli.ipam import text
    from cni_plugins.keeper import blocks_once

    found = _load(conf_dir, networks)
    seen = [blocks_once.overview(one, local=local) for one in found.networks]
    print_answer(text.document(seen) if as_json else text.lines(seen))
    fail([*found.faults, *text.faults(seen)])


@app.command(
    help="Do once what the agent does all the time: claim, give back, and write down what calls use."
)
def sync(networks: Networks = None, *, conf_dir: ConfDir = _CONF_DIR) -> None:
    from cni_plugins.keeper import blocks_once

    found = _load(conf_dir, networks)
    troubles = [(one.network, blocks_once.sync(one)) for one in found.networks]
    print_answer(f"{network}: {trouble or 'in step with the store'}" for network, trouble in troubles)
    fail([*found.faults, *(f"network {network}: {trouble}" for network, trouble in troubles if trouble)])


@app.command(help="Release all that a node has, or one block or address, so that other hosts may claim it.")
def release(
    what: Annotated[str, typer.Argument(metavar="NODE|BLOCK", help="Name of a node, or a CIDR or address.")],
    networks: Networks = None,
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Also if that host is live, and would lose addresses in use.")
    ] = False,
    conf_dir: ConfDir = _CONF_DIR,
) -> None:
    from cni_plugins.keeper import blocks_once

    found = _load(conf_dir, networks)
    done = [blocks_once.release(one, what, force=force) for one in found.networks]
    print_answer(f"{one.network}: released {', '.join(one.parts) or what}" for one in done if not one.error)
    faults = [f"network {one.network}: {one.error}" for one in done if one.error]
    # A node need not be in all networks, if none was named.
    fail(faults if networks or len(faults) == len(done) else ())


def _load(conf_dir: Path, names: list[str] | None) -> "FoundNetworks":
    """Return the networks with these names, or all with the faults of all files.

    :raises Failed: when there is none.
    """
    from cni_plugins.keeper import blocks_configs

    if os.geteuid() != 0:
        raise Failed("must be run as root: leases and blocks are root's")
    try:
        found = blocks_configs.in_directory(conf_dir)
    except OSError as err:
        raise Failed(f"{conf_dir}: {err.strerror}") from err
    known = {one.network: one for one in found.networks}
    unknown = next((name for name in names or () if name not in known), None)
    if unknown is not None or not known:
        which = f"network {unknown}" if unknown is not None else "network"
        why = "; ".join(found.faults) or "no file there has ipam.type cluster"
        raise Failed(f"no {which} with IPAM plugin cluster in {conf_dir}: {why}")
    return (
        found._replace(networks=tuple(known[name] for name in dict.fromkeys(names)), faults=())
        if names
        else found
    )
