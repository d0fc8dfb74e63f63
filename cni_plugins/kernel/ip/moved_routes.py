"""Moves routes out of a link from the main table to others, and back, with all their attributes.

A route is kept as the message in which the kernel listed it, without what only a listing has.
"""

import errno
from ipaddress import ip_address

from cni_plugins.contract.facts import RouteFacts
from cni_plugins.kernel.deed import REMOVES, Uncompared, deed
from cni_plugins.kernel.ip import listed_routes
from cni_plugins.kernel.ip.listed_routes import ListedRoute, next_hops
from cni_plugins.kernel.links import links
from cni_plugins.kernel.netlink import rtnetlink as wire
from cni_plugins.kernel.netlink.attributes import attributes, packed
from cni_plugins.kernel.netlink.rtnetlink import read_number
from cni_plugins.kernel.netlink.socket import (
    NLM_F_ACK,
    NLM_F_APPEND,
    NLM_F_CREATE,
    Refused,
    is_absent,
)
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import ROUTE_PROTOCOL
from cni_plugins.protocol.fields import IPAddress
from cni_plugins.steps.policy_routing import (
    AddMainRoute,
    AddRouteCopy,
    DelMainRoute,
    DelRouteCopy,
    DelTableRoutes,
)
from cni_plugins.steps.step import UNCHANGED, Place

_VIA_FAMILY = 2  # octets before the address in struct rtvia
_EXPIRES = slice(8, 12)  # in struct rta_cacheinfo
# What a listing has and a new route must not have, or what the kernel counts itself.
_OF_LISTINGS = {wire.RTA_CACHEINFO, wire.RTA_EXPIRES, wire.RTA_PAD, wire.RTA_TABLE}
# What a listing has beside the next hop object that it comes from.
_OF_NEXT_HOPS = {
    wire.RTA_OIF,
    wire.RTA_GATEWAY,
    wire.RTA_MULTIPATH,
    wire.RTA_FLOW,
    wire.RTA_VIA,
    wire.RTA_ENCAP_TYPE,
    wire.RTA_ENCAP,
}


def out_of(session: Session, where: Place, link: str) -> tuple[RouteFacts, ...] | None:
    """Return the routes of the main table out of a link, in the kernel's order; None if it is absent."""
    found = links.find(session, where, link)
    if found is None:
        return None
    listed = (_only_out_of(session, where, version, wire.RT_TABLE_MAIN, found.ifindex) for version in (4, 6))
    return tuple(_facts(route) for routes in listed for route in routes)


def _only_out_of(session: Session, where: Place, version: int, table: int, index: int) -> list[ListedRoute]:
    """Return the routes whose packets all leave by a link, so that they are no other link's as well."""
    listed = listed_routes.of_table(session, where, version, table, index)
    parts = (_part(route, index) for route in listed)
    return [route for route in parts if route is not None]


def _part(route: ListedRoute, index: int) -> ListedRoute | None:
    """Return the part of a route that leads out of a link, None if it cannot be separated.

    Routes of IPv6 to one destination with one metric are listed as one with several next hops, whoever added
    each of them: the default routes of two interfaces, for example.
    """
    if all(link in (index, 0) for link, _ in route.hops):
        return route
    if route.head.family != wire.FAMILY[6] or wire.RTA_NH_ID in route.attrs:
        return None
    own = (hop for hop in next_hops(route.attrs[wire.RTA_MULTIPATH]) if hop[0] == index)
    return route._replace(attrs={**route.attrs, wire.RTA_MULTIPATH: b"".join(_hop(*hop) for hop in own)})


def _facts(route: ListedRoute) -> RouteFacts:
    source = route.attrs.get(wire.RTA_PREFSRC)
    return RouteFacts(
        dst=route.dst,
        gateways=tuple(gateway for _, hop in route.hops if (gateway := _gateway(hop)) is not None),
        source=ip_address(source) if source else None,
        metric=read_number(route.attrs.get(wire.RTA_PRIORITY)),
        scope=route.head.scope,
        is_learned=_is_learned(route),
        message=_message(route),
    )


def _is_learned(route: ListedRoute) -> bool:
    """Say whether the kernel has the route from a router advertisement: such routes have a lifetime."""
    expires = route.attrs.get(wire.RTA_CACHEINFO, b"")[_EXPIRES]
    return route.head.protocol == wire.RTPROT_RA or read_number(expires) != 0


def _gateway(hop: dict[int, bytes]) -> IPAddress | None:
    found = hop.get(wire.RTA_GATEWAY) or hop.get(wire.RTA_VIA, b"")[_VIA_FAMILY:]
    return ip_address(found) if found else None


def _message(route: ListedRoute) -> bytes:
    """Return the route as a message for a new one may have it: head and attributes."""
    left_out = _OF_LISTINGS | (_OF_NEXT_HOPS if wire.RTA_NH_ID in route.attrs else set())
    attrs = {kind: value for kind, value in route.attrs.items() if kind not in left_out}
    if wire.RTA_MULTIPATH in attrs:
        attrs[wire.RTA_MULTIPATH] = b"".join(_hop(*hop) for hop in next_hops(attrs[wire.RTA_MULTIPATH]))
    return _with_head(route.head._replace(flags=route.head.flags & wire.RTNH_F_ONLINK), attrs)


def _hop(index: int, flags: int, weight: int, rest: bytes) -> bytes:
    head = wire.RTNEXTHOP.pack(wire.RTNEXTHOP.size + len(rest), flags & wire.RTNH_F_ONLINK, weight, index)
    return head + rest + bytes(-len(rest) % 4)


def _with_head(head: wire.RouteHead, attrs: dict[int, bytes]) -> bytes:
    return wire.RTMSG.pack(*head) + b"".join(packed(kind, value) for kind, value in attrs.items())


def _in_table(
    message: bytes, table: int, protocol: int | None = None, source: IPAddress | None = None
) -> tuple[wire.RouteHead, bytes]:
    """Return head and attributes of a route for a table.

    :param protocol: instead of the route's own.
    :param source: instead of the route's own source address.
    """
    head = wire.RouteHead(*wire.RTMSG.unpack_from(message))._replace(table=wire.octet_of_table(table))
    if protocol is not None:
        head = head._replace(protocol=protocol)
    attrs = dict(attributes(message, wire.RTMSG.size))
    if source is not None:
        attrs[wire.RTA_PREFSRC] = source.packed
    rest = b"".join(packed(kind, value) for kind, value in attrs.items())
    return head, rest + wire.number(wire.RTA_TABLE, table)


def _copy(session: Session, step: AddRouteCopy) -> None:
    head, attrs = _in_table(step.message, step.table, ROUTE_PROTOCOL)
    _add(session, step.where, head, attrs)


def _delete_copy(session: Session, step: DelRouteCopy) -> None:
    head, attrs = _in_table(step.message, step.table, ROUTE_PROTOCOL)
    _remove(session, step.where, head, attrs)


def _add(session: Session, where: Place, head: wire.RouteHead, attrs: bytes) -> None:
    """Add a route behind others to the same destination, so that their order is kept."""
    asked = NLM_F_ACK | NLM_F_CREATE | NLM_F_APPEND
    session.rtnl(where).call(wire.route(wire.RTM_NEWROUTE, asked, head, attrs))


def _remove(session: Session, where: Place, head: wire.RouteHead, attrs: bytes) -> bool:
    """Remove a route; say whether it was there."""
    try:
        session.rtnl(where).call(wire.route(wire.RTM_DELROUTE, NLM_F_ACK, head, attrs))
    except Refused as err:
        if not is_absent(err):
            raise
        return False
    return True


def _delete_main(session: Session, step: DelMainRoute) -> str | None:
    removed = [_remove(session, step.where, *_main(step))] if step.message else []
    return None if any(removed) else UNCHANGED


def _add_main(session: Session, step: AddMainRoute) -> str | None:
    if not step.message:
        return UNCHANGED
    try:
        _add(session, step.where, *_main(step))
    except Refused as err:
        if err.errno != errno.EEXIST:
            raise
        return UNCHANGED
    return None


def _main(step: AddMainRoute | DelMainRoute) -> tuple[wire.RouteHead, bytes]:
    protocol = None if step.source is None else ROUTE_PROTOCOL
    return _in_table(step.message, wire.RT_TABLE_MAIN, protocol, step.source)


def _is_back(session: Session, step: DelMainRoute) -> str:
    if all(map(_is_learned, _of_main(session, step))):
        return ""
    return f"route {step.dst.network} out of {step.link} in the {step.where} is in the main table again"


def _is_missing(session: Session, step: AddMainRoute) -> str:
    wanted = None if step.source is None else step.source.packed
    if any(wanted in (None, route.attrs.get(wire.RTA_PREFSRC)) for route in _of_main(session, step)):
        return ""
    source = "" if step.source is None else f" with source {step.source}"
    return f"route {step.dst.network} out of {step.link} in the {step.where}{source} is missing"


def _of_main(session: Session, step: AddMainRoute | DelMainRoute) -> list[ListedRoute]:
    """Return the routes of the main table to the step's destination."""
    link = links.find(session, step.where, step.link)
    if link is None:
        return []
    listed = _only_out_of(session, step.where, step.dst.version, wire.RT_TABLE_MAIN, link.ifindex)
    return [route for route in listed if route.leads_to(step.dst.network)]


def _delete_of_table(session: Session, step: DelTableRoutes) -> None:
    link = links.find(session, step.where, step.link)
    if link is None:  # the kernel has removed its routes
        return
    for route in _only_out_of(session, step.where, step.version, step.table, link.ifindex):
        if route.head.protocol == ROUTE_PROTOCOL:
            _remove(session, step.where, *_in_table(_message(route), step.table))


DEEDS = (
    deed(AddRouteCopy, _copy, Uncompared("CHECK has AddRoute for the routes of a table that it can foretell"))
    | deed(DelRouteCopy, _delete_copy, REMOVES)
    | deed(DelMainRoute, _delete_main, _is_back)
    | deed(AddMainRoute, _add_main, _is_missing)
    | deed(DelTableRoutes, _delete_of_table, REMOVES)
)
