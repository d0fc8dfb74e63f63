"""Reads what a rule of nf_tables does with a packet, as iptables-nft and nft(8) write rules."""

import struct
from typing import NamedTuple

from cni_plugins.kernel.netlink import nf_tables as wire
from cni_plugins.kernel.netlink.attributes import attributes, read_text

DROP, JUMP = 0, -3  # linux/netfilter.h: NF_DROP; linux/netfilter/nf_tables.h: NFT_JUMP
_REFUSING = ("DROP", "REJECT")


class Expression(NamedTuple):
    """One expression of a rule: its name, and its attributes."""

    name: str
    content: dict[int, bytes]


def jumps_to(rule: bytes) -> str:
    """Return the chain that a rule jumps to, empty if it does not jump."""
    verdicts = (verdict(item) for item in expressions(rule) if item.name == "immediate")
    return next((chain for code, chain in verdicts if code == JUMP), "")


def refuses_all(rule: bytes) -> bool:
    """Say whether a rule drops or rejects every packet."""
    deciding = [item for item in expressions(rule) if not _decides_nothing(item)]
    return len(deciding) == 1 and _refuses(deciding[0])


def _decides_nothing(expression: Expression) -> bool:
    is_comment = expression.name == "match" and read_text(expression.content.get(1, b"")) == "comment"
    return is_comment or expression.name == "counter"


def _refuses(expression: Expression) -> bool:
    if expression.name == "target":
        return read_text(expression.content.get(1, b"")) in _REFUSING
    if expression.name == "immediate":
        return verdict(expression)[0] == DROP
    return expression.name == "reject"


def expressions(rule: bytes) -> list[Expression]:
    found = [dict(attributes(item)) for _, item in attributes(wire.fields(rule).get(4, b""))]
    return [Expression(read_text(item[1]), dict(attributes(item.get(2, b"")))) for item in found if 1 in item]


def verdict(expression: Expression) -> tuple[int | None, str]:
    """Return code and chain of an immediate verdict; no code for immediate data."""
    verdict = dict(attributes(dict(attributes(expression.content.get(2, b""))).get(2, b"")))
    code = struct.unpack(">i", verdict[1])[0] if 1 in verdict else None
    return code, read_text(verdict.get(2, b""))
