"""The swap under running containers of the firewall plugin, with the bridge of the newest reference."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_interface
from typing import Any

import pytest

from tests import cni, namespaces
from tests.cni import Answer
from tests.differential import probes, snapshot
from tests.differential.fixture import Fixture, fresh_fixture
from tests.differential.suites import Suite

_NO_BUS = {"DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/nowhere"}
POLICIES = ("open", "same-bridge", "isolated")


class Swap:
    """Containers on bridges of a host, each of which either suite's firewall may add, check and delete."""

    def __init__(self, fixture: Fixture, main: Suite, **keys: Any) -> None:
        self.fixture, self.main = fixture, main
        self.keys = {"cniVersion": "1.0.0", "type": "firewall", "backend": "iptables", **keys}
        self.results: dict[str, dict[str, Any]] = {}

    def attach(self, box: str, number: int = 1) -> dict[str, Any]:
        subnets = (f"10.{number}.0.0/24", f"fd00:{number}::/64")
        pools = {"type": "host-local", "dataDir": str(self.fixture.data)}
        ranges = [[{"subnet": subnet}] for subnet in subnets]
        conf = {"cniVersion": "1.0.0", "type": "bridge", "bridge": f"br{number}", "isDefaultGateway": True}
        whole = {**conf, "name": f"net{number}", "ipam": {**pools, "ranges": ranges}}
        self.results[box] = self._call(self.main, "ADD", whole, box).ok().document
        return self.results[box]

    def call(self, suite: Suite, command: str, box: str, **keys: Any) -> Answer:
        conf = {**self.keys, "name": f"net{self._number(box)}", "prevResult": self.results[box], **keys}
        return self._call(suite, command, {k: v for k, v in conf.items() if v is not None}, box)

    def _call(self, suite: Suite, command: str, conf: dict[str, Any], box: str) -> Answer:
        netns = self.fixture.box(box).path
        variables = cni.environment(command, container=box, netns=netns, path=suite.directory, **_NO_BUS)
        return self.fixture.call(suite, conf["type"], variables, conf)

    def _number(self, box: str) -> str:
        return str(self.results[box]["interfaces"][0]["name"]).removeprefix("br")

    def addresses(self, box: str) -> list[str]:
        return [str(ip_interface(ip["address"]).ip) for ip in self.results[box]["ips"]]

    def reach(self, *boxes: str) -> set[str]:
        """Return what comes of packets between the boxes: all their own address, or nothing."""
        probes.settle(self.fixture)
        found = probes.neighbours(self.fixture, {box: self.addresses(box) for box in boxes})
        return set(found.values())

    def marks(self, box: str) -> list[str]:
        rules = snapshot.ruleset(self.fixture)
        return [address for address in self.addresses(box) if address in rules]

    def filter(self, command: str) -> list[str]:
        with self.fixture.host.entered():
            return sorted(namespaces.run(command, "-S").splitlines())


def _knowing(suite: Suite, policy: str) -> Suite:
    if policy == "isolated" and suite.label == "debian":
        pytest.skip("1.1.1 has no such policy")
    return suite


@pytest.fixture
def fixture() -> Iterator[Fixture]:
    with fresh_fixture() as made:
        yield made


@pytest.mark.parametrize("policy", POLICIES)
def test_both_make_the_same_rules(newest: Suite, ours: Suite, policy: str) -> None:
    made = []
    for suite in (newest, ours):
        with fresh_fixture() as fixture:
            swap = Swap(fixture, newest, ingressPolicy=policy, iptablesAdminChainName="SITE")
            for box, number in (("box1", 1), ("box2", 1), ("box3", 2)):
                swap.attach(box, number)
                swap.call(suite, "ADD", box).ok()
            with fixture.host.entered():
                made.append([namespaces.run(command, "-S") for command in ("iptables", "ip6tables")])
    assert made[0] == made[1]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("keys", [{}, {"backend": None}], ids=["iptables", "no backend"])
def test_ours_checks_and_deletes_what_the_reference_added(
    fixture: Fixture, their: Suite, newest: Suite, ours: Suite, policy: str, keys: dict[str, Any]
) -> None:
    swap = Swap(fixture, newest, ingressPolicy=policy)
    swap.attach("box1")
    swap.call(_knowing(their, policy), "ADD", "box1", **keys).ok()
    swap.call(ours, "CHECK", "box1", **keys).ok()
    swap.call(ours, "DEL", "box1", **keys).ok()
    assert swap.marks("box1") == []
    swap.call(ours, "DEL", "box1", prevResult=None).ok()


@pytest.mark.parametrize("policy", POLICIES)
def test_the_reference_checks_and_deletes_what_ours_added(
    fixture: Fixture, their: Suite, newest: Suite, ours: Suite, policy: str
) -> None:
    """What ours records besides is removed by its own DEL, or by GC; it lets nothing through."""
    swap = Swap(fixture, newest, ingressPolicy=policy)
    swap.attach("box1")
    swap.call(ours, "ADD", "box1").ok()
    swap.call(_knowing(their, policy), "CHECK", "box1").ok()
    swap.call(their, "DEL", "box1").ok()
    left = [line for command in ("iptables", "ip6tables") for line in swap.filter(command)]
    assert not [line for line in left if any(item in line for item in swap.addresses("box1"))]
    gc = {"cniVersion": "1.1.0", "cni.dev/valid-attachments": []}
    swap.call(ours, "GC", "box1", **gc).ok()
    assert swap.marks("box1") == []


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
@pytest.mark.parametrize(("policy", "outcome"), [("open", "own address"), ("same-bridge", "nothing")])
def test_containers_from_before_and_after_a_swap(
    fixture: Fixture, newest: Suite, ours: Suite, policy: str, outcome: str, backend: str
) -> None:
    swap = Swap(fixture, newest, ingressPolicy=policy)
    for box, number in (("box1", 1), ("box2", 2)):
        swap.attach(box, number)
    swap.call(newest, "ADD", "box1").ok()
    swap.call(ours, "ADD", "box2", backend=backend).ok()
    assert swap.reach("box1", "box2") == {outcome}


def test_a_del_of_ours_leaves_the_isolation_of_containers_of_the_reference(
    fixture: Fixture, newest: Suite, ours: Suite
) -> None:
    swap = Swap(fixture, newest, ingressPolicy="same-bridge")
    for box, number in (("box1", 1), ("box2", 1), ("box3", 2)):
        swap.attach(box, number)
    for box, suite in (("box1", newest), ("box2", ours), ("box3", newest)):
        swap.call(suite, "ADD", box).ok()
    swap.call(ours, "DEL", "box2").ok()
    assert swap.reach("box1", "box3") == {"nothing"}
    assert swap.reach("box1", "box2") == {"own address"}
