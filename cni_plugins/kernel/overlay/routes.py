"""Reads and writes the routes of one network's overlay: those of our protocol with its mark as metric.

A route with a measured mtu is recognised by its advmss, which is not set otherwise: the MSS for that mtu.
"""

import struct
from collections.abc import Callable
from functools import cache, lru_cache, partial
from ipaddress import ip_address
from typing import NamedTuple

from cni_plugins.kernel.links import links
from cni_plugins.kernel.netlink import rtnetlink as wire
from cni_plugins.kernel.netlink.attributes import attributes, packed
from cni_plugins.kernel.netlink.rtnetlink import read_number
from cni_plugins.kernel.netlink.socket import (
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_REPLACE,
    NLM_F_REQUEST,
    Answer,
    Refused,
    is_absent,
)
from cni_plugins.kernel.overlay.tables import Found, Table
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import ROUTE_PROTOCOL, network_mark
from cni_plugins.protocol.fields import IPNetwork
from cni_plugins.steps.ip import SCOPE_LINK, SCOPE_UNIVERSE
from cni_plugins.steps.step import HOST

UNICAST, BLACKHOLE = wire.RTN_UNICAST, wire.RTN_BLACKHOLE
_OTHERWISE = -1  # not a PeerRoute: several next hops, encapsulation or a nexthop object
_HEADERS = {4: 40, 6: 60}  # of IP and TCP
_SET = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE
_HEAD = struct.Struct("=IHHIIBBBBBBBBI")  # nlmsghdr, rtmsg
_VERSION = {wire.FAMILY[4]: 4, wire.FAMILY[6]: 6}
_LENGTH = {4: 4, 6: 16}
_NAMING = {wire.RTA_DST, wire.RTA_OIF, wire.RTA_GATEWAY, wire.RTA_VIA, wire.RTA_PRIORITY, wire.RTA_PREFSRC}
_NAMING |= {wire.RTA_METRICS, wire.RTA_TABLE}
_OTHER = {wire.RTA_MULTIPATH, wire.RTA_ENCAP, wire.RTA_NH_ID}


class RouteValue(NamedTuple):
    """The value of a route; addresses are packed, `out` is 0 for a blackhole route."""

    kind: int
    out: int
    via: bytes = b""
    mtu: int = 0
    onlink: bool = False
    src: bytes = b""
    advmss: int = 0


def measured(mtu: int, version: int) -> int:
    """Return the advmss that marks a route's mtu as measured."""
    return max(mtu - _HEADERS[version], 1)


def is_measured(route: RouteValue, version: int) -> bool:
    return bool(route.mtu) and route.advmss == measured(route.mtu, version)


def key_of(dst: IPNetwork) -> bytes:
    return _key(dst.network_address.packed, dst.prefixlen)


def _key(address: bytes, length: int) -> bytes:
    return address + bytes((length,))


def version_of(key: bytes) -> int:
    return 4 if len(key) == _LENGTH[4] + 1 else 6


def shown(key: bytes) -> str:
    return f"{ip_address(key[:-1])}/{key[-1]}"


def capped(mtu: int) -> int:
    return min(mtu, wire.LARGEST_ROUTE_MTU)


# --------------------------------------------------------------------------------------------- looking


def routes(session: Session, network: str) -> Table[RouteValue]:
    """Return the network's routes of both versions in the main table, by key_of their destination."""
    mark = network_mark(network)
    table = _table(session, mark)
    for version in (4, 6):
        for answer in _dump(session, version):
            item = _decoded(answer.data, mark)
            if item is None:
                continue
            if item[0] in table.present:
                table.clashing.append(item)
            else:
                table.present[item[0]] = item[1]
    return table


def _dump(session: Session, version: int) -> list[Answer]:
    head = wire.RouteHead(wire.FAMILY[version], table=wire.RT_TABLE_MAIN, protocol=ROUTE_PROTOCOL)
    try:
        return session.rtnl(HOST).dump(wire.route(wire.RTM_GETROUTE, NLM_F_DUMP, head))
    except Refused as err:
        if is_absent(err):  # a table without routes
            return []
        raise


def _decoded(data: bytes, mark: int) -> tuple[bytes, Found[RouteValue]] | None:
    family, length, _, _, table, protocol, _, kind, flags = wire.RTMSG.unpack_from(data, wire.BODY)
    # Kernels before 4.20 do not filter dumps.
    if protocol != ROUTE_PROTOCOL or table != wire.RT_TABLE_MAIN or flags & wire.RTM_F_CLONED:
        return None
    attrs = dict(attributes(data, wire.BODY + wire.RTMSG.size))
    if read_number(attrs.get(wire.RTA_PRIORITY)) != mark:
        return None
    address = attrs.get(wire.RTA_DST) or bytes(_LENGTH[_VERSION[family]])
    return _key(address, length), Found(_route_value(kind, flags, attrs), data)


def _route_value(kind: int, flags: int, attrs: dict[int, bytes]) -> RouteValue:
    if not _OTHER.isdisjoint(attrs):
        return RouteValue(_OTHERWISE, 0)
    mtu, advmss = _metrics(attrs.get(wire.RTA_METRICS, b""))
    return RouteValue(
        kind,
        0 if kind == BLACKHOLE else read_number(attrs.get(wire.RTA_OIF)),
        attrs.get(wire.RTA_GATEWAY) or attrs.get(wire.RTA_VIA, b"")[2:],
        mtu,
        bool(flags & wire.RTNH_F_ONLINK),
        attrs.get(wire.RTA_PREFSRC, b""),
        advmss,
    )


@lru_cache(64)  # most routes of a network have the same metrics
def _metrics(value: bytes) -> tuple[int, int]:
    found = dict(attributes(value))
    return read_number(found.get(wire.RTAX_MTU)), read_number(found.get(wire.RTAX_ADVMSS))


# -------------------------------------------------------------------------------------------- changing


def _table(session: Session, mark: int) -> Table[RouteValue]:
    leads = partial(_leads, cache(partial(_name_of, session)))

    def difference(found: RouteValue, wanted: RouteValue) -> str:
        if found._replace(mtu=wanted.mtu, advmss=0) == wanted:
            if found.mtu == wanted.mtu:
                return f"has advmss {found.advmss}"
            mtu = f"mtu {found.mtu}" if found.mtu else "the mtu of its link"
            return f"has {mtu}, not {wanted.mtu or 'that of its link'}"
        return f"{leads(found)} instead"

    def named(key: bytes, value: RouteValue) -> str:
        return f"route {shown(key)} that {leads(value)}"

    priority = wire.number(wire.RTA_PRIORITY, mark)

    def put(key: bytes, value: RouteValue) -> bytearray:
        return _message(key, value, priority)

    return Table({}, [], named, difference, put, _removal, _in_place)


def _name_of(session: Session, index: int) -> str:
    link = links.find(session, HOST, index=index) if index else None
    return link.name if link else "no link"


def _leads(name_of: Callable[[int], str], route: RouteValue) -> str:
    if route.kind in (BLACKHOLE, _OTHERWISE):
        return "drops" if route.kind == BLACKHOLE else "has several next hops"
    parts = [f"leads out of {name_of(route.out)}"]
    parts += [f"via {ip_address(route.via)}"] if route.via else []
    parts += ["onlink"] if route.onlink else []
    parts += [f"from {ip_address(route.src)}"] if route.src else []
    return " ".join(parts)


def _in_place(found: RouteValue, wanted: RouteValue) -> bool:
    """Say whether the kernel can replace the first route by the second.

    To check whether an IPv6 gateway is on the link, it looks up the very route that is being replaced, which
    for an overlay is often the route to the gateway (ip6_route_check_nh_onlink, net/ipv6/route.c).
    """
    if not wanted.onlink or len(wanted.via) == _LENGTH[4]:
        return True
    return found.kind == BLACKHOLE or found.out == wanted.out


def _message(key: bytes, route: RouteValue, priority: bytes) -> bytearray:
    """Return a message that creates a route, or replaces an existing one."""
    version, address, length = version_of(key), key[:-1], key[-1]
    parts = [packed(wire.RTA_DST, address), priority, _constant(route.out, route.mtu, route.advmss)]
    if route.via:
        parts.append(_gateway(route.via, len(address)))
    if route.src:
        parts.append(packed(wire.RTA_PREFSRC, route.src))
    rest = b"".join(parts)
    direct = version == 4 and route.kind == UNICAST and not route.via  # noqa: PLR2004
    scope = SCOPE_LINK if direct else SCOPE_UNIVERSE
    head = (wire.FAMILY[version], length, 0, 0, wire.RT_TABLE_MAIN, ROUTE_PROTOCOL, scope, route.kind)
    flags = wire.RTNH_F_ONLINK if route.onlink else 0
    return bytearray(_HEAD.pack(_HEAD.size + len(rest), wire.RTM_NEWROUTE, _SET, 0, 0, *head, flags) + rest)


@lru_cache(64)
def _constant(index: int, mtu: int, advmss: int) -> bytes:
    """Return the attributes that most routes of a network have in common."""
    metrics = [wire.number(wire.RTAX_MTU, mtu)] if mtu else []
    metrics += [wire.number(wire.RTAX_ADVMSS, advmss)] if advmss else []
    out = wire.number(wire.RTA_OIF, index) if index else b""
    return out + (wire.nest(wire.RTA_METRICS, *metrics) if metrics else b"")


def _gateway(via: bytes, length: int) -> bytes:
    """Return the next hop; with its family if that is not the family of the route (struct rtvia)."""
    if len(via) == length:
        return packed(wire.RTA_GATEWAY, via)
    return packed(wire.RTA_VIA, struct.pack("=H", wire.FAMILY[6 if len(via) == _LENGTH[6] else 4]) + via)


def _removal(data: bytes) -> bytearray:
    """Return a message that removes exactly the route that another message describes."""
    # The kernel refuses flags that it reports itself (RTNH_F_LINKDOWN).
    head = wire.RouteHead(*wire.RTMSG.unpack_from(data, wire.BODY))._replace(flags=0)
    present = attributes(data, wire.BODY + wire.RTMSG.size)
    attrs = [packed(kind, value) for kind, value in present if kind in _NAMING]
    return wire.route(wire.RTM_DELROUTE, 0, head, *attrs)
