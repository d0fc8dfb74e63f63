"""The bridge plugin on a real kernel, seen from outside: links, addresses, packets, leftovers."""

import time
from collections.abc import Callable
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.bridge.plugin import PLUGIN
from cni_plugins.contract.plugin import Decision
from cni_plugins.engine import lifecycle
from cni_plugins.errors import KernelRefused
from cni_plugins.kernel import apply, dispatch
from cni_plugins.kernel.session.session import Session
from cni_plugins.steps.ip import EnsureAddress, EnsureSysctl
from cni_plugins.steps.links import EnsureBridge, EnsureUp
from cni_plugins.steps.step import HOST

REFUSED = EnsureSysctl(HOST, ("ipv4", "no", "such", "setting"), "1")


def port_flags(bed: Any, name: str) -> dict[str, Any]:
    return bed.host.link(name)["linkinfo"]["info_slave_data"]


def host_end(result: dict[str, Any]) -> str:
    return result["interfaces"][1]["name"]


def test_two_containers_reach_each_other_and_the_gateway(bed: Any) -> None:
    conf = bed.conf(isGateway=True, ipam=bed.host_local("10.1.0.0/24", "fd00:1::/64"))
    first, second = bed.sandbox(), bed.sandbox()
    results = [bed.add(conf, first, container="c1"), bed.add(conf, second, container="c2")]
    targets = [ip["address"].split("/")[0] for ip in results[1]["ips"]]
    assert all(first.reaches(address) for address in [*targets, "10.1.0.1", "fd00:1::1"])


def test_the_result_names_what_is_in_the_kernel(bed: Any) -> None:
    sandbox = bed.sandbox()
    result = bed.add(bed.conf(mtu=1400, ipam=bed.host_local("10.1.0.0/24")), sandbox)
    bridge, outer, inner = result["interfaces"]
    assert (bridge["name"], inner["name"], inner["sandbox"]) == ("br0", "eth0", sandbox.path)
    assert bed.host.link("br0")["address"] == bridge["mac"]
    assert bed.host.link(outer["name"])["address"] == outer["mac"]
    assert sandbox.link("eth0")["address"] == inner["mac"]
    assert (
        outer["mtu"]
        == inner["mtu"]
        == sandbox.link("eth0")["mtu"]
        == bed.host.link(outer["name"])["mtu"]
        == 1400
    )
    assert bed.host.link(outer["name"])["master"] == "br0"
    assert [(ip["address"], ip["interface"]) for ip in result["ips"]] == [("10.1.0.2/24", 2)]
    assert sandbox.addresses("eth0") == {"10.1.0.2/24"}


@pytest.mark.parametrize("ipam", [True, False])
def test_add_check_del_del_leaves_nothing_but_the_bridge(bed: Any, ipam: bool) -> None:
    section = {"ipam": bed.host_local("10.1.0.0/24", "fd00:1::/64")} if ipam else {}
    conf = bed.conf(macspoofchk=True, **section)
    sandbox = bed.sandbox()
    result = bed.add(conf, sandbox)
    assert bed.call("CHECK", {**conf, "prevResult": result}, sandbox) == (0, None)
    assert bed.call("DEL", {**conf, "prevResult": result}, sandbox) == (0, None)
    assert bed.call("DEL", conf, "") == (0, None)
    assert [link["ifname"] for link in bed.host.ip("link")] == ["lo", "br0"]
    assert [link["ifname"] for link in sandbox.ip("link")] == ["lo"]
    assert bed.host.run("nft", "list", "ruleset") == ""
    assert bed.leased() == set()


def test_an_idle_bridge_goes_with_its_last_port_where_asked(bed: Any) -> None:
    conf = bed.conf(isGateway=True, removeIdleBridge=True, ipam=bed.host_local("10.1.0.0/24"))
    sandboxes = {"c1": bed.sandbox(), "c2": bed.sandbox()}
    for container, sandbox in sandboxes.items():
        bed.add(conf, sandbox, container=container)
    assert bed.call("DEL", conf, sandboxes["c1"], container="c1")[0] == 0
    assert bed.host.link("br0")
    assert bed.call("DEL", conf, sandboxes["c2"], container="c2")[0] == 0
    assert bed.host.link("br0") is None


def test_a_bridge_of_others_is_never_removed(bed: Any) -> None:
    bed.host.run("ip", "link", "add", "br0", "type", "bridge")
    conf = bed.conf(removeIdleBridge=True, ipam=bed.host_local("10.1.0.0/24"))
    sandbox = bed.sandbox()
    bed.add(conf, sandbox)
    assert bed.call("DEL", conf, sandbox)[0] == 0
    assert bed.host.link("br0")


def test_del_needs_neither_the_sandbox_nor_a_valid_config(bed: Any) -> None:
    conf = bed.conf(ipMasq=True, isGateway=True, ipam=bed.host_local("10.1.0.0/24"))
    sandbox = bed.sandbox()
    end = host_end(bed.add(conf, sandbox))
    broken = {**conf, "mtu": "many", "ipam": {**conf["ipam"], "ranges": "none"}}
    assert bed.call("DEL", broken, "/run/netns/gone") == (0, None)
    assert bed.host.link(end) is None
    assert bed.host.run("nft", "list", "ruleset") == ""
    assert bed.leased() == set()


def test_port_flags_follow_the_config(bed: Any) -> None:
    conf = bed.conf(hairpinMode=True, portIsolation=True, ipam=bed.host_local("10.1.0.0/24"))
    flags = port_flags(bed, host_end(bed.add(conf, bed.sandbox())))
    assert (flags["hairpin"], flags["isolated"]) == (True, True)


def test_isolated_ports_do_not_reach_each_other(bed: Any) -> None:
    conf = bed.conf(portIsolation=True, isGateway=True, ipam=bed.host_local("10.1.0.0/24"))
    first, second = bed.sandbox(), bed.sandbox()
    bed.add(conf, first, container="c1")
    bed.add(conf, second, container="c2")
    assert first.reaches("10.1.0.1")
    assert not first.reaches("10.1.0.3")


def test_promiscuous_mode(bed: Any) -> None:
    bed.add(bed.conf(promiscMode=True, ipam=bed.host_local("10.1.0.0/24")), bed.sandbox())
    assert "PROMISC" in bed.host.link("br0")["flags"]


def test_two_ipv4_ranges_have_both_their_gateways(bed: Any) -> None:
    conf = bed.conf(isDefaultGateway=True, ipam=bed.host_local("10.1.0.0/24", "10.2.0.0/24"))
    sandbox = bed.sandbox()
    bed.add(conf, sandbox)
    assert bed.host.addresses("br0") == {"10.1.0.1/24", "10.2.0.1/24"}
    assert sandbox.reaches("10.2.0.1")
    bed.add(conf, bed.sandbox(), container="c2")


def test_a_default_route_without_gateway_from_ipam_is_not_doubled(bed: Any) -> None:
    ipam = bed.host_local("10.1.0.0/24", routes=[{"dst": "0.0.0.0/0"}])
    sandbox = bed.sandbox()
    result = bed.add(bed.conf(isDefaultGateway=True, ipam=ipam), sandbox)
    assert [route["gateway"] for route in sandbox.routes("default")] == ["10.1.0.1"]
    assert len(result["routes"]) == 1


def test_a_foreign_gateway_address_is_refused_or_replaced(bed: Any) -> None:
    bed.host.run("ip", "link", "add", "br0", "type", "bridge")
    bed.host.run("ip", "address", "add", "10.9.0.1/24", "dev", "br0")
    conf = bed.conf(isGateway=True, ipam=bed.host_local("10.1.0.0/24"))
    sandbox = bed.sandbox()
    before = bed.state()
    code, error = bed.call("ADD", conf, sandbox)
    assert (code, error["code"]) == (1, 101)
    assert error["msg"] == '"br0" already has an IP address different from 10.1.0.1/24'
    assert bed.state() == before
    bed.add({**conf, "forceAddress": True}, sandbox)
    assert bed.host.addresses("br0") == {"10.1.0.1/24"}


def test_the_ipv6_gateway_answers_as_soon_as_add_returns(bed: Any) -> None:
    sandbox = bed.sandbox()
    bed.add(bed.conf(isGateway=True, ipam=bed.host_local("fd00:1::/64")), sandbox)
    shown = bed.host.run("ip", "-6", "address", "show", "dev", "br0", "scope", "global")
    assert "fd00:1::1/64" in shown
    assert "tentative" not in shown
    assert sandbox.reaches("fd00:1::1")


def test_duplicate_address_detection_is_waited_for_where_asked(bed: Any) -> None:
    sandbox = bed.sandbox()
    bed.add(bed.conf(enabledad=True, ipam=bed.host_local("fd00:1::/64")), sandbox)
    assert "tentative" not in sandbox.run("ip", "-6", "address", "show", "dev", "eth0")
    assert sandbox.run("cat", "/proc/sys/net/ipv6/conf/eth0/accept_dad").strip() == "1"


def test_a_duplicate_address_is_found_and_nothing_is_left(bed: Any) -> None:
    conf = bed.conf(enabledad=True, ipam=bed.host_local("fd00:1::/64"))
    first, second = bed.sandbox(), bed.sandbox()
    bed.add(conf, first, container="c1")
    first.run("ip", "address", "add", "fd00:1::3/64", "dev", "eth0", "nodad")
    code, error = bed.call("ADD", conf, second, container="c2")
    assert (code, error["code"]) == (1, 100)
    assert "fd00:1::3 in DADFAILED state" in error["msg"]
    assert second.link("eth0") is None
    assert bed.leased() == {"fd00:1::2"}


def test_neighbours_hear_of_a_new_owner_of_an_address(bed: Any) -> None:
    conf = bed.conf(
        ipam={"type": "static", "addresses": [{"address": "10.1.0.5/24"}, {"address": "fd00:1::5/64"}]}
    )
    listener = bed.sandbox()
    bed.add(bed.conf(ipam=bed.host_local("10.1.0.0/24", "fd00:1::/64")), listener, container="listener")
    for setting in ("ipv4/conf/eth0/arp_accept", "ipv6/conf/eth0/accept_untracked_na"):
        listener.run("sh", "-c", f"echo 1 > /proc/sys/net/{setting} || true", check=False)
    # Stale entries, as a former owner of the addresses leaves them.
    for address in ("10.1.0.5", "fd00:1::5"):
        listener.run(
            "ip", "neighbour", "add", address, "lladdr", "02:00:00:00:00:99", "nud", "stale", "dev", "eth0"
        )
    inner = bed.add(conf, bed.sandbox(), container="new")["interfaces"][2]
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        known = {item["dst"]: item.get("lladdr") for item in listener.ip("neighbour")}
        if {known["10.1.0.5"], known["fd00:1::5"]} == {inner["mac"]}:
            break
        time.sleep(0.05)
    assert (known["10.1.0.5"], known["fd00:1::5"]) == (inner["mac"], inner["mac"])


def test_routes_carry_mtu_advmss_metric_and_table(bed: Any) -> None:
    routes = [
        {"dst": "192.0.2.0/24", "mtu": 1300, "advmss": 1200, "priority": 77},
        {"dst": "198.51.100.0/24", "table": 100, "scope": 253},
    ]
    sandbox = bed.sandbox()
    result = bed.add(bed.conf(ipam=bed.host_local("10.1.0.0/24", routes=routes)), sandbox)
    (route,) = sandbox.routes("192.0.2.0/24")
    assert (route["gateway"], route["metric"]) == ("10.1.0.1", 77)
    assert route["metrics"][0]["mtu"] == 1300
    assert route["metrics"][0]["advmss"] == 1200
    assert len(sandbox.routes("table", "100")) == 1
    assert result["routes"] == routes


def test_a_gateway_outside_the_subnet_still_leads_out(bed: Any) -> None:
    ipam = {
        "type": "static",
        "addresses": [{"address": "10.1.0.5/32", "gateway": "10.1.0.1"}],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    sandbox = bed.sandbox()
    bed.add(bed.conf(ipam=ipam), sandbox)
    assert sandbox.routes("default")[0]["gateway"] == "10.1.0.1"


def test_auto_mtu_follows_the_way_out_and_then_the_bridge(bed: Any) -> None:
    bed.host.run("ip", "link", "add", "up0", "mtu", "1380", "type", "veth", "peer", "up1")
    bed.host.run("ip", "link", "set", "up0", "up")
    bed.host.run("ip", "link", "set", "up1", "up")
    bed.host.run("ip", "address", "add", "192.0.2.1/24", "dev", "up0")
    bed.host.run("ip", "route", "add", "default", "via", "192.0.2.2")
    sandbox = bed.sandbox()
    bed.add(bed.conf(mtu="auto", ipam=bed.host_local("10.1.0.0/24")), sandbox)
    assert sandbox.link("eth0")["mtu"] == 1380
    assert bed.host.link("br0")["mtu"] == 1380
    bed.host.run("ip", "link", "set", "br0", "mtu", "1300")
    other = bed.sandbox()
    bed.add(bed.conf(mtu="auto", ipam=bed.host_local("10.1.0.0/24")), other, container="c2")
    assert other.link("eth0")["mtu"] == 1300


def test_an_interface_can_be_left_down(bed: Any) -> None:
    sandbox = bed.sandbox()
    bed.add(bed.conf(disableContainerInterface=True), sandbox)
    assert "UP" not in sandbox.link("eth0")["flags"]


@pytest.mark.parametrize(
    ("sources", "wanted"),
    [
        ({"CNI_ARGS": "IgnoreUnknown=1;MAC=02:00:00:00:00:01;K8S_POD_NAME=x"}, "02:00:00:00:00:01"),
        ({"CNI_ARGS": "MAC=02:00:00:00:00:01", "cni": "02-00-00-00-00-02"}, "02:00:00:00:00:02"),
        ({"cni": "02:00:00:00:00:02", "runtime": "0200.0000.0003"}, "02:00:00:00:00:03"),
    ],
)
def test_the_mac_address_has_three_sources(bed: Any, sources: dict[str, str], wanted: str) -> None:
    conf = bed.conf(ipam=bed.host_local("10.1.0.0/24"))
    if "cni" in sources:
        conf["args"] = {"cni": {"mac": sources["cni"]}}
    if "runtime" in sources:
        conf["RuntimeConfig"] = {"mac": sources["runtime"]}
    sandbox = bed.sandbox()
    variables = {"CNI_ARGS": sources["CNI_ARGS"]} if "CNI_ARGS" in sources else {}
    result = bed.add(conf, sandbox, **variables)
    assert sandbox.link("eth0")["address"] == result["interfaces"][2]["mac"] == wanted


def test_a_second_add_is_refused_and_harms_nothing(bed: Any) -> None:
    conf = bed.conf(isGateway=True, ipMasq=True, ipam=bed.host_local("10.1.0.0/24"))
    sandbox = bed.sandbox()
    bed.add(conf, sandbox)
    before = bed.state()
    for again in (conf, {**conf, "ipam": {}}):
        code, error = bed.call("ADD", again, sandbox)
        assert (code, error["code"]) == (1, 101)
        assert "already exists" in error["msg"]
    code, error = bed.call("ADD", conf, bed.sandbox())
    assert (code, error["code"]) == (1, 101)
    assert "peer provided" in error["msg"]
    assert bed.state() == before
    assert sandbox.reaches("10.1.0.1")


def test_two_interfaces_of_one_container_do_not_touch_each_other(bed: Any) -> None:
    conf = bed.conf(isGateway=True, ipMasq=True, macspoofchk=True, ipam=bed.host_local("10.1.0.0/24"))
    sandbox = bed.sandbox()
    bed.add(conf, sandbox, ifname="eth0")
    result = bed.add(conf, sandbox, ifname="eth1")
    assert bed.call("DEL", conf, sandbox, ifname="eth0") == (0, None)
    assert bed.call("CHECK", {**conf, "prevResult": result}, sandbox, ifname="eth1") == (0, None)
    assert bed.leased() == {"10.1.0.3"}


def test_gc_removes_what_is_not_valid_and_nothing_else(bed: Any) -> None:
    conf = bed.conf(isGateway=True, ipMasq=True, macspoofchk=True, ipam=bed.host_local("10.1.0.0/24"))
    other = {**conf, "name": "net2", "ipam": bed.host_local("10.1.0.0/24", gateway="10.1.0.1")}
    living, gone, foreign = bed.sandbox(), bed.sandbox(), bed.sandbox()
    result = bed.add(conf, living, container="living")
    end = host_end(bed.add(conf, gone, container="gone"))
    kept = bed.add(other, foreign, container="other")
    valid = [{"containerID": "living", "ifname": "eth0"}]
    assert bed.call("GC", {**conf, "cni.dev/valid-attachments": valid}) == (0, None)
    assert bed.host.link(end) is None
    assert bed.leased() == {"10.1.0.2"}
    assert bed.call("CHECK", {**conf, "prevResult": result}, living, container="living") == (0, None)
    assert bed.call("CHECK", {**other, "prevResult": kept}, foreign, container="other") == (0, None)


def test_a_vlan_is_refused_where_the_kernel_cannot_filter(bed: Any) -> None:
    bed.host.run("ip", "link", "add", "probe0", "type", "bridge", "vlan_filtering", "1", check=False)
    if bed.host.link("probe0"):
        pytest.skip("this kernel filters VLANs; tests/e2e has their tests")
    conf = bed.conf(vlan=100, ipam=bed.host_local("10.1.0.0/24"))
    before = bed.state()
    code, error = bed.call("ADD", conf, bed.sandbox())
    assert (code, error["code"], error["details"]) == (1, 2, "vlan or vlanTrunk is set")
    assert bed.state() == before
    code, error = bed.call("STATUS", conf)
    assert (code, error["code"]) == (1, 50)


def test_status_tells_what_would_make_an_add_fail(bed: Any) -> None:
    conf = bed.conf(ipMasq=True, ipam=bed.host_local("10.1.0.0/30"))
    assert bed.call("STATUS", conf) == (0, None)
    bed.add(conf, bed.sandbox())
    code, error = bed.call("STATUS", conf)
    assert (code, error["code"]) == (1, 50)
    bed.host.run("ip", "link", "add", "up0", "type", "veth", "peer", "up1")
    code, error = bed.call("STATUS", {**conf, "bridge": "up0"})
    assert (code, error["code"]) == (1, 50)
    assert error["msg"] == '"up0" already exists but is not a bridge'


class Meanwhile:
    """Plans as the bridge plugin does; at the last step another ADD succeeds, then the kernel refuses."""

    def __init__(self, other: Callable[[], None]) -> None:
        self._other = other

    def decide(self, *arguments: Any) -> Any:
        """Run between looking at the kernel and changing it."""
        plan, result, _ = PLUGIN.decide(*arguments)
        self._other()
        return Decision((*plan[:-1], REFUSED), result)


def test_a_failing_add_does_not_take_the_bridge_from_others(bed: Any) -> None:
    conf = bed.conf(isGateway=True, promiscMode=True, ipam=bed.host_local("10.1.0.0/24", "fd00:1::/64"))
    failing, good = bed.sandbox(), bed.sandbox()
    results: list[Any] = []
    meanwhile = Meanwhile(lambda: results.append(bed.add(conf, good, container="good")))
    request = bed.request(conf, failing, "failing")
    plugin = PLUGIN._replace(decide=meanwhile.decide)
    with bed.inside(), pytest.raises(KernelRefused):
        lifecycle.run(plugin, request, bed.program)
    assert good.reaches("10.1.0.1")
    assert good.reaches("fd00:1::1")
    assert bed.call("CHECK", {**conf, "prevResult": results[0]}, good, container="good") == (0, None)
    assert failing.link("eth0") is None


def test_what_a_failing_add_made_first_stays_while_another_attachment_uses_it(bed: Any) -> None:
    """Here the failing ADD made bridge and gateway, and the other one joined before the refusal."""
    conf = bed.conf(isGateway=True, ipam=bed.host_local("10.1.0.0/24"))
    good = bed.sandbox()
    with bed.inside(), Session(None) as session:
        bridge = EnsureBridge("br0", "02:00:00:00:00:01", 0, vlan_filtering=False)
        address = EnsureAddress("host", "br0", ip_interface("10.1.0.1/24"), skip_dad=True)
        done = [
            (step, dispatch.carry_out(session, step)) for step in (bridge, EnsureUp("host", "br0"), address)
        ]
        bed.add(conf, good, container="good")
        apply.take_back(session, done, KernelRefused("refused"))
    assert good.reaches("10.1.0.1")


def test_a_spanning_tree_does_not_hold_up_an_add(bed: Any) -> None:
    bed.host.run("ip", "link", "add", "br0", "type", "bridge", "stp_state", "1")
    began = time.monotonic()
    bed.add(bed.conf(ipam=bed.host_local("10.1.0.0/24")), bed.sandbox())
    assert time.monotonic() - began < 4


def test_a_changed_backend_leaves_no_rules_behind(bed: Any, needs: Any) -> None:
    needs("iptables-restore")
    conf = bed.conf(ipMasq=True, ipam=bed.host_local("10.1.0.0/24"))
    sandbox = bed.sandbox()
    bed.add({**conf, "ipMasqBackend": "iptables"}, sandbox)
    assert "CNI-" in bed.host.run("iptables-save")
    assert bed.call("DEL", conf, sandbox) == (0, None)
    assert "CNI-" not in bed.host.run("iptables-save")
    bed.add({**conf, "ipMasqBackend": "iptables"}, sandbox)
    assert bed.call("GC", {**conf, "cni.dev/valid-attachments": []}) == (0, None)
    assert "CNI-" not in bed.host.run("iptables-save")


def test_a_bridge_without_a_free_port_is_named(bed: Any, tmp_path: Path) -> None:
    bed.host.run("ip", "link", "add", "br0", "type", "bridge")
    batch = tmp_path / "batch"
    lines = (f"link add p{n} master br0 type veth peer name q{n}" for n in range(1023))
    batch.write_text("\n".join([*lines, ""]))
    bed.host.run("ip", "-batch", str(batch))
    code, error = bed.call("ADD", bed.conf(ipam=bed.host_local("10.1.0.0/24")), bed.sandbox())
    assert (code, error["code"]) == (1, 100)
    assert error["msg"].startswith("bridge br0 has no port left for veth")
    assert "1023 ports" in error["details"]
    code, error = bed.call("STATUS", bed.conf(ipam=bed.host_local("10.1.0.0/24")))
    assert (code, error["code"], error["msg"]) == (1, 50, "bridge br0 has no port left")
    bed.host.run("ip", "link", "del", "p0")
    assert bed.call("STATUS", bed.conf(ipam=bed.host_local("10.1.0.0/24"))) == (0, None)
    assert bed.leased() == set()


def test_iptables_is_found_where_the_path_of_the_runtime_does_not_lead(
    bed: Any, needs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("iptables-restore")
    monkeypatch.setenv("PATH", "/nowhere")
    keys = {"isGateway": True, "ipMasq": True, "ipMasqBackend": "iptables"}
    conf, sandbox = bed.conf(**keys, ipam=bed.host_local("10.1.0.0/24")), bed.sandbox()
    bed.add(conf, sandbox)
    assert bed.call("DEL", conf, sandbox) == (0, None)


@pytest.mark.parametrize(
    ("own", "router", "subnet"),
    [
        ("10.1.0.2/24", "10.1.0.1", "10.1.0.0/24"),
        ("10.1.0.2/16", "10.1.0.1", "10.1.0.0/24"),
        ("fd00:1::2/64", "fd00:1::1", "fd00:1::/64"),
    ],
)
def test_a_subnet_with_the_hosts_router_in_it_is_refused(
    bed: Any, own: str, router: str, subnet: str
) -> None:
    """The host would look for it behind the bridge; beside the router, or without a gateway, it may be."""
    far = bed.sandbox()
    for place in (bed.host, far):
        place.skip_dad()
    bed.host.run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "far0", "netns", far.path)
    for place, link, address in ((bed.host, "up0", own), (far, "far0", f"{router}/{own.split('/')[1]}")):
        place.run("ip", "link", "set", link, "up")
        place.run("ip", "address", "add", address, "dev", link, *(["nodad"] if ":" in own else []))
    bed.host.run("ip", "-6" if ":" in own else "-4", "route", "add", "default", "via", router)
    before = bed.state()
    conf = bed.conf(isGateway=True, ipam=bed.host_local(subnet))
    code, error = bed.call("ADD", conf, bed.sandbox())
    assert (code, error["code"]) == (1, 7)
    assert error["msg"] == f"subnet {subnet} contains {router}, the router of this host behind up0"
    assert bed.state() == before
    assert bed.leased() == set()
    assert bed.host.reaches(router)
    bed.add(bed.conf(ipam=bed.host_local(subnet)), bed.sandbox())
    assert bed.host.reaches(router)
