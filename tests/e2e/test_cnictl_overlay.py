"""`cnictl overlay` on hosts that are in overlays: what it shows, repairs, and measures."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.lab.overlay import (
    HOP,
    ROUTERS,
    Bed,
    Container,
    Net,
    Node,
    attach,
    attached,
    collect,
    detach,
    overlay_link,
    publish,
    raise_bed,
    tables,
    unreached,
)

pytestmark = pytest.mark.needs("ip", "bridge", "nft", "nsenter", "ping", "sysctl", "setpriv")

NARROW = 1400
CONFS = "/etc/cni/net.d"
ACROSS = [(1, "ovkfa"), (2, "ovkfb")]
BOTH_MODES = pytest.mark.parametrize("shape", ["l3", "l2"])
BOTH_UNDERLAYS = pytest.mark.parametrize("version", [4, 6])


class Hosts:
    """The bed, and the command under test on each of its hosts."""

    def __init__(self, bed: Bed) -> None:
        self.bed = bed
        self.one, self.two, self.three = bed.nodes

    def run(self, node: Node, *words: str) -> subprocess.CompletedProcess[str]:
        done = node.host.run(str(self.bed.plugins / "cnictl"), "overlay", *words, check=False)
        assert "Traceback" not in done.stderr
        return done

    def lines(self, node: Node, *words: str, code: int = 0) -> list[str]:
        done = self.run(node, *words)
        assert done.returncode == code, done
        assert bool(done.stderr) == bool(code), done.stderr
        return done.stdout.splitlines()

    def document(self, node: Node, *words: str, code: int = 0) -> Any:
        [network] = json.loads("\n".join(self.lines(node, *words, "--json", code=code)))
        return network

    def ways(self, node: Node) -> dict[str, Any]:
        """What is written of the MTUs of routes, by their destination."""
        peers = self.document(node, "peers")["peers"]
        return {way["to"]: (way["mtu"], way["measured"]) for peer in peers for way in peer["ways"]}


@pytest.fixture(scope="module")
def raised(dist: Path) -> Iterator[Hosts]:
    """Three hosts; between the second and the others a narrow hop."""
    with raise_bed(dist, (0, 1, 0), hop=NARROW, warm=True) as bed:
        yield Hosts(bed)


@pytest.fixture
def hosts(raised: Hosts) -> Iterator[Hosts]:
    try:
        yield raised
    finally:
        for node in raised.bed.nodes:
            node.host.run("sh", "-c", f"rm -f {CONFS}/*")


@contextmanager
def configured(hosts: Hosts, net: Net, places: list[tuple[int, str]]) -> Iterator[list[Container]]:
    """The network is in all hosts' directories; a container in each of these places."""
    for node in hosts.bed.nodes:
        write(node, net.conf(node, hosts.bed.nodes))
    with attached(hosts.bed, net, places) as made:
        yield made


def write(node: Node, conf: Mapping[str, Any], number: int = 10) -> None:
    common = {key: conf[key] for key in ("cniVersion", "name")}
    entry = {key: value for key, value in conf.items() if key not in common}
    text = json.dumps({**common, "plugins": [entry, {"type": "portmap"}]})
    node.host.write(f"{CONFS}/{number}-{conf['name']}.conflist", text)


# ------------------------------------------------------------------------------------------------ sentences


@pytest.mark.parametrize("command", ["sync", "status", "peers", "probe"])
def test_what_cannot_be_done_is_a_sentence(hosts: Hosts, command: str) -> None:
    node = hosts.one
    cases = [
        (["blue"], f"no overlay network in {CONFS}: no file there has a plugin of type vxlan"),
        (["--conf-dir", "/nowhere"], "/nowhere: No such file or directory"),
        (["--conf", "/nowhere"], "no overlay network in /nowhere: /nowhere: No such file or directory"),
    ]
    for words, said in cases:
        done = hosts.run(node, command, *words)
        assert (done.returncode, done.stdout, done.stderr) == (1, "", f"cnictl: {said}\n")
    write(node, Net("l3").conf(node, hosts.bed.nodes))
    done = hosts.run(node, command, "pink")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"cnictl: no overlay network 'pink' in {CONFS}, only {Net('l3').name}\n"


@pytest.mark.parametrize("command", ["sync", "status", "peers", "probe"])
def test_a_node_in_no_overlay_is_no_failure(hosts: Hosts, command: str) -> None:
    assert hosts.lines(hosts.one, command) == [f"no overlay network in {CONFS}"]
    assert json.loads("\n".join(hosts.lines(hosts.one, command, "--json"))) == []


def test_hosts_that_disagree_have_other_digests(hosts: Hosts) -> None:
    net = Net("l3-file")
    publish(net, hosts.bed.nodes)
    with configured(hosts, net, ACROSS):
        digests = {hosts.document(node, "status")["digest"] for node in hosts.bed.nodes}
        assert len(digests) == 1
        shuffled = [net.record(node) for node in reversed(hosts.bed.nodes)]
        publish(net, [hosts.one], shuffled)
        assert hosts.document(hosts.one, "status")["digest"] in digests
        publish(net, [hosts.one], shuffled[1:])
        assert hosts.document(hosts.one, "status", code=1)["digest"] not in digests
        publish(net, hosts.bed.nodes)


def test_a_chain_that_drops_is_told_with_rules_that_help(hosts: Hosts) -> None:
    node = hosts.one
    with configured(hosts, Net("l3", families=(4,)), ACROSS) as [one, two]:
        node.host.run("nft", "add table ip other")
        chain = "{ type filter hook forward priority 0; policy drop; }"
        node.host.run("nft", f"add chain ip other forward {chain}")
        try:
            assert one.unreached(two.addresses, 1) == sorted(two.addresses)
            [told] = hosts.document(node, "status", code=1)["blocked"]
            assert one.check().document["code"] == 103
            for command in told.split("`")[1::2]:
                node.host.run(*command.split())
            assert hosts.document(node, "status")["blocked"] == []
            assert one.unreached(two.addresses) == []
        finally:
            node.host.run("nft", "delete table ip other")


def test_who_is_not_root_is_told(hosts: Hosts) -> None:
    program = hosts.bed.plugins / "cnictl"
    user = ("setpriv", "--reuid", "65534", "--clear-groups", "--inh-caps", "-all")
    done = hosts.one.host.run(*user, str(program), "overlay", "status", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("cnictl: must be run as root: ")


def test_a_broken_file_keeps_sync_from_no_other_network(hosts: Hosts) -> None:
    with configured(hosts, Net("l3"), ACROSS) as [one, two]:
        hosts.one.host.write(f"{CONFS}/05-broken.conf", "{")
        hosts.one.host.write(
            f"{CONFS}/07-green.conf", '{"name":"green","type":"vxlan","network":"10.1.0.0/16"}'
        )
        hosts.one.host.run("ip", "link", "del", overlay_link(hosts.one, "vxlan"))
        done = hosts.run(hosts.one, "sync")
        assert done.returncode == 1
        assert done.stdout.startswith(f"{Net('l3').name}: repaired\n")
        broken, green = done.stderr.splitlines()
        assert broken.startswith(f"cnictl: {CONFS}/05-broken.conf: not JSON: ")
        assert green.startswith("cnictl: network green: invalid network config: backend")
        assert one.unreached(two.addresses) == []
        assert len(json.loads(hosts.run(hosts.one, "status", "--json").stdout)) == 2
        assert hosts.lines(hosts.one, "sync", Net("l3").name) == [f"{Net('l3').name}: in sync"]


# ------------------------------------------------------------------------------------------------ in sync

DAMAGE = {
    "l3": """
        ip route del {subnet}
        ip neigh del $(ip -4 neigh show dev {vxlan} nud permanent | head -n1 | cut -d' ' -f1) dev {vxlan}
        sysctl -qw net.ipv4.ip_forward=0
        """,
    "l2": """
        bridge fdb show dev {vxlan} | grep 'dst 10.99.0.3' | head -n1 | while read mac rest; do
            bridge fdb del $mac dev {vxlan} dst 10.99.0.3 self
        done
        ip neigh add 192.168.100.77 lladdr 02:00:00:00:00:77 dev {bridge} nud permanent
        bridge link set dev {vxlan} learning on
        """,
}


# The kernel switches forwarding off on every link: the VXLAN link and the bridge differ too.
DIFFERENCES = {"l3": 5, "l2": 3}


@BOTH_MODES
def test_every_difference_is_told_and_repaired(hosts: Hosts, shape: str) -> None:
    net, node = Net(shape), hosts.one
    with configured(hosts, net, [*ACROSS, (3, "ovkfc")]) as [one, two, three]:
        before = tables(node)
        assert hosts.lines(node, "status")[0] == f"{net.name}: in sync"
        assert hosts.lines(node, "sync") == [f"{net.name}: in sync"]
        names = {"vxlan": overlay_link(node, "vxlan"), "bridge": overlay_link(node, "bridge")}
        node.host.run("sh", "-euc", DAMAGE[shape].format(subnet=net.subnets(3)[0], **names))
        told = hosts.document(node, "status", code=1)
        assert told["state"] == "drifted"
        assert len(told["differences"]) == DIFFERENCES[shape]
        assert hosts.lines(node, "sync") == [
            f"{net.name}: repaired",
            *(f"  {difference}" for difference in told["differences"]),
        ]
        assert hosts.lines(node, "sync") == [f"{net.name}: in sync"]
        assert tables(node) == before
        assert one.check().code == 0
        assert one.unreached([*two.addresses, *three.addresses]) == []


@BOTH_MODES
def test_a_bridge_that_was_deleted_comes_back_with_its_containers(hosts: Hosts, shape: str) -> None:
    net, node = Net(shape), hosts.one
    with configured(hosts, net, [*ACROSS, (1, "ovkfc")]) as [one, two, beside]:
        node.host.run("ip", "link", "del", overlay_link(node, "bridge"))
        assert hosts.lines(node, "status", code=1)[0] == f"{net.name}: drifted"
        assert hosts.lines(node, "sync")[0] == f"{net.name}: repaired"
        assert hosts.lines(node, "status")[0] == f"{net.name}: in sync"
        for container in (one, beside):
            assert container.check().code == 0
            assert container.unreached(two.addresses) == []


@pytest.mark.parametrize("shape", ["l3-file", "l2-file"])
def test_peers_that_come_and_go_are_followed_without_an_add(hosts: Hosts, shape: str) -> None:
    net = Net(shape)
    first, last = hosts.bed.nodes[:2], hosts.bed.nodes
    publish(net, last, [net.record(node) for node in first])
    with configured(hosts, net, ACROSS) as [one, two]:
        publish(net, last)
        with attached(hosts.bed, net, [(3, "ovkfc")]) as [three]:
            assert one.unreached(three.addresses, 1) == sorted(three.addresses)
            for node in first:
                assert hosts.lines(node, "sync")[0] == f"{net.name}: repaired"
            assert one.unreached(three.addresses) == []
            publish(net, last, [net.record(node) for node in first])
            assert hosts.lines(hosts.one, "sync")[0] == f"{net.name}: repaired"
            assert hosts.document(hosts.one, "status")["peers"] == 1
            assert one.unreached(two.addresses) == []


@BOTH_MODES
def test_nothing_is_made_where_no_container_is_unless_asked_for(hosts: Hosts, shape: str) -> None:
    net, node = Net(shape), hosts.three
    before = tables(node)
    with configured(hosts, net, ACROSS) as [one, _]:
        assert hosts.lines(node, "sync") == [f"{net.name}: idle, no container here"]
        assert hosts.lines(node, "status")[0] == f"{net.name}: idle, no container here"
        assert tables(node) == before
        assert hosts.lines(node, "sync", "--create") == [f"{net.name}: created"]
        assert hosts.lines(node, "sync") == [f"{net.name}: in sync"]
        probed = hosts.document(hosts.one, "probe", code=1)["peers"]  # the hop is narrow
        assert [[fault["cause"] for fault in peer["faults"]] for peer in probed] == [["path MTU"], []]
        assert all(peer["inside_ms"] is not None for peer in probed), probed
        with attached(hosts.bed, net, [(3, "ovkfc")]) as [three]:
            assert three.unreached(one.addresses) == []
    after = tables(node)
    assert after["overlay links"] == []
    assert after["metrics"] == before["metrics"]


@BOTH_MODES
def test_a_host_that_is_to_stay_stays_without_containers(hosts: Hosts, shape: str) -> None:
    """After the last DEL, a GC that lists none, and a reboot, which the timer's sync follows."""
    net, node = Net(shape, more={"keep": True}), hosts.one
    conf = net.conf(node, hosts.bed.nodes)
    try:
        with configured(hosts, net, ACROSS[1:]) as [far]:
            with attached(hosts.bed, net, ACROSS[:1]):
                pass
            assert hosts.lines(node, "status")[0].startswith(f"{net.name}: in sync")
            collect(node, conf)
            assert hosts.lines(node, "sync") == [f"{net.name}: in sync"]
            assert unreached(node, far.addresses) == []
            collect(node, {**conf, "keep": False})
            assert tables(node)["overlay links"] == []
            assert hosts.lines(node, "status", code=1)[0].startswith(f"{net.name}: drifted")
            assert hosts.lines(node, "sync")[0] == f"{net.name}: repaired"
            assert unreached(node, far.addresses) == []
    finally:
        for each in hosts.bed.nodes:
            collect(each, {**conf, "keep": False})


def test_all_rules_come_back_after_the_table_was_deleted(hosts: Hosts) -> None:
    net, node = Net("l3"), hosts.one
    with configured(hosts, net, ACROSS):
        before = rules(node)
        assert "masquerade" in before
        node.host.run("nft", "delete", "table", "inet", "cni_plugins")
        assert hosts.lines(node, "status", code=1)[0].startswith(f"{net.name}: drifted")
        assert hosts.lines(node, "sync")[0] == f"{net.name}: repaired"
        assert sorted(rules(node).splitlines()) == sorted(before.splitlines())


def rules(node: Node) -> str:
    return node.host.run("nft", "list", "ruleset").stdout


# ------------------------------------------------------------------------------------------------ peers


def test_peers_are_shown_with_the_way_to_them(hosts: Hosts) -> None:
    with configured(hosts, Net("l3", more={"directRouting": "same-subnet"}, families=(4,)), ACROSS):
        vxlan = overlay_link(hosts.one, "vxlan")
        heading, head, *rows = hosts.lines(hosts.one, "peers")
        assert heading == f"{Net('l3').name}: in sync, mode l3, static, 2 peers"
        assert head.split() == ["NODE", "VTEP", "ADDRESSES", "REACHED", "MTU"]
        assert [row.split() for row in rows] == [
            ["h1*", "10.99.0.1", "10.44.1.0/24", "own", "host", "via", "uplink", "1500"],
            ["h3", "10.99.0.3", "10.44.3.0/24", "direct", "via", "uplink", "1500"],
            ["h2", "10.99.1.2", "10.44.2.0/24", "tunnel", "via", vxlan, "1450"],
        ]


# ------------------------------------------------------------------------------------------------ probe


@BOTH_UNDERLAYS
def test_a_measured_mtu_is_written_kept_and_taken_back(hosts: Hosts, version: int) -> None:
    net, node = Net("l3", version), hosts.one
    whole, narrow = (1500, 1400) if version == 4 else (1480, 1380)
    usual, measured = whole - 50, narrow - 50
    with configured(hosts, net, [*ACROSS, (3, "ovkfc")]) as [one, two, three]:
        to_two = dict.fromkeys(net.subnets(2), (measured, True))
        to_three = dict.fromkeys(net.subnets(3), (usual, False))
        probed = {peer["node"]: peer for peer in hosts.document(node, "probe", code=1)["peers"]}
        assert [fault["cause"] for fault in probed["h2"]["faults"]] == ["path MTU"]
        assert [probed[name]["path_mtu"] for name in ("h2", "h3")] == [NARROW, 1500]
        assert all(peer["rtt_ms"] and peer["inside_ms"] for peer in probed.values())
        assert hosts.ways(node) == dict.fromkeys(to_two, (usual, False)) | to_three

        table = hosts.lines(node, "probe", "--write")
        assert next(row for row in table if row.startswith("h2")).endswith(f"{measured} measured")
        assert hosts.ways(node) == to_two | to_three
        assert f"mtu {measured}" in node.host.run("ip", "route", "show", net.subnets(2)[0]).stdout
        assert hosts.lines(node, "sync") == [f"{net.name}: in sync"]
        assert one.check().code == 0
        late = attach(node, "ovkfd", net.conf(node, hosts.bed.nodes))
        try:
            said = late.run(
                "ping", "-c1", "-W1", "-M", "do", "-s", str(usual - 28), two.addresses[0], check=False
            )
            assert f"mtu = {measured}" in said.stdout + said.stderr
            late.run("ping", "-c1", "-W3", "-M", "do", "-s", str(measured - 28), two.addresses[0])
            late.run("ping", "-c1", "-W3", "-M", "do", "-s", str(usual - 28), three.addresses[0])
        finally:
            detach(late)
        assert hosts.ways(node) == to_two | to_three

        with widened(hosts.bed):
            hosts.lines(node, "probe", "--write")
            assert hosts.ways(node) == dict.fromkeys(to_two, (usual, False)) | to_three
            assert hosts.lines(node, "sync") == [f"{net.name}: in sync"]


@contextmanager
def widened(bed: Bed) -> Iterator[None]:
    """The narrow hop carries what the hosts believe in."""
    try:
        for router in ROUTERS:
            bed.switch.run("ip", "-n", router, "link", "set", HOP, "mtu", "1500")
        yield
    finally:
        for router in ROUTERS:
            bed.switch.run("ip", "-n", router, "link", "set", HOP, "mtu", str(NARROW))


def test_the_stretched_network_is_measured_and_has_nothing_to_be_written_to(hosts: Hosts) -> None:
    with configured(hosts, Net("l2"), ACROSS):
        before = tables(hosts.one)
        lines = hosts.lines(hosts.one, "probe", "--write", code=1)  # the path is narrow
        assert lines[-1] == "no routes to write to: mode l2 has none"
        assert tables(hosts.one) == before


def test_a_silent_peer_is_named(hosts: Hosts) -> None:
    with configured(hosts, Net("l3"), ACROSS):
        hosts.bed.switch.run("ip", "-n", "near", "link", "set", HOP, "down")
        try:
            done = hosts.run(hosts.one, "probe")
        finally:
            hosts.bed.switch.run("ip", "-n", "near", "link", "set", HOP, "up")
            hosts.bed.switch.run("ip", "-n", "near", "route", "replace", "10.99.1.0/24", "via", "10.99.9.2")
        assert done.returncode == 1
        assert done.stderr == f"cnictl: network {Net('l3').name}: h2 (10.99.1.2): no answer\n"
        assert next(row for row in done.stdout.splitlines() if row.startswith("h3")).split()[2] != "-"
