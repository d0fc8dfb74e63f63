"""Tells which programs change rules of this suite, by the notifications that nf_tables sends of each commit.

iptables is nf_tables under another name where it is iptables-nft; the legacy one sends none.
"""

import errno
import struct
from collections.abc import Iterator
from typing import NamedTuple

from cni_plugins.kernel.netlink import nf_tables as wire
from cni_plugins.kernel.netlink.attributes import read_text
from cni_plugins.kernel.netlink.socket import Answer, Socket
from cni_plugins.ownership import NFT_TABLE

_NETLINK_NETFILTER = 12  # linux/netlink.h
_NFNLGRP_NFTABLES = 1 << (7 - 1)  # linux/netfilter/nfnetlink.h, as a mask
_FAMILY = 16  # offset of nfgen_family, after the netlink header
_OURS = (wire.INET, wire.BRIDGE)
_IPTABLES = tuple(wire.Layout.PROTO.values())
# Chains of iptables that hold rules of this suite, or jump to them.
_BUILT_IN = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
_PREFIX = "CNI-"
_CHAIN_OF = {wire.DELCHAIN: 3, wire.DELRULE: 2}  # the attribute with the chain's name


class Author(NamedTuple):
    """The process that changed the ruleset; unknown if notifications were lost."""

    pid: int = 0
    name: str = ""


UNKNOWN = Author()


class RulesetListener:
    """A socket that is notified of every change to the ruleset of this network namespace."""

    def __init__(self) -> None:
        self._socket = Socket(_NETLINK_NETFILTER, _NFNLGRP_NFTABLES)
        self._is_relevant = False

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def authors(self) -> list[Author]:
        """Return who may have changed rules of this suite since the last call, without waiting."""
        try:
            return list(self._authors())
        except OSError as err:
            if err.errno != errno.ENOBUFS:
                raise
            return [UNKNOWN]

    def _authors(self) -> Iterator[Author]:
        while messages := self._socket.arrived():
            for message in messages:
                if message.kind & 0xFF != wire.NEWGEN:
                    self._is_relevant = self._is_relevant or concerns_us(message)
                    continue
                if self._is_relevant:  # the changes of a commit come before its generation
                    yield _author(message)
                self._is_relevant = False


def concerns_us(message: Answer) -> bool:
    """Say whether a change may be one to rules of this suite, or to what leads to them."""
    kind, family = message.kind & 0xFF, message.data[_FAMILY]
    if kind == wire.DELTABLE:
        return True
    fields = wire.fields(message.data)
    if family in _OURS:
        return read_text(fields.get(1, b"")) == NFT_TABLE
    if family not in _IPTABLES or kind not in _CHAIN_OF:
        return False
    chain = read_text(fields.get(_CHAIN_OF[kind], b""))
    return chain in _BUILT_IN or chain.startswith(_PREFIX)


def _author(message: Answer) -> Author:
    fields = wire.fields(message.data)
    pid, name = fields.get(2), fields.get(3)
    return Author(struct.unpack(">I", pid)[0] if pid else 0, read_text(name) if name else "")
