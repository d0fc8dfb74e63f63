"""Adds, removes and compares routes out of links; finds the routes that the kernel adds for addresses."""

import errno
from typing import NamedTuple

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


class _Route(NamedTuple):
    """A route as the kernel lists it; attributes by number, as they are in the message."""

    head: wire.RouteHead
    attrs: dict[int, bytes]

    def metric(self, kind: int) -> int:
        return read_number(dict(attributes(self.attrs.get(wire.RTA_METRICS, b""))).get(kind))

    def next_hops(self) -> list[tuple[int, bytes]]:
        """Return link and gateway of each; equal-cost routes have several."""
        data = self.attrs.get(wire.RTA_MULTIPATH, b"")
        hops = []
        while len(data) >= wire.RTNEXTHOP.size:
            length, _, _, index = wire.RTNEXTHOP.unpack_from(data)
            gateway = dict(attributes(data[:length], wire.RTNEXTHOP.size)).get(wire.RTA_GATEWAY, b"")
            hops.append((index, gateway))
            data = data[max(length, wire.RTNEXTHOP.size) :]
        own = (read_number(self.attrs.get(wire.RTA_OIF)), self.attrs.get(wire.RTA_GATEWAY, b""))
        return hops or [own]


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
    for name, kind, wanted in (
        ("mtu", wire.RTAX_MTU, min(step.mtu, wire.LARGEST_ROUTE_MTU)),
        ("advmss", wire.RTAX_ADVMSS, step.advmss),
    ):
        value = candidates[0].metric(kind)
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


def _routes(session: Session, step: AddRoute, index: int) -> list[_Route]:
    """Return the routes of the step's family and table that lead out of its link, among others."""
    head = wire.RouteHead(wire.FAMILY[step.dst.version])
    # A host may have a hundred thousand others, which the kernel leaves out.
    wanted = wire.number(wire.RTA_TABLE, _table(step)), wire.number(wire.RTA_OIF, index)
    try:
        answers = session.rtnl(step.where).dump(wire.route(wire.RTM_GETROUTE, NLM_F_DUMP, head, *wanted))
    except Refused as err:
        if is_absent(err):  # a table without routes
            return []
        raise
    return [
        _Route(
            wire.RouteHead(*wire.RTMSG.unpack_from(answer.data, wire.BODY)),
            dict(attributes(answer.data, wire.BODY + wire.RTMSG.size)),
        )
        for answer in answers
    ]


def _is_route(route: _Route, step: AddRoute, index: int) -> bool:
    """Compare destination and, if given, gateway, source and metric."""
    network, gateway = step.dst.network, b"" if step.gw is None else step.gw.packed
    if route.head.dst_len != network.prefixlen:
        return False
    # The kernel leaves the destination of a default route out.
    if route.attrs.get(wire.RTA_DST, bytes(network.max_prefixlen // 8)) != network.network_address.packed:
        return False
    if not any(oif == index and (not gateway or gw == gateway) for oif, gw in route.next_hops()):
        return False
    if step.src is not None and route.attrs.get(wire.RTA_PREFSRC) != step.src.packed:
        return False
    return not step.priority or read_number(route.attrs.get(wire.RTA_PRIORITY)) == step.priority


DEEDS = deed(AddRoute, add_route, _differs) | deed(DelRoute, del_route, REMOVES)
