"""Tells what has changed among links, addresses, routes and neighbours, by the kernel's notifications.

Whoever caused a change is not known. Of routes and neighbours only removals are told.
"""

import errno
import struct
from collections.abc import Iterator
from enum import IntEnum, StrEnum
from typing import NamedTuple

from cni_plugins.kernel.netlink.attributes import attributes, read_text
from cni_plugins.kernel.netlink.socket import Answer, Socket
from cni_plugins.ownership import ROUTE_PROTOCOL

_NETLINK_ROUTE = 0
# linux/rtnetlink.h: RTMGRP_LINK, _NEIGH, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE
_GROUPS = 0x1 | 0x4 | 0x10 | 0x40 | 0x100 | 0x400
_NETLINK_HEADER = 16
_IFINFO = struct.Struct("=BxHiII")  # family, type, index, flags, change
_IFADDR = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # …, table, protocol, scope, type, flags
_NEIGHBOUR = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER = 1, 3, 4, 10
_RTA_PRIORITY = 6
_IFF_UP = 1
_AF_BRIDGE = 7
_EVERYWHERE = 0  # RT_SCOPE_UNIVERSE
_NUMBER = struct.Struct("=I")


class Kind(IntEnum):
    """Kinds of messages, linux/rtnetlink.h."""

    NEWLINK, DELLINK, NEWADDR, DELADDR, DELROUTE, DELNEIGH = 16, 17, 20, 21, 25, 29


class What(StrEnum):
    """What has changed."""

    LINK = "link"
    LINK_GONE = "link gone"
    ADDRESS = "address"
    ADDRESS_GONE = "address gone"
    ROUTE_GONE = "route gone"
    NEIGHBOUR_GONE = "neighbour gone"
    ANYTHING = "anything"  # notifications were lost


class Notice(NamedTuple):
    """One change.

    :param ifindex: of the link, 0: unknown.
    :param name: of a link.
    :param state: of a link: what is compared to know whether anything that matters has changed.
    :param metric: of a route with this suite's protocol.
    """

    what: What
    ifindex: int = 0
    name: str = ""
    state: bytes = b""
    metric: int = 0


class NetworkListener:
    """A socket that is notified of changes in this network namespace."""

    def __init__(self) -> None:
        self._socket = Socket(_NETLINK_ROUTE, _GROUPS)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def notices(self) -> list[Notice]:
        """Return what has changed since the last call, without waiting."""
        found: list[Notice] = []
        while True:
            try:
                messages = self._socket.arrived()
            except OSError as err:
                if err.errno != errno.ENOBUFS:
                    raise
                found.append(Notice(What.ANYTHING))
                continue
            if not messages:
                return found
            found += (notice for message in messages for notice in _notices(message))


def _notices(message: Answer) -> Iterator[Notice]:
    data = message.data
    match message.kind:
        case Kind.NEWLINK | Kind.DELLINK:
            family, _, index, flags, _ = _IFINFO.unpack_from(data, _NETLINK_HEADER)
            # A bridge tells of its ports by the same messages, also when one leaves it.
            if family != _AF_BRIDGE:
                yield _link(message.kind, index, flags, data)
        case Kind.NEWADDR | Kind.DELADDR:
            scope, index = _IFADDR.unpack_from(data, _NETLINK_HEADER)[3:]
            if scope == _EVERYWHERE:  # the kernel makes those of a link by itself
                yield Notice(What.ADDRESS if message.kind == Kind.NEWADDR else What.ADDRESS_GONE, index)
        case Kind.DELROUTE:
            if _ROUTE.unpack_from(data, _NETLINK_HEADER)[5] == ROUTE_PROTOCOL:
                values = dict(attributes(data, _NETLINK_HEADER + _ROUTE.size))
                (metric,) = _NUMBER.unpack(values.get(_RTA_PRIORITY, bytes(4)))
                yield Notice(What.ROUTE_GONE, metric=metric)
        case Kind.DELNEIGH:
            yield Notice(What.NEIGHBOUR_GONE, _NEIGHBOUR.unpack_from(data, _NETLINK_HEADER)[1])
        case _:
            pass


def _link(kind: int, index: int, flags: int, data: bytes) -> Notice:
    values = dict(attributes(data, _NETLINK_HEADER + _IFINFO.size))
    name = read_text(values.get(_IFLA_IFNAME, b""))
    if kind == Kind.DELLINK:
        return Notice(What.LINK_GONE, index, name)
    state = b"".join(values.get(key, b"") for key in (_IFLA_ADDRESS, _IFLA_MTU, _IFLA_MASTER))
    return Notice(What.LINK, index, name, bytes([flags & _IFF_UP]) + state)
