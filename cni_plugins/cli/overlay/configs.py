"""Which overlay networks a node is configured with: files in the order of libcni, and our entries in them.

Whether an entry makes sense is not judged here. A file that cannot be understood is a fault of its own, and
keeps no other from being read.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cni_plugins.cli.failure import Failed
from cni_plugins.protocol.fields import get, rest, shown
from cni_plugins.protocol.request import NAME

PLUGIN = "vxlan"
_SUFFIXES = (".conf", ".conflist", ".json")
_LIMIT = 1 << 20  # bytes, as of a plugin's stdin


class Configured(NamedTuple):
    """A network, as a plugin would get it on stdin, and the file that it stands in."""

    network: str
    file: str
    conf: dict[str, Any]


class FoundConfigs(NamedTuple):
    """:param faults: a sentence for each file of which a runtime would not make what is written there."""

    networks: tuple[Configured, ...] = ()
    faults: tuple[str, ...] = ()


# ------------------------------------------------------------------------------------------------ reading


def in_directory(directory: Path) -> FoundConfigs:
    """Return the networks of a node.

    :raises Failed: when the directory cannot be read.
    """
    try:
        listed = sorted(path for path in directory.iterdir() if path.suffix in _SUFFIXES)
        return merged(in_file(path) for path in listed if not path.is_dir())
    except OSError as err:
        raise Failed(f"{directory}: {err.strerror}") from err


def in_file(path: Path) -> FoundConfigs:
    try:
        with path.open("rb") as file:
            content = file.read(_LIMIT + 1)
    except OSError as err:
        return FoundConfigs(faults=(f"{path}: {err.strerror}",))
    if len(content) > _LIMIT:
        return FoundConfigs(faults=(f"{path}: larger than {_LIMIT} bytes",))
    return understood(content, str(path))


# ------------------------------------------------------------------------------------- without any file


def understood(content: bytes, file: str) -> FoundConfigs:
    """Return the networks in a config of one plugin, or in a list of several."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as err:
        return FoundConfigs(faults=(f"{file}: not JSON: {str(err) or 'nested too deeply'}",))
    if not isinstance(document, dict):
        return FoundConfigs(faults=(f"{file}: not an object",))
    listed = get(document, "plugins")
    plugins = [document] if listed is None else listed
    if not isinstance(plugins, list) or not all(isinstance(item, dict) for item in plugins):
        return FoundConfigs(faults=(f"{file}: plugins is not a list of objects",))
    ours = [plugin for plugin in plugins if get(plugin, "type") == PLUGIN]
    name = get(document, "name")
    if ours and not (isinstance(name, str) and NAME.match(name)):
        return FoundConfigs(faults=(f"{file}: invalid network name: name is {shown(name)}",))
    version = get(document, "cniVersion")
    said = {"name": name} if version is None else {"cniVersion": version, "name": name}
    return merged(
        [
            FoundConfigs(
                tuple(Configured(name, file, {**said, **rest(plugin, tuple(said))}) for plugin in ours)
            )
        ]
    )


def merged(parts: Iterable[FoundConfigs]) -> FoundConfigs:
    """Of several networks of one name, runtimes take the first; nothing is said of its copies."""
    networks: dict[str, Configured] = {}
    faults: list[str] = []
    for part in parts:
        faults += part.faults
        for one in part.networks:
            first = networks.setdefault(one.network, one)
            if first.conf != one.conf:
                also = "twice" if first.file == one.file else f"in {first.file} too, which comes first"
                faults.append(f"{one.file}: network {one.network} is there {also}")
    return FoundConfigs(tuple(networks.values()), tuple(faults))


def chosen(found: FoundConfigs, names: Sequence[str], place: str) -> FoundConfigs:
    """Return the networks that are asked for, or all of them; of files that were not asked for no fault.

    :raises Failed: when there are none, or one of these names is unknown.
    """
    known = {one.network: one for one in found.networks}
    unknown = next((name for name in names if name not in known), None)
    if not known:
        why = "; ".join(found.faults) or f"no file there has a plugin of type {PLUGIN}"
        raise Failed(f"no overlay network in {place}: {why}")
    if unknown is not None:
        broken = f" ({'; '.join(found.faults)})" if found.faults else ""
        raise Failed(f"no overlay network {shown(unknown)} in {place}, only {', '.join(known)}{broken}")
    return FoundConfigs(tuple(known[name] for name in dict.fromkeys(names))) if names else found
