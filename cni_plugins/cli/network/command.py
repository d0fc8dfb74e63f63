"""Defines `cnictl network`: creates, lists, shows and removes networks, in the words of `docker network`."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cni_plugins.cli.failure import Failed
from cni_plugins.cli.output import fail, print_answer, warn
from cni_plugins.cli.text import plain

if TYPE_CHECKING:
    from cni_plugins.cli.network.place import Place

# Help is explicit: freezing strips docstrings.
app = typer.Typer(
    no_args_is_help=True, help="Create, list, show and remove networks, with the words of `docker network`."
)

_CONF_DIR = Path("/etc/cni/net.d")
_DRIVER = "Driver: bridge, macvlan, ptp or vxlan (overlay)."
_OPTION = "Option of the driver, such as parent=eth0.10 or mtu=9000; may be repeated."
_NO_IPV4 = "Without --no-ipv4, a network gets an IPv4 subnet."

Names = Annotated[list[str], typer.Argument(metavar="NETWORK...", help="Names of networks.")]
Texts = list[str] | None
Driver = Annotated[str, typer.Option("--driver", "-d", help=_DRIVER)]
Subnet = Annotated[Texts, typer.Option(metavar="CIDR", help="May be repeated. Default: a free one.")]
Gateway = Annotated[Texts, typer.Option(metavar="IP", help="Of a subnet. Default: its first address.")]
IpRange = Annotated[
    Texts, typer.Option("--ip-range", metavar="CIDR", help="Part of a subnet to give addresses from.")
]
Aux = Annotated[Texts, typer.Option("--aux-address", metavar="NAME=IP", help="Address not to be given out.")]
Ipv4 = Annotated[bool, typer.Option("--ipv4/--no-ipv4", help=_NO_IPV4)]
Ipv6 = Annotated[bool, typer.Option("--ipv6", help="Also give IPv6 addresses.")]
Internal = Annotated[bool, typer.Option("--internal", help="Nothing leaves the network.")]
Options = Annotated[Texts, typer.Option("--opt", "-o", metavar="KEY=VALUE", help=_OPTION)]
Labels = Annotated[Texts, typer.Option("--label", metavar="KEY=VALUE", help="Kept with the network.")]
IpamDriver = Annotated[
    str, typer.Option("--ipam-driver", help="host-local, dhcp or none. Default: as the driver needs it.")
]
ConfDir = Annotated[Path, typer.Option(help="Directory of the runtime's network configs.")]
Registry = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="File that names a store for networks of many hosts. Default: /etc/cni-plugins/registry.json,"
        " if it exists; create uses that for overlays only.",
    ),
]
CacheDir = Annotated[
    list[Path] | None,
    typer.Option(
        help="Directory where libcni remembers attachments; may be repeated."
        " Default: /var/lib/cni and /var/lib/cni/multus."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command(help="Create a network on this host, or with --registry on all hosts that follow the store.")
def create(  # noqa: PLR0913 (each is an option)
    name: Annotated[str, typer.Argument(metavar="NETWORK", help="Name of the network.")],
    *,
    driver: Driver = "bridge",
    subnet: Subnet = None,
    gateway: Gateway = None,
    ip_range: IpRange = None,
    aux_address: Aux = None,
    ipv4: Ipv4 = True,
    ipv6: Ipv6 = False,
    internal: Internal = False,
    opt: Options = None,
    label: Labels = None,
    ipam_driver: IpamDriver = "",
    registry: Registry = None,
    conf_dir: ConfDir = _CONF_DIR,
    cache_dir: CacheDir = None,
    as_json: AsJson = False,
) -> None:
    from cni_plugins.cli.network import create as creating
    from cni_plugins.cli.network import document, text
    from cni_plugins.cli.network.wish import Words, read

    words = Words(
        name=name,
        driver=driver,
        subnets=subnet or (),
        gateways=gateway or (),
        ranges=ip_range or (),
        aux=aux_address or (),
        ipv4=ipv4,
        ipv6=ipv6,
        internal=internal,
        options=opt or (),
        labels=label or (),
        ipam=ipam_driver,
    )
    wish = read(words)
    is_shared = registry is not None or (wish.driver == "vxlan" and "peers" not in wish.options)
    with _reported():
        place = _place(conf_dir, cache_dir, registry, stores=is_shared)
        made = creating.locally(wish, place) if place.registry is None else creating.shared(wish, place)
    if as_json:
        print_answer(document.created(made))
    else:
        print_answer(text.created(made))
    warn(made.told)


@app.command("ls", help="List the networks of this host, and those of the store.")
def list_networks(
    *,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print names only.")] = False,
    registry: Registry = None,
    conf_dir: ConfDir = _CONF_DIR,
    cache_dir: CacheDir = None,
    as_json: AsJson = False,
) -> None:
    from cni_plugins.cli.network import document, text
    from cni_plugins.cli.network.listing import find

    with _reported():
        found = find(_place(conf_dir, cache_dir, registry))
    if as_json:
        print_answer(document.listed(found.networks))
    else:
        print_answer((one.name for one in found.networks) if quiet else text.listed(found.networks))
    fail(found.faults)


@app.command(help="Show networks as JSON: config, subnets, labels, containers and their addresses.")
def inspect(
    names: Names,
    *,
    registry: Registry = None,
    conf_dir: ConfDir = _CONF_DIR,
    cache_dir: CacheDir = None,
) -> None:
    from cni_plugins.cli.network import document
    from cni_plugins.cli.network.listing import find

    with _reported():
        found = find(_place(conf_dir, cache_dir, registry))
    networks = [found.find(name) for name in names]
    print_answer(document.inspected(networks))
    warn(found.faults)


@app.command(help="Remove networks that no container is on: those of this host, and those of the store.")
def rm(
    names: Names,
    *,
    registry: Registry = None,
    conf_dir: ConfDir = _CONF_DIR,
    cache_dir: CacheDir = None,
) -> None:
    from cni_plugins.cli.network.listing import remove

    place = _place(conf_dir, cache_dir, registry)
    refused: list[str] = []
    for name in names:
        try:
            with _reported():
                warn(remove(name, place))
        except Failed as err:
            refused.append(str(err))
        else:
            typer.echo(plain(name))
    fail(refused)


def _place(
    conf_dir: Path, cache_dirs: list[Path] | None, registry: Path | None, *, stores: bool = True
) -> "Place":
    from cni_plugins.cli.network import place

    if os.geteuid() != 0:
        raise Failed("must be run as root: the kernel and runtimes tell no other user who is on a network")
    chosen = place.registry(registry) if stores else None
    usual = place.Place()
    return place.Place(conf_dir, tuple(cache_dirs or usual.cache_dirs), chosen)


@contextmanager
def _reported() -> "Iterator[None]":
    """Turn what the kernel refuses into a failure of the command."""
    from cni_plugins.errors import CniError
    from cni_plugins.upkeep.networks.validate import told

    try:
        yield
    except CniError as err:
        raise Failed(told(err)) from err
