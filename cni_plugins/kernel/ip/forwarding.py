"""Switches forwarding of the whole host on, and keeps what the host itself learned as a non-router.

The kernel deletes default routes learned from router advertisements when IPv6 forwarding is switched on, and
ignores further advertisements, unless a link has `accept_ra` 2 (rt6_purge_dflt_routers, net/ipv6/route.c).
"""

import socket
from contextlib import suppress

from cni_plugins.kernel.deed import deed
from cni_plugins.kernel.ip import sysctl
from cni_plugins.kernel.netlink import rtnetlink as wire
from cni_plugins.kernel.netlink.attributes import attributes
from cni_plugins.kernel.netlink.socket import NLM_F_DUMP
from cni_plugins.kernel.session.session import Session
from cni_plugins.steps.ip import IF_PRESENT, EnableForwarding, EnsureSysctl
from cni_plugins.steps.step import HOST, UNCHANGED

_KEYS = {4: ("ipv4", "ip_forward"), 6: ("ipv6", "conf", "all", "forwarding")}
_RTPROT_RA = 9  # linux/rtnetlink.h
_AS_ROUTER_TOO = "2"


def _enable(session: Session, step: EnableForwarding) -> str:
    for family in step.families:
        if family == 6 and _differs(session, step.replace(families=(family,))):  # noqa: PLR2004
            _keep_routers(session)
        sysctl.ensure(session, _setting(family))
    return UNCHANGED


def _differs(session: Session, step: EnableForwarding) -> str:
    return next(filter(None, (sysctl.differs(session, _setting(family)) for family in step.families)), "")


def _setting(family: int) -> EnsureSysctl:
    return EnsureSysctl(HOST, _KEYS[family], "1")


def _keep_routers(session: Session) -> None:
    """Let the links with routes from router advertisements accept them on a router too."""
    head = wire.RouteHead(wire.FAMILY[6], protocol=_RTPROT_RA)
    found = set()
    for answer in session.rtnl(HOST).dump(wire.route(wire.RTM_GETROUTE, NLM_F_DUMP, head)):
        route = wire.RouteHead(*wire.RTMSG.unpack_from(answer.data, wire.BODY))
        if route.protocol == _RTPROT_RA:  # kernels before 4.20 do not filter dumps
            found.add(wire.link_of_route(dict(attributes(answer.data, wire.BODY + wire.RTMSG.size))))
    for index in found:
        with suppress(OSError):  # the link is gone, or its routes are those of a program in user space
            key = ("ipv6", "conf", socket.if_indextoname(index), "accept_ra")
            if sysctl.value(session, HOST, key) == "1":
                sysctl.ensure(session, EnsureSysctl(HOST, key, _AS_ROUTER_TOO, IF_PRESENT))


DEEDS = deed(EnableForwarding, _enable, _differs)
