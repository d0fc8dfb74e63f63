"""VLANs of the bridge plugin under the distribution's kernel: what `lab/guest_bridge.py` did there."""

from __future__ import annotations

import pytest

from tests.e2e.lab.guest_bridge import BRIDGE, CONTAINERS
from tests.e2e.lab.vm import Step, Steps

pytestmark = pytest.mark.needs("qemu-system-x86_64", "kernel", "busybox", "modprobe", "bridge", "ip")


@pytest.fixture(scope="module")
def steps(guest: dict[str, Steps]) -> Steps:
    return guest["bridge"]


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


def _host_end(steps: Steps, container: str) -> str:
    """The host's side of the container's link: in no sandbox, neither the bridge nor the gateway's link."""
    interfaces = steps[f"add-{container}"].document["interfaces"]
    [name] = [i["name"] for i in interfaces if not i.get("sandbox") and not i["name"].startswith(BRIDGE)]
    return str(name)


def _links(step: Step) -> set[str]:
    return {link["ifname"] for link in step.document}
