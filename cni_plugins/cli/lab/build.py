"""Builds a lab and takes it down: the underlay with `ip`, the overlay by calling the plugin like a runtime.

A lab in any state can be taken down, as missing parts are skipped.
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
_RULES = "cni_plugins"  # part of the names of our nf_tables tables
_NOT_LEASES = ("lock", "last_reserved_ip")


class PluginRefused(Exception):
    """A plugin has returned an error; the message contains it."""


class BuildOrder(NamedTuple):
    """A lab to build, the directory of its files, and the directory of the plugins."""

    lab: Lab
    place: Place
    plugins: Path


class Attached(NamedTuple):
    """The result of an ADD, and how long it took in seconds.

    :param addresses: without prefix length.
    """

    container: str
    addresses: list[str]
    seconds: float


class LabRemoval(NamedTuple):
    """The outcome of a removal: errors of DEL, and objects of the overlay that are left on the hosts."""

    detached: int = 0
    errors: tuple[str, ...] = ()
    left: tuple[str, ...] = ()

    @property
    def is_clean(self) -> bool:
        return not self.errors and not self.left


def require_plugin(plugins: Path) -> None:
    """:raises Failed: when the plugin is missing or not executable"""
    if not os.access(plugins / PLUGIN, os.X_OK):
        raise Failed(f"{plugins / PLUGIN} does not exist: name the directory of the plugins with --plugins")


def write_files(order: BuildOrder) -> None:
    """Write the files that a later `down` needs, before anything else is created."""
    lab, place, plugins = order
    places.write_order(place, lab, plugins)
    places.write(place.peers, topology.peers(lab))
    for host in lab.hosts:
        leases = str(place.leases(host))
        places.write(place.conf(host), topology.conf(lab, host, str(place.peers), leases))


def build_underlay(lab: Lab) -> None:
    """Create the hosts, the containers' namespaces, and the switch that connects the hosts."""
    places.ip(topology.wires(lab))
    places.ip(topology.of_switch(lab), lab.switch)
    each(lambda host: places.ip(topology.of_host(lab, host), host.netns), lab.hosts, processors())


def attach(order: BuildOrder) -> list[Attached]:
    """ADD all containers, as many at a time as there are processors.

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
    """Return the attachments that `attach` made; an empty list if it did not finish."""
    return [Attached(**item) for item in places.read(place.attached) or ()]


def call(order: BuildOrder, command: str, host: Host, container: str) -> dict[str, Any]:
    """Call the plugin in the host's namespace.

    :raises PluginRefused: when it returns an error.
    """
    environment = {
        **{name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ},
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": container,
        "CNI_NETNS": str(places.NAMESPACES / container),
        "CNI_IFNAME": IFNAME,
        "CNI_PATH": str(order.plugins),
        "CNI_PLUGINS_AGENT": "",  # the node's agent does not serve calls from other namespaces
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
        parts = (stdout.strip() or stderr.strip() or "it ended without any output", None)
    return ": ".join(part for part in parts if part)


def take_down(place: Place) -> LabRemoval | None:
    """Detach all containers, check what is left on the hosts, and remove namespaces and files.

    Return None when the files do not say which containers the lab had, so that none was detached.
    """
    known = places.read_order(place)
    removal = _detach(BuildOrder(known[0], place, known[1])) if known else None
    places.ip(f"netns del {name}" for name in place.namespaces())
    places.remove_files(place)
    return removal


def _detach(order: BuildOrder) -> LabRemoval:
    """DEL the containers of all hosts that exist: an interrupted lab may be incomplete."""
    hosts = [
        host for host in order.lab.hosts if places.is_there(host.netns) and order.place.conf(host).exists()
    ]
    attachments = [(host, container) for host in hosts for container in host.containers]
    if os.access(order.plugins / PLUGIN, os.X_OK):
        each_error = each(lambda item: _error_of_del(order, *item), attachments, processors())
        errors = tuple(filter(None, each_error))
        detached = len(attachments) - len(errors)
    else:
        errors, detached = (f"{order.plugins / PLUGIN} does not exist any more",), 0
    left = each(lambda host: list(_left(order, host)), hosts, processors())
    return LabRemoval(detached, errors, tuple(line for lines in left for line in lines))


def _error_of_del(order: BuildOrder, host: Host, container: str) -> str:
    try:
        call(order, "DEL", host, container)
    except PluginRefused as err:
        return str(err)
    return ""


def _left(order: BuildOrder, host: Host) -> Iterator[str]:
    """Yield the objects that the plugin created on a host and did not remove."""
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
