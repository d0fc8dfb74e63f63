"""Which addresses a host gives out, bears itself, and takes from an IPAM plugin."""

import json
from ipaddress import IPv4Address, IPv4Network, ip_address, ip_interface, ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cni_plugins.errors import InvalidNetworkConfig
from cni_plugins.ipam_hostlocal.config import parse as parse_hostlocal
from cni_plugins.leases.allocate import candidates
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import IPConfig, Result, Route
from cni_plugins.vxlan.addressing import (
    addresses_of,
    in_effect,
    ipam_request,
    ipam_type,
    node_address,
    own_networks,
    twin,
)
from cni_plugins.vxlan.config import Overlay
from cni_plugins.vxlan.local_host import find
from tests.unit.vxlan.hosts import (
    BARE,
    BLOCKS,
    DUAL_PEERS,
    DUAL_STRETCHED,
    GROUP,
    STRETCHED,
    facts,
    link,
    local_host,
    parsed,
    request,
)

DUAL = {"network": ["10.244.0.0/16", "fd00::/16"], "peers": DUAL_PEERS}
HEAD_END = {"mode": "l2", "subnet": "192.168.100.0/24", "bum": "head-end"}
V6_STRETCHED = {
    "mode": "l2",
    "subnet": "fd64::/64",
    "peers": [{"node": f"h{n}", "vtep": f"10.99.0.{n}", "block": f"fd64::{n}00/120"} for n in (1, 2)],
}


def asked(keys: dict[str, Any], last: int = 1) -> Request:
    """Return the request that the IPAM plugin of a host gets."""
    overlay = parsed(**keys)
    return ipam_request(request(keys=keys), overlay, local_host(overlay, last))


def offered(overlay: Overlay, last: int = 1) -> set[str]:
    """Return what host-local would give out for a host, by host-local's own reading."""
    told = ipam_request(request(), overlay, local_host(overlay, last))
    sets = parse_hostlocal(told).sets
    return {str(item.interface(number).ip) for ranges in sets for item, number in candidates(ranges, None)}


# ---------------------------------------------------------------------------------------- what IPAM is told


def test_host_local_is_the_default() -> None:
    assert ipam_type(request()) == "host-local"
    assert ipam_type(request(keys={"ipam": {}})) == "host-local"
    assert ipam_type(request(keys={"ipam": {"type": ""}})) == "host-local"
    assert ipam_type(request(keys={"ipam": {"type": "static"}})) == "static"


@pytest.mark.parametrize(
    ("keys", "ranges"),
    [
        ({}, [[{"subnet": "10.244.1.0/24", "gateway": "10.244.1.1"}]]),
        (
            DUAL,
            [
                [{"subnet": "10.244.1.0/24", "gateway": "10.244.1.1"}],
                [{"subnet": "fd00:1::/64", "gateway": "fd00:1::1"}],
            ],
        ),
        (
            STRETCHED,
            [
                [
                    {
                        "subnet": "192.168.100.0/24",
                        "rangeStart": "192.168.100.3",
                        "rangeEnd": "192.168.100.15",
                        "gateway": "192.168.100.1",
                    }
                ]
            ],
        ),
    ],
)
def test_ranges_are_filled_in(keys: dict[str, Any], ranges: list[Any]) -> None:
    told = asked({**keys, "ipam": {"dataDir": "/run/x", "routes": [{"dst": "192.0.2.0/24"}]}})
    expected = {"type": "host-local", "dataDir": "/run/x", "routes": [{"dst": "192.0.2.0/24"}]}
    assert told.conf["ipam"] == {**expected, "ranges": ranges}
    assert json.loads(told.stdin) == told.conf


def test_the_rest_of_the_request_stays() -> None:
    given = request(keys={"runtimeConfig": {"ips": ["10.244.1.9"]}}, args="IP=10.244.1.9")
    overlay = parsed()
    told = ipam_request(given, overlay, local_host(overlay))
    assert told._replace(conf={}, stdin=b"") == given._replace(conf={}, stdin=b"")
    assert {key for key in told.conf if key != "ipam"} == {key for key in given.conf if key != "ipam"}
    assert told.conf["runtimeConfig"] == {"ips": ["10.244.1.9"]}


@pytest.mark.parametrize(
    "keys",
    [
        {"ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.1.0/25"}]]}},
        {"ipam": {"RANGES": [[{"subnet": "10.244.1.0/25"}]]}},
        {"ipam": {"subnet": "10.244.1.0/25"}},
        {"runtimeConfig": {"ipRanges": [[{"subnet": "10.244.1.0/25"}]]}},
    ],
)
def test_given_ranges_stay(keys: dict[str, Any]) -> None:
    told = asked(keys)
    assert parse_hostlocal(told).sets[0][0].last == int(ip_address("10.244.1.126"))
    assert len(parse_hostlocal(told).sets) == 1


def test_empty_ranges_are_none() -> None:
    assert asked({"ipam": {"ranges": [], "type": None}}).conf["ipam"]["ranges"]


@pytest.mark.parametrize("kind", ["static", "dhcp", "elsewhere"])
def test_other_ipam_plugins_are_told_nothing(kind: str) -> None:
    given = request(keys={"ipam": {"type": kind, "addresses": []}})
    overlay = parsed(ipam={"type": kind})
    assert ipam_request(given, overlay, local_host(overlay)) is given


def test_del_and_gc_need_no_ranges() -> None:
    for broken in ({}, {"ipam": "x"}, {"ipam": None}, {"ipam": {"dataDir": "/run/x"}}, {"IPAM": []}):
        told = ipam_request(request("DEL", keys=broken), None, None)
        ipam = told.conf["ipam"]
        assert ipam["type"] == "host-local"
        assert "ranges" not in ipam
        assert [key for key in told.conf if key.lower() == "ipam"] == ["ipam"]


@pytest.mark.parametrize(
    "keys",
    [
        {**HEAD_END, "peers": BARE},
        {**HEAD_END, "bum": None, "backend": {"type": "multicast", "group": "239.7.7.7"}},
        {**HEAD_END, "peers": BARE, "backend": {"block": "192.168.100.0/31"}},
    ],
)
def test_a_host_that_has_nothing_to_give_out(keys: dict[str, Any]) -> None:
    keys = {**keys, "underlay": {"interface": "eth0"}}
    with pytest.raises(InvalidNetworkConfig, match="no addresses to give out"):
        asked(keys)
    given = {"subnet": "192.168.100.0/24", "rangeStart": "192.168.100.40", "rangeEnd": "192.168.100.49"}
    assert parse_hostlocal(asked({**keys, "ipam": {"ranges": [[given]]}})).sets


@pytest.mark.timeout(5)
@pytest.mark.parametrize(
    ("subnet", "block", "first"),
    [("10.0.0.0/8", "10.0.0.0/9", "10.0.0.3"), ("fd64::/48", "fd64::/64", "fd64::3")],
)
def test_a_block_may_be_larger_than_what_can_be_counted_through(subnet: str, block: str, first: str) -> None:
    group = {"type": "multicast", "group": "239.7.7.7", "block": block}
    keys = {"mode": "l2", "subnet": subnet, "backend": group, "underlay": {"address": "192.0.2.1"}}
    overlay = parsed(**keys)
    here = find(overlay, facts(link("eth0", "192.0.2.1/24")))
    told = ipam_request(request(keys=keys), overlay, here)
    ((item,),) = told.conf["ipam"]["ranges"]
    assert item["rangeStart"] == first
    assert ip_address(item["rangeEnd"]) in ip_network(block)


# ---------------------------------------------------------------------------------------------- any blocks


@st.composite
def stretched(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a stretched subnet of two hosts with blocks anywhere, and a gateway anywhere."""
    length = draw(st.integers(23, 28))
    subnet = IPv4Network(("192.168.100.0", length))
    parts = list(subnet.subnets(new_prefix=draw(st.integers(length + 1, 30))))
    chosen = draw(st.lists(st.sampled_from(parts), unique=True, min_size=2, max_size=5))
    own, other = chosen[:-1], chosen[-1:]
    gateway = draw(st.integers(1, subnet.num_addresses - 2))
    peers = [
        {"node": f"h{n}", "vtep": f"10.99.0.{n}", "blocks": list(map(str, blocks))}
        for n, blocks in ((1, own), (2, other))
    ]
    twins = draw(st.sampled_from([[], ["fd64::/64"], ["fd64::/112"]]))
    return {
        "mode": "l2",
        "subnet": [str(subnet), *twins],
        "gateway": str(subnet.network_address + gateway),
        "peers": peers,
    }


@settings(max_examples=40)
@given(stretched())
def test_what_is_given_out_is_of_the_own_blocks_and_nobodys_address(keys: dict[str, Any]) -> None:
    overlay = parsed(**keys)
    subnet = overlay.config.within[0]
    nodes = {last: node_address(overlay, local_host(overlay, last).own.blocks, subnet) for last in (1, 2)}
    for last in (1, 2):
        own = local_host(overlay, last).own.blocks
        usable = {address for block in own for address in addresses_of(overlay, block)}
        node = nodes[last]
        never = {overlay.gateway(subnet), subnet.network_address, subnet.broadcast_address}
        assert not usable & never
        assert node is None or node.ip in usable
        try:
            given_out = set(map(ip_address, offered(overlay, last)))
        except InvalidNetworkConfig:
            given_out = set()
        assert given_out == usable - ({node.ip} if node else set())


@settings(max_examples=40)
@given(stretched())
def test_a_host_that_has_addresses_has_one_itself(keys: dict[str, Any]) -> None:
    overlay = parsed(**keys)
    blocks = local_host(overlay).own.blocks
    has_any = any(True for block in blocks for _ in addresses_of(overlay, block))
    assert (node_address(overlay, blocks, overlay.config.within[0]) is not None) == has_any


@settings(max_examples=40)
@given(st.integers(1, 254), st.integers(24, 30))
def test_what_a_routed_host_gives_out(third: int, length: int) -> None:
    subnet = IPv4Network((f"10.244.{third}.0", length), strict=False)
    overlay = parsed(peers=[{"node": "h1", "vtep": "10.99.0.1", "subnet": str(subnet)}])
    given_out = set(map(ip_address, offered(overlay)))
    never = {subnet.network_address, subnet.network_address + 1, subnet.broadcast_address}
    assert given_out == set(subnet) - never


@settings(max_examples=40)
@given(stretched())
def test_twins_are_one_to_one_and_no_hosts_own(keys: dict[str, Any]) -> None:
    overlay = parsed(**keys)
    subnet, *others = overlay.config.within
    all_of_them = [twin(overlay, address) for address in subnet]
    if not others:
        assert set(all_of_them) == {None}
        return
    assert len(set(all_of_them)) == subnet.num_addresses
    assert all(address in others[0] for address in all_of_them)
    assert twin(overlay, overlay.gateway(subnet)) == overlay.gateway(others[0])
    containers = {twin(overlay, ip_address(text)) for text in map(str, subnet) if ip_address(text) in subnet}
    assert containers == set(all_of_them)
    usable = (
        twin(overlay, a) for block in local_host(overlay).own.blocks for a in addresses_of(overlay, block)
    )
    assert overlay.gateway(others[0]) not in set(usable)


def test_a_twin_has_none_itself() -> None:
    overlay = parsed(**DUAL_STRETCHED)
    assert twin(overlay, ip_address("192.168.100.18")) == ip_address("fd64::12")
    assert twin(overlay, ip_address("fd64::12")) is None


def test_the_hosts_own_address_in_each_family() -> None:
    overlay = parsed(**DUAL_STRETCHED)
    nodes = [node_address(overlay, local_host(overlay, 2).own.blocks, net) for net in overlay.config.within]
    assert nodes == [ip_interface("192.168.100.16/24"), ip_interface("fd64::10/64")]


def test_networks_of_the_own_gateways() -> None:
    for keys, expected in (
        ({}, ["10.244.1.0/24"]),
        (DUAL, ["10.244.1.0/24", "fd00:1::/64"]),
        (DUAL_STRETCHED, ["192.168.100.0/24", "fd64::/64"]),
    ):
        overlay = parsed(**keys)
        assert [str(network) for network in own_networks(overlay, local_host(overlay))] == expected


# ---------------------------------------------------------------------------------------- what IPAM answers


def leased(*addresses: str, routes: tuple[Route, ...] = ()) -> Result:
    return Result(ips=tuple(IPConfig(ip_interface(text)) for text in addresses), routes=routes)


def effect(keys: dict[str, Any], *addresses: str, **more: Any) -> Result:
    overlay = parsed(**keys)
    return in_effect(overlay, local_host(overlay), leased(*addresses, **more))


def shown(result: Result) -> list[tuple[str, str]]:
    return [(str(ip.address), str(ip.gateway)) for ip in result.ips]


def test_gateway_and_length_are_the_overlays() -> None:
    assert shown(effect({}, "10.244.1.5/32")) == [("10.244.1.5/24", "10.244.1.1")]
    assert shown(effect(DUAL, "10.244.1.5/24", "fd00:1::5/64")) == [
        ("10.244.1.5/24", "10.244.1.1"),
        ("fd00:1::5/64", "fd00:1::1"),
    ]


def with_gateway(gateway: str) -> Result:
    lease = leased("10.244.1.5/24")
    return lease._replace(ips=(lease.ips[0]._replace(gateway=ip_address(gateway)),))


def test_a_gateway_that_is_not_the_overlays_is_refused() -> None:
    """What the IPAM plugin names would be nobody, or a container."""
    overlay = parsed(ipam={"type": "static"})
    told = in_effect(overlay, local_host(overlay), with_gateway("10.244.1.1"))
    assert shown(told) == [("10.244.1.5/24", "10.244.1.1")]
    message = "gateway 10.244.1.9 of address 10.244.1.5 is not the overlay's, 10.244.1.1"
    with pytest.raises(InvalidNetworkConfig, match=message):
        in_effect(overlay, local_host(overlay), with_gateway("10.244.1.9"))


def test_a_gateway_that_host_local_made_up_is_replaced() -> None:
    """It does for ranges that name none, and their first address need not be the overlay's gateway."""
    overlay = parsed()
    told = in_effect(overlay, local_host(overlay), with_gateway("10.244.1.129"))
    assert shown(told) == [("10.244.1.5/24", "10.244.1.1")]


def test_a_stretched_address_brings_its_twin() -> None:
    result = effect(DUAL_STRETCHED, "192.168.100.5/24")
    assert shown(result) == [("192.168.100.5/24", "192.168.100.1"), ("fd64::5/64", "fd64::1")]
    assert effect(DUAL_STRETCHED, "192.168.100.5/24", "fd64::5/64").ips == result.ips


@pytest.mark.parametrize("keys", [{}, DUAL, STRETCHED, DUAL_STRETCHED])
def test_what_is_in_effect_stays_so(keys: dict[str, Any]) -> None:
    """CHECK reads it from prevResult."""
    lease = {"": "10.244.1.5/24", "l2": "192.168.100.5/24"}[keys.get("mode", "")]
    once = effect(keys, lease)
    overlay = parsed(**keys)
    assert in_effect(overlay, local_host(overlay), once) == once


def test_default_routes_are_added_where_there_are_none() -> None:
    added = effect(DUAL, "10.244.1.5/24", "fd00:1::5/64").routes
    assert added == (
        Route(ip_interface("0.0.0.0/0"), ip_address("10.244.1.1")),
        Route(ip_interface("::/0"), ip_address("fd00:1::1")),
    )
    own = (Route(ip_interface("0.0.0.0/0"), ip_address("10.244.1.9")),)
    assert effect({}, "10.244.1.5/24", routes=own).routes == own
    assert effect({"isDefaultGateway": False}, "10.244.1.5/24").routes == ()


def test_no_lease_has_no_effect() -> None:
    for keys in ({}, STRETCHED, DUAL_STRETCHED):
        assert effect(keys) == Result()


REFUSED: list[tuple[dict[str, Any], list[str], str]] = [
    ({}, ["10.244.2.5/24"], "address 10.244.2.5 is not in a network of this host: peers would not find it"),
    ({}, ["192.0.2.5/24"], "address 192.0.2.5 is not in a network of this host"),
    ({}, ["10.244.1.5/24", "fd00:1::5/64"], "address fd00:1::5 is not in a network of this host"),
    ({}, ["10.244.1.1/24"], "address 10.244.1.1 is the host's own"),
    ({}, ["10.244.1.0/24"], "address 10.244.1.0 is the host's own"),
    ({}, ["10.244.1.255/24"], "address 10.244.1.255"),
    (STRETCHED, ["192.168.101.5/24"], "address 192.168.101.5 is not in a network of this host"),
    (STRETCHED, ["192.168.100.1/24"], "address 192.168.100.1 is the host's own"),
    (STRETCHED, ["192.168.100.2/24"], "address 192.168.100.2 is the host's own"),
    (STRETCHED, ["192.168.100.18/24"], "address 192.168.100.18 is not in a block of this host"),
    (STRETCHED, ["192.168.100.5/24", "192.168.100.6/24"], "address 192.168.100.6 beside 192.168.100.5"),
    (STRETCHED, ["192.168.100.5/24", "192.168.100.18/24"], "address 192.168.100.18 beside 192.168.100.5"),
    (DUAL_STRETCHED, ["192.168.100.5/24", "fd64::6/64"], "address fd64::6 beside 192.168.100.5"),
    (DUAL_STRETCHED, ["192.168.100.5/24", "fd65::5/64"], "address fd65::5 is not in a network of this host"),
    (DUAL_STRETCHED, ["192.168.100.5/24", "fd64::2/64"], "address fd64::2 is the host's own"),
    (DUAL_STRETCHED, ["fd64::5/64"], "address fd64::5 is not in a block of this host"),
    ({**STRETCHED, "bum": "head-end"}, ["192.168.100.2/24"], "address 192.168.100.2 is the host's own"),
    ({**STRETCHED, "bum": "head-end"}, ["192.168.100.255/24"], "address 192.168.100.255"),
    (V6_STRETCHED, ["fd64::100/64"], "address fd64::100 is the host's own"),
    (V6_STRETCHED, ["fd64::201/64"], "address fd64::201 is not in a block of this host"),
]


@pytest.mark.parametrize(("keys", "addresses", "message"), REFUSED)
def test_an_address_that_peers_would_not_find_is_refused(
    keys: dict[str, Any], addresses: list[str], message: str
) -> None:
    with pytest.raises(InvalidNetworkConfig) as caught:
        effect(keys, *addresses)
    assert message in caught.value.msg
    assert caught.value.details


def test_where_hosts_learn_any_address_of_the_subnet_will_do() -> None:
    keys = {**HEAD_END, "peers": BLOCKS}
    assert len(effect(keys, "192.168.100.77/24", "192.168.100.78/24").ips) == 2


def test_a_group_needs_no_record_of_a_host() -> None:
    overlay = parsed(backend=GROUP, underlay={"interface": "eth0"})
    lease = in_effect(overlay, local_host(overlay), leased("10.244.1.5/24"))
    assert shown(lease) == [("10.244.1.5/24", "10.244.1.1")]


@settings(max_examples=40)
@given(st.integers(0, 255))
def test_only_addresses_of_the_own_block_are_taken(last: int) -> None:
    address = f"192.168.100.{last}"
    overlay = parsed(**STRETCHED)
    own = local_host(overlay).own.blocks
    usable = {a for block in own for a in addresses_of(overlay, block)} - {IPv4Address("192.168.100.2")}
    try:
        in_effect(overlay, local_host(overlay), leased(f"{address}/24"))
    except InvalidNetworkConfig:
        assert ip_address(address) not in usable
    else:
        assert ip_address(address) in usable
