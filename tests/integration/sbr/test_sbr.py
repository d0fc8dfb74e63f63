"""The sbr plugin on a real kernel, after each main plugin: rules, tables, CHECK, DEL, take-back."""

from typing import Any

import pytest

from cni_plugins.contract.plugin import Decision
from cni_plugins.engine import registry
from cni_plugins.ownership import Attachment
from cni_plugins.sbr.plugin import PLUGIN
from cni_plugins.steps.links import EnsureUp
from cni_plugins.steps.step import HOST
from tests.integration.sbr.conftest import DUAL, MAINS, Network, routes, routing, rules, static

each_main = pytest.mark.parametrize("main", MAINS.values(), ids=MAINS)
MARK = Attachment("net2", "c1", "net1").rule_mark(shares_table=False)


def add(bed: Any, sandbox: Any, main: str = "bridge", ipam: dict[str, Any] = DUAL, **keys: Any) -> Network:
    network = Network(bed, MAINS[main], ipam, **keys)
    code, answer = network.add(sandbox)
    assert code == 0, answer
    return network


@each_main
def test_the_life_of_a_chain(bed: Any, sandbox: Any, main: dict[str, Any]) -> None:
    network = Network(bed, main, DUAL)
    before = routing(sandbox)
    code, result = network.add(sandbox)
    assert (code, result) == (0, network.first)
    assert rules(sandbox) == {("10.2.0.2", 100), ("fd00:2::2", 101)}
    assert routes(sandbox, "-4", "main") == []
    assert [line.split()[0] for line in routes(sandbox, "-6", "main")] == ["fe80::/64"]
    assert "default via 10.2.0.1" in routes(sandbox, "-4", 100)
    assert any(line.startswith("default via fd00:2::1") for line in routes(sandbox, "-6", 101))
    assert network.check(sandbox) == [(0, None), (0, None)]
    for _ in range(2):
        assert network.call("DEL", network.sbr, sandbox) == (0, None)
        assert rules(sandbox) == set()
        assert routes(sandbox, "-4", 100) == routes(sandbox, "-6", 101) == []
    assert network.call("DEL", network.main, sandbox) == (0, None)
    assert routing(sandbox) == before


@each_main
def test_the_tables_contain_what_the_main_table_did(bed: Any, sandbox: Any, main: dict[str, Any]) -> None:
    ipam = static("10.2.0.2/24", "fd00:2::2/64", routes=[{"dst": "10.9.0.0/16", "mtu": 1300}])
    network = Network(bed, main, ipam)
    network.attach(sandbox)
    four, six = routes(sandbox, "-4", "main"), routes(sandbox, "-6", "main")
    assert bed.call("DEL", network.main, sandbox, ifname="net1") == (0, None)
    assert network.add(sandbox)[0] == 0
    plain = [line.replace(" proto kernel", "") for line in four]
    assert sorted(routes(sandbox, "-4", 100)) == sorted([*plain, "default via 10.2.0.1"])
    plain = [line.replace(" proto kernel", "") for line in six]
    default = "default via fd00:2::1 metric 1024 pref medium"
    assert sorted(routes(sandbox, "-6", 101)) == sorted([*plain, default])


def test_rules_and_routes_carry_our_marks(bed: Any, sandbox: Any) -> None:
    add(bed, sandbox)
    for family in ("-4", "-6"):
        shown = [line for line in sandbox.run("ip", family, "rule").splitlines() if "from all" not in line]
        assert [f"fwmark {MARK:#x}/0 " in line and "proto 217" in line for line in shown] == [True]
    for family, table in (("-4", "100"), ("-6", "101")):
        shown = sandbox.run("ip", family, "route", "show", "table", table).splitlines()
        assert len(shown) >= 2
        assert all("proto 217" in line for line in shown)


def test_packets_with_a_mark_of_their_own_obey_the_rule_too(bed: Any, sandbox: Any) -> None:
    add(bed, sandbox)
    for mark in ("0", "1", str(MARK)):
        found = sandbox.run("ip", "route", "get", "192.0.2.9", "from", "10.2.0.2", "mark", mark)
        assert "via 10.2.0.1 dev net1 table 100" in found
    assert "via 10.1.0.1 dev eth0" in sandbox.run("ip", "route", "get", "192.0.2.9")


def test_the_first_tables_that_nobody_uses_are_taken(bed: Any, sandbox: Any) -> None:
    """The reference sees no table that has routes and no rule."""
    sandbox.run("ip", "rule", "add", "from", "192.0.2.1", "lookup", "101")
    sandbox.run("ip", "-6", "rule", "add", "to", "2001:db8::/32", "lookup", "102")
    sandbox.run("ip", "route", "add", "192.0.2.0/24", "via", "10.1.0.1", "table", "100")
    sandbox.run("ip", "-6", "route", "add", "2001:db8::/32", "dev", "eth0", "table", "104")
    network = add(bed, sandbox)
    assert {("10.2.0.2", 103), ("fd00:2::2", 105)} < rules(sandbox)
    assert network.check(sandbox) == [(0, None), (0, None)]
    assert network.call("DEL", network.sbr, sandbox) == (0, None)
    assert rules(sandbox) == {("192.0.2.1", 101)}
    assert "192.0.2.0/24 via 10.1.0.1" in routes(sandbox, "-4", 100, "eth0")


def test_every_address_has_a_table(bed: Any, sandbox: Any) -> None:
    ipam = static("10.2.0.2/24", "10.2.0.3/24", "fd00:2::2/64", "fd00:2::3/64")
    network = add(bed, sandbox, ipam=ipam)
    assert rules(sandbox) == {("10.2.0.2", 100), ("10.2.0.3", 101), ("fd00:2::2", 102), ("fd00:2::3", 103)}
    for table in (100, 101):
        assert "default via 10.2.0.1" in routes(sandbox, "-4", table)
        assert "10.2.0.0/24 scope link src 10.2.0.2" in routes(sandbox, "-4", table)
    assert network.check(sandbox) == [(0, None), (0, None)]
    sandbox.run("ip", "route", "del", "default", "table", "101")
    (code, _), (own, error) = network.check(sandbox)
    assert (code, own) == (0, 1)
    assert error["msg"] == "route 0.0.0.0/0 via 10.2.0.1 out of net1 in the sandbox is missing"


def test_subnets_of_their_own_gateways_stay_apart(bed: Any, sandbox: Any) -> None:
    ipam = static("10.2.0.2/24")
    ipam["addresses"].append({"address": "10.3.0.2/24", "gateway": "10.3.0.1"})
    ipam["routes"] = [{"dst": "10.8.0.0/16", "gw": "10.2.0.1"}, {"dst": "10.9.0.0/16", "gw": "10.3.0.1"}]
    network = add(bed, sandbox, ipam=ipam)
    assert sorted(routes(sandbox, "-4", 100)) == [
        "10.2.0.0/24 scope link src 10.2.0.2",
        "10.8.0.0/16 via 10.2.0.1",
        "default via 10.2.0.1",
    ]
    assert sorted(routes(sandbox, "-4", 101)) == [
        "10.3.0.0/24 scope link src 10.3.0.2",
        "10.9.0.0/16 via 10.3.0.1",
        "default via 10.3.0.1",
    ]
    assert network.check(sandbox) == [(0, None), (0, None)]


def test_several_interfaces_each_have_their_own(bed: Any, sandbox: Any) -> None:
    first = add(bed, sandbox)
    third = {"type": "bridge", "bridge": "br3", "isGateway": True}
    ipam = {"type": "static", "addresses": [{"address": "10.3.0.2/24", "gateway": "10.3.0.1"}]}
    second = Network(bed, third, ipam, name="net3", ifname="net2")
    assert second.add(sandbox)[0] == 0
    assert rules(sandbox) == {("10.2.0.2", 100), ("fd00:2::2", 101), ("10.3.0.2", 102)}
    for network in (first, second):
        assert network.check(sandbox) == [(0, None), (0, None)]
    assert first.call("DEL", first.sbr, sandbox, prevResult=None) == (0, None)
    assert rules(sandbox) == {("10.3.0.2", 102)}
    assert "default via 10.3.0.1" in routes(sandbox, "-4", 102, "net2")
    assert second.check(sandbox) == [(0, None), (0, None)]
    assert second.call("DEL", second.sbr, sandbox) == (0, None)
    assert rules(sandbox) == set()


# ------------------------------------------------------------------------------------------------- CHECK

TAMPERED = {
    "rule": ("ip rule del from 10.2.0.2 lookup 100", "rule from 10.2.0.2 in the sandbox is missing"),
    "IPv6 rule": (
        "ip -6 rule del from fd00:2::2",
        "rule from fd00:2::2 in the sandbox is missing",
    ),
    "default": ("ip route del default table 100", "route 0.0.0.0/0 via 10.2.0.1 out of net1"),
    "IPv6 default": ("ip -6 route del default table 101", "route ::/0 via fd00:2::1 out of net1"),
    "subnet": ("ip route del 10.2.0.0/24 table 100", "route 10.2.0.0/24 out of net1"),
    "IPv6 subnet": ("ip -6 route del fd00:2::/64 table 101", "route fd00:2::/64 out of net1"),
    "wrong gateway": (
        "ip route replace default via 10.2.0.9 dev net1 onlink table 100",
        "via 10.2.0.1 out of net1",
    ),
    "back in main": (
        "ip route add 10.2.0.0/24 dev net1",
        "route 10.2.0.0/24 out of net1 in the sandbox is in the main table again",
    ),
    "another table": (
        "ip rule del from 10.2.0.2; ip rule add from 10.2.0.2 lookup 300",
        "route 10.2.0.0/24 out of net1",
    ),
    "flap": ("ip link set net1 down; ip link set net1 up", "out of net1"),
}


@each_main
@pytest.mark.parametrize(("command", "message"), TAMPERED.values(), ids=TAMPERED)
def test_check_finds_what_was_tampered_with(
    bed: Any, sandbox: Any, main: dict[str, Any], command: str, message: str
) -> None:
    network = Network(bed, main, DUAL)
    assert network.add(sandbox)[0] == 0
    sandbox.run("sh", "-c", command)
    code, error = network.call("CHECK", network.sbr, sandbox)
    assert (code, error["code"]) == (1, 103)
    assert message in error["details"]


@each_main
def test_check_of_the_main_plugin_misses_a_route_that_is_in_no_table(
    bed: Any, sandbox: Any, main: dict[str, Any]
) -> None:
    network = Network(bed, main, DUAL)
    assert network.add(sandbox)[0] == 0
    sandbox.run("ip", "route", "del", "default", "table", "100")
    code, error = network.call("CHECK", network.main, sandbox)
    assert (code, error["code"]) == (1, 103)
    assert "route 0.0.0.0/0" in error["msg"]


@each_main
def test_check_of_the_main_plugin_misses_a_route_in_a_table_to_which_no_rule_leads(
    bed: Any, sandbox: Any, main: dict[str, Any]
) -> None:
    network = Network(bed, main, DUAL)
    assert network.add(sandbox)[0] == 0
    sandbox.run("ip", "rule", "del", "from", "10.2.0.2")
    sandbox.run("ip", "rule", "add", "from", "10.1.0.2", "lookup", "100")
    code, error = network.call("CHECK", network.main, sandbox)
    assert (code, error["code"]) == (1, 103)
    assert "route 0.0.0.0/0" in error["details"]


def test_check_allows_routes_that_others_add(bed: Any, sandbox: Any) -> None:
    network = add(bed, sandbox)
    sandbox.run("ip", "route", "add", "10.77.0.0/16", "via", "10.2.0.1", "dev", "net1", "onlink")
    sandbox.run("ip", "route", "add", "10.78.0.0/16", "via", "10.2.0.1", "table", "100")
    assert network.check(sandbox) == [(0, None), (0, None)]


# ------------------------------------------------------------------------------------------------- DEL


def test_del_without_netns_has_nothing_to_do(bed: Any, sandbox: Any) -> None:
    network = add(bed, sandbox)
    before = routing(sandbox)
    for path in ("", "/nowhere"):
        assert network.call("DEL", network.sbr, path) == (0, None)
    assert routing(sandbox) == before


@pytest.mark.parametrize("keys", [{}, {"table": "rubbish"}, {"table": 7}, {"gateways": 5}], ids=str)
def test_del_without_prev_result_finds_the_rules_of_an_interface_that_is_gone(
    bed: Any, sandbox: Any, keys: dict[str, Any]
) -> None:
    network = add(bed, sandbox)
    sandbox.run("ip", "link", "del", "net1")
    assert len(rules(sandbox)) == 2
    assert network.call("DEL", network.sbr, sandbox, prevResult=None, **keys) == (0, None)
    assert rules(sandbox) == set()


def test_del_finds_the_rules_when_the_addresses_have_changed(bed: Any, sandbox: Any) -> None:
    network = add(bed, sandbox)
    sandbox.run("ip", "address", "flush", "dev", "net1")
    sandbox.run("ip", "address", "add", "10.2.0.77/24", "dev", "net1")
    assert network.call("DEL", network.sbr, sandbox, prevResult=None) == (0, None)
    assert rules(sandbox) == set()
    assert routes(sandbox, "-4", 100) == []


def test_del_leaves_the_rules_and_routes_of_others(bed: Any, sandbox: Any) -> None:
    network = add(bed, sandbox)
    sandbox.run("ip", "route", "add", "10.78.0.0/16", "via", "10.2.0.1", "table", "100")
    sandbox.run("ip", "rule", "add", "from", "10.1.0.2", "lookup", "100")
    sandbox.run("ip", "rule", "add", "from", "10.2.0.2", "ipproto", "udp", "lookup", "200")
    assert network.call("DEL", network.sbr, sandbox) == (0, None)
    assert rules(sandbox) == {("10.1.0.2", 100), ("10.2.0.2", 200)}
    assert routes(sandbox, "-4", 100) == ["10.78.0.0/16 via 10.2.0.1"]


def test_a_late_del_leaves_the_rules_of_a_successor_with_the_same_address(bed: Any, sandbox: Any) -> None:
    network = add(bed, sandbox)
    assert network.call("DEL", network.sbr, sandbox) == (0, None)
    assert network.call("DEL", network.main, sandbox) == (0, None)
    successor = add(bed, sandbox, name="net9")
    before = routing(sandbox)
    assert network.call("DEL", network.sbr, sandbox) == (0, None)
    assert routing(sandbox) == before
    assert successor.check(sandbox) == [(0, None), (0, None)]


# ------------------------------------------------------------------------------------------- refused ADD


def refusing(*arguments: Any) -> Decision:
    plan, result, _ = PLUGIN.decide(*arguments)
    return Decision((*plan, EnsureUp(HOST, "not0there")), result)


@each_main
@pytest.mark.parametrize("keys", [{}, {"addSourceHints": True}, {"table": 500}], ids=str)
def test_a_refused_add_leaves_everything_as_it_was(
    bed: Any, sandbox: Any, main: dict[str, Any], keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refused step is the last: the tables are filled, and the main table is empty by then."""
    routed = [{"dst": "0.0.0.0/0"}, {"dst": "10.9.0.0/16", "mtu": 1300, "priority": 7}, {"dst": "::/0"}]
    network = Network(bed, main, static("10.2.0.2/24", "10.2.0.3/24", "fd00:2::2/64", routes=routed), **keys)
    network.attach(sandbox)
    second = ("10.9.0.0/16", "via", "10.2.0.77", "dev", "net1", "metric", "7", "onlink")
    sandbox.run("ip", "route", "append", *second)
    before = routing(sandbox)
    monkeypatch.setitem(registry.PLUGINS, "sbr", lambda: PLUGIN._replace(decide=refusing))
    code, error = network.call("ADD", network.sbr, sandbox)
    assert (code, error["code"], error["msg"]) == (1, 100, "link not0there not found")
    assert "could not be undone" not in error.get("details", "")
    assert routing(sandbox) == before
    assert network.call("CHECK", network.main, sandbox) == (0, None)


def test_a_second_add_is_refused_and_changes_nothing(bed: Any, sandbox: Any) -> None:
    network = add(bed, sandbox)
    before = routing(sandbox)
    code, error = network.call("ADD", network.sbr, sandbox)
    assert (code, error["code"]) == (1, 101)
    assert error["msg"] == "source based routing of net1 is already set up"
    assert routing(sandbox) == before


def test_an_interface_without_address_is_refused_and_keeps_its_routes(bed: Any, sandbox: Any) -> None:
    """The reference removes the routes of an interface that prevResult lists no address of."""
    network = add(bed, sandbox)
    assert network.call("DEL", network.sbr, sandbox) == (0, None)
    before = routing(sandbox)
    others = {**network.first, "ips": [{"address": "10.5.0.2/24", "interface": 0}]}
    for result in (others, {**network.first, "ips": []}):
        code, error = network.call("ADD", network.sbr, sandbox, prevResult=result)
        assert (code, error["code"], error["msg"]) == (1, 7, "No IP addresses supplied on interface: net1")
    assert routing(sandbox) == before


def test_an_interface_that_is_not_there_is_told(bed: Any, sandbox: Any) -> None:
    network = add(bed, sandbox)
    assert network.call("DEL", network.sbr, sandbox) == (0, None)
    sandbox.run("ip", "link", "del", "net1")
    code, error = network.call("ADD", network.sbr, sandbox)
    assert (code, error["code"], error["msg"]) == (1, 100, "link net1 not found")


def test_gateways_that_are_no_neighbours_are_taken_at_their_word(bed: Any, sandbox: Any) -> None:
    network = Network(bed, MAINS["macvlan"], static("10.2.0.2/32"))
    network.main["ipam"]["addresses"][0]["gateway"] = "10.99.0.1"
    assert network.add(sandbox)[0] == 0
    assert routes(sandbox, "-4", 100) == ["default via 10.99.0.1 onlink"]
    assert network.check(sandbox) == [(0, None), (0, None)]


# ------------------------------------------------------------------------------------------------- keys


@each_main
def test_a_given_table_gets_rules_only(bed: Any, sandbox: Any, main: dict[str, Any]) -> None:
    routed = [{"dst": "10.9.0.0/16", "gw": "10.2.0.1", "table": 5001}]
    network = Network(bed, main, static("10.2.0.2/24", "fd00:2::2/64", routes=routed), table=5001)
    assert network.add(sandbox)[0] == 0
    assert rules(sandbox) == {("10.2.0.2", 5001), ("fd00:2::2", 5001)}
    assert routes(sandbox, "-4", 5001) == ["10.9.0.0/16 via 10.2.0.1"]
    assert any(line.startswith("10.2.0.") for line in routes(sandbox, "-4", "main"))
    assert network.check(sandbox) == [(0, None), (0, None)]
    sandbox.run("ip", "rule", "del", "from", "10.2.0.2")
    code, error = network.call("CHECK", network.sbr, sandbox)
    assert (code, error["msg"]) == (1, "rule from 10.2.0.2 lookup 5001 in the sandbox is missing")
    assert network.call("DEL", network.sbr, sandbox, prevResult=None, table="rubbish") == (0, None)
    assert rules(sandbox) == set()
    assert routes(sandbox, "-4", 5001) == ["10.9.0.0/16 via 10.2.0.1"]


def test_two_interfaces_share_a_given_table(bed: Any, sandbox: Any) -> None:
    first = add(bed, sandbox, table=4294967295)
    third = {"type": "bridge", "bridge": "br3", "isGateway": True}
    ipam = {"type": "static", "addresses": [{"address": "10.3.0.2/24", "gateway": "10.3.0.1"}]}
    second = Network(bed, third, ipam, name="net3", ifname="net2", table=4294967295)
    assert second.add(sandbox)[0] == 0
    assert first.call("DEL", first.sbr, sandbox) == (0, None)
    assert rules(sandbox) == {("10.3.0.2", 4294967295)}
    assert second.check(sandbox) == [(0, None), (0, None)]


@each_main
def test_gateways_of_the_config_come_before_those_of_ipam(
    bed: Any, sandbox: Any, main: dict[str, Any]
) -> None:
    network = Network(bed, main, DUAL, gateways=["10.2.0.254", "fd00:2::fe"])
    code, result = network.add(sandbox)
    assert code == 0, result
    assert [route["gw"] for route in result["routes"]] == ["10.2.0.254", "fd00:2::fe"]
    four = [line for line in routes(sandbox, "-4", 100) if line.startswith("default")]
    six = [line.split()[2] for line in routes(sandbox, "-6", 101) if line.startswith("default")]
    assert [line.removesuffix(" onlink") for line in four] == ["default via 10.2.0.254"]
    assert six == ["fd00:2::fe"]
    assert network.check(sandbox) == [(0, None), (0, None)]
    sandbox.run(
        "ip", "route", "replace", "default", "via", "10.2.0.1", "dev", "net1", "table", "100", "onlink"
    )
    assert [code for code, _ in network.check(sandbox)] == [1, 1]


@each_main
def test_source_hints_keep_the_way_to_neighbours(bed: Any, sandbox: Any, main: dict[str, Any]) -> None:
    network = Network(bed, main, DUAL, addSourceHints=True)
    assert network.add(sandbox)[0] == 0
    assert "dev net1 src 10.2.0.2" in sandbox.run("ip", "route", "get", "10.2.0.1")
    assert "src fd00:2::2" in " ".join(
        line for line in routes(sandbox, "-6", "main") if line.startswith("fd00:2::/64")
    )
    assert not any("default" in line for line in routes(sandbox, "-4", "main"))
    assert not any("default" in line for line in routes(sandbox, "-6", "main"))
    assert "default via 10.2.0.1" in routes(sandbox, "-4", 100)
    assert network.check(sandbox) == [(0, None), (0, None)]
    sandbox.run("ip", "route", "del", "10.2.0.0/24", "table", "main")
    code, error = network.call("CHECK", network.sbr, sandbox)
    assert code == 1
    assert error["msg"] == "route 10.2.0.0/24 out of net1 in the sandbox with source 10.2.0.2 is missing"


def test_without_source_hints_neighbours_are_reached_by_the_first_network(bed: Any, sandbox: Any) -> None:
    add(bed, sandbox)
    assert "via 10.1.0.1 dev eth0" in sandbox.run("ip", "route", "get", "10.2.0.1")


# --------------------------------------------------------------------------------------------- versions


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_every_protocol_version_is_served(bed: Any, sandbox: Any, version: str) -> None:
    ipam = static("10.2.0.2/24", routes=[{"dst": "0.0.0.0/0"}])
    network = add(bed, sandbox, ipam=ipam, cniVersion=version)
    assert rules(sandbox) == {("10.2.0.2", 100)}
    assert network.result == network.first
    if version >= "0.4":
        assert network.check(sandbox) == [(0, None), (0, None)]
    assert network.call("DEL", network.sbr, sandbox) == (0, None)
    assert rules(sandbox) == set()


def test_status_is_content_with_this_kernel(bed: Any) -> None:
    assert bed.call("STATUS", {"cniVersion": "1.1.0", "name": "net2", "type": "sbr"}) == (0, None)


def test_gc_has_nothing_to_do(bed: Any, sandbox: Any) -> None:
    network = add(bed, sandbox)
    before = routing(sandbox)
    stale = {"cni.dev/valid-attachments": []}
    assert network.call("GC", network.sbr, **stale) == (0, None)
    assert routing(sandbox) == before
