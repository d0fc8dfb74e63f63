"""What `cnictl overlay probe` finds between three hosts on one wire, one fault at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.upkeep import overlay, overlay_probe
from cni_plugins.upkeep.overlay_probe import Cause
from tests.integration.conftest import Bed, Namespace
from tests.integration.vxlan.test_plugin import BLOCKS, PEERS

IN_IPV6 = [
    {**peer, "vtep": peer["vtep"].replace("10.99.0.", "fd99::"), "subnet": f"fd44:{number}::/64"}
    for number, peer in enumerate(PEERS, 1)
]
SHAPES: dict[str, dict[str, Any]] = {
    "l3": {"network": "10.244.0.0/16", "peers": PEERS},
    "l3 in IPv6": {"network": "fd44::/16", "peers": IN_IPV6},
    "l2": {"mode": "l2", "subnet": "192.168.100.0/24", "peers": BLOCKS},
    "direct": {"network": "10.244.0.0/16", "peers": PEERS, "directRouting": "always"},
}
TUNNELLED = pytest.mark.parametrize("shape", ["l3", "l3 in IPv6", "l2"])


class Hosts:
    """Three hosts at one switch."""

    def __init__(self, directory: Path) -> None:
        self.switch, self.beds = Namespace(), []
        self.switch.run("ip", "link", "add", "br0", "type", "bridge")
        self.switch.run("ip", "link", "set", "br0", "up")
        for number in (1, 2, 3):
            home = directory / f"h{number}"
            home.mkdir()
            bed = Bed(home)
            self.beds.append(bed)
            bed.host.skip_dad()
            peer = ("peer", "name", "eth0", "netns", bed.host.path)
            self.switch.run("ip", "link", "add", f"p{number}", "type", "veth", *peer)
            self.switch.run("ip", "link", "set", f"p{number}", "master", "br0", "up")
            bed.host.run("ip", "link", "set", "eth0", "up")
            bed.host.run("ip", "address", "add", f"10.99.0.{number}/24", "dev", "eth0")
            bed.host.run("ip", "address", "add", f"fd99::{number}/64", "dev", "eth0", "nodad")

    def conf(self, number: int, shape: str, **keys: Any) -> dict[str, Any]:
        given = {**SHAPES[shape], **keys}
        backend = {"type": "static", "peers": given.pop("peers")}
        ipam = {"dataDir": str(self.beds[number - 1].leases)}
        base = {"cniVersion": "1.1.0", "name": "net1", "type": "vxlan", "vni": 77, "ipam": ipam}
        return {**base, **given, "backend": backend}

    def attach(self, shape: str, *numbers: int, **keys: Any) -> None:
        for number in numbers or (1, 2, 3):
            bed = self.beds[number - 1]
            bed.add(self.conf(number, shape, **keys), bed.sandbox())

    def probe(self, shape: str, number: int = 1, *, write: bool = False, **keys: Any) -> dict[str, Any]:
        """Return what is found of each peer, by its name."""
        with self.beds[number - 1].inside():
            _, probes = overlay_probe.probe("net1", self.conf(number, shape, **keys), write=write)
        return {one.peer.node: one for one in probes}

    def causes(self, shape: str, number: int = 1, **keys: Any) -> dict[str, list[Cause]]:
        found = self.probe(shape, number, **keys)
        return {node: [item.cause for item in one.findings] for node, one in found.items()}

    def nft(self, number: int, hook: str, rule: str) -> None:
        host = self.beds[number - 1].host
        host.run("nft", "add", "table", "inet", "t")
        chain = "{ type filter hook " + hook + " priority -10; }"
        host.run("nft", "add", "chain", "inet", "t", hook, chain)
        host.run("nft", "add", "rule", "inet", "t", hook, *rule.split())

    def close(self) -> None:
        for bed in self.beds:
            bed.close()
        self.switch.close()


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    made = Hosts(tmp_path)
    try:
        yield made
    finally:
        made.close()


def fine() -> dict[str, list[Cause]]:
    return {"h2": [], "h3": []}


@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_is_found_where_all_is_well(hosts: Hosts, shape: str) -> None:
    hosts.attach(shape)
    found = hosts.probe(shape)
    assert {node: one.findings for node, one in found.items()} == {"h2": (), "h3": ()}
    assert all(one.rtt is not None and one.inside is not None and one.mtu == 1500 for one in found.values())


def test_who_does_not_answer_at_all(hosts: Hosts) -> None:
    hosts.attach("l3")
    hosts.beds[1].host.run("ip", "link", "set", "eth0", "down")
    assert hosts.causes("l3") == {**fine(), "h2": [Cause.SILENT]}


@TUNNELLED
@pytest.mark.parametrize(
    ("verdict", "cause"),
    [("drop", Cause.UNKNOWN), ("reject with icmpx admin-prohibited", Cause.FILTERED)],
)
def test_a_blocked_port(hosts: Hosts, shape: str, verdict: str, cause: Cause) -> None:
    hosts.attach(shape)
    hosts.nft(2, "input", f"udp dport 4789 {verdict}")
    assert hosts.causes(shape) == {**fine(), "h2": [cause]}


def test_a_port_that_this_hosts_own_firewall_blocks(hosts: Hosts) -> None:
    hosts.attach("l3")
    hosts.nft(1, "output", "udp dport 4789 drop")
    assert hosts.causes("l3") == {"h2": [Cause.FILTERED], "h3": [Cause.FILTERED]}


@pytest.mark.parametrize("shape", ["l3", "l3 in IPv6"])
def test_another_mac_than_the_list_says(hosts: Hosts, shape: str) -> None:
    hosts.attach(shape, 2, 3)
    actual = hosts.beds[1].host.link("vx25")["address"]  # type: ignore[index]
    one, two, three = SHAPES[shape]["peers"]
    wrong = [one, {**two, "mac": "02:00:00:00:00:42"}, three]
    hosts.attach(shape, 1, peers=wrong)
    found = hosts.probe(shape, peers=wrong)
    [finding] = found["h2"].findings
    assert finding.cause == Cause.WRONG_MAC
    assert f"has MAC address {actual}, not 02:00:00:00:00:42" in finding.text
    assert found["h3"].findings == ()


@TUNNELLED
def test_a_peer_whose_list_lacks_this_host(hosts: Hosts, shape: str) -> None:
    hosts.attach(shape, 1, 3)
    hosts.attach(shape, 2, peers=SHAPES[shape]["peers"][1:])
    [finding] = hosts.probe(shape)["h2"].findings
    assert finding.cause == Cause.UNKNOWN
    assert "its list lacks us" in finding.text
    assert hosts.causes(shape)["h3"] == []


def test_a_peer_without_containers(hosts: Hosts) -> None:
    hosts.attach("l3", 1, 3)
    [finding] = hosts.probe("l3")["h2"].findings
    assert (finding.cause, finding.is_fault) == (Cause.REFUSED, False)
    [finding] = hosts.probe("l3", keep=True)["h2"].findings
    assert finding.is_fault


def test_swapped_subnets(hosts: Hosts) -> None:
    """Packets arrive all the same: the other host routes them on, to where its list says."""
    hosts.attach("l3", 2, 3)
    one, two, three = PEERS
    swapped = [one, {**two, "subnet": three["subnet"]}, {**three, "subnet": two["subnet"]}]
    hosts.attach("l3", 1, peers=swapped)
    found = hosts.causes("l3", peers=swapped)
    assert found == {"h2": [Cause.ANOTHER_HOST], "h3": [Cause.ANOTHER_HOST]}


def test_a_path_that_carries_less_than_the_route_says(hosts: Hosts) -> None:
    hosts.attach("l3")
    for where, link in ((hosts.switch, "p2"), (hosts.beds[1].host, "eth0")):
        where.run("ip", "link", "set", link, "mtu", "1400")
    found = hosts.probe("l3")
    assert found["h2"].mtu == 1400
    assert [item.cause for item in found["h2"].findings] == [Cause.PATH_MTU]
    assert found["h3"].findings == ()
    assert hosts.probe("l3", write=True)["h2"].findings == ()
    assert hosts.causes("l3") == fine()


def test_an_entry_that_this_host_lacks(hosts: Hosts) -> None:
    hosts.attach("l3")
    hosts.beds[0].host.run("ip", "neigh", "del", "10.244.2.0", "dev", "vx25")
    assert hosts.causes("l3") == {**fine(), "h2": [Cause.NO_ENTRY]}


def test_a_host_without_containers_measures_the_underlay_alone(hosts: Hosts) -> None:
    hosts.attach("l3", 2, 3)
    found = hosts.probe("l3")
    assert {node: (one.inside, one.findings) for node, one in found.items()} == {
        "h2": (None, ()),
        "h3": (None, ()),
    }
    with hosts.beds[0].inside():
        assert overlay.view("net1", hosts.conf(1, "l3")).state == overlay.State.IDLE
