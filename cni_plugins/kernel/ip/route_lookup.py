"""Looks up routes in the kernel: the next hop to given addresses, and the links of default routes."""

import errno
import socket
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import cache
from ipaddress import ip_address

from cni_plugins.contract.facts import NextHop
from cni_plugins.kernel.netlink import rtnetlink as wire
from cni_plugins.kernel.netlink.attributes import attributes
from cni_plugins.kernel.netlink.rtnetlink import read_number
from cni_plugins.kernel.netlink.socket import NLM_F_DUMP, Answer, Refused
from cni_plugins.kernel.session.session import Session
from cni_plugins.protocol.fields import IPAddress
from cni_plugins.steps.step import HOST, Place

_UNREACHABLE = (wire.RTN_BLACKHOLE, wire.RTN_UNREACHABLE, wire.RTN_PROHIBIT)
# The errors of routes that drop packets, of a table without a route that matches, of a kernel without IPv6.
_NO_ROUTE = (
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
    errno.EACCES,
    errno.EINVAL,
    errno.EADDRNOTAVAIL,
    errno.EOPNOTSUPP,
    errno.EAFNOSUPPORT,
)
_RTM_F_FIB_MATCH = 0x2000  # linux/rtnetlink.h: answer with the route, not with its use for one destination
_NOWHERE = ip_address("3fff::1")  # for documentation (RFC 9637)
_VIA_FAMILY = 2  # octets before the address in struct rtvia


def routes_to(session: Session, addresses: Sequence[IPAddress]) -> Mapping[IPAddress, NextHop]:
    """Return the next hop to each address that has a route; for the host's own addresses, it is loopback."""
    name = cache(_name)
    found = ((address, _find_route(session, address)) for address in dict.fromkeys(addresses))
    hops = ((address, _read(answer)) for address, answer in found if answer is not None)
    return {
        address: NextHop(name(index), gateway, source)
        for address, (index, gateway, source) in hops
        if index and name(index)
    }


def _find_route(session: Session, address: IPAddress) -> Answer | None:
    """Look up one route; many requests in one datagram take longer, as each needs an acknowledgement."""
    head = wire.RouteHead(wire.FAMILY[address.version], wire.FULL_LENGTH[address.version])
    request = wire.route(wire.RTM_GETROUTE, 0, head, wire.ip(wire.RTA_DST, address))
    try:
        return session.rtnl(HOST).ask(request)
    except Refused as err:
        if err.errno in _NO_ROUTE:
            return None
        raise


def _read(answer: Answer) -> tuple[int, IPAddress | None, IPAddress | None]:
    """Return the link index (0 if packets are dropped), the gateway and the source address."""
    head = wire.RouteHead(*wire.RTMSG.unpack_from(answer.data, wire.BODY))
    found = dict(attributes(answer.data, wire.BODY + wire.RTMSG.size))
    index = 0 if head.kind in _UNREACHABLE else read_number(found.get(wire.RTA_OIF))
    gateway = found.get(wire.RTA_GATEWAY) or found.get(wire.RTA_VIA, b"")[_VIA_FAMILY:]
    source = found.get(wire.RTA_PREFSRC)
    return index, ip_address(gateway) if gateway else None, ip_address(source) if source else None


def _name(index: int) -> str:
    """Return the name of a host link, empty if it is gone."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return ""


def default_route_links(session: Session, where: Place) -> list[int]:
    """Return the indexes of the links of default routes: IPv4 before IPv6, then by metric.

    The kernel dumps a table of IPv4 in the order of the destinations (net/ipv4/fib_trie.c), so only its
    beginning is read: a router has a million routes. A table of IPv6 ends with its default routes. It is
    asked for the way to an address that no other route should match, and read only where one does.
    """
    return _default_routes(session, where, 4) or _default_routes6(session, where)


def _default_routes6(session: Session, where: Place) -> list[int]:
    head = wire.RouteHead(wire.FAMILY[6], wire.FULL_LENGTH[6], flags=_RTM_F_FIB_MATCH)
    try:
        answer = session.rtnl(where).ask(
            wire.route(wire.RTM_GETROUTE, 0, head, wire.ip(wire.RTA_DST, _NOWHERE))
        )
    except Refused as err:
        if err.errno in _NO_ROUTE:
            return []
        raise
    found = _default_route(answer)
    return [found[1]] if found else _default_routes(session, where, 6)


def _default_routes(session: Session, where: Place, family: int) -> list[int]:
    head, table = wire.RouteHead(wire.FAMILY[family]), wire.number(wire.RTA_TABLE, wire.RT_TABLE_MAIN)
    asked = wire.route(wire.RTM_GETROUTE, NLM_F_DUMP, head, table)
    if family == 4:  # noqa: PLR2004
        with closing(session.new_rtnl(where)) as once:
            answers = once.dump_until(asked, _is_past_default_routes)
    else:
        answers = session.rtnl(where).dump(asked)
    return [index for _, index in sorted(filter(None, map(_default_route, answers)))]


def _is_past_default_routes(answer: Answer) -> bool:
    head = wire.RouteHead(*wire.RTMSG.unpack_from(answer.data, wire.BODY))
    destination = dict(attributes(answer.data, wire.BODY + wire.RTMSG.size)).get(wire.RTA_DST, b"")
    return head.table == wire.RT_TABLE_MAIN and any(destination)


def _default_route(answer: Answer) -> tuple[int, int] | None:
    """Return (metric, link index) of a default route, None for other routes."""
    head = wire.RouteHead(*wire.RTMSG.unpack_from(answer.data, wire.BODY))
    # Kernels before 4.20 dump all tables.
    if head.dst_len or head.kind != wire.RTN_UNICAST or head.table != wire.RT_TABLE_MAIN:
        return None
    found = dict(attributes(answer.data, wire.BODY + wire.RTMSG.size))
    index = wire.link_of_route(found)
    return (read_number(found.get(wire.RTA_PRIORITY)), index) if index else None
