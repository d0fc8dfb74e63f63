"""CHECK finds every tampering with a macvlan attachment, and only looks at its own interface."""

import shlex
from typing import Any

import pytest

TAMPERING = {
    "gone": ("sandbox", "ip link del eth0", "link eth0 is missing in the sandbox"),
    "down": ("sandbox", "ip link set eth0 down", "eth0 in the sandbox is down"),
    "mac": ("sandbox", "ip link set eth0 address 02:00:00:00:00:77", "eth0 has address"),
    "mode": ("sandbox", "ip link set eth0 type macvlan mode private", "is in mode private, not bridge"),
    "alias": ("sandbox", "ip link set eth0 alias other", "lost the alias"),
    "address": ("sandbox", "ip addr del 10.1.0.2/24 dev eth0", "address 10.1.0.2/24 is not on eth0"),
    "v6 address": ("sandbox", "ip addr del fd00:1::2/64 dev eth0", "address fd00:1::2/64 is not on eth0"),
    "route": ("sandbox", "ip route del 192.0.2.0/24", "route 192.0.2.0/24 via 10.1.0.1"),
    "the host's neighbour entry": (
        "sandbox",
        "ip neigh replace 10.1.0.250 lladdr 02:00:00:00:00:77 dev eth0",
        "neighbour 10.1.0.250 of eth0 in the sandbox is 02:00:00:00:00:77",
    ),
    "no neighbour entry": ("sandbox", "ip neigh del fd00:1::250 dev eth0", "neighbour fd00:1::250 of eth0"),
    "another kind": (
        "sandbox",
        "sh -c 'ip link del eth0; ip link add eth0 type veth peer name p'",
        "is not a macvlan link",
    ),
    "host link gone": ("host", "ip link del {link}", "{link} is missing"),
    "host link down": ("host", "ip link set {link} down", "{link} in the host is down"),
    "host link's address": ("host", "ip link set {link} address 02:00:00:00:00:77", "{link} has address"),
    "host route": ("host", "ip route del 10.1.0.2 dev {link}", "{link} are missing: 10.1.0.2"),
    "v6 host route": ("host", "ip -6 route del fd00:1::2 dev {link}", "{link} are missing: fd00:1::2"),
    "gateway": ("host", "ip addr del 10.1.0.1/24 dev {link}", "address 10.1.0.1/24 is not on {link}"),
    "masquerade": ("host", "nft delete table inet cni_plugins", "masquerade"),
    "forwarding": ("host", "sh -c 'echo 0 > /proc/sys/net/ipv4/ip_forward'", "ip_forward is 0"),
    "arp": ("host", "sh -c 'echo 0 > /proc/sys/net/ipv4/conf/{link}/arp_filter'", "arp_filter is 0"),
}


@pytest.mark.parametrize("name", TAMPERING)
def test_tampering_is_found_and_named(wire: Any, name: str) -> None:
    for address in ("10.1.0.250/24", "fd00:1::250/64"):
        wire.host.run("ip", "address", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else []))
    for address in ("10.1.0.1/24", "fd00:1::1/64"):
        wire.host.run("ip", "address", "del", address, "dev", "eth0")
    wire.host.run("ip", "address", "add", "10.1.0.250/24", "dev", "eth0", check=False)
    ipam = wire.bed.host_local("10.1.0.0/24", "fd00:1::/64", routes=[{"dst": "192.0.2.0/24"}])
    conf = wire.conf(hostAccess=True, isGateway=True, ipMasq=True, ipam=ipam)
    sandbox = wire.bed.sandbox()
    result = wire.bed.add(conf, sandbox)
    checked = {**conf, "prevResult": result}
    assert wire.bed.call("CHECK", checked, sandbox) == (0, None)
    where, command, message = TAMPERING[name]
    link = result["interfaces"][1]["name"]
    place = wire.host if where == "host" else sandbox
    place.run(*shlex.split(command.format(link=link)))
    code, error = wire.bed.call("CHECK", checked, sandbox)
    assert (code, error["code"]) == (1, 103), error
    assert message.format(link=link) in error["details"]


def test_sources_are_checked(wire: Any) -> None:
    sandbox = wire.bed.sandbox()
    conf = wire.conf(mode="source", allowedMACs=["02:00:00:00:00:07"])
    checked = {**conf, "prevResult": wire.bed.add(conf, sandbox)}
    assert wire.bed.call("CHECK", checked, sandbox) == (0, None)
    sandbox.run("ip", "link", "set", "eth0", "type", "macvlan", "macaddr", "flush")
    code, error = wire.bed.call("CHECK", checked, sandbox)
    assert (code, error["code"]) == (1, 103)
    assert "receives from no source, not 02:00:00:00:00:07" in error["details"]


def test_another_master_is_found(wire: Any) -> None:
    wire.host.run("ip", "link", "add", "eth1", "type", "veth", "peer", "name", "wire1")
    sandbox = wire.bed.sandbox()
    result = wire.bed.add(wire.conf(), sandbox)
    code, error = wire.bed.call("CHECK", wire.conf(master="eth1", prevResult=result), sandbox)
    assert (code, error["code"]) == (1, 103)
    assert "link eth0 is not on eth1" in error["details"]
