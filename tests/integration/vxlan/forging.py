"""Frames that a hostile container may send, and a listener that says which of them another one gets.

Each frame ends with a marker. The listener hears until the marker of the last one, which nobody may drop.
"""

import struct
import subprocess
import sys
from ipaddress import ip_address

from tests.namespaces import Namespace

_MARK, _END = b"forged-frame-", b"forged-frame-end"
_SEND = """
import socket, sys
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
raw.bind(("eth0", 0))
for frame in sys.argv[1:]:
    raw.send(bytes.fromhex(frame))
"""
_HEAR = """
import socket
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3))
raw.bind(("eth0", 3))
raw.settimeout(20)
print("ready", flush=True)
while True:
    frame, (_, _, direction, *_) = raw.recvfrom(4096)
    if direction == 4:  # PACKET_OUTGOING: an error that quotes it
        continue
    _, found, mark = frame.rpartition(b"forged-frame-")
    if mark.startswith(b"end"):
        break
    if found:
        print(mark.rstrip(b"\\0").decode(), flush=True)
"""
BROADCAST = "ff:ff:ff:ff:ff:ff"


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def ethernet(to: str, source: str, kind: int, payload: bytes, *tags: int) -> bytes:
    """Return a frame, with VLAN tags of id 0 of these protocols."""
    tagged = b"".join(struct.pack("!HH", tag, 0) for tag in tags)
    return mac(to) + mac(source) + tagged + struct.pack("!H", kind) + payload


def _sum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data + bytes(len(data) % 2)) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def udp4(source: str, to: str, mark: bytes) -> bytes:
    body = struct.pack("!HHHH", 4242, 4242, 8 + len(mark), 0) + mark
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, 17, 0)
    head += ip_address(source).packed + ip_address(to).packed
    return head[:10] + struct.pack("!H", _sum(head)) + head[12:] + body


def ip6(source: str, to: str, protocol: int, body: bytes) -> bytes:
    head = struct.pack("!IHBB", 6 << 28, len(body), protocol, 255)
    return head + ip_address(source).packed + ip_address(to).packed + body


def udp6(source: str, to: str, mark: bytes) -> bytes:
    return ip6(source, to, 17, struct.pack("!HHHH", 4242, 4242, 8 + len(mark), 0) + mark)


def icmp6(source: str, to: str, kind: int, rest: bytes) -> bytes:
    body = struct.pack("!BBH", kind, 0, 0) + rest
    pseudo = ip_address(source).packed + ip_address(to).packed + struct.pack("!II", len(body), 58)
    body = body[:2] + struct.pack("!H", _sum(pseudo + body)) + body[4:]
    return ip6(source, to, 58, body)


def advertisement(source: str, to: str, target: str, link: str, mark: bytes) -> bytes:
    """Return a neighbour advertisement that overrides what is known of the target."""
    option = struct.pack("!BB", 2, 1) + mac(link)
    padding = struct.pack("!BB", 14, (2 + len(mark) + 7) // 8)
    nonce = padding + mark.rjust(padding[1] * 8 - 2, b"\0")
    rest = struct.pack("!I", 0x60000000) + ip_address(target).packed + option + nonce
    return icmp6(source, to, 136, rest)


def arp(operation: int, sender: tuple[str, str], target: tuple[str, str], mark: bytes) -> bytes:
    parts = b"".join(mac(link) + ip_address(address).packed for link, address in (sender, target))
    return struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + parts + mark


def heard(sender: Namespace, frames: dict[str, bytes], last: bytes, listener: Namespace) -> list[str]:
    """Send the frames, then the last one; return the names of those that the listener got."""
    with listener.entered():
        hearing = subprocess.Popen((sys.executable, "-c", _HEAR), stdout=subprocess.PIPE, text=True)
    with hearing:
        assert hearing.stdout is not None
        assert hearing.stdout.readline() == "ready\n"
        sender.run(sys.executable, "-c", _SEND, *(frame.hex() for frame in (*frames.values(), last)))
        text, _ = hearing.communicate(timeout=30)
        assert hearing.returncode == 0
    return [line for line in text.splitlines() if line]


def marked(name: str) -> bytes:
    return _MARK + name.encode()


END = _END
