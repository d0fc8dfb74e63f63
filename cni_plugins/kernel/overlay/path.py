"""Asks the far end of a tunnel from below: what becomes of a UDP packet to its port, and which MAC it has.

No protocol of our own: a header of VXLAN without a frame, which the kernel drops where there is a tunnel, and
an echo request in a frame for all, which every host answers whatever its MAC address is.
"""

import errno
import os
import socket
import struct
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from ipaddress import ip_address
from select import POLLERR, POLLIN, poll
from typing import NamedTuple

from cni_plugins.errors import KernelRefused
from cni_plugins.kernel import echo
from cni_plugins.protocol.fields import IPAddress

_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_RECVERR = {4: (socket.IPPROTO_IP, 11), 6: (socket.IPPROTO_IPV6, 25)}  # linux/in.h, linux/in6.h
_VXLAN = struct.Struct("!II")  # RFC 7348, 5: flags, VNI in the upper 24 bits
_VNI_IS_VALID = 0x08000000
_ETHERNET = struct.Struct("!6s6sH")
_TYPE = {4: 0x0800, 6: 0x86DD}
_EVERYONE = b"\xff" * 6
_TOKEN = 8  # bytes
_HOPS = 1  # who has it first answers, or nobody
_ENOUGH = 2048  # bytes
_ANY_PROTOCOL = 3  # ETH_P_ALL: ports of bridges show their frames to these sockets only
_OUTGOING = 4  # PACKET_OUTGOING


class Tunnel(NamedTuple):
    """The end at this host: its VXLAN link, its VNI and UDP port, and the addresses of both sides of it."""

    link: str
    vni: int
    port: int
    local: IPAddress
    mac: str

    @property
    def header(self) -> bytes:
        return _VXLAN.pack(_VNI_IS_VALID, self.vni << 8)


class End(NamedTuple):
    """The overlay's addresses at the ends of a tunnel: our own, and that of the peer with this VTEP."""

    vtep: IPAddress
    ours: IPAddress
    theirs: IPAddress


# ------------------------------------------------------------------------------------------- the UDP port


def refusals(tunnel: Tunnel, vteps: Iterable[IPAddress], timeout: float) -> dict[IPAddress, int]:
    """Send a packet to the VXLAN port of each; return the error number of those that are refused.

    ECONNREFUSED is the answer of a host on which nothing uses the port, any other that of a filter.
    """
    with _Connected(tunnel, vteps) as sockets:
        return _refused(sockets, tunnel.header, timeout)


class _Connected:
    """Sockets to each of the addresses, closed at the end of a block."""

    def __init__(self, tunnel: Tunnel, vteps: Iterable[IPAddress]) -> None:
        self._tunnel, self._vteps, self._open = tunnel, vteps, dict[IPAddress, socket.socket]()

    def __enter__(self) -> dict[IPAddress, socket.socket]:
        for vtep in self._vteps:
            with suppress(OSError):  # no route: echo requests have told that
                self._open[vtep] = udp = socket.socket(
                    _FAMILY[vtep.version], socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
                )
                udp.setsockopt(*_RECVERR[vtep.version], 1)
                udp.bind((str(self._tunnel.local), 0))
                udp.connect((str(vtep), self._tunnel.port))
        return self._open

    def __exit__(self, *_: object) -> None:
        for udp in self._open.values():
            udp.close()


def _refused(
    sockets: Mapping[IPAddress, socket.socket], header: bytes, timeout: float
) -> dict[IPAddress, int]:
    waiting, found = poll(), dict[IPAddress, int]()
    by_number = {udp.fileno(): (vtep, udp) for vtep, udp in sockets.items()}
    for number, (vtep, udp) in by_number.items():
        waiting.register(number, POLLERR)
        try:
            udp.send(header)
        except OSError as err:  # this host's own filter
            found[vtep] = err.errno or errno.EPERM
    end = time.monotonic() + timeout
    while len(found) < len(by_number) and (left := end - time.monotonic()) > 0:
        for number, _ in waiting.poll(left * 1000):
            vtep, udp = by_number[number]
            waiting.unregister(number)
            found[vtep] = udp.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or errno.ECONNREFUSED
    return found


# ----------------------------------------------------------------------------------------- MAC addresses


def macs(tunnel: Tunnel, ends: Iterable[End], timeout: float) -> dict[IPAddress, str]:
    """Return the MAC address of each peer's VXLAN link, by its VTEP; of those that answer a frame for all.

    :raises KernelRefused: when this host cannot listen at its VXLAN link.
    """
    token, asked = os.urandom(_TOKEN), list(ends)
    try:
        with socket.socket(
            socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0
        ) as heard:
            heard.bind((tunnel.link, _ANY_PROTOCOL))
            for number, end in enumerate(asked):
                _send(tunnel, end, echo.request(end.theirs.version, token, number, echo.ORDINARY))
            return dict(_replies(heard, asked, token, timeout))
    except OSError as err:
        raise KernelRefused(f"listen at {tunnel.link}: {err.strerror}", errno=err.errno or 0) from err


def _send(tunnel: Tunnel, end: End, request: bytes) -> None:
    frame = _ETHERNET.pack(_EVERYONE, bytes.fromhex(tunnel.mac.replace(":", "")), _TYPE[end.theirs.version])
    with suppress(OSError), socket.socket(_FAMILY[end.vtep.version], socket.SOCK_DGRAM) as udp:
        udp.bind((str(tunnel.local), 0))
        udp.sendto(tunnel.header + frame + _packet(end, request), (str(end.vtep), tunnel.port))


def _packet(end: End, request: bytes) -> bytes:
    """Return an echo request with its IP header."""
    addresses = end.ours.packed + end.theirs.packed
    if end.theirs.version == 4:  # noqa: PLR2004
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(request), 0, 0, _HOPS, socket.IPPROTO_ICMP, 0)
        total = echo.checksum(head + addresses)
        return head[:10] + struct.pack("!H", total) + addresses + request
    pseudo = addresses + struct.pack("!II", len(request), socket.IPPROTO_ICMPV6)
    body = request[:2] + struct.pack("!H", echo.checksum(pseudo + request)) + request[4:]
    return struct.pack("!IHBB", 6 << 28, len(body), socket.IPPROTO_ICMPV6, _HOPS) + addresses + body


def _replies(
    heard: socket.socket, asked: list[End], token: bytes, timeout: float
) -> Iterator[tuple[IPAddress, str]]:
    waiting, left_over = poll(), set(range(len(asked)))
    waiting.register(heard, POLLIN)
    limit = time.monotonic() + timeout
    while left_over and (left := limit - time.monotonic()) > 0:
        if not waiting.poll(left * 1000):
            continue
        with suppress(BlockingIOError):
            while True:
                frame, sender = heard.recvfrom(_ENOUGH)
                number = None if sender[2] == _OUTGOING else _answered(frame, asked, token)
                if number in left_over:
                    left_over.discard(number)
                    yield asked[number].vtep, frame[6:12].hex(":")


def _answered(frame: bytes, asked: list[End], token: bytes) -> int | None:
    """Return the number of the request that a frame answers, None for any other frame."""
    start = _ETHERNET.size
    for version, kind in _TYPE.items():
        if frame[12:14] != kind.to_bytes(2, "big"):
            continue
        source = frame[start + 12 : start + 16] if version == 4 else frame[start + 8 : start + 24]  # noqa: PLR2004
        packet = frame[start:] if version == 4 else frame[start + 40 :]  # noqa: PLR2004
        number = echo.answer(version, token, packet) if packet else None
        is_known = number is not None and number < len(asked)
        if number is not None and is_known and asked[number].theirs == ip_address(source):
            return number
    return None
