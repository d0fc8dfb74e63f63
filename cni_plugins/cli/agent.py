"""`cnictl agent`: run the resident agent, or ask it how it is."""

import json
import os
from typing import Annotated

import typer

from cni_plugins.cli.failure import Failed

app = typer.Typer()

Workers = Annotated[
    int | None,
    typer.Option(min=1, max=1024, help="Processes that serve. Default: one per processor, at least 2."),
]
Socket = Annotated[
    str | None,
    typer.Option(help="Where callers find it. Default: /run/cni-plugins/agent.sock."),
]
RecycleAfter = Annotated[
    int | None,
    typer.Option(min=1, help="Requests after which a worker is replaced. Default: 10000."),
]
RequestTimeout = Annotated[
    float | None,
    typer.Option(min=1.0, help="Seconds after which a worker is taken to hang. Default: 120."),
]
Metrics = Annotated[
    str | None,
    typer.Option(metavar="unix:PATH|127.0.0.1:PORT", help="Where Prometheus may read. Default: nowhere."),
]


@app.callback(invoke_without_command=True)
def agent(
    context: typer.Context,
    *,
    workers: Workers = None,
    socket: Socket = None,
    recycle_after: RecycleAfter = None,
    request_timeout: RequestTimeout = None,
    metrics: Metrics = None,
) -> None:
    """Run the agent in the foreground: workers that have everything imported answer calls of the plugins."""
    given = {
        "workers": workers,
        "socket": socket,
        "recycle_after": recycle_after,
        "request_timeout": request_timeout,
        "metrics": metrics,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if context.invoked_subcommand:
        context.obj = given.pop("socket", None)
        if given:
            raise typer.BadParameter("options of the agent itself, which is not started here")
        return
    from cni_plugins.agent.listen import Unusable
    from cni_plugins.agent.metrics import require_usable
    from cni_plugins.agent.serve import Options, default_workers
    from cni_plugins.cli.resident import become, require_called

    require_called()
    options = Options(**{"workers": default_workers(), **given})  # type: ignore[arg-type]
    if not options.socket.startswith("/"):
        raise typer.BadParameter("is to be an absolute path", param_hint="--socket")
    try:
        if options.metrics:
            require_usable(options.metrics)
    except Unusable as err:
        raise typer.BadParameter(str(err)) from err
    become(options)


@app.command()
def status(
    context: typer.Context,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    socket: Annotated[str | None, typer.Option(help="Where it listens.")] = None,
) -> None:
    """Show how the running agent is: workers, what they served, who was sent away, the latest errors."""
    from cni_plugins.agent.serve import SOCKET
    from cni_plugins.agent.status import NoAgent, ask

    path = socket or context.obj or os.environ.get("CNI_PLUGINS_AGENT") or SOCKET
    try:
        page = ask(path)
    except NoAgent as none:
        raise Failed(str(none)) from none
    if as_json:
        typer.echo(json.dumps(page, indent=2))
        return
    from cni_plugins.cli.page import lines

    typer.echo("\n".join(lines(page)))
