"""Adds, removes and compares routes out of links."""

import errno

from cni_plugins.errors import NameTaken
from cni_plugins.kernel.deed import REMOVES, deed
from cni_plugins.kernel.ip import listed_routes
from cni_plugins.kernel.ip.listed_routes import ListedRoute
from cni_plugins.kernel.links import links
from cni_plugins.kernel.netlink import rtnetlink as wire
from cni_plugins.kernel.netlink.rtnetlink import read_number
from cni_plugins.kernel.netlink.socket import (
    NLM_F_ACK,
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_EXCL,
    Refused,
    is_absent,
)
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import ROUTE_PROTOCOL
from cni_plugins.steps.ip import SCOPE_LINK, SCOPE_UNIVERSE, AddRoute, DelRoute
from cni_plugins.steps.step import SANDBOX


def add_route(session: Session, step: AddRoute) -> None:
    """Add a route as the reference does: several gateways for one destination are equal-cost routes."""
    head = _head(step)._replace(
        scope=_scope(step),
        protocol=ROUTE_PROTOCOL,
        kind=wire.RTN_UNICAST,
        flags=wire.RTNH_F_ONLINK if step.onlink else 0,
    )
    metrics = [wire.number(wire.RTAX_MTU, min(step.mtu, wire.LARGEST_ROUTE_MTU))] if step.mtu else []
    metrics += [wire.number(wire.RTAX_ADVMSS, step.advmss)] if step.advmss else []
    source = [wire.ip(wire.RTA_PREFSRC, step.src)] if step.src is not None else []
    attrs = [*_attributes(step), *source, *([wire.nest(wire.RTA_METRICS, *metrics)] if metrics else [])]
    request_flags = NLM_F_ACK | NLM_F_CREATE | (NLM_F_EXCL if step.exclusive else NLM_F_APPEND)

    def add(index: int) -> None:
        out = wire.number(wire.RTA_OIF, index)
        session.rtnl(step.where).call(wire.route(wire.RTM_NEWROUTE, request_flags, head, out, *attrs))

    try:
        links.on_index(session, step.where, step.link, add)
    except Refused as err:
        if step.exclusive and err.errno == errno.EEXIST:
            raise NameTaken(
                f"the {step.where} already has a route to {step.dst.network}",
                f"cannot add another out of {step.link}; two attachments cannot have the same address",
            ) from err
        raise


def _scope(step: AddRoute) -> int:
    if step.scope is not None:
        return step.scope
    return SCOPE_UNIVERSE if step.gw is not None or step.dst.version != 4 else SCOPE_LINK  # noqa: PLR2004


def del_route(session: Session, step: DelRoute) -> None:
    link = links.find(session, step.where, step.link)
    if link is None:
        return
    out = wire.number(wire.RTA_OIF, link.ifindex)
    head = _head(step)._replace(scope=wire.RT_SCOPE_NOWHERE)
    try:
        session.rtnl(step.where).call(wire.route(wire.RTM_DELROUTE, NLM_F_ACK, head, out, *_attributes(step)))
    except Refused as err:
        if not is_absent(err):
            raise


def _head(step: AddRoute | DelRoute) -> wire.RouteHead:
    table = _table(step)
    return wire.RouteHead(
        family=wire.FAMILY[step.dst.version],
        dst_len=step.dst.network.prefixlen,
        table=wire.octet_of_table(table),
    )


def _table(step: AddRoute | DelRoute) -> int:
    return wire.RT_TABLE_MAIN if step.table is None else step.table


def _attributes(step: AddRoute | DelRoute) -> list[bytes]:
    attrs = [wire.number(wire.RTA_TABLE, _table(step))]
    if step.dst.network.prefixlen:
        attrs.append(wire.ip(wire.RTA_DST, step.dst.network.network_address))
    if step.gw is not None:
        attrs.append(wire.ip(wire.RTA_GATEWAY, step.gw))
    if step.priority:
        attrs.append(wire.number(wire.RTA_PRIORITY, step.priority))
    return attrs


def _differs(session: Session, step: AddRoute) -> str:
    """Say whether the route is missing, or has the wrong MTU or advertised MSS."""
    link = links.find(session, step.where, step.link)
    candidates = [] if link is None else _candidates(session, step, link.ifindex)
    via = f" via {step.gw}" if step.gw else ""
    text = f"route {step.dst.network}{via} out of {step.link} in the {step.where}"
    if not candidates:
        return f"{text} is missing"
    for name, kind, wanted in (
        ("mtu", wire.RTAX_MTU, min(step.mtu, wire.LARGEST_ROUTE_MTU)),
        ("advmss", wire.RTAX_ADVMSS, step.advmss),
    ):
        value = candidates[0].metric(kind)
        if wanted and value != wanted:
            return f"{text} has {name} {value}, not {wanted}"
    return ""


def _candidates(session: Session, step: AddRoute, index: int) -> list[ListedRoute]:
    """Return the routes that may be the step's: those of its table or, if it has none, of others.

    A later plugin of the chain (sbr) moves routes from a sandbox's main table to tables by which the packets
    from the link's addresses are routed, and no others.
    """
    found = _matching(session, step, _table(step), index)
    if found or step.where != SANDBOX or _table(step) != wire.RT_TABLE_MAIN:
        return found
    from cni_plugins.kernel.ip import rules

    tables = rules.tables_of_link(session, step.where, index, step.dst.version)
    return [route for table in tables for route in _matching(session, step, table, index)]


def _matching(session: Session, step: AddRoute, table: int, index: int) -> list[ListedRoute]:
    routes = listed_routes.of_table(session, step.where, step.dst.version, table, index)
    return [route for route in routes if _is_route(route, step, index)]


def _is_route(route: ListedRoute, step: AddRoute, index: int) -> bool:
    """Compare destination and, if given, gateway, source and metric."""
    gateway = b"" if step.gw is None else step.gw.packed
    if not route.leads_to(step.dst.network):
        return False
    hops = ((link, attrs.get(wire.RTA_GATEWAY, b"")) for link, attrs in route.hops)
    if not any(link == index and (not gateway or found == gateway) for link, found in hops):
        return False
    if step.src is not None and route.attrs.get(wire.RTA_PREFSRC) != step.src.packed:
        return False
    return not step.priority or read_number(route.attrs.get(wire.RTA_PRIORITY)) == step.priority


DEEDS = deed(AddRoute, add_route, _differs) | deed(DelRoute, del_route, REMOVES)
