"""Addresses and routes over rtnetlink."""

import errno
import socket
import time
from ipaddress import IPv4Interface, ip_interface
from typing import Any, NamedTuple

from cni_plugins.errors import KernelRefused
from cni_plugins.kernel import links
from cni_plugins.kernel.messages import ifaddrmsg, rtmsg
from cni_plugins.kernel.session import Session
from cni_plugins.kernel.wire import (
    NLM_F_ACK,
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    Answer,
    Refused,
    encoded,
    is_absent,
)
from cni_plugins.spec.fields import IPInterface
from cni_plugins.steps.addresses import AddRoute, AwaitAddresses, DelAddress, DelRoute, EnsureAddress
from cni_plugins.steps.places import Place
from cni_plugins.steps.plan import ABSENT, UNCHANGED

# linux/rtnetlink.h, linux/if_addr.h
_RTM_NEWADDR, _RTM_DELADDR, _RTM_GETADDR = 20, 21, 22
_RTM_NEWROUTE, _RTM_DELROUTE, _RTM_GETROUTE = 24, 25, 26
_IFA_F_NODAD, _IFA_F_DADFAILED, _IFA_F_TENTATIVE = 0x02, 0x08, 0x40
_TABLE_MAIN, _SCOPE_UNIVERSE, _SCOPE_LINK, _UNICAST, _RTNH_F_ONLINK = 254, 0, 253, 1, 4
# Above RTPROT_STATIC (4), and used by no daemon of /etc/iproute2/rt_protos: routes we made can be told.
OUR_PROTOCOL = 217
_LARGEST_MTU = 65535 - 15  # what the kernel cuts a route's mtu to (fib_convert_metrics)
_AWAIT_DAD = 5.0  # seconds, as long as the reference waits
_DAD_PAUSE = 0.02
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_LARGEST_POINT_TO_POINT = 31  # RFC 3021: no broadcast address in networks this small


class Present(NamedTuple):
    """An address as the kernel has it."""

    address: IPInterface
    tentative: bool
    failed: bool


def on_link(session: Session, where: Place, index: int) -> list[Present]:
    """Return the addresses of one link, of both families."""
    message = ifaddrmsg()
    message["index"] = index
    return [
        _decoded(answer) for answer in session.rtnl(where).dump(encoded(message, _RTM_GETADDR, NLM_F_DUMP))
    ]


def _decoded(answer: Answer) -> Present:
    message = ifaddrmsg(answer.data)
    message.decode()
    text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    flags = message.get_attr("IFA_FLAGS") or message["flags"]
    address = ip_interface(f"{text}/{message['prefixlen']}")
    return Present(address, bool(flags & _IFA_F_TENTATIVE), bool(flags & _IFA_F_DADFAILED))


def ensure_address(session: Session, step: EnsureAddress) -> str:
    message = _address_message(session, step.where, step.link, step.address)
    if isinstance(step.address, IPv4Interface) and step.address.network.prefixlen < _LARGEST_POINT_TO_POINT:
        message["attrs"].append(("IFA_BROADCAST", str(step.address.network.broadcast_address)))
    if step.skip_dad and step.address.version != 4:  # noqa: PLR2004 (the version)
        message["attrs"].append(("IFA_FLAGS", _IFA_F_NODAD))
    try:
        session.rtnl(step.where).call(encoded(message, _RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL))
    except Refused as err:
        if err.errno == errno.EEXIST:
            return UNCHANGED
        raise
    return ABSENT


def del_address(session: Session, step: DelAddress) -> str:
    if links.find(session, step.where, step.link) is None:
        return UNCHANGED
    message = _address_message(session, step.where, step.link, step.address)
    try:
        session.rtnl(step.where).call(encoded(message, _RTM_DELADDR, NLM_F_ACK))
    except Refused as err:
        if is_absent(err):
            return UNCHANGED
        raise
    return ABSENT


def _address_message(session: Session, where: Place, link: str, address: IPInterface) -> ifaddrmsg:
    message = ifaddrmsg()
    message["family"] = FAMILY[address.version]
    message["prefixlen"] = address.network.prefixlen
    message["index"] = links.get(session, where, link).ifindex
    message["attrs"] = [("IFA_LOCAL", str(address.ip)), ("IFA_ADDRESS", str(address.ip))]
    return message


def address_differs(session: Session, step: EnsureAddress) -> str:
    link = links.find(session, step.where, step.link)
    present = [] if link is None else on_link(session, step.where, link.ifindex)
    found = next((item for item in present if item.address == step.address), None)
    if found is not None:
        return f"address {step.address} of {step.link} is a duplicate (DADFAILED)" if found.failed else ""
    return f"address {step.address} is not on {step.link} in the {step.where}"


def await_addresses(session: Session, step: AwaitAddresses) -> None:
    """:raises KernelRefused: when an address turns out to be in use on the link, or the wait is too long."""
    index = links.get(session, step.where, step.link).ifindex
    deadline = time.monotonic() + _AWAIT_DAD
    while waiting := [item for item in on_link(session, step.where, index) if item.tentative or item.failed]:
        failed = next((item for item in waiting if item.failed), None)
        if failed is not None:
            raise KernelRefused(
                f"link {step.link} has address {failed.address.ip} in DADFAILED state",
                "another host on the link uses the address (RFC 4862, 5.4)",
            )
        if time.monotonic() > deadline:
            raise KernelRefused(f"addresses of {step.link} are still tentative", f"after {_AWAIT_DAD:.0f} s")
        time.sleep(_DAD_PAUSE)


# ---------------------------------------------------------------------------------------------- routes


def add_route(session: Session, step: AddRoute) -> None:
    """Add a route as the reference does: several gateways for one destination are equal-cost routes."""
    message = _route_message(session, step)
    metrics = [("RTAX_MTU", min(step.mtu, _LARGEST_MTU))] if step.mtu else []
    metrics += [("RTAX_ADVMSS", step.advmss)] if step.advmss else []
    if metrics:
        message["attrs"].append(("RTA_METRICS", {"attrs": metrics}))
    message["scope"] = _scope(step)
    message["proto"] = OUR_PROTOCOL
    message["type"] = _UNICAST
    if step.onlink:
        message["flags"] = _RTNH_F_ONLINK
    session.rtnl(step.where).call(encoded(message, _RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE | NLM_F_APPEND))


def _scope(step: AddRoute) -> int:
    if step.scope is not None:
        return step.scope
    return _SCOPE_UNIVERSE if step.gw is not None or step.dst.version != 4 else _SCOPE_LINK  # noqa: PLR2004


def del_route(session: Session, step: DelRoute) -> None:
    if links.find(session, step.where, step.link) is None:
        return
    message = _route_message(session, step)
    message["scope"] = 255  # RT_SCOPE_NOWHERE: any
    try:
        session.rtnl(step.where).call(encoded(message, _RTM_DELROUTE, NLM_F_ACK))
    except Refused as err:
        if not is_absent(err):
            raise


def _route_message(session: Session, step: AddRoute | DelRoute) -> rtmsg:
    message = rtmsg()
    message["family"] = FAMILY[step.dst.version]
    message["dst_len"] = step.dst.network.prefixlen
    table = _TABLE_MAIN if step.table is None else step.table
    message["table"] = table if table <= 255 else 0  # noqa: PLR2004 (an octet; RTA_TABLE has the rest)
    attrs: list[tuple[str, Any]] = [
        ("RTA_TABLE", table),
        ("RTA_OIF", links.get(session, step.where, step.link).ifindex),
    ]
    if step.dst.network.prefixlen:
        attrs.append(("RTA_DST", str(step.dst.network.network_address)))
    if step.gw is not None:
        attrs.append(("RTA_GATEWAY", str(step.gw)))
    if step.priority:
        attrs.append(("RTA_PRIORITY", step.priority))
    message["attrs"] = attrs
    return message


def route_differs(session: Session, step: AddRoute) -> str:
    """Say how the route is missing, or has another MTU or advertised MSS than it should."""
    link = links.find(session, step.where, step.link)
    candidates = (
        []
        if link is None
        else [route for route in _routes(session, step) if _is_route(route, step, link.ifindex)]
    )
    via = f" via {step.gw}" if step.gw else ""
    text = f"route {step.dst.network}{via} out of {step.link} in the {step.where}"
    if not candidates:
        return f"{text} is missing"
    metrics = candidates[0].get_attr("RTA_METRICS")
    for name, key, wanted in (
        ("mtu", "RTAX_MTU", min(step.mtu, _LARGEST_MTU)),
        ("advmss", "RTAX_ADVMSS", step.advmss),
    ):
        value = (metrics.get_attr(key) if metrics else 0) or 0
        if wanted and value != wanted:
            return f"{text} has {name} {value}, not {wanted}"
    return ""


def _routes(session: Session, step: AddRoute) -> list[rtmsg]:
    message = rtmsg()
    message["family"] = FAMILY[step.dst.version]
    message["attrs"] = [("RTA_TABLE", _TABLE_MAIN if step.table is None else step.table)]
    try:
        answers = session.rtnl(step.where).dump(encoded(message, _RTM_GETROUTE, NLM_F_DUMP))
    except Refused as err:
        if is_absent(err):  # a table without any route
            return []
        raise
    routes = [rtmsg(answer.data) for answer in answers]
    for route in routes:
        route.decode()
    return routes


def _is_route(route: rtmsg, step: AddRoute, index: int) -> bool:
    """Compare destination and, where given, gateway and metric; equal-cost routes carry theirs in a list."""
    hops = route.get_attr("RTA_MULTIPATH")
    ways = (
        [(hop["oif"], hop.get_attr("RTA_GATEWAY")) for hop in hops]
        if hops
        else [(route.get_attr("RTA_OIF"), route.get_attr("RTA_GATEWAY"))]
    )
    network = step.dst.network
    dst = route.get_attr("RTA_DST") or str(network.network_address if not network.prefixlen else "")
    same_dst = route["dst_len"] == network.prefixlen and dst == str(network.network_address)
    same_way = any(oif == index and (step.gw is None or gw == str(step.gw)) for oif, gw in ways)
    return same_dst and same_way and (not step.priority or route.get_attr("RTA_PRIORITY") == step.priority)
