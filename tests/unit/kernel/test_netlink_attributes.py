"""Netlink attributes, whole and torn."""

import struct

import pytest

from cni_plugins.kernel.netlink.attributes import attributes, packed, read_text


@pytest.mark.parametrize("payload", [b"", b"a", b"ab", b"abc", b"abcd", b"abcde"])
def test_attributes_come_back_without_their_padding(payload: bytes) -> None:
    data = packed(7, payload) + packed(8, b"next")
    assert len(data) % 4 == 0
    assert attributes(data) == [(7, payload), (8, b"next")]


def test_the_flags_of_a_type_are_left_out() -> None:
    assert attributes(struct.pack("=HH", 4, 0xC005)) == [(5, b"")]


@pytest.mark.parametrize(
    "tail",
    [
        b"\0",
        b"\0\0\0",
        struct.pack("=HH", 0, 1),
        struct.pack("=HH", 3, 1),
        struct.pack("=HH", 9, 1) + b"abcd",
        struct.pack("=HH", 0xFFFF, 1) + bytes(64),
    ],
)
def test_a_torn_attribute_ends_the_walk(tail: bytes) -> None:
    assert attributes(packed(1, b"good") + tail) == [(1, b"good")]


def test_an_offset_beyond_the_end_finds_nothing() -> None:
    assert attributes(b"abcd", 32) == []


def test_texts_come_with_their_nul_or_without() -> None:
    assert read_text(b"veth\0") == read_text(b"veth") == "veth"
    assert read_text(b"\xff") == "\ufffd"
