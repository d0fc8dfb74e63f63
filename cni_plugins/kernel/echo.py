"""Echoes (ICMP, RFC 792; ICMPv6, RFC 4443) to many addresses at once, from the calling thread's namespace.

It says who answers and how large a packet may be on the way there. It believes nothing that the kernel
remembers of a path, and changes nothing.
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
SMALLEST = {4: 576, 6: 1280}  # what every path is to carry: RFC 791, 3.1; RFC 8200, 5

_IPV4, _IPV6 = 4, 6
_ECHO = struct.Struct("!BBHHH")  # type, code, checksum, identifier, number
_REQUEST, _ANSWER = {4: 8, 6: 128}, {4: 0, 6: 129}
_HEADERS = {4: 28, 6: 48}  # bytes of IP and ICMP together
_TOKEN = 8  # bytes; others in the namespace may be asking too, and raw sockets hear every answer
_ENOUGH = 128  # bytes: of an answer the headers and the token are read
_ROOM = 4 << 20  # bytes of answers that may wait for us

_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_PROTOCOL = {4: socket.IPPROTO_ICMP, 6: socket.IPPROTO_ICMPV6}
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h
# level, option: linux/in.h, linux/in6.h, linux/icmp.h, linux/icmpv6.h
_MTU_DISCOVER = {4: (socket.IPPROTO_IP, 10), 6: (socket.IPPROTO_IPV6, 23)}
_FILTER = {4: (255, 1), 6: (socket.IPPROTO_ICMPV6, 1)}
_DONT, _PROBE = 0, 3  # no DF at all; DF, and the size is ours to choose
_IPV6_DONTFRAG = 62


class Search(NamedTuple):
    """What is known of a path: packets of `fits` bytes get through, those of `fails` do not."""

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


class _Way(NamedTuple):
    link: str = ""
    source: IPAddress | None = None
    df: bool = False


class _Call(NamedTuple):
    """One round of echoes: who is asked under which number, and when."""

    version: int
    token: bytes
    asked: list[tuple[IPAddress, float]]

    def message(self, number: int, size: int) -> bytes:
        return request(self.version, self.token, number, size)


def echo(
    targets: Sequence[IPAddress],
    size: int = ORDINARY,
    timeout: float = 1.0,
    link: str = "",
    source: IPAddress | None = None,
    *,
    df: bool = False,
) -> dict[IPAddress, float]:
    """Ask all of them at once; return the seconds that each answer took, without those that gave none.

    :param size: bytes of the whole IP packet.
    :param timeout: seconds after the last question.
    :param link: the link to send by, whatever the routes say.
    :param df: nobody on the way may fragment it, nor this host.
    :raises KernelRefused: when there is no asking, as without CAP_NET_RAW.
    """
    return _ask(dict.fromkeys(targets, size), timeout, _Way(link, source, df))


def path_mtu(
    targets: Sequence[IPAddress],
    largest: int,
    timeout: float,
    link: str = "",
    source: IPAddress | None = None,
) -> dict[IPAddress, int | None]:
    """Return the size of the largest packet that gets to each target whole; None: not even a small one.

    :param largest: bytes: the MTU of the link that leads there.
    :raises KernelRefused: as `echo`.
    """
    way = _Way(link, source, df=True)
    floors = {target: min(SMALLEST[target.version], largest) for target in targets}
    found: dict[IPAddress, int | None] = dict.fromkeys(targets)
    whole = _ask_again(dict.fromkeys(targets, largest), timeout, way)
    found.update(dict.fromkeys(whole, largest))
    rest = {target: floor for target, floor in floors.items() if target not in whole and floor < largest}
    searches = {target: Search(rest[target], largest) for target in _ask_again(rest, timeout, way)}
    while open_ones := {target: search for target, search in searches.items() if not search.is_over}:
        sizes = {target: search.next_size for target, search in open_ones.items()}
        answered = _ask_again(sizes, timeout, way)
        searches |= {to: search.after(answered=to in answered) for to, search in open_ones.items()}
    return found | {target: search.fits for target, search in searches.items()}


def request(version: int, token: bytes, number: int, size: int) -> bytes:
    """Return an echo request that with its IP header has this size, or the smallest there can be."""
    body = token.ljust(size - _HEADERS[version], b"\0")
    identifier = int.from_bytes(token[:2], "big")
    message = _ECHO.pack(_REQUEST[version], 0, 0, identifier, number) + body
    if version == _IPV6:  # the kernel fills it in, as it has the addresses that belong into it: RFC 3542, 3.1
        return message
    return message[:2] + checksum(message).to_bytes(2, "big") + message[4:]


def answer(version: int, token: bytes, packet: bytes) -> int | None:
    """Return the number of the request that this answers; None when it answers somebody else's.

    :param packet: as a raw socket reads it: IPv4 with its header, IPv6 without.
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


def _ask_again(sizes: Mapping[IPAddress, int], timeout: float, way: _Way) -> dict[IPAddress, float]:
    """Ask those a second time that do not answer: one lost packet says nothing about its size."""
    answered = _ask(sizes, timeout, way)
    silent = {target: size for target, size in sizes.items() if target not in answered}
    return answered | _ask(silent, timeout, way)


def _ask(sizes: Mapping[IPAddress, int], timeout: float, way: _Way) -> dict[IPAddress, float]:
    answered: dict[IPAddress, float] = {}
    for version in (_IPV4, _IPV6):
        of_version = {target: size for target, size in sizes.items() if target.version == version}
        if of_version:
            with _refusals(), _raw_socket(version, way) as raw:
                answered |= _round(raw, version, of_version, timeout)
    return answered


def _round(
    raw: socket.socket, version: int, sizes: Mapping[IPAddress, int], timeout: float
) -> dict[IPAddress, float]:
    call = _Call(version, os.urandom(_TOKEN), [])
    answered: dict[IPAddress, float] = {}
    expected = 0
    for target, size in sizes.items():
        message = call.message(len(call.asked), size)
        call.asked.append((target, time.perf_counter()))
        with suppress(OSError):  # no route, or too large for the link: that is an answer that does not come
            raw.sendto(message, (str(target), 0))
            expected += 1
        answered.update(_answers(raw, call))
    _await(raw, call, answered, (expected, timeout))
    return answered


def _await(
    raw: socket.socket, call: _Call, answered: dict[IPAddress, float], until: tuple[int, float]
) -> None:
    expected, timeout = until
    waiting = poll()
    waiting.register(raw, POLLIN)
    end = time.perf_counter() + timeout
    while len(answered) < expected and (left := end - time.perf_counter()) > 0:
        if waiting.poll(left * 1000):
            answered.update(_answers(raw, call))


def _answers(raw: socket.socket, call: _Call) -> Iterator[tuple[IPAddress, float]]:
    """Read what is there."""
    with suppress(BlockingIOError):
        while True:
            packet, sender = raw.recvfrom(_ENOUGH)
            number = answer(call.version, call.token, packet)
            if number is None or number >= len(call.asked):
                continue
            target, asked = call.asked[number]
            if ip_address(sender[0].partition("%")[0]) == target:
                yield target, time.perf_counter() - asked


@contextmanager
def _raw_socket(version: int, way: _Way) -> Iterator[socket.socket]:
    with socket.socket(_FAMILY[version], socket.SOCK_RAW | socket.SOCK_CLOEXEC, _PROTOCOL[version]) as raw:
        raw.settimeout(0)
        raw.setsockopt(*_FILTER[version], _only(_ANSWER[version], version))
        raw.setsockopt(*_MTU_DISCOVER[version], _PROBE if way.df else _DONT)
        if version == _IPV6:
            raw.setsockopt(socket.IPPROTO_IPV6, _IPV6_DONTFRAG, int(way.df))
        with suppress(PermissionError):  # in a user namespace the default has to do
            raw.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM)
        if way.link:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, way.link.encode() + b"\0")
        if way.source is not None:
            raw.bind((str(way.source), 0))
        yield raw


def _only(kind: int, version: int) -> bytes:
    """Return a filter that lets one type of message in: a bit for each type, set where it stays out."""
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
