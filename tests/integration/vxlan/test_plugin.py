"""The vxlan plugin on a real kernel, seen from outside: links, addresses, packets, leftovers."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.kernel import apply, observe
from cni_plugins.kernel.session import locks
from cni_plugins.ownership import Attachment
from cni_plugins.protocol.request import Request
from cni_plugins.vxlan.config import parse
from cni_plugins.vxlan.host_plan import host_plan
from cni_plugins.vxlan.plugin import asks_of_host
from tests.integration.vxlan.conftest import Underlay

PEERS = [{"node": f"h{n}", "vtep": f"10.99.0.{n}", "subnet": f"10.244.{n}.0/24"} for n in (1, 2, 3)]
DUAL_PEERS = [
    {"node": f"h{n}", "vtep": f"10.99.0.{n}", "subnets": [f"10.244.{n}.0/24", f"fd44:{n}::/64"]}
    for n in (1, 2, 3)
]
BLOCKS = [
    {"node": f"h{n}", "vtep": f"10.99.0.{n}", "block": f"192.168.100.{16 * (n - 1)}/28"} for n in (1, 2, 3)
]
BARE = [f"10.99.0.{n}" for n in (1, 2, 3)]
NETWORKS = ["10.244.0.0/16", "fd44::/16"]
ONE_PING = ("ping", "-c1", "-W0.5", "-q")  # where who hears it is looked at, and no answer comes
SUBNETS = ["10.244.1.0/24", "fd44:1::/64"]
SHAPES: dict[str, dict[str, Any]] = {
    "routed": {"peers": PEERS},
    "routed dual": {"network": NETWORKS, "peers": DUAL_PEERS},
    "routed in IPv6": {
        "network": NETWORKS,
        "peers": [{**peer, "vtep": peer["vtep"].replace("10.99.0.", "fd99::")} for peer in DUAL_PEERS],
    },
    "asking": {"network": NETWORKS, "peers": BARE, "backend": {"subnet": SUBNETS}},
    "group": {"network": NETWORKS, "backend": {"type": "multicast", "group": "239.7.7.7", "subnet": SUBNETS}},
    "same subnet": {"network": NETWORKS, "peers": DUAL_PEERS, "directRouting": "same-subnet"},
    "no tunnel": {"peers": PEERS, "directRouting": "always"},
    "stretched": {"mode": "l2", "subnet": "192.168.100.0/24", "peers": BLOCKS},
    "stretched dual": {"mode": "l2", "subnet": ["192.168.100.0/24", "fd64::/64"], "peers": BLOCKS},
    "flooding": {
        "mode": "l2",
        "subnet": ["192.168.100.0/24", "fd64::/64"],
        "peers": BLOCKS,
        "bum": "head-end",
    },
    "flooding group": {
        "mode": "l2",
        "subnet": "192.168.100.0/24",
        "backend": {"type": "multicast", "group": "239.7.7.7", "block": "192.168.100.0/28"},
    },
}


def vxlan(underlay: Underlay, shape: str = "routed", /, **keys: Any) -> dict[str, Any]:
    given = {**SHAPES[shape], **keys}
    backend = given.pop("backend", {})
    listed = {"peers": given.pop("peers")} if given.get("peers") is not None else {}
    given.pop("peers", None)
    is_elsewhere = "peersFile" in backend or backend.get("type") == "multicast"
    backend = {"type": "static", **({} if is_elsewhere else listed), **backend}
    if backend["type"] == "multicast":
        given.setdefault("underlay", {"interface": "eth0"})
    within = {} if given.get("mode") == "l2" else {"network": "10.244.0.0/16"}
    ipam = {"dataDir": str(underlay.bed.leases)}
    base = {"cniVersion": "1.1.0", "name": "net1", "type": "vxlan", "vni": 77, **within, "ipam": ipam}
    return {**base, **given, "backend": backend}


def targets(result: dict[str, Any]) -> list[str]:
    return [ip["address"].split("/")[0] for ip in result["ips"]]


@pytest.mark.parametrize("shape", SHAPES)
def test_two_containers_reach_each_other_and_the_host(underlay: Underlay, shape: str) -> None:
    bed = underlay.bed
    conf = vxlan(underlay, shape)
    first, second = bed.sandbox(), bed.sandbox()
    one = bed.add(conf, first, container="c1")
    other = bed.add(conf, second, container="c2")
    assert all(first.reaches(address) for address in targets(other))
    assert all(first.reaches(ip["gateway"]) for ip in one["ips"])
    assert all(bed.host.reaches(address) for address in targets(one))
    assert first.reaches("10.99.0.1")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("more", [{}, {"ipMasq": True, "mtu": 1300}])
def test_add_check_del_del_leaves_nothing(underlay: Underlay, shape: str, more: dict[str, Any]) -> None:
    bed = underlay.bed
    conf = vxlan(underlay, shape, **more)
    spare, sandbox = bed.sandbox(), bed.sandbox()
    bed.add(conf, spare, container="spare")
    assert bed.call("DEL", conf, spare, container="spare") == (0, None)
    idle = bed.state()  # forwarding stays on
    names = underlay.names()
    result = bed.add(conf, sandbox)
    checked = {**conf, "prevResult": result}
    assert bed.call("CHECK", checked, sandbox) == (0, None)
    assert bed.call("STATUS", conf) == (0, None)
    assert bed.call("DEL", checked, sandbox) == (0, None)
    assert bed.call("DEL", conf, "") == (0, None)
    assert bed.state() == idle
    assert underlay.names() == names == {"lo", "eth0", "eth1", "wire1"}
    assert [link["ifname"] for link in sandbox.ip("link")] == ["lo"]
    assert bed.leased() == set()


def test_the_result_names_what_is_in_the_kernel(underlay: Underlay) -> None:
    bed, sandbox = underlay.bed, underlay.bed.sandbox()
    result = bed.add(vxlan(underlay, "routed dual"), sandbox)
    bridge, outer, inner = result["interfaces"]
    assert (inner["name"], inner["sandbox"]) == ("eth0", sandbox.path)
    assert bed.host.link(bridge["name"])["address"] == bridge["mac"]
    assert bed.host.link(outer["name"])["address"] == outer["mac"]
    assert bed.host.link(outer["name"])["master"] == bridge["name"]
    assert sandbox.link("eth0")["address"] == inner["mac"]
    mtus = {inner["mtu"], outer["mtu"], *(bed.host.link(name)["mtu"] for name in ("vx25", "vxbr25"))}
    assert mtus == {1450, sandbox.link("eth0")["mtu"]}
    assert [ip["interface"] for ip in result["ips"]] == [2, 2]
    assert sandbox.addresses("eth0") == {ip["address"] for ip in result["ips"]}
    assert bed.host.addresses("vxbr25") == {"10.244.1.1/24", "fd44:1::1/64"}
    assert bed.host.addresses("vx25") == {"10.244.1.0/32", "fd44:1::/128"}
    assert {route["dst"]: route["gw"] for route in result["routes"]} == {
        "0.0.0.0/0": "10.244.1.1",
        "::/0": "fd44:1::1",
    }
    shown = {name: bed.host.run("ip", "-6", "address", "show", "dev", name) for name in ("vxbr25", "vx25")}
    assert not [name for name, text in shown.items() if "tentative" in text]


def test_packets_to_peers_are_encapsulated_and_others_are_not(underlay: Underlay) -> None:
    bed, sandbox = underlay.bed, underlay.bed.sandbox()
    bed.add(vxlan(underlay), sandbox)
    underlay.far.run("nft", "add table ip seen")
    underlay.far.run("nft", "add chain ip seen in { type filter hook prerouting priority 0; }")
    underlay.far.run("nft", "add rule ip seen in udp dport 4789 ip saddr 10.99.0.1 counter")
    sandbox.run(*ONE_PING, "10.244.2.5", check=False)
    assert "packets 0 " not in underlay.far.run("nft", "list", "chain", "ip", "seen", "in")
    before = underlay.far.run("nft", "list", "chain", "ip", "seen", "in")
    sandbox.run(*ONE_PING, "10.244.1.77", check=False)
    sandbox.run(*ONE_PING, "10.244.77.5", check=False)
    assert underlay.far.run("nft", "list", "chain", "ip", "seen", "in") == before


@pytest.mark.parametrize("shape", ["routed dual", "same subnet", "no tunnel"])
def test_packets_to_addresses_that_no_host_has_go_nowhere(underlay: Underlay, shape: str) -> None:
    """Or they would leave by the default route: in the clear, and come back as often as they may."""
    bed, sandbox = underlay.bed, underlay.bed.sandbox()
    bed.add(vxlan(underlay, shape), sandbox)
    bed.host.run("ip", "route", "add", "default", "via", "10.99.0.2")
    bed.host.run("ip", "-6", "route", "add", "default", "via", "fd99::2")
    for command in (
        "add table inet seen",
        "add chain inet seen in { type filter hook prerouting priority 0; }",
        "add rule inet seen in ip daddr 10.244.0.0/16 counter",
        "add rule inet seen in ip6 daddr fd44::/16 counter",
    ):
        underlay.far.run("nft", command)
    networks = SHAPES[shape].get("network", NETWORKS[:1])
    homeless = ["10.244.77.5", "fd44:77::5"][: len(networks)]

    def seen() -> list[bool]:
        for where in (sandbox, bed.host):
            for address in homeless:
                where.run(*ONE_PING, address, check=False)
        listed = underlay.far.run("nft", "list", "chain", "inet", "seen", "in")
        return ["packets 0 " not in line for line in listed.splitlines() if "counter" in line][
            : len(homeless)
        ]

    assert not any(seen())
    for network in networks:  # without which there would be nothing to be seen at all
        bed.host.run("ip", "-6" if ":" in network else "-4", "route", "del", "blackhole", network)
    assert all(seen())


@pytest.mark.parametrize("shape", ["routed dual", "asking", "stretched dual", "no tunnel"])
def test_the_last_container_takes_all_away_and_no_other_does(underlay: Underlay, shape: str) -> None:
    bed, conf = underlay.bed, vxlan(underlay, shape, ipMasq=True)
    results = {}
    sandboxes = {name: bed.sandbox() for name in ("c1", "c2", "c3")}
    for name, sandbox in sandboxes.items():
        results[name] = bed.add(conf, sandbox, container=name)
    assert len({target for result in results.values() for target in targets(result)}) == sum(
        len(result["ips"]) for result in results.values()
    )
    for gone in ("c1", "c3"):
        assert bed.call("DEL", conf, sandboxes[gone], container=gone) == (0, None)
        checked = {**conf, "prevResult": results["c2"]}
        assert bed.call("CHECK", checked, sandboxes["c2"], container="c2") == (0, None)
    assert bed.call("DEL", conf, "", container="c2") == (0, None)
    assert underlay.names() == {"lo", "eth0", "eth1", "wire1"}
    assert bed.host.run("nft", "list", "ruleset") == ""
    assert bed.host.run("ip", "route", "show", "proto", "217") == ""
    assert bed.host.run("ip", "-6", "route", "show", "proto", "217") == ""
    assert bed.leased() == set()


def test_two_interfaces_of_one_container(underlay: Underlay) -> None:
    bed, sandbox, conf = underlay.bed, underlay.bed.sandbox(), vxlan(underlay)
    bed.add(conf, sandbox, ifname="eth0")
    other = bed.add({**conf, "isDefaultGateway": False}, sandbox, ifname="eth1")
    assert bed.call("DEL", conf, sandbox, ifname="eth0") == (0, None)
    checked = {**conf, "isDefaultGateway": False, "prevResult": other}
    assert bed.call("CHECK", checked, sandbox, ifname="eth1") == (0, None)
    assert sandbox.reaches("10.244.1.1")


def test_a_second_add_is_refused_and_harms_nothing(underlay: Underlay) -> None:
    bed, sandbox, conf = underlay.bed, underlay.bed.sandbox(), vxlan(underlay, "stretched dual", ipMasq=True)
    bed.add(conf, sandbox)
    before = bed.state()
    for again in (sandbox, bed.sandbox()):
        code, error = bed.call("ADD", conf, again)
        assert (code, error["code"]) == (1, 101)
        assert "already exists" in error["msg"]
    assert bed.state() == before
    assert sandbox.reaches("192.168.100.1")


# ------------------------------------------------------------------- the config is another one meanwhile

CHANGES: dict[str, dict[str, Any]] = {
    "other vni": {"vni": 78},
    "default vni": {"vni": None},
    "other mode": {"mode": "l2", "network": None, "subnet": "192.168.100.0/24", "peers": BLOCKS},
    "other port": {"port": 8472},
    "other network": {"network": "10.243.0.0/16"},
    "group": {"backend": {"type": "multicast", "group": "239.7.7.7", "subnet": "10.244.1.0/24"}},
    "no peers": {"peers": []},
    "rubbish": {"mode": 5, "backend": 7, "ipam": "x", "vni": "y"},
    "lost file": {"backend": {"peersFile": "/nowhere/peers.json"}},
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("shape", ["routed dual", "asking", "stretched dual"])
def test_del_takes_away_what_another_config_made(underlay: Underlay, shape: str, change: str) -> None:
    bed, sandbox, conf = underlay.bed, underlay.bed.sandbox(), vxlan(underlay, shape, ipMasq=True)
    result = bed.add(conf, sandbox)
    keys = CHANGES[change]
    changed = {**conf, **keys} if change == "rubbish" else vxlan(underlay, **{**keys, "ipMasq": False})
    assert bed.call("DEL", {**changed, "prevResult": result}, "/run/netns/gone") == (0, None)
    assert underlay.names() == {"lo", "eth0", "eth1", "wire1"}
    assert bed.host.run("nft", "list", "ruleset") == ""
    assert bed.host.run("ip", "route", "show", "proto", "217") == ""
    if change != "rubbish":
        assert bed.leased() == set()


def moved(last: int) -> list[dict[str, Any]]:
    """Return peers whose subnets are of others now: this host's has another number."""
    subnets = {1: last, 2: 1, 3: 9}
    return [{**peer, "subnet": f"10.244.{subnets[n]}.0/24"} for n, peer in enumerate(PEERS, start=1)]


@pytest.mark.parametrize(
    ("shape", "keys", "message"),
    [
        ("routed", {"vni": 78}, "link vx25 has 10.244.1.0/32"),
        ("routed", {"vni": None}, "link vx25 has 10.244.1.0/32"),
        ("routed", {"peers": moved(5)}, "link vx25 has 10.244.1.0/32"),
        ("routed", {"name": "net2"}, "already exists but is not"),
        ("stretched", {"vni": 78}, "link vxbr25 has 192.168.100.2/24"),
        ("stretched", {"gateway": "192.168.100.9"}, "link vxbr25 has "),
    ],
)
def test_what_cannot_be_while_containers_live_is_refused_and_harms_none(
    underlay: Underlay, shape: str, keys: dict[str, Any], message: str
) -> None:
    bed, sandbox, conf = underlay.bed, underlay.bed.sandbox(), vxlan(underlay, shape)
    result = bed.add(conf, sandbox)
    before = bed.state()
    changed = vxlan(underlay, shape, **keys)
    code, error = bed.call("ADD", changed, bed.sandbox(), container="c2")
    assert (code, error["code"]) == (1, 101), error
    assert message in error["msg"], error
    assert bed.state() == before
    assert bed.call("CHECK", {**conf, "prevResult": result}, sandbox) == (0, None)
    assert bed.call("STATUS", changed)[0] == 1
    assert bed.call("DEL", conf, sandbox) == (0, None)
    bed.add(changed, bed.sandbox(), container="c2")


@pytest.mark.parametrize(
    ("shape", "keys"),
    [
        ("routed", {"port": 8472}),
        ("routed", {"mtu": 1300}),
        ("routed", {"df": "inherit"}),
        ("routed", {"peers": [*PEERS[:2], {**PEERS[2], "subnet": "10.244.99.0/24"}]}),
        ("routed", {"peers": PEERS[:2]}),
        ("routed", {"directRouting": "same-subnet"}),
        ("routed", {"peers": [{**PEERS[0], "mac": "02:00:00:00:00:42"}, *PEERS[1:]]}),
        ("stretched", {"bum": "head-end"}),
        ("stretched", {"peers": BLOCKS[:2]}),
        ("flooding", {"bum": "none"}),
    ],
)
def test_what_can_change_while_containers_live_is_brought_in_line(
    underlay: Underlay, shape: str, keys: dict[str, Any]
) -> None:
    bed, conf = underlay.bed, vxlan(underlay, shape)
    first, second = bed.sandbox(), bed.sandbox()
    old = bed.add(conf, first)
    changed = vxlan(underlay, shape, **keys)
    code, error = bed.call("CHECK", {**changed, "prevResult": old}, first)
    assert (code, error["code"]) == (1, 103), error
    result = bed.add(changed, second, container="c2")
    assert bed.call("CHECK", {**changed, "prevResult": result}, second, container="c2") == (0, None)
    assert first.reaches(targets(result)[0])
    assert bed.host.reaches(targets(old)[0])
    for container in ("c1", "c2"):
        assert bed.call("DEL", changed, "", container=container) == (0, None)
    assert underlay.names() == {"lo", "eth0", "eth1", "wire1"}
    assert bed.host.run("nft", "list", "ruleset") == ""


def test_a_change_of_mode_waits_for_the_containers(underlay: Underlay) -> None:
    bed, sandbox, conf = underlay.bed, underlay.bed.sandbox(), vxlan(underlay)
    bed.add(conf, sandbox)
    before = bed.state()
    changed = vxlan(underlay, "stretched")
    code, error = bed.call("ADD", changed, bed.sandbox(), container="c2")
    assert (code, error["code"]) == (1, 101), error
    assert bed.state() == before
    assert bed.call("DEL", changed, sandbox) == (0, None)
    assert bed.add(changed, bed.sandbox(), container="c2")["ips"][0]["address"] == "192.168.100.3/24"


def test_peers_are_read_anew_from_their_file(underlay: Underlay, tmp_path: Path) -> None:
    bed, sandbox = underlay.bed, underlay.bed.sandbox()
    path = tmp_path / "peers.json"
    path.write_text(json.dumps(PEERS[:2]))
    conf = vxlan(underlay, backend={"peersFile": str(path)})
    checked = {**conf, "prevResult": bed.add(conf, sandbox)}
    assert bed.call("CHECK", checked, sandbox) == (0, None)
    path.write_text(json.dumps({"peers": PEERS}))
    code, error = bed.call("CHECK", checked, sandbox)
    assert (code, error["code"]) == (1, 103)
    assert "10.244.3.0/24" in error["details"]
    bed.add(conf, bed.sandbox(), container="c2")
    assert bed.call("CHECK", checked, sandbox) == (0, None)
    path.write_text(json.dumps(PEERS)[:-9])
    before = bed.state()
    for command in ("ADD", "CHECK"):
        code, error = bed.call(command, checked, sandbox, container="c3")
        assert (code, error["code"]) == (1, 7)
        assert str(path) in f"{error['msg']} {error['details']}"
    path.unlink()
    assert bed.call("ADD", conf, bed.sandbox(), container="c3")[1]["code"] == 5
    assert bed.call("STATUS", conf)[0] == 1
    assert bed.state() == before
    assert sandbox.reaches("10.244.1.3")


# ----------------------------------------------------------------------------------- what is in the way


@pytest.mark.parametrize(
    ("commands", "code", "message"),
    [
        (["ip link add vx25 type bridge"], 101, '"vx25" already exists but is not'),
        (["ip link add vxbr25 type veth peer name other"], 101, '"vxbr25" already exists but is not'),
        (
            ["ip link add v type vxlan id 77 dstport 4789 dev eth0"],
            101,
            "VNI 77 at UDP port 4789 is taken by l",
        ),
        (
            ["ip link add br9 type bridge", "ip address add 10.244.9.1/24 dev br9"],
            101,
            "link br9 has 10.244.9.",
        ),
        (
            ["ip address flush dev eth0"],
            7,
            "no underlay: this host has no address that is the VTEP of a peer",
        ),
        (
            ["ip address add 10.99.0.3/24 dev eth0"],
            7,
            "ambiguous underlay: 10.99.0.1 (eth0), 10.99.0.3 (eth0)",
        ),
        (["ip link set eth0 mtu 100"], 7, "invalid MTU 50: the overlay's addresses need 68"),
        (["ip route add 10.244.2.0/24 dev eth1 metric 5"], 0, ""),
    ],
)
def test_what_is_in_the_way(underlay: Underlay, commands: list[str], code: int, message: str) -> None:
    bed, sandbox, conf = underlay.bed, underlay.bed.sandbox(), vxlan(underlay)
    for command in commands:
        bed.host.run(*command.split())
    before = bed.state()
    done, answer = bed.call("ADD", conf, sandbox)
    assert done == int(bool(code)), answer
    if code:
        assert answer["code"] == code, answer
        assert message in answer["msg"], answer
        assert bed.state() == before
        assert [link["ifname"] for link in sandbox.ip("link")] == ["lo"]
        assert bed.call("STATUS", conf)[1]["code"] in (50, 51)
    assert bed.call("DEL", conf, sandbox) == (0, None)
    assert not code or bed.state() == before


@pytest.mark.parametrize("shape", ["routed dual", "asking", "stretched dual"])
def test_a_host_whose_new_links_have_no_ipv6(underlay: Underlay, shape: str) -> None:
    bed, conf = underlay.bed, vxlan(underlay, shape)
    first, second = bed.sandbox(), bed.sandbox()
    for namespace in (bed.host, first, second):
        namespace.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6")
    result = bed.add(conf, first)
    other = bed.add(conf, second, container="c2")
    assert bed.call("CHECK", {**conf, "prevResult": result}, first) == (0, None)
    assert all(first.reaches(address) for address in targets(other))


def test_a_host_where_a_second_address_is_the_vtep(underlay: Underlay) -> None:
    bed, sandbox = underlay.bed, underlay.bed.sandbox()
    bed.host.run("ip", "address", "del", "10.99.0.1/24", "dev", "eth0")
    for address in ("10.99.0.77/24", "10.99.0.1/24"):
        bed.host.run("ip", "address", "add", address, "dev", "eth0")
    bed.add(vxlan(underlay), sandbox)
    assert underlay.vxlan("vx25")["local"] == "10.99.0.1"


# -------------------------------------------------------------------------------------------- addresses


def test_an_address_can_be_asked_for(underlay: Underlay) -> None:
    bed, conf = underlay.bed, vxlan(underlay, "stretched dual")
    result = bed.add({**conf, "runtimeConfig": {"ips": ["192.168.100.9"]}}, bed.sandbox())
    assert targets(result) == ["192.168.100.9", "fd64::9"]
    result = bed.add(conf, bed.sandbox(), container="c2", CNI_ARGS="IP=192.168.100.10")
    assert targets(result) == ["192.168.100.10", "fd64::a"]
    for taken in ("192.168.100.9", "192.168.100.1", "192.168.100.2", "192.168.100.16", "192.168.100.255"):
        asked = {**conf, "runtimeConfig": {"ips": [taken]}}
        code, error = bed.call("ADD", asked, bed.sandbox(), container="c3")
        assert code == 1, taken
        assert error["code"] in (7, 102), error
        assert taken in f"{error['msg']} {error['details']}"
        assert bed.leased() == {"192.168.100.9", "192.168.100.10"}


def test_all_addresses_of_a_block_and_no_other_are_given_out(underlay: Underlay) -> None:
    bed = underlay.bed
    conf = vxlan(underlay, "stretched", peers=[{**BLOCKS[0], "block": "192.168.100.8/29"}, *BLOCKS[1:]])
    sandbox = bed.sandbox()
    given = [targets(bed.add(conf, sandbox, ifname=f"e{number}"))[0] for number in range(7)]
    assert sorted(given, key=lambda text: int(text.split(".")[3])) == [
        f"192.168.100.{n}" for n in range(9, 16)
    ]
    code, error = bed.call("ADD", conf, bed.sandbox(), container="c9")
    assert (code, error["code"]) == (1, 102)
    assert bed.call("STATUS", conf)[1]["code"] == 50
    assert len(bed.leased()) == 7


@pytest.mark.parametrize(
    ("shape", "address", "code"),
    [
        ("routed", "10.244.1.5/24", 0),
        ("routed", "10.244.2.5/24", 7),
        ("routed", "10.244.1.1/24", 7),
        ("stretched", "192.168.100.5/24", 0),
        ("stretched", "192.168.100.20/24", 7),
        ("flooding", "192.168.100.20/24", 0),
    ],
)
def test_static_addresses(underlay: Underlay, shape: str, address: str, code: int) -> None:
    bed, sandbox = underlay.bed, underlay.bed.sandbox()
    ipam = {"type": "static", "addresses": [{"address": address}]}
    conf = vxlan(underlay, shape, ipam=ipam)
    before = bed.state()
    done, answer = bed.call("ADD", conf, sandbox)
    assert (done, (answer or {}).get("code", 0)) == (int(bool(code)), code), answer
    if code:
        assert address.partition("/")[0] in answer["msg"]
        assert bed.state() == before
    else:
        assert targets(answer)[0] == address.partition("/")[0]
        assert bed.call("CHECK", {**conf, "prevResult": answer}, sandbox) == (0, None)
        assert bed.host.reaches(address.partition("/")[0])
    assert bed.call("DEL", conf, sandbox) == (0, None)
    assert underlay.names() == {"lo", "eth0", "eth1", "wire1"}


def script(bed: Any, name: str, answer: Any) -> Path:
    """Put an IPAM plugin of somebody else's on the path; return where it writes down its calls."""
    calls = bed.leases.parent / f"{name}.calls"
    path = bed.bin / name
    path.write_text(
        f"#!/bin/sh\ncat > /dev/null; echo $CNI_COMMAND >> {calls}; echo '{json.dumps(answer)}'\n"
    )
    path.chmod(0o755)
    return calls


def test_an_ipam_of_somebody_elses_whose_answer_does_not_fit_is_told_so(underlay: Underlay) -> None:
    bed = underlay.bed
    calls = script(bed, "other", {"cniVersion": "1.1.0", "ips": [{"address": "10.244.7.7/24"}]})
    before = bed.state()
    code, error = bed.call("ADD", vxlan(underlay, ipam={"type": "other"}), bed.sandbox())
    assert (code, error["code"]) == (1, 7)
    assert "10.244.7.7 is not in a network of this host" in error["msg"]
    assert calls.read_text().split() == ["ADD", "DEL"]
    assert bed.state() == before


def test_an_ipam_that_needs_the_link_finds_it(underlay: Underlay) -> None:
    bed, sandbox = underlay.bed, underlay.bed.sandbox()
    calls = script(bed, "dhcp", {"cniVersion": "1.1.0", "ips": [{"address": "192.168.100.40/24"}]})
    conf = vxlan(underlay, "flooding", ipam={"type": "dhcp"})
    result = bed.add(conf, sandbox)
    assert targets(result) == ["192.168.100.40", "fd64::28"]
    assert bed.call("CHECK", {**conf, "prevResult": result}, sandbox) == (0, None)
    assert bed.call("DEL", conf, sandbox) == (0, None)
    assert calls.read_text().split() == ["ADD", "CHECK", "DEL"]
    assert underlay.names() == {"lo", "eth0", "eth1", "wire1"}
    code, error = bed.call("ADD", vxlan(underlay, "stretched", ipam={"type": "dhcp"}), sandbox)
    assert (code, error["code"]) == (1, 7)


@pytest.mark.parametrize("ipam", [{}, {"type": ""}, {"type": "host-local"}])
def test_host_local_is_the_ipam_unless_another_is_named(underlay: Underlay, ipam: dict[str, Any]) -> None:
    bed = underlay.bed
    conf = vxlan(underlay, ipam={"dataDir": str(bed.leases), **ipam})
    assert targets(bed.add(conf, bed.sandbox())) == ["10.244.1.2"]
    assert bed.leased() == {"10.244.1.2"}


@pytest.mark.parametrize("shape", ["routed", "stretched", "flooding"])
def test_a_mac_address_that_is_asked_for(underlay: Underlay, shape: str) -> None:
    bed, conf, wanted = underlay.bed, vxlan(underlay, shape), "02:00:00:00:00:42"
    for number, (keys, more) in enumerate(
        [({"runtimeConfig": {"mac": wanted}}, {}), ({}, {"CNI_ARGS": f"MAC={wanted}"})]
    ):
        sandbox = bed.sandbox()
        code, answer = bed.call("ADD", {**conf, **keys}, sandbox, container=f"c{number}", **more)
        if shape == "stretched":
            assert (code, answer["code"]) == (1, 7)
            assert f"mac is {wanted}" in answer["details"]
            assert bed.leased() == set()
        else:
            assert code == 0, answer
            assert sandbox.link("eth0")["address"] == wanted == answer["interfaces"][2]["mac"]


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_every_version_of_the_specification(underlay: Underlay, version: str) -> None:
    bed, sandbox = underlay.bed, underlay.bed.sandbox()
    conf = {**vxlan(underlay, "stretched dual"), "cniVersion": version}
    result = bed.add(conf, sandbox)
    assert result["cniVersion"] == version
    assert targets(result) == ["192.168.100.3", "fd64::3"]
    assert ("version" in result["ips"][0]) == (version < "1.0.0")
    assert ("mtu" in result["interfaces"][2]) == (version == "1.1.0")
    checked = {**conf, "prevResult": result}
    assert bed.call("CHECK", checked, sandbox)[0] == int(version == "0.3.1")
    assert bed.call("DEL", checked, sandbox) == (0, None)
    assert underlay.names() == {"lo", "eth0", "eth1", "wire1"}


def test_add_behind_another_plugin_of_a_chain(underlay: Underlay) -> None:
    bed, sandbox = underlay.bed, underlay.bed.sandbox()
    earlier = {"cniVersion": "1.1.0", "interfaces": [{"name": "net7", "sandbox": sandbox.path}], "ips": []}
    conf = vxlan(underlay)
    result = bed.add({**conf, "prevResult": earlier}, sandbox)
    assert bed.call("CHECK", {**conf, "prevResult": result}, sandbox) == (0, None)
    code, error = bed.call("CHECK", conf, sandbox)
    assert (code, error["code"], error["msg"]) == (1, 7, "required prevResult missing")


# ---------------------------------------------------------------------------------------------- GC, STATUS


@pytest.mark.parametrize("shape", ["routed dual", "asking", "stretched dual"])
def test_gc_removes_what_is_not_valid_and_nothing_else(underlay: Underlay, shape: str) -> None:
    bed, conf = underlay.bed, vxlan(underlay, shape, ipMasq=True)
    living, gone = bed.sandbox(), bed.sandbox()
    result = bed.add(conf, living, container="living")
    alone = bed.state()
    end = bed.add(conf, gone, container="gone")["interfaces"][1]["name"]
    valid = [{"containerID": "living", "ifname": "eth0"}]
    assert bed.call("GC", {**conf, "cni.dev/valid-attachments": valid}) == (0, None)
    assert bed.host.link(end) is None
    assert bed.leased() == alone["leases"]
    assert bed.call("CHECK", {**conf, "prevResult": result}, living, container="living") == (0, None)
    assert bed.call("GC", {**conf, "backend": 5, "cni.dev/valid-attachments": []}) == (0, None)
    assert underlay.names() == {"lo", "eth0", "eth1", "wire1"}
    assert bed.host.run("nft", "list", "ruleset") == ""
    assert bed.leased() == set()


def test_gc_leaves_other_networks_alone(underlay: Underlay) -> None:
    bed, conf = underlay.bed, vxlan(underlay)
    peers = [{**peer, "subnet": peer["subnet"].replace("244", "245")} for peer in PEERS]
    other = vxlan(underlay, name="net2", vni=78, network="10.245.0.0/16", peers=peers)
    sandbox = bed.sandbox()
    kept = bed.add(other, sandbox, container="other")
    alone = bed.state()
    bed.add(conf, bed.sandbox())
    assert bed.call("GC", {**conf, "cni.dev/valid-attachments": []}) == (0, None)
    assert {**bed.state(), "leases": None} == {**alone, "leases": None}
    assert bed.call("CHECK", {**other, "prevResult": kept}, sandbox, container="other") == (0, None)


def test_status(underlay: Underlay) -> None:
    bed, conf = underlay.bed, vxlan(underlay)
    before = bed.state()
    assert bed.call("STATUS", conf) == (0, None)
    assert bed.state() == before
    bed.add(conf, bed.sandbox())
    assert bed.call("STATUS", conf) == (0, None)
    bed.host.run("ip", "link", "set", "eth0", "down")
    assert bed.call("STATUS", conf)[1]["code"] == 51


# ------------------------------------------------------------------------------------------- at one time


def at_once(*deeds: Any) -> list[int]:
    """Carry out deeds in processes of their own, all at the same time; return their exit codes."""
    children = []
    for deed in deeds:
        pid = os.fork()
        if not pid:
            code = 99
            try:
                code = deed()
            finally:
                os._exit(code)
        children.append(pid)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]


@pytest.mark.parametrize("shape", ["routed dual", "asking", "stretched dual"])
def test_containers_that_come_and_go_at_the_same_time(underlay: Underlay, shape: str) -> None:
    bed, conf = underlay.bed, vxlan(underlay, shape, ipMasq=True)
    names = [f"c{number}" for number in range(4)]
    sandboxes = {name: bed.sandbox() for name in names}

    def deed(command: str, name: str) -> Any:
        return lambda: bed.call(command, conf, sandboxes[name], container=name)[0]

    for _ in range(2):
        assert at_once(*(deed("ADD", name) for name in names)) == [0, 0, 0, 0]
        assert len({tuple(sandboxes[name].addresses("eth0")) for name in names}) == 4
        assert at_once(*(deed("DEL", name) for name in names[:3])) == [0, 0, 0]
        assert at_once(*(deed("DEL", "c3"), *(deed("ADD", name) for name in names[:2]))) == [0, 0, 0]
        gateway = {"10": "10.244.1.1", "19": "192.168.100.1"}
        for name in names[:2]:
            (address,) = (text for text in sandboxes[name].addresses("eth0") if ":" not in text)
            assert sandboxes[name].reaches(gateway[address[:2]])
        assert at_once(*(deed("DEL", name) for name in names)) == [0, 0, 0, 0]
        assert underlay.names() == {"lo", "eth0", "eth1", "wire1"}
        assert bed.host.run("nft", "list", "ruleset") == ""
        assert bed.leased() == set()


def test_a_del_leaves_the_rules_of_an_add_that_has_begun(
    underlay: Underlay, monkeypatch: pytest.MonkeyPatch
) -> None:
    bed, conf = underlay.bed, vxlan(underlay)
    monkeypatch.setattr(locks, "_HOST_TIMEOUT", 0.1)
    bed.add(conf, bed.sandbox())
    request = Request("ADD", "net1", conf=conf)
    overlay = parse(request)
    with underlay.session() as session:
        facts = observe.observe(session, asks_of_host(overlay))
        rules, *_ = host_plan(overlay, facts)
        apply.apply(session, (rules,))
        before = bed.host.run("nft", "list", "table", "inet", "cni_plugins")
        assert bed.call("DEL", conf, "") == (0, None)
        assert bed.host.run("nft", "list", "ruleset") == before  # the container's own are gone
    assert bed.call("DEL", conf, "") == (0, None)
    assert bed.host.run("nft", "list", "ruleset") == ""


def test_adds_while_the_peers_change(underlay: Underlay, tmp_path: Path) -> None:
    """Each finds the old file or the new one, and the last one's peers are those that stay."""
    bed, path = underlay.bed, tmp_path / "peers.json"
    conf = vxlan(underlay, backend={"peersFile": str(path)})

    def publish(peers: Any) -> int:
        (tmp_path / "next").write_text(json.dumps(peers))
        (tmp_path / "next").rename(path)
        return 0

    publish(PEERS)
    sandboxes = [bed.sandbox() for _ in range(3)]
    adds = [
        lambda number=number: bed.call("ADD", conf, sandboxes[number], container=f"c{number}")[0]
        for number in range(2)
    ]
    assert at_once(adds[0], lambda: publish(PEERS[:2]), adds[1]) == [0, 0, 0]
    result = bed.add(conf, sandboxes[2], container="c2")
    assert bed.call("CHECK", {**conf, "prevResult": result}, sandboxes[2], container="c2") == (0, None)
    routes = {route["dst"] for route in bed.host.routes("proto", "217")}
    assert "10.244.2.0/24" in routes
    assert "10.244.3.0/24" not in routes


def test_a_host_end_that_was_renamed_goes_all_the_same(underlay: Underlay) -> None:
    bed, conf, sandbox = underlay.bed, vxlan(underlay), underlay.bed.sandbox()
    bed.host.run("ip", "link", "set", bed.add(conf, sandbox)["interfaces"][1]["name"], "name", "other0")
    assert bed.call("DEL", conf, sandbox) == (0, None)
    assert underlay.names() == {"lo", "eth0", "eth1", "wire1"}


def test_a_strangers_link_of_the_host_ends_name_stays(underlay: Underlay) -> None:
    bed, conf, sandbox = underlay.bed, vxlan(underlay), underlay.bed.sandbox()
    name = Attachment("net1", "c1", "eth0").host_end
    bed.host.run("ip", "link", "add", name, "type", "bridge")
    assert bed.call("ADD", conf, sandbox)[1]["code"] == 101
    assert bed.call("DEL", conf, sandbox) == (0, None)
    assert bed.host.link(name)


@pytest.mark.parametrize("lost", ["vx25", "vxbr25"])
@pytest.mark.parametrize("shape", ["routed dual", "stretched dual", "asking"])
def test_what_somebody_took_away_is_made_again_by_the_next_add(
    underlay: Underlay, shape: str, lost: str
) -> None:
    bed, conf = underlay.bed, vxlan(underlay, shape)
    first, second = bed.sandbox(), bed.sandbox()
    bed.add(conf, first)
    bed.host.run("ip", "link", "del", lost)
    result = bed.add(conf, second, container="c2")
    assert bed.call("CHECK", {**conf, "prevResult": result}, second, container="c2") == (0, None)
    assert all(second.reaches(ip["gateway"]) for ip in result["ips"])
    for container in ("c1", "c2"):
        assert bed.call("DEL", conf, "", container=container) == (0, None)
    assert underlay.names() == {"lo", "eth0", "eth1", "wire1"}
    assert bed.host.run("ip", "route", "show", "proto", "217") == ""


@pytest.mark.parametrize("name", ["uplink", "enx-the-one-beside-the-window"], ids=["short", "long"])
def test_the_underlay_may_be_called_by_another_of_its_names(underlay: Underlay, name: str) -> None:
    bed = underlay.bed
    if not bed.host.succeeds("ip", "link", "property", "add", "dev", "eth0", "altname", name):
        pytest.skip("this kernel or iproute2 has no alternative names")
    conf = vxlan(underlay, underlay={"interface": name})
    assert bed.call("STATUS", conf) == (0, None)
    bed.add(conf, bed.sandbox())
    code, error = bed.call("STATUS", vxlan(underlay, underlay={"interface": "enx-another"}))
    assert (code, error["code"]) == (1, 50)
    assert error["msg"] == "no underlay: this host has no address on enx-another that is the VTEP of a peer"
    assert "vx" not in error["details"]
