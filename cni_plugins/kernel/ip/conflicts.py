"""Asks a wire whether anybody has an address: ARP probes (RFC 5227), neighbour solicitations (RFC 4862).

Both are sent from no address, so no neighbour learns anything from them and no router answers for others.
A bridge that suppresses ARP and ND (br_do_proxy_suppress_arp, net/bridge/br_arp_nd_proxy.c) does not flood
such frames: there, a link with an address asks from that.
"""

import select
import socket
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from cni_plugins.contract.plugin import Probing
from cni_plugins.errors import KernelRefused
from cni_plugins.kernel.echo import checksum
from cni_plugins.kernel.session.session import Session
from cni_plugins.protocol.fields import IPAddress

# RFC 5227, 1.1 has 1 to 2 seconds between probes, for the slowest of links, and lets others choose less. A
# neighbour of a container answers within milliseconds; three probes are sent in case one is lost.
PROBES, INTERVAL, LAST_WAIT = 3, 0.15, 0.2  # seconds
TAKES = (PROBES - 1) * INTERVAL + LAST_WAIT

_ARP, _IPV6 = 0x0806, 0x86DD  # linux/if_ether.h
_OUTGOING = 4  # linux/if_packet.h: PACKET_OUTGOING
_SOL_PACKET, _ADD_MEMBERSHIP, _MULTICAST = 263, 1, 0
_MEMBERSHIP = struct.Struct("=iHH8s")  # struct packet_mreq
_ETHERNET = struct.Struct("!6s6sH")
_ARP_PACKET = struct.Struct("!HHBBH6s4s6s4s")
_ARP_HEADER = (1, 0x0800, 6, 4)  # Ethernet, IPv4, and the lengths of their addresses
_REQUEST = 1
_IPV6_HEADER = struct.Struct("!IHBB16s16s")
_SOLICITATION = struct.Struct("!BBHI16s")  # type, code, checksum, reserved, target
_ICMPV6, _SOLICIT, _ADVERTISE, _HOP_LIMIT = 58, 135, 136, 255
_SOURCE_MAC, _TARGET_MAC = 1, 2  # RFC 4861, 4.6.1
_BROADCAST, _NO_MAC, _NO_IPV4, _NO_IPV6 = b"\xff" * 6, bytes(6), bytes(4), bytes(16)
_ALL_NODES = bytes.fromhex("333300000001")
_ENOUGH = 256  # bytes of a frame


class Seen(NamedTuple):
    """What a frame says of an address: who has it, or wants it."""

    address: IPAddress
    mac: str


def answering(session: Session, probing: Probing, addresses: Sequence[IPAddress]) -> dict[IPAddress, str]:
    """Return the addresses that others on a link have or probe for, and the MAC address of each.

    Takes `TAKES` seconds if nobody answers, and returns as soon as everybody has.

    :raises KernelRefused: if probes cannot be sent.
    """
    wanted = list(dict.fromkeys(addresses))
    link = probing.link
    try:
        with ExitStack() as closing:
            sockets: dict[int, socket.socket] = {
                version: closing.enter_context(_open(session, probing, version, wanted))
                for version in sorted({address.version for address in wanted})
            }
            return _ask(sockets, wanted, {source.version: source for source in probing.sources})
    except OSError as err:
        reason = err.strerror or str(err)
        raise KernelRefused(f"probe for addresses on {link}: {reason}", errno=err.errno or 0) from err


def _open(session: Session, probing: Probing, version: int, wanted: Sequence[IPAddress]) -> socket.socket:
    kind = _ARP if version == 4 else _IPV6  # noqa: PLR2004
    with session.inside(probing.where):
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        try:
            raw.bind((probing.link, kind))
            index = socket.if_nametoindex(probing.link)
            for group in _groups(wanted) if kind == _IPV6 else ():
                membership = _MEMBERSHIP.pack(index, _MULTICAST, len(group), group)
                raw.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, membership)
            raw.settimeout(0)
        except OSError:
            raw.close()
            raise
    return raw


def _groups(wanted: Sequence[IPAddress]) -> list[bytes]:
    """Return the groups to which answers, and solicitations of others for the same addresses, are sent."""
    return [_ALL_NODES, *(_group(address) for address in wanted if isinstance(address, IPv6Address))]


def _ask(
    sockets: Mapping[int, socket.socket], wanted: Sequence[IPAddress], sources: Mapping[int, IPAddress]
) -> dict[IPAddress, str]:
    found: dict[IPAddress, str] = {}
    start = time.monotonic()
    for number in range(PROBES):
        for address in wanted:
            if address not in found:
                raw = sockets[address.version]
                raw.send(probe(address, raw.getsockname()[4], sources.get(address.version)))
        last = number == PROBES - 1
        end = start + (TAKES if last else (number + 1) * INTERVAL)
        while len(found) < len(wanted) and (left := end - time.monotonic()) > 0:
            for seen in _heard([*sockets.values()], left):
                if seen.address in wanted:
                    found.setdefault(seen.address, seen.mac)
    return found


def _heard(sockets: Sequence[socket.socket], timeout: float) -> Iterator[Seen]:
    """Wait for a frame; yield what those that have arrived say."""
    waiting = select.poll()
    by_number = {raw.fileno(): raw for raw in sockets}
    for number in by_number:
        waiting.register(number, select.POLLIN)
    for number, _ in waiting.poll(timeout * 1000):
        raw = by_number[number]
        try:
            frame, sender = raw.recvfrom(_ENOUGH)
        except BlockingIOError:
            continue
        seen = None if sender[2] == _OUTGOING else read(frame, raw.getsockname()[4])
        if seen is not None:
            yield seen


# ------------------------------------------------------------------------------------------------ frames


def probe(address: IPAddress, mac: bytes, sender: IPAddress | None = None) -> bytes:
    """Return the frame that asks for an address, from no address or one of our own."""
    if isinstance(address, IPv4Address):
        source = sender.packed if sender else _NO_IPV4
        packet = _ARP_PACKET.pack(*_ARP_HEADER, _REQUEST, mac, source, _NO_MAC, address.packed)
        return _ETHERNET.pack(_BROADCAST, mac, _ARP) + packet
    group = b"\xff\x02" + bytes(9) + b"\x01\xff" + address.packed[-3:]
    source = sender.packed if sender else _NO_IPV6
    message = _SOLICITATION.pack(_SOLICIT, 0, 0, 0, address.packed)
    message += bytes((_SOURCE_MAC, 1)) + mac if sender else b""
    pseudo = source + group + struct.pack("!II", len(message), _ICMPV6)  # RFC 8200, 8.1
    total = checksum(pseudo + message).to_bytes(2, "big")
    header = _IPV6_HEADER.pack(6 << 28, len(message), _ICMPV6, _HOP_LIMIT, source, group)
    return _ETHERNET.pack(_group(address), mac, _IPV6) + header + message[:2] + total + message[4:]


def read(frame: bytes, own: bytes) -> Seen | None:
    """Return what a frame says of an address, None if it says nothing or is our own.

    :param own: our MAC address; a switch may send our frames back to us.
    """
    if len(frame) < _ETHERNET.size:
        return None
    _, source, kind = _ETHERNET.unpack_from(frame)
    if source == own:
        return None
    if kind == _ARP:
        return _read_arp(frame[_ETHERNET.size :], own)
    return _read_ipv6(frame[_ETHERNET.size :], source) if kind == _IPV6 else None


def _read_arp(packet: bytes, own: bytes) -> Seen | None:
    """Read an ARP packet: its sender has an address, or probes for one (RFC 5227, 2.1.1)."""
    if len(packet) < _ARP_PACKET.size:
        return None
    *header, operation, mac, sender, _, target = _ARP_PACKET.unpack_from(packet)
    if tuple(header) != _ARP_HEADER or mac == own:
        return None
    if sender != _NO_IPV4:
        return Seen(IPv4Address(sender), mac.hex(":"))
    return Seen(IPv4Address(target), mac.hex(":")) if operation == _REQUEST else None


def _read_ipv6(packet: bytes, source: bytes) -> Seen | None:
    """Read an advertisement, or a solicitation of somebody who wants the same address (RFC 4862, 5.4.3)."""
    if len(packet) < _IPV6_HEADER.size + _SOLICITATION.size:
        return None
    _, _, following, hops, sender, _ = _IPV6_HEADER.unpack_from(packet)
    kind, code, _, _, target = _SOLICITATION.unpack_from(packet, _IPV6_HEADER.size)
    if following != _ICMPV6 or hops != _HOP_LIMIT or code != 0:
        return None
    if kind == _ADVERTISE:
        return Seen(IPv6Address(target), _advertised(packet) or source.hex(":"))
    is_wanted = kind == _SOLICIT and sender == _NO_IPV6
    return Seen(IPv6Address(target), source.hex(":")) if is_wanted else None


def _advertised(packet: bytes) -> str:
    """Return the MAC address in an advertisement, if that is its first option."""
    start = _IPV6_HEADER.size + _SOLICITATION.size
    option = packet[start : start + 8]
    return option[2:].hex(":") if option[:2] == bytes((_TARGET_MAC, 1)) else ""


def _group(address: IPv6Address) -> bytes:
    """Return the MAC address of the group that an address solicits (RFC 2464, 7)."""
    return b"\x33\x33\xff" + address.packed[-3:]
