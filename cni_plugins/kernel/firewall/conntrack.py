"""Forgets UDP flows: an entry of conntrack sends packets where it did, whatever the rules say by now.

Messages: linux/netfilter/nfnetlink_conntrack.h. To find entries the kernel walks its whole table, which takes
12 ms on a host with 24 GB however few there are. So all of an IP version are looked for at once, and a
process that stays does it a moment after it has answered, for all requests until then: the containers are
not running yet, or not any more. The kernel filters the dump (since 5.8), and each entry is deleted by its
own tuple. What it cannot do here, it can do without: the entries expire.
"""

import socket
import struct
from _thread import allocate_lock, start_new_thread
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import cache
from ipaddress import ip_address
from time import sleep
from typing import NamedTuple

from cni_plugins.kernel.netlink import nf_tables as wire
from cni_plugins.kernel.netlink.attributes import attributes, packed
from cni_plugins.kernel.netlink.nf_tables import attr
from cni_plugins.kernel.netlink.socket import NLM_F_ACK, NLM_F_DUMP, Socket
from cni_plugins.kernel.session.session import Session, nft_socket
from cni_plugins.protocol.fields import IPAddress

_CTNETLINK, _CT_GET, _CT_DELETE = 1, 1, 2  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_…
_TUPLE_ORIG, _TUPLE_REPLY, _ZONE, _FILTER = 1, 2, 18, 25  # CTA_…
_OF_IP, _OF_PROTOCOL = 1, 2  # CTA_TUPLE_IP, CTA_TUPLE_PROTO
_SOURCE, _DESTINATION = {4: 1, 6: 3}, {4: 2, 6: 4}  # CTA_IP_V4_SRC, …
_NUMBER, _DST_PORT = 1, 3  # CTA_PROTO_NUM, CTA_PROTO_DST_PORT
_MATCH_NUMBER, _MATCH_DST_PORT = 1 << 3, 1 << 5  # CTA_FILTER_F_CTA_PROTO_…
_UDP = 17


class Flows(NamedTuple):
    """UDP packets to a port of this host.

    :param address: the host's address, None: any of them.
    :param answered_by: only those that this address answers.
    """

    version: int
    port: int
    address: IPAddress | None = None
    answered_by: IPAddress | None = None


# A walk is not preempted. One that began with the answer would often delay it: both start on the same CPU.
_PAUSE = 0.05  # seconds
_pending: list[Flows] = []  # of requests that were answered
_pending_lock = allocate_lock()  # held for an instant only
_aside: list[Socket] = []  # for threads, of which each keeps the lock while it uses it
_lock = allocate_lock()


def address_of(packed_address: bytes) -> IPAddress:
    return ip_address(packed_address)


def forget_udp(session: Session, flows: list[Flows]) -> None:
    """Delete the entries of these flows."""
    if not flows:
        return
    if session.may_leave_threads() and _is_forgotten_aside(flows):
        return
    _forget(session.nft(), flows)


def _is_forgotten_aside(flows: list[Flows]) -> bool:
    """Leave flows to a thread; return False if there cannot be one."""
    # Here, as the request has descriptors that end before it: a low one must be free between calls.
    if not _aside:
        _aside.append(nft_socket())
    with _pending_lock:
        has_thread = bool(_pending)
        _pending.extend(flows)
    if has_thread:
        return True
    try:
        start_new_thread(_forget_aside, ())
    except RuntimeError:  # no more threads
        _taken()
        return False
    return True


def _taken() -> list[Flows]:
    """Return what is pending, and leave nothing."""
    with _pending_lock:
        flows = _pending[:]
        _pending.clear()
    return flows


def _forget_aside() -> None:
    sleep(_PAUSE)
    with _lock, suppress(OSError):
        _forget(_aside[0], _taken())


def _forget(netfilter: Socket, flows: list[Flows]) -> None:
    is_local = cache(_is_local)
    for version in sorted({one.version for one in flows}):
        by_port: dict[int, list[Flows]] = {}
        for one in flows:
            if one.version == version:
                by_port.setdefault(one.port, []).append(one)
        with suppress(OSError):  # a kernel without nf_conntrack_netlink
            going = [
                _deletion(version, entry)
                for port, entry in _entries(netfilter, version, list(by_port))
                if any(_is_of(entry, one, is_local) for one in by_port.get(port, ()))
            ]
            if going:
                netfilter.ask_each(going)  # each answers with an acknowledgement, or that it is gone


def _is_of(entry: dict[int, bytes], one: Flows, is_local: Callable[[bytes], bool]) -> bool:
    is_wanted = _told(one.address) if one.address else is_local
    if not _address(entry, _TUPLE_ORIG, _DESTINATION[one.version], is_wanted):
        return False
    if one.answered_by is None:
        return True
    return _address(entry, _TUPLE_REPLY, _SOURCE[one.version], _told(one.answered_by))


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


def _entries(netfilter: Socket, version: int, ports: list[int]) -> Iterator[tuple[int, dict[int, bytes]]]:
    """Yield destination port and attributes of entries of UDP packets, to these ports among others."""
    number = packed(_NUMBER, bytes([_UDP]))
    if len(ports) == 1:
        match = _MATCH_NUMBER | _MATCH_DST_PORT
        protocol = attr(_OF_PROTOCOL, [number, packed(_DST_PORT, struct.pack(">H", ports[0]))])
    else:
        match, protocol = _MATCH_NUMBER, attr(_OF_PROTOCOL, [number])
    chosen = packed(1, struct.pack("=I", match))  # CTA_FILTER_ORIG_FLAGS
    question = wire.netfilter_message(
        _CTNETLINK << 8 | _CT_GET,
        wire.Layout.PROTO[version],
        NLM_F_DUMP,
        attr(_TUPLE_ORIG, [protocol]),
        attr(_FILTER, [chosen, packed(2, bytes(4))]),
    )
    for answer in netfilter.dump(question):
        entry = wire.fields(answer.data)
        of = dict(attributes(dict(attributes(entry.get(_TUPLE_ORIG, b""))).get(_OF_PROTOCOL, b"")))
        if of.get(_NUMBER) == bytes([_UDP]):  # older kernels do not filter
            yield int.from_bytes(of.get(_DST_PORT, b""), "big"), entry


def _address(entry: dict[int, bytes], of_tuple: int, kind: int, is_wanted: Callable[[bytes], bool]) -> bool:
    of = dict(attributes(dict(attributes(entry.get(of_tuple, b""))).get(_OF_IP, b"")))
    return kind in of and is_wanted(of[kind])


def _deletion(version: int, entry: dict[int, bytes]) -> bytearray:
    parts = [attr(_TUPLE_ORIG, [entry[_TUPLE_ORIG]])]
    if _ZONE in entry:
        parts.append(packed(_ZONE, entry[_ZONE]))
    kind = _CTNETLINK << 8 | _CT_DELETE
    return wire.netfilter_message(kind, wire.Layout.PROTO[version], NLM_F_ACK, *parts)
