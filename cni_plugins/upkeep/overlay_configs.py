"""Finds the overlay networks in a node's network configs, reading the files in the order of libcni.

Plugin configs are not validated here. A file that cannot be parsed is reported as a fault, and the others are
still read. A network may also be known by its attachments alone, as one that multus reads from a
NetworkAttachmentDefinition: libcni keeps the config of each attachment in its cache.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from cni_plugins.protocol.fields import get, rest, shown
from cni_plugins.protocol.request import NAME
from cni_plugins.upkeep import config_files
from cni_plugins.upkeep.caches import CachedAttachment
from cni_plugins.upkeep.config_files import NoConfig

PLUGIN = "vxlan"


class Configured(NamedTuple):
    """A configured network: the config as a plugin would get it on stdin, and the file that contains it."""

    network: str
    file: str
    conf: dict[str, Any]


class FoundConfigs(NamedTuple):
    """The networks found.

    :param faults: a message for each file that a runtime cannot load, or would load in another way.
    :param place: the directory or file, for messages.
    """

    networks: tuple[Configured, ...] = ()
    faults: tuple[str, ...] = ()
    place: str = ""


# ------------------------------------------------------------------------------------------------ reading


def in_directory(directory: Path) -> FoundConfigs:
    """Return the networks configured on a node.

    :raises OSError: when the directory cannot be read.
    """
    return merge(in_file(path) for path in config_files.listed(directory) if not path.is_dir())


def of_attachments(newest_first: Iterable[CachedAttachment]) -> FoundConfigs:
    """Return the networks of the attachments that runtimes remember, with their newest configs.

    Faults of a config that only a cache has are not reported here: a file beside it may have the network.
    """
    networks: dict[str, Configured] = {}
    for cached in newest_first:
        for one in parse_config(cached.config, str(cached.file)).networks:
            networks.setdefault(one.network, one)
    return FoundConfigs(tuple(networks.values()))


def with_remembered(configured: FoundConfigs, remembered: FoundConfigs) -> FoundConfigs:
    """Add the networks that are known by their attachments alone."""
    known = {one.network for one in configured.networks}
    added = tuple(one for one in remembered.networks if one.network not in known)
    return configured._replace(networks=(*configured.networks, *added))


def in_file(path: Path) -> FoundConfigs:
    try:
        content = config_files.content(path)
    except OSError as err:
        return FoundConfigs(faults=(f"{path}: {err.strerror}",))
    except NoConfig as err:
        return FoundConfigs(faults=(f"{path}: {err}",))
    return parse_config(content, str(path))


# -------------------------------------------------------------------------------------- pure functions


def parse_config(content: bytes, file: str) -> FoundConfigs:
    """Return the networks in a config of one plugin, or in a list of plugins."""
    try:
        document = config_files.parsed(content)
    except NoConfig as err:
        return FoundConfigs(faults=(f"{file}: {err}",))
    listed = get(document, "plugins")
    plugins = [document] if listed is None else listed
    if not isinstance(plugins, list) or not all(isinstance(item, dict) for item in plugins):
        return FoundConfigs(faults=(f"{file}: plugins is not a list of objects",))
    ours = [plugin for plugin in plugins if get(plugin, "type") == PLUGIN]
    name = get(document, "name")
    if ours and not (isinstance(name, str) and NAME.match(name)):
        return FoundConfigs(faults=(f"{file}: invalid network name: name is {shown(name)}",))
    version = get(document, "cniVersion")
    head = {"name": name} if version is None else {"cniVersion": version, "name": name}
    return merge(
        [
            FoundConfigs(
                tuple(Configured(name, file, {**head, **rest(plugin, tuple(head))}) for plugin in ours)
            )
        ]
    )


def merge(parts: Iterable[FoundConfigs]) -> FoundConfigs:
    """Merge the networks; of several with one name runtimes use the first, and a different one is a fault."""
    networks: dict[str, Configured] = {}
    faults: list[str] = []
    for part in parts:
        faults += part.faults
        for one in part.networks:
            first = networks.setdefault(one.network, one)
            if first.conf != one.conf:
                also = "twice" if first.file == one.file else f"also in {first.file}, which comes first"
                faults.append(f"{one.file}: network {one.network} is configured {also}")
    return FoundConfigs(tuple(networks.values()), tuple(faults))
