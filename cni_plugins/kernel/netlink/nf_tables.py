"""Builds nf_tables messages as bytes: attributes, expressions, batches (linux/netfilter/nf_tables.h).

Written by hand because pyroute2's nf_tables classes come with its asyncio sockets (45 ms to import), and
because a batch of ten messages costs 0.1 ms this way.
"""

import struct
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network
from typing import Final

from cni_plugins.kernel.netlink.attributes import attributes, packed
from cni_plugins.kernel.netlink.socket import NLM_F_ACK, NLM_F_REQUEST

INET, BRIDGE = 1, 7  # NFPROTO_INET, NFPROTO_BRIDGE
NEWTABLE, GETTABLE, DELTABLE = 0, 1, 2
NEWCHAIN, GETCHAIN, DELCHAIN = 3, 4, 5
NEWRULE, GETRULE, DELRULE = 6, 7, 8
NEWSET, GETSET, DELSET = 9, 10, 11
NEWSETELEM, GETSETELEM, DELSETELEM = 12, 13, 14
NEWGEN, GETGEN = 15, 16
TABLE_HANDLE, SET_HANDLE = 4, 16  # NFTA_TABLE_HANDLE, NFTA_SET_HANDLE

_SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
_BATCH_BEGIN, _BATCH_END, _BATCH_GENID = 0x10, 0x11, 1
_NESTED = 0x8000
_HEADER = struct.Struct("=IHHII")
NFGENMSG = 20  # bytes before the attributes, netlink header included
_COMMENT_LIMIT = 127  # characters nft(8) shows of a comment

IFNAME, IFNAME_LENGTH = 41, 16  # nft(8)'s data type, and bytes
PROTOCOL, PORT = 12, 13  # nft(8)'s data types inet_proto and inet_service
CONCATENATION = 6  # bits per part, in which nft(8) encodes the type of a concatenation

Value = int | str | bytes | list[bytes]

REG_1, REG_2 = 1, 2
_LINK_HEADER, _NETWORK_HEADER, _TRANSPORT_HEADER = 0, 1, 2
_META_PROTOCOL = 1
_META_IIFNAME, _META_OIFNAME, _META_NFPROTO, _META_L4PROTO = 6, 7, 15, 16
_CMP_EQ, _CMP_NEQ = 0, 1
_LOOKUP_INVERTED = 1
_NF_DROP, _NF_ACCEPT, _NFT_JUMP = 0, 1, -3
_REG_WORDS = 8  # NFT_REG32_00: registers of 4 bytes begin here, of which the first four are REG_1
_FIB_ADDRTYPE, _FIB_DADDR, _RTN_LOCAL = 3, 1 << 1, 2  # NFT_FIB_RESULT_ADDRTYPE, NFTA_FIB_F_DADDR
_CT_STATUS, _IPS_DST_NAT = 2, 1 << 5  # linux/netfilter/nf_conntrack_common.h
_NAT_DNAT = 1
_FIB_OIF, _FIB_SADDR, _FIB_IIF, _FIB_PRESENT = 1, 1 << 0, 1 << 3, 1 << 5  # NFT_FIB_RESULT_OIF, NFTA_FIB_F_…
_MASQ_PORTS, _MASQ_RANDOM_FULLY = 1 << 1, 1 << 4  # NF_NAT_RANGE_PROTO_SPECIFIED, …_PROTO_RANDOM_FULLY
_UDP = bytes([17])  # IPPROTO_UDP
_VNI_OFFSET = 8 + 4  # bytes: UDP header, flags of the VXLAN header (RFC 7348, 5)


class Layout:
    """The layout of addresses in an IP header, by IP version: NFPROTO number, offsets, length, type."""

    PROTO: Final = {4: 2, 6: 10}
    SOURCE: Final = {4: 12, 6: 8}
    DESTINATION: Final = {4: 16, 6: 24}
    LENGTH: Final = {4: 4, 6: 16}
    TYPE: Final = {4: 7, 6: 8}  # as nft(8) numbers its data types


def attr(kind: int, value: Value) -> bytes:
    """Return one attribute: numbers big-endian in 32 bits, texts with their NUL, lists nested."""
    if isinstance(value, list):
        kind, payload = kind | _NESTED, b"".join(value)
    elif isinstance(value, int):
        payload = struct.pack(">i" if value < 0 else ">I", value)
    elif isinstance(value, str):
        payload = value.encode() + b"\0"
    else:
        payload = value
    return packed(kind, payload)


def message(kind: int, family: int, flags: int, *attrs: bytes) -> bytearray:
    return _message(_SUBSYSTEM << 8 | kind, family, flags, 0, attrs)


def netfilter_message(kind: int, family: int, flags: int, *attrs: bytes) -> bytearray:
    """Return a message about an object of any subsystem of netfilter, which the kind contains."""
    return _message(kind, family, flags, 0, attrs)


def _message(kind: int, family: int, flags: int, resource: int, attrs: Iterable[bytes]) -> bytearray:
    body = struct.pack(">BBH", family, 0, resource) + b"".join(attrs)
    return bytearray(_HEADER.pack(_HEADER.size + len(body), kind, flags | NLM_F_REQUEST, 0, 0) + body)


def batch(messages: list[bytearray], generation: int | None = None) -> list[bytearray]:
    """Wrap messages into a transaction; with a generation, it fails if the ruleset has changed since then."""
    guard = [] if generation is None else [attr(_BATCH_GENID, generation)]
    # Only the last message requests an acknowledgement: errors are reported anyway, and many acknowledgements
    # would not fit into the receive buffer.
    (flags,) = struct.unpack_from("=H", messages[-1], 6)
    struct.pack_into("=H", messages[-1], 6, flags | NLM_F_ACK)
    return [
        _message(_BATCH_BEGIN, 0, 0, _SUBSYSTEM, guard),
        *messages,
        _message(_BATCH_END, 0, 0, _SUBSYSTEM, []),
    ]


def comment(text: str, kind: int = 0) -> bytes:
    """Return a comment in the user data format of nft(8): type, length, NUL-terminated text."""
    return userdata(kind, text.encode()[:_COMMENT_LIMIT] + b"\0")


def userdata(kind: int, payload: bytes) -> bytes:
    """Return one field of user data."""
    return bytes((kind, len(payload))) + payload


def comment_text(fields: bytes, kind: int = 0) -> str:
    """Read a comment from user data; empty if there is none."""
    return userdata_field(fields, kind).rstrip(b"\0").decode(errors="replace")


def userdata_field(fields: bytes, kind: int) -> bytes:
    """Return one field of user data, empty if it is not there."""
    offset = 0
    while offset + 2 <= len(fields):
        this, length = fields[offset], fields[offset + 1]
        if this == kind:
            return fields[offset + 2 : offset + 2 + length]
        offset += 2 + length
    return b""


def fields(data: bytes) -> dict[int, bytes]:
    """Return the attributes of an answer by type."""
    return dict(attributes(data, NFGENMSG))


# ---------------------------------------------------------------------------------------------- expressions


def _expression(name: str, *attrs: bytes) -> bytes:
    return attr(1, [attr(1, name), attr(2, list(attrs))])


def _payload(base: int, offset: int, length: int, register: int) -> bytes:
    return _expression("payload", attr(1, register), attr(2, base), attr(3, offset), attr(4, length))


def _compare(operator: int, value: bytes) -> bytes:
    return _expression("cmp", attr(1, REG_1), attr(2, operator), attr(3, [attr(1, value)]))


def _mask(value: bytes) -> bytes:
    nothing = attr(5, [attr(1, bytes(len(value)))])
    return _expression(
        "bitwise", attr(1, REG_1), attr(2, REG_1), attr(3, len(value)), attr(4, [attr(1, value)]), nothing
    )


def _meta(key: int) -> bytes:
    return _expression("meta", attr(1, REG_1), attr(2, key))


def _immediate(register: int, value: bytes) -> bytes:
    return _expression("immediate", attr(1, register), attr(2, [attr(1, value)]))


def _lookup(set_name: str, *, inverted: bool = False) -> bytes:
    flags = [attr(5, _LOOKUP_INVERTED)] if inverted else []
    return _expression("lookup", attr(1, set_name), attr(2, REG_1), *flags)


def _address(offsets: dict[int, int], version: int) -> bytes:
    return _payload(_NETWORK_HEADER, offsets[version], Layout.LENGTH[version], REG_1)


def _against(operator: int, offsets: dict[int, int], network: IPv4Network | IPv6Network) -> bytes:
    whole = network.prefixlen == network.max_prefixlen
    masked = b"" if whole else _mask(network.netmask.packed)
    return _address(offsets, network.version) + masked + _compare(operator, network.network_address.packed)


def is_family(version: int) -> bytes:
    """Match packets of IPv4 or IPv6 (`meta nfproto`)."""
    return _meta(_META_NFPROTO) + _compare(_CMP_EQ, bytes([Layout.PROTO[version]]))


def source_in(version: int, set_name: str, *, inverted: bool = False) -> bytes:
    """Match packets whose source address is in a set, or not (`ip saddr @set`, `ip saddr != @set`)."""
    return _address(Layout.SOURCE, version) + _lookup(set_name, inverted=inverted)


def destination_in(version: int, set_name: str, *, inverted: bool = False) -> bytes:
    """Match packets whose destination address is in a set, or not (`ip daddr @set`, `ip daddr != @set`)."""
    return _address(Layout.DESTINATION, version) + _lookup(set_name, inverted=inverted)


def destination_outside(network: IPv4Network | IPv6Network) -> bytes:
    """Match packets to addresses outside a network (`ip daddr != network`)."""
    return _against(_CMP_NEQ, Layout.DESTINATION, network)


def source_within(network: IPv4Network | IPv6Network) -> bytes:
    """Match packets from a network (`ip saddr network`)."""
    return is_family(network.version) + _against(_CMP_EQ, Layout.SOURCE, network)


def source_outside(network: IPv4Network | IPv6Network) -> bytes:
    """Match packets from addresses outside a network (`ip saddr != network`)."""
    return _against(_CMP_NEQ, Layout.SOURCE, network)


def destination_within(network: IPv4Network | IPv6Network) -> bytes:
    """Match packets to a network (`ip daddr network`)."""
    return is_family(network.version) + _against(_CMP_EQ, Layout.DESTINATION, network)


def udp(*, inverted: bool = False) -> bytes:
    """Match UDP, or everything else (`meta l4proto udp`, `meta l4proto != udp`)."""
    return _meta(_META_L4PROTO) + _compare(_CMP_NEQ if inverted else _CMP_EQ, _UDP)


def udp_to(port: int) -> bytes:
    """Match UDP packets to a port (`udp dport`)."""
    return udp() + _payload(_TRANSPORT_HEADER, 2, 2, REG_1) + _compare(_CMP_EQ, port.to_bytes(2, "big"))


def vni_is(vni: int) -> bytes:
    """Match VXLAN packets by their VNI (`@th,96,24`)."""
    loaded = _payload(_TRANSPORT_HEADER, _VNI_OFFSET, 3, REG_1)
    return loaded + _compare(_CMP_EQ, vni.to_bytes(3, "big"))


def masquerade(*, random_fully: bool, ports: tuple[int, int] | None = None) -> bytes:
    """Masquerade packets, with source ports of a range if one is given (`masquerade to :first-last`)."""
    flags = (_MASQ_RANDOM_FULLY if random_fully else 0) | (_MASQ_PORTS if ports else 0)
    flags_attr = [attr(1, flags)] if flags else []
    if ports is None:
        return _expression("masq", *flags_attr)
    first, last = (port.to_bytes(2, "big") for port in ports)
    loaded = _immediate(REG_1, first) + _immediate(REG_2, last)
    return loaded + _expression("masq", *flags_attr, attr(2, REG_1), attr(3, REG_2))


def enters_by(set_name: str, *, inverted: bool = False) -> bytes:
    """Match packets that enter by a link in a set, or by any other (`iifname @set`, `iifname != @set`)."""
    return _meta(_META_IIFNAME) + _lookup(set_name, inverted=inverted)


def enters_by_link(name: str, *, inverted: bool = False) -> bytes:
    """Match packets that enter by one link, or by any other (`iifname name`, `iifname != name`)."""
    return _meta(_META_IIFNAME) + _compare_name(name, inverted=inverted)


def leaves_by_link(name: str, *, inverted: bool = False) -> bytes:
    """Match packets that leave by one link, or by any other (`oifname name`, `oifname != name`)."""
    return _meta(_META_OIFNAME) + _compare_name(name, inverted=inverted)


def _compare_name(name: str, *, inverted: bool) -> bytes:
    return _compare(_CMP_NEQ if inverted else _CMP_EQ, name.encode().ljust(IFNAME_LENGTH, b"\0"))


def has_no_route_back() -> bytes:
    """Match packets whose link has no route to their source (`fib saddr . iif oif missing`)."""
    flags = _FIB_SADDR | _FIB_IIF | _FIB_PRESENT
    asked = _expression("fib", attr(1, REG_1), attr(2, _FIB_OIF), attr(3, flags))
    return asked + _compare(_CMP_EQ, bytes(4))


def leaves_by(set_name: str, *, inverted: bool = False) -> bytes:
    """Match packets that leave by a link in a set, or by any other (`oifname @set`, `oifname != @set`)."""
    return _meta(_META_OIFNAME) + _lookup(set_name, inverted=inverted)


def port_and_source_not_in(set_name: str) -> bytes:
    """Match frames whose link and source MAC are not a pair in a set (`iifname . ether saddr != @set`)."""
    return _meta(_META_IIFNAME) + _payload(_LINK_HEADER, 6, 6, REG_2) + _lookup(set_name, inverted=True)


def untrack() -> bytes:
    return _expression("notrack")


def jump(chain: str) -> bytes:
    return _expression("immediate", attr(1, 0), attr(2, [jump_verdict(chain)]))


def jump_verdict(chain: str) -> bytes:
    """Return the verdict to continue in a chain, as data of a rule or a map."""
    return attr(2, [attr(1, _NFT_JUMP), attr(2, chain)])


def drop() -> bytes:
    return _expression("immediate", attr(1, 0), attr(2, [attr(2, [attr(1, _NF_DROP)])]))


# -------------------------------------------------------------------------------------- published ports


def to_local_address() -> bytes:
    """Match packets to an address of this host (`fib daddr type local`)."""
    asked = _expression("fib", attr(1, REG_1), attr(2, _FIB_ADDRTYPE), attr(3, _FIB_DADDR))
    return asked + _compare(_CMP_EQ, struct.pack("=I", _RTN_LOCAL))


def dnat_by_map(version: int, map_name: str, *, with_address: bool) -> bytes:
    """Send packets to the address and port of a map, if it has their protocol and port.

    `dnat ip to [ip daddr .] meta l4proto . th dport map @map_name`

    :param with_address: whether the keys begin with the destination address.
    """
    words = Layout.LENGTH[version] // 4
    place = words if with_address else 0
    key = _address(Layout.DESTINATION, version) if with_address else b""
    key += _expression("meta", attr(1, _word(place)), attr(2, _META_L4PROTO))
    key += _payload(_TRANSPORT_HEADER, 2, 2, _word(place + 1))
    found = _expression("lookup", attr(1, map_name), attr(2, REG_1), attr(3, REG_1))
    target = (attr(1, _NAT_DNAT), attr(2, Layout.PROTO[version]), attr(3, REG_1), attr(5, _word(words)))
    return key + found + _expression("nat", *target)


def _word(number: int) -> int:
    """Return the register that begins at this word of 4 bytes, as nft(8) numbers them."""
    return number // 4 + 1 if number % 4 == 0 else _REG_WORDS + number


def had_its_destination_changed() -> bytes:
    """Match packets of connections that were sent elsewhere (`ct status dnat`)."""
    loaded = _expression("ct", attr(1, REG_1), attr(2, _CT_STATUS))
    return loaded + _mask(struct.pack("=I", _IPS_DST_NAT)) + _compare(_CMP_NEQ, bytes(4))


# ------------------------------------------------------------------------------- for links kept apart

IFNAME_PAIR = IFNAME << CONCATENATION | IFNAME


def link_name(name: str) -> bytes:
    """Return the name of a link as a key."""
    return name.encode().ljust(IFNAME_LENGTH, b"\0")


def enters_and_leaves_by(set_name: str, *, inverted: bool = False) -> bytes:
    """Match packets by the links that they enter and leave by (`iifname . oifname @set`, `… != @set`)."""
    leaves = _expression("meta", attr(1, REG_2), attr(2, _META_OIFNAME))
    return _meta(_META_IIFNAME) + leaves + _lookup(set_name, inverted=inverted)


# --------------------------------------------------------------------- for sources that a port may have

ETHER_ADDRESS = 9  # nft(8)'s data type
ETHER_ADDRESS_ROOM = 8  # bytes in a key: whole registers
_ETHER_SOURCE = 6  # offset
_ICMPV6 = bytes([58])
_ND_TARGET = 8  # offset in neighbour solicitations and advertisements (RFC 4861, 4.3 and 4.4)
_ARP_SENDER_MAC, _ARP_SENDER_IP = 8, 14  # offsets (RFC 826), of Ethernet and IPv4
_AFTER_NAME, _AFTER_MAC = IFNAME_LENGTH // 4, (IFNAME_LENGTH + ETHER_ADDRESS_ROOM) // 4  # words


def port_source_type(version: int) -> int:
    """Return the type of a set of links, their MAC addresses and IP addresses."""
    return (IFNAME << CONCATENATION | ETHER_ADDRESS) << CONCATENATION | Layout.TYPE[version]


PORT_TARGET_TYPE = (IFNAME << CONCATENATION | ETHER_ADDRESS) << CONCATENATION | 4  # the last: integer
# The key as nft(8) has it in the user data of a set: `typeof iifname . ether saddr . @th,64,128`. Releases
# before 1.0.8 have no name for the target of an advertisement, and could not load what they have listed.
PORT_TARGET_TYPEOF = bytes.fromhex(
    "00040d000000014e000e0004090000000106000406000000011400040700000001"
    "0c0004110000000104020000000226000407000000011e00040000000001040000"
    "0000020403000000030440000000040480000000"
)


def port_source_length(version: int) -> int:
    return IFNAME_LENGTH + ETHER_ADDRESS_ROOM + Layout.LENGTH[version]


def port_source(link: str, mac: str, address: bytes) -> bytes:
    """Return the key of such a set."""
    return link_name(link) + bytes.fromhex(mac.replace(":", "")).ljust(ETHER_ADDRESS_ROOM, b"\0") + address


def enters_by_other_than(prefix: str) -> bytes:
    """Match packets that enter by a link whose name does not begin so (`iifname != "prefix*"`)."""
    return _meta(_META_IIFNAME) + _compare(_CMP_NEQ, prefix.encode())


def protocol_is(ether_type: int) -> bytes:
    """Match frames by what they carry, a VLAN tag taken off (`meta protocol`)."""
    return _meta(_META_PROTOCOL) + _compare(_CMP_EQ, ether_type.to_bytes(2, "big"))


def icmpv6(*, inverted: bool = False) -> bytes:
    """Match ICMPv6, or everything else (`meta l4proto icmpv6`); neither what has no valid header."""
    return _meta(_META_L4PROTO) + _compare(_CMP_NEQ if inverted else _CMP_EQ, _ICMPV6)


def icmpv6_type(kind: int) -> bytes:
    loaded = _payload(_TRANSPORT_HEADER, 0, 1, REG_1)
    return icmpv6() + loaded + _compare(_CMP_EQ, bytes([kind]))


def port_source_in(version: int, set_name: str) -> bytes:
    """Match packets by link, source MAC and source address (`iifname . ether saddr . ip saddr @set`)."""
    return _port_source(
        _payload(_LINK_HEADER, _ETHER_SOURCE, 6, _word(_AFTER_NAME)),
        _payload(_NETWORK_HEADER, Layout.SOURCE[version], Layout.LENGTH[version], _word(_AFTER_MAC)),
        _lookup(set_name),
    )


def port_target_not_in(set_name: str) -> bytes:
    """Match neighbour advertisements by their target (`iifname . ether saddr . icmpv6 taddr != @set`)."""
    return _port_source(
        _payload(_LINK_HEADER, _ETHER_SOURCE, 6, _word(_AFTER_NAME)),
        _payload(_TRANSPORT_HEADER, _ND_TARGET, 16, _word(_AFTER_MAC)),
        _lookup(set_name, inverted=True),
    )


def arp_sender_in(set_name: str) -> bytes:
    """Match ARP whose sender is known by the MAC of the frame, and the same by that of the message."""
    sender = _payload(_NETWORK_HEADER, _ARP_SENDER_IP, 4, _word(_AFTER_MAC))
    of_frame = _payload(_LINK_HEADER, _ETHER_SOURCE, 6, _word(_AFTER_NAME))
    of_message = _payload(_NETWORK_HEADER, _ARP_SENDER_MAC, 6, _word(_AFTER_NAME))
    return _port_source(of_frame, sender, _lookup(set_name)) + _port_source(
        of_message, sender, _lookup(set_name)
    )


def _port_source(mac: bytes, address: bytes, lookup: bytes) -> bytes:
    return _meta(_META_IIFNAME) + mac + address + lookup


def accept() -> bytes:
    return _expression("immediate", attr(1, 0), attr(2, [attr(2, [attr(1, _NF_ACCEPT)])]))
