"""Building a lab and taking it down: the underlay by `ip`, the overlay by calls of the plugin as a runtime's.

Whatever state a lab is in, it can be taken down: what is not there needs no removing.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cni_plugins.cli.failure import Failed
from cni_plugins.cli.lab import files as places
from cni_plugins.cli.lab import topology
from cni_plugins.cli.lab.files import Place
from cni_plugins.cli.lab.parallel import each, processors
from cni_plugins.cli.lab.topology import UPLINK, Host, Lab
from cni_plugins.ownership import ROUTE_PROTOCOL

PLUGIN = "vxlan"
IFNAME = "eth0"  # of a container
_RULES = "cni_plugins"  # what tables of our rules are called
_NOT_LEASES = ("lock", "last_reserved_ip")


class PluginRefused(Exception):
    """What a plugin answered instead of a result."""


class BuildOrder(NamedTuple):
    """A lab, where its files are, and where the plugins are."""

    lab: Lab
    place: Place
    plugins: Path


class Attached(NamedTuple):
    """What ADD gave a container, and the seconds it took.

    :param addresses: without prefix length.
    """

    container: str
    addresses: list[str]
    seconds: float


class LabRemoval(NamedTuple):
    """How a lab went: errors of DEL, and for each host what it kept of the overlay."""

    detached: int = 0
    errors: tuple[str, ...] = ()
    left: tuple[str, ...] = ()

    @property
    def is_clean(self) -> bool:
        return not self.errors and not self.left


def require_plugin(plugins: Path) -> None:
    """:raises Failed: when it is not there"""
    if not os.access(plugins / PLUGIN, os.X_OK):
        raise Failed(f"there is no {plugins / PLUGIN}: name the directory of the plugins with --plugins")


def write_files(order: BuildOrder) -> None:
    """Write all that a later `down` needs, before anything else is made."""
    lab, place, plugins = order
    places.write_order(place, lab, plugins)
    places.write(place.peers, topology.peers(lab))
    for host in lab.hosts:
        leases = str(place.leases(host))
        places.write(place.conf(host), topology.conf(lab, host, str(place.peers), leases))


def build_underlay(lab: Lab) -> None:
    """Make the hosts, the containers' namespaces and the switch between the hosts."""
    places.ip(topology.wires(lab))
    places.ip(topology.of_switch(lab), lab.switch)
    each(lambda host: places.ip(topology.of_host(lab, host), host.netns), lab.hosts, processors())


def attach(order: BuildOrder) -> list[Attached]:
    """ADD every container, as many at a time as there are processors.

    :raises Failed: with the first error of the plugin.
    """
    made = each(lambda item: _attach(order, *item), order.lab.containers, processors())
    places.write(order.place.attached, [item._asdict() for item in made])
    return made


def _attach(order: BuildOrder, host: Host, container: str) -> Attached:
    began = time.perf_counter()
    try:
        result = call(order, "ADD", host, container)
    except PluginRefused as err:
        raise Failed(str(err)) from err
    addresses = [item["address"].partition("/")[0] for item in result["ips"]]
    return Attached(container, addresses, time.perf_counter() - began)


def attached(place: Place) -> list[Attached]:
    """Return what `attach` made, nothing where it did not come to its end."""
    return [Attached(**item) for item in places.read(place.attached) or ()]


def call(order: BuildOrder, command: str, host: Host, container: str) -> dict[str, Any]:
    """Call the plugin in the host's namespace.

    :raises PluginRefused: when it ends with an error.
    """
    environment = {
        **{name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ},
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": container,
        "CNI_NETNS": str(places.NAMESPACES / container),
        "CNI_IFNAME": IFNAME,
        "CNI_PATH": str(order.plugins),
        "CNI_PLUGINS_AGENT": "",  # that of this node serves no other namespace: there is no use in asking
    }
    conf = order.place.conf(host).read_text()
    with places.inside(host.netns):
        done = places.run([order.plugins / PLUGIN], conf, environment)
    if done.returncode:
        raise PluginRefused(f"{command} of {container}: {_reason(done.stdout, done.stderr)}")
    answer: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
    return answer


def _reason(stdout: str, stderr: str) -> str:
    try:
        document = json.loads(stdout)
        parts = (document["msg"], document.get("details"))
    except (ValueError, KeyError, TypeError):
        parts = (stdout.strip() or stderr.strip() or "it ended without a word", None)
    return ": ".join(part for part in parts if part)


def take_down(place: Place) -> LabRemoval | None:
    """Detach all containers, look what the hosts kept, and remove namespaces and files.

    Return None where nothing tells what the lab was, and it went without that.
    """
    known = places.read_order(place)
    removal = _detach(BuildOrder(known[0], place, known[1])) if known else None
    places.ip(f"netns del {name}" for name in place.namespaces())
    places.remove_files(place)
    return removal


def _detach(order: BuildOrder) -> LabRemoval:
    """DEL what is there to be deleted: of a lab that was interrupted not all of it has been made."""
    hosts = [
        host for host in order.lab.hosts if places.is_there(host.netns) and order.place.conf(host).exists()
    ]
    attachments = [(host, container) for host in hosts for container in host.containers]
    if os.access(order.plugins / PLUGIN, os.X_OK):
        each_error = each(lambda item: _error_of_del(order, *item), attachments, processors())
        errors = tuple(filter(None, each_error))
        detached = len(attachments) - len(errors)
    else:
        errors, detached = (f"there is no {order.plugins / PLUGIN} any more",), 0
    left = each(lambda host: list(_left(order, host)), hosts, processors())
    return LabRemoval(detached, errors, tuple(line for lines in left for line in lines))


def _error_of_del(order: BuildOrder, host: Host, container: str) -> str:
    try:
        call(order, "DEL", host, container)
    except PluginRefused as err:
        return str(err)
    return ""


def _left(order: BuildOrder, host: Host) -> Iterator[str]:
    """Name what the plugin made on a host and did not remove."""
    with places.inside(host.netns):
        links = _listed("ip", "-json", "link", "show")
        routes = _listed("ip", "-json", "route", "show", "table", "all", "proto", str(ROUTE_PROTOCOL))
        tables = places.run(["nft", "list", "tables"]).stdout if shutil.which("nft") else ""
    yield from (
        f"{host.name}: link {link['ifname']}" for link in links if link["ifname"] not in ("lo", UPLINK)
    )
    yield from (f"{host.name}: route {route['dst']}" for route in routes)
    yield from (f"{host.name}: nf_tables {table}" for table in tables.splitlines() if _RULES in table)
    yield from (f"{host.name}: lease {lease}" for lease in _leases(order.place.leases(host)))


def _listed(*command: str) -> list[dict[str, Any]]:
    listed: Sequence[dict[str, Any]] = json.loads(places.run(command).stdout or "[]")
    return [item for item in listed if item]


def _leases(directory: Path) -> list[str]:
    files = sorted(path.name for path in directory.glob("*/*") if path.is_file())
    return [name for name in files if not name.startswith(_NOT_LEASES)]
