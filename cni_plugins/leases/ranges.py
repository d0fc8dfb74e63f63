"""Computes with address ranges as integers: defaults, membership, overlap and the text form of addresses.

It knows neither the config format nor the disk. Checks and messages are those of the reference plugin, so
that users find what they know.
"""

from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from itertools import chain, pairwise
from typing import NamedTuple

from cni_plugins.protocol.fields import IPAddress, IPInterface

_IPV4 = 4


class Range(NamedTuple):
    """Addresses `first` to `last`, both included, of one subnet; the gateway is never handed out."""

    version: int
    length: int
    first: int
    last: int
    gateway: int

    def __contains__(self, address: object) -> bool:
        return (
            isinstance(address, IPv4Address | IPv6Address)
            and address.version == self.version
            and self.first <= int(address) <= self.last
        )

    def __str__(self) -> str:
        return f"{text(self.version, self.first)}-{text(self.version, self.last)}"

    def interface(self, address: int) -> IPInterface:
        """Return an address of this range together with the prefix length of its subnet."""
        kind = IPv4Interface if self.version == _IPV4 else IPv6Interface
        return kind((address, self.length))


RangeSet = tuple[Range, ...]


def described(ranges: RangeSet) -> str:
    return ",".join(str(item) for item in ranges)


def text(version: int, value: int) -> str:
    """Format an address as the reference plugin names its lease files: RFC 5952 for IPv6."""
    # Searching a full IPv4 range formats every address: IPv4Address() would be half of that time.
    return ".".join(map(str, value.to_bytes(4, "big"))) if version == _IPV4 else str(IPv6Address(value))


def canonical(
    subnet: IPInterface,
    start: IPAddress | None = None,
    end: IPAddress | None = None,
    gateway: IPAddress | None = None,
) -> Range:
    """Fill in the defaults: all addresses of the subnet, its first one as gateway.

    :raises ValueError: when the subnet is invalid, or start, end or gateway do not fit it.
    """
    network = subnet.network
    if isinstance(network.network_address, IPv6Address) and network.network_address.ipv4_mapped:
        raise ValueError(f"{network}: IPNet IP and Mask version mismatch")
    if network.prefixlen > network.max_prefixlen - 2:
        raise ValueError(f"Network {subnet} too small to allocate from")
    if subnet.ip != network.network_address:
        raise ValueError(
            f"Network has host bits set. For a subnet mask of length {network.prefixlen}"
            f" the network address is {network.network_address}"
        )
    if subnet.version == _IPV4:
        start, end, gateway = map(_unmapped, (start, end, gateway))
    _check_bounds(subnet, start, end, gateway)
    base = int(network.network_address)
    # The last address of an IPv4 subnet is for broadcast; IPv6 has no broadcast.
    highest = (
        base + (1 << (network.max_prefixlen - network.prefixlen)) - (2 if subnet.version == _IPV4 else 1)
    )
    first, last, via = (
        default if given is None else int(given)
        for given, default in ((start, base + 1), (end, highest), (gateway, base + 1))
    )
    if first > last:
        raise ValueError(
            f"RangeStart {text(subnet.version, first)} is after RangeEnd {text(subnet.version, last)}"
        )
    return Range(subnet.version, network.prefixlen, first, last, via)


def _check_bounds(
    subnet: IPInterface, start: IPAddress | None, end: IPAddress | None, gateway: IPAddress | None
) -> None:
    for name, address in (("RangeStart", start), ("RangeEnd", end)):
        if address is not None and address not in subnet.network:
            raise ValueError(f"{name} {address} not in network {subnet.network}")
    if gateway is not None and gateway.version != subnet.version:
        raise ValueError(f"gateway {gateway} is not of the address family of network {subnet.network}")


def _unmapped(address: IPAddress | None) -> IPAddress | None:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def check_set(ranges: RangeSet) -> None:
    """:raises ValueError: when these ranges cannot form one range set."""
    if not ranges:
        raise ValueError("empty range set")
    if len({item.version for item in ranges}) > 1:
        raise ValueError("mixed address families")
    clash = _overlapping(ranges)
    if clash:
        raise ValueError(f"subnets {ranges[clash[0]]} and {ranges[clash[1]]} overlap")


def check_sets(sets: tuple[RangeSet, ...]) -> None:
    """:raises ValueError: when an address belongs to two sets."""
    numbers = [number for number, ranges in enumerate(sets) for _ in ranges]
    clash = _overlapping(tuple(chain.from_iterable(sets)))
    if clash:
        raise ValueError(f"range set {numbers[clash[0]]} overlaps with {numbers[clash[1]]}")


def _overlapping(ranges: RangeSet) -> list[int]:
    """Return the positions of two overlapping ranges, if any; once sorted, only neighbours can overlap."""
    order = sorted(range(len(ranges)), key=lambda at: (ranges[at].version, ranges[at].first))
    return next((sorted(pair) for pair in pairwise(order) if _overlap(*(ranges[at] for at in pair))), [])


def _overlap(one: Range, two: Range) -> bool:
    return one.version == two.version and one.first <= two.last and two.first <= one.last
