"""CHECK finds every tampering of an attachment and of its overlay, and the next ADD mends the overlay's."""

import shlex
from typing import Any

import pytest

from cni_plugins.upkeep.overlay import State, sync
from tests.integration.vxlan.conftest import Underlay
from tests.integration.vxlan.test_plugin import vxlan

Case = tuple[str, str, str]
CONTAINER: dict[str, Case] = {
    "host end down": ("host", "ip link set {end} down", "port {end} is down"),
    "host end gone": ("host", "ip link del {end}", "eth0 is missing"),
    "host end unplugged": ("host", "ip link set {end} nomaster", "{end}"),
    "host end address": ("host", "ip link set {end} address 02:00:00:00:00:77", "{end} has address"),
    "alias": ("host", "ip link set {end} alias other", "lost the alias"),
    "host end mtu": ("host", "ip link set {end} mtu 1300", "mtu 1300, not 1400"),
    "router advertisements": (
        "host",
        "sh -c 'echo 2 > /proc/sys/net/ipv6/conf/{end}/accept_ra'",
        "accept_ra",
    ),
    "no masquerade": ("host", "nft flush chain inet cni_plugins overlay_postrouting", "masquerade"),
    "forwarding": ("host", "sh -c 'echo 0 > /proc/sys/net/ipv4/ip_forward'", "ip_forward is 0"),
    "v6 forwarding": ("host", "sh -c 'echo 0 > /proc/sys/net/ipv6/conf/all/forwarding'", "forwarding is 0"),
    "link down": ("sandbox", "ip link set eth0 down", "link eth0 in the sandbox is down"),
    "mac": ("sandbox", "ip link set eth0 address 02:00:00:00:00:77", "eth0 has address"),
    "default route": ("sandbox", "ip route del default", "route 0.0.0.0/0 via"),
    "v6 default route": ("sandbox", "ip -6 route del default", "route ::/0 via"),
}
NETWORK: dict[str, Case] = {
    "VXLAN link gone": ("host", "ip link del vx25", "link vx25 is missing in the host"),
    "VXLAN link down": ("host", "ip link set vx25 down", "vx25"),
    "VXLAN link's address": (
        "host",
        "ip link set vx25 address 02:00:00:00:00:77",
        "vx25 has address 02:00:00:",
    ),
    "VXLAN link's mtu": ("host", "ip link set vx25 mtu 1300", "vx25 has mtu 1300, not 1400"),
    "VXLAN link made by hand": (
        "host",
        "sh -c 'ip link del vx25; ip link add vx25 type vxlan id 77 dstport 4789 dev eth0'",
        '"vx25" already exists but is not the VXLAN link of network net1',
    ),
    "bridge gone": ("host", "ip link del vxbr25", "link vxbr25 is missing in the host"),
    "bridge down": ("host", "ip link set vxbr25 down", "link vxbr25 in the host is down"),
    "bridge's address": (
        "host",
        "ip link set vxbr25 address 02:00:00:00:00:77",
        "vxbr25 has address 02:00:00:0",
    ),
    "bridge's mtu": ("host", "ip link set vxbr25 mtu 1300", "bridge vxbr25 has mtu 1300, not 1400"),
    "bridge's alias": ("host", "ip link set vxbr25 alias other", "vxbr25"),
    "no rules": ("host", "nft delete table inet cni_plugins", "packet filter of network net1: "),
    "no filter": (
        "host",
        "nft flush chain inet cni_plugins overlay_input",
        "packet filter of network net1: ",
    ),
    "no bounds": ("host", "nft flush chain inet cni_plugins overlay_raw", "packet filter of network net1: "),
    "no isolation": ("host", "nft flush chain inet cni_plugins overlay_forward", "packet filter of network"),
    "v6 gateway gone": (
        "host",
        "ip address del {gateway6} dev vxbr25",
        "address {gateway6} is not on vxbr25",
    ),
    "gateway gone": ("host", "ip address del {gateway} dev vxbr25", "address {gateway} is not on vxbr25"),
    "stale FDB entry": (
        "host",
        "bridge fdb append 02:00:00:00:00:77 dev vx25 dst 10.99.0.9 self permanent",
        "02:00:00:00:00:77",
    ),
    "stale route": (
        "host",
        "ip route add 10.7.0.0/16 dev eth0 proto 217 metric {mark}",
        "10.7.0.0/16",
    ),
}
ROUTED: dict[str, Case] = {
    "peer's route": ("host", "ip route del 10.244.2.0/24", "route 10.244.2.0/24"),
    "peer's v6 route": ("host", "ip -6 route del fd44:2::/64", "route fd44:2::/64"),
    "no blackhole": ("host", "ip route del blackhole 10.244.1.0/24", "route 10.244.1.0/24"),
    "no dead end": ("host", "ip route del blackhole 10.244.0.0/16", "route 10.244.0.0/16 that drops"),
    "no v6 dead end": ("host", "ip -6 route del blackhole fd44::/16", "route fd44::/16 that drops"),
    "route elsewhere": (
        "host",
        "sh -c 'ip route del 10.244.2.0/24; ip route add 10.244.2.0/24 dev eth0 proto 217 metric {mark}'",
        "leads out of eth0",
    ),
    "peer's neighbour": ("host", "ip neighbour del 10.244.2.0 dev vx25", "neighbour 10.244.2.0"),
    "peer's neighbour is another": (
        "host",
        "ip neighbour replace 10.244.2.0 lladdr 02:00:00:00:00:77 dev vx25 nud permanent",
        "02:00:00:00:00:77",
    ),
    "peer's FDB entry": ("host", "bridge fdb del 02:fe:0a:63:00:02 dev vx25 self", "02:fe:0a:63:00:02"),
    "peer's FDB entry elsewhere": (
        "host",
        "bridge fdb replace 02:fe:0a:63:00:02 dev vx25 dst 10.99.0.9 self permanent",
        "10.99.0.9",
    ),
    "own address": ("host", "ip address del 10.244.1.0/32 dev vx25", "address 10.244.1.0/32 is not on vx25"),
    "path MTU": (
        "host",
        "sh -c 'echo 0 > /proc/sys/net/ipv4/ip_forward_use_pmtu'",
        "ip_forward_use_pmtu",
    ),
}
COMES_FIRST = "leave by eth0, not vx25: another route comes first"
OVERTAKEN: dict[str, Case] = {
    "route of another": (
        "host",
        "ip route add 10.244.2.0/24 dev eth0 metric 5",
        f"packets to 10.244.2.0/24 {COMES_FIRST}",
    ),
    "longer route of another": (
        "host",
        "ip route add 10.244.2.0/25 via 10.99.0.2",
        f"packets to 10.244.2.0/24 {COMES_FIRST}",
    ),
    "v6 route of another": (
        "host",
        "ip -6 route add fd44:2::/64 via fd99::2 metric 5",
        f"packets to fd44:2::/64 {COMES_FIRST}",
    ),
    "table of another": (
        "host",
        "sh -c 'ip route add 10.244.2.0/24 via 10.99.0.2 table 77; ip rule add to 10.244.2.0/24 table 77'",
        f"packets to 10.244.2.0/24 {COMES_FIRST}",
    ),
}
ASKING: dict[str, Case] = {
    "flood entry": ("host", "bridge fdb del 00:00:00:00:00:00 dev vx25 dst 10.99.0.2 self", "10.99.0.2"),
    "network's route": ("host", "ip route del 10.244.0.0/16", "route 10.244.0.0/16"),
    "no proxy ARP": ("host", "sh -c 'echo 0 > /proc/sys/net/ipv4/conf/vx25/proxy_arp'", "proxy_arp"),
    "no proxy ND": ("host", "sh -c 'echo 0 > /proc/sys/net/ipv6/conf/vx25/proxy_ndp'", "proxy_ndp"),
    "not proxied": ("host", "ip -6 neighbour del proxy {target6} dev vx25", "{target6}"),
}
STRETCHED: dict[str, Case] = {
    "unplugged": ("host", "ip link set vx25 nomaster", "link vx25 is not a port of vxbr25"),
    "learning": ("host", "bridge link set dev vx25 learning on", "port vx25 has learning on"),
    "flooding": ("host", "bridge link set dev vx25 flood on", "port vx25 has flood on"),
    "no suppression": ("host", "bridge link set dev vx25 neigh_suppress off", "neigh_suppress off"),
    "peer's neighbour": ("host", "ip neighbour del 192.168.100.20 dev vxbr25", "neighbour 192.168.100.20"),
    "peer's v6 neighbour": ("host", "ip neighbour del fd64::14 dev vxbr25", "neighbour fd64::14"),
    "peer's FDB entry": ("host", "bridge fdb del {mac20} dev vx25 self", "{mac20}"),
    "peer's bridge entry": ("host", "bridge fdb del {mac20} dev vx25 master", "{mac20}"),
    "bridge entry that can be moved": (
        "host",
        "bridge fdb replace {mac20} dev vx25 master static",
        "bridge's entry {mac20} behind vx25 can be moved",
    ),
    "node address": (
        "host",
        "ip address del 192.168.100.2/24 dev vxbr25",
        "address 192.168.100.2/24 is not on vxbr25",
    ),
}
SHAPES: dict[str, tuple[dict[str, Case], str, str]] = {
    "routed dual": (CONTAINER | NETWORK | ROUTED | OVERTAKEN, "10.244.1.1/24", "fd44:1::1/64"),
    "asking": (NETWORK | ASKING, "10.244.1.1/24", "fd44:1::1/64"),
    "stretched dual": (CONTAINER | NETWORK | STRETCHED, "192.168.100.1/32", "fd64::1/128"),
}
OF_THE_NETWORK = {*NETWORK, *ROUTED, *ASKING, *STRETCHED} - {"not proxied"}
# What another has made under the network's name is never touched, and so not mended either.
# Somebody else has changed entries and nothing else, which ADD does not look for.
ENTRIES = {
    "stale FDB entry",
    "stale route",
    "peer's route",
    "peer's v6 route",
    "no blackhole",
    "no dead end",
    "no v6 dead end",
    "route elsewhere",
    "peer's neighbour",
    "peer's v6 neighbour",
    "peer's neighbour is another",
    "peer's FDB entry",
    "peer's FDB entry elsewhere",
    "flood entry",
    "network's route",
    "peer's bridge entry",
    "bridge entry that can be moved",
}
NOT_MENDED = {"VXLAN link made by hand", "bridge's alias"}


def words(shape: str, result: dict[str, Any]) -> dict[str, str]:
    from ipaddress import ip_address

    from cni_plugins.ownership import network_mark
    from cni_plugins.vxlan.identity import ContainerMacs

    _, gateway, gateway6 = SHAPES[shape]
    return {
        "end": result["interfaces"][1]["name"],
        "target6": result["ips"][-1]["address"].split("/")[0],
        "gateway": gateway,
        "gateway6": gateway6,
        "mark": str(network_mark("net1")),
        "mac20": ContainerMacs(77).of(ip_address("192.168.100.20")),
    }


@pytest.mark.parametrize(
    ("shape", "name"), [(shape, name) for shape, (cases, *_) in SHAPES.items() for name in cases]
)
def test_tampering_is_found_and_named(underlay: Underlay, shape: str, name: str) -> None:
    bed, sandbox = underlay.bed, underlay.bed.sandbox()
    conf = vxlan(underlay, shape, mtu=1400, ipMasq=True)
    result = bed.add(conf, sandbox)
    checked = {**conf, "prevResult": result}
    assert bed.call("CHECK", checked, sandbox) == (0, None)
    where, command, message = SHAPES[shape][0][name]
    known = words(shape, result)
    (bed.host if where == "host" else sandbox).run(*shlex.split(command.format(**known)))
    code, error = bed.call("CHECK", checked, sandbox)
    assert (code, error["code"]) == (1, 103), error
    assert message.format(**known) in error["details"], error["details"]
    if name in OF_THE_NETWORK:
        is_entry = name in ENTRIES
        mends(underlay, conf, checked, sandbox, mended=name not in NOT_MENDED, entries_only=is_entry)
    for container in ("c1", "c2"):
        assert bed.call("DEL", conf, "", container=container) == (0, None)
    if name not in NOT_MENDED:
        assert underlay.names() == {"lo", "eth0", "eth1", "wire1"}


def mends(
    underlay: Underlay, conf: Any, checked: Any, sandbox: Any, *, mended: bool, entries_only: bool
) -> None:
    """The next container's ADD makes the overlay as it should be; for entries alone a sync is needed."""
    bed, second = underlay.bed, underlay.bed.sandbox()
    code, answer = bed.call("ADD", conf, second, container="c2")
    assert code == int(not mended), answer
    if mended:
        again = {**conf, "prevResult": answer}
        if entries_only:
            assert bed.call("CHECK", again, second, container="c2")[0] == 1
            with bed.inside():
                assert sync("net1", conf).state == State.REPAIRED
        assert bed.call("CHECK", again, second, container="c2") == (0, None)
        return
    assert answer["code"] == 101
    assert bed.call("CHECK", checked, sandbox)[0] == 1


@pytest.mark.parametrize("shape", SHAPES)
def test_a_lost_lease_is_found(underlay: Underlay, shape: str) -> None:
    bed, sandbox, conf = underlay.bed, underlay.bed.sandbox(), vxlan(underlay, shape)
    result = bed.add(conf, sandbox)
    (bed.leases / "net1" / result["ips"][0]["address"].split("/")[0]).unlink()
    code, error = bed.call("CHECK", {**conf, "prevResult": result}, sandbox)
    assert (code, error["code"]) == (1, 103)


@pytest.mark.parametrize("shape", SHAPES)
def test_what_later_plugins_of_the_chain_did_is_no_difference(underlay: Underlay, shape: str) -> None:
    """Another plugin adds an interface, with addresses of its own."""
    bed, sandbox, conf = underlay.bed, underlay.bed.sandbox(), vxlan(underlay, shape)
    result = bed.add(conf, sandbox)
    result["interfaces"].append({"name": "net7", "sandbox": sandbox.path, "mac": "02:00:00:00:00:43"})
    result["ips"].append({"address": "10.7.0.5/24", "gateway": "10.7.0.1", "interface": 3})
    result["routes"].append({"dst": "10.8.0.0/16", "gw": "10.7.0.1"})
    assert bed.call("CHECK", {**conf, "prevResult": result}, sandbox) == (0, None)


@pytest.mark.parametrize("shape", ["routed dual", "stretched dual"])
def test_an_mtu_that_became_smaller_is_found_and_a_learned_entry_is_not(
    underlay: Underlay, shape: str
) -> None:
    bed, sandbox, conf = underlay.bed, underlay.bed.sandbox(), vxlan(underlay, shape)
    checked = {**conf, "prevResult": bed.add(conf, sandbox)}
    bed.host.run(
        "bridge", "fdb", "add", "02:00:00:00:00:78", "dev", "vx25", "dst", "10.99.0.2", "self", "dynamic"
    )
    bed.host.run("ip", "neighbour", "replace", "10.99.0.2", "lladdr", "02:00:00:00:00:79", "dev", "eth0")
    assert bed.call("CHECK", checked, sandbox) == (0, None)
    bed.host.run("ip", "link", "set", "eth0", "mtu", "1480")
    code, error = bed.call("CHECK", checked, sandbox)
    assert (code, error["code"]) == (1, 103)
    assert "mtu 1450, not 1430" in error["details"]


def test_an_underlay_address_that_was_lost_is_told(underlay: Underlay) -> None:
    bed, sandbox, conf = underlay.bed, underlay.bed.sandbox(), vxlan(underlay)
    checked = {**conf, "prevResult": bed.add(conf, sandbox)}
    bed.host.run("ip", "address", "flush", "dev", "eth0")
    code, error = bed.call("CHECK", checked, sandbox)
    assert code == 1
    assert "no underlay" in error["msg"]
    assert bed.call("DEL", conf, sandbox) == (0, None)
    assert underlay.names() == {"lo", "eth0", "eth1", "wire1"}
