"""ADD, DEL and GC of bandwidth against the kernel: what is made, by which name, and that it is gone again."""

import json
from typing import Any

import pytest

from cni_plugins.contract.plugin import Decision
from cni_plugins.engine import registry
from cni_plugins.kernel.links import links
from cni_plugins.ownership import Attachment
from cni_plugins.steps.links import EnsureUp
from cni_plugins.steps.step import HOST
from tests.integration.bandwidth.conftest import BOTH, RECEIVED, SENT

ME = Attachment("net1", "c1", "eth0")
OTHER = Attachment("net1", "c1", "eth1")
SHARED = ME.reference_ifb
TO_CONTAINER = "qdisc tbf c41: root refcnt 3 rate 8Mbit burst 100000b lat 25ms"
FROM_CONTAINER = "qdisc tbf c41: root refcnt 2 rate 16Mbit burst 200000b lat 25ms"
CLSACT = "qdisc clsact ffff: parent ffff:fff1"


def test_the_life_of_an_attachment(chain: Any) -> None:
    sandbox = chain.bed.sandbox()
    end = chain.attach(sandbox)
    before, first = chain.state(), chain.results["eth0"]
    result = chain.add(sandbox, **BOTH)
    assert chain.qdiscs(end) == [TO_CONTAINER, CLSACT]
    [redirection] = chain.filters(end)
    assert redirection.startswith("protocol all pref 65535 u32 chain 0 ")
    match = "match 00000000/00000000 at 0 action order 1: mirred"
    assert f" {match} (Egress Redirect to device {SHARED}) stolen " in redirection
    assert chain.qdiscs(SHARED) == [FROM_CONTAINER]
    ifb = chain.ifbs()[SHARED]
    assert ("UP" in ifb["flags"], ifb["mtu"], ifb["ifalias"]) == (True, 1500, ME.alias)
    assert result["interfaces"] == [*first["interfaces"], {"name": SHARED, "mac": ifb["address"]}]
    assert {key: result[key] for key in first if key != "interfaces"} == {
        key: first[key] for key in first if key != "interfaces"
    }
    assert chain.check(sandbox, **BOTH) == ""
    assert sandbox.reaches("10.1.0.1")
    assert sandbox.reaches("fd00:1::1")
    assert chain.call("DEL", sandbox, **BOTH) == (0, None)
    assert chain.state() == before
    assert sandbox.reaches("10.1.0.1")
    assert chain.call("DEL", sandbox, **BOTH) == (0, None)
    assert chain.state() == before


@pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_every_version_with_interfaces_in_its_results(chain: Any, version: str) -> None:
    sandbox = chain.bed.sandbox()
    pools = chain.bed.host_local("10.1.0.0/24")
    main = chain.bed.conf(ipam=pools, isGateway=True, cniVersion=version)
    chain.results["eth0"] = chain.bed.add(main, sandbox)
    result = chain.add(sandbox, cniVersion=version, **SENT)
    assert (result["cniVersion"], result["interfaces"][-1]["name"]) == (version, SHARED)
    assert [ip["address"] for ip in result["ips"]] == ["10.1.0.2/24"]
    assert chain.call("DEL", sandbox, cniVersion=version, **SENT) == (0, None)
    assert chain.ifbs() == {}


def test_versions_without_interfaces_pass_on_and_cannot_be_limited(chain: Any) -> None:
    sandbox = chain.bed.sandbox()
    main = chain.bed.conf(ipam=chain.bed.host_local("10.1.0.0/24"), isGateway=True, cniVersion="0.2.0")
    chain.results["eth0"] = chain.bed.add(main, sandbox)
    assert chain.call("ADD", sandbox, cniVersion="0.2.0") == (0, chain.results["eth0"])
    code, error = chain.call("ADD", sandbox, cniVersion="0.2.0", **RECEIVED)
    assert (code, error["code"], error["msg"]) == (1, 7, "no interfaces provided")


@pytest.mark.parametrize(("keys", "made"), [(RECEIVED, [TO_CONTAINER]), (SENT, [CLSACT])])
def test_one_direction_alone(chain: Any, keys: dict[str, Any], made: list[str]) -> None:
    sandbox = chain.bed.sandbox()
    end = chain.attach(sandbox)
    before = chain.state()
    result = chain.add(sandbox, **keys)
    assert chain.qdiscs(end) == made
    assert (SHARED in chain.ifbs()) is (keys == SENT) is (result["interfaces"][-1]["name"] == SHARED)
    assert chain.check(sandbox, **keys) == ""
    assert chain.call("DEL", sandbox, **keys) == (0, None)
    assert chain.state() == before


def test_without_limits_prev_result_is_passed_on(chain: Any) -> None:
    sandbox = chain.bed.sandbox()
    chain.attach(sandbox)
    before = chain.state()
    zeros = {"runtimeConfig": {"bandwidth": dict.fromkeys(BOTH, 0)}}
    for keys in ({}, zeros, dict.fromkeys(BOTH, 0)):
        assert chain.call("ADD", sandbox, **keys) == (0, chain.results["eth0"])
        assert chain.call("CHECK", sandbox, **keys) == (0, None)
    assert chain.state() == before
    assert chain.call("DEL", sandbox) == (0, None)
    assert chain.state() == before


@pytest.mark.parametrize("command", ["ADD", "CHECK"])
@pytest.mark.parametrize("keys", [{}, BOTH])
def test_without_prev_result_there_is_one_clear_error(chain: Any, command: str, keys: dict[str, Any]) -> None:
    sandbox = chain.bed.sandbox()
    chain.attach(sandbox)
    code, error = chain.call(command, sandbox, prevResult=None, **keys)
    assert (code, error["code"], error["msg"]) == (1, 7, "required prevResult missing")


def test_limits_of_the_container_come_over_those_of_the_network(chain: Any) -> None:
    sandbox = chain.bed.sandbox()
    end = chain.attach(sandbox)
    of_pod = {"egressRate": 4_000_000, "egressBurst": 4294967295, "ingressRate": 0, "ingressBurst": 0}
    keys = {**BOTH, "runtimeConfig": {"bandwidth": of_pod}}
    chain.add(sandbox, **keys)
    assert chain.qdiscs(end) == [TO_CONTAINER, CLSACT]
    [bucket] = chain.qdiscs(SHARED)
    assert " rate 4Mbit " in bucket
    assert chain.check(sandbox, **keys) == ""
    assert "limit of 4000000 bit/s, not 16000000" in chain.check(sandbox, **BOTH)


BURSTS = [1, 456, 8 * 1522, 4294967295, 34359738359]
RATES = [8, 123, 10_000, 1_000_000, 10**9, 4 * 10**10, 10**12, 2**64 - 1]


@pytest.mark.parametrize("rate", RATES)
def test_any_burst_at_any_rate_is_what_check_finds(chain: Any, rate: int) -> None:
    """The kernel rounds as we think it does, and has neither refused nor cut off anything."""
    sandbox = chain.bed.sandbox()
    end = chain.attach(sandbox)
    for burst in BURSTS:
        keys = {"ingressRate": rate, "ingressBurst": burst}
        code, result = chain.call("ADD", sandbox, **keys)
        assert code == 0, result
        assert chain.check(sandbox, **keys) == "", burst
        [shown] = json.loads(chain.host.run("tc", "-json", "qdisc", "show", "dev", end))
        assert shown["options"]["rate"] == rate // 8
        other = {"ingressRate": rate ^ 8 if rate > 8 else 16, "ingressBurst": burst}
        assert "limit of" in chain.check(sandbox, **other)


@pytest.mark.parametrize(("rate", "burst"), [(80_000_000, 1), (10_000_000, 456), (1_000_000, 34359738359)])
@pytest.mark.parametrize("mtu", [1500, 9000])
def test_full_packets_pass_whatever_the_burst(chain: Any, rate: int, burst: int, mtu: int) -> None:
    sandbox = chain.bed.sandbox()
    chain.attach(sandbox, mtu=mtu)
    limits = {"ingressRate": rate, "ingressBurst": burst, "egressRate": rate, "egressBurst": burst}
    chain.add(sandbox, **limits)
    for address, head in (("10.1.0.1", 28), ("fd00:1::1", 48)):
        size = str(mtu - head)
        assert sandbox.succeeds("ping", "-c2", "-i0.2", "-W2", "-q", "-M", "do", "-s", size, address)


def test_a_low_rate_lets_packets_pass_too(chain: Any) -> None:
    """At 1000 bit/s, the burst of 4.3 s that the kernel would allow a packet is 537 bytes."""
    sandbox = chain.bed.sandbox()
    chain.attach(sandbox)
    chain.add(sandbox, ingressRate=1000, ingressBurst=80_000, egressRate=1000, egressBurst=80_000)
    assert sandbox.succeeds("ping", "-c2", "-i0.2", "-W2", "-q", "-M", "do", "-s", "1472", "10.1.0.1")


# ------------------------------------------------------------------------------------------- again, and less


def test_a_second_add_changes_the_limits_and_keeps_what_is_right(chain: Any) -> None:
    sandbox = chain.bed.sandbox()
    end = chain.attach(sandbox)
    before = chain.state()
    first = chain.results["eth0"]
    result = chain.add(sandbox, **BOTH)
    made, index = chain.state(), chain.ifbs()[SHARED]["ifindex"]
    assert chain.call("ADD", sandbox, prevResult=first, **BOTH) == (0, result)
    assert chain.state() == made
    doubled = {key: 2 * value for key, value in BOTH.items()}
    assert chain.call("ADD", sandbox, prevResult=first, **doubled) == (0, result)
    assert chain.ifbs()[SHARED]["ifindex"] == index
    assert " rate 16Mbit " in chain.qdiscs(end)[0]
    assert " rate 32Mbit " in chain.qdiscs(SHARED)[0]
    assert chain.check(sandbox, **doubled) == ""
    assert chain.call("ADD", sandbox, prevResult=first, **RECEIVED) == (0, first)
    assert (chain.qdiscs(end), chain.ifbs()) == ([TO_CONTAINER], {})
    chain.add(sandbox, prevResult=first, **SENT)
    assert (chain.qdiscs(end), chain.qdiscs(SHARED)) == ([CLSACT], [FROM_CONTAINER])
    assert chain.call("ADD", sandbox, prevResult=first) == (0, first)
    assert chain.state() == before


def test_a_second_add_mends_what_is_missing(chain: Any) -> None:
    sandbox = chain.bed.sandbox()
    end = chain.attach(sandbox)
    chain.add(sandbox, **BOTH)
    made = chain.state()
    for fault in (
        f"tc qdisc del dev {end} root",
        f"tc qdisc del dev {end} clsact",
        f"ip link set {SHARED} down",
        f"ip link del {SHARED}",
        f"tc qdisc del dev {SHARED} root",
        f"tc qdisc change dev {end} handle c41: root tbf rate 1mbit burst 9k latency 5ms",
    ):
        chain.host.run(*fault.split())
        assert chain.check(sandbox, **BOTH) != "", fault
        assert chain.call("ADD", sandbox, **BOTH) == (0, chain.results["eth0"]), fault
        assert chain.check(sandbox, **BOTH) == "", fault
        assert chain.state() == made, fault


# ---------------------------------------------------------------------------------------------- take back


def refusing(position: int) -> Any:
    """Return the plugin with a plan that is refused after some steps."""
    plugin = registry.plugin("bandwidth")

    def decide(*arguments: Any) -> Decision:
        plan, result, _ = plugin.decide(*arguments)
        assert position <= len(plan)
        return Decision((*plan[:position], EnsureUp(HOST, "not0there")), result)

    return lambda: plugin._replace(decide=decide)


LARGER = {key: 3 * value for key, value in BOTH.items()}
EARLIER = {
    "nothing": {},
    "both": BOTH,
    "received": RECEIVED,
    "larger": LARGER,
    "the smallest": dict.fromkeys(BOTH, 8),
    "huge bursts": {**BOTH, "ingressBurst": 34359738359, "egressBurst": 4294967295},
}


@pytest.mark.parametrize("earlier", EARLIER.values(), ids=EARLIER)
@pytest.mark.parametrize("keys", [BOTH, RECEIVED, SENT, {}], ids=["both", "received", "sent", "nothing"])
def test_a_refused_add_leaves_limits_as_before(
    chain: Any, monkeypatch: pytest.MonkeyPatch, earlier: dict[str, Any], keys: dict[str, Any]
) -> None:
    sandbox = chain.bed.sandbox()
    chain.attach(sandbox)
    first = chain.results["eth0"]
    chain.add(sandbox, **earlier)
    before = chain.state()
    for position in range(5):
        with monkeypatch.context() as patched:
            patched.setitem(registry.PLUGINS, "bandwidth", refusing(position))  # type: ignore[arg-type]
            code, error = chain.call("ADD", sandbox, prevResult=first, **keys)
        assert (code, error["code"], error["msg"]) == (1, 100, "link not0there not found")
        assert "could not be undone" not in error.get("details", "")
        assert chain.state() == before, position
    assert chain.check(sandbox, **earlier) == ""


# ------------------------------------------------------------------------------------------------ removal


def test_del_without_a_sandbox(chain: Any) -> None:
    sandbox = chain.bed.sandbox()
    chain.attach(sandbox)
    before = chain.state()
    chain.add(sandbox, **BOTH)
    for result in (chain.results["eth0"], None):
        assert chain.call("DEL", "", prevResult=result, **BOTH) == (0, None)
        assert chain.state() == before
        chain.results["eth0"].pop("nothing", None)
        chain.add(sandbox, **BOTH)
    assert chain.call("DEL", "/run/netns/nowhere") == (0, None)
    assert chain.state() == before


def test_del_with_a_config_that_is_no_longer_valid(chain: Any) -> None:
    sandbox = chain.bed.sandbox()
    chain.attach(sandbox)
    before = chain.state()
    chain.add(sandbox, **BOTH)
    assert chain.call("DEL", sandbox, ingressRate="much", egressBurst=-1) == (0, None)
    assert chain.state() == before


def test_del_after_the_host_end_vanished(chain: Any) -> None:
    sandbox = chain.bed.sandbox()
    end = chain.attach(sandbox)
    chain.add(sandbox, **BOTH)
    chain.host.run("ip", "link", "del", end)
    assert chain.call("DEL", sandbox, prevResult=None) == (0, None)
    assert chain.ifbs() == {}


@pytest.mark.parametrize("steps", range(5))
def test_del_after_an_add_that_was_killed(chain: Any, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """A process that is killed undoes nothing."""
    sandbox = chain.bed.sandbox()
    chain.attach(sandbox)
    before = chain.state()
    with monkeypatch.context() as patched:
        patched.setitem(registry.PLUGINS, "bandwidth", refusing(steps))  # type: ignore[arg-type]
        patched.setattr("cni_plugins.kernel.apply.Change.take_back", lambda *_: None)
        assert chain.call("ADD", sandbox, **BOTH)[0] == 1
    assert (chain.state() == before) is (steps == 0)
    assert sandbox.reaches("10.1.0.1")
    assert chain.call("DEL", "", prevResult=None) == (0, None)
    assert chain.state() == before


def test_gc_removes_ifb_links_of_attachments_that_are_not_valid(chain: Any) -> None:
    sandboxes = [chain.bed.sandbox(), chain.bed.sandbox()]
    for number, sandbox in enumerate(sandboxes):
        chain.attach(sandbox, container=f"c{number}")
        conf = chain.conf(**SENT)
        assert chain.bed.call("ADD", conf, sandbox, container=f"c{number}")[0] == 0
    chain.host.run("ip", "link", "add", "ifb0", "type", "ifb")
    other = {**chain.conf(), "name": "net2", "cni.dev/valid-attachments": []}
    assert chain.bed.call("GC", other) == (0, None)
    assert len(chain.ifbs()) == 3
    valid = [{"containerID": "c1", "ifname": "eth0"}]
    assert chain.call("GC", **{"cni.dev/valid-attachments": valid}) == (0, None)
    assert set(chain.ifbs()) == {"ifb0", Attachment("net1", "c1", "eth0").reference_ifb}


def test_the_main_plugins_gc_takes_the_ifb_link_with_the_pair(chain: Any) -> None:
    sandbox = chain.bed.sandbox()
    chain.attach(sandbox)
    chain.add(sandbox, **SENT)
    gc = chain.bed.conf(ipam=chain.bed.host_local("10.1.0.0/24"), **{"cni.dev/valid-attachments": []})
    assert chain.bed.call("GC", gc) == (0, None)
    assert chain.ifbs() == {}
    assert chain.call("DEL", sandbox) == (0, None)


# --------------------------------------------------------------------------------------- several interfaces


def test_several_interfaces_of_one_container_in_one_network(chain: Any) -> None:
    """The reference has one name for both, and refuses the second."""
    sandbox = chain.bed.sandbox()
    ends = {ifname: chain.attach(sandbox, ifname) for ifname in ("eth0", "eth1", "eth2")}
    before = chain.state()
    names = {}
    for ifname in ends:
        names[ifname] = chain.add(sandbox, ifname, **BOTH)["interfaces"][-1]["name"]
    assert len(set(names.values())) == 3
    assert names["eth0"] == SHARED
    for ifname, end in ends.items():
        assert f"to device {names[ifname]})" in chain.filters(end)[0]
        assert chain.check(sandbox, ifname, **BOTH) == ""
    assert chain.call("DEL", sandbox, "eth0", **BOTH) == (0, None)
    assert set(chain.ifbs()) == {names["eth1"], names["eth2"]}
    for ifname in ("eth1", "eth2"):
        assert chain.check(sandbox, ifname, **BOTH) == ""
    assert chain.call("DEL", "", "eth1", prevResult=None) == (0, None)
    assert set(chain.ifbs()) == {names["eth2"]}
    assert chain.check(sandbox, "eth2", **BOTH) == ""
    assert chain.call("DEL", sandbox, "eth2", **BOTH) == (0, None)
    assert chain.state() == before


class Blind:
    """The module that finds links, which finds none."""

    def find(self, *_: object) -> None:
        return None

    def __getattr__(self, name: str) -> Any:
        return getattr(links, name)


@pytest.mark.parametrize(
    ("alias", "code", "message"),
    [(OTHER.alias, 11, "was created meanwhile for another interface"), ("somebody's", 101, "already exists")],
    ids=["of another interface", "of another program"],
)
def test_a_name_that_is_taken_after_the_look(
    chain: Any, monkeypatch: pytest.MonkeyPatch, alias: str, code: int, message: str
) -> None:
    sandbox = chain.bed.sandbox()
    chain.attach(sandbox)
    before = chain.state()
    plugin = registry.plugin("bandwidth")

    def decide(*arguments: Any) -> Decision:
        chain.host.run("ip", "link", "add", SHARED, "type", "ifb")
        chain.host.run("ip", "link", "set", SHARED, "alias", alias)
        return plugin.decide(*arguments)

    for blind in (False, True):
        with monkeypatch.context() as patched:
            patched.setitem(registry.PLUGINS, "bandwidth", lambda: plugin._replace(decide=decide))  # type: ignore[arg-type]
            if blind:  # it is created between look and creation
                patched.setattr("cni_plugins.kernel.shaping.ifb.links", Blind())
            code_, error = chain.call("ADD", sandbox, **SENT)
        assert (code_, error["code"], error["msg"]) == (1, code, f"link {SHARED} {message}")
        chain.host.run("ip", "link", "del", SHARED)
        assert chain.state() == before


def test_status_is_fine_on_this_kernel(chain: Any) -> None:
    before = chain.bed.state()
    conf = {"cniVersion": "1.1.0", "name": "net1", "type": "bandwidth", **BOTH}
    assert chain.bed.call("STATUS", conf) == (0, None)
    assert chain.bed.state() == before
