"""CHECK finds every tampering, and only looks at its own interface."""

from typing import Any

import pytest

FULL = {
    "isDefaultGateway": True,
    "ipMasq": True,
    "macspoofchk": True,
    "promiscMode": True,
    "portIsolation": True,
    "mtu": 1400,
}
TAMPERING = {
    "bridge address": ("host", "ip link set br0 address 02:00:00:00:00:77", "bridge br0 has address"),
    "bridge down": ("host", "ip link set br0 down", "br0 in the host is down"),
    "bridge gone": ("host", "ip link del br0", "br0 is missing"),
    "promisc off": ("host", "ip link set br0 promisc off", "not in promiscuous mode"),
    "gateway gone": ("host", "ip addr del 10.1.0.1/24 dev br0", "address 10.1.0.1/24 is not on br0"),
    "v6 gateway gone": ("host", "ip addr del fd00:1::1/64 dev br0", "address fd00:1::1/64 is not on br0"),
    "port out": ("host", "ip link set {end} nomaster", "is not a port of br0"),
    "port down": ("host", "ip link set {end} down", "is down"),
    "hairpin on": ("host", "bridge link set dev {end} hairpin on", "hairpin on"),
    "isolation off": ("host", "ip link set {end} type bridge_slave isolated off", "isolated off"),
    "host end address": ("host", "ip link set {end} address 02:00:00:00:00:77", "has address"),
    "no masquerade": ("host", "nft delete table inet cni_plugins", "masquerade"),
    "masquerade rule": ("host", "nft flush chain inet cni_plugins masq_postrouting", "masquerade"),
    "no source check": ("host", "nft delete table bridge cni_plugins", "source address check"),
    "source check rule": ("host", "nft flush chain bridge cni_plugins source_guard", "source address check"),
    "forwarding": ("host", "sh -c 'echo 0 > /proc/sys/net/ipv4/ip_forward'", "ip_forward is 0"),
    "v6 forwarding": ("host", "sh -c 'echo 0 > /proc/sys/net/ipv6/conf/all/forwarding'", "forwarding is 0"),
    "address gone": ("sandbox", "ip addr del 10.1.0.2/24 dev eth0", "address 10.1.0.2/24 is not on eth0"),
    "default route": ("sandbox", "ip route del default", "route 0.0.0.0/0 via 10.1.0.1"),
    "v6 default route": ("sandbox", "ip -6 route del default", "route ::/0 via fd00:1::1"),
    "route mtu": ("sandbox", "ip route change 192.0.2.0/24 via 10.1.0.1 mtu 1000", "has mtu 1000, not 1300"),
    "mac": ("sandbox", "ip link set eth0 address 02:00:00:00:00:77", "eth0 has address"),
    "mtu": ("host", "ip link set {end} mtu 1000", "mtu 1000, not 1400"),
    "alias": ("host", "ip link set {end} alias other", "lost the alias"),
    "a rule before ours": ("host", "nft insert rule inet cni_plugins masq_postrouting return", "masquerade"),
    "renamed": ("sandbox", "sh -c 'ip link set eth0 down; ip link set eth0 name eth9'", "eth0 is missing"),
    "replaced": (
        "sandbox",
        "sh -c 'ip link set eth0 name old; ip link add eth0 type veth peer name p'",
        "eth0 has",
    ),
}


def attached(bed: Any, **keys: Any) -> tuple[dict[str, Any], Any, dict[str, Any]]:
    ipam = bed.host_local("10.1.0.0/24", "fd00:1::/64", routes=[{"dst": "192.0.2.0/24", "mtu": 1300}])
    conf = bed.conf(**{**FULL, **keys}, ipam=ipam)
    sandbox = bed.sandbox()
    return conf, sandbox, bed.add(conf, sandbox)


@pytest.mark.parametrize("name", TAMPERING)
def test_tampering_is_found_and_named(bed: Any, name: str) -> None:
    import shlex

    where, command, message = TAMPERING[name]
    conf, sandbox, result = attached(bed)
    checked = {**conf, "prevResult": result}
    assert bed.call("CHECK", checked, sandbox) == (0, None)
    place = bed.host if where == "host" else sandbox
    place.run(*shlex.split(command.format(end=result["interfaces"][1]["name"])))
    code, error = bed.call("CHECK", checked, sandbox)
    assert (code, error["code"]) == (1, 103), error
    assert message in error["details"]


def test_a_lost_lease_is_found(bed: Any) -> None:
    conf, sandbox, result = attached(bed)
    (bed.leases / "net1" / "10.1.0.2").unlink()
    code, error = bed.call("CHECK", {**conf, "prevResult": result}, sandbox)
    assert (code, error["code"]) == (1, 103)


def test_iptables_rules_are_checked(bed: Any, needs: Any) -> None:
    needs("iptables-restore")
    conf, sandbox, result = attached(bed, ipMasqBackend="iptables")
    checked = {**conf, "prevResult": result}
    assert bed.call("CHECK", checked, sandbox) == (0, None)
    bed.host.run("iptables", "-t", "nat", "-F", "POSTROUTING")
    code, error = bed.call("CHECK", checked, sandbox)
    assert (code, error["code"]) == (1, 103)
    assert bed.call("DEL", checked, sandbox)[0] == 0
    assert "CNI-" not in bed.host.run("iptables-save")


def test_what_later_plugins_of_the_chain_did_is_no_difference(bed: Any) -> None:
    """tuning changes the address and says so in the result; another plugin adds an interface."""
    conf, sandbox, result = attached(bed)
    sandbox.run("ip", "link", "set", "eth0", "address", "02:00:00:00:00:42")
    result["interfaces"][2]["mac"] = "02:00:00:00:00:42"
    result["interfaces"].append({"name": "net7", "sandbox": sandbox.path, "mac": "02:00:00:00:00:43"})
    result["ips"].append({"address": "10.7.0.5/24", "gateway": "10.7.0.1", "interface": 3})
    result["routes"].append({"dst": "10.8.0.0/16", "gw": "10.7.0.1"})
    code, error = bed.call("CHECK", {**conf, "macspoofchk": False, "prevResult": result}, sandbox)
    assert (code, error) == (0, None)


def test_check_needs_prev_result(bed: Any) -> None:
    conf, sandbox, _ = attached(bed)
    code, error = bed.call("CHECK", conf, sandbox)
    assert (code, error["code"], error["msg"]) == (1, 7, "required prevResult missing")


def test_check_needs_the_interface_in_prev_result(bed: Any) -> None:
    conf, sandbox, result = attached(bed)
    result["interfaces"][2]["sandbox"] = "/run/netns/another"
    code, error = bed.call("CHECK", {**conf, "prevResult": result}, sandbox)
    assert (code, error["code"]) == (1, 7)


@pytest.mark.parametrize(
    "lost", ["flush set bridge cni_plugins internal", "flush chain bridge cni_plugins host_guard"]
)
def test_an_internal_bridge_that_the_host_takes_frames_from(bed: Any, lost: str) -> None:
    conf, sandbox = bed.conf(internal=True, ipam=bed.host_local("10.1.0.0/24")), bed.sandbox()
    result = bed.add(conf, sandbox)
    assert bed.call("CHECK", {**conf, "prevResult": result}, sandbox) == (0, None)
    bed.host.run("nft", *lost.split())
    code, error = bed.call("CHECK", {**conf, "prevResult": result}, sandbox)
    assert (code, error["code"]) == (1, 103)
    assert error["msg"].startswith("guard of the host against veth")
    assert bed.call("DEL", conf, sandbox) == (0, None)
    assert "internal" not in bed.host.run("nft", "list", "ruleset")


def test_a_mac_that_only_add_was_asked_for(bed: Any) -> None:
    conf, sandbox = (
        bed.conf(macspoofchk=True, ipam=bed.host_local("10.1.0.0/24", "fd00:1::/64")),
        bed.sandbox(),
    )
    result = bed.add({**conf, "runtimeConfig": {"mac": "02:00:00:00:00:77"}}, sandbox)
    assert bed.call("CHECK", {**conf, "prevResult": result}, sandbox) == (0, None)
    bed.host.run("nft", "flush", "set", "bridge", "cni_plugins", "allowed")
    code, error = bed.call("CHECK", {**conf, "prevResult": result}, sandbox)
    assert (code, error["code"]) == (1, 103)
