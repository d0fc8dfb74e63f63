"""Chooses the subnets or blocks that a host tries to get, with pure functions.

Each host begins at a place of its own, which follows from its name, so that many that join at once rarely
want the same one.
"""

import hashlib
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

from cni_plugins.protocol.fields import IPNetwork
from cni_plugins.vxlan.config import VxlanConfig
from cni_plugins.vxlan.records import is_within

_V4 = 4
_SUBNET = {4: 24, 6: 64}
_BLOCK = {4: 28, 6: 124}  # 16 addresses
_LONGEST = {4: 30, 6: 126}
_MORE = 4  # bits, for networks that are too small for the usual length
_FULL = 0.75
_HASH = 8  # bytes


class Wanted(NamedTuple):
    """What a host needs of one range.

    :param length: prefix length of each.
    """

    network: IPNetwork
    length: int


def wanted(config: VxlanConfig) -> tuple[Wanted, ...]:
    """Return the ranges of which a host needs a part: in l3 each network, in l2 that of the blocks."""
    if config.mode == "l3":
        return tuple(
            Wanted(net, _length(net, config.subnet_len if net.version == _V4 else 0, _SUBNET))
            for net in config.within
        )
    if config.bum == "head-end" and config.ipam.type not in ("", "host-local"):
        return ()  # hosts ask each other for addresses, and another plugin gives them out
    first = config.within[0]
    return (Wanted(first, _length(first, config.block_len, _BLOCK)),)


def _length(network: IPNetwork, chosen: int, usual: dict[int, int]) -> int:
    if chosen:
        return max(chosen, network.prefixlen)
    if network.prefixlen < usual[network.version]:
        return usual[network.version]
    return max(min(network.prefixlen + _MORE, _LONGEST[network.version]), network.prefixlen)


def is_fit(part: IPNetwork, want: Wanted) -> bool:
    """Say whether a part that a host has serves what it needs, so that it is kept."""
    return is_within(part, want.network) and part.prefixlen == want.length


def candidates(want: Wanted, node: str, taken: Iterable[IPNetwork]) -> Iterator[str]:
    """Yield what is free, from the host's own place on.

    :param taken: what hosts have already, of any length.
    """
    network, length = want
    size = 1 << (network.max_prefixlen - length)
    count = 1 << (length - network.prefixlen)
    base = int(network.network_address)
    used = _places(want, taken, base, size, count)
    digest = hashlib.sha512(node.encode(errors="surrogateescape")).digest()[:_HASH]
    start = int.from_bytes(digest, "big") % count
    kind: type[IPv4Network | IPv6Network] = type(network)
    for step in range(count):
        place = (start + step) % count
        if not any(first <= place <= last for first, last in used):
            yield str(kind((base + place * size, length)))


def _places(
    want: Wanted, taken: Iterable[IPNetwork], base: int, size: int, count: int
) -> tuple[tuple[int, int], ...]:
    """Return the runs of places that others have, merged, so that few remain to be compared."""
    runs = sorted(
        (
            max(0, (int(part.network_address) - base) // size),
            min(count - 1, (int(part.broadcast_address) - base) // size),
        )
        for part in taken
        if part.version == want.network.version and part.overlaps(want.network)
    )
    merged: list[tuple[int, int]] = []
    for first, last in runs:
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(last, merged[-1][1])
        else:
            merged.append((first, last))
    return tuple(merged)


def needs_another(blocks: Iterable[IPNetwork], used: int) -> bool:
    """Say whether a host should get one more block.

    :param used: how many addresses of its blocks are leased.
    """
    return used >= _FULL * sum(block.num_addresses for block in blocks)
