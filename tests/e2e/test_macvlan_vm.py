"""VLANs below macvlan links under the distribution's kernel: what `lab/guest_macvlan.py` did there."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.e2e.lab.guest_macvlan import ALIAS, LONG, SCRIPT
from tests.e2e.lab.vm import Steps

pytestmark = pytest.mark.needs("qemu-system-x86_64", "kernel", "busybox", "modprobe", "bridge", "ip", "nft")


@pytest.fixture(scope="module")
def steps(guest: dict[str, Steps]) -> Steps:
    return guest["macvlan"]


def test_every_call_succeeds(steps: Steps) -> None:
    calls = [name for name in steps if name.startswith(("status", "add-", "check-", "del-", "gc-"))]
    calls.remove("status-down")
    assert {name: steps[name] for name in calls if steps[name].code != 0} == {}
    assert len(calls) > 60


@pytest.mark.parametrize("scene", re.findall(r"^scene (\S+)$", SCRIPT, re.MULTILINE))
def test_nothing_is_left(steps: Steps, scene: str) -> None:
    """Links, routes, rules and leases are what they were before the first call."""
    assert steps[f"state-{scene}"].out == steps["state-before"].out


def test_the_link_of_a_vlan_is_made(steps: Steps) -> None:
    link = _vlans(steps, "first")["eth0.100"]
    assert (link["link"], link["ifalias"], link["operstate"]) == ("eth0", ALIAS, "UP")
    assert link["linkinfo"]["info_data"] == {"protocol": "802.1Q", "id": 100, "flags": ["REORDER_HDR"]}


@pytest.mark.parametrize("moment", ["shared", "one-network-left"])
def test_networks_share_the_link(steps: Steps, moment: str) -> None:
    assert set(_vlans(steps, moment)) == {"eth0.100", "eth0.200"}


@pytest.mark.parametrize("name", re.findall(r"step ((?:ping|silent)-\S+)", SCRIPT))
def test_machines_of_one_vlan_reach_each_other_and_no_others(steps: Steps, name: str) -> None:
    assert steps[name].code == 0, steps[name]


def test_frames_are_tagged_on_the_wire(steps: Steps) -> None:
    first, last = _seen(steps, "seen"), _seen(steps, "seen-provider")
    assert all(first[kind] > 0 for kind in ("802.1q 100", "802.1q 200"))
    assert (first["802.1ad 500"], last["802.1ad 500"] > 0) == (0, True)
    assert last["untagged"] == 0


def test_links_by_hand_are_used_and_never_removed(steps: Steps) -> None:
    for moment, name in (("by-hand", "eth0.100"), ("office", "office")):
        [(found, link)] = _vlans(steps, moment).items()
        assert (found, "ifalias" in link) == (name, False)
        assert steps[f"{moment}-stays"].code == 0


@pytest.mark.parametrize(
    ("moment", "name", "below", "protocol", "vlan"),
    [
        ("dotted", r"eth0\.200", "eth0", "802.1Q", 200),
        ("long", r"vlan[0-9a-f]{6}\.4094", LONG, "802.1Q", 4094),
        ("provider", r"eth0\.500", "eth0", "802.1ad", 500),
        ("inner", r"eth0\.100\.30", "eth0.100", "802.1Q", 30),
    ],
)
def test_names_and_kinds(steps: Steps, moment: str, name: str, below: str, protocol: str, vlan: int) -> None:
    [link] = [link for found, link in _vlans(steps, moment).items() if re.fullmatch(name, found)]
    data = link["linkinfo"]["info_data"]
    assert (link["link"], link["ifalias"]) == (below, ALIAS)
    assert (data["protocol"], data["id"]) == (protocol, vlan)


def test_a_link_below_one_in_use_stays(steps: Steps) -> None:
    assert steps["outer-stays"].code == 0


@pytest.mark.parametrize(
    ("clash", "code", "message"),
    [
        ("vlan", 101, '"eth0.300" already exists but is not VLAN 300 (802.1q) of eth0'),
        ("veth", 101, '"eth0.300" already exists but is not VLAN 300 (802.1q) of eth0'),
        ("protocol", 101, '"eth0.100" already exists but is not VLAN 100 (802.1ad) of eth0'),
        ("protocol-reversed", 101, '"eth0.100" already exists but is not VLAN 100 (802.1q) of eth0'),
        ("dotted-protocol", 7, "eth0.100 is VLAN 100 with a protocol other than 802.1ad"),
    ],
)
def test_claims_that_clash_are_refused(steps: Steps, clash: str, code: int, message: str) -> None:
    assert _error(steps, f"clash-{clash}") == (code, message)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("unclaimed", "refused-vlan"),
        ("unclaimed-veth", "refused-veth"),
        ("claimed", "refused-protocol"),
        ("claimed-other", "refused-protocol-reversed"),
        ("down", "down-nothing-left"),
    ],
)
def test_a_refused_add_changes_nothing(steps: Steps, before: str, after: str) -> None:
    assert steps[after].out == steps[before].out


def test_a_parent_that_is_down_is_named(steps: Steps) -> None:
    assert _error(steps, "status-down") == (50, "master eth0.100 is down")
    for name in ("down-refused", "down-dotted-refused"):
        assert _error(steps, name) == (11, "eth0 is down")
    assert steps["down-race-answers"].out.count('"msg": "eth0 is down"') == 5


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("down", "link eth0.100 in the host is down"),
        ("mode", "link eth0 is in mode private, not bridge"),
        ("gone", "link eth0.100 is missing in the host"),
        ("other", '"eth0.100" already exists but is not VLAN 100 (802.1q) of eth0'),
        ("routed-down", "link eth0.200 in the host is down"),
        ("route", "routes of the host out of mvhost"),
    ],
)
def test_tampering_is_found_and_named(steps: Steps, fault: str, message: str) -> None:
    code, text = _error(steps, f"tampered-{fault}")
    assert (code, text.startswith(message)) == (103, True), text


def test_the_link_goes_with_sandboxes_that_end_without_del(steps: Steps) -> None:
    for name in ("ended-gone", "ended-stays", "ended-collected"):
        assert steps[name].code == 0, name


@pytest.mark.parametrize("user", ["address", "link-local", "bridge", "hand", "upper"])
def test_a_link_that_somebody_else_uses_stays(steps: Steps, user: str) -> None:
    assert steps[f"stays-{user}"].code == 0


def test_a_port_of_a_bridge_is_no_master(steps: Steps) -> None:
    assert _error(steps, "taken-bridge") == (7, "eth0.100 is a port of br0, which takes its frames")


def test_many_come_and_go_at_once(steps: Steps) -> None:
    assert steps["race-add"].out.split() == steps["race-del"].out.split() == ["0"] * 8
    assert set(_vlans(steps, "race")) == {"eth0.100"}
    assert steps["race-unreached"].out.strip() == ""


def test_nobody_loses_the_link_to_one_who_goes(steps: Steps) -> None:
    assert steps["churn"].out.strip() == ""


def test_the_host_routes_between_vlans(steps: Steps) -> None:
    routes = {name: step.code for name, step in steps.items() if name.startswith("route-")}
    assert routes == dict.fromkeys(routes, 0)
    assert len(routes) == 10
    assert steps["routed-stays"].code == 0


def _vlans(steps: Steps, moment: str) -> dict[str, dict[str, Any]]:
    links = steps[f"links-{moment}"].document
    return {link["ifname"]: link for link in links if link.get("linkinfo", {}).get("info_kind") == "vlan"}


def _seen(steps: Steps, name: str) -> dict[str, int]:
    found = re.findall(r'packets (\d+) bytes \d+ comment "([^"]*)"', steps[name].out)
    return {comment: int(packets) for packets, comment in found}


def _error(steps: Steps, name: str) -> tuple[int, str]:
    assert steps[name].code == 1, steps[name]
    document = json.loads(steps[name].out)
    return document["code"], document["msg"]
