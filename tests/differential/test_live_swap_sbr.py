"""The swap under running containers with source based routing, after main plugins of either suite."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests import cni, namespaces
from tests.differential.fixture import WIRE, Fixture, fresh_fixture
from tests.differential.suites import Suite
from tests.differential.swap import Config

ROUTES = [{"dst": "0.0.0.0/0"}, {"dst": "10.9.0.0/16", "gw": "10.2.0.1"}]
DUAL = [
    {"address": "10.2.0.2/24", "gateway": "10.2.0.1"},
    {"address": "fd00:2::2/64", "gateway": "fd00:2::1"},
]
MAINS: dict[str, Config] = {
    "bridge": {"type": "bridge", "bridge": "br2", "isGateway": True},
    "macvlan": {"type": "macvlan", "master": WIRE},
    "ptp": {"type": "ptp"},
}
VERSION = "1.0.0"


class Chain:
    """A list of a main plugin and sbr for one interface of a container."""

    def __init__(self, fixture: Fixture, main: Config, **keys: Any) -> None:
        self.fixture = fixture
        common = {"cniVersion": VERSION, "name": "net"}
        ipam = {"type": "static", "addresses": DUAL, "routes": ROUTES}
        self.main = {**common, **main, "ipam": ipam}
        self.sbr = {**common, "type": "sbr", **keys}
        self.result: Config = {}

    def call(self, suite: Suite, command: str, config: Config, *, prev: bool = True) -> cni.Answer:
        variables = cni.environment(
            command, ifname="net1", netns=self.fixture.box("box1").path, path=suite.directory
        )
        whole = config | ({"prevResult": self.result} if prev and self.result else {})
        return self.fixture.call(suite, config["type"], variables, whole)

    def add(self, suite: Suite) -> None:
        with self.fixture.box("box1").entered():
            namespaces.run("sh", "-c", "for f in /proc/sys/net/ipv6/conf/*/accept_dad; do echo 0 > $f; done")
        for config in (self.main, self.sbr):
            self.result = self.call(suite, "ADD", config).ok().document

    def rules(self) -> set[tuple[str, str]]:
        """Return source and table of the rules that have a source."""
        with self.fixture.box("box1").entered():
            listed = [
                json.loads(namespaces.run("ip", family, "-j", "rule") or "[]") for family in ("-4", "-6")
            ]
        return {(rule["src"], rule["table"]) for rules in listed for rule in rules if rule["src"] != "all"}


@pytest.fixture
def fixture() -> Iterator[Fixture]:
    with fresh_fixture() as made:
        made.add_wire()
        yield made


@pytest.fixture(params=MAINS)
def chain(request: pytest.FixtureRequest, fixture: Fixture) -> Chain:
    return Chain(fixture, MAINS[request.param])


BOTH = {("10.2.0.2", "100"), ("fd00:2::2", "101")}


def test_ours_checks_and_deletes_what_the_reference_added(chain: Chain, their: Suite, ours: Suite) -> None:
    chain.add(their)
    assert chain.rules() == BOTH
    for config in (chain.main, chain.sbr):
        chain.call(ours, "CHECK", config).ok()
    for prev in (True, False):
        chain.call(ours, "DEL", chain.sbr, prev=prev).ok()
        assert chain.rules() == set()
    chain.call(ours, "DEL", chain.main).ok()


def test_ours_deletes_what_the_reference_added_without_prev_result(
    chain: Chain, their: Suite, ours: Suite
) -> None:
    chain.add(their)
    chain.call(ours, "DEL", chain.sbr, prev=False).ok()
    assert chain.rules() == set()


@pytest.mark.parametrize(
    "fault",
    [
        "ip rule del from 10.2.0.2",
        "ip -6 rule del from fd00:2::2",
        "ip route del default table 100",
        "ip route del 10.9.0.0/16 table 100",
        "ip route add 10.2.0.0/24 dev net1",
    ],
)
def test_ours_finds_a_fault_in_what_the_reference_added(
    fixture: Fixture, newest: Suite, ours: Suite, fault: str
) -> None:
    chain = Chain(fixture, MAINS["bridge"])
    chain.add(newest)
    chain.call(ours, "CHECK", chain.sbr).ok()
    with fixture.box("box1").entered():
        namespaces.run("sh", "-c", fault)
    assert chain.call(ours, "CHECK", chain.sbr).code == 1


def test_the_reference_deletes_what_ours_added(chain: Chain, their: Suite, ours: Suite) -> None:
    chain.add(ours)
    assert chain.rules() == BOTH
    chain.call(their, "DEL", chain.sbr).ok()
    assert chain.rules() == set()
    chain.call(ours, "DEL", chain.sbr).ok()


def test_a_given_table_is_swapped_too(fixture: Fixture, newest: Suite, ours: Suite) -> None:
    for first, second in ((newest, ours), (ours, newest)):
        chain = Chain(fixture, MAINS["bridge"], table=50)
        chain.add(first)
        assert chain.rules() == {("10.2.0.2", "50"), ("fd00:2::2", "50")}
        chain.call(ours, "CHECK", chain.sbr).ok()
        chain.call(second, "DEL", chain.sbr).ok()
        assert chain.rules() == set()
        chain.call(first, "DEL", chain.main).ok()


def test_tables_of_one_suite_are_not_taken_by_the_other(fixture: Fixture, newest: Suite, ours: Suite) -> None:
    for first, second in ((newest, ours), (ours, newest)):
        chain = Chain(fixture, MAINS["bridge"])
        chain.add(first)
        box = fixture.box("box1")
        with box.entered():
            namespaces.run("ip", "link", "add", "net2", "type", "veth", "peer", "net3")
            for link in ("net2", "net3"):
                namespaces.run("ip", "link", "set", link, "up")
            namespaces.run("ip", "address", "add", "10.3.0.2/24", "dev", "net2")
        result = {
            "cniVersion": VERSION,
            "interfaces": [{"name": "net2", "sandbox": box.path}],
            "ips": [{"address": "10.3.0.2/24", "gateway": "10.3.0.1", "interface": 0}],
        }
        config = {"cniVersion": VERSION, "name": "other", "type": "sbr", "prevResult": result}
        for command, wanted in (("ADD", BOTH | {("10.3.0.2", "102")}), ("DEL", BOTH)):
            variables = cni.environment(command, ifname="net2", netns=box.path, path=second.directory)
            fixture.call(second, "sbr", variables, config).ok()
            assert chain.rules() == wanted
        with box.entered():
            namespaces.run("ip", "link", "del", "net2")
        for each in (chain.sbr, chain.main):
            chain.call(first, "DEL", each).ok()
        assert chain.rules() == set()
