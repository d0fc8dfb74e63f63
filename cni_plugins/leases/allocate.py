"""Chooses the addresses of an attachment from the range sets; pure, as `Pool` hides the disk.

Every range set gives one address, the requested one or the next free one. All addresses are chosen before any
is reserved, so a refusal leaves nothing to free.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from cni_plugins.errors import CniError, InvalidNetworkConfig, PoolExhausted
from cni_plugins.leases.ranges import Range, RangeSet, described, text
from cni_plugins.protocol.fields import IPAddress


class AlreadyHeld(PoolExhausted):
    """The attachment already holds an address of this range set; freeing others would not help."""


class Pool(NamedTuple):
    """The reservations of one network.

    `taken` says whether an address is reserved, `last` returns the one that a range set gave last; `held` are
    those of the attachment itself.
    """

    taken: Callable[[str], bool]
    last: Callable[[int], IPAddress | None]
    held: Sequence[IPAddress] = ()


class Choice(NamedTuple):
    """An address chosen from a range set; `number` is the position of the set."""

    number: int
    address: int
    range: Range

    @property
    def name(self) -> str:
        return text(self.range.version, self.address)


def choose(
    container_id: str, sets: Sequence[RangeSet], requested: Sequence[IPAddress], pool: Pool
) -> tuple[Choice, ...]:
    """Choose one address of every range set.

    :raises PoolExhausted: when a set has no free address, or a requested one is reserved or in no set.
    :raises AlreadyHeld: when the attachment holds an address of a set from which none is requested.
    :raises InvalidNetworkConfig: when a gateway is requested.
    """
    left = list(dict.fromkeys(requested))
    chosen = []
    for number, ranges in enumerate(sets):
        wanted = next((address for address in left if _range_of(ranges, address)), None)
        if wanted is None:
            chosen.append(_choose_next(container_id, number, ranges, pool))
        else:
            left.remove(wanted)
            chosen.append(_choose_requested(wanted, number, ranges, pool))
    if left:
        listed = " ".join(str(address) for address in left)
        raise PoolExhausted(
            f"failed to allocate all requested IPs: {listed}",
            f"each range set gives one address; they are {'; '.join(map(described, sets))}",
        )
    return tuple(chosen)


def next_free(ranges: RangeSet, pool: Pool, number: int) -> Choice | None:
    """Return the first free address after the one given last; the ranges of the set form one ring."""
    for item, address in candidates(ranges, pool.last(number)):
        if not pool.taken(text(item.version, address)):
            return Choice(number, address, item)
    return None


def candidates(ranges: RangeSet, last: IPAddress | None) -> Iterator[tuple[Range, int]]:
    """Yield every address of a set once, in round-robin order: the one given last comes last."""
    current = None if last is None else _range_of(ranges, last)
    if last is None or current is None:
        return chain.from_iterable(_between(item, item.first, item.last) for item in ranges)
    at, value = ranges.index(current), int(last)
    return chain(
        _between(current, value + 1, current.last),
        chain.from_iterable(_between(item, item.first, item.last) for item in ranges[at + 1 :] + ranges[:at]),
        _between(current, current.first, value),
    )


def _between(item: Range, first: int, last: int) -> Iterator[tuple[Range, int]]:
    return ((item, address) for address in range(first, last + 1) if address != item.gateway)


def _choose_next(container_id: str, number: int, ranges: RangeSet, pool: Pool) -> Choice:
    duplicate = next((address for address in pool.held if _range_of(ranges, address)), None)
    if duplicate is not None:
        reason = f"{duplicate} has been allocated to {container_id}, duplicate allocation is not allowed"
        raise _refused(number, reason, AlreadyHeld)
    found = next_free(ranges, pool, number)
    if found is None:
        raise _refused(number, f"no IP addresses available in range set: {described(ranges)}")
    return found


def _choose_requested(wanted: IPAddress, number: int, ranges: RangeSet, pool: Pool) -> Choice:
    item = _range_of(ranges, wanted) or ranges[0]
    if int(wanted) == item.gateway:
        raise _refused(number, f"requested ip {wanted} is subnet's gateway", InvalidNetworkConfig)
    choice = Choice(number, int(wanted), item)
    if pool.taken(choice.name):
        raise _refused(
            number, f"requested IP address {wanted} is not available in range set {described(ranges)}"
        )
    return choice


def _refused(number: int, reason: str, kind: type[CniError] = PoolExhausted) -> CniError:
    return kind(f"failed to allocate for range {number}: {reason}", f"range set {number}")


def _range_of(ranges: RangeSet, address: IPAddress) -> Range | None:
    return next((item for item in ranges if address in item), None)
