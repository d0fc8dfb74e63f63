"""Builds a config and a list of peers of ours from what flannel keeps in etcd and on this host."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cni_plugins.cli.failure import Failed
from cni_plugins.protocol.fields import shown
from cni_plugins.protocol.request import NAME
from cni_plugins.registries import flannel_layout as layout
from cni_plugins.registries.flannel_layout import HOST_GATEWAY, VXLAN, Entry, FlannelConfig
from cni_plugins.registries.flannel_registry import FlannelRegistry
from cni_plugins.registries.store import Store

_OVERHEAD = 50  # that flannel takes from Backend.MTU


class Environment(NamedTuple):
    """What /run/flannel/subnet.env says; empty if there is no such file."""

    network: str = ""


class Found(NamedTuple):
    config: FlannelConfig
    entries: list[Entry]
    broken: dict[str, str]


class Target(NamedTuple):
    """What is to be made.

    :param peers_file: path in the config of the list.
    :param backend: the section by which hosts follow etcd; None: a list of peers.
    """

    name: str
    peers_file: str
    backend: dict[str, Any] | None


class Made(NamedTuple):
    """:param left_out: a sentence for each host that is not in the list."""

    conflist: dict[str, Any]
    peers: dict[str, Any] | None
    left_out: list[str]


def require_name(name: str) -> None:
    """:raises Failed: for what a runtime would not take as a network's name."""
    if not NAME.match(name):
        raise Failed(f"invalid network name {shown(name)}")


def read_environment(path: Path) -> Environment:
    """:raises Failed: when the file is there and cannot be read."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return Environment()
    except (OSError, ValueError) as err:
        raise Failed(f"{path}: {err}") from err
    values = dict(line.strip().split("=", 1) for line in lines if "=" in line)
    return Environment(values.get("FLANNEL_NETWORK", ""))


def read(store: Store) -> Found:
    """Return what is in etcd.

    :raises StoreFailed:
    """
    config = FlannelRegistry(store, "flannel").config()
    children = {name: item.value for name, item in store.children("subnets").items()}
    return Found(config, *layout.entries(children))


def make(found: Found, environment: Environment, target: Target, *, is_file: bool) -> Made:
    """Return what hosts of ours need to be in the network.

    :param is_file: the list becomes a file of its own.
    :raises Failed: when our hosts could not be in a network like this one.
    """
    config = found.config
    if config.backend not in (VXLAN, HOST_GATEWAY):
        raise Failed(f"flannel's Backend.Type is {config.backend}; only vxlan and host-gw have an equivalent")
    if environment.network not in ("", str(config.network)):
        raise Failed(f"this host's flannel has network {environment.network}, and etcd {config.network}")
    if target.backend is not None and config.backend != VXLAN:
        raise Failed(f"flannel's Backend.Type is {config.backend}; only vxlan can be shared (--live)")
    peers, ignored = _peers(found)
    reasons = [f"subnets/{key} is left out: {why}" for key, why in {**found.broken, **ignored}.items()]
    if target.backend is not None:
        return Made(_conflist(config, target.name, target.backend), None, reasons)
    listed = {"peersFile": target.peers_file} if is_file else {"peers": peers}
    return Made(_conflist(config, target.name, {"type": "static", **listed}), {"peers": peers}, reasons)


def _peers(found: Found) -> tuple[list[dict[str, Any]], dict[str, str]]:
    if found.config.backend == VXLAN:
        records, ignored = layout.records(found.entries, found.config.vni)
        return [json.loads(text) for text in records.values()], ignored
    of_kind = [entry for entry in found.entries if entry.kind == HOST_GATEWAY]
    others = {
        entry.name: f"{entry.address} has backend {shown(entry.kind)}, not {HOST_GATEWAY}"
        for entry in found.entries
        if entry.kind != HOST_GATEWAY
    }
    return [
        {"node": entry.owner.node, "subnet": str(entry.subnet), "vtep": str(entry.address)}
        for entry in of_kind
    ], others


def _conflist(config: FlannelConfig, name: str, backend: dict[str, Any]) -> dict[str, Any]:
    direct = {"directRouting": "same-subnet"} if config.direct_routing else {}
    tunnel = {"vni": config.vni, "port": config.port, **direct}
    ways = tunnel if config.backend == VXLAN else {"directRouting": "always"}
    overhead = _OVERHEAD if config.backend == VXLAN else 0
    mtu = {"mtu": config.mtu - overhead} if config.mtu else {}
    network = {"network": str(config.network), "subnetLen": config.length}
    plugin = {"type": "vxlan", **ways, **network, **mtu, "ipMasq": True, "backend": backend}
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "1.0.0", "name": name, "plugins": [plugin, portmap]}


# --------------------------------------------------------------------------------------------------- output


def printed(made: Made) -> Iterator[str]:
    yield json.dumps(made.conflist, indent=2)


def written(made: Made, name: str, directory: Path) -> Iterator[str]:
    """Write the files, and yield a line for each.

    :raises Failed: when one is there already, or cannot be written.
    """
    files = {f"{name}.conflist": made.conflist}
    if made.peers is not None:
        files[f"{name}.peers.json"] = made.peers
    for file, document in files.items():
        path = directory / file
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "w") as stream:
                stream.write(json.dumps(document, indent=2) + "\n")
        except OSError as err:
            raise Failed(f"{path}: {err.strerror}") from err
        yield f"{path}"
