"""Reads the FDB and neighbour tables of an overlay, and builds the messages that change their entries.

Defines key, value, text and message of each entry, as packed bytes; the wanted content is decided elsewhere.
Entries that the kernel or a routing daemon has learned are ignored.
"""

import struct
from collections.abc import Callable
from ipaddress import ip_address
from typing import Generic, NamedTuple, TypeVar

from cni_plugins.kernel.links.link import Link
from cni_plugins.kernel.netlink import rtnetlink as wire
from cni_plugins.kernel.netlink.attributes import attributes, packed
from cni_plugins.kernel.netlink.socket import (
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_REPLACE,
    NLM_F_REQUEST,
)
from cni_plugins.kernel.session.session import Session
from cni_plugins.protocol.fields import IPAddress
from cni_plugins.steps.step import HOST

# linux/neighbour.h
_NTF_SELF, _NTF_MASTER, NTF_PROXY, _NTF_EXT_LEARNED, _NTF_STICKY = 0x02, 0x04, 0x08, 0x10, 0x40
_MOVABLE = b"movable"  # not sticky: a container could take over the MAC of a peer by sending from it
_FLOOD = bytes(6)
_SET = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE
_ADD = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_APPEND  # another destination for the same address

_ENTRY = struct.Struct("=IHHIIBxxxiHBBHH6sxx")  # nlmsghdr, ndmsg, NDA_LLADDR
_NDMSG_TAIL = struct.Struct("=iHB")  # of ndmsg, from its second field on: index, state, flags
_DST_HEAD = {length: struct.pack("=HH", 4 + length, wire.NDA_DST) for length in (4, 16)}
_FAMILY = {4: wire.FAMILY[4], 16: wire.FAMILY[6]}  # by the length of an address
# Attributes of entries that consist of more than an address and a destination.
_EXTRA = (wire.NDA_VLAN, wire.NDA_PORT, wire.NDA_VNI, wire.NDA_IFINDEX, wire.NDA_SRC_VNI, wire.NDA_NH_ID)
_NAMING = {wire.NDA_DST, wire.NDA_LLADDR, *_EXTRA} - {wire.NDA_NH_ID}

V = TypeVar("V")


class Found(NamedTuple, Generic[V]):
    """An existing entry.

    :param data: the kernel's message about it.
    """

    value: V
    data: bytes


class Table(NamedTuple, Generic[V]):
    """The existing entries by key, with functions that describe entries and build messages for them.

    :param clashing: entries that prevent others from being replaced.
    :param named: returns a description of the entry with this key and value.
    :param told: returns how the first of two values of one entry differs from the second.
    :param in_place: returns whether the kernel can replace the first value by the second.
    """

    present: dict[bytes, Found[V]]
    clashing: list[tuple[bytes, Found[V]]]
    named: Callable[[bytes, V], str]
    told: Callable[[V, V], str]
    put: Callable[[bytes, V], bytearray]
    remove: Callable[[bytes], bytearray]
    in_place: Callable[[V, V], bool] = lambda *_: True


# ---------------------------------------------------------------------------------- forwarding entries


def packed_mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def fdb_item(mac: bytes, dst: bytes, extra: bytes = b"") -> tuple[bytes, bytes]:
    """Return key and value; the all-zero MAC and multicast MACs have one entry per destination."""
    if mac == _FLOOD or mac[0] & 1:
        return mac + dst + extra, b""
    return mac, dst + extra


def forwarding(session: Session, link: Link) -> tuple[Table[bytes], Table[bytes]]:
    """Return the FDB of a VXLAN link, and the entries of its bridge for this port.

    :return: destinations by MAC address, see fdb_item; and empty values by MAC address.
    """
    own, behind = _fdb_table(link), _behind_table(link)
    group = link.vxlan.group.packed if link.vxlan and link.vxlan.group else None
    # The kernel dumps both for a port; since 5.0 it filters by the index in the header.
    request = wire.neighbour(wire.RTM_GETNEIGH, NLM_F_DUMP, family=wire.AF_BRIDGE, index=link.ifindex)
    for answer in session.rtnl(HOST).dump(request):
        index, state, flags = _NDMSG_TAIL.unpack_from(answer.data, wire.BODY + 4)
        if index != link.ifindex or flags & _NTF_EXT_LEARNED:
            continue
        if flags & _NTF_SELF:
            if state & (wire.NUD_PERMANENT | wire.NUD_NOARP):
                _add_own(own, answer.data, group)
        elif state & wire.NUD_NOARP:  # a port's own address is permanent instead
            _add_behind(behind, answer.data, is_sticky=bool(flags & _NTF_STICKY))
    return own, behind


def _add_own(table: Table[bytes], data: bytes, group: bytes | None) -> None:
    attrs = dict(attributes(data, wire.BODY + wire.NDMSG.size))
    mac, dst = attrs[wire.NDA_LLADDR], attrs.get(wire.NDA_DST, b"")
    if mac == _FLOOD and dst == group:  # the default destination, created with the link
        return
    key, value = fdb_item(mac, dst, _extra(attrs))
    found = Found(value, data)
    if wire.NDA_NH_ID in attrs:  # the kernel acknowledges a replacement, but ignores it
        table.clashing.append((key, found))
    else:
        table.present[key] = found


def _add_behind(table: Table[bytes], data: bytes, *, is_sticky: bool) -> None:
    attrs = dict(attributes(data, wire.BODY + wire.NDMSG.size))
    found = Found(b"" if is_sticky else _MOVABLE, data)
    table.present[attrs[wire.NDA_LLADDR] + _extra(attrs)] = found


def _extra(attrs: dict[int, bytes]) -> bytes:
    return b"".join(packed(kind, attrs[kind]) for kind in _EXTRA if kind in attrs)


def _fdb_table(link: Link) -> Table[bytes]:
    index = link.ifindex

    def named(key: bytes, value: bytes) -> str:
        return f"FDB entry {key[:6].hex(':')} → {_address_in(key[6:] or value)} of {link.name}"

    def put(key: bytes, value: bytes) -> bytearray:
        request_flags, dst = (_SET, value) if value else (_ADD, key[6:])
        tail = _DST_HEAD[len(dst)] + dst
        head = (40 + len(tail), wire.RTM_NEWNEIGH, request_flags, 0, 0)
        body = (wire.AF_BRIDGE, index, wire.NUD_PERMANENT, _NTF_SELF, 0, 10, wire.NDA_LLADDR, key[:6])
        return bytearray(_ENTRY.pack(*head, *body) + tail)

    def difference(found: bytes, _wanted: bytes) -> str:
        return f"leads to {_address_in(found)}"

    return Table({}, [], named, difference, put, lambda data: _removal(data, _NTF_SELF))


def _address_in(value: bytes) -> str:
    """Return the address at the start of a destination, and whether it has extra attributes."""
    for length in (16, 4):
        if len(value) == length or (len(value) > length and value[length + 2 : length + 4] in _MARKS):
            return f"{ip_address(value[:length])}{' (with extra attributes)' if value[length:] else ''}"
    return "a nexthop object"


_MARKS = {struct.pack("=H", kind) for kind in _EXTRA}


def _behind_table(link: Link) -> Table[bytes]:
    def named(key: bytes, _value: bytes) -> str:
        return f"bridge's entry {key[:6].hex(':')} behind {link.name}"

    def put(key: bytes, _value: bytes) -> bytearray:
        body = (
            wire.AF_BRIDGE,
            link.ifindex,
            wire.NUD_NOARP,
            _NTF_MASTER | _NTF_STICKY,
            0,
            10,
            wire.NDA_LLADDR,
            key,
        )
        return bytearray(_ENTRY.pack(40, wire.RTM_NEWNEIGH, _SET, 0, 0, *body))

    return Table({}, [], named, lambda *_: "can be moved", put, lambda data: _removal(data, _NTF_MASTER))


def _removal(data: bytes, flags: int) -> bytearray:
    """Return a message that removes exactly the entry that another message describes."""
    family, index, state, _, _ = wire.NDMSG.unpack_from(data, wire.BODY)
    present = attributes(data, wire.BODY + wire.NDMSG.size)
    attrs = [packed(kind, value) for kind, value in present if kind in _NAMING]
    return wire.neighbour(wire.RTM_DELNEIGH, 0, *attrs, family=family, index=index, state=state, flags=flags)


# ------------------------------------------------------------------------------------------ neighbours


def neighbours(session: Session, link: Link) -> Table[bytes]:
    """Return the permanent neighbours of a link: MAC addresses by IP address, IPv4 and IPv6."""
    table = _neighbour_table(link)
    for data in _dumped(session, link.ifindex, 0):
        _, state, flags = _NDMSG_TAIL.unpack_from(data, wire.BODY + 4)
        if state & wire.NUD_PERMANENT and not flags & (_NTF_EXT_LEARNED | NTF_PROXY):
            attrs = dict(attributes(data, wire.BODY + wire.NDMSG.size))
            table.present[attrs[wire.NDA_DST]] = Found(attrs.get(wire.NDA_LLADDR, b""), data)
    return table


def _dumped(session: Session, index: int, flags: int) -> list[bytes]:
    chosen = wire.number(wire.NDA_IFINDEX, index)
    # Family 0: all families, so that IPv4 and IPv6 need only one dump.
    request = wire.neighbour(wire.RTM_GETNEIGH, NLM_F_DUMP, chosen, family=0, index=0, flags=flags)
    answers = [answer.data for answer in session.rtnl(HOST).dump(request)]
    return [
        data
        for data in answers
        if data[wire.BODY] in _FAMILY.values() and _NDMSG_TAIL.unpack_from(data, wire.BODY + 4)[0] == index
    ]


def _neighbour_table(link: Link) -> Table[bytes]:
    index = link.ifindex

    def named(key: bytes, value: bytes) -> str:
        return f"neighbour {ip_address(key)} → {value.hex(':')} of {link.name}"

    def put(key: bytes, value: bytes) -> bytearray:
        tail = _DST_HEAD[len(key)] + key
        body = (_FAMILY[len(key)], index, wire.NUD_PERMANENT, 0, 0, 10, wire.NDA_LLADDR, value)
        return bytearray(_ENTRY.pack(40 + len(tail), wire.RTM_NEWNEIGH, _SET, 0, 0, *body) + tail)

    def difference(found: bytes, _wanted: bytes) -> str:
        return f"is {found.hex(':') or 'without an address'}"

    return Table({}, [], named, difference, put, lambda data: _removal(data, 0))


def proxied(session: Session, index: int) -> set[bytes]:
    """Return the addresses of the proxy neighbours of a link."""
    found = set()
    for data in _dumped(session, index, NTF_PROXY):
        _, _, flags = _NDMSG_TAIL.unpack_from(data, wire.BODY + 4)
        if flags & NTF_PROXY:
            found.add(dict(attributes(data, wire.BODY + wire.NDMSG.size))[wire.NDA_DST])
    return found


def proxy(kind: int, index: int, address: IPAddress) -> bytearray:
    request_flags = _SET if kind == wire.RTM_NEWNEIGH else 0
    dst = wire.ip(wire.NDA_DST, address)
    family = wire.FAMILY[address.version]
    return wire.neighbour(kind, request_flags, dst, family=family, index=index, flags=NTF_PROXY)
