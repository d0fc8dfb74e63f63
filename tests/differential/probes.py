"""What traffic does: the effect of a rule is compared, never its text."""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator

from tests import namespaces
from tests.differential.fixture import HOST_ADDRESSES, OUTSIDE_ADDRESSES, Fixture
from tests.namespaces import Namespace

# Seconds; of IPv6 below the one that duplicate address detection takes, which IPv4 does not know.
_PATIENCE = {4: 2.0, 6: 0.6}
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_ETHERTYPE = 0x88B5  # IEEE 802 local experimental
_FORGED = bytes.fromhex("02000000dead")

Addresses = dict[str, list[str]]
Outcome = dict[str, str]


def masquerade(fixture: Fixture, addresses: Addresses) -> Outcome:
    """Whose address does the outside see when a box talks to it?"""
    outside = fixture.outside()
    return {
        f"{box} {address}": _seen_outside(fixture.box(box), outside, address)
        for box, own in addresses.items()
        for address in own
    }


def neighbours(fixture: Fixture, addresses: Addresses) -> Outcome:
    """Does what one box sends reach the other, and under which source address?"""
    outcome = {}
    for box, own in addresses.items():
        for other, theirs in addresses.items():
            for target in theirs if other != box else ():
                source = next((address for address in own if _family(address) == _family(target)), None)
                seen = _exchange(fixture.box(box), source, fixture.box(other), target)
                outcome[f"{box} to {target}"] = "own address" if seen == source else seen or "nothing"
    return outcome


def spoof(fixture: Fixture, _addresses: Addresses) -> Outcome:
    """Does a frame with the box's own MAC address reach the bridge, and one with a forged address?"""
    return {name: _frame_arrives(fixture, forged=name == "forged") for name in ("genuine", "forged")}


PROBES: dict[str, Callable[[Fixture, Addresses], Outcome]] = {
    "masquerade": masquerade,
    "neighbours": neighbours,
    "spoof": spoof,
}


def settle(fixture: Fixture, seconds: float = 4.0) -> None:
    """Wait until no address of the host is tentative any more."""
    deadline = time.monotonic() + seconds
    with fixture.host.entered():
        while time.monotonic() < deadline and namespaces.run(
            "ip", "-6", "-o", "address", "show", "tentative"
        ):
            time.sleep(0.05)


def _family(address: str) -> int:
    return 6 if ":" in address else 4


def _seen_outside(box: Namespace, outside: Namespace, address: str) -> str:
    family = _family(address)
    seen = _exchange(box, address, outside, OUTSIDE_ADDRESSES[family])
    names = {HOST_ADDRESSES[family]: "host", address: "box", None: "nothing"}
    return names.get(seen, "stranger")


def _exchange(sender: Namespace, source: str | None, receiver: Namespace, target: str) -> str | None:
    """Send a datagram and tell the source address it arrives with, or None."""
    with (
        _datagrams(receiver, _family(target), target) as inbox,
        _datagrams(sender, _family(target), source) as outbox,
    ):
        inbox.settimeout(_PATIENCE[_family(target)])
        with contextlib.suppress(OSError):
            outbox.sendto(b"cni", (target, inbox.getsockname()[1]))
            return str(inbox.recvfrom(16)[1][0])
    return None


@contextlib.contextmanager
def _datagrams(namespace: Namespace, family: int, address: str | None) -> Iterator[socket.socket]:
    with namespace.entered():
        opened = socket.socket(_FAMILIES[family], socket.SOCK_DGRAM)
    with opened:
        if address is not None:
            with contextlib.suppress(OSError):
                opened.bind((address, 0))
        yield opened


def _frame_arrives(fixture: Fixture, *, forged: bool) -> str:
    with fixture.host.entered():
        inbox = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETHERTYPE))
        inbox.bind(("cni0", _ETHERTYPE))
    with fixture.box("box1").entered():
        outbox = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        outbox.bind(("eth0", 0))
    with inbox, outbox:
        inbox.settimeout(0.2)
        own: bytes = outbox.getsockname()[4]
        outbox.send(b"\xff" * 6 + (_FORGED if forged else own) + _ETHERTYPE.to_bytes(2, "big") + b"\0" * 46)
        with contextlib.suppress(TimeoutError):
            inbox.recv(128)
            return "arrives"
    return "dropped"
