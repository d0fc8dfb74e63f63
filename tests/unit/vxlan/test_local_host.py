"""A host's place in an overlay: its address, its record, its MTU."""

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from cni_plugins.contract.facts import LinkFacts, NextHop
from cni_plugins.errors import InvalidNetworkConfig
from cni_plugins.ownership import OVERLAY_ALIAS, network_tag
from cni_plugins.vxlan.local_host import LocalHost, clashes, find, is_of
from tests.unit.vxlan.hosts import BARE, BLOCKS, GROUP, PEERS, STRETCHED, facts, link, parsed

OURS = f"{OVERLAY_ALIAS}{network_tag('net1')} net: net1"
GROUP_6 = {**GROUP, "group": "ff05::7:7"}


def found(*links: LinkFacts, default: LinkFacts | None = None, ways: Any = (), **keys: Any) -> LocalHost:
    known = {ip_address(to): NextHop("eth0", None, ip_address(source)) for to, source in ways}
    return find(parsed(**keys), facts(*links, default_route=default, routes_to=known))


ETH0, ETH1 = link("eth0", "10.99.0.1/24"), link("eth1", "172.16.0.1/24", index=3)
BOTH = link("eth0", "10.99.0.1/24"), link("eth1", "10.99.0.2/24", index=3)


def test_the_address_that_is_a_peers_vtep_is_the_own_one() -> None:
    here = found(ETH1, link("lo", "127.0.0.1/8", "10.9.9.9/32"), ETH0)
    assert (here.link, here.local, here.own.node) == ("eth0", ip_address("10.99.0.1"), "h1")
    assert [peer.node for peer in here.others] == ["h2", "h3"]
    assert here.mac == "02:fe:0a:63:00:01"


def test_the_records_own_mac_address_comes_before_the_computed_one() -> None:
    peers = [{**PEERS[0], "mac": "02:00:00:00:00:42"}, *PEERS[1:]]
    assert found(ETH0, peers=peers).mac == "02:00:00:00:00:42"


@pytest.mark.parametrize(
    ("keys", "chosen"),
    [
        ({"underlay": {"interface": "eth1"}}, "eth1"),
        ({"underlay": {"cidr": "10.99.0.2/32"}}, "eth1"),
        ({"underlay": {"address": "10.99.0.1"}}, "eth0"),
        ({"underlay": {"canReach": "192.0.2.9"}, "ways": [("192.0.2.9", "10.99.0.2")]}, "eth1"),
        ({"backend": {"self": "h2"}}, "eth1"),
    ],
)
def test_where_several_would_do_the_config_says_which(keys: dict[str, Any], chosen: str) -> None:
    assert found(*BOTH, **keys).link == chosen


@pytest.mark.parametrize(
    ("links", "keys", "message"),
    [
        (BOTH, {}, "ambiguous underlay: 10.99.0.1 (eth0), 10.99.0.2 (eth1)"),
        (BOTH, {"underlay": {"cidr": "10.99.0.0/24"}}, "ambiguous underlay: "),
        ([ETH1], {}, "no underlay: this host has no address that is the VTEP of a peer"),
        ([link("lo", "127.0.0.1/8")], {}, "no underlay: this host has no address that is the VTEP of a peer"),
        ([ETH0], {"backend": {"self": "h2"}}, "no address that is the VTEP of peer h2"),
        ([ETH0], {"backend": {"self": "h9"}}, "there is no peer h9"),
        ([ETH0], {"backend": {"self": "H1"}}, "there is no peer H1"),
        ([ETH0], {"underlay": {"interface": "eth7"}}, "no address on eth7 that is the VTEP of a peer"),
        ([ETH0], {"underlay": {"cidr": "10.98.0.0/16"}}, "no address in 10.98.0.0/16 that is the VTEP"),
        ([ETH0], {"underlay": {"address": "10.99.0.7"}}, "no address 10.99.0.7 that is the VTEP of a peer"),
        ([ETH0], {"underlay": {"canReach": "192.0.2.9"}}, "no address from which it reaches 192.0.2.9"),
        ([ETH0], {"backend": GROUP}, "no address on the link of its default route"),
        (
            [link("lo", "127.0.0.1/8", loopback=True)],
            {"backend": GROUP, "underlay": {"interface": "lo"}},
            "no address on lo",
        ),
        ([ETH0], {"backend": GROUP_6, "underlay": {"interface": "eth0"}}, "no address on eth0"),
        (
            [link("eth0", "169.254.1.1/16")],
            {"peers": ["169.254.1.1"], "backend": {"subnet": "10.244.1.0/24"}},
            "vtep 169.254.1.1 is a link-local address",
        ),
        ([link("vxbr1", "10.99.0.1/24", alias=OURS)], {}, "no underlay"),
    ],
)
def test_a_host_without_a_place(links: Any, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidNetworkConfig) as caught:
        found(*links, **keys)
    assert message in caught.value.msg
    assert caught.value.details


def test_an_error_says_what_the_host_has() -> None:
    with pytest.raises(InvalidNetworkConfig) as caught:
        found(ETH1)
    assert caught.value.details == "eth1 has 172.16.0.1/24"
    with pytest.raises(InvalidNetworkConfig) as caught:
        find(parsed(), facts()._replace(addressed=()))
    assert caught.value.details == "it has no addresses"


def test_one_address_at_two_links_is_ambiguous_too() -> None:
    other = link("eth1", "10.99.0.1/32", index=3)
    with pytest.raises(InvalidNetworkConfig, match="ambiguous underlay"):
        found(ETH0, other)
    assert found(ETH0, other, underlay={"interface": "eth1"}).link == "eth1"


def test_an_address_of_the_underlay_may_be_a_second_one() -> None:
    """As of a cloud's hosts, whose second address is of the same subnet."""
    both = link("eth0", "10.99.0.77/24", "10.99.0.1/24")
    second = both._replace(main_addresses=both.addresses[:1])
    assert found(second).local == ip_address("10.99.0.1")


# ------------------------------------------------------------------------------------------- without a list


def test_a_group_is_reached_by_the_default_routes_link() -> None:
    both = link("eth0", "10.99.0.1/24", "2001:db8::1/64")
    assert found(ETH1, both, default=both, backend=GROUP).local == ip_address("10.99.0.1")
    assert found(ETH1, both, default=both, backend=GROUP_6).local == ip_address("2001:db8::1")
    here = found(ETH1, both, backend=GROUP, underlay={"interface": "eth1"})
    assert (here.link, here.others) == ("eth1", ())
    assert here.own.subnets == (ip_network("10.244.1.0/24"),)


def test_the_own_part_stands_in_the_config_where_no_record_has_one() -> None:
    here = found(ETH0, peers=BARE, backend={"subnet": "10.244.1.0/24"})
    assert here.own.subnets == (ip_network("10.244.1.0/24"),)
    keys = {**STRETCHED, "bum": "head-end"}
    del keys["backend"]
    here = found(ETH0, **keys, peers=BARE, backend={"block": "192.168.100.0/28"})
    assert here.own.blocks == (ip_network("192.168.100.0/28"),)
    assert [str(peer.vtep) for peer in here.others] == BARE[1:]


# ------------------------------------------------------------------------------------------------- the MTU

V6_PEERS = [{"node": f"h{n}", "vtep": f"2001:db8::{n}", "subnet": f"10.244.{n}.0/24"} for n in (1, 2)]


@pytest.mark.parametrize(
    ("mtu", "published", "keys", "inner"),
    [
        (1500, 0, {}, 1450),
        (9000, 0, {}, 8950),
        (9000, 1500, {}, 1450),
        (1500, 9000, {}, 1450),
        (1500, 0, {"mtu": 0}, 1450),
        (9000, 1500, {"mtu": 8000}, 8000),
        (1500, 0, {"mtu": 1450}, 1450),
        (1500, 0, {"mtu": 1400}, 1400),
        (1500, 0, {"directRouting": "always"}, 1500),
        (1500, 0, {"directRouting": "always", "mtu": 1500}, 1500),
        (1500, 0, {"directRouting": "same-subnet"}, 1450),
    ],
)
def test_the_overlays_mtu(mtu: int, published: int, keys: dict[str, Any], inner: int) -> None:
    peers = [PEERS[0], {**PEERS[1], **({"mtu": published} if published else {})}]
    assert found(link("eth0", "10.99.0.1/24", mtu=mtu), peers=peers, **keys).inner_mtu == inner


def test_encapsulation_in_ipv6_takes_more() -> None:
    assert found(link("eth0", "2001:db8::1/64"), peers=V6_PEERS).inner_mtu == 1430


@pytest.mark.parametrize(
    ("mtu", "keys", "message"),
    [
        (1500, {"mtu": 1451}, "invalid MTU 1451: eth0 leaves 1450"),
        (1500, {"mtu": 1501, "directRouting": "always"}, "invalid MTU 1501: eth0 leaves 1500"),
        (100, {}, "invalid MTU 50: the overlay's addresses need 68"),
        (
            1329,
            {"network": ["10.244.0.0/16", "fd00::/16"]},
            "invalid MTU 1279: the overlay's addresses need 1280",
        ),
        (1500, {"network": ["10.244.0.0/16", "fd00::/16"], "mtu": 1200}, "invalid MTU 1200: the overlay's"),
    ],
)
def test_an_mtu_that_cannot_be(mtu: int, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidNetworkConfig) as caught:
        found(link("eth0", "10.99.0.1/24", mtu=mtu), **keys)
    assert message in caught.value.msg
    assert caught.value.details


def test_a_loopback_link_tells_no_mtu() -> None:
    """As of hosts that announce an address of their own over several links."""
    loopback = link("lo", "127.0.0.1/8", "10.99.0.1/32", mtu=65536, loopback=True)
    with pytest.raises(InvalidNetworkConfig, match="the MTU of lo is not that of the path to the peers"):
        found(loopback)
    assert found(loopback, mtu=1450).inner_mtu == 1450
    assert found(loopback, peers=[{**PEERS[0], "mtu": 1500}, *PEERS[1:]]).inner_mtu == 1450


# ------------------------------------------------------------------------------------------ what is there


def test_a_link_is_of_a_network_by_its_tag() -> None:
    assert is_of(link("vx1", alias=OURS), "net1")
    assert not is_of(link("vx1", alias=OURS), "net")
    assert not is_of(link("vx1", alias="net: net1"), "net1")


@pytest.mark.parametrize(
    ("keys", "address", "clashing"),
    [
        ({}, "10.244.7.1/32", True),
        ({}, "10.245.0.1/32", False),
        ({}, "fd00::1/64", False),
        ({"network": ["10.244.0.0/16", "fd00::/16"]}, "fd00::1/64", True),
        (STRETCHED, "192.168.100.9/24", True),
        (STRETCHED, "10.244.7.1/24", False),
    ],
)
def test_an_address_of_the_overlays_at_another_link(
    keys: dict[str, Any], address: str, clashing: bool
) -> None:
    overlay = parsed(**keys)
    there = facts(ETH0, link("docker0", address, index=9))
    said = clashes(overlay, there, frozenset({overlay.vxlan, overlay.bridge}))
    assert bool(said) == clashing
    assert not clashing or said.startswith(f"link docker0 has {address}")
    assert not clashes(overlay, there, frozenset({"docker0"}))


def test_the_own_record_is_not_among_the_others_whatever_the_order() -> None:
    for peers in (BLOCKS, BLOCKS[::-1]):
        keys = {**STRETCHED, "backend": {}}
        here = found(ETH0, **keys, peers=peers)
        assert here.own.node == "h1"
        assert {peer.node for peer in here.others} == {"h2", "h3"}
