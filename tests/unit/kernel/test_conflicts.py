"""Frames that ask for an address, and what those of others say of one."""

from ipaddress import ip_address
from typing import Any

import pytest

from cni_plugins.kernel.echo import checksum
from cni_plugins.kernel.ip.conflicts import probe, read

OWN, OTHER = bytes.fromhex("020000000001"), bytes.fromhex("020000000099")
V4, V6 = ip_address("192.0.2.7"), ip_address("2001:db8::1:7")
ARP_PROBE = "ffffffffffff 020000000001 0806 0001 0800 06 04 0001 020000000001 00000000 000000000000 c0000207"


def octets(text: str) -> bytes:
    return bytes.fromhex(text.replace(" ", ""))


def test_an_arp_probe_has_no_sender_address() -> None:
    assert probe(V4, OWN) == octets(ARP_PROBE)


def test_an_arp_request_has_the_address_it_is_sent_from() -> None:
    assert probe(V4, OWN, ip_address("192.0.2.1")) == octets(ARP_PROBE.replace("00000000 0", "c0000201 0"))


@pytest.mark.parametrize("source", [None, ip_address("2001:db8::9")])
def test_a_solicitation_goes_to_the_group_of_its_target(source: Any) -> None:
    frame = probe(V6, OWN, source)
    assert frame[:14] == octets("3333ff010007 020000000001 86dd")
    header, message = frame[14:54], frame[54:]
    assert header[:8] == octets("60000000") + len(message).to_bytes(2, "big") + octets("3a ff")
    assert header[8:24] == (source.packed if source else bytes(16))
    assert header[24:] == ip_address("ff02::1:ff01:7").packed
    assert message[8:24] == V6.packed
    assert message[24:] == (octets("0101") + OWN if source else b"")
    pseudo = header[8:] + len(message).to_bytes(4, "big") + octets("0000003a")
    assert checksum(pseudo + message) == 0


def arp(operation: int, mac: bytes, sender: str, target: str) -> bytes:
    start = b"\xff" * 6 + mac + octets("0806 0001 0800 06 04") + operation.to_bytes(2, "big")
    return start + mac + ip_address(sender).packed + bytes(6) + ip_address(target).packed


def nd(kind: int, source: str, hops: int = 255, options: bytes = b"", mac: bytes = OTHER) -> bytes:
    message = bytes((kind, 0, 0, 0, 0x20, 0, 0, 0)) + V6.packed + options
    header = octets("60000000") + len(message).to_bytes(2, "big") + bytes((58, hops))
    addresses = ip_address(source).packed + ip_address("ff02::1").packed
    return octets("333300000001") + mac + octets("86dd") + header + addresses + message


SAYS: list[Any] = [
    (arp(2, OTHER, "192.0.2.7", "0.0.0.0"), V4, "an answer"),
    (arp(1, OTHER, "192.0.2.7", "192.0.2.9"), V4, "a request of who has it"),
    (arp(1, OTHER, "192.0.2.7", "192.0.2.7"), V4, "an announcement"),
    (arp(1, OTHER, "0.0.0.0", "192.0.2.7"), V4, "another probe"),
    (arp(2, OTHER, "192.0.2.7", "0.0.0.0") + bytes(18), V4, "padding"),
    (nd(136, "2001:db8::1:7"), V6, "an advertisement"),
    (nd(135, "::"), V6, "detection of duplicates by another"),
]


@pytest.mark.parametrize(("frame", "address", "_what"), SAYS)
def test_who_has_or_wants_an_address_is_heard(frame: bytes, address: Any, _what: str) -> None:
    seen = read(frame, OWN)
    assert seen is not None
    assert (seen.address, seen.mac) == (address, "02:00:00:00:00:99")


def test_the_mac_address_in_an_advertisement_counts() -> None:
    seen = read(nd(136, "2001:db8::1:7", options=octets("0201 020000000055")), OWN)
    assert seen is not None
    assert seen.mac == "02:00:00:00:00:55"


SILENT: list[Any] = [
    (arp(1, OWN, "0.0.0.0", "192.0.2.7"), "our own, sent back by a switch"),
    (arp(2, OTHER, "0.0.0.0", "192.0.2.7"), "an answer from no address"),
    (nd(135, "::", mac=OWN), "our own"),
    (nd(135, "fe80::1"), "a question about it"),
    (nd(136, "fe80::1", hops=254), "from beyond a router"),
    (nd(133, "fe80::1"), "a router solicitation"),
    (octets("ffffffffffff 020000000099 0800") + bytes(60), "IPv4"),
    (b"", "nothing"),
]


@pytest.mark.parametrize(("frame", "_what"), SILENT)
def test_other_frames_say_nothing(frame: bytes, _what: str) -> None:
    assert read(frame, OWN) is None


@pytest.mark.parametrize("frame", [said[0] for said in SAYS])
def test_a_frame_that_ends_early_says_nothing_and_harms_nobody(frame: bytes) -> None:
    for length in range(min(len(frame), 42)):
        assert read(frame[:length], OWN) is None
