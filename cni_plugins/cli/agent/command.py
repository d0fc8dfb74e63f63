"""Defines `cnictl agent`: runs the resident agent, or shows its status."""

import json
import os
from typing import Annotated

import typer

from cni_plugins.cli.failure import Failed

# Help is explicit: freezing strips docstrings.
app = typer.Typer(
    help="Run the agent in the foreground: resident workers serve calls of the plugins without start-up time."
)

Workers = Annotated[
    int | None,
    typer.Option(min=1, max=1024, help="Number of workers. Default: one per processor, at least 2."),
]
Socket = Annotated[
    str | None,
    typer.Option(help="Path of the socket. Default: /run/cni-plugins/agent.sock."),
]
RecycleAfter = Annotated[
    int | None,
    typer.Option(min=1, help="Requests after which a worker is replaced. Default: 10000."),
]
RequestTimeout = Annotated[
    float | None,
    typer.Option(min=1.0, help="Seconds after which a busy worker counts as hung. Default: 120."),
]
Metrics = Annotated[
    str | None,
    typer.Option(metavar="unix:PATH|127.0.0.1:PORT", help="Address for Prometheus. Default: no metrics."),
]
Repair = Annotated[
    bool | None,
    typer.Option(
        "--repair/--no-repair",
        help="Bring back rules that other programs remove, as cnictl repair does. Default: on.",
    ),
]
Keeper = Annotated[
    bool | None,
    typer.Option(
        "--keeper/--no-keeper",
        help="Follow overlay networks whose peers come from a store or a file. Default: on.",
    ),
]
CacheDir = Annotated[
    list[str] | None, typer.Option(help="For repairs: as of cnictl repair; may be repeated.")
]
PluginDir = Annotated[
    list[str] | None, typer.Option(help="For repairs: as of cnictl repair; may be repeated.")
]
ConfDir = Annotated[
    str | None, typer.Option(help="For repairs and the keeper: directory of the runtime's network configs.")
]


@app.callback(invoke_without_command=True)
def agent(  # noqa: PLR0913 (one for each option)
    context: typer.Context,
    *,
    workers: Workers = None,
    socket: Socket = None,
    recycle_after: RecycleAfter = None,
    request_timeout: RequestTimeout = None,
    metrics: Metrics = None,
    repair: Repair = None,
    keeper: Keeper = None,
    cache_dir: CacheDir = None,
    plugin_dir: PluginDir = None,
    conf_dir: ConfDir = None,
) -> None:
    given = {
        "workers": workers,
        "socket": socket,
        "recycle_after": recycle_after,
        "request_timeout": request_timeout,
        "metrics": metrics,
        "repair": repair,
        "keeper": keeper,
        "cache_dir": tuple(cache_dir) if cache_dir else None,
        "plugin_dir": tuple(plugin_dir) if plugin_dir else None,
        "conf_dir": conf_dir or None,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if context.invoked_subcommand:
        context.obj = given.pop("socket", None)
        if given:
            raise typer.BadParameter("an option of the agent itself, not of this command")
        return
    from cni_plugins.agent.listener import CannotListen
    from cni_plugins.agent.metrics.address import parse
    from cni_plugins.agent.serve import Options, default_workers
    from cni_plugins.cli.agent.process import become, require_agent_support

    require_agent_support()
    options = Options(**{"workers": default_workers(), **given})  # type: ignore[arg-type]
    if not options.socket.startswith("/"):
        raise typer.BadParameter("must be an absolute path", param_hint="--socket")
    try:
        if options.metrics:
            parse(options.metrics)
    except CannotListen as err:
        raise typer.BadParameter(str(err)) from err
    become(options)


@app.command(help="Show the running agent: its workers, calls served and refused, and the latest errors.")
def status(
    context: typer.Context,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    socket: Annotated[str | None, typer.Option(help="Path of the agent's socket.")] = None,
) -> None:
    from cni_plugins.agent.serve import SOCKET
    from cni_plugins.agent.status import NoAgent, ask

    path = socket or context.obj or os.environ.get("CNI_PLUGINS_AGENT") or SOCKET
    try:
        document = ask(path)
    except NoAgent as err:
        raise Failed(str(err)) from err
    from cni_plugins.keeper import overview

    document["keeper"] = overview.states()
    if as_json:
        typer.echo(json.dumps(document, indent=2))
        return
    from cni_plugins.cli.agent.text import lines

    typer.echo("\n".join(lines(document)))
