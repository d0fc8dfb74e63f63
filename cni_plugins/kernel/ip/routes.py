"""Adds, removes and compares routes out of links; finds the routes that the kernel adds for addresses."""

import errno
from typing import TYPE_CHECKING

from cni_plugins.errors import NameTaken
from cni_plugins.kernel.deed import REMOVES, deed
from cni_plugins.kernel.links import links
from cni_plugins.kernel.netlink import rtnetlink as wire
from cni_plugins.kernel.netlink.attributes import attributes
from cni_plugins.kernel.netlink.rtnetlink import read_number
from cni_plugins.kernel.netlink.socket import (
    NLM_F_ACK,
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    Refused,
    is_absent,
)
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import ROUTE_PROTOCOL
from cni_plugins.protocol.fields import IPNetwork
from cni_plugins.steps.ip import SCOPE_LINK, SCOPE_UNIVERSE, AddRoute, DelRoute
from cni_plugins.steps.step import Place

if TYPE_CHECKING:
    from cni_plugins.kernel.netlink.pyroute import rtmsg


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
        table=table if table <= 255 else 0,  # noqa: PLR2004 (one octet; larger ids are in RTA_TABLE only)
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
    candidates = (
        []
        if link is None
        else [route for route in _routes(session, step, link.ifindex) if _is_route(route, step, link.ifindex)]
    )
    via = f" via {step.gw}" if step.gw else ""
    text = f"route {step.dst.network}{via} out of {step.link} in the {step.where}"
    if not candidates:
        return f"{text} is missing"
    metrics = candidates[0].get_attr("RTA_METRICS")
    for name, key, wanted in (
        ("mtu", "RTAX_MTU", min(step.mtu, wire.LARGEST_ROUTE_MTU)),
        ("advmss", "RTAX_ADVMSS", step.advmss),
    ):
        value = (metrics.get_attr(key) if metrics else 0) or 0
        if wanted and value != wanted:
            return f"{text} has {name} {value}, not {wanted}"
    return ""


def connects(session: Session, where: Place, index: int, network: IPNetwork) -> bool:
    """Say whether a route to a network leads out of a link, such as the kernel adds for each address."""
    head = wire.RouteHead(wire.FAMILY[network.version])
    out = wire.number(wire.RTA_OIF, index)
    for answer in session.rtnl(where).dump(wire.route(wire.RTM_GETROUTE, NLM_F_DUMP, head, out)):
        attrs = dict(attributes(answer.data, wire.BODY + wire.RTMSG.size))
        length = wire.RouteHead(*wire.RTMSG.unpack_from(answer.data, wire.BODY)).dst_len
        found = (attrs.get(wire.RTA_DST), length, read_number(attrs.get(wire.RTA_OIF)))
        if found == (network.network_address.packed, network.prefixlen, index):
            return True
    return False


def _routes(session: Session, step: AddRoute, index: int) -> "list[rtmsg]":
    """Return the routes of the step's family and table that lead out of its link, among others."""
    from cni_plugins.kernel.netlink.pyroute import rtmsg

    head = wire.RouteHead(wire.FAMILY[step.dst.version])
    # A host may have a hundred thousand others, which the kernel leaves out.
    wanted = wire.number(wire.RTA_TABLE, _table(step)), wire.number(wire.RTA_OIF, index)
    try:
        answers = session.rtnl(step.where).dump(wire.route(wire.RTM_GETROUTE, NLM_F_DUMP, head, *wanted))
    except Refused as err:
        if is_absent(err):  # a table without routes
            return []
        raise
    routes = [rtmsg(answer.data) for answer in answers]
    for route in routes:
        route.decode()
    return routes


def _is_route(route: "rtmsg", step: AddRoute, index: int) -> bool:
    """Compare destination and, if given, gateway and metric; equal-cost routes have a list of gateways."""
    hops = route.get_attr("RTA_MULTIPATH")
    next_hops = (
        [(hop["oif"], hop.get_attr("RTA_GATEWAY")) for hop in hops]
        if hops
        else [(route.get_attr("RTA_OIF"), route.get_attr("RTA_GATEWAY"))]
    )
    network = step.dst.network
    dst = route.get_attr("RTA_DST") or str(network.network_address if not network.prefixlen else "")
    same_dst = route["dst_len"] == network.prefixlen and dst == str(network.network_address)
    same_hop = any(oif == index and (step.gw is None or gw == str(step.gw)) for oif, gw in next_hops)
    if step.src is not None and route.get_attr("RTA_PREFSRC") != str(step.src):
        return False
    return same_dst and same_hop and (not step.priority or route.get_attr("RTA_PRIORITY") == step.priority)


DEEDS = deed(AddRoute, add_route, _differs) | deed(DelRoute, del_route, REMOVES)
