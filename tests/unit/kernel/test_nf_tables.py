"""nf_tables messages, byte by byte where a byte matters."""

import struct
from ipaddress import ip_network

import pytest

from cni_plugins.kernel.netlink import nf_tables as wire
from cni_plugins.kernel.netlink.attributes import attributes


def test_attributes_are_padded_and_nested() -> None:
    assert wire.attr(1, "ab") == struct.pack("=HH", 7, 1) + b"ab\0\0"
    assert wire.attr(2, 5) == struct.pack("=HH", 8, 2) + b"\0\0\0\x05"
    assert wire.attr(2, -300) == struct.pack("=HH", 8, 2) + struct.pack(">i", -300)
    nested = wire.attr(3, [wire.attr(1, b"x")])
    assert struct.unpack_from("=HH", nested) == (12, 0x8003)
    assert list(attributes(nested)) == [(3, wire.attr(1, b"x"))]


def test_a_torn_attribute_ends_the_walk() -> None:
    assert list(attributes(struct.pack("=HH", 2, 1))) == []


@pytest.mark.parametrize("kind", [0, 7])
def test_comments_are_read_back(kind: int) -> None:
    assert wire.comment_text(b"\x05\x01x" + wire.comment("hello", kind), kind) == "hello"
    assert wire.comment_text(b"", kind) == ""


def test_a_comment_is_cut_where_nft_stops_reading() -> None:
    assert len(wire.comment_text(wire.comment("x" * 300))) == 127


def test_a_batch_begins_and_ends_and_asks_for_acknowledgements() -> None:
    begin, message, end = wire.batch(
        [wire.message(wire.NEWTABLE, wire.INET, 0, wire.attr(1, "t"))], generation=7
    )
    kinds = [struct.unpack_from("=H", item, 4)[0] for item in (begin, message, end)]
    assert kinds == [0x10, 0x0A00, 0x11]
    assert struct.unpack_from("=H", message, 6)[0] & 4
    assert wire.fields(bytes(begin))[1] == struct.pack(">I", 7)


def test_a_whole_address_needs_no_mask() -> None:
    assert len(wire.destination_outside(ip_network("10.0.0.1/32"))) < len(
        wire.destination_outside(ip_network("10.0.0.0/24"))
    )
