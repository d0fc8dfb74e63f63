"""Defines `cnictl lab`: builds an overlay network between hosts that are network namespaces."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from cni_plugins.cli.failure import Failed
from cni_plugins.cli.lab.topology import (
    MOST_CONTAINERS,
    MOST_HOSTS,
    Backend,
    Bum,
    DirectRouting,
    LabOptions,
    Mode,
    plan,
)

if TYPE_CHECKING:
    from cni_plugins.cli.lab.files import Place

# Help is explicit: freezing strips docstrings.
app = typer.Typer(
    no_args_is_help=True,
    help="Try an overlay on this machine: hosts are network namespaces, with containers attached to them.",
)

Name = Annotated[str, typer.Option(help="Up to 15 lower-case letters and digits; prefix of the namespaces.")]
Directory = Annotated[Path | None, typer.Option("--dir", help="Default: /run/cni-plugins-lab.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Hosts = Annotated[int, typer.Option(min=1, max=MOST_HOSTS, help="Number of hosts.")]
Containers = Annotated[
    int, typer.Option(min=1, max=MOST_CONTAINERS, help="Number of containers on each host.")
]
ModeOption = Annotated[Mode, typer.Option(help="A subnet for each host, or one for all.")]
BackendOption = Annotated[Backend, typer.Option(help="How hosts find each other.")]
Underlay = Annotated[Literal["4", "6"], typer.Option(help="IP version between hosts.")]
DualStack = Annotated[bool, typer.Option("--dual-stack", help="Give containers IPv6 addresses as well.")]
BumOption = Annotated[
    Bum | None, typer.Option(help="l2: handling of broadcast and multicast. Default: that of the plugin.")
]
Direct = Annotated[DirectRouting | None, typer.Option(help="l3: when to route without encapsulation.")]
ZeroControl = Annotated[
    bool, typer.Option("--zero-control", help="Configure hosts only with each other's addresses.")
]
Mtu = Annotated[
    int, typer.Option(min=0, max=65535, help="MTU of the overlay. Default: computed by the plugin.")
]
UnderlayMtu = Annotated[int, typer.Option(min=1280, max=65535, help="MTU of the links between hosts.")]
Plugins = Annotated[
    Path | None, typer.Option(help="Directory of the plugins. Default: that of cnictl, or else /opt/cni/bin.")
]
Keep = Annotated[bool, typer.Option("--keep/--once", help="Keep the lab, or take it down at the end.")]


@app.command(
    help="Build hosts, attach containers with the plugins, and ping between all of them. "
    "Exit code 1: a ping was not answered. A lab that cannot be built completely is removed again."
)
def up(  # noqa: PLR0913 (options are parameters to typer)
    *,
    name: Name = "cnilab",
    hosts: Hosts = 3,
    containers: Containers = 1,
    mode: ModeOption = "l3",
    backend: BackendOption = "static",
    underlay: Underlay = "4",
    dual_stack: DualStack = False,
    bum: BumOption = None,
    direct_routing: Direct = None,
    zero_control: ZeroControl = False,
    mtu: Mtu = 0,
    underlay_mtu: UnderlayMtu = 1500,
    plugins: Plugins = None,
    directory: Directory = None,
    keep: Keep = True,
    as_json: AsJson = False,
) -> None:
    from cni_plugins.cli.lab import run
    from cni_plugins.cli.lab.build import BuildOrder, require_plugin
    from cni_plugins.cli.lab.files import claimed, require_tools

    with _as_bad_parameter():
        wanted = plan(
            LabOptions(
                name=name,
                hosts=hosts,
                containers=containers,
                mode=mode,
                backend=backend,
                underlay=int(underlay),
                dual_stack=dual_stack,
                bum=bum,
                direct_routing=direct_routing,
                zero_control=zero_control,
                mtu=mtu,
                underlay_mtu=underlay_mtu,
            )
        )
    require_tools()
    order = BuildOrder(wanted, _place(name, directory), _plugins(plugins))
    require_plugin(order.plugins)
    with _errors_as_failed(), _ended_by_signals(), claimed(order.place):
        is_whole = run.up(order, keep=keep, as_json=as_json)
    if not is_whole:
        raise typer.Exit(1)


@app.command(
    help="Detach the containers, show what is left on the hosts, and remove the lab, "
    "also one that was only partly built."
)
def down(*, name: Name = "cnilab", directory: Directory = None) -> None:
    from cni_plugins.cli.lab import run
    from cni_plugins.cli.lab.files import held, require_tools

    require_tools()
    place = _place(name, directory)
    if place.is_empty():
        typer.echo(f"nothing to take down: there is no lab named {name}")
        return
    with _errors_as_failed(), held(place):
        is_clean = run.down(place, typer.echo)
    if not is_clean:
        raise typer.Exit(1)


@app.command(help="Show the hosts and containers of a lab, and with --ping which of them reach each other.")
def show(
    *,
    name: Name = "cnilab",
    directory: Directory = None,
    ping: Annotated[bool, typer.Option("--ping", help="Ping between containers and hosts again.")] = False,
    as_json: AsJson = False,
) -> None:
    from cni_plugins.cli.lab import run
    from cni_plugins.cli.lab.files import require_tools

    require_tools()
    with _errors_as_failed():
        is_whole = run.show(_place(name, directory), ping=ping, as_json=as_json)
    if not is_whole:
        raise typer.Exit(1)


def _place(name: str, directory: Path | None) -> "Place":
    from cni_plugins.cli.lab.files import DIRECTORY, Place

    with _as_bad_parameter():
        plan(LabOptions(name=name))
    return Place((directory or DIRECTORY).absolute() / name)


def _plugins(given: Path | None) -> Path:
    from cni_plugins.cli.lab.build import PLUGIN

    if given is not None:
        return given.absolute()
    frozen = getattr(sys, "frozen", False)
    beside = Path(os.readlink("/proc/self/exe")).parent if frozen else Path(__file__).parents[3] / "dist"
    return beside if (beside / PLUGIN).exists() else Path("/opt/cni/bin")


@contextmanager
def _errors_as_failed() -> Iterator[None]:
    """Turn an error of the kernel or the file system into a message for the operator."""
    from cni_plugins.errors import CniError

    try:
        yield
    except CniError as err:
        raise Failed(err.msg) from err
    except BrokenPipeError:  # the reader of the output is gone, and would not read the message
        raise
    except OSError as err:
        raise Failed(f"{err.filename or 'a file'}: {err.strerror}") from err


@contextmanager
def _as_bad_parameter() -> Iterator[None]:
    try:
        yield
    except ValueError as err:
        raise typer.BadParameter(str(err)) from err


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Make SIGTERM and SIGHUP raise KeyboardInterrupt, so that the lab is taken down as with Ctrl-C."""

    def end(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
