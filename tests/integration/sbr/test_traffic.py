"""Packets of a container with two networks: replies leave by the interface whose address they have.

Each network is a wire of its own to a router, behind which is a client. Neither router knows the other's
client or network, and container and routers drop what comes from where they would not send to (rp_filter, RFC
3704).
"""

from typing import Any, NamedTuple

import pytest

from tests.integration.conftest import Namespace
from tests.integration.sbr.conftest import Network, rules

NETWORKS = {1: ("10.1.0", "fd00:1:"), 2: ("10.2.0", "fd00:2:")}
CLIENTS = {1: ("198.51.100", "2001:db8:1:"), 2: ("203.0.113", "2001:db8:2:")}


class Lab(NamedTuple):
    """Two clients, each behind a router, and the container."""

    bed: Any
    clients: dict[int, Namespace]
    routers: dict[int, Namespace]
    container: Namespace


def wire(left: Namespace, left_name: str, right: Namespace, right_name: str) -> None:
    left.run("ip", "link", "add", left_name, "type", "veth", "peer", right_name, "netns", right.path)
    left.run("ip", "link", "set", left_name, "up")
    right.run("ip", "link", "set", right_name, "up")


def address(namespace: Namespace, link: str, networks: tuple[str, str], last: int) -> None:
    four, six = networks
    namespace.run("ip", "address", "add", f"{four}.{last}/24", "dev", link)
    namespace.run("ip", "address", "add", f"{six}:{last}/64", "dev", link, "nodad")


def strict(namespace: Namespace) -> None:
    namespace.run("sh", "-c", "for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 1 > $f; done")


@pytest.fixture
def lab(bed: Any) -> Lab:
    clients = {number: bed.sandbox() for number in NETWORKS}
    routers = {number: bed.sandbox() for number in NETWORKS}
    for namespace in (*clients.values(), *routers.values()):
        namespace.skip_dad()
    for number, router in routers.items():
        client = clients[number]
        wire(bed.host, f"wire{number}", router, "inner")
        wire(router, "outer", client, "eth0")
        address(router, "inner", NETWORKS[number], 1)
        address(router, "outer", CLIENTS[number], 1)
        address(client, "eth0", CLIENTS[number], 2)
        client.run("ip", "route", "add", "default", "via", f"{CLIENTS[number][0]}.1")
        client.run("ip", "route", "add", "default", "via", f"{CLIENTS[number][1]}:1")
        router.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        router.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding")
        strict(router)
    container = bed.sandbox()
    strict(container)
    container.skip_dad()
    return Lab(bed, clients, routers, container)


def network(lab: Lab, number: int, **keys: Any) -> Network:
    four, six = NETWORKS[number]
    addresses = [
        {"address": f"{four}.2/24", "gateway": f"{four}.1"},
        {"address": f"{six}:2/64", "gateway": f"{six}:1"},
    ]
    defaults = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}] if number == 1 else []
    ipam = {"type": "static", "addresses": addresses, "routes": defaults}
    main = {"type": "macvlan", "master": f"wire{number}"}
    return Network(lab.bed, main, ipam, name=f"net{number}", ifname=f"eth{number}", **keys)


def reached(lab: Lab, by: int, number: int) -> list[bool]:
    """Say for each IP version whether a client gets a reply from the container's address in a network."""
    four, six = NETWORKS[number]
    ping = "ping", "-c2", "-i.2", "-W1", "-q"
    return [lab.clients[by].succeeds(*ping, target) for target in (f"{four}.2", f"{six}:2")]


def strays(lab: Lab) -> list[int]:
    """Count the packets from the second network's addresses that the first router has got, by IP version."""
    listed = lab.routers[1].run("nft", "list", "table", "inet", "strays")
    return [int(line.split("packets ")[1].split()[0]) for line in listed.splitlines() if "counter" in line]


def count_strays(lab: Lab) -> None:
    """Count from now on, before the router itself drops them."""
    lab.routers[1].run("nft", "add table inet strays; flush table inet strays")
    for rule in (
        "add chain inet strays seen { type filter hook prerouting priority -300; }",
        "add rule inet strays seen ip saddr 10.2.0.0/24 counter",
        "add rule inet strays seen ip6 saddr fd00:2::/64 counter",
    ):
        lab.routers[1].run("nft", rule)


def test_replies_leave_by_the_interface_whose_address_they_have(lab: Lab) -> None:
    first, second = network(lab, 1), network(lab, 2)
    lab.bed.add(first.main, lab.container, ifname="eth1")
    lab.bed.add(second.main, lab.container, ifname="eth2")
    assert reached(lab, 1, 1) == [True, True]
    # Without sbr: the container drops what comes by eth2, and what IPv6 replies goes to the wrong router.
    assert reached(lab, 2, 2) == [False, False]
    assert lab.bed.call("DEL", second.main, lab.container, ifname="eth2") == (0, None)
    assert second.add(lab.container)[0] == 0
    assert reached(lab, 2, 2) == [True, True]
    assert reached(lab, 1, 1) == [True, True]


def test_no_packet_of_one_network_leaves_by_the_other(lab: Lab) -> None:
    """Without sbr all replies do, once the container accepts what it gets."""
    lab.container.run("sh", "-c", "for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $f; done")
    lab.bed.add(network(lab, 1).main, lab.container, ifname="eth1")
    second = network(lab, 2)
    lab.bed.add(second.main, lab.container, ifname="eth2")
    assert reached(lab, 1, 1) == [True, True]  # or the first router would not even be found
    count_strays(lab)
    assert reached(lab, 2, 2) == [False, False]
    assert strays(lab) == [2, 2]
    assert lab.bed.call("DEL", second.main, lab.container, ifname="eth2") == (0, None)
    assert second.add(lab.container)[0] == 0
    count_strays(lab)
    assert reached(lab, 2, 2) == [True, True]
    assert strays(lab) == [0, 0]


def test_both_networks_can_be_routed_by_source(lab: Lab) -> None:
    for number in NETWORKS:
        assert network(lab, number).add(lab.container)[0] == 0
    assert len(rules(lab.container)) == 4
    assert (reached(lab, 1, 1), reached(lab, 2, 2)) == ([True, True], [True, True])


def test_a_program_chooses_its_network_by_its_own_address(lab: Lab) -> None:
    lab.bed.add(network(lab, 1).main, lab.container, ifname="eth1")
    assert network(lab, 2).add(lab.container)[0] == 0
    for source, target in (("10.2.0.2", "203.0.113.2"), ("fd00:2::2", "2001:db8:2::2")):
        assert lab.container.succeeds("ping", "-c1", "-W2", "-q", "-I", source, target)
        assert not lab.container.succeeds("ping", "-c1", "-W1", "-q", target)


def test_neighbours_of_the_second_network_are_reached_without_a_gateway(lab: Lab) -> None:
    """So are link-local ones: packets to fe80::/10 from other addresses must not go to the gateway."""
    lab.bed.add(network(lab, 1).main, lab.container, ifname="eth1")
    assert network(lab, 2).add(lab.container)[0] == 0
    found = lab.container.run("ip", "route", "get", "10.2.0.9", "from", "10.2.0.2")
    assert "10.2.0.9 from 10.2.0.2 dev eth2 table 100" in found
    found = lab.container.run("ip", "route", "get", "fe80::9", "from", "fd00:2::2", "oif", "eth2")
    assert "via" not in found
    shown = lab.routers[2].run("ip", "-6", "-brief", "address", "show", "dev", "inner", "scope", "link")
    neighbour = shown.split()[2].split("/")[0]
    assert lab.container.succeeds("ping", "-c1", "-W2", "-q", f"{neighbour}%eth2")
    assert lab.container.succeeds("ping", "-c1", "-W2", "-q", "-I", "fd00:2::2", f"{neighbour}%eth2")
