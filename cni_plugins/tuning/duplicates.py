"""Finds keys that a config has twice. Reading JSON into a mapping keeps the last of them only."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from cni_plugins.errors import InvalidNetworkConfig
from cni_plugins.protocol import json_text
from cni_plugins.protocol.fields import shown

_Pairs = tuple[tuple[str, Any], ...]


def refuse_duplicates(stdin: bytes) -> None:
    """:raises InvalidNetworkConfig: when `sysctl`, or that in `args.cni`, has a key twice."""
    conf = json_text.load_pairs(stdin)
    for where, path in (("sysctl", ("sysctl",)), ("args.cni.sysctl", ("args", "cni", "sysctl"))):
        objects = list(_at(conf, path))
        keys = [key for pairs in objects for key, _ in pairs]
        repeated = next((key for key, times in Counter(keys).items() if times > 1), None)
        if repeated is not None:
            raise InvalidNetworkConfig(
                "duplicated sysctl keys are not allowed", f"{where} has {shown(repeated)} twice"
            )
        if len(objects) > 1:
            raise InvalidNetworkConfig("duplicated sysctl keys are not allowed", f"{where} is there twice")


def _at(pairs: object, path: tuple[str, ...]) -> Iterator[_Pairs]:
    """Yield every object at a path: keys on the way may be there twice as well."""
    if not isinstance(pairs, tuple):
        return
    if not path:
        yield pairs
        return
    for key, value in pairs:
        if key.lower() == path[0].lower():
            yield from _at(value, path[1:])
