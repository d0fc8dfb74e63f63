"""The ptp plugin on a real kernel, seen from outside: links, addresses, packets, leftovers."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.kernel.ip import sysctl
from cni_plugins.ownership import Attachment

CONF = Path(__file__).parents[3] / "conf"
V4, V6 = "10.1.0.0/24", "fd00:1::/64"
DEFAULTS = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
OUTSIDE = "192.0.2.2", "2001:db8::2"


def ptp(bed: Any, *subnets: str, ipam: dict[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
    """Return a config with a default route for each family, which a routed container gets by itself."""
    chosen = subnets or (V4,)
    present = [route for route in DEFAULTS if any((":" in route["dst"]) == (":" in item) for item in chosen)]
    more = {} if keys.get("routed") else {"routes": present}
    section = bed.host_local(*chosen, **{**more, **(ipam or {})})
    return {"cniVersion": "1.1.0", "name": "net1", "type": "ptp", "ipam": section, **keys}


def uplink(bed: Any) -> Any:
    """Give the host a neighbour who knows nothing of containers: masquerading is what makes it answer."""
    outside = bed.sandbox()
    bed.host.run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1")
    bed.host.run("ip", "link", "set", "up1", "netns", outside.path)
    for namespace, name, last in ((bed.host, "up0", 1), (outside, "up1", 2)):
        namespace.run("ip", "link", "set", name, "up")
        namespace.run("ip", "address", "add", f"192.0.2.{last}/24", "dev", name)
        namespace.run("ip", "address", "add", f"2001:db8::{last}/64", "dev", name, "nodad")
    return outside


def host_end(result: dict[str, Any]) -> str:
    return result["interfaces"][0]["name"]


def targets(result: dict[str, Any]) -> list[str]:
    return [ip["address"].split("/")[0] for ip in result["ips"]]


@pytest.mark.parametrize("routed", [False, True])
@pytest.mark.parametrize("subnets", [(V4,), (V6,), (V4, V6)])
def test_two_containers_reach_each_other_and_the_host(
    bed: Any, subnets: tuple[str, ...], routed: bool
) -> None:
    uplink(bed)
    conf = ptp(bed, *subnets, routed=routed)
    first, second = bed.sandbox(), bed.sandbox()
    results = [bed.add(conf, first, container="c1"), bed.add(conf, second, container="c2")]
    gateways = [ip["gateway"] for ip in results[0]["ips"]]
    scoped = [f"{gateway}%eth0" if gateway.startswith("fe80") else gateway for gateway in gateways]
    assert all(first.reaches(address) for address in [*targets(results[1]), *scoped])
    assert all(bed.host.reaches(address) for address in targets(results[1]))


@pytest.mark.parametrize("routed", [False, True])
@pytest.mark.parametrize("backend", ["nftables", "iptables"])
def test_the_outside_is_reached_through_masquerade(bed: Any, needs: Any, backend: str, routed: bool) -> None:
    if backend == "iptables":
        needs("iptables-restore")
    uplink(bed)
    sandbox = bed.sandbox()
    conf = ptp(bed, V4, V6, ipMasq=True, ipMasqBackend=backend, routed=routed)
    bed.add(conf, sandbox)
    assert all(sandbox.reaches(address) for address in OUTSIDE)
    assert bed.call("DEL", conf, sandbox) == (0, None)
    assert "10.1.0.2" not in bed.host.run("nft", "list", "ruleset")


def test_the_result_names_what_is_in_the_kernel(bed: Any) -> None:
    sandbox = bed.sandbox()
    result = bed.add(ptp(bed, mtu=1400, mac="02:00:00:00:00:42"), sandbox)
    outer, inner = result["interfaces"]
    assert (inner["name"], inner["sandbox"], inner["mac"]) == ("eth0", sandbox.path, "02:00:00:00:00:42")
    assert bed.host.link(outer["name"])["address"] == outer["mac"]
    assert sandbox.link("eth0")["address"] == inner["mac"]
    mtus = {outer["mtu"], inner["mtu"], sandbox.link("eth0")["mtu"], bed.host.link(outer["name"])["mtu"]}
    assert mtus == {1400}
    assert result["ips"] == [{"address": "10.1.0.2/24", "gateway": "10.1.0.1", "interface": 1}]
    assert result["routes"] == [{"dst": "0.0.0.0/0"}]
    assert sandbox.addresses("eth0") == {"10.1.0.2/24"}
    assert bed.host.addresses(outer["name"]) == {"10.1.0.1/32"}


def test_the_routes_of_a_plain_link_are_the_references(bed: Any) -> None:
    sandbox = bed.sandbox()
    end = host_end(bed.add(ptp(bed, V4, V6), sandbox))
    inside = {
        (route["dst"], route.get("gateway"), route.get("scope"), route.get("prefsrc"))
        for route in sandbox.routes()
    }
    assert inside == {
        ("10.1.0.1", None, "link", "10.1.0.2"),
        ("10.1.0.0/24", "10.1.0.1", "global", "10.1.0.2"),
        ("default", "10.1.0.1", "global", None),
    }
    six = {
        (route["dst"], route.get("gateway"), route.get("prefsrc"))
        for route in sandbox.ip("-6", "route")
        if not route["dst"].startswith(("fe80", "ff00"))
    }
    assert six == {
        ("fd00:1::1", None, "fd00:1::2"),
        ("fd00:1::/64", "fd00:1::1", "fd00:1::2"),
        ("default", "fd00:1::1", None),
    }
    (route,) = bed.host.routes("10.1.0.2")
    assert (route["dev"], route["scope"]) == (end, "host")


def test_a_routed_container_has_nothing_but_its_own_address(bed: Any) -> None:
    sandbox = bed.sandbox()
    result = bed.add(ptp(bed, V4, V6, routed=True), sandbox)
    end = host_end(result)
    assert sandbox.addresses("eth0") == {"10.1.0.2/32", "fd00:1::2/128"}
    assert "169.254.1.1/32 scope link" in bed.host.run("ip", "-4", "-o", "address", "show", "dev", end)
    assert bed.host.addresses(end) == set()
    shown = bed.host.run("ip", "-6", "address", "show", "dev", end).split()
    assert [word for word in shown if word.startswith("fe80")] == ["fe80::1/64"]
    assert {(route["dst"], route.get("gateway")) for route in sandbox.routes()} == {
        ("169.254.1.1", None),
        ("default", "169.254.1.1"),
    }
    assert [(route["dst"], route["gw"]) for route in result["routes"]] == [
        ("0.0.0.0/0", "169.254.1.1"),
        ("::/0", "fe80::1"),
    ]
    assert bed.host.run("ip", "-o", "route", "show", "169.254.0.0/16") == ""


def test_routed_containers_may_filter_by_reverse_path(bed: Any) -> None:
    """They would drop what the host asks for by ARP if it asked from an address they have no route to."""
    uplink(bed)
    ipam = {"ipam": bed.host_local("10.1.0.0/24", routes=[{"dst": "10.1.0.0/24"}])}
    sandboxes = bed.sandbox(), bed.sandbox()
    for number, sandbox in enumerate(sandboxes):
        sandbox.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/all/rp_filter")
        bed.add({**ptp(bed, routed=True), **ipam}, sandbox, container=f"c{number}")
    assert sandboxes[0].reaches("10.1.0.3")


def test_the_routed_gateway_is_nobodys_source_address(bed: Any) -> None:
    uplink(bed)
    bed.add(ptp(bed, routed=True), bed.sandbox())
    (way,) = bed.host.ip("route", "get", "10.1.0.2")
    assert way["prefsrc"] == "192.0.2.1"


@pytest.mark.parametrize("routed", [False, True])
def test_an_ipv6_address_is_of_use_at_once(bed: Any, routed: bool) -> None:
    sandbox = bed.sandbox()
    result = bed.add(ptp(bed, V6, routed=routed), sandbox)
    for namespace, name in ((sandbox, "eth0"), (bed.host, host_end(result))):
        shown = namespace.run("ip", "-6", "address", "show", "dev", name, "scope", "global")
        assert "tentative" not in shown
    assert bed.host.reaches("fd00:1::2") or routed  # a routed container's host needs an address of its own
    assert sandbox.reaches("fe80::1%eth0" if routed else "fd00:1::1")


def test_duplicate_address_detection_is_waited_for_where_asked(bed: Any) -> None:
    sandbox = bed.sandbox()
    bed.add(ptp(bed, V6, enabledad=True), sandbox)
    shown = sandbox.run("ip", "-6", "address", "show", "dev", "eth0", "scope", "global")
    assert "fd00:1::2/64" in shown
    assert "tentative" not in shown
    assert "nodad" not in shown
    assert sandbox.run("cat", "/proc/sys/net/ipv6/conf/eth0/accept_dad").strip() == "1"


def test_auto_mtu_follows_the_way_out(bed: Any) -> None:
    uplink(bed)
    bed.host.run("ip", "link", "set", "up0", "mtu", "1380")
    bed.host.run("ip", "route", "add", "default", "via", "192.0.2.2")
    sandbox = bed.sandbox()
    bed.add(ptp(bed, mtu="auto"), sandbox)
    assert sandbox.link("eth0")["mtu"] == 1380


@pytest.mark.parametrize("keys", [{}, {"routed": True}, {"ipMasq": True}, {"ipMasq": True, "routed": True}])
@pytest.mark.parametrize("subnets", [(V4,), (V6,), (V4, V6)])
def test_add_check_del_del_leaves_nothing(bed: Any, subnets: tuple[str, ...], keys: dict[str, Any]) -> None:
    conf = ptp(bed, *subnets, **keys)
    spare, sandbox = bed.sandbox(), bed.sandbox()
    bed.add(conf, spare, container="spare")
    assert bed.call("DEL", conf, spare, container="spare") == (0, None)
    idle = bed.state()  # forwarding stays on
    result = bed.add(conf, sandbox)
    assert bed.call("CHECK", {**conf, "prevResult": result}, sandbox) == (0, None)
    assert bed.call("DEL", {**conf, "prevResult": result}, sandbox) == (0, None)
    assert bed.call("DEL", conf, "") == (0, None)
    assert bed.state() == idle
    assert [link["ifname"] for link in bed.host.ip("link")] == ["lo"]
    assert [link["ifname"] for link in sandbox.ip("link")] == ["lo"]
    assert bed.leased() == set()


def test_del_needs_neither_the_sandbox_nor_a_valid_config(bed: Any) -> None:
    conf = ptp(bed, V4, V6, ipMasq=True)
    end = host_end(bed.add(conf, bed.sandbox()))
    broken = {**conf, "mtu": "many", "ipam": {**conf["ipam"], "ranges": "none"}}
    assert bed.call("DEL", broken, "/run/netns/gone") == (0, None)
    assert bed.host.link(end) is None
    assert bed.host.run("nft", "list", "ruleset") == ""
    assert bed.leased() == set()


def test_a_second_add_is_refused_and_harms_nothing(bed: Any) -> None:
    conf = ptp(bed, V4, V6, ipMasq=True)
    sandbox = bed.sandbox()
    bed.add(conf, sandbox)
    before = bed.state()
    for again in (sandbox, bed.sandbox()):
        code, error = bed.call("ADD", conf, again)
        assert (code, error["code"]) == (1, 101)
        assert "already exists" in error["msg"]
    assert bed.state() == before
    assert sandbox.reaches("10.1.0.1")


@pytest.mark.parametrize("routed", [False, True])
@pytest.mark.parametrize(
    ("address", "length", "gateway"), [("10.1.0.5", 24, "10.1.0.1"), ("fd00:1::5", 64, "fd00:1::1")]
)
def test_an_address_that_is_routed_elsewhere_is_refused(
    bed: Any, address: str, length: int, gateway: str, routed: bool
) -> None:
    fixed = {"type": "static", "addresses": [{"address": f"{address}/{length}", "gateway": gateway}]}
    conf = {**ptp(bed, routed=routed), "ipam": fixed}
    first, second = bed.sandbox(), bed.sandbox()
    bed.add(conf, first)
    before = bed.state()
    code, error = bed.call("ADD", {**conf, "name": "net2"}, second, container="c2")
    assert (code, error["code"]) == (1, 101)
    assert f"route to {address}/" in error["msg"]
    assert "could not be undone" not in error["details"]
    assert bed.state() == before
    assert second.link("eth0") is None
    assert bed.host.reaches(address) or routed


@pytest.mark.parametrize(
    ("keys", "ipam", "message"),
    [
        ({}, {"addresses": [{"address": "10.1.0.5/24"}]}, "10.1.0.5/24 has no gateway"),
        (
            {},
            {"addresses": [{"address": "10.1.0.5/24", "gateway": "10.1.0.5"}]},
            "the gateway of 10.1.0.5/24 is the container's own address",
        ),
        (
            {"routed": True},
            {
                "addresses": [{"address": "10.1.0.5/24"}],
                "routes": [{"dst": "192.0.2.0/24", "gw": "10.1.0.1"}],
            },
            "a routed container reaches only 169.254.1.1",
        ),
    ],
)
def test_an_answer_of_the_ipam_that_does_not_fit(
    bed: Any, keys: dict[str, Any], ipam: dict[str, Any], message: str
) -> None:
    before = bed.state()
    conf = {**ptp(bed, **keys), "ipam": {"type": "static", **ipam}}
    code, error = bed.call("ADD", conf, bed.sandbox())
    assert (code, error["code"]) == (1, 7)
    assert message in error["msg"]
    assert bed.state() == before


def test_a_config_without_ipam_is_refused(bed: Any) -> None:
    code, error = bed.call("ADD", {**ptp(bed), "ipam": {}}, bed.sandbox())
    assert (code, error["code"]) == (1, 7)
    assert "ipam.type is missing" in error["msg"]


def test_a_gateway_outside_the_subnet_leads_out(bed: Any) -> None:
    uplink(bed)
    fixed = {
        "type": "static",
        "addresses": [{"address": "10.1.0.5/32", "gateway": "10.9.0.1"}],
        "routes": DEFAULTS[:1],
    }
    sandbox = bed.sandbox()
    bed.add({**ptp(bed), "ipam": fixed, "ipMasq": True}, sandbox)
    assert sandbox.reaches(OUTSIDE[0])


def test_two_interfaces_of_one_container_do_not_touch_each_other(bed: Any) -> None:
    conf = ptp(bed, ipMasq=True, ipam={"routes": []})
    sandbox = bed.sandbox()
    bed.add(conf, sandbox, ifname="eth0")
    other = {**conf, "name": "net2", "ipam": bed.host_local("10.2.0.0/24")}
    result = bed.add(other, sandbox, ifname="eth1")
    assert bed.call("DEL", conf, sandbox, ifname="eth0") == (0, None)
    assert bed.call("CHECK", {**other, "prevResult": result}, sandbox, ifname="eth1") == (0, None)
    assert sandbox.reaches("10.2.0.1")


def test_gc_removes_what_is_not_valid_and_nothing_else(bed: Any) -> None:
    conf = ptp(bed, ipMasq=True)
    other = {**conf, "name": "net2", "ipam": bed.host_local("10.2.0.0/24")}
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


def test_status_asks_the_ipam(bed: Any) -> None:
    conf = {**ptp(bed, ipMasq=True), "ipam": bed.host_local("10.1.0.0/30")}
    assert bed.call("STATUS", conf) == (0, None)
    bed.add(conf, bed.sandbox())
    code, error = bed.call("STATUS", conf)
    assert (code, error["code"]) == (1, 50)


@pytest.mark.parametrize("path", sorted(CONF.glob("*ptp*.conflist")), ids=lambda path: path.stem)
def test_the_example_configs_lead_out_and_to_each_other(bed: Any, path: Path) -> None:
    whole = json.loads(path.read_text())
    (keys,) = whole["plugins"]
    ipam = {**keys["ipam"], "dataDir": str(bed.leases)}
    conf = {"cniVersion": whole["cniVersion"], "name": whole["name"], **keys, "ipam": ipam}
    uplink(bed)
    first, second = bed.sandbox(), bed.sandbox()
    result = bed.add(conf, first, container="c1")
    other = bed.add(conf, second, container="c2")
    assert all(first.reaches(address) for address in (*OUTSIDE, *targets(other)))
    assert bed.call("CHECK", {**conf, "prevResult": result}, first, container="c1") == (0, None)
    for container in ("c1", "c2"):
        assert bed.call("DEL", conf, "", container=container) == (0, None)
    assert bed.leased(whole["name"]) == set()


# ------------------------------------------------------------------------------------- what others have done


def test_routed_containers_share_one_rule_and_are_not_masqueraded_towards_each_other(bed: Any) -> None:
    uplink(bed)
    sandboxes = [bed.sandbox() for _ in range(3)]
    for number, sandbox in enumerate(sandboxes):
        bed.add(ptp(bed, routed=True, ipMasq=True), sandbox, container=f"c{number}")
    rules = bed.host.run("nft", "list", "chain", "inet", "cni_plugins", "masq_postrouting")
    assert rules.count("masquerade") == 1
    bed.host.run("nft", "add table ip seen")
    bed.host.run("nft", "add chain ip seen out { type filter hook postrouting priority 300; }")
    bed.host.run("nft", "add rule ip seen out ip saddr 10.1.0.2 ip daddr 10.1.0.3 counter")
    assert sandboxes[0].reaches("10.1.0.3")
    assert "packets 0 " not in bed.host.run("nft", "list", "chain", "ip", "seen", "out")


def test_a_route_of_a_daemon_does_not_come_before_ours(bed: Any) -> None:
    bed.host.run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1")
    bed.host.run("ip", "link", "set", "up0", "up")
    bed.host.run("ip", "-6", "route", "add", "fd00:1::2/128", "dev", "up0", "proto", "bgp", "metric", "20")
    result = bed.add(ptp(bed, V4, V6, routed=True), bed.sandbox())
    assert f"dev {host_end(result)}" in bed.host.run("ip", "-6", "route", "get", "fd00:1::2")


@pytest.mark.parametrize("routed", [False, True])
def test_check_goes_by_what_was_made_not_by_what_the_config_says_now(bed: Any, routed: bool) -> None:
    conf, sandbox = ptp(bed, V4, V6, routed=routed), bed.sandbox()
    result = bed.add(conf, sandbox)
    checked = {**conf, "routed": not routed, "prevResult": result}
    assert bed.call("CHECK", checked, sandbox) == (0, None)


@pytest.mark.parametrize("routed", [False, True])
def test_an_address_that_a_later_plugin_added_is_no_difference(bed: Any, routed: bool) -> None:
    conf, sandbox = ptp(bed, routed=routed), bed.sandbox()
    result = bed.add(conf, sandbox)
    sandbox.run("ip", "address", "add", "10.5.5.5/24", "dev", "eth0")
    result["ips"].append({"address": "10.5.5.5/24", "interface": 1})
    assert bed.call("CHECK", {**conf, "prevResult": result}, sandbox) == (0, None)


def test_a_host_end_in_a_bridge_is_found(bed: Any) -> None:
    conf, sandbox = ptp(bed), bed.sandbox()
    result = bed.add(conf, sandbox)
    bed.host.run("ip", "link", "add", "br9", "type", "bridge")
    bed.host.run("ip", "link", "set", host_end(result), "master", "br9")
    code, error = bed.call("CHECK", {**conf, "prevResult": result}, sandbox)
    assert (code, error["code"]) == (1, 103)
    assert "is a port of br9" in error["msg"]


def test_a_host_end_that_was_renamed_goes_all_the_same(bed: Any) -> None:
    conf, sandbox = ptp(bed), bed.sandbox()
    bed.host.run("ip", "link", "set", host_end(bed.add(conf, sandbox)), "name", "other0")
    assert bed.call("DEL", conf, sandbox) == (0, None)
    assert [link["ifname"] for link in bed.host.ip("link")] == ["lo"]
    assert sandbox.link("eth0") is None


def test_a_strangers_link_of_the_host_ends_name_stays(bed: Any) -> None:
    name = Attachment("net1", "c1", "eth0").host_end
    bed.host.run("ip", "link", "add", name, "type", "bridge")
    conf, sandbox = ptp(bed), bed.sandbox()
    assert bed.call("ADD", conf, sandbox)[1]["code"] == 101
    assert bed.call("DEL", conf, sandbox) == (0, None)
    assert bed.host.link(name)


def test_settings_that_are_as_they_should_be_may_be_read_only(bed: Any, monkeypatch: Any) -> None:
    """A runtime whose /proc/sys is read-only, as under ProtectKernelTunables of systemd."""
    bed.host.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")

    def refused(*_: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(sysctl, "_write", refused)
    sandbox = bed.sandbox()
    bed.add(ptp(bed), sandbox)
    assert sandbox.reaches("10.1.0.1")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"address": "169.254.1.1/16", "routed": True}, "is a link-local address"),
        ({"address": "fe80::5/64", "routed": True}, "is a link-local address"),
        ({"address": "10.1.0.5/24", "gateway": "fd00::1"}, "are not in one subnet"),
        ({"address": "10.1.0.5/0", "gateway": "10.1.0.1"}, "are not in one subnet"),
    ],
)
def test_addresses_that_make_no_sense(bed: Any, keys: dict[str, Any], said: str) -> None:
    fixed = {key: value for key, value in keys.items() if key != "routed"}
    conf = {**ptp(bed, routed="routed" in keys), "ipam": {"type": "static", "addresses": [fixed]}}
    code, error = bed.call("ADD", conf, bed.sandbox())
    assert (code, error["code"]) == (1, 7)
    assert said in error["msg"]


def test_a_gateway_that_is_no_neighbour_is_taken_as_the_reference_takes_it(bed: Any) -> None:
    routes = [{"dst": "192.0.2.0/24", "gw": "10.1.0.9"}]
    conf = {**ptp(bed), "ipam": bed.host_local("10.1.0.0/24", routes=routes)}
    sandbox = bed.sandbox()
    result = bed.add(conf, sandbox)
    assert bed.call("CHECK", {**conf, "prevResult": result}, sandbox) == (0, None)
