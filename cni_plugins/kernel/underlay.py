"""What the host would send an overlay's packets over: ways to other hosts, and the UDP port.

Nothing is decided here, and nothing sent to other hosts.
"""

import errno
import socket
from collections.abc import Mapping, Sequence
from functools import cache
from ipaddress import IPv4Address, IPv6Address, ip_address

from cni_plugins.contract.facts import Way
from cni_plugins.kernel import links, netns
from cni_plugins.kernel import rtnl_wire as wire
from cni_plugins.kernel.attributes import attributes
from cni_plugins.kernel.link import IFF_UP
from cni_plugins.kernel.rtnl_wire import read_number
from cni_plugins.kernel.session import Session
from cni_plugins.kernel.wire import NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, Answer, Refused
from cni_plugins.spec.fields import IPAddress
from cni_plugins.steps.places import HOST

_SCOPE_LINK = 253  # linux/rtnetlink.h
_RTN_UNREACHABLE = range(6, 9)  # linux/rtnetlink.h: RTN_BLACKHOLE, RTN_UNREACHABLE, RTN_PROHIBIT
# What routes that throw packets away answer with, and a table without any that fits.
_NO_WAY = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL, errno.EADDRNOTAVAIL)
_FULL = {4: 32, 6: 128}  # prefix lengths of one address
_LAST_VNI = 0xFFFFFF
_LOOPBACK: dict[int, IPAddress] = {4: IPv4Address("127.0.0.1"), 6: IPv6Address("::1")}
_PROBE, _HOST = "probe", 0  # a link, and the number of the host, both in a namespace of their own
_VIA_FAMILY = 2  # octets before the address in struct rtvia


def addressed(session: Session) -> list[int]:
    """Return the indexes of the host's links with addresses.

    The link-local ones of IPv6 do not count: the host's end of every container has one.
    """
    dumped = session.rtnl(HOST).dump(wire.address(wire.RTM_GETADDR, NLM_F_DUMP))
    heads = (wire.IFADDRMSG.unpack_from(answer.data, wire.BODY) for answer in dumped)
    left_out = wire.FAMILY[6], _SCOPE_LINK
    return sorted({index for family, _, _, scope, index in heads if (family, scope) != left_out})


def ways(session: Session, addresses: Sequence[IPAddress]) -> Mapping[IPAddress, Way]:
    """Return the way to each address that there is one to; that to the host's own is by its loopback."""
    name = cache(_name)
    found = ((address, _asked(session, address)) for address in dict.fromkeys(addresses))
    told = ((address, _read(answer)) for address, answer in found if answer is not None)
    return {
        address: Way(name(index), gateway, source)
        for address, (index, gateway, source) in told
        if index and name(index)
    }


def _asked(session: Session, address: IPAddress) -> Answer | None:
    """Ask for one route; many in one datagram take longer, for the acknowledgements that come besides."""
    head = wire.RouteHead(wire.FAMILY[address.version], _FULL[address.version])
    question = wire.route(wire.RTM_GETROUTE, 0, head, wire.ip(wire.RTA_DST, address))
    try:
        return session.rtnl(HOST).ask(question)
    except Refused as err:
        if err.errno in _NO_WAY:
            return None
        raise


def _read(answer: Answer) -> tuple[int, IPAddress | None, IPAddress | None]:
    """Return the index of the link, 0 where packets are thrown away, the gateway and the source."""
    head = wire.RouteHead(*wire.RTMSG.unpack_from(answer.data, wire.BODY))
    found = dict(attributes(answer.data, wire.BODY + wire.RTMSG.size))
    index = 0 if head.kind in _RTN_UNREACHABLE else read_number(found.get(wire.RTA_OIF))
    gateway = found.get(wire.RTA_GATEWAY) or found.get(wire.RTA_VIA, b"")[_VIA_FAMILY:]
    source = found.get(wire.RTA_PREFSRC)
    return index, ip_address(gateway) if gateway else None, ip_address(source) if source else None


def _name(index: int) -> str:
    """Return the name of a host link, empty when it is gone."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return ""


def port_taken(session: Session, port: int) -> bool:
    """Say whether a socket has the UDP port, and is not one that VXLAN links share.

    It may be of a link that was moved to another namespace, as Docker does, so a link has to tell.
    """
    return any(
        not _can_bind(family, port) and not _can_share(session, version, port)
        for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6))
    )


def _can_share(session: Session, version: int, port: int) -> bool:
    """Try it with a VXLAN link in a network namespace of its own, that sends and receives in the host."""
    info = wire.kind_of_link(
        "vxlan",
        wire.number(wire.IFLA_VXLAN_ID, _LAST_VNI),
        wire.ip(wire.IFLA_VXLAN_LOCAL[version], _LOOPBACK[version]),
        wire.port(wire.IFLA_VXLAN_PORT, port),
    )
    named, sends_in_host = wire.text(wire.IFLA_IFNAME, _PROBE), wire.signed(wire.IFLA_LINK_NETNSID, _HOST)
    made = links.change(named, sends_in_host, info, asked=NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL)
    with netns.throw_away(session.host), Session(None) as empty:
        numbered = wire.number(wire.NETNSA_FD, session.host), wire.signed(wire.NETNSA_NSID, _HOST)
        links.modify(empty, wire.namespace(wire.RTM_NEWNSID, NLM_F_ACK, *numbered))
        try:
            links.modify(empty, made, links.change(named, flags=IFF_UP, mask=IFF_UP))
        except Refused as err:
            return err.errno == errno.EEXIST  # somebody's link has this VNI at the port
        finally:
            links.delete(empty, HOST, _PROBE)  # the namespace ends later, and would hold the port until then
    return True


def _can_bind(family: socket.AddressFamily, port: int) -> bool:
    """Try it; where there is no IPv6 nobody can have its port."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as tried:
            if family == socket.AF_INET6:
                tried.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            tried.bind(("", port))
    except OSError as err:
        return err.errno != errno.EADDRINUSE
    return True
