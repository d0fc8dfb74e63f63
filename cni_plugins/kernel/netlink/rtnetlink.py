"""Builds rtnetlink messages: links, addresses, neighbours, routes, rules, namespace ids, traffic control.

Written by hand because pyroute2 takes 0.1 to 0.5 ms to write or read one message, more than the kernel takes
to process it, and 60 ms to import. The tests compare the messages with those of pyroute2.
"""

import struct
import sys
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from cni_plugins.kernel.netlink.attributes import packed
from cni_plugins.kernel.netlink.socket import NLM_F_REQUEST

# linux/rtnetlink.h
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34
RTM_NEWQDISC, RTM_DELQDISC, RTM_GETQDISC = 36, 37, 38
RTM_NEWTFILTER, RTM_DELTFILTER, RTM_GETTFILTER = 44, 45, 46
RTM_NEWNSID, RTM_GETNSID = 88, 90
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_METRICS, RTA_MULTIPATH = 1, 4, 5, 6, 7, 8, 9
RTA_FLOW, RTA_CACHEINFO, RTA_TABLE, RTA_VIA, RTA_ENCAP_TYPE, RTA_ENCAP = 11, 12, 15, 18, 21, 22
RTA_EXPIRES, RTA_PAD, RTA_NH_ID = 23, 24, 30
RTAX_MTU, RTAX_ADVMSS = 2, 8
RT_TABLE_MAIN, RT_SCOPE_NOWHERE, RTNH_F_ONLINK, RTM_F_CLONED = 254, 255, 4, 0x200
RT_TABLE_DEFAULT, RT_TABLE_LOCAL, RTPROT_RA = 253, 255, 9
RTN_UNICAST, RTN_BLACKHOLE, RTN_UNREACHABLE, RTN_PROHIBIT = 1, 6, 7, 8
LARGEST_ROUTE_MTU = 65535 - 15  # bytes; the kernel reduces larger mtus to it (ip_metrics_convert)
# linux/fib_rules.h
FRA_SRC, FRA_PRIORITY, FRA_FWMARK, FRA_SUPPRESS_PREFIXLEN, FRA_TABLE, FRA_FWMASK = 2, 6, 10, 14, 15, 16
FRA_PAD, FRA_PROTOCOL = 18, 21
FR_ACT_TO_TBL = 1
# linux/if_link.h
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER, IFLA_OPERSTATE = 1, 3, 4, 5, 10, 16
IFLA_TXQLEN = 13
IFLA_LINKINFO, IFLA_IFALIAS, IFLA_AF_SPEC, IFLA_GROUP, IFLA_NET_NS_FD, IFLA_EXT_MASK = 18, 20, 26, 27, 28, 29
IFLA_PROMISCUITY, IFLA_LINK_NETNSID, IFLA_TARGET_NETNSID, IFLA_PROP_LIST, IFLA_ALT_IFNAME = 30, 37, 46, 52, 53
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
IFLA_BR_VLAN_FILTERING = 7
IFLA_BRPORT_STATE, IFLA_BRPORT_MODE, IFLA_BRPORT_ISOLATED = 1, 4, 33  # MODE is hairpin
IFLA_BRPORT_LEARNING, IFLA_BRPORT_UNICAST_FLOOD, IFLA_BRPORT_MCAST_FLOOD = 8, 9, 27
IFLA_BRPORT_BCAST_FLOOD, IFLA_BRPORT_NEIGH_SUPPRESS = 30, 32
IFLA_MACVLAN_MODE, IFLA_MACVLAN_FLAGS, IFLA_MACVLAN_MACADDR_MODE, IFLA_MACVLAN_MACADDR = 1, 2, 3, 4
IFLA_MACVLAN_MACADDR_DATA, IFLA_MACVLAN_BC_QUEUE_LEN = 5, 7
IFLA_VLAN_ID, IFLA_VLAN_PROTOCOL = 1, 5
IFLA_VXLAN_ID, IFLA_VXLAN_LINK, IFLA_VXLAN_TTL, IFLA_VXLAN_LEARNING = 1, 3, 5, 7
IFLA_VXLAN_PORT, IFLA_VXLAN_COLLECT_METADATA, IFLA_VXLAN_DF = 15, 25, 29
IFLA_VXLAN_GROUP = {4: 2, 6: 16}  # by IP version
IFLA_VXLAN_LOCAL = {4: 4, 6: 17}
# linux/veth.h, linux/if_bridge.h, linux/if_addr.h, linux/neighbour.h, linux/net_namespace.h
VETH_INFO_PEER = 1
IFLA_BRIDGE_VLAN_INFO = 2
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_FLAGS, IFA_RT_PRIORITY = 1, 2, 4, 8, 9
IFA_CACHEINFO = 6
NDA_DST, NDA_LLADDR, NDA_VLAN, NDA_PORT, NDA_VNI, NDA_IFINDEX = 1, 2, 5, 6, 7, 8
NDA_SRC_VNI, NDA_NH_ID = 11, 13
NETNSA_NSID, NETNSA_FD = 1, 3
NUD_NOARP, NUD_PERMANENT = 0x40, 0x80
AF_BRIDGE = 7  # linux/socket.h
FAMILY = {4: 2, 6: 10}  # by IP version: AF_INET, AF_INET6
FULL_LENGTH = {4: 32, 6: 128}  # by IP version: prefix length of a single address

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
IFINFOMSG = struct.Struct("=BxHiII")  # family, type, index, flags, mask of flags
IFADDRMSG = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
RTMSG = struct.Struct("=BBBBBBBBI")  # see RouteHead
RULE = struct.Struct("=BBBBBxxBI")  # family, lengths of destination and source, TOS, table, action, flags
NDMSG = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type
RTNEXTHOP = struct.Struct("=HBBi")  # length, flags, weight, index
TCMSG = struct.Struct("=BxxxiIII")  # family, index, handle, parent, info
BODY = _HEADER.size
_NUMBER = struct.Struct("=HHI")


class RouteHead(NamedTuple):
    """The fields of struct rtmsg."""

    family: int
    dst_len: int = 0
    src_len: int = 0
    tos: int = 0
    table: int = 0
    protocol: int = 0
    scope: int = 0
    kind: int = 0
    flags: int = 0


def link(
    kind: int, asked: int, *attrs: bytes, family: int = 0, index: int = 0, flags: int = 0, mask: int = 0
) -> bytearray:
    """Return a message about a link.

    :param asked: flags of the message (NLM_F_…), whereas `flags` are those of the link selected by `mask`.
    """
    return _message(kind, asked, IFINFOMSG.pack(family, 0, index, flags, mask), attrs)


def address(
    kind: int, asked: int, *attrs: bytes, family: int = 0, length: int = 0, index: int = 0, scope: int = 0
) -> bytearray:
    return _message(kind, asked, IFADDRMSG.pack(family, length, 0, scope, index), attrs)


def neighbour(
    kind: int, asked: int, *attrs: bytes, family: int, index: int, state: int = 0, flags: int = 0
) -> bytearray:
    return _message(kind, asked, NDMSG.pack(family, index, state, flags, 0), attrs)


def namespace(kind: int, asked: int, *attrs: bytes) -> bytearray:
    """Return a message about the ids of network namespaces (netns id)."""
    return _message(kind, asked, bytes(4), attrs)


def route(kind: int, asked: int, head: RouteHead, *attrs: bytes) -> bytearray:
    return _message(kind, asked, RTMSG.pack(*head), attrs)


def rule(
    kind: int, asked: int, *attrs: bytes, family: int, src_len: int = 0, table: int = 0, action: int = 0
) -> bytearray:
    return _message(kind, asked, RULE.pack(family, 0, src_len, 0, table, action, 0), attrs)


def octet_of_table(table: int) -> int:
    """Return a table's number for the header of a route or rule: larger ones are in an attribute only."""
    return table if table < 1 << 8 else 0


def traffic_control(
    kind: int, asked: int, *attrs: bytes, index: int, handle: int = 0, parent: int = 0, info: int = 0
) -> bytearray:
    """Return a message about a qdisc or a filter of a link; the attributes are in traffic_control."""
    return _message(kind, asked, TCMSG.pack(0, index, handle, parent, info), attrs)


def _message(kind: int, asked: int, body: bytes, attrs: tuple[bytes, ...]) -> bytearray:
    rest = b"".join((body, *attrs))
    return bytearray(_HEADER.pack(BODY + len(rest), kind, asked | NLM_F_REQUEST, 0, 0) + rest)


def number(kind: int, value: int) -> bytes:
    return _NUMBER.pack(8, kind, value)


def signed(kind: int, value: int) -> bytes:
    return packed(kind, value.to_bytes(4, sys.byteorder, signed=True))


def octet(kind: int, value: int) -> bytes:
    return packed(kind, bytes((value,)))


def port(kind: int, value: int) -> bytes:
    """Return an attribute with a UDP port, which is in network order."""
    return packed(kind, value.to_bytes(2, "big"))


def text(kind: int, value: str) -> bytes:
    return packed(kind, value.encode() + b"\0")


def mac(kind: int, value: str) -> bytes:
    return packed(kind, bytes.fromhex(value.replace(":", "")))


def ip(kind: int, value: IPv4Address | IPv6Address) -> bytes:
    return packed(kind, value.packed)


def nest(kind: int, *attrs: bytes) -> bytes:
    """Return nested attributes, without NLA_F_NESTED, which old kernels do not accept here."""
    return packed(kind, b"".join(attrs))


def veth_peer(*attrs: bytes) -> bytes:
    """Return the attribute for the other end of a pair, which holds a whole message body."""
    return packed(VETH_INFO_PEER, b"".join((bytes(IFINFOMSG.size), *attrs)))


def kind_of_link(name: str, *data: bytes) -> bytes:
    """Return the attributes for the kind of a link and its kind-specific data."""
    return nest(IFLA_LINKINFO, text(IFLA_INFO_KIND, name), nest(IFLA_INFO_DATA, *data))


def read_number(value: bytes | None) -> int:
    """Read a number of any size; 0 if the attribute is absent."""
    return int.from_bytes(value or b"", sys.byteorder)


def link_of_route(found: dict[int, bytes]) -> int:
    """Return the index of a route's link, the first of several; 0 if it has none."""
    hops = found.get(RTA_MULTIPATH)
    return RTNEXTHOP.unpack_from(hops)[3] if hops else read_number(found.get(RTA_OIF))
