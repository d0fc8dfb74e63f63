"""Attachments made by cnitool, the protocol's own command: every verb over every example in conf/."""

from __future__ import annotations

import json
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.lab.host import Completed, Host
from tests.e2e.lab.plugin import BIN, Call, run
from tests.e2e.lab.state import assert_unchanged, leases, observe, settled
from tests.e2e.lab.tools import REPOSITORY, program

pytestmark = pytest.mark.needs("cnitool", "ping", "nft")

DUAL_STACK = {
    "cniVersion": "1.1.0",
    "name": "cniedual",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cniebr0",
            "isDefaultGateway": True,
            "ipMasq": True,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": "10.87.0.0/24"}], [{"subnet": "fd00:87::/64"}]],
            },
        }
    ],
}
EXAMPLES: dict[str, dict[str, Any]] = {"inline-dual-stack": DUAL_STACK} | {
    path.stem: json.loads(path.read_text()) for path in sorted((REPOSITORY / "conf").glob("*.conflist"))
}
DUAL_STACK_ONLY = pytest.mark.parametrize("network", [DUAL_STACK], ids=["dual-stack"], indirect=True)
NEEDS_VLANS = ("vlan", "vlanTrunk")  # test_vlan_vm.py and test_macvlan_vm.py have a kernel for these


@dataclass(frozen=True)
class Network:
    """A conflist in a host, to be driven with cnitool."""

    host: Host
    conf: dict[str, Any]

    @property
    def main(self) -> dict[str, Any]:
        """The configuration of the first plugin."""
        plugin: dict[str, Any] = self.conf["plugins"][0]
        return plugin

    def cnitool(self, verb: str, netns: str, *, check: bool = True, **environment: str) -> Completed:
        tool = program("cnitool")
        assert tool is not None
        return self.host.run(
            tool, verb, self.conf["name"], netns, check=check, env={"CNI_PATH": BIN, **environment}
        )

    def add(self, netns: str) -> list[str]:
        """ADD; the addresses, with their prefix lengths."""
        result = json.loads(self.cnitool("add", netns).stdout)
        assert result["cniVersion"] == self.conf["cniVersion"]
        return [ip["address"] for ip in result.get("ips", [])]


def examples() -> list[Any]:
    """Those examples whose plugins have no need of another kernel, or of a store."""
    return [
        pytest.param(conf, id=name)
        for name, conf in EXAMPLES.items()
        if not any(plugin.get(key) for plugin in conf["plugins"] for key in NEEDS_VLANS)
        and not any("registry" in plugin.get("ipam", {}) for plugin in conf["plugins"])
    ]


@pytest.fixture
def network(node: Host, request: pytest.FixtureRequest) -> Network:
    """An example in a host that has what it asks for; the uplink's address is that of h1 in overlays."""
    node.outside()
    main = request.param["plugins"][0]
    if master := main.get("master"):
        node.run("ip", "link", "add", master, "type", "veth", "peer", "name", "cniewire")
        for link in (master, "cniewire"):
            node.run("ip", "link", "set", link, "up")
    if peers_file := main.get("backend", {}).get("peersFile"):
        node.write(peers_file, (REPOSITORY / "conf" / Path(peers_file).name).read_text())
    node.write("/etc/cni/net.d/10-cnie.conflist", json.dumps(request.param))
    return Network(node, request.param)


@pytest.mark.parametrize("network", examples(), indirect=True)
def test_every_verb_over_an_example(network: Network) -> None:
    first, second, spare = network.host.netns("cnie1", "cnie2", "cnie3")
    before_any = observe(network.host)
    network.add(spare)
    network.cnitool("del", spare)
    idle = observe(network.host)  # the bridge stays, by design
    assert [line for line in idle["leases"] + idle["results"] if line] == []

    if network.conf["cniVersion"] == "1.1.0":
        network.cnitool("status", first)
    mine = network.add(first)
    if gives_addresses(network.main):
        theirs = network.add(second)
        assert not set(mine) & set(theirs)
        assert_they_ping_each_other(network.host, mine, theirs)
        network.cnitool("check", second)
        network.cnitool("del", second)
    network.cnitool("check", first)

    network.cnitool("del", first)
    network.cnitool("del", first)
    assert_unchanged(network.host, idle)
    assert_only_the_sandbox_loopback_is_left(network.host, first)
    assert set(before_any["links"]) <= set(observe(network.host)["links"])


@DUAL_STACK_ONLY
def test_check_finds_an_address_taken_away_by_hand(network: Network) -> None:
    [netns] = network.host.netns("cnie1")
    [address, _] = network.add(netns)
    network.host.run("ip", "-n", "cnie1", "addr", "del", address, "dev", "eth0")
    assert network.cnitool("check", netns, check=False).returncode == 1
    network.cnitool("del", netns)


@DUAL_STACK_ONLY
def test_gc_by_cnitool_collects_what_lost_its_netns(network: Network) -> None:
    lost, spare = network.host.netns("cnielost", "cniespare")
    network.add(spare)
    network.cnitool("del", spare)
    idle = observe(network.host)
    network.add(lost)
    network.host.remove_netns("cnielost")
    network.cnitool("gc", spare)
    assert_unchanged(network.host, idle)


@DUAL_STACK_ONLY
@pytest.mark.parametrize("netns_lives", [False, True], ids=["netns-gone", "netns-alive"])
def test_gc_collects_the_dead_and_leaves_the_living_alone(network: Network, *, netns_lives: bool) -> None:
    host = network.host
    living, dead = host.netns("cnieliving", "cniedead")
    conf = {"cniVersion": "1.1.0", "name": network.conf["name"], **network.main}
    add = Call("ADD", conf)
    kept = run(host, add.but(container="living", netns=living)).ok().addresses
    alone = observe(host)
    run(host, add.but(container="dead", netns=dead)).ok()
    if not netns_lives:
        host.remove_netns("cniedead")

    valid = {"cni.dev/valid-attachments": [{"containerID": "living", "ifname": "eth0"}]}
    run(host, Call("GC", {**conf, **valid})).ok()

    assert_unchanged(host, alone)
    assert len(leases(host)) == len(kept)
    host.run("ip", "netns", "exec", "cnieliving", "ping", "-c1", "-W2", "10.87.0.1")


@DUAL_STACK_ONLY
def test_the_outside_is_reached_through_masquerade(network: Network) -> None:
    [netns] = network.host.netns("cnie1")
    network.add(netns)
    for outside in ("192.0.2.2", "2001:db8::2"):
        network.host.run("ip", "netns", "exec", "cnie1", "ping", "-c1", "-W3", outside)
    network.cnitool("del", netns)
    assert settled(lambda: leases(network.host), []) == []


def gives_addresses(main: dict[str, Any]) -> bool:
    """Whether every container gets another address; that of vxlan is host-local unless it says otherwise."""
    default = "host-local" if main["type"] == "vxlan" else ""
    return bool(main.get("ipam", {}).get("type", default) == "host-local")


def assert_they_ping_each_other(host: Host, mine: list[str], theirs: list[str]) -> None:
    for netns, target in [*(("cnie1", to) for to in theirs), *(("cnie2", to) for to in mine)]:
        address = str(ip_interface(target).ip)
        host.run("ip", "netns", "exec", netns, "ping", "-c1", "-W3", address)


def assert_only_the_sandbox_loopback_is_left(host: Host, netns: str) -> None:
    links = json.loads(host.run("ip", "-j", "-n", Path(netns).name, "link").stdout)
    assert [link["ifname"] for link in links] == ["lo"]
