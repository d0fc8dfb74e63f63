"""The commands of cnictl. What each does is imported when it is called."""

from typing import Annotated

import typer

from cni_plugins.cli import agent, lab, overlay, setup
from cni_plugins.cli.main import VERSION_LINE

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(agent.app, name="agent")
app.add_typer(overlay.app, name="overlay")
app.add_typer(lab.app, name="lab")
app.command()(setup.install)
app.command()(setup.uninstall)


@app.callback()
def cnictl(
    *,
    version: Annotated[bool, typer.Option("--version", help="Show version and build.")] = False,
) -> None:
    """Install the CNI plugins of this node, and run the agent that makes them quick."""
    if version:
        typer.echo(VERSION_LINE)
        raise typer.Exit
