"""Echo requests as bytes, answers told from those of others, and the search for the largest size."""

import struct
from ipaddress import ip_address

import pytest

from cni_plugins.kernel.echo import Search, answer, checksum, path_mtu, request

TOKEN = b"12345678"
IP_HEADER = bytes([0x45]) + bytes(19)
WITH_OPTIONS = bytes([0x46]) + bytes(23)


def reply(to: bytes, version: int) -> bytes:
    """Return what the target would send back."""
    return bytes([{4: 0, 6: 129}[version]]) + to[1:]


def test_the_checksum_is_that_of_rfc_1071() -> None:
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0x220D
    assert checksum(b"\xff") == 0x00FF


@pytest.mark.parametrize("size", [37, 84, 1450, 9000])
def test_a_request_of_ipv4_has_the_size_with_its_headers_and_a_checksum_that_verifies(size: int) -> None:
    message = request(4, TOKEN, 7, size)
    assert (message[0], 20 + len(message)) == (8, size)
    assert checksum(message) == 0


def test_a_request_of_ipv6_leaves_the_checksum_to_the_kernel() -> None:
    message = request(6, TOKEN, 7, 1280)
    assert (message[0], 40 + len(message), message[2:4]) == (128, 1280, b"\0\0")


def test_a_size_too_small_for_the_token_makes_the_smallest_request() -> None:
    assert len(request(4, TOKEN, 0, 1)) == 8 + len(TOKEN)


@pytest.mark.parametrize(("version", "header"), [(4, IP_HEADER), (4, WITH_OPTIONS), (6, b"")])
def test_an_answer_names_the_request_by_its_number(version: int, header: bytes) -> None:
    packet = header + reply(request(version, TOKEN, 513, 84), version)
    assert answer(version, TOKEN, packet) == 513


def test_what_is_no_answer_to_us_is_nobodys() -> None:
    ours = request(4, TOKEN, 1, 84)
    assert answer(4, TOKEN, IP_HEADER + ours) is None  # the request itself, as on lo
    assert answer(4, b"87654321", IP_HEADER + reply(ours, 4)) is None
    assert answer(4, TOKEN, IP_HEADER + reply(ours, 4)[:12]) is None
    unreachable = struct.pack("!BBHI", 3, 1, 0, 0) + IP_HEADER + ours
    assert answer(4, TOKEN, IP_HEADER + unreachable) is None


@pytest.mark.parametrize("truth", [576, 577, 1000, 1349, 1350, 1499])
def test_the_search_ends_at_the_largest_size_that_gets_through(truth: int) -> None:
    search, asked = Search(576, 1500), 0
    while not search.is_over:
        search, asked = search.after(answered=search.next_size <= truth), asked + 1
    assert search.fits == truth
    assert asked <= 10


def test_neighbouring_sizes_leave_nothing_to_search() -> None:
    assert Search(1499, 1500).is_over


def test_nobody_is_asked_when_there_is_nobody() -> None:
    assert path_mtu([], 1500, 1.0) == {}
    assert ip_address("::1") not in path_mtu([], 1500, 1.0)
