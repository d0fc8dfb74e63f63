"""VLANs of the bridge plugin under the distribution's kernel: one boot in which all is looked at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.lab.vm import SHELL, Guest, Step, Steps, parse

pytestmark = pytest.mark.needs("qemu-system-x86_64", "kernel", "busybox", "modprobe", "bridge", "ip")

BRIDGE = "cniebr0"
MODULES = ("bridge", "veth", "8021q", "nf_tables", "nft_masq", "nft_chain_nat")
RIDES_ON = {"cniVersion": "1.0.0", "type": "bridge", "bridge": BRIDGE}
NETWORKS: dict[str, dict[str, Any]] = {
    "n100": {
        "vlan": 100,
        "isGateway": True,
        "ipam": {"rangeStart": "10.100.0.10", "rangeEnd": "10.100.0.99"},
    },
    "n200": {"vlan": 200, "ipam": {"rangeStart": "10.100.0.200", "rangeEnd": "10.100.0.249"}},
    "keep": {
        "vlan": 100,
        "preserveDefaultVlan": True,
        "ipam": {"rangeStart": "10.100.0.100", "rangeEnd": "10.100.0.149"},
    },
    "race": {
        "bridge": "cniebr1",
        "vlan": 7,
        "isGateway": True,
        "ipam": {"subnet": "10.107.0.0/24"},
    },
    "trunk": {"vlanTrunk": [{"id": 100}, {"minID": 300, "maxID": 302}]},
}
CONTAINERS = {"a": "n100", "b": "n100", "other": "n200", "kept": "keep", "trunked": "trunk"}
SCRIPT = r"""
PLUGIN=bridge
for n in a b other kept trunked; do ip netns add $n; done
step add-a cni ADD a /conf/n100
step links-first ip -j link
with_key prevResult /tmp/out-add-a /conf/n100 >/conf/check-a
step add-b cni ADD b /conf/n100
step add-other cni ADD other /conf/n200
step add-kept cni ADD kept /conf/keep
step add-trunked cni ADD trunked /conf/trunk
ip -n trunked link add link eth0 name eth0.100 type vlan id 100
ip -n trunked addr add 10.100.0.250/24 dev eth0.100
ip -n trunked link set eth0 up
ip -n trunked link set eth0.100 up
step check-a cni CHECK a /conf/check-a
step vlans bridge -j vlan show
step gateway ip -j addr show
step ping-same ping_from a "$(address_of b)"
step ping-gateway ping_from a 10.100.0.1
step ping-kept ping_from a "$(address_of kept)"
step ping-trunked ping_from a 10.100.0.250
step ping-different ping_from a "$(address_of other)"
step del-a cni DEL a /conf/n100
step del-b cni DEL b /conf/n100
step del-other cni DEL other /conf/n200
step del-kept cni DEL kept /conf/keep
step del-trunked cni DEL trunked /conf/trunk
step links-last ip -j link
step vlans-last bridge -j vlan show
race() {
    for i in 1 2 3 4 5 6; do ip netns add p$i; done
    for i in 1 2 3 4 5 6; do (cni ADD p$i /conf/race >/tmp/p$i; echo $? >/tmp/code-p$i) & done; wait
    for i in 1 2 3 4 5 6; do cat /tmp/code-p$i; ping_from p$i 10.107.0.1 >/dev/null; echo $?; done
    for i in 1 2 3 4 5 6; do cni DEL p$i /conf/race; done
}
step race race
step leases leases
"""


@pytest.fixture(scope="module")
def steps(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Steps:
    files: dict[str, Path | str] = {f"conf/{name}": _conf(name) for name in NETWORKS}
    files |= {f"opt/cni/bin/{name}": dist / name for name in ("bridge", "host-local")}
    guest = Guest(SHELL + SCRIPT, ("ip", "bridge"), MODULES, files)
    return parse(guest.run(tmp_path_factory.mktemp("vm"), timeout=500))


def test_every_call_succeeds(steps: Steps) -> None:
    calls = [name for name in steps if name.startswith(("add", "check", "del"))]
    assert {name: steps[name] for name in calls if steps[name].code != 0} == {}
    assert len(calls) == 2 * len(CONTAINERS) + 1


def test_parallel_first_adds_agree_on_the_gateway_port(steps: Steps) -> None:
    assert steps["race"].out.split() == ["0"] * 12


@pytest.mark.parametrize("target", ["same", "gateway", "kept", "trunked"])
def test_the_same_vlan_is_reached(steps: Steps, target: str) -> None:
    assert steps[f"ping-{target}"].code == 0, steps[f"ping-{target}"]


def test_a_different_vlan_is_not_reached(steps: Steps) -> None:
    assert "100% packet loss" in steps["ping-different"].out


@pytest.mark.parametrize(
    ("container", "vlans", "native"),
    [
        ("a", {100}, 100),
        ("b", {100}, 100),
        ("other", {200}, 200),
        ("kept", {1, 100}, 100),
        ("trunked", {1, 100, 300, 301, 302}, 1),
    ],
)
def test_a_port_is_in_its_vlans(steps: Steps, container: str, vlans: set[int], native: int) -> None:
    port = _host_end(steps, container)
    [entries] = [entry["vlans"] for entry in steps["vlans"].document if entry["ifname"] == port]
    ids = {
        vlan for entry in entries for vlan in range(entry["vlan"], entry.get("vlanEnd", entry["vlan"]) + 1)
    }
    assert ids == vlans
    assert [entry["vlan"] for entry in entries if "PVID" in entry.get("flags", [])] == [native]


def test_the_gateway_sits_on_the_link_of_the_vlan(steps: Steps) -> None:
    addresses = {
        link["ifname"]: [address["local"] for address in link["addr_info"] if address["family"] == "inet"]
        for link in steps["gateway"].document
    }
    assert addresses[f"{BRIDGE}.100"] == ["10.100.0.1"]
    assert addresses[BRIDGE] == []


def test_nothing_is_left(steps: Steps) -> None:
    """The bridge and the gateway's link belong to the network, so they stay; no port does, no lease."""
    of_the_network = _links(steps["links-first"]) - {_host_end(steps, "a")}
    assert _links(steps["links-last"]) == of_the_network
    assert {entry["ifname"] for entry in steps["vlans-last"].document} <= of_the_network
    assert steps["leases"].out.strip() == ""


def _conf(name: str) -> str:
    network = NETWORKS[name]
    ipam = {"type": "host-local", "subnet": "10.100.0.0/24"}
    merged = {"ipam": ipam | network["ipam"]} if "ipam" in network else {}
    return json.dumps(RIDES_ON | {"name": name} | network | merged)


def _host_end(steps: Steps, container: str) -> str:
    """The host's side of the container's link: in no sandbox, neither the bridge nor the gateway's link."""
    interfaces = steps[f"add-{container}"].document["interfaces"]
    [name] = [i["name"] for i in interfaces if not i.get("sandbox") and not i["name"].startswith(BRIDGE)]
    return str(name)


def _links(step: Step) -> set[str]:
    return {link["ifname"] for link in step.document}
