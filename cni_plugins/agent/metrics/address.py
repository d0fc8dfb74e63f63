"""Parses the address at which metrics are served."""

import os
import socket
from ipaddress import IPv4Address
from typing import NamedTuple

from cni_plugins.agent.listener import CannotListen

_HIGHEST_PORT = (1 << 16) - 1
_PATH_LIMIT = 107  # bytes, unix(7)


class MetricsAddress(NamedTuple):
    """The address of the metrics server: a path, or a loopback address with a port."""

    family: socket.AddressFamily
    at: str | tuple[str, int]


def parse(address: str) -> MetricsAddress:
    """Parse `unix:/PATH`, `127.0.0.1:PORT` or `[::1]:PORT`.

    :raises CannotListen: when the address has another form.
    """
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        if not path.startswith("/") or "\0" in path or len(os.fsencode(path)) > _PATH_LIMIT:
            raise CannotListen(f"--metrics {address}: not an absolute path of at most {_PATH_LIMIT} bytes")
        return MetricsAddress(socket.AF_UNIX, path)
    host, _, port = address.rpartition(":")
    family = _loopback_family(host)
    if family is None:
        raise CannotListen(f"--metrics {address}: neither unix:/PATH, 127.0.0.1:PORT nor [::1]:PORT")
    if not (port.isascii() and port.isdecimal() and int(port[:6]) <= _HIGHEST_PORT):
        raise CannotListen(f"--metrics {address}: the port must be a number from 0 to {_HIGHEST_PORT}")
    return MetricsAddress(family, (host.strip("[]"), int(port)))


def require_usable(address: str) -> None:
    """:raises CannotListen: when the address is malformed; whether the port is free is not checked."""
    parse(address)


def _loopback_family(host: str) -> socket.AddressFamily | None:
    if host == "[::1]":
        return socket.AF_INET6
    try:
        return socket.AF_INET if IPv4Address(host).is_loopback else None
    except ValueError:
        return None
