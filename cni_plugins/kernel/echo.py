"""Sends echo requests (ICMP, RFC 792; ICMPv6, RFC 4443) to many addresses at once, and measures path MTUs.

Uses the network namespace of the calling thread. Ignores path MTUs that the kernel has cached, and changes
nothing.
"""

import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from select import POLLIN, poll
from typing import NamedTuple

from cni_plugins.errors import KernelRefused
from cni_plugins.protocol.fields import IPAddress

ORDINARY = 84  # bytes, as ping(8) sends
SMALLEST = {4: 576, 6: 1280}  # bytes every path must carry: RFC 791, 3.1; RFC 8200, 5

_IPV4, _IPV6 = 4, 6
_ECHO = struct.Struct("!BBHHH")  # type, code, checksum, identifier, number
_REQUEST, _ANSWER = {4: 8, 6: 128}, {4: 0, 6: 129}
_HEADERS = {4: 28, 6: 48}  # bytes of IP and ICMP together
_TOKEN = 8  # bytes; raw sockets receive the answers to other processes of the namespace too
_ENOUGH = 128  # bytes: only headers and token of an answer are read
_ROOM = 4 << 20  # bytes of receive buffer

_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_PROTOCOL = {4: socket.IPPROTO_ICMP, 6: socket.IPPROTO_ICMPV6}
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h
# level, option: linux/in.h, linux/in6.h, linux/icmp.h, linux/icmpv6.h
_MTU_DISCOVER = {4: (socket.IPPROTO_IP, 10), 6: (socket.IPPROTO_IPV6, 23)}
_FILTER = {4: (255, 1), 6: (socket.IPPROTO_ICMPV6, 1)}
_DONT, _PROBE = 0, 3  # IP_PMTUDISC_DONT: no DF; IP_PMTUDISC_PROBE: DF, and cached MTUs ignored
_IPV6_DONTFRAG = 62
_HOPS = {4: (socket.IPPROTO_IP, socket.IP_TTL), 6: (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS)}


class Search(NamedTuple):
    """Bounds of a path MTU: packets of `fits` bytes get through, packets of `fails` bytes do not."""

    fits: int
    fails: int

    @property
    def is_over(self) -> bool:
        return self.fails - self.fits <= 1

    @property
    def next_size(self) -> int:
        return (self.fits + self.fails) // 2

    def after(self, *, answered: bool) -> "Search":
        return self._replace(fits=self.next_size) if answered else self._replace(fails=self.next_size)


class _Options(NamedTuple):
    link: str = ""
    source: IPAddress | None = None
    df: bool = False
    hops: int = 0


class _Round(NamedTuple):
    """One round of echo requests: target and time of each, by sequence number."""

    version: int
    token: bytes
    sent: list[tuple[IPAddress, float]]

    def message(self, number: int, size: int) -> bytes:
        return request(self.version, self.token, number, size)


def echo(  # noqa: PLR0913 (all but the first have defaults)
    targets: Sequence[IPAddress],
    size: int = ORDINARY,
    timeout: float = 1.0,
    link: str = "",
    source: IPAddress | None = None,
    *,
    df: bool = False,
    hops: int = 0,
) -> dict[IPAddress, float]:
    """Send a request to all targets at once; return the round-trip time of each that answers, in seconds.

    :param size: bytes of the whole IP packet.
    :param timeout: seconds after the last request.
    :param link: the link to send by, whatever the routes say.
    :param df: neither this host nor a router may fragment the packet.
    :param hops: hosts that may have the packet, the target included; 0: the kernel's default.
    :raises KernelRefused: if requests cannot be sent, for example without CAP_NET_RAW.
    """
    return _send(dict.fromkeys(targets, size), timeout, _Options(link, source, df, hops))


def path_mtu(
    targets: Sequence[IPAddress],
    largest: int,
    timeout: float,
    link: str = "",
    source: IPAddress | None = None,
) -> dict[IPAddress, int | None]:
    """Return the size of the largest packet that reaches each target whole; None: not even a small one.

    :param largest: bytes: the MTU of the outgoing link.
    :raises KernelRefused: see `echo`.
    """
    options = _Options(link, source, df=True)
    floors = {target: min(SMALLEST[target.version], largest) for target in targets}
    found: dict[IPAddress, int | None] = dict.fromkeys(targets)
    whole = _send_twice(dict.fromkeys(targets, largest), timeout, options)
    found.update(dict.fromkeys(whole, largest))
    smaller = {target: floor for target, floor in floors.items() if target not in whole and floor < largest}
    searches = {target: Search(smaller[target], largest) for target in _send_twice(smaller, timeout, options)}
    while unfinished := {target: search for target, search in searches.items() if not search.is_over}:
        sizes = {target: search.next_size for target, search in unfinished.items()}
        answered = _send_twice(sizes, timeout, options)
        searches |= {to: search.after(answered=to in answered) for to, search in unfinished.items()}
    return found | {target: search.fits for target, search in searches.items()}


def request(version: int, token: bytes, number: int, size: int) -> bytes:
    """Return an echo request that has this size with its IP header, or the minimum size if that is larger."""
    body = token.ljust(size - _HEADERS[version], b"\0")
    identifier = int.from_bytes(token[:2], "big")
    message = _ECHO.pack(_REQUEST[version], 0, 0, identifier, number) + body
    if version == _IPV6:  # the kernel computes it, as it covers the addresses: RFC 3542, 3.1
        return message
    return message[:2] + checksum(message).to_bytes(2, "big") + message[4:]


def answer(version: int, token: bytes, packet: bytes) -> int | None:
    """Return the number of the request that this answers; None if the request was not ours.

    :param packet: as read from a raw socket: IPv4 with its header, IPv6 without.
    """
    start = (packet[0] & 15) * 4 if version == _IPV4 else 0
    if len(packet) < start + _ECHO.size + len(token):
        return None
    kind, _, _, _, number = _ECHO.unpack_from(packet, start)
    is_ours = kind == _ANSWER[version] and packet.startswith(token, start + _ECHO.size)
    return number if is_ours else None


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    even = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(even) // 2}H", even))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _send_twice(sizes: Mapping[IPAddress, int], timeout: float, options: _Options) -> dict[IPAddress, float]:
    """Repeat requests without an answer once: a single lost packet does not mean that it was too large."""
    answered = _send(sizes, timeout, options)
    silent = {target: size for target, size in sizes.items() if target not in answered}
    return answered | _send(silent, timeout, options)


def _send(sizes: Mapping[IPAddress, int], timeout: float, options: _Options) -> dict[IPAddress, float]:
    answered: dict[IPAddress, float] = {}
    for version in (_IPV4, _IPV6):
        of_version = {target: size for target, size in sizes.items() if target.version == version}
        if of_version:
            with _refusals(), _raw_socket(version, options) as raw:
                answered |= _round(raw, version, of_version, timeout)
    return answered


def _round(
    raw: socket.socket, version: int, sizes: Mapping[IPAddress, int], timeout: float
) -> dict[IPAddress, float]:
    call = _Round(version, os.urandom(_TOKEN), [])
    answered: dict[IPAddress, float] = {}
    expected = 0
    for target, size in sizes.items():
        message = call.message(len(call.sent), size)
        call.sent.append((target, time.perf_counter()))
        with suppress(OSError):  # no route, or too large for the link: counts as no answer
            raw.sendto(message, (str(target), 0))
            expected += 1
        answered.update(_answers(raw, call))
    _await(raw, call, answered, (expected, timeout))
    return answered


def _await(
    raw: socket.socket, call: _Round, answered: dict[IPAddress, float], until: tuple[int, float]
) -> None:
    expected, timeout = until
    waiting = poll()
    waiting.register(raw, POLLIN)
    end = time.perf_counter() + timeout
    while len(answered) < expected and (left := end - time.perf_counter()) > 0:
        if waiting.poll(left * 1000):
            answered.update(_answers(raw, call))


def _answers(raw: socket.socket, call: _Round) -> Iterator[tuple[IPAddress, float]]:
    """Read the answers that have arrived."""
    with suppress(BlockingIOError):
        while True:
            packet, sender = raw.recvfrom(_ENOUGH)
            number = answer(call.version, call.token, packet)
            if number is None or number >= len(call.sent):
                continue
            target, start = call.sent[number]
            if ip_address(sender[0].partition("%")[0]) == target:
                yield target, time.perf_counter() - start


@contextmanager
def _raw_socket(version: int, options: _Options) -> Iterator[socket.socket]:
    with socket.socket(_FAMILY[version], socket.SOCK_RAW | socket.SOCK_CLOEXEC, _PROTOCOL[version]) as raw:
        raw.settimeout(0)
        raw.setsockopt(*_FILTER[version], _type_filter(_ANSWER[version], version))
        raw.setsockopt(*_MTU_DISCOVER[version], _PROBE if options.df else _DONT)
        if version == _IPV6:
            raw.setsockopt(socket.IPPROTO_IPV6, _IPV6_DONTFRAG, int(options.df))
        if options.hops:
            raw.setsockopt(*_HOPS[version], options.hops)
        with suppress(PermissionError):  # in a user namespace the default size must do
            raw.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM)
        if options.link:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, options.link.encode() + b"\0")
        if options.source is not None:
            raw.bind((str(options.source), 0))
        yield raw


def _type_filter(kind: int, version: int) -> bytes:
    """Return a filter that accepts one message type: a bit for each type, set if it is dropped."""
    words = 1 if version == _IPV4 else 8
    mask = [0xFFFFFFFF] * words
    mask[kind >> 5] &= ~(1 << (kind & 31))
    return struct.pack(f"={words}I", *mask)


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except OSError as err:
        reason = err.strerror or str(err)
        raise KernelRefused(f"send echo requests: {reason}", errno=err.errno or 0) from err
