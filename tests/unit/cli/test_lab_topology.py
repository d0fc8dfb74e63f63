"""What a lab is made of, decided from its options alone."""

from ipaddress import ip_address, ip_network
from itertools import pairwise
from typing import Any

import pytest

from cni_plugins.cli.lab import topology
from cni_plugins.cli.lab.topology import Lab, LabOptions, plan


def conf_of(lab: Lab, number: int = 1) -> dict[str, Any]:
    return topology.conf(lab, lab.hosts[number - 1], "/lab/peers.json", f"/lab/h{number}/leases")


def test_a_host_s_number_stands_in_its_names_and_addresses() -> None:
    host = plan(LabOptions("demo", hosts=7, containers=2, dual_stack=True)).hosts[6]
    assert host == topology.Host(
        name="h7",
        netns="demo-h7",
        vtep=ip_address("10.99.0.7"),
        mac="02:99:00:00:00:07",
        own=(ip_network("10.244.7.0/24"), ip_network("fd00:244:0:7::/64")),
        containers=("demo-h7-c1", "demo-h7-c2"),
    )


@pytest.mark.parametrize("mode", ["l2", "l3"])
@pytest.mark.parametrize("containers", [1, 3, 4, 100])
def test_the_largest_lab_has_no_address_twice_and_all_within_its_networks(
    mode: topology.Mode, containers: int
) -> None:
    lab = plan(
        LabOptions(hosts=topology.MOST_HOSTS, containers=containers, mode=mode, underlay=6, dual_stack=True)
    )
    for network in lab.networks:
        parts = [own for host in lab.hosts for own in host.own if own.version == network.version]
        assert all(part.subnet_of(network) for part in parts)  # type: ignore[arg-type]
        assert not any(a.overlaps(b) for a, b in pairwise(parts))
        assert network.network_address + 1 not in {
            address for part in parts for address in (part[0], part[1])
        }
        # in l2 one address of the block is the host's
        assert all(part.num_addresses > containers for part in parts)
    assert (
        len({host.vtep for host in lab.hosts}) == len({host.mac for host in lab.hosts}) == topology.MOST_HOSTS
    )


@pytest.mark.parametrize(("containers", "length"), [(1, 30), (3, 30), (4, 29), (7, 29), (8, 28), (100, 25)])
def test_blocks_are_no_larger_than_they_must_be(containers: int, length: int) -> None:
    lab = plan(LabOptions(containers=containers, mode="l2"))
    assert {host.own[0].prefixlen for host in lab.hosts} == {length}


def test_hosts_of_a_static_lab_differ_in_nothing_but_their_leases() -> None:
    lab = plan(LabOptions(hosts=2))
    first, second = conf_of(lab, 1), conf_of(lab, 2)
    assert first.pop("ipam") != second.pop("ipam")
    assert first == second
    assert first == {
        "cniVersion": "1.1.0",
        "name": "cnilab",
        "type": "vxlan",
        "mode": "l3",
        "network": "10.244.0.0/16",
        "backend": {"type": "static", "peersFile": "/lab/peers.json"},
    }
    assert topology.peers(lab) == [
        {"node": "h1", "vtep": "10.99.0.1", "subnets": ["10.244.1.0/24"]},
        {"node": "h2", "vtep": "10.99.0.2", "subnets": ["10.244.2.0/24"]},
    ]


def test_in_a_stretched_lab_each_host_has_a_block() -> None:
    lab = plan(LabOptions(hosts=1, mode="l2", underlay=6, dual_stack=True))
    assert conf_of(lab)["subnet"] == ["10.245.0.0/22", "fd00:245::/64"]
    assert topology.peers(lab) == [{"node": "h1", "vtep": "fd00:99::1", "blocks": ["10.245.0.4/30"]}]


def test_without_a_control_plane_hosts_know_the_addresses_of_each_other_and_what_is_their_own() -> None:
    routed = plan(LabOptions(hosts=2, zero_control=True, dual_stack=True))
    assert topology.peers(routed) == ["10.99.0.1", "10.99.0.2"]
    assert conf_of(routed, 2)["backend"]["subnet"] == ["10.244.2.0/24", "fd00:244:0:2::/64"]
    stretched = plan(LabOptions(hosts=2, zero_control=True, mode="l2"))
    assert conf_of(stretched, 2)["backend"]["block"] == "10.245.0.8/30"
    assert conf_of(stretched)["bum"] == "head-end"


@pytest.mark.parametrize(("underlay", "group"), [(4, "239.7.7.7"), (6, "ff05::7:7")])
def test_with_multicast_hosts_are_told_the_link_and_the_group(underlay: int, group: str) -> None:
    conf = conf_of(plan(LabOptions(backend="multicast", underlay=underlay)))
    assert conf["underlay"] == {"interface": topology.UPLINK}
    assert conf["backend"] == {"type": "multicast", "group": group, "subnet": "10.244.1.0/24"}


def test_options_of_the_plugin_are_handed_on_and_only_those_given() -> None:
    routed = conf_of(plan(LabOptions(direct_routing="same-subnet", mtu=1400)))
    assert (routed["directRouting"], routed["mtu"]) == ("same-subnet", 1400)
    stretched = conf_of(plan(LabOptions(mode="l2", bum="none")))
    assert stretched["bum"] == "none"
    assert not {"mtu", "directRouting", "underlay"} & {*stretched}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (LabOptions("a-b"), "not 'a-b'"),
        (LabOptions("a" * 16), "up to 15"),
        (LabOptions("../x"), "up to 15"),
        (LabOptions(""), "up to 15"),
        (LabOptions(bum="none"), "--bum is for --mode l2"),
        (LabOptions(mode="l2", direct_routing="off"), "--direct-routing is for --mode l3"),
        (LabOptions(backend="multicast", zero_control=True), "leave out --zero-control"),
        (LabOptions(mode="l2", backend="multicast", bum="head-end"), "leave out --bum"),
        (LabOptions(mode="l2", zero_control=True, bum="none"), "--bum head-end, not none"),
    ],
)
def test_what_cannot_be_had_is_refused_with_the_reason(options: LabOptions, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        plan(options)


def test_namespaces_are_known_by_their_names_whatever_the_size_of_the_lab() -> None:
    lab = plan(LabOptions("demo", hosts=12, containers=2))
    assert all(topology.is_part(name, "demo") for name in topology.namespaces(lab))
    assert len(topology.namespaces(lab)) == 1 + 12 + 24
    for foreign in (
        "demo",
        "demo-",
        "demo-x",
        "demo-h",
        "demo2-h1",
        "ademo-h1",
        "demo-h1-c1-old",
        "demo-sw2",
    ):
        assert not topology.is_part(foreign, "demo")


def test_every_host_is_wired_to_the_switch_and_knows_all_others_for_good() -> None:
    lab = plan(LabOptions("demo", hosts=3, underlay=6, underlay_mtu=9000))
    assert topology.wires(lab)[-1] == (
        "link add name eth0 address 02:99:00:00:00:03 mtu 9000 netns demo-h3"
        " type veth peer name h3 mtu 9000 netns demo-sw"
    )
    assert [line for line in topology.of_switch(lab) if "master" in line] == [
        f"link set h{number} master br0 up" for number in (1, 2, 3)
    ]
    assert topology.of_host(lab, lab.hosts[1])[2:] == [
        "address add fd00:99::2/64 dev eth0 nodad",
        "neigh replace fd00:99::1 lladdr 02:99:00:00:00:01 dev eth0 nud permanent",
        "neigh replace fd00:99::3 lladdr 02:99:00:00:00:03 dev eth0 nud permanent",
    ]
