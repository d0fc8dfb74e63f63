"""Finds the networks of a node whose IPAM plugin is cluster."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cni_plugins.contract.registry_config import RegistrySection
from cni_plugins.errors import CniError
from cni_plugins.ipam_cluster.config import parse
from cni_plugins.ipam_cluster.subnets import Subnet
from cni_plugins.protocol.fields import get, shown
from cni_plugins.protocol.request import NAME, Request
from cni_plugins.upkeep import config_files
from cni_plugins.upkeep.config_files import NoConfig

IPAM = "cluster"


class Followed(NamedTuple):
    """A network with blocks, and the file that contains its config."""

    network: str
    registry: RegistrySection
    data_dir: str
    subnets: tuple[Subnet, ...]
    file: str = ""


class FoundNetworks(NamedTuple):
    """The networks found, and a message for each that cannot be followed."""

    networks: tuple[Followed, ...] = ()
    faults: tuple[str, ...] = ()


def in_directory(directory: Path) -> FoundNetworks:
    """Return the networks in a directory of network configs, in the order of libcni.

    :raises OSError: when the directory cannot be read.
    """
    return merge(in_file(path) for path in config_files.listed(directory) if not path.is_dir())


def merge(parts: Iterable[FoundNetworks]) -> FoundNetworks:
    """Merge the networks; of several with one name runtimes use the first."""
    networks: dict[str, Followed] = {}
    faults: list[str] = []
    for part in parts:
        faults += part.faults
        for one in part.networks:
            first = networks.setdefault(one.network, one)
            if first._replace(file="") != one._replace(file=""):
                faults.append(f"{one.file}: network {one.network} is also in {first.file}, which comes first")
    return FoundNetworks(tuple(networks.values()), tuple(faults))


def in_file(path: Path) -> FoundNetworks:
    """Return the networks of a file."""
    try:
        content = config_files.content(path)
    except OSError as err:
        return FoundNetworks(faults=(f"{path}: {err.strerror}",))
    except NoConfig as err:
        return FoundNetworks(faults=(f"{path}: {err}",))
    return of_config(content, str(path))


def of_config(content: bytes, file: str) -> FoundNetworks:
    """Return the networks in a config of one plugin, or in a list of plugins."""
    try:
        document = config_files.parsed(content)
    except NoConfig as err:
        return FoundNetworks(faults=(f"{file}: {err}",))
    ours = [*_plugins(document)]
    name = get(document, "name")
    if ours and not (isinstance(name, str) and NAME.match(name)):
        return FoundNetworks(faults=(f"{file}: invalid network name: name is {shown(name)}",))
    return merge(_of_plugin(str(name), plugin, file) for plugin in ours)


def _plugins(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    listed = get(document, "plugins")
    for plugin in listed if isinstance(listed, list) else [document]:
        ipam = get(plugin, "ipam") if isinstance(plugin, dict) else None
        if isinstance(ipam, dict) and get(ipam, "type") == IPAM:
            yield plugin


def _of_plugin(name: str, conf: dict[str, Any], file: str) -> FoundNetworks:
    try:
        found = parse(Request(command="STATUS", network=name, conf=conf))
    except CniError as err:
        return FoundNetworks(faults=(f"{file}: network {name}: {err.msg}",))
    return FoundNetworks((Followed(name, found.registry, found.data_dir, found.subnets, file),))
