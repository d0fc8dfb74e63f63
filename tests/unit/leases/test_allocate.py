from collections.abc import Collection, Sequence
from ipaddress import IPv4Address, ip_address, ip_interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_plugins.errors import CniError, InvalidNetworkConfig, PoolExhausted
from cni_plugins.leases.allocate import AlreadyHeld, Pool, candidates, choose, next_free
from cni_plugins.leases.ranges import Range, RangeSet, canonical, text
from cni_plugins.protocol.fields import IPAddress

BASE = int(IPv4Address("10.0.0.0"))


def pool(taken: Collection[str] = (), last: IPAddress | None = None, held: Sequence[IPAddress] = ()) -> Pool:
    return Pool(frozenset(taken).__contains__, lambda _number: last, held)


def subnet(cidr: str) -> Range:
    return canonical(ip_interface(cidr))


@st.composite
def range_sets(draw: st.DrawFn) -> RangeSet:
    """Draw one to three ranges apart from each other, the gateway anywhere near."""
    bounds = sorted(draw(st.sets(st.integers(0, 60), min_size=2, max_size=6)))
    pairs = list(zip(bounds[::2], bounds[1::2], strict=False))
    gateways = draw(st.lists(st.integers(0, 62), min_size=len(pairs), max_size=len(pairs)))
    return tuple(
        Range(4, 24, BASE + first, BASE + last, BASE + gateway)
        for (first, last), gateway in zip(pairs, gateways, strict=True)
    )


numbers = st.integers(0, 62)


@given(range_sets(), st.none() | numbers)
def test_every_address_but_the_gateways_is_offered_exactly_once(ranges: RangeSet, last: int) -> None:
    offered = [
        address for _, address in candidates(ranges, None if last is None else IPv4Address(BASE + last))
    ]
    expected = {
        address for item in ranges for address in range(item.first, item.last + 1) if address != item.gateway
    }
    assert len(offered) == len(set(offered))
    assert set(offered) == expected


@given(range_sets(), numbers, st.sets(numbers))
def test_what_is_chosen_is_free_in_the_set_and_no_gateway(
    ranges: RangeSet, last: int, taken: set[int]
) -> None:
    names = {text(4, BASE + number) for number in taken}
    choice = next_free(ranges, pool(names, IPv4Address(BASE + last)), 0)
    if choice is None:
        assert all(text(4, address) in names for _, address in candidates(ranges, None))
    else:
        assert choice.name not in names
        assert IPv4Address(choice.address) in choice.range
        assert choice.address != choice.range.gateway


@given(range_sets(), numbers)
def test_the_order_is_a_ring_that_begins_after_the_last_one_given(ranges: RangeSet, last: int) -> None:
    ring = [address for _, address in candidates(ranges, None)]
    found = [address for _, address in candidates(ranges, IPv4Address(BASE + last))]
    at = next((n for n, address in enumerate(ring) if address == found[0]), 0) if ring else 0
    assert found == ring[at:] + ring[:at]


@given(range_sets())
def test_giving_until_refused_gives_every_address_once(ranges: RangeSet) -> None:
    taken, last = set(), None
    while (choice := next_free(ranges, pool(taken, last), 0)) is not None:
        assert choice.name not in taken
        taken.add(choice.name)
        last = IPv4Address(choice.address)
    assert len(taken) == sum(1 for _ in candidates(ranges, None))


@given(st.integers(0, 200), st.integers(0, (1 << 64) - 2))
def test_a_huge_ipv6_range_costs_as_many_steps_as_addresses_are_taken(count: int, start: int) -> None:
    item = subnet("fd00::/64")
    taken = {text(6, item.first + (start + n) % (item.last - item.first + 1)) for n in range(count)}
    choice = next_free((item,), pool(taken, ip_address(item.first + start)), 0)
    assert choice is not None
    assert choice.name not in taken


def test_each_set_gives_one_address_in_the_order_of_the_sets() -> None:
    sets = ((subnet("10.1.0.0/24"),), (subnet("fd00::/64"),))
    assert [one.name for one in choose("c1", sets, (), pool())] == ["10.1.0.2", "fd00::2"]


def test_a_last_address_outside_the_set_is_ignored() -> None:
    assert next_free((subnet("10.1.0.0/24"),), pool(last=ip_address("10.9.9.9")), 0).name == "10.1.0.2"
    assert next_free((subnet("10.1.0.0/24"),), pool(last=ip_address("fd00::1")), 0).name == "10.1.0.2"


def test_a_requested_address_goes_to_its_set_and_the_others_go_on_in_turn() -> None:
    sets = ((subnet("10.1.0.0/24"),), (subnet("10.2.0.0/24"),))
    assert [one.name for one in choose("c1", sets, (ip_address("10.2.0.77"),), pool())] == [
        "10.1.0.2",
        "10.2.0.77",
    ]


def test_an_address_requested_twice_is_requested_once() -> None:
    wanted = ip_address("10.1.0.7")
    assert [one.name for one in choose("c1", ((subnet("10.1.0.0/24"),),), (wanted, wanted), pool())] == [
        "10.1.0.7"
    ]


@pytest.mark.parametrize(
    ("wanted", "kind", "message"),
    [
        ("10.1.0.1", InvalidNetworkConfig, "range 0: requested ip 10.1.0.1 is subnet's gateway"),
        (
            "10.1.0.9",
            PoolExhausted,
            "requested IP address 10.1.0.9 is not available in range set 10.1.0.1-10.1.0.254",
        ),
        ("10.9.0.9", PoolExhausted, "failed to allocate all requested IPs: 10.9.0.9"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused(wanted: str, kind: type[CniError], message: str) -> None:
    with pytest.raises(kind, match=message):
        choose("c1", ((subnet("10.1.0.0/24"),),), (ip_address(wanted),), pool({"10.1.0.9"}))


def test_two_requested_addresses_of_one_set_are_one_too_many() -> None:
    wanted = (ip_address("10.1.0.8"), ip_address("10.1.0.9"))
    with pytest.raises(PoolExhausted, match=r"failed to allocate all requested IPs: 10\.1\.0\.9"):
        choose("c1", ((subnet("10.1.0.0/24"),),), wanted, pool())


def test_an_attachment_that_has_an_address_of_the_set_gets_no_second_one() -> None:
    with pytest.raises(
        AlreadyHeld, match=r"10\.1\.0\.5 has been allocated to c1, duplicate allocation is not allowed"
    ):
        choose("c1", ((subnet("10.1.0.0/24"),),), (), pool(held=(ip_address("10.1.0.5"),)))


def test_a_full_set_is_named() -> None:
    with pytest.raises(PoolExhausted) as refused:
        choose("c1", ((subnet("10.1.0.0/30"), subnet("10.2.0.0/30")),), (), pool({"10.1.0.2", "10.2.0.2"}))
    assert refused.value.msg == (
        "failed to allocate for range 0: "
        "no IP addresses available in range set: 10.1.0.1-10.1.0.2,10.2.0.1-10.2.0.2"
    )
    assert refused.value.code == 102
