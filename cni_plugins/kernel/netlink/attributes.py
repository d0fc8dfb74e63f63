"""Packs and reads netlink attributes: length, type, value, padding (struct nlattr, linux/netlink.h).

The encoding of values is up to the caller: rtnetlink has numbers in host order, nf_tables in network order.
"""

import struct

_HEADER = struct.Struct("=HH")
_TYPE_MASK = 0x3FFF  # NLA_TYPE_MASK: without NLA_F_NESTED and NLA_F_NET_BYTEORDER
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")  # by the remainder of the length


def packed(kind: int, payload: bytes) -> bytes:
    """Return one attribute."""
    length = _HEADER.size + len(payload)
    return _HEADER.pack(length, kind) + payload + _PADDING[length & 3]


def attributes(data: bytes, offset: int = 0) -> list[tuple[int, bytes]]:
    """Return (type, value) of the attributes from an offset to the end, or to the first truncated one."""
    found = []
    end, unpack = len(data), _HEADER.unpack_from
    while offset + _HEADER.size <= end:
        length, kind = unpack(data, offset)
        if length < _HEADER.size or offset + length > end:
            break
        found.append((kind & _TYPE_MASK, data[offset + _HEADER.size : offset + length]))
        offset += (length + 3) & ~3
    return found


def read_text(value: bytes) -> str:
    """Decode a text, with or without its terminating NUL."""
    return value.rstrip(b"\0").decode(errors="replace")
