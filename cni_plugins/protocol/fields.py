"""Reads JSON values as the reference does: keys are case-insensitive, null means absent.

Errors of the functions here name the path and the value in one sentence.
"""

import json
from collections.abc import Mapping
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
)
from typing import Any

Conf = Mapping[str, Any]
IPAddress = IPv4Address | IPv6Address
IPInterface = IPv4Interface | IPv6Interface
IPNetwork = IPv4Network | IPv6Network

_SHOWN = 80  # characters of a value that an error quotes
_OF_JSON = (dict, list, bool, type(None))  # shown as in the config; a text in quotes that need no escapes
_KINDS = {str: "a string", int: "a whole number", bool: "true or false", list: "a list", dict: "an object"}


def get(conf: Conf, key: str) -> Any:  # noqa: ANN401 (any JSON value until a function below has checked it)
    """Return the value of a key, case-insensitively, the last of several; None when absent or null."""
    folded = key.lower()
    return next((conf[name] for name in reversed(list(conf)) if name.lower() == folded), None)


def rest(conf: Conf, known: tuple[str, ...]) -> dict[str, Any]:
    """Return the keys that are not in `known`, to be passed on unchanged."""
    folded = {key.lower() for key in known}
    return {key: value for key, value in conf.items() if key.lower() not in folded}


def typed(conf: Conf, key: str, kind: type, where: str) -> Any:  # noqa: ANN401 (the kind is the type)
    """Return a value of one JSON kind, or that kind's empty value when absent.

    :raises ValueError: when the value is of another kind.
    """
    value = get(conf, key)
    if value is None:
        return kind()
    if type(value) is not kind:
        raise ValueError(f"{where}{key}: expected {_KINDS[kind]}, got {shown(value)}")
    return value


def shown(value: object) -> str:
    """Return a value in a form for errors: short, on one line."""
    text = json.dumps(value) if isinstance(value, _OF_JSON) else repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def parse_address(value: object, where: str = "") -> IPAddress:
    """Parse an IP address without prefix or zone.

    :raises ValueError: naming the value.
    """
    if isinstance(value, str) and "%" not in value:
        try:
            return ip_address(value)
        except ValueError:
            pass
    raise ValueError(f"{where}{': ' if where else ''}{shown(value)} is not an IP address")


def parse_cidr(value: object, where: str = "") -> IPInterface:
    """Parse `address/prefix length`, keeping host bits.

    :raises ValueError: naming the value.
    """
    if isinstance(value, str) and "%" not in value and value.count("/") == 1:
        address, length = value.split("/")
        if length.isascii() and length.isdigit():
            try:
                return ip_interface(f"{address}/{length}")
            except ValueError:
                pass
    raise ValueError(f"{where}{': ' if where else ''}{shown(value)} is not an address in CIDR notation")
