"""Forgets UDP flows: an entry of conntrack sends packets where it did, whatever the rules say by now.

Messages: linux/netfilter/nfnetlink_conntrack.h. The kernel filters the dump (since 5.8), and each entry is
deleted by its own tuple. What it cannot do here, it can do without: the entries expire.
"""

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import cache
from ipaddress import ip_address

from cni_plugins.kernel.netlink import nf_tables as wire
from cni_plugins.kernel.netlink.attributes import attributes, packed
from cni_plugins.kernel.netlink.nf_tables import attr
from cni_plugins.kernel.netlink.socket import NLM_F_ACK, NLM_F_DUMP
from cni_plugins.kernel.session.session import Session
from cni_plugins.protocol.fields import IPAddress

_CTNETLINK, _CT_GET, _CT_DELETE = 1, 1, 2  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_…
_TUPLE_ORIG, _TUPLE_REPLY, _ZONE, _FILTER = 1, 2, 18, 25  # CTA_…
_OF_IP, _OF_PROTOCOL = 1, 2  # CTA_TUPLE_IP, CTA_TUPLE_PROTO
_SOURCE, _DESTINATION = {4: 1, 6: 3}, {4: 2, 6: 4}  # CTA_IP_V4_SRC, …
_NUMBER, _DST_PORT = 1, 3  # CTA_PROTO_NUM, CTA_PROTO_DST_PORT
_MATCH_NUMBER, _MATCH_DST_PORT = 1 << 3, 1 << 5  # CTA_FILTER_F_CTA_PROTO_…
_UDP = 17


def address_of(packed_address: bytes) -> IPAddress:
    return ip_address(packed_address)


def forget_udp(
    session: Session,
    version: int,
    port: int,
    address: IPAddress | None = None,
    answered_by: IPAddress | None = None,
) -> None:
    """Delete the entries of UDP packets to a port of this host.

    :param address: the host's address, None: any of them.
    :param answered_by: only flows that this address answers.
    """
    is_local = _told(address) if address else cache(_is_local)
    with suppress(OSError):  # a kernel without nf_conntrack_netlink
        going = [
            _deletion(version, entry)
            for entry in _entries(session, version, port)
            if _address(entry, _TUPLE_ORIG, _DESTINATION[version], is_local)
            and (not answered_by or _address(entry, _TUPLE_REPLY, _SOURCE[version], _told(answered_by)))
        ]
        if going:
            session.nft().ask_each(going)  # each answers with an acknowledgement, or that it is gone


def _told(address: IPAddress) -> Callable[[bytes], bool]:
    wanted = address.packed
    return lambda found: found == wanted


def _is_local(address: bytes) -> bool:
    """Say whether an address is one of this host's: only those can be bound to."""
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6  # noqa: PLR2004 (bytes of an address)
    with closing(socket.socket(family, socket.SOCK_DGRAM)) as trying:
        try:
            trying.bind((str(ip_address(address)), 0))
        except OSError:
            return False
    return True


def _entries(session: Session, version: int, port: int) -> Iterator[dict[int, bytes]]:
    """Yield the entries of UDP packets to a port, by their attributes."""
    wanted = struct.pack(">H", port)
    protocol = attr(_OF_PROTOCOL, [packed(_NUMBER, bytes([_UDP])), packed(_DST_PORT, wanted)])
    chosen = packed(1, struct.pack("=I", _MATCH_NUMBER | _MATCH_DST_PORT))  # CTA_FILTER_ORIG_FLAGS
    question = wire.netfilter_message(
        _CTNETLINK << 8 | _CT_GET,
        _family(version),
        NLM_F_DUMP,
        attr(_TUPLE_ORIG, [protocol]),
        attr(_FILTER, [chosen, packed(2, bytes(4))]),
    )
    for answer in session.nft().dump(question):
        entry = wire.fields(answer.data)
        of = dict(attributes(dict(attributes(entry.get(_TUPLE_ORIG, b""))).get(_OF_PROTOCOL, b"")))
        if of.get(_NUMBER) == bytes([_UDP]) and of.get(_DST_PORT) == wanted:  # older kernels do not filter
            yield entry


def _address(entry: dict[int, bytes], of_tuple: int, kind: int, is_wanted: Callable[[bytes], bool]) -> bool:
    of = dict(attributes(dict(attributes(entry.get(of_tuple, b""))).get(_OF_IP, b"")))
    return kind in of and is_wanted(of[kind])


def _deletion(version: int, entry: dict[int, bytes]) -> bytearray:
    parts = [attr(_TUPLE_ORIG, [entry[_TUPLE_ORIG]])]
    if _ZONE in entry:
        parts.append(packed(_ZONE, entry[_ZONE]))
    return wire.netfilter_message(_CTNETLINK << 8 | _CT_DELETE, _family(version), NLM_F_ACK, *parts)


def _family(version: int) -> int:
    return wire.Layout.PROTO[version]
