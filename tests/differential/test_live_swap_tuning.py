"""tuning beside the reference's: one config sets the same in both, and each undoes what the other did."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests import cni
from tests.cni import Answer
from tests.differential.fixture import Fixture, fresh_fixture
from tests.differential.suites import Suite
from tests.differential.swap import Config

MAC = "02:11:22:33:44:55"
EVERYTHING: Config = {"mac": MAC, "promisc": True, "mtu": 1400, "allmulti": True, "txQLen": 77}
SYSCTLS = {"net.core.somaxconn": "500", "net.ipv4.conf.IFNAME.arp_filter": "1"}
LIST = "/etc/cni/tuning/allowlist.conf"


@pytest.fixture
def fixture() -> Iterator[Fixture]:
    with fresh_fixture() as made:
        yield made


class Chain:
    """A bridge of ours, and a tuning of either suite after it."""

    def __init__(self, fixture: Fixture, ours: Suite, keys: Config, box: str = "box1") -> None:
        self.fixture, self.box = fixture, box
        common = {"cniVersion": "1.0.0", "name": "net"}
        data_dir = str(fixture.directory / "tuning")
        self.tuning = {**common, "type": "tuning", "dataDir": data_dir, **keys}
        ipam = {"type": "host-local", "dataDir": str(fixture.data), "ranges": [[{"subnet": "10.1.0.0/24"}]]}
        self.main = {**common, "type": "bridge", "bridge": "br0", "ipam": ipam}
        answer = self.call(ours, "ADD", self.main)
        assert answer.code == 0, answer
        self.result = answer.document

    def call(self, suite: Suite, command: str, config: Config | None = None, **more: Any) -> Answer:
        conf = {**(config or {**self.tuning, "prevResult": self.result}), **more.pop("keys", {})}
        netns = self.fixture.box(self.box).path
        variables = cni.environment(command, container=self.box, netns=netns, path=suite.directory, **more)
        return self.fixture.call(suite, conf["type"], variables, conf)

    def add(self, suite: Suite, **more: Any) -> Config:
        answer = self.call(suite, "ADD", **more)
        assert answer.code == 0, f"{suite.label} ADD: {answer.out!r}"
        self.result = answer.document
        return self.result

    def done(self, suite: Suite, command: str, **more: Any) -> None:
        answer = self.call(suite, command, **more)
        assert answer.code == 0, f"{suite.label} {command}: {answer.out!r}"

    def files(self) -> list[str]:
        directory = self.fixture.directory / "tuning"
        return sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []

    def state(self) -> dict[str, Any]:
        """Return all that the config speaks of, as the sandbox has it."""
        box = self.fixture.box(self.box)
        [link] = json.loads(box.run("ip", "-json", "-details", "link", "show", "eth0"))
        flags = {flag: flag in link["flags"] for flag in ("PROMISC", "ALLMULTI")}
        paths = ("core/somaxconn", "ipv4/conf/eth0/arp_filter")
        values = {path: box.run("cat", f"/proc/sys/net/{path}").strip() for path in paths}
        return {**{key: link.get(key) for key in ("address", "mtu", "txqlen")}, **flags, **values}


CONFIGS: dict[str, tuple[Config, dict[str, str]]] = {
    "everything": ({**EVERYTHING, "sysctl": SYSCTLS}, {}),
    "nothing": ({}, {}),
    "sysctls with slashes": ({"sysctl": {"net/core/somaxconn": "500"}}, {}),
    "off": ({"promisc": False, "allmulti": False, "txQLen": 0}, {}),
    "MAC in CNI_ARGS": ({"mac": "02:00:00:00:00:01"}, {"CNI_ARGS": f"MAC={MAC}"}),
    "MAC in runtimeConfig": (
        {"mac": "02:00:00:00:00:01", "runtimeConfig": {"mac": MAC}},
        {"CNI_ARGS": "IgnoreUnknown=1;MAC=02:00:00:00:00:02"},
    ),
    "args before all": (
        {
            "mtu": 1300,
            "promisc": True,
            "sysctl": {"net.core.somaxconn": "400"},
            "runtimeConfig": {"mac": "02:00:00:00:00:01"},
            "args": {"cni": {**EVERYTHING, "promisc": False, "sysctl": SYSCTLS}},
        },
        {},
    ),
}


@pytest.mark.parametrize(("keys", "variables"), CONFIGS.values(), ids=CONFIGS)
def test_the_same_config_has_the_same_effect(
    fixture: Fixture, newest: Suite, ours: Suite, keys: Config, variables: dict[str, str]
) -> None:
    seen = []
    for suite, box in ((newest, "box1"), (ours, "box2")):
        chain = Chain(fixture, ours, keys, box)
        before, main = chain.state(), chain.result
        result = chain.add(suite, **variables)
        tuned = chain.state()
        main["interfaces"][2]["mac"] = tuned["address"]
        assert result == main
        chain.done(suite, "CHECK", **variables)
        chain.done(suite, "DEL", **variables)
        changed = {key: value for key, value in tuned.items() if value != before[key]}
        left = {key for key, value in chain.state().items() if value != before[key]}
        seen.append((changed, left, chain.files()))
    (theirs, their_left, their_files), (own_changes, own_left, own_files) = seen
    assert own_changes == theirs
    assert (own_left, own_files, their_files) == (set(), [], [])
    assert their_left == {key for key in theirs if "/" in key}  # the reference gives no sysctl back


def keys_of(suite: Suite) -> Config:
    return {key: value for key, value in EVERYTHING.items() if key != "txQLen" or suite.label != "debian"}


def test_ours_checks_and_undoes_what_the_reference_did(fixture: Fixture, their: Suite, ours: Suite) -> None:
    chain = Chain(fixture, ours, keys_of(their))
    before = chain.state()
    chain.add(their)
    assert chain.files() == ["box1_eth0.json"]
    chain.done(ours, "CHECK")
    chain.done(ours, "DEL")
    assert chain.state() == before
    assert chain.files() == []


def test_the_reference_checks_and_undoes_what_ours_did(fixture: Fixture, their: Suite, ours: Suite) -> None:
    sysctls = {name.replace("IFNAME", "eth0"): value for name, value in SYSCTLS.items()}  # 1.1.1 knows none
    chain = Chain(fixture, ours, {**keys_of(their), "sysctl": sysctls})
    before = chain.state()
    chain.add(ours)
    assert chain.files() == ["box1_eth0.json"]
    chain.done(their, "CHECK")
    chain.done(their, "DEL")
    left = {key for key, value in chain.state().items() if value != before[key]}
    assert left == {"core/somaxconn", "ipv4/conf/eth0/arp_filter"}
    assert chain.files() == []


def test_a_config_that_both_refuse_is_refused_in_the_same_words(
    fixture: Fixture, newest: Suite, ours: Suite
) -> None:
    configs = [
        {"sysctl": {"kernel.hostname": "x"}},
        {"sysctl": {"net": "1"}},
    ]
    chain = Chain(fixture, ours, {})
    for keys in configs:
        messages = [chain.call(suite, "ADD", keys=keys).document["msg"] for suite in (newest, ours)]
        assert all(message.startswith("invalid net sysctl key: ") for message in messages), messages
    conf = json.dumps({**chain.tuning, "prevResult": chain.result})
    twice = conf[:-1] + ', "sysctl": {"net.core.somaxconn": "1", "net.core.somaxconn": "1"}}'
    variables = cni.environment("ADD", container="box1", netns=fixture.box("box1").path)
    for suite in (newest, ours):
        answer = fixture.call(suite, "tuning", variables, twice)
        assert "duplicated sysctl keys are not allowed" in answer.document["msg"]
