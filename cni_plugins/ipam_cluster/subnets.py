"""Divides a subnet into blocks, and blocks into ranges of addresses that may be given out; pure functions."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_network
from typing import NamedTuple

from cni_plugins.leases.ranges import Range, canonical
from cni_plugins.ownership import digest
from cni_plugins.protocol.fields import IPAddress, IPInterface, IPNetwork

_IPV4 = 4
_DEFAULT_LENGTH = {4: 28, 6: 120}
_BITS = {4: 32, 6: 128}

Span = tuple[int, int]
"""Numbers of the first and the last address."""


class Subnet(NamedTuple):
    """One subnet of the network, the same on all hosts.

    :param bounds: what may be given out, without network and broadcast address; its gateway is the subnet's.
    :param length: prefix length of the blocks.
    :param holes: what must not be given out, in order, without overlaps; the gateway is one of them.
    """

    network: IPNetwork
    bounds: Range
    length: int
    holes: tuple[Span, ...]

    @property
    def version(self) -> int:
        return self.bounds.version

    def gives_out(self, address: IPAddress) -> bool:
        """Say whether an address is one of those that may be given out, on whichever host."""
        number = int(address)
        return address in self.bounds and _hole_at(self.holes, number) is None

    def ranges(self, block: IPNetwork, but: Iterable[IPAddress] = ()) -> tuple[Range, ...]:
        """Return what may be given out of a block.

        :param but: addresses that other hosts have.
        """
        if block.version != self.version or not block.overlaps(self.network):
            return ()
        first, last = max(span(block)[0], self.bounds.first), min(span(block)[1], self.bounds.last)
        others = ((int(address), int(address)) for address in but if address.version == self.version)
        holes = merged([*self.holes, *others])
        return tuple(self.bounds._replace(first=a, last=b) for a, b in _without(first, last, holes))

    def only(self, address: IPAddress) -> Range:
        """Return the range that consists of one address."""
        return self.bounds._replace(first=int(address), last=int(address))

    def candidates(self, node: str) -> Iterator[IPNetwork]:
        """Yield every block with an address to give out, beginning at one that depends on the node.

        Hosts that join together thus seldom want the same one.
        """
        size = 1 << (_BITS[self.version] - self.length)
        first, last = self.bounds.first // size, self.bounds.last // size
        start = first + int(digest(f"block {node}", 15), 16) % (last - first + 1)
        yield from self._between(start, last, size)
        yield from self._between(first, start - 1, size)

    def _between(self, first: int, last: int, size: int) -> Iterator[IPNetwork]:
        at, kind = first, type(self.network)
        while at <= last:
            hole = _hole_at(self.holes, max(at * size, self.bounds.first))
            if hole is not None and hole[1] >= min(at * size + size - 1, self.bounds.last):
                at = max(at + 1, (hole[1] + 1) // size)  # a hole may have more blocks than anybody can count
                continue
            yield kind((at * size, self.length))
            at += 1


def make(
    subnet: IPInterface,
    bounds: tuple[IPAddress | None, IPAddress | None],
    gateway: IPAddress | None,
    exclude: Sequence[IPNetwork],
    length: int,
) -> Subnet:
    """Fill in the defaults.

    :param length: 0: the default of the family.
    :raises ValueError: when the values do not fit together.
    """
    given = canonical(subnet, *bounds, gateway)
    network = subnet.network
    start, end = span(network)
    # IPv6 has no broadcast; the first address is the routers' (RFC 4291, 2.6.1).
    inside = given._replace(
        first=max(given.first, start + 1), last=min(given.last, end - (1 if given.version == _IPV4 else 0))
    )
    length = length or max(_DEFAULT_LENGTH[given.version], network.prefixlen)
    if not network.prefixlen <= length <= _BITS[given.version]:
        raise ValueError(
            f"blockLen {length} must be {network.prefixlen} to {_BITS[given.version]}, as subnet is {network}"
        )
    odd = next((one for one in exclude if one.version != given.version or not one.overlaps(network)), None)
    if odd is not None:
        raise ValueError(f"exclude {odd} is not in subnet {network}")
    holes = merged([*map(span, exclude), (inside.gateway, inside.gateway)])
    if inside.first > inside.last or not any(True for _ in _without(inside.first, inside.last, holes)):
        raise ValueError(f"subnet {network} has no address to give out")
    return Subnet(network, inside, length, holes)


def span(network: IPNetwork) -> Span:
    first = int(network.network_address)
    return first, first + network.num_addresses - 1


def merged(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Return spans in order, joined where they overlap or touch."""
    found: list[Span] = []
    for first, last in sorted(spans):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        else:
            found.append((first, last))
    return tuple(found)


def parsed(text: str) -> IPNetwork | None:
    """Return a subnet, block or address from a store, None for anything else."""
    try:
        return ip_network(text)
    except ValueError:
        return None


def _hole_at(holes: Sequence[Span], number: int) -> Span | None:
    at = bisect_right(holes, number, key=lambda hole: hole[0]) - 1
    return holes[at] if at >= 0 and holes[at][1] >= number else None


def _without(first: int, last: int, holes: Sequence[Span]) -> Iterator[Span]:
    """Yield what holes leave of a span."""
    for start, end in holes:
        if start > last:
            break
        if end < first:
            continue
        if start > first:
            yield first, start - 1
        first = end + 1
    if first <= last:
        yield first, last
