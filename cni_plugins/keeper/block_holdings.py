"""Computes what hosts have of a network's subnets, and what this one lacks or can spare."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cni_plugins.ipam_cluster.subnets import Span, Subnet, parsed, span
from cni_plugins.protocol.fields import IPAddress, IPNetwork
from cni_plugins.registries.network_registry import Member, Part

_USED = 0.75  # of a host's addresses, from which on it claims another block
_MOST_SHOWN = 5

Other = tuple[int, Span, str]
"""IP version, span and node of what another host has."""


class Holdings(NamedTuple):
    """Who has what of the subnets.

    :param mine: our blocks, and `fixed`: our single addresses.
    :param others: spans of other hosts with their nodes, blocks and single addresses.
    """

    mine: tuple[IPNetwork, ...]
    fixed: tuple[IPAddress, ...]
    others: tuple[Other, ...]

    def block_across(self, network: IPNetwork) -> str:
        """Return the node of another host's block that overlaps, empty if there is none."""
        first, last = span(network)
        for version, (start, end), node in self.others:
            if version == network.version and start <= last and first <= end and start != end:
                return node
        return ""

    def holder(self, address: IPAddress) -> str:
        """Return the node of another host that has an address, empty if there is none."""
        number = int(address)
        found = (
            node for version, (a, b), node in self.others if version == address.version and a <= number <= b
        )
        return next(found, "")

    def singles_in(self, blocks: Iterable[IPNetwork]) -> dict[IPAddress, str]:
        """Return the single addresses of other hosts in these blocks."""
        spans = [(block, span(block)) for block in blocks]
        return {
            block.network_address + (start - first): node
            for version, (start, end), node in self.others
            if start == end
            for block, (first, last) in spans
            if block.version == version and first <= start <= last
        }


def holdings(parts: Iterable[Part], me: Member, subnets: Sequence[Subnet]) -> Holdings:
    """Sort what the store has; keys that are no network, or of another one, are none of ours."""
    mine, fixed, others = [], [], []
    for part in parts:
        network = parsed(part.cidr)
        if network is None or not any(overlap(network, subnet.network) for subnet in subnets):
            continue
        if part.owner != me:
            others.append((network.version, span(network), part.owner.node))
        elif network.num_addresses == 1:
            fixed.append(network.network_address)
        else:
            mine.append(network)
    return Holdings(tuple(sorted(mine, key=_order)), tuple(fixed), tuple(others))


def overlap(one: IPNetwork, two: IPNetwork) -> bool:
    return one.version == two.version and one.overlaps(two)


def _order(network: IPNetwork) -> tuple[int, int]:
    return network.version, int(network.network_address)


class Use(NamedTuple):
    """How many addresses of some blocks can be given out, and how many are leased."""

    size: int
    leased: int

    @property
    def is_tight(self) -> bool:
        return self.leased >= self.size * _USED


def use(
    subnet: Subnet, blocks: Iterable[IPNetwork], taken: Iterable[IPAddress], names: Sequence[IPAddress]
) -> Use:
    """Count the addresses of a subnet in these blocks."""
    others = tuple(taken)
    ranges = [item for block in blocks for item in subnet.ranges(block, others)]
    leased = sum(any(name in item for item in ranges) for name in names)
    return Use(sum(item.last - item.first + 1 for item in ranges), leased)


def spare(
    subnet: Subnet, blocks: Sequence[IPNetwork], taken: Iterable[IPAddress], names: Sequence[IPAddress]
) -> list[IPNetwork]:
    """Return the empty blocks of a subnet, all but one, as long as the rest does not become tight."""
    of_subnet = [block for block in blocks if overlap(block, subnet.network)]
    empty = [block for block in of_subnet if not any(name in block for name in names)]
    found: list[IPNetwork] = []
    for block in empty[1:]:
        rest = [one for one in of_subnet if one != block and one not in found]
        if not use(subnet, rest, taken, names).is_tight:
            found.append(block)
    return found


class Spans:
    """The blocks of other hosts of one family, in order."""

    def __init__(self, others: Iterable[Other], version: int) -> None:
        self._spans = sorted(
            (given, node) for family, given, node in others if family == version and given[0] != given[1]
        )
        self._longest = max((last - first for (first, last), _ in self._spans), default=0)

    def node_in(self, first: int, last: int) -> str:
        """Return the node of a block that has one of these addresses, empty if there is none."""
        at = bisect_left(self._spans, ((first - self._longest, 0), ""))
        while at < len(self._spans) and self._spans[at][0][0] <= last:
            if self._spans[at][0][1] >= first:
                return self._spans[at][1]
            at += 1
        return ""


def strangers(found: Holdings, subnets: Sequence[Subnet], names: Iterable[IPAddress]) -> list[str]:
    """Return a sentence for leases of this host in blocks of others, which may lease the same addresses."""
    others = {subnet.version: Spans(found.others, subnet.version) for subnet in subnets}
    counted: dict[str, list[str]] = {}
    for name in names:
        if name in found.fixed or not any(name in subnet.network for subnet in subnets):
            continue
        node = others[name.version].node_in(int(name), int(name))
        if node:
            counted.setdefault(node, []).append(str(name))
    return [
        f"{len(ours)} leases of this host are in blocks of node {node}: {', '.join(ours[:_MOST_SHOWN])}"
        for node, ours in counted.items()
    ]
