"""
What crosses the wire of a bed of overlays, and what passes between its containers.

Frames are those that hosts have sent to their switches. Sockets are made by this process inside the
namespaces, where they stay, so nothing is started for a flow.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from ipaddress import ip_address
from typing import NamedTuple

from tests.e2e.lab.overlay import Bed, Container
from tests.namespaces import entered

PORT = 4789
ALL_FRAMES = 3  # ETH_P_ALL, <linux/if_ether.h>
ATTACH_FILTER, RECEIVE_BUFFER = 26, 33  # SO_ATTACH_FILTER, SO_RCVBUFFORCE, <asm-generic/socket.h>
PACKET, STATISTICS = 263, 6  # SOL_PACKET, PACKET_STATISTICS, <linux/if_packet.h>
BUFFER = 1 << 26
CHUNK = bytes(1 << 18)
MESSAGE = b"smuggled"
# As tcpdump -dd has it: ip[6:2] & 0x3fff != 0 or ip6[6] == 44
FRAGMENTS = [
    (0x28, 0, 0, 12),
    (0x15, 0, 2, 0x0800),
    (0x28, 0, 0, 20),
    (0x45, 3, 4, 0x3FFF),
    (0x15, 0, 3, 0x86DD),
    (0x30, 0, 0, 20),
    (0x15, 0, 1, 44),
    (0x06, 0, 0, 64),
    (0x06, 0, 0, 0),
]


class Frame(NamedTuple):
    """
    A frame that a host has sent to its switch.

    :param vni: of VXLAN; -1 if it is in the clear.
    :param what: "arp", "nd", "mld", "ip4", "ip6" or another EtherType in hexadecimal.
    :param source: of the IP packet within.
    """

    by: str
    outer: tuple[str, str]
    vni: int
    what: str
    source: str
    target: str


@contextmanager
def heard(bed: Bed) -> Iterator[Callable[[], list[Frame]]]:
    """Call what this gives for all frames that hosts have sent since."""
    with entered(f"/proc/{bed.switch.anchor}/ns/net"):
        ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_FRAMES))
    with ear:
        ear.setsockopt(socket.SOL_SOCKET, RECEIVE_BUFFER, BUFFER)
        ear.setblocking(False)
        gathered: list[Frame] = []
        yield partial(_gather, ear, gathered)


def _gather(ear: socket.socket, gathered: list[Frame]) -> list[Frame]:
    time.sleep(0.05)
    while True:
        try:
            data, (by, _, kind, *_) = ear.recvfrom(512)
        except BlockingIOError:
            return gathered
        if "x" in by and kind != socket.PACKET_OUTGOING:
            gathered.append(dissect(by, data))


def dissect(by: str, data: bytes) -> Frame:
    """What is in a frame; what is in VXLAN's UDP port is VXLAN."""
    what, source, target, rest = _packet(data)
    udp = rest[:2] == b"\x11/" and struct.unpack_from("!H", rest, 4)[0] == PORT
    if not udp or len(rest) < 32:
        return Frame(by, ("", ""), -1, what, source, target)
    vni = int.from_bytes(rest[14:17], "big")
    inner, of, to, _ = _packet(rest[18:])
    return Frame(by, (source, target), vni, inner, of, to)


def _packet(data: bytes) -> tuple[str, str, str, bytes]:
    """What an Ethernet frame bears, from and to whom; then `protocol`, a slash and the protocol's data."""
    [kind] = struct.unpack_from("!H", data, 12)
    body = data[14:]
    if kind == 0x0806:
        return "arp", str(ip_address(body[14:18])), str(ip_address(body[24:28])), b"\0"
    if kind == 0x0800:
        after = body[(body[0] & 15) * 4 :]
        return "ip4", *_addresses(body[12:20], 4), body[9:10] + b"/" + after
    if kind != 0x86DD:
        return f"{kind:04x}", "", "", b"\0"
    what = "ip6"
    if body[6] == 0 or (body[6] == 58 and 130 <= body[40] <= 132) or (body[6] == 58 and body[40] == 143):
        what = "mld"
    elif body[6] == 58 and 133 <= body[40] <= 137:
        what = "nd"
    return what, *_addresses(body[8:40], 16), body[6:7] + b"/" + body[40:]


def _addresses(data: bytes, size: int) -> tuple[str, str]:
    return str(ip_address(data[:size])), str(ip_address(data[size:]))


@contextmanager
def fragments(netns: Iterable[str]) -> Iterator[Callable[[], int]]:
    """Call what this gives for how many IP fragments have passed these namespaces since."""
    with ExitStack() as stack:
        ears = [stack.enter_context(_fragment_ear(path)) for path in netns]
        yield lambda: sum(map(_count, ears))


@contextmanager
def _fragment_ear(netns: str) -> Iterator[socket.socket]:
    code = b"".join(struct.pack("HBBI", *line) for line in FRAGMENTS)
    buffer = ctypes.create_string_buffer(code, len(code))
    with entered(netns):
        ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_FRAMES))
    with ear:
        ear.setsockopt(socket.SOL_SOCKET, RECEIVE_BUFFER, BUFFER)
        program = struct.pack("HL", len(FRAGMENTS), ctypes.addressof(buffer))
        ear.setsockopt(socket.SOL_SOCKET, ATTACH_FILTER, program)
        _count(ear)  # what came before there was a filter
        yield ear


def _count(ear: socket.socket) -> int:
    """What has arrived; the kernel's statistics of a packet socket are since they were last read."""
    packets, _drops = struct.unpack("II", ear.getsockopt(PACKET, STATISTICS, 8))
    return int(packets)


# ------------------------------------------------------------------------------------------------- traffic


def seen_from(netns: str, there: str, address: str) -> str:
    """Whom a listener at ADDRESS in namespace THERE sees, when it is called from NETNS."""
    with _listener(there, address) as listener, _caller(netns, address) as caller:
        caller.settimeout(3)
        caller.connect(listener.getsockname()[:2])
        connection, peer = listener.accept()
        connection.close()
        return str(peer[0])


def throughput(netns: str, there: str, address: str, seconds: float) -> float:
    """Bytes per second of one TCP flow from NETNS to ADDRESS, which is in namespace THERE."""
    arrived = [0]
    with _listener(there, address) as listener, _caller(netns, address) as caller:
        sink = threading.Thread(target=_drain, args=(listener, arrived), daemon=True)
        sink.start()
        caller.settimeout(5)
        caller.connect(listener.getsockname()[:2])
        begin = time.monotonic()
        try:
            while time.monotonic() < begin + seconds:
                caller.send(CHUNK)
        except TimeoutError:
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return 0.0
        finally:
            caller.close()
        sink.join(10)
        return arrived[0] / (time.monotonic() - begin)


def _drain(listener: socket.socket, arrived: list[int]) -> None:
    buffer = bytearray(1 << 20)
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(10)
        try:
            while size := connection.recv_into(buffer):
                arrived[0] += size
        except OSError:
            return


def said(netns: str, source: str, there: str, address: str) -> bool:
    """Whether a datagram from SOURCE, made in NETNS, arrives at ADDRESS in THERE."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with entered(there):
        ear = socket.socket(family, socket.SOCK_DGRAM)
    with entered(netns):
        mouth = socket.socket(family, socket.SOCK_DGRAM)
    with ear, mouth:
        ear.bind((address, 0))
        ear.settimeout(0.7)
        mouth.bind((source, 0))
        mouth.sendto(MESSAGE, ear.getsockname()[:2])
        try:
            return ear.recvfrom(64)[1][0] == source
        except TimeoutError:
            return False


def shout(netns: str, link: str, mac: str) -> None:
    """Send a frame from a MAC address to everybody."""
    with entered(netns):
        mouth = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    with mouth:
        mouth.bind((link, 0))
        mouth.send(b"\xff" * 6 + bytes.fromhex(mac.replace(":", "")) + b"\x88\xb5" + bytes(46))


@contextmanager
def overheard(netns: str, macs: Iterable[str]) -> Iterator[Callable[[], int]]:
    """Call what this gives for how many frames to these MAC addresses have arrived in NETNS since."""
    wanted = {bytes.fromhex(mac.replace(":", "")) for mac in macs}
    with entered(netns):
        ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_FRAMES))

    def count() -> int:
        number = 0
        while True:
            try:
                data, (_, _, kind, *_) = ear.recvfrom(64)
            except BlockingIOError:
                return number
            number += kind != socket.PACKET_OUTGOING and data[:6] in wanted

    with ear:
        ear.setblocking(False)
        yield count


def smuggled(netns: str, there: str, vtep: str, vni: int, mac: str, address: str) -> bool:
    """Whether a datagram in a VXLAN packet, made in NETNS and sent to VTEP, arrives at ADDRESS in THERE."""
    with entered(there):
        ear = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with entered(netns):
        mouth = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with ear, mouth:
        ear.bind((address, 0))
        ear.settimeout(0.7)
        mouth.sendto(_encapsulated(vni, mac, address, ear.getsockname()[1]), (vtep, PORT))
        try:
            return ear.recv(64) == MESSAGE
        except TimeoutError:
            return False


def _encapsulated(vni: int, mac: str, address: str, port: int) -> bytes:
    """As RFC 7348 has it; the inner UDP has no checksum, which IPv4 allows."""
    udp = struct.pack("!HHHH", port, port, 8 + len(MESSAGE), 0) + MESSAGE
    source, target = (socket.inet_aton(text) for text in ("192.0.2.9", address))
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, source, target)
    total = sum(struct.unpack("!10H", head))
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    head = head[:10] + struct.pack("!H", checksum) + head[12:]
    ethernet = bytes.fromhex(mac.replace(":", "")) + b"\x02\0\0\0\0\x99" + b"\x08\0"
    return struct.pack("!II", 0x08000000, vni << 8) + ethernet + head + udp


@contextmanager
def _listener(netns: str, address: str) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with entered(netns):
        listener = socket.socket(family, socket.SOCK_STREAM)
    with listener:
        listener.bind((address, 0))
        listener.listen()
        listener.settimeout(5)
        yield listener


def _caller(netns: str, address: str) -> socket.socket:
    with entered(netns):
        return socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)


@contextmanager
def pinging(container: Container, address: str) -> Iterator[None]:
    """A ping that runs all the while, 50 a second; afterwards none of its packets must have been lost."""
    command = ("ip", "netns", "exec", container.name, "ping", "-n", "-i", "0.02", address)
    with tempfile.TemporaryFile() as log:
        process = container.node.host.start(*command, log=log)
        try:
            yield
        finally:
            process.send_signal(2)
            process.wait(10)
        log.seek(0)
        [summary] = [line for line in log.read().decode().splitlines() if "transmitted" in line]
        sent, received = (int(part.split()[0]) for part in summary.split(",")[:2])
        # The last one may be on its way when the ping ends.
        assert sent > 1
        assert received >= sent - 1, summary
