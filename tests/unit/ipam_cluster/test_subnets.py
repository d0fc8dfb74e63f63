"""Blocks and what may be given out of them, as tables."""

from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from cni_plugins.ipam_cluster.subnets import Subnet, make, merged


def subnet(text: str, length: int = 0, exclude: tuple[str, ...] = (), **keys: str) -> Subnet:
    bounds = tuple(ip_address(keys[key]) if key in keys else None for key in ("start", "end"))
    gateway = ip_address(keys["gateway"]) if "gateway" in keys else None
    return make(ip_interface(text), bounds, gateway, [*map(ip_network, exclude)], length)  # type: ignore[arg-type]


GIVEN_OUT: list[Any] = [
    (subnet("192.0.2.0/24"), "192.0.2.0/28", ["192.0.2.2-192.0.2.15"]),
    (subnet("192.0.2.0/24"), "192.0.2.16/28", ["192.0.2.16-192.0.2.31"]),
    (subnet("192.0.2.0/24"), "192.0.2.240/28", ["192.0.2.240-192.0.2.254"]),
    (
        subnet("192.0.2.0/24", gateway="192.0.2.20"),
        "192.0.2.16/28",
        ["192.0.2.16-192.0.2.19", "192.0.2.21-192.0.2.31"],
    ),
    (
        subnet("192.0.2.0/24", exclude=("192.0.2.16/30", "192.0.2.31")),
        "192.0.2.16/28",
        ["192.0.2.20-192.0.2.30"],
    ),
    (
        subnet("192.0.2.0/24", start="192.0.2.24", end="192.0.2.25"),
        "192.0.2.16/28",
        ["192.0.2.24-192.0.2.25"],
    ),
    (subnet("192.0.2.0/24", start="192.0.2.0", end="192.0.2.255"), "192.0.2.0/24", ["192.0.2.2-192.0.2.254"]),
    (subnet("2001:db8::/64"), "2001:db8::/120", ["2001:db8::2-2001:db8::ff"]),
    (subnet("2001:db8::/64"), "192.0.2.0/28", []),
    (subnet("192.0.2.0/24"), "198.51.100.0/28", []),
]


@pytest.mark.parametrize(("given", "block", "expected"), GIVEN_OUT)
def test_network_gateway_and_excluded_addresses_are_left_out(
    given: Subnet, block: str, expected: list[str]
) -> None:
    assert [str(item) for item in given.ranges(ip_network(block))] == expected


def test_addresses_of_other_hosts_are_left_out() -> None:
    found = subnet("192.0.2.0/24").ranges(ip_network("192.0.2.16/30"), [ip_address("192.0.2.17")])
    assert [str(item) for item in found] == ["192.0.2.16-192.0.2.16", "192.0.2.18-192.0.2.19"]


@pytest.mark.parametrize("node", ["a", "b", "node-17"])
def test_every_block_with_an_address_is_a_candidate_once(node: str) -> None:
    given = subnet("192.0.2.0/24", 28, ("192.0.2.32/27", "192.0.2.240/28"))
    expected = {f"192.0.2.{start}/28" for start in range(0, 256, 16) if start not in (32, 48, 240)}
    found = [str(one) for one in given.candidates(node)]
    assert len(found) == len(set(found))
    assert set(found) == expected


def test_hosts_begin_at_different_blocks() -> None:
    given = subnet("192.0.2.0/24", 28)
    assert len({next(given.candidates(f"n{number}")) for number in range(50)}) > 8


def test_a_hole_of_more_blocks_than_can_be_counted_is_skipped() -> None:
    given = subnet("2001:db8::/64", 120, ("2001:db8:0:0:8000::/65", "2001:db8::/72"))
    found = given.candidates("a")
    assert all(ip_network(next(found)).subnet_of(ip_network("2001:db8::/65")) for _ in range(3))  # type: ignore[arg-type]


def test_spans_that_touch_are_one() -> None:
    assert merged([(5, 9), (1, 4), (20, 30), (22, 24)]) == ((1, 9), (20, 30))
