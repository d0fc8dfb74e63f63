"""The address at which metrics are served."""

import os
import socket
from ipaddress import IPv4Address
from typing import NamedTuple

from cni_plugins.agent.listener import Unusable

_HIGHEST_PORT = (1 << 16) - 1
_PATH_LIMIT = 107  # bytes, unix(7)


class MetricsAddress(NamedTuple):
    """Where metrics are served: a path, or a loopback address with a port."""

    family: socket.AddressFamily
    at: str | tuple[str, int]


def parse(address: str) -> MetricsAddress:
    """Read `unix:/PATH`, `127.0.0.1:PORT` or `[::1]:PORT`.

    :raises Unusable: when it is none of them.
    """
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        if not path.startswith("/") or "\0" in path or len(os.fsencode(path)) > _PATH_LIMIT:
            raise Unusable(f"--metrics {address}: not an absolute path of at most {_PATH_LIMIT} bytes")
        return MetricsAddress(socket.AF_UNIX, path)
    host, _, port = address.rpartition(":")
    family = _loopback_family(host)
    if family is None:
        raise Unusable(f"--metrics {address}: neither unix:/PATH, 127.0.0.1:PORT nor [::1]:PORT")
    if not (port.isascii() and port.isdecimal() and int(port[:6]) <= _HIGHEST_PORT):
        raise Unusable(f"--metrics {address}: the port is no number from 0 to {_HIGHEST_PORT}")
    return MetricsAddress(family, (host.strip("[]"), int(port)))


def require_usable(address: str) -> None:
    """:raises Unusable: when metrics cannot be served there; whether the port is free, time will tell."""
    parse(address)


def _loopback_family(host: str) -> socket.AddressFamily | None:
    if host == "[::1]":
        return socket.AF_INET6
    try:
        return socket.AF_INET if IPv4Address(host).is_loopback else None
    except ValueError:
        return None
