"""Turns the name of a setting, as sysctl(8) accepts it, into its path below /proc/sys/net."""

import json
from collections.abc import Mapping

from cni_plugins.errors import InvalidNetworkConfig
from cni_plugins.protocol.fields import shown
from cni_plugins.steps.tuning import Key

IFNAME = "IFNAME"  # stands for the interface, the first time it is in a key
_SHOWN = 200  # characters


def resolve(sysctls: Mapping[str, str], ifname: str) -> dict[Key, str]:
    """Return paths and values, in the order given.

    :raises InvalidNetworkConfig: for a key that leads out of /proc/sys/net, or two values of one setting.
    """
    resolved: dict[Key, str] = {}
    for name, value in sysctls.items():
        key = _key(name, ifname)
        if resolved.setdefault(key, value) != value:
            raise InvalidNetworkConfig(
                "duplicated sysctl keys are not allowed", f"sysctl has {shown(name)} in two spellings"
            )
    return resolved


def _key(name: str, ifname: str) -> Key:
    parts = _parts(name)
    here = next((index for index, part in enumerate(parts) if IFNAME in part), None)
    if here is not None and ifname:
        parts[here] = parts[here].replace(IFNAME, ifname, 1)
    first, *key = parts
    if first != "net" or not key or not all(map(_is_plain, key)):
        path = json.dumps("/".join(parts)[:_SHOWN], ensure_ascii=False)
        raise InvalidNetworkConfig(f"invalid net sysctl key: {path}", f"sysctl has {shown(name)}")
    return tuple(key)


def _parts(name: str) -> list[str]:
    """Split a name at its first separator, dot or slash; the other one stands for it in names of links."""
    first = next((char for char in name if char in "./"), ".")
    if first == "/":
        return name.split("/")
    return [part.replace("/", ".") for part in name.split(".")]


def _is_plain(part: str) -> bool:
    is_name = part not in ("", ".", "..") and part.isprintable() and "\\" not in part
    return is_name and not any(map(str.isspace, part))
