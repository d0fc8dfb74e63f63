"""A chained plugin and the main plugin before it: neither harms what the other made, in any command."""

from collections.abc import Mapping
from typing import Any

import pytest

from cni_plugins.contract.plugin import Decision
from cni_plugins.engine import registry
from cni_plugins.ownership import Attachment
from cni_plugins.steps.links import EnsureUp
from cni_plugins.steps.step import HOST
from tests.integration.chained import noop
from tests.integration.chained.stamp import plugin as stamp

MAC = "02:11:22:33:44:55"
MAINS: Mapping[str, dict[str, Any]] = {
    "bridge": {"type": "bridge", "bridge": "br0", "isGateway": True, "ipMasq": True},
    "bridge with a source guard": {
        "type": "bridge",
        "bridge": "br0",
        "isGateway": True,
        "ipMasq": True,
        "macspoofchk": True,
    },
    "ptp": {"type": "ptp", "ipMasq": True},
    "macvlan": {"type": "macvlan", "master": "up0", "hostAccess": True, "isGateway": True, "ipMasq": True},
}


class Chain:
    """A list of two plugins, called as libcni does."""

    def __init__(self, bed: Any, main: dict[str, Any], **stamp_keys: Any) -> None:
        self.bed = bed
        pools = bed.host_local("10.1.0.0/24", "fd00:1::/64")
        self.main = {"cniVersion": "1.1.0", "name": "net1", "ipam": pools, **main}
        self.chained = {"cniVersion": "1.1.0", "name": "net1", "type": "stamp", **stamp_keys}
        self.result: dict[str, Any] = {}

    def add(self, sandbox: Any) -> tuple[int, Any]:
        first = self.bed.add(self.main, sandbox)
        self.result = first
        code, answer = self.bed.call("ADD", {**self.chained, "prevResult": first}, sandbox)
        if code == 0:
            self.result = answer
        return code, answer

    def check(self, sandbox: Any) -> list[tuple[int, Any]]:
        final = {"prevResult": self.result}
        return [self.bed.call("CHECK", {**conf, **final}, sandbox) for conf in (self.main, self.chained)]

    def call(self, command: str, conf: dict[str, Any], sandbox: Any = "", **more: Any) -> tuple[int, Any]:
        return self.bed.call(command, {**conf, "prevResult": self.result, **more}, sandbox)


@pytest.fixture
def bed(bed: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    extra = {"stamp": lambda: stamp.PLUGIN, "noop": lambda: noop.PLUGIN}
    monkeypatch.setattr(registry, "PLUGINS", {**registry.PLUGINS, **extra})
    bed.host.run("ip", "link", "add", "up0", "type", "veth", "peer", "up1")
    bed.host.run("ip", "link", "set", "up0", "up")
    bed.host.run("ip", "link", "set", "up1", "up")
    return bed


def elements(bed: Any, plugin: str) -> int:
    """Count the elements that a plugin has in nf_tables, by what `nft` shows of their comments."""
    listed = bed.host.run("nft", "list", "ruleset")
    return listed.count(f" {plugin} net: net1,")


each_main = pytest.mark.parametrize("main", MAINS.values(), ids=MAINS)


@each_main
def test_the_life_of_a_chain(bed: Any, main: dict[str, Any]) -> None:
    guards = main["type"] == "ptp" or (main["type"] == "bridge" and "macspoofchk" not in main)
    chain, sandbox = Chain(bed, main, mac=MAC, mtu=1400, guard=guards), bed.sandbox()
    before = bed.state()
    code, result = chain.add(sandbox)
    assert code == 0, result
    own = next(item for item in result["interfaces"] if item["name"] == "eth0")
    assert (own["mac"], own["mtu"]) == (MAC, 1400)
    assert sandbox.link("eth0")["address"] == MAC
    assert sandbox.link("eth0")["mtu"] == 1400
    assert chain.check(sandbox) == [(0, None), (0, None)]
    theirs = elements(bed, main["type"])
    assert theirs > 0
    assert bool(elements(bed, "+stamp")) is guards
    assert chain.call("DEL", chain.chained, sandbox) == (0, None)
    assert (elements(bed, main["type"]), elements(bed, "+stamp")) == (theirs, 0)
    assert chain.call("DEL", chain.chained, sandbox) == (0, None)
    assert chain.call("DEL", chain.main, sandbox) == (0, None)
    assert bed.leased() == set()
    assert bed.state()["nft"] == before["nft"]
    assert bed.state()["iptables"] == before["iptables"]


@each_main
def test_check_still_finds_what_was_tampered_with(bed: Any, main: dict[str, Any]) -> None:
    chain, sandbox = Chain(bed, main, mac=MAC, mtu=1400), bed.sandbox()
    assert chain.add(sandbox)[0] == 0
    sandbox.run("ip", "link", "set", "eth0", "address", "02:11:22:33:44:66")
    for code, error in chain.check(sandbox):
        assert (code, error["code"]) == (1, 103)
        assert f"has address 02:11:22:33:44:66, not {MAC}" in error["msg"]
    sandbox.run("ip", "link", "set", "eth0", "address", MAC)
    sandbox.run("ip", "link", "set", "eth0", "mtu", "1300")
    first, (code, error) = chain.check(sandbox)
    assert first == (0, None)
    assert (code, error["msg"]) == (1, "link eth0 has mtu 1300, not 1400")


def test_the_host_ends_own_mtu_is_checked(bed: Any) -> None:
    chain, sandbox = Chain(bed, MAINS["bridge"], mtu=1400), bed.sandbox()
    assert chain.add(sandbox)[0] == 0
    host_end = Attachment("net1", "c1", "eth0").host_end
    bed.host.run("ip", "link", "set", host_end, "mtu", "1300")
    (code, error), _ = chain.check(sandbox)
    assert (code, error["msg"]) == (1, f"link {host_end} has mtu 1300, not 1500")


@each_main
def test_settings_that_are_wanted_may_be_changed_by_others(bed: Any, main: dict[str, Any]) -> None:
    chain, sandbox = Chain(bed, main), bed.sandbox()
    assert chain.add(sandbox)[0] == 0
    for key in ("ipv4/conf/eth0/arp_notify", "ipv6/conf/eth0/accept_dad", "ipv6/conf/eth0/ndisc_notify"):
        sandbox.run("sh", "-c", f"v=$(cat /proc/sys/net/{key}); echo $((1 - v)) > /proc/sys/net/{key}")
    sandbox.run("sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/eth0/keep_addr_on_down")
    assert chain.check(sandbox) == [(0, None), (0, None)]


routed = pytest.mark.parametrize("main", [MAINS["bridge"], MAINS["ptp"]], ids=["bridge", "ptp"])


@routed
def test_a_refused_add_undoes_its_own_steps_only(
    bed: Any, main: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refused step is the last: a rule, a MAC address and an MTU come before it."""

    def decide(*arguments: Any) -> Decision:
        plan, result, _ = stamp.PLUGIN.decide(*arguments)
        return Decision((*plan, EnsureUp(HOST, "not0there")), result)

    refusing = stamp.PLUGIN._replace(decide=decide)
    monkeypatch.setitem(registry.PLUGINS, "stamp", lambda: refusing)  # type: ignore[arg-type]
    chain, sandbox = Chain(bed, main, mac=MAC, mtu=1400, guard=True), bed.sandbox()
    first = bed.add(chain.main, sandbox)
    before, link = bed.state(), sandbox.link("eth0")
    code, error = bed.call("ADD", {**chain.chained, "prevResult": first}, sandbox)
    assert (code, error["code"], error["msg"]) == (1, 100, "link not0there not found")
    assert bed.state() == before
    assert sandbox.link("eth0") == link
    assert bed.call("CHECK", {**chain.main, "prevResult": first}, sandbox) == (0, None)


@routed
def test_del_without_netns_takes_the_own_rules_only(bed: Any, main: dict[str, Any]) -> None:
    chain = Chain(bed, main, guard=True)
    sandbox = bed.sandbox()
    assert chain.add(sandbox)[0] == 0
    theirs = elements(bed, main["type"])
    assert chain.call("DEL", chain.chained) == (0, None)
    assert (elements(bed, main["type"]), elements(bed, "+stamp")) == (theirs, 0)
    assert chain.call("DEL", chain.main) == (0, None)
    assert bed.host.run("nft", "list", "ruleset") == ""


@routed
def test_gc_of_one_plugin_leaves_the_rules_of_the_other(bed: Any, main: dict[str, Any]) -> None:
    chain, sandbox = Chain(bed, main, guard=True), bed.sandbox()
    assert chain.add(sandbox)[0] == 0
    counts = elements(bed, main["type"]), elements(bed, "+stamp")
    valid = {"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]}
    for conf in (chain.chained, chain.main):
        assert chain.call("GC", {**conf, **valid}) == (0, None)
    assert (elements(bed, main["type"]), elements(bed, "+stamp")) == counts
    stale = {"cni.dev/valid-attachments": []}
    assert chain.call("GC", {**chain.chained, **stale}) == (0, None)
    assert (elements(bed, main["type"]), elements(bed, "+stamp")) == (counts[0], 0)
    assert chain.call("GC", {**chain.main, **stale}) == (0, None)
    assert bed.host.run("nft", "list", "ruleset") == ""


@routed
def test_rules_of_a_release_without_plugin_names_are_the_main_plugins(bed: Any, main: dict[str, Any]) -> None:
    """CHECK accepts them, a chained plugin leaves them alone, and DEL and GC remove them."""
    for last in ("DEL", "GC"):
        chain, sandbox = Chain(bed, main), bed.sandbox()
        assert chain.add(sandbox)[0] == 0
        saved = bed.host.run("nft", "list", "ruleset")
        older = saved.replace(f" {main['type']} net: net1", " net: net1")
        assert older != saved
        bed.host.run("nft", "flush", "ruleset")
        bed.host.run("sh", "-c", f"cat <<'END' | nft -f -\n{older}END")
        assert chain.check(sandbox) == [(0, None), (0, None)]
        stale = {"cni.dev/valid-attachments": []}
        assert chain.call("DEL", chain.chained, sandbox) == (0, None)
        assert chain.call("GC", {**chain.chained, **stale}) == (0, None)
        assert bed.host.run("nft", "list", "ruleset") == older
        assert chain.call(last, {**chain.main, **stale}, sandbox) == (0, None)
        assert bed.host.run("nft", "list", "ruleset") == ""


def test_a_rule_of_another_plugin_of_the_attachment_is_not_replaced(bed: Any) -> None:
    chain, sandbox = Chain(bed, MAINS["bridge with a source guard"], guard=True), bed.sandbox()
    first = bed.add(chain.main, sandbox)
    before = bed.state()
    code, error = bed.call("ADD", {**chain.chained, "prevResult": first}, sandbox)
    assert (code, error["code"]) == (1, 101)
    assert "another plugin of this attachment" in error["msg"]
    assert " bridge net: net1, if: eth0, id: c1" in error["details"]
    assert bed.state() == before


@pytest.mark.parametrize("command", ["ADD", "CHECK"])
def test_a_chained_plugin_needs_a_prev_result(bed: Any, command: str) -> None:
    code, error = bed.call(command, Chain(bed, {}).chained, bed.sandbox())
    assert (code, error["code"], error["msg"]) == (1, 7, "required prevResult missing")


def test_status_needs_no_prev_result(bed: Any) -> None:
    assert bed.call("STATUS", Chain(bed, {}).chained) == (0, None)


def test_a_plugin_without_anything_does_nothing_in_every_command(bed: Any) -> None:
    conf = {"cniVersion": "1.1.0", "name": "net1", "type": "noop"}
    before, sandbox = bed.state(), bed.sandbox()
    assert bed.call("ADD", conf, sandbox) == (0, {"cniVersion": "1.1.0"})
    for command in ("CHECK", "DEL", "STATUS"):
        assert bed.call(command, {**conf, "prevResult": {"cniVersion": "1.1.0"}}, sandbox) == (0, None)
    assert bed.call("GC", {**conf, "cni.dev/valid-attachments": []}) == (0, None)
    assert bed.state() == before
