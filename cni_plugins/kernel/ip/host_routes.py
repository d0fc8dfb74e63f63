"""Manages the host's routes to single addresses, each with the mark of its attachment as metric."""

from collections.abc import Callable
from ipaddress import ip_address, ip_interface

from cni_plugins.kernel.deed import REMOVES, deed
from cni_plugins.kernel.ip import neighbours
from cni_plugins.kernel.ip.routes import add_route, del_route
from cni_plugins.kernel.links import links
from cni_plugins.kernel.netlink import rtnetlink as wire
from cni_plugins.kernel.netlink.attributes import attributes
from cni_plugins.kernel.netlink.rtnetlink import read_number
from cni_plugins.kernel.netlink.socket import NLM_F_DUMP
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import ROUTE_PROTOCOL
from cni_plugins.protocol.fields import IPAddress
from cni_plugins.steps.ip import AddRoute, DelRoute
from cni_plugins.steps.neighbours import DelHostRoutes, EnsureHostRoutes
from cni_plugins.steps.step import HOST

Marked = tuple[IPAddress, int]


def _ensure(session: Session, step: EnsureHostRoutes) -> None:
    """Add the routes, and replace those left by an earlier ADD of the same attachment."""
    present = set(marked(session, step.link))
    for route in _routes(step):
        address = route.dst.ip
        if (address, step.mark) in present:
            del_route(session, DelRoute(HOST, step.link, route.dst, priority=step.mark))
        add_route(session, route)
        if step.mac:  # after the route, by which DEL finds it
            neighbours.tell(session, step.link, address, step.mac)


def _differs(session: Session, step: EnsureHostRoutes) -> str:
    present = set(marked(session, step.link))
    missing = [str(address) for address in step.addresses if (address, step.mark) not in present]
    # Neighbours are not compared: attachments of older releases have none, and they may be learned anew.
    return f"routes of the host out of {step.link} are missing: {', '.join(missing)}" if missing else ""


def _delete(session: Session, step: DelHostRoutes) -> None:
    delete_where(session, step.link, lambda mark: mark == step.mark)


def delete_where(session: Session, link: str, is_going: Callable[[int], bool]) -> None:
    present = marked(session, link)
    staying = {address for address, mark in present if not is_going(mark)}  # a successor may have the address
    for address, mark in present:
        if is_going(mark):
            if address not in staying:
                neighbours.delete(session, link, address)
            del_route(session, DelRoute(HOST, link, ip_interface(address), priority=mark))


def marked(session: Session, link: str) -> list[Marked]:
    """Return (address, mark) of the routes out of a host link; an empty list if the link is gone."""
    found = links.find(session, HOST, link)
    if found is None:
        return []
    return [item for version in (4, 6) for item in _dump(session, version, found.ifindex)]


def _dump(session: Session, version: int, index: int) -> list[Marked]:
    head = wire.RouteHead(wire.FAMILY[version], protocol=ROUTE_PROTOCOL)
    out = wire.number(wire.RTA_OIF, index)
    answers = session.rtnl(HOST).dump(wire.route(wire.RTM_GETROUTE, NLM_F_DUMP, head, out))
    found = []
    for answer in answers:
        route = wire.RouteHead(*wire.RTMSG.unpack_from(answer.data, wire.BODY))
        attrs = dict(attributes(answer.data, wire.BODY + wire.RTMSG.size))
        # Kernels before 4.20 do not filter dumps.
        ours = route.protocol == ROUTE_PROTOCOL and route.dst_len == wire.FULL_LENGTH[version]
        if ours and read_number(attrs.get(wire.RTA_OIF)) == index:
            found.append((ip_address(attrs[wire.RTA_DST]), read_number(attrs.get(wire.RTA_PRIORITY))))
    return found


def _routes(step: EnsureHostRoutes) -> list[AddRoute]:
    sources = {source.version: source for source in step.sources}
    return [
        AddRoute(HOST, step.link, ip_interface(address), priority=step.mark, src=sources.get(address.version))
        for address in step.addresses
    ]


DEEDS = deed(EnsureHostRoutes, _ensure, _differs) | deed(DelHostRoutes, _delete, REMOVES)
