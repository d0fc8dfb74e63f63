"""Assembles the commands of cnictl; their implementations are imported only when a command is called."""

from typing import Annotated

import typer

from cni_plugins.cli.agent import command as agent
from cni_plugins.cli.install import command as install
from cni_plugins.cli.ipam import command as ipam
from cni_plugins.cli.lab import command as lab
from cni_plugins.cli.network import command as network
from cni_plugins.cli.overlay import command as overlay
from cni_plugins.cli.repair import command as repair
from cni_plugins.cli.version import VERSION_LINE

# Help is explicit: freezing strips docstrings.
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Install the CNI plugins of this node, run their agent, and inspect and repair networks.",
)
app.add_typer(agent.app, name="agent")
app.add_typer(network.app, name="network")
app.add_typer(overlay.app, name="overlay")
app.add_typer(ipam.app, name="ipam")
app.add_typer(lab.app, name="lab")
app.command(help=install.INSTALL_HELP)(install.install)
app.command(help=install.UNINSTALL_HELP)(install.uninstall)
app.command(help=repair.HELP)(repair.repair)


@app.callback()
def cnictl(
    *,
    version: Annotated[bool, typer.Option("--version", help="Show version and build.")] = False,
) -> None:
    if version:
        typer.echo(VERSION_LINE)
        raise typer.Exit
