"""CHECK finds every tampering of a point-to-point link."""

import shlex
from typing import Any

import pytest

DEFAULTS = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
BOTH = {
    "host end down": ("host", "ip link set {end} down", "link {end} in the host is down"),
    "host end gone": ("host", "ip link del {end}", "eth0 is missing"),
    "host end address": ("host", "ip link set {end} address 02:00:00:00:00:77", "{end} has address"),
    "alias": ("host", "ip link set {end} alias other", "lost the alias"),
    "mtu": ("host", "ip link set {end} mtu 1300", "mtu 1300, not 1400"),
    "host route": ("host", "ip route del 10.1.0.2", "route 10.1.0.2/32 out of {end} in the host is missing"),
    "v6 host route": ("host", "ip -6 route del fd00:1::2", "route fd00:1::2/128 out of {end}"),
    "router advertisements": (
        "host",
        "sh -c 'echo 2 > /proc/sys/net/ipv6/conf/{end}/accept_ra'",
        "accept_ra",
    ),
    "no masquerade": ("host", "nft delete table inet cni_plugins", "masquerade"),
    "forwarding": ("host", "sh -c 'echo 0 > /proc/sys/net/ipv4/ip_forward'", "ip_forward is 0"),
    "v6 forwarding": ("host", "sh -c 'echo 0 > /proc/sys/net/ipv6/conf/all/forwarding'", "forwarding is 0"),
    "link down": ("sandbox", "ip link set eth0 down", "link eth0 in the sandbox is down"),
    "mac": ("sandbox", "ip link set eth0 address 02:00:00:00:00:77", "eth0 has address"),
    "default route": ("sandbox", "ip route del default", "route 0.0.0.0/0 via"),
    "v6 default route": ("sandbox", "ip -6 route del default", "route ::/0 via"),
}
PLAIN = {
    "gateway gone": ("host", "ip addr del 10.1.0.1/32 dev {end}", "address 10.1.0.1/32 is not on {end}"),
    "v6 gateway gone": ("host", "ip addr del fd00:1::1/128 dev {end}", "fd00:1::1/128 is not on {end}"),
    "address gone": ("sandbox", "ip addr del 10.1.0.2/24 dev eth0", "address 10.1.0.2/24 is not on eth0"),
    "subnet route": ("sandbox", "ip route del 10.1.0.0/24", "route 10.1.0.0/24 via 10.1.0.1"),
    "v6 subnet route": ("sandbox", "ip -6 route del fd00:1::/64", "route fd00:1::/64 via fd00:1::1"),
    "v6 gateway route": ("sandbox", "ip -6 route del fd00:1::1", "route fd00:1::1/128 out of eth0"),
}
ROUTED = {
    "gateway gone": ("host", "ip addr del 169.254.1.1/32 dev {end}", "169.254.1.1/32 is not on {end}"),
    "v6 gateway gone": ("host", "ip addr del fe80::1/64 dev {end}", "address fe80::1/64 is not on {end}"),
    "address gone": ("sandbox", "ip addr del fd00:1::2/128 dev eth0", "fd00:1::2/128 is not on eth0"),
}
TAMPERING = [
    pytest.param(routed, case, id=f"{'routed' if routed else 'plain'}: {name}")
    for routed, cases in ((False, BOTH | PLAIN), (True, BOTH | ROUTED))
    for name, case in cases.items()
]


def attached(bed: Any, **keys: Any) -> tuple[dict[str, Any], Any, dict[str, Any]]:
    routes = {} if keys.get("routed") else {"routes": DEFAULTS}
    ipam = bed.host_local("10.1.0.0/24", "fd00:1::/64", **routes)
    conf = {"cniVersion": "1.1.0", "name": "net1", "type": "ptp", "ipam": ipam, "mtu": 1400, "ipMasq": True}
    sandbox = bed.sandbox()
    return {**conf, **keys}, sandbox, bed.add({**conf, **keys}, sandbox)


@pytest.mark.parametrize(("routed", "case"), TAMPERING)
def test_tampering_is_found_and_named(bed: Any, routed: bool, case: tuple[str, str, str]) -> None:
    where, command, message = case
    conf, sandbox, result = attached(bed, routed=routed)
    checked = {**conf, "prevResult": result}
    assert bed.call("CHECK", checked, sandbox) == (0, None)
    end = result["interfaces"][0]["name"]
    (bed.host if where == "host" else sandbox).run(*shlex.split(command.format(end=end)))
    code, error = bed.call("CHECK", checked, sandbox)
    assert (code, error["code"]) == (1, 103), error
    assert message.format(end=end) in error["details"]


def test_a_lost_lease_is_found(bed: Any) -> None:
    conf, sandbox, result = attached(bed)
    (bed.leases / "net1" / "10.1.0.2").unlink()
    code, error = bed.call("CHECK", {**conf, "prevResult": result}, sandbox)
    assert (code, error["code"]) == (1, 103)


@pytest.mark.parametrize("routed", [False, True])
def test_what_later_plugins_of_the_chain_did_is_no_difference(bed: Any, routed: bool) -> None:
    """tuning changes the address and says so in the result; another plugin adds an interface."""
    conf, sandbox, result = attached(bed, routed=routed)
    sandbox.run("ip", "link", "set", "eth0", "address", "02:00:00:00:00:42")
    result["interfaces"][1]["mac"] = "02:00:00:00:00:42"
    result["interfaces"].append({"name": "net7", "sandbox": sandbox.path, "mac": "02:00:00:00:00:43"})
    result["ips"].append({"address": "10.7.0.5/24", "gateway": "10.7.0.1", "interface": 2})
    result["routes"].append({"dst": "10.8.0.0/16", "gw": "10.7.0.1"})
    assert bed.call("CHECK", {**conf, "prevResult": result}, sandbox) == (0, None)


def test_check_needs_prev_result(bed: Any) -> None:
    conf, sandbox, _ = attached(bed)
    code, error = bed.call("CHECK", conf, sandbox)
    assert (code, error["code"], error["msg"]) == (1, 7, "required prevResult missing")
