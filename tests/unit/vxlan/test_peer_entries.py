"""From all hosts to what the kernel of one holds: every peer once, oneself never."""

from collections import Counter
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cni_plugins.contract.facts import NextHop
from cni_plugins.errors import InvalidNetworkConfig
from cni_plugins.steps.overlay import FLOOD, EnsurePeers, PeerRoute
from cni_plugins.vxlan.addressing import addresses_of, twin
from cni_plugins.vxlan.config import Overlay
from cni_plugins.vxlan.identity import ContainerMacs, vtep_mac
from cni_plugins.vxlan.local_host import LocalHost
from cni_plugins.vxlan.peer_entries import peer_entries
from tests.unit.vxlan.hosts import (
    BARE,
    BLOCKS,
    DUAL_PEERS,
    DUAL_STRETCHED,
    GROUP,
    PEERS,
    STRETCHED,
    local_host,
    parsed,
)

H2, H3 = ip_address("10.99.0.2"), ip_address("10.99.0.3")
NEAR = NextHop("eth0", None, ip_address("10.99.0.1"))
FAR = NextHop("eth0", ip_address("10.99.0.254"), ip_address("10.99.0.1"))


def seen(ways: Any = None, **keys: Any) -> EnsurePeers:
    overlay = parsed(**keys)
    return peer_entries(overlay, local_host(overlay), ways or {})


def test_a_routed_host() -> None:
    assert seen() == EnsurePeers(
        "net1",
        "vx25",
        fdb=(("02:fe:0a:63:00:02", H2), ("02:fe:0a:63:00:03", H3)),
        at="vx25",
        neighbours=(
            (ip_address("10.244.2.0"), "02:fe:0a:63:00:02"),
            (ip_address("10.244.3.0"), "02:fe:0a:63:00:03"),
        ),
        routes=(
            PeerRoute(ip_network("10.244.2.0/24"), "vx25", ip_address("10.244.2.0"), 1450, onlink=True),
            PeerRoute(ip_network("10.244.3.0/24"), "vx25", ip_address("10.244.3.0"), 1450, onlink=True),
            PeerRoute(ip_network("10.244.1.0/24")),
            PeerRoute(ip_network("10.244.0.0/16")),
        ),
    )


def test_both_families_of_a_peer_go_to_its_one_mac_address() -> None:
    told = seen(network=["10.244.0.0/16", "fd00::/16"], peers=DUAL_PEERS)
    assert len(told.fdb) == 2
    assert [str(address) for address, mac in told.neighbours if mac == "02:fe:0a:63:00:02"] == [
        "10.244.2.0",
        "fd00:2::",
    ]
    assert [str(route.dst) for route in told.routes if not route.link] == [
        "10.244.1.0/24",
        "fd00:1::/64",
        "10.244.0.0/16",
        "fd00::/16",
    ]


def test_a_peers_own_mac_address_and_mtu_count() -> None:
    peers = [PEERS[0], {**PEERS[1], "mac": "02:00:00:00:00:42", "mtu": 1400}, {**PEERS[2], "mtu": 9000}]
    told = seen(peers=peers)
    assert told.fdb[0] == ("02:00:00:00:00:42", H2)
    assert told.neighbours[0][1] == "02:00:00:00:00:42"
    assert [route.mtu for route in told.routes] == [1350, 1350, 0, 0]
    assert [route.mtu for route in seen(peers=peers, mtu=1450).routes] == [1350, 1450, 0, 0]


def test_hosts_that_know_addresses_alone_ask_all_of_them() -> None:
    told = seen(peers=BARE, backend={"subnet": "10.244.1.0/24"})
    assert told.fdb == ((FLOOD, H2), (FLOOD, H3))
    assert told.neighbours == ()
    assert told.routes == (
        PeerRoute(ip_network("10.244.0.0/16"), "vx25", mtu=1450),
        PeerRoute(ip_network("10.244.1.0/24")),
    )


DROPPED = (PeerRoute(ip_network("192.168.100.0/24")),)


def test_a_group_needs_no_entries() -> None:
    told = seen(backend=GROUP, underlay={"interface": "eth0"})
    assert (told.fdb, told.neighbours, told.behind) == ((), (), ())
    stretched = {"type": "multicast", "group": "239.7.7.7", "block": "192.168.100.0/28"}
    told = seen(**{**STRETCHED, "backend": stretched}, underlay={"interface": "eth0"})
    assert told == EnsurePeers("net1", "vx25", at="vxbr25", routes=DROPPED)


def test_a_stretched_host() -> None:
    peers = [BLOCKS[0], {**BLOCKS[1], "block": "192.168.100.16/31"}]
    told = seen(**{**DUAL_STRETCHED, "backend": {}}, peers=peers)
    macs = [ContainerMacs(77).of(ip_address(f"192.168.100.{n}")) for n in (16, 17)]
    assert told == EnsurePeers(
        "net1",
        "vx25",
        fdb=((macs[0], H2), (macs[1], H2)),
        behind=tuple(macs),
        at="vxbr25",
        neighbours=(
            (ip_address("192.168.100.16"), macs[0]),
            (ip_address("192.168.100.17"), macs[1]),
            (ip_address("fd64::10"), macs[0]),
            (ip_address("fd64::11"), macs[1]),
        ),
        routes=(*DROPPED, PeerRoute(ip_network("fd64::/64"))),
    )


def test_a_flooding_host() -> None:
    told = seen(**STRETCHED, bum="head-end")
    fdb = ((FLOOD, H2), (FLOOD, H3))
    assert told == EnsurePeers("net1", "vx25", fdb=fdb, at="vxbr25", routes=DROPPED)


@pytest.mark.parametrize("holder", [0, 1])
def test_a_host_may_have_the_whole_network(holder: int) -> None:
    """Of a family: the host that has it needs one dead end, and the others none."""
    peers = [{**peer, "subnets": peer["subnets"][:1]} for peer in DUAL_PEERS]
    peers[holder]["subnets"] = [*peers[holder]["subnets"], "fd00::/16"]
    told = seen(network=["10.244.0.0/16", "fd00::/16"], peers=peers)
    (whole,) = (route for route in told.routes if str(route.dst) == "fd00::/16")
    assert whole.link == ("vx25" if holder else "")


def test_the_only_host() -> None:
    dead_ends = tuple(map(PeerRoute, map(ip_network, ("10.244.1.0/24", "10.244.0.0/16"))))
    assert seen(peers=PEERS[:1]).routes == dead_ends
    assert seen(**{**STRETCHED, "backend": {}}, peers=BLOCKS[:1]).fdb == ()


# --------------------------------------------------------------------------------------------- direct routes


@pytest.mark.parametrize("ways", [{}, {H2: NEAR, H3: NEAR}])
def test_ways_do_not_matter_unless_asked_for(ways: Any) -> None:
    assert seen(ways) == seen()


def test_peers_behind_no_gateway_get_plain_routes() -> None:
    told = seen({H2: NEAR, H3: FAR}, directRouting="same-subnet")
    assert told.routes[:2] == (
        PeerRoute(ip_network("10.244.2.0/24"), "eth0", H2),
        PeerRoute(ip_network("10.244.3.0/24"), "vx25", ip_address("10.244.3.0"), 1450, onlink=True),
    )
    assert told.fdb == (("02:fe:0a:63:00:03", H3),)
    assert [address for address, _ in told.neighbours] == [ip_address("10.244.3.0")]


def test_a_peer_that_is_not_reachable_at_all_is_encapsulated_all_the_same() -> None:
    assert len(seen({H2: NEAR}, directRouting="same-subnet").fdb) == 1


def test_the_other_family_of_a_near_peer_goes_through_the_tunnel() -> None:
    keys = {"network": ["10.244.0.0/16", "fd00::/16"], "peers": DUAL_PEERS}
    told = seen({H2: NEAR, H3: NEAR}, **keys, directRouting="same-subnet")
    assert [(str(route.dst), route.link) for route in told.routes if route.link] == [
        ("10.244.2.0/24", "eth0"),
        ("fd00:2::/64", "vx25"),
        ("10.244.3.0/24", "eth0"),
        ("fd00:3::/64", "vx25"),
    ]


def test_without_any_tunnel() -> None:
    told = seen({H2: NEAR, H3: NEAR}, directRouting="always")
    assert (told.vxlan, told.at, told.fdb, told.neighbours) == ("", "", (), ())
    assert [route.link for route in told.routes] == ["eth0", "eth0", "", ""]


@pytest.mark.parametrize(
    ("ways", "keys", "message"),
    [
        ({H2: NEAR}, {}, "peer h3 (10.99.0.3) is not reachable"),
        ({H2: NEAR, H3: FAR}, {}, "peer h3 (10.99.0.3) is behind gateway 10.99.0.254"),
        (
            {H2: NEAR, H3: NEAR},
            {"network": ["10.244.0.0/16", "fd00::/16"], "peers": DUAL_PEERS},
            "peer h2 (10.99.0.2) has an IPv4 address, but its subnet fd00:2::/64 is IPv6",
        ),
    ],
)
def test_what_cannot_be_reached_without_a_tunnel(ways: Any, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidNetworkConfig) as caught:
        seen(ways, directRouting="always", **keys)
    assert message in caught.value.msg


# ------------------------------------------------------------------------------------------------- any hosts


@st.composite
def fleets(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Draw routed hosts, each with one subnet or one of each family, in any order."""
    numbers = draw(st.lists(st.integers(1, 254), unique=True, min_size=1, max_size=12))
    return [
        {
            "node": f"h{number}",
            "vtep": f"10.99.0.{number}",
            "subnets": [f"10.244.{number}.0/24", *([f"fd00:{number}::/64"] if draw(st.booleans()) else [])],
            **({"mac": f"02:00:00:00:00:{number:02x}"} if draw(st.booleans()) else {}),
            **({"mtu": draw(st.integers(1400, 9000))} if draw(st.booleans()) else {}),
        }
        for number in numbers
    ]


DUAL_NET = {"network": ["10.244.0.0/16", "fd00::/16"]}


def of_host(overlay: Overlay, record: dict[str, Any]) -> LocalHost:
    return local_host(overlay, int(record["vtep"].split(".")[-1]))


@settings(max_examples=30)
@given(fleets())
def test_each_peers_subnets_are_in_one_route_and_lead_to_it(peers: list[dict[str, Any]]) -> None:
    overlay = parsed(peers=peers, **DUAL_NET)
    for own in peers:
        here = of_host(overlay, own)
        told = peer_entries(overlay, here, {})
        fdb, neighbours = dict(told.fdb), dict(told.neighbours)
        assert len(fdb) == len(told.fdb)
        assert len(neighbours) == len(told.neighbours)
        routes = Counter(str(route.dst) for route in told.routes)
        subnets = Counter(subnet for record in peers for subnet in record["subnets"])
        assert routes == subnets + Counter(DUAL_NET["network"])
        assert {PeerRoute(network) for network in overlay.config.within} <= set(told.routes)
        for route in (route for route in told.routes if str(route.dst) in subnets):
            (holder,) = (record for record in peers if str(route.dst) in record["subnets"])
            if holder is own:
                assert route == PeerRoute(route.dst)
                continue
            assert (route.link, route.via, route.onlink) == (overlay.vxlan, route.dst.network_address, True)
            mac = neighbours[route.dst.network_address]
            assert mac == holder.get("mac", vtep_mac(ip_address(holder["vtep"])))
            assert str(fdb[mac]) == holder["vtep"]
            assert 0 < route.mtu <= here.inner_mtu
        assert ip_address(own["vtep"]) not in fdb.values()
        assert here.mac not in fdb


@settings(max_examples=30)
@given(fleets(), st.data())
def test_the_order_of_the_records_does_not_matter(peers: list[dict[str, Any]], data: st.DataObject) -> None:
    other = data.draw(st.permutations(peers))
    one, two = (
        peer_entries(overlay, of_host(overlay, peers[0]), {})
        for overlay in (parsed(peers=peers, **DUAL_NET), parsed(peers=other, **DUAL_NET))
    )
    for field in ("fdb", "neighbours", "routes", "behind"):
        assert set(getattr(one, field)) == set(getattr(two, field))
        assert len(getattr(one, field)) == len(getattr(two, field))


@settings(max_examples=30)
@given(fleets())
def test_two_hosts_agree_on_each_others_addresses(peers: list[dict[str, Any]]) -> None:
    """What one host calls its own MAC address is what the others send to."""
    overlay = parsed(peers=peers, **DUAL_NET)
    for own in peers:
        here = of_host(overlay, own)
        for other in (record for record in peers if record is not own):
            told = dict(peer_entries(overlay, of_host(overlay, other), {}).fdb)
            assert told[here.mac] == here.local


@st.composite
def stretched_fleets(draw: st.DrawFn) -> tuple[str, list[dict[str, Any]]]:
    """Draw hosts with blocks of a stretched subnet of IPv4, or of IPv6."""
    whole = draw(st.sampled_from([IPv4Network("192.168.100.0/24"), IPv6Network("fd64::/120")]))
    parts = list(whole.subnets(new_prefix=draw(st.integers(whole.prefixlen + 2, whole.max_prefixlen - 2))))
    chosen = draw(st.lists(st.sampled_from(parts), unique=True, min_size=2, max_size=6))
    hosts = draw(st.integers(1, len(chosen)))
    peers = [
        {"node": f"h{n + 1}", "vtep": f"10.99.0.{n + 1}", "blocks": list(map(str, chosen[n::hosts]))}
        for n in range(hosts)
    ]
    return str(whole), draw(st.permutations(peers))


@settings(max_examples=40)
@given(stretched_fleets(), st.booleans())
def test_each_address_of_a_peer_is_in_one_entry_and_leads_to_it(
    fleet: tuple[str, list[dict[str, Any]]], dual: bool
) -> None:
    subnet, peers = fleet
    dual = dual and ":" not in subnet
    overlay = parsed(mode="l2", subnet=[subnet, *(["fd65::/64"] if dual else [])], peers=peers)
    for own in peers:
        here = of_host(overlay, own)
        told = peer_entries(overlay, here, {})
        fdb, neighbours = dict(told.fdb), dict(told.neighbours)
        assert len(fdb) == len(told.fdb)
        assert len(neighbours) == len(told.neighbours)
        assert set(told.behind) == set(fdb)
        expected = {
            address: str(peer.vtep)
            for peer in here.others
            for block in peer.blocks
            for address in addresses_of(overlay, block)
        }
        assert {a: str(fdb[neighbours[a]]) for a in expected} == expected
        twins = {twin(overlay, address) for address in expected} if dual else set()
        assert set(neighbours) == set(expected) | twins
        assert all(neighbours[address] == neighbours[twin(overlay, address)] for address in expected if dual)
        gateways = {overlay.gateway(net) for net in overlay.config.within}
        assert not gateways & set(neighbours)
        mine = {a for block in here.own.blocks for a in addresses_of(overlay, block)}
        assert not mine & set(neighbours)
        assert not {ContainerMacs(overlay.vni).of(address) for address in mine} & set(fdb)


@settings(max_examples=40)
@given(stretched_fleets())
def test_flooding_goes_to_every_peer_once(fleet: tuple[str, list[dict[str, Any]]]) -> None:
    subnet, peers = fleet
    overlay = parsed(mode="l2", subnet=subnet, bum="head-end", peers=peers)
    for own in peers:
        told = peer_entries(overlay, of_host(overlay, own), {})
        assert {mac for mac, _ in told.fdb} <= {FLOOD}
        assert Counter(str(vtep) for _, vtep in told.fdb) == Counter(
            record["vtep"] for record in peers if record is not own
        )
