"""The rate at which traffic arrives is within 5 % of what the config says, with whole frames counted."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

RATE = 20_000_000
LIMITS = {"ingressRate": RATE, "ingressBurst": 400_000, "egressRate": RATE, "egressBurst": 400_000}
ADDRESSES = {4: ("10.1.0.1", "10.1.0.2"), 6: ("fd00:1::1", "fd00:1::2")}
ETHERNET, IP, UDP, TCP = 14, {4: 20, 6: 40}, 8, 32  # bytes of headers; TCP's with its time stamps
MTU, PAYLOAD = 1500, 1200
WARM_UP, WINDOW, ATTEMPTS = 0.7, 1.5, 4  # seconds; by then the burst is used up, and TCP has found the rate


class Receiver:
    """Counts the bytes that a socket receives, in a window after it was warmed up."""

    def __init__(self, place: Any, address: str, kind: socket.SocketKind) -> None:
        self.kind = kind
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with place.entered():
            self.socket = socket.socket(family, kind)
        self.socket.settimeout(5)
        self.socket.bind((address, 0))
        if kind == socket.SOCK_STREAM:
            self.socket.listen(1)
        self.target = self.socket.getsockname()[:2]

    def rate(self) -> float:
        """Return bytes per second."""
        source = self.socket.accept()[0] if self.kind == socket.SOCK_STREAM else self.socket
        start = time.monotonic()
        while time.monotonic() < start + WARM_UP:
            source.recv(1 << 18)
        begin, total = time.monotonic(), 0
        while time.monotonic() < begin + WINDOW:
            total += len(source.recv(1 << 18))
        elapsed = time.monotonic() - begin
        source.close()
        self.socket.close()
        return total / elapsed


@contextmanager
def sending(place: Any, target: tuple[str, int], kind: socket.SocketKind) -> Iterator[None]:
    """Send as much as the kernel takes for a block, from a namespace."""
    family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
    with place.entered():
        sender = socket.socket(family, kind)
    sender.settimeout(5)
    sender.connect(target)
    ended = threading.Event()

    def send() -> None:
        block = bytes(PAYLOAD if kind == socket.SOCK_DGRAM else 1 << 16)
        while not ended.is_set():
            try:
                sender.send(block)
            except BlockingIOError:
                time.sleep(0.001)
            except OSError:
                return  # the receiver has closed
            if kind == socket.SOCK_DGRAM:
                time.sleep(0.0001)  # 12 MB/s at most, five times the rate

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        sender.close()


def on_the_wire(kind: socket.SocketKind, version: int) -> float:
    """Return the bytes of whole frames for each byte that a program receives."""
    if kind == socket.SOCK_DGRAM:
        return (PAYLOAD + UDP + IP[version] + ETHERNET) / PAYLOAD
    return (MTU + ETHERNET) / (MTU - IP[version] - TCP)


def measured(chain: Any, sandbox: Any, version: int, kind: socket.SocketKind) -> dict[str, float]:
    """Return the share of the rate that arrives, in one direction after the other."""
    found = {}
    for name, source, place in (("received", chain.host, sandbox), ("sent", sandbox, chain.host)):
        receiver = Receiver(place, ADDRESSES[version][place is sandbox], kind)
        with sending(source, receiver.target, kind):
            found[name] = receiver.rate() * 8 * on_the_wire(kind, version) / RATE
    return found


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM], ids=["UDP", "TCP"])
@pytest.mark.parametrize("version", [4, 6])
def test_the_rate_is_what_the_config_says_in_both_directions(
    chain: Any, kind: socket.SocketKind, version: int
) -> None:
    sandbox = chain.bed.sandbox()
    chain.attach(sandbox)
    chain.add(sandbox, **LIMITS)
    for attempt in range(ATTEMPTS):  # a busy machine may keep sender or receiver waiting
        found = measured(chain, sandbox, version, kind)
        if all(0.95 <= share <= 1.05 for share in found.values()):
            return
        assert attempt < ATTEMPTS - 1, found


def test_a_container_without_limits_is_faster_than_the_limit_above(chain: Any) -> None:
    """Or what is measured above would be the sender."""
    sandbox = chain.bed.sandbox()
    chain.attach(sandbox)
    chain.add(sandbox)
    found = measured(chain, sandbox, 4, socket.SOCK_STREAM)
    assert min(found.values()) > 2, found
