"""Describes chains and sets of our nf_tables table, and builds the messages about all that is in it."""

import errno
import struct
from collections.abc import Sequence
from typing import NamedTuple

from cni_plugins.kernel.firewall.read import FoundRule
from cni_plugins.kernel.netlink import nf_tables as wire
from cni_plugins.kernel.netlink.nf_tables import attr, message
from cni_plugins.kernel.netlink.socket import NLM_F_APPEND, NLM_F_CREATE, Refused
from cni_plugins.ownership import NFT_TABLE

TRIES = 50  # of a transaction that is refused because the ruleset has changed
ACCEPT = 1
_ELEMENTS = 500  # per message; an attribute is limited to 64 KiB
_COMMENTED = 200  # per message, of elements with comments of up to 129 bytes
_HOST_ORDER = struct.pack("=BBI", 0, 4, 1)  # NFTNL_UDATA_SET_KEYBYTEORDER, as nft(8) writes it
_SET_TYPEOF = 3  # NFTNL_UDATA_SET_KEY_TYPEOF
_SET_COMMENT = 7  # NFTNL_UDATA_SET_COMMENT
_MAP = 0x8  # NFT_SET_MAP


class Chain(NamedTuple):
    """A base chain with its type, hook and priority, or one that rules jump to, without these."""

    name: str
    kind: str = ""
    hook: int = 0
    priority: int = 0


class Set(NamedTuple):
    """A named set; key type as nft(8) numbers its data types, length in bytes.

    `host_order` tells nft(8), not the kernel, how to read the key: for nft(8), link names are in host order.

    :param typeof: for nft(8) too: the expressions of the key, where it has no name for the type of one.
    :param data_type: of what a map has under each key, 0 for a set.
    """

    name: str
    key_type: int
    key_length: int
    comment: str
    host_order: bool = False
    data_type: int = 0
    data_length: int = 0
    typeof: bytes = b""


def in_table(kind: int, family: int, flags: int = 0, *attrs: bytes) -> bytearray:
    """Return a message about our table, or about an object in it."""
    return message(kind, family, flags, attr(1, NFT_TABLE), *attrs)


def new_chain(family: int, chain: Chain) -> bytearray:
    if not chain.kind:
        return in_table(wire.NEWCHAIN, family, NLM_F_CREATE, attr(3, chain.name))
    hook = attr(4, [attr(1, chain.hook), attr(2, chain.priority)])
    attrs = (attr(3, chain.name), hook, attr(5, ACCEPT), attr(7, chain.kind))
    return in_table(wire.NEWCHAIN, family, NLM_F_CREATE, *attrs)


def new_rule(family: int, chain: Chain, mark: str, expressions: bytes) -> bytearray:
    attrs = (attr(2, chain.name), attr(4, [expressions]), attr(7, wire.comment(mark)))
    return in_table(wire.NEWRULE, family, NLM_F_CREATE | NLM_F_APPEND, *attrs)


def new_set(family: int, item: Set, number: int) -> bytearray:
    userdata = b"".join(
        (
            _HOST_ORDER if item.host_order else b"",
            wire.userdata(_SET_TYPEOF, item.typeof) if item.typeof else b"",
            wire.comment(item.comment, _SET_COMMENT),
        )
    )
    mapped = [attr(6, item.data_type), attr(7, item.data_length)] if item.data_type else []
    return in_table(
        wire.NEWSET,
        family,
        NLM_F_CREATE,
        attr(2, item.name),
        attr(3, _MAP if mapped else 0),
        attr(4, item.key_type),
        attr(5, item.key_length),
        *mapped,
        attr(10, number),
        attr(13, userdata),
    )


def del_rule(family: int, rule: FoundRule) -> bytearray:
    return in_table(wire.DELRULE, family, 0, attr(2, rule.chain), attr(3, rule.handle))


def owned_elements(family: int, set_name: str, items: Sequence[tuple[bytes, bytes, str]]) -> list[bytearray]:
    """Return messages that add elements of one set or map, with many elements per message.

    :param items: key, what a map has under it, and comment of each.
    """
    entries = [_entry(key, data, comment) for key, data, comment in items]
    parts = [entries[start : start + _COMMENTED] for start in range(0, len(entries), _COMMENTED)]
    return [
        in_table(wire.NEWSETELEM, family, NLM_F_CREATE, attr(2, set_name), attr(3, part)) for part in parts
    ]


def elements_message(
    kind: int, family: int, flags: int, set_name: str, keys: Sequence[bytes], comment: str = ""
) -> bytearray:
    userdata = [attr(6, wire.comment(comment))] if comment else []
    entries = [attr(1, [attr(1, [attr(1, key)]), *userdata]) for key in keys]
    return in_table(kind, family, flags, attr(2, set_name), attr(3, entries))


def element_message(
    kind: int, family: int, flags: int, item: tuple[str, bytes, bytes], comment: str
) -> bytearray:
    """Return a message about one element, given by set, key and what a map has under it."""
    set_name, key, data = item
    return in_table(kind, family, flags, attr(2, set_name), attr(3, [_entry(key, data, comment)]))


def _entry(key: bytes, data: bytes, comment: str) -> bytes:
    mapped = [attr(2, [attr(1, data)])] if data else []
    userdata = [attr(6, wire.comment(comment))] if comment else []
    return attr(1, [attr(1, [attr(1, key)]), *mapped, *userdata])


def in_parts(kind: int, family: int, flags: int, set_name: str, keys: Sequence[bytes]) -> list[bytearray]:
    """Return messages for elements of one set without comments, with many elements per message."""
    parts = [keys[start : start + _ELEMENTS] for start in range(0, len(keys), _ELEMENTS)]
    return [elements_message(kind, family, flags, set_name, part) for part in parts]


def has_changed(err: Refused) -> bool:
    """Say whether a batch was refused because the generation number has changed."""
    return err.errno in (errno.ERESTART, errno.EINTR)
