"""
Overlays that cannot be, tried on the executable: one error document naming key and value, and nothing done.

All the while a ping of a container that is there loses nothing, and the host's tables stay as they are.
"""

from __future__ import annotations

import copy
import json
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.lab.agent import NO_AGENT
from tests.e2e.lab.overlay import (
    UPLINK,
    Bed,
    Container,
    Net,
    attach,
    attached,
    detach,
    peers_file,
    publish,
    raise_bed,
    tables,
)
from tests.e2e.lab.overlay_wire import pinging
from tests.e2e.lab.plugin import Answer, Call, finish, run, start
from tests.e2e.lab.state import State, differences
from tests.namespaces import entered

pytestmark = pytest.mark.needs("ip", "nft", "nsenter", "ping", "setpriv", "sysctl")

IO, CONFIG, KERNEL, TAKEN, FULL, UNAVAILABLE = 5, 7, 100, 101, 102, 50
SECONDS = 20
L3, L2 = Net("l3", number=1), Net("l2", number=1)
MULTICAST = Net("l3-multicast", number=1)
STRETCHED_MULTICAST = Net("l2-multicast", number=1)
BARE, STRETCHED_BARE = Net("l3-bare", number=1), Net("l2-bare", number=1)
IPV6 = Net("l3", 6, number=1)
FILE = Net("l3-file", number=1)

Changes = Mapping[str, Any]
REMOVED = object()
Words = tuple[str, ...]
Case = tuple[Net, Changes, Words]

CASES: dict[str, Case] = {
    # -------------------------------------------------------------------------------------------- scalars
    "vni 0": (L3, {"vni": 0}, ("vni", "0")),
    "vni too large": (L3, {"vni": 1 << 24}, ("vni", str(1 << 24))),
    "vni negative": (L3, {"vni": -1}, ("vni", "-1")),
    "vni a string": (L3, {"vni": "x"}, ("vni", "x")),
    "vni true": (L3, {"vni": True}, ("vni",)),
    "vni a fraction": (L3, {"vni": 7.5}, ("vni", "7.5")),
    "port 0": (L3, {"port": 0}, ("port", "0")),
    "port too large": (L3, {"port": 65536}, ("port", "65536")),
    "port a string": (L3, {"port": "4789"}, ("port", "4789")),
    "mode": (L3, {"mode": "l4"}, ("mode", "l4")),
    "mode in capitals": (L3, {"mode": "L3"}, ("mode", "L3")),
    "df": (L3, {"df": "maybe"}, ("df", "maybe")),
    "df true": (L3, {"df": True}, ("df",)),
    "directRouting": (L3, {"directRouting": "sometimes"}, ("directRouting", "sometimes")),
    "directRouting true": (L3, {"directRouting": True}, ("directRouting",)),
    "bum": (L2, {"bum": "flood"}, ("bum", "flood")),
    "mtu too large": (L3, {"mtu": 1451}, ("1451", "1450", UPLINK)),
    "mtu far too large": (L3, {"mtu": 65536}, ("mtu", "65536")),
    "mtu too small for IPv6": (L3, {"mtu": 1279}, ("1279", "1280")),
    "mtu tiny": (L3, {"mtu": 67}, ("67",)),
    "mtu negative": (L3, {"mtu": -1}, ("mtu", "-1")),
    "mtu a string": (L3, {"mtu": "1400"}, ("mtu", "1400")),
    "sysctls": (L3, {"sysctls": "yes"}, ("sysctls",)),
    "restrictSources": (L3, {"restrictSources": "yes"}, ("restrictSources",)),
    "isDefaultGateway": (L3, {"isDefaultGateway": 1}, ("isDefaultGateway",)),
    "ipMasq": (L3, {"ipMasq": "yes"}, ("ipMasq",)),
    "ipMasqBackend": (L3, {"ipMasqBackend": "iptables"}, ("ipMasqBackend", "iptables")),
    # ------------------------------------------------------------------------------------------- underlay
    "underlay unknown key": (L3, {"underlay": {"device": UPLINK}}, ("underlay", "device")),
    "underlay two keys": (
        L3,
        {"underlay": {"interface": UPLINK, "address": "10.99.0.1"}},
        ("underlay", "interface", "address"),
    ),
    "underlay a string": (L3, {"underlay": UPLINK}, ("underlay",)),
    "underlay interface missing": (L3, {"underlay": {"interface": "absent0"}}, ("absent0",)),
    "underlay interface bare": (L3, {"underlay": {"interface": "ovkebare"}}, ("ovkebare",)),
    "underlay interface misnamed": (L3, {"underlay": {"interface": "a/b"}}, ("interface", "a/b")),
    "underlay cidr elsewhere": (L3, {"underlay": {"cidr": "10.98.0.0/16"}}, ("10.98.0.0/16",)),
    "underlay cidr rubbish": (L3, {"underlay": {"cidr": "rubbish"}}, ("cidr", "rubbish")),
    "underlay address of another": (L3, {"underlay": {"address": "10.99.0.2"}}, ("10.99.0.2",)),
    "underlay unreachable": (L3, {"underlay": {"canReach": "rubbish"}}, ("canReach", "rubbish")),
    # -------------------------------------------------------------------------------------------- backend
    "backend missing": (L3, {"backend": REMOVED}, ("backend",)),
    "backend a string": (L3, {"backend": "static"}, ("backend",)),
    "backend of no type": (L3, {"backend": {"peers": []}}, ("backend",)),
    "backend unknown": (L3, {"backend.type": "raft"}, ("backend", "raft")),
    "backend unknown key": (L3, {"backend.peer": []}, ("backend", "peer")),
    "backend peers and peersFile": (L3, {"backend.peersFile": "/etc/x"}, ("peers", "peersFile")),
    "backend neither": (L3, {"backend": {"type": "static"}}, ("peers", "peersFile")),
    "backend relative path": (
        L3,
        {"backend": {"type": "static", "peersFile": "peers.json"}},
        ("peersFile", "peers.json"),
    ),
    "backend self unknown": (L3, {"backend.self": "h9"}, ("h9",)),
    "backend self of another": (L3, {"backend.self": "h2"}, ("h2",)),
    "no peers": (L3, {"backend.peers": []}, ("peers",)),
    "peers an object": (L3, {"backend.peers": {"h1": "10.99.0.1"}}, ("peers",)),
    "without this host": (L3, {"backend.peers.0": REMOVED}, ("peer",)),
    "this host twice": (L3, {"backend.peers.2.vtep": "10.99.0.1"}, ("h1", "h3", "10.99.0.1")),
    "the same host twice": (L3, {"backend.peers.2.node": "h1"}, ("h1",)),
    "two of one name": (L3, {"backend.peers.2.node": "h2"}, ("h2",)),
    "two of one vtep": (L3, {"backend.peers.2.vtep": "10.99.0.2"}, ("h2", "h3", "10.99.0.2")),
    "vteps of both versions": (L3, {"backend.peers.2.vtep": "fd99::3"}, ("h3", "IPv6")),
    "vtep rubbish": (L3, {"backend.peers.2.vtep": "h3"}, ("vtep", "h3")),
    "vtep with a prefix": (L3, {"backend.peers.2.vtep": "10.99.0.3/24"}, ("vtep", "10.99.0.3/24")),
    "vtep of many": (L3, {"backend.peers.2.vtep": "239.0.0.1"}, ("vtep", "239.0.0.1")),
    "vtep of everybody": (L3, {"backend.peers.2.vtep": "255.255.255.255"}, ("vtep", "255.255.255.255")),
    "vtep of nobody": (L3, {"backend.peers.2.vtep": "0.0.0.0"}, ("vtep", "0.0.0.0")),
    "vtep at home": (L3, {"backend.peers.2.vtep": "127.0.0.1"}, ("vtep", "127.0.0.1")),
    "vtep a link's own": (IPV6, {"backend.peers.2.vtep": "fe80::3"}, ("vtep", "fe80::3")),
    "vtep inside the overlay": (L3, {"backend.peers.2.vtep": "10.45.3.9"}, ("h3", "10.45.3.9")),
    "vtep of IPv4 a link's own": (L3, {"backend.peers.2.vtep": "169.254.0.3"}, ("vtep", "169.254.0.3")),
    "record with an escape in its name": (L3, {"backend.peers.2.node": "h\x1b[2J"}, ("node", "\\x1b[2J")),
    "backend self a book": (L3, {"backend.self": "h" * 300}, ("backend.self",)),
    "vtep a number": (L3, {"backend.peers.2.vtep": 1}, ("vtep",)),
    "record unknown key": (L3, {"backend.peers.2.subnetz": "10.45.3.0/24"}, ("subnetz",)),
    "record of another version": (L3, {"backend.peers.2.v": 2}, ("v", "2")),
    "record with a mac of many": (
        L3,
        {"backend.peers.2.mac": "01:00:5e:00:00:01"},
        ("mac", "01:00:5e:00:00:01"),
    ),
    "record with a bad mac": (L3, {"backend.peers.2.mac": "zz"}, ("mac", "zz")),
    "record with the mac of another": (L3, {"backend.peers.2.mac": "02:fe:0a:63:00:02"}, ("h3", "h2", "mac")),
    "record with another port": (L3, {"backend.peers.2.port": 8472}, ("h3", "8472", "4789")),
    "record with a tiny mtu": (L3, {"backend.peers.2.mtu": 100}, ("mtu", "100")),
    "record with an mtu too small for IPv6": (L3, {"backend.peers.2.mtu": 1300}, ("1250", "1280")),
    "record without vtep": (L3, {"backend.peers.2": {"node": "h3"}}, ("vtep",)),
    "record a number": (L3, {"backend.peers.2": 3}, ("peers",)),
    "record null": (L3, {"backend.peers.2": None}, ("peers",)),
    "record named like a path": (L3, {"backend.peers.2.node": "n" * 300}, ("node",)),
    # ------------------------------------------------------------------------------------------------- l3
    "subnets overlap": (L3, {"backend.peers.2.subnets": ["10.45.2.128/25"]}, ("h2", "h3", "10.45.2.128/25")),
    "subnet outside": (L3, {"backend.peers.2.subnets": ["10.46.3.0/24"]}, ("h3", "10.46.3.0/24")),
    "subnet as large as the network": (L3, {"backend.peers.2.subnets": ["10.45.0.0/16"]}, ("10.45.0.0/16",)),
    "subnet too small": (L3, {"backend.peers.2.subnets": ["10.45.3.0/31"]}, ("h3", "10.45.3.0/31")),
    "two subnets of a family": (
        L3,
        {"backend.peers.2.subnets": ["10.45.3.0/24", "10.45.4.0/24"]},
        ("h3", "IPv4"),
    ),
    "subnet of another length": (L3, {"subnetLen": 25}, ("10.45.1.0/24", "/25")),
    "subnetLen rubbish": (L3, {"subnetLen": "24"}, ("subnetLen",)),
    "a peer without subnet": (L3, {"backend.peers.2": {"node": "h3", "vtep": "10.99.0.3"}}, ("h3", "subnet")),
    "a block in l3": (L3, {"backend.peers.2.block": "10.45.3.0/28"}, ("h3", "block")),
    "network missing": (L3, {"network": REMOVED}, ("network",)),
    "network rubbish": (L3, {"network": "rubbish"}, ("network", "rubbish")),
    "network empty": (L3, {"network": []}, ("network",)),
    "networks of one family": (L3, {"network": ["10.45.0.0/16", "10.46.0.0/16"]}, ("network",)),
    "network of everybody": (L3, {"network": "0.0.0.0/0"}, ("network", "0.0.0.0/0")),
    "network at home": (L3, {"network": "127.0.0.0/16"}, ("network", "127.0.0.0/16")),
    "network of many": (L3, {"network": ["10.45.0.0/16", "ff05::/32"]}, ("network", "ff05::/32")),
    "network of links": (L3, {"network": ["10.45.0.0/16", "fe80::/48"]}, ("network", "fe80::/48")),
    "network with host bits": (L3, {"network": "10.45.0.1/16"}, ("network", "10.45.0.1/16")),
    "subnet with host bits": (L3, {"backend.peers.2.subnets": ["10.45.3.1/24"]}, ("10.45.3.1/24",)),
    "the underlay's own network": (L3, {"network": ["10.99.0.0/16", "fd45::/48"]}, ("10.99.0.",)),
    "bare and no subnet": (BARE, {"backend.subnet": REMOVED}, ("backend.subnet",)),
    "bare and direct": (BARE, {"directRouting": "same-subnet"}, ("directRouting", "same-subnet")),
    "backend.subnet beside records": (L3, {"backend.subnet": "10.45.1.0/24"}, ("backend.subnet",)),
    "backend.subnet outside": (BARE, {"backend.subnet": "10.46.1.0/24"}, ("10.46.1.0/24",)),
    "l2's keys in l3: bum": (L3, {"bum": "none"}, ("bum", "l3")),
    "l2's keys in l3: subnet": (L3, {"subnet": "192.168.101.0/24"}, ("subnet", "l3")),
    "l2's keys in l3: gateway": (L3, {"gateway": "10.45.1.1"}, ("gateway", "l3")),
    "l2's keys in l3: blockLen": (L3, {"blockLen": 28}, ("blockLen", "l3")),
    # ------------------------------------------------------------------------------------------------- l2
    "block outside": (L2, {"backend.peers.2.block": "192.168.99.48/28"}, ("h3", "192.168.99.48/28")),
    "blocks overlap": (L2, {"backend.peers.2.block": "192.168.101.40/29"}, ("h2", "h3", "192.168.101.40/29")),
    "own blocks overlap": (
        L2,
        {"backend.peers.2.blocks": ["192.168.101.48/29"]},
        ("h3", "192.168.101.48/29", "192.168.101.48/28"),
    ),
    "block of another length": (L2, {"blockLen": 27}, ("192.168.101.16/28", "/27")),
    "block with host bits": (L2, {"backend.peers.2.block": "192.168.101.49/28"}, ("192.168.101.49/28",)),
    "IPv6 blocks far apart": (
        L2,
        {
            "subnet": "fd71::/64",
            **{f"backend.peers.{n}.block": f"fd71::{n}:0:0/124" for n in range(3)},
        },
        ("/96",),
    ),
    "block of IPv6": (L2, {"backend.peers.2.block": "fd71::30/124"}, ("fd71::30/124",)),
    "a peer without block": (L2, {"backend.peers.2.block": REMOVED}, ("h3", "block")),
    "a subnet in l2": (L2, {"backend.peers.2.subnets": ["192.168.101.48/28"]}, ("h3", "subnet")),
    "gateway outside": (L2, {"gateway": "192.168.102.1"}, ("gateway", "192.168.102.1")),
    "gateway the network's own address": (L2, {"gateway": "192.168.101.0"}, ("gateway", "192.168.101.0")),
    "gateway the broadcast address": (L2, {"gateway": "192.168.101.255"}, ("gateway", "192.168.101.255")),
    "gateway rubbish": (L2, {"gateway": "rubbish"}, ("gateway", "rubbish")),
    "two gateways of a family": (L2, {"gateway": ["192.168.101.1", "192.168.101.2"]}, ("gateway",)),
    "subnet missing": (L2, {"subnet": REMOVED}, ("subnet",)),
    "subnet6 smaller than subnet": (L2, {"subnet": ["192.168.101.0/24", "fd71::/125"]}, ("fd71::/125",)),
    "a MAC of one's own": (L2, {"runtimeConfig": {"mac": "02:00:00:00:00:11"}}, ("02:00:00:00:00:11", "bum")),
    "bum multicast without group": (L2, {"bum": "multicast"}, ("bum", "multicast")),
    "bum none without blocks": (STRETCHED_BARE, {"bum": "none"}, ("bum", "none")),
    "a static address of another's block": (
        L2,
        {"ipam": {"type": "static", "addresses": [{"address": "192.168.101.40/24"}]}},
        ("192.168.101.40",),
    ),
    "the host's own address": (
        L2,
        {"ipam": {"type": "static", "addresses": [{"address": "192.168.101.16/24"}]}},
        ("192.168.101.16",),
    ),
    "the gateway's address": (
        L3,
        {"ipam": {"type": "static", "addresses": [{"address": "10.45.1.1/24"}]}},
        ("10.45.1.1",),
    ),
    "a gateway of one's own": (
        L3,
        {"ipam": {"type": "static", "addresses": [{"address": "10.45.1.9/24", "gateway": "10.45.1.8"}]}},
        ("10.45.1.8", "10.45.1.1", "10.45.1.9"),
    ),
    "a static address of another host": (
        L3,
        {"ipam": {"type": "static", "addresses": [{"address": "10.45.2.9/24"}]}},
        ("10.45.2.9",),
    ),
    "l3's keys in l2: network": (L2, {"network": "10.45.0.0/16"}, ("network", "l2")),
    "l3's keys in l2: subnetLen": (L2, {"subnetLen": 24}, ("subnetLen", "l2")),
    "l3's keys in l2: directRouting": (L2, {"directRouting": "same-subnet"}, ("directRouting", "l2")),
    # ------------------------------------------------------------------------------------------ multicast
    "restrictSources in the dark": (MULTICAST, {"restrictSources": True}, ("restrictSources", "multicast")),
    "group of one": (MULTICAST, {"backend.group": "10.99.0.9"}, ("group", "10.99.0.9")),
    "group missing": (MULTICAST, {"backend.group": REMOVED}, ("group",)),
    "ttl too large": (MULTICAST, {"backend.ttl": 256}, ("ttl",)),
    "ttl a string": (MULTICAST, {"backend.ttl": "4"}, ("ttl",)),
    "multicast without subnet": (MULTICAST, {"backend.subnet": REMOVED}, ("subnet",)),
    "multicast with peers": (MULTICAST, {"backend.peers": ["10.99.0.1"]}, ("peers",)),
    "multicast and direct": (MULTICAST, {"directRouting": "always"}, ("directRouting", "always")),
    "multicast and bum none": (STRETCHED_MULTICAST, {"bum": "none"}, ("bum", "none")),
    "multicast and head-end": (STRETCHED_MULTICAST, {"bum": "head-end"}, ("bum", "head-end")),
    "IPv6 group without IPv6 underlay": (
        MULTICAST,
        {"backend.group": "ff05::7:7", "underlay": {"address": "10.99.0.1"}},
        ("10.99.0.1",),
    ),
}


@pytest.fixture(scope="module")
def bed(dist: Path) -> Iterator[Bed]:
    with raise_bed(dist, warm=True) as bed:
        bed.node(1).host.netns("ovkebad")
        bed.node(1).host.run("ip", "link", "add", "ovkebare", "up", "type", "veth", "peer", "ovkefar")
        yield bed


@pytest.fixture(scope="module")
def quiet(bed: Bed) -> Iterator[State]:
    """The tables of the first host, who has a container on another network that is pinged all the while."""
    with (
        attached(bed, Net("l3"), [(1, "ovkea"), (2, "ovkeb")]) as [one, other],
        pinging(one, other.addresses[0]),
    ):
        yield tables(bed.node(1))


@pytest.fixture
def blank(bed: Bed, quiet: State) -> Iterator[Callable[[Mapping[str, Any]], Container]]:
    """Makes a container that is to be refused; nothing may come of it."""
    node = bed.node(1)
    yield lambda conf: Container(node, "ovkebad", conf)
    assert differences(quiet, tables(node)) == []
    assert node.host.run("ip", "-n", "ovkebad", "-br", "link").stdout.split()[0::4] == ["lo"]


Blank = Callable[[Mapping[str, Any]], Container]


@pytest.mark.parametrize(("net", "changes", "told"), CASES.values(), ids=CASES)
def test_what_cannot_be_is_refused(bed: Bed, blank: Blank, net: Net, changes: Changes, told: Words) -> None:
    """By a warm agent, but for one in ten: so many starts of the executable would show nothing more."""
    conf = changed(net.conf(bed.node(1), bed.nodes), changes)
    refused(blank(conf), CONFIG, told, warm=list(CASES.values()).index((net, changes, told)) % 10 > 0)


def test_an_address_of_another_hosts_block(bed: Bed, blank: Blank) -> None:
    """Is one that the IPAM plugin has not, as it is given its own host's block."""
    conf = {**L2.conf(bed.node(1), bed.nodes), "runtimeConfig": {"ips": ["192.168.101.40"]}}
    refused(blank(conf), (CONFIG, FULL), ("192.168.101.40", "192.168.101.17"))


def test_the_good_one_that_all_of_them_come_from(bed: Bed, quiet: State) -> None:
    for net in (L3, L2, MULTICAST, STRETCHED_MULTICAST, BARE, STRETCHED_BARE, IPV6):
        detach(attach(bed.node(1), "ovkegood", net.conf(bed.node(1), bed.nodes)))
    assert differences(quiet, tables(bed.node(1))) == []


# ---------------------------------------------------------------------------------------------- the host


@contextmanager
def kernel(bed: Bed, before: str, after: str) -> Iterator[State]:
    """A host that is otherwise for a while."""
    host = bed.node(1).host
    host.run("sh", "-euc", before)
    try:
        yield tables(bed.node(1))
    finally:
        host.run("sh", "-euc", after)


def unchanged(bed: Bed, state: State) -> bool:
    return differences(state, tables(bed.node(1))) == []


@pytest.mark.parametrize("command", ["ADD", "STATUS"])
def test_a_vni_that_another_link_has(bed: Bed, blank: Blank, command: str) -> None:
    conf = {**L3.conf(bed.node(1), bed.nodes), "vni": 4242}
    add = "ip link add ovkeforeign type vxlan id 4242 dstport 4789 local 10.99.0.1 dev uplink"
    with kernel(bed, add, "ip link del ovkeforeign") as state:
        code = {"ADD": TAKEN, "STATUS": UNAVAILABLE}[command]
        refused(blank(conf), code, ("4242", "ovkeforeign"), command)
        assert unchanged(bed, state)


@pytest.mark.parametrize("kind", ["bridge", "veth"])
@pytest.mark.parametrize("command", ["ADD", "STATUS"])
def test_a_name_that_another_link_has(bed: Bed, blank: Blank, command: str, kind: str) -> None:
    conf = {**L3.conf(bed.node(1), bed.nodes), "vni": 46656}
    name = {"bridge": "vxbr1000", "veth": "vx1000"}[kind]
    with kernel(bed, f"ip link add {name} type {kind}", f"ip link del {name}") as state:
        code = {"ADD": TAKEN, "STATUS": UNAVAILABLE}[command]
        refused(blank(conf), code, (name,), command)
        assert unchanged(bed, state)


@pytest.mark.parametrize("command", ["ADD", "STATUS"])
@pytest.mark.parametrize("net", [L3, IPV6], ids=["IPv4", "IPv6"])
def test_a_port_that_another_socket_has(bed: Bed, blank: Blank, net: Net, command: str) -> None:
    conf = {**net.conf(bed.node(1), bed.nodes), "port": 8472}
    family = socket.AF_INET6 if net is IPV6 else socket.AF_INET
    with entered(bed.node(1).file("")):
        other = socket.socket(family, socket.SOCK_DGRAM)
    with other:
        other.bind(("::" if net is IPV6 else "0.0.0.0", 8472))
        code = {"ADD": (KERNEL, TAKEN), "STATUS": (UNAVAILABLE,)}[command]
        answer = refused(blank(conf), code, ("8472",), command)
        assert "socket" in told_by(answer)


def test_an_underlay_that_could_be_either_of_two(bed: Bed, blank: Blank) -> None:
    """As the list says of both that they are hosts'."""
    conf = changed(L3.conf(bed.node(1), bed.nodes), {"backend.peers.2.vtep": "10.99.0.103"})
    add, take = (f"ip addr {verb} 10.99.0.103/32 dev ovkebare" for verb in ("add", "del"))
    with kernel(bed, add, take) as state:
        refused(blank(conf), CONFIG, ("10.99.0.1", "10.99.0.103", UPLINK, "ovkebare"))
        refused(blank(conf), UNAVAILABLE, ("10.99.0.1", "10.99.0.103"), "STATUS")
        assert unchanged(bed, state)
        for choice in ({"underlay": {"interface": UPLINK}}, {"backend.self": "h1"}):
            detach(attach(bed.node(1), "ovkegood", changed(conf, choice)))


def test_multicast_without_a_default_route(bed: Bed, blank: Blank) -> None:
    conf = changed(MULTICAST.conf(bed.node(1), bed.nodes), {"underlay": REMOVED})
    take = "ip route del default; ip -6 route del default"
    add = "ip route add default via 10.99.0.254; ip -6 route add default via fd99::254"
    with kernel(bed, take, add) as state:
        refused(blank(conf), CONFIG, ("default route",))
        assert unchanged(bed, state)


def test_addresses_of_the_overlay_at_another_link(bed: Bed, blank: Blank) -> None:
    conf = L3.conf(bed.node(1), bed.nodes)
    add, take = (f"ip addr {verb} 10.45.77.1/24 dev ovkebare" for verb in ("add", "del"))
    with kernel(bed, add, take) as state:
        refused(blank(conf), (CONFIG, TAKEN), ("10.45.77.1", "ovkebare"))
        refused(blank(conf), UNAVAILABLE, ("10.45.77.1", "ovkebare"), "STATUS")
        assert unchanged(bed, state)


# ------------------------------------------------------------------------------------------------ status


@pytest.mark.parametrize(
    "net", [L3, L2, MULTICAST, STRETCHED_MULTICAST, BARE, STRETCHED_BARE, IPV6, Net("l3")]
)
def test_status_is_well(bed: Bed, blank: Blank, net: Net) -> None:
    """Also where the network is there already."""
    assert run(bed.node(1).host, blank(net.conf(bed.node(1), bed.nodes)).asks("STATUS")).ok().out == b""


def test_status_without_underlay(bed: Bed, blank: Blank) -> None:
    conf = changed(L3.conf(bed.node(1), bed.nodes), {"underlay": {"interface": "absent0"}})
    refused(blank(conf), UNAVAILABLE, ("absent0",), "STATUS")


def test_status_when_no_address_is_left(bed: Bed, blank: Blank) -> None:
    node = bed.node(1)
    conf = changed(L2.conf(node, bed.nodes), {"backend.peers.0.block": "192.168.101.16/31"})
    last = attach(node, "ovkelast", conf)
    try:
        answer = run(node.host, last.asks("STATUS"))
        assert answer.code == 1, answer
        assert answer.document["code"] == UNAVAILABLE, answer
    finally:
        detach(last)
    run(node.host, blank(conf).asks("STATUS")).ok()


# ------------------------------------------------------------------------------------------ the peers file

MEGABYTE = 1 << 20
DEPTH = 100_000


def good(bed: Bed) -> str:
    return json.dumps([FILE.record(node) for node in bed.nodes])


def many(count: int) -> str:
    return json.dumps(
        [
            {
                "node": f"n{n}",
                "vtep": f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}",
                "subnet": "10.45.0.0/24",
            }
            for n in range(count)
        ]
    )


CONTENTS: dict[str, tuple[Callable[[Bed], bytes], Words]] = {
    "empty": (lambda _: b"", ()),
    "blank": (lambda _: b" \n", ()),
    "half-written": (lambda bed: good(bed).encode()[:-40], ()),
    "two documents": (lambda bed: good(bed).encode() * 2, ()),
    "not JSON": (lambda _: b"h1 10.99.0.1\n", ()),
    "a number": (lambda _: b"1", ()),
    "null": (lambda _: b"null", ()),
    "an empty list": (lambda _: b"[]", ("peers",)),
    "an empty object": (lambda _: b"{}", ("peers",)),
    "not UTF-8": (lambda bed: good(bed).replace("h3", "h\xff").encode("latin-1"), ()),
    "UTF-16": (lambda bed: good(bed).replace("10.99.0.3", "10.99.0.2").encode("utf-16"), ()),
    "NUL bytes": (lambda bed: good(bed).encode() + b"\0" * 64, ()),
    "a NUL in a name": (lambda bed: good(bed).replace("h3", "h\\u00003").encode(), ()),
    "a line break in a name": (lambda bed: good(bed).replace("h3", "h\\n3").encode(), ()),
    "only NUL bytes": (lambda _: b"\0" * 4096, ()),
    "50 MB of blanks": (lambda _: b" " * 50 * MEGABYTE, ()),
    "50 MB of NUL bytes": (lambda _: b"\0" * 50 * MEGABYTE, ()),
    "50 MB of numbers": (lambda _: b"[" + b"0," * 25 * MEGABYTE + b"0]", ()),
    "deeply nested": (lambda _: b"[" * DEPTH + b"]" * DEPTH, ()),
    "deep objects": (lambda _: b'{"a":' * DEPTH + b"1" + b"}" * DEPTH, ()),
    "100 000 peers": (lambda _: many(100_000).encode(), ()),
    "not a number": (lambda bed: good(bed).replace('"h3"', "NaN").encode(), ()),
    "huge number": (lambda bed: good(bed).replace('"h3"', "1" * 5000).encode(), ()),
    "an unknown key": (lambda bed: good(bed).replace('"vtep"', '"vtpe"').encode(), ("vtpe",)),
    "without this host": (lambda bed: good(bed).replace("10.99.0.1", "10.99.0.11").encode(), ("peer",)),
}


@pytest.mark.parametrize(("content", "told"), CONTENTS.values(), ids=CONTENTS)
def test_a_peers_file_that_says_nothing_of_use(
    bed: Bed, blank: Blank, content: Callable[[Bed], bytes], told: Words
) -> None:
    path = bed.node(1).host.write(peers_file(FILE), "")
    path.write_bytes(content(bed))
    try:
        conf = FILE.conf(bed.node(1), bed.nodes)
        refused(blank(conf), (IO, CONFIG), told or (peers_file(FILE),))
    finally:
        path.unlink()


SHAPES_OF_FILES = {
    "missing": "true",
    "FIFO": "mkfifo {file}",
    "directory": "mkdir {file}",
    "link to nowhere": "ln -s nowhere {file}",
    "link to itself": "ln -s {file} {file}",
    "device": "cp -a /dev/zero {file}",
    "world-writable": "echo '{good}' >{file}; chmod 666 {file}",
    "group-writable": "echo '{good}' >{file}; chmod 664 {file}",
    "of another": "echo '{good}' >{file}; chown 1000 {file}",
    "below a file": "rmdir -p {file}.d 2>/dev/null; true",
}


@pytest.mark.parametrize("command", ["ADD", "STATUS"])
@pytest.mark.parametrize("script", SHAPES_OF_FILES.values(), ids=SHAPES_OF_FILES)
def test_a_peers_file_that_is_none(bed: Bed, blank: Blank, script: str, command: str) -> None:
    host, file = bed.node(1).host, peers_file(FILE)
    host.run("sh", "-c", f"mkdir -p /etc/cni; umask 022; {script.format(file=file, good=good(bed))}")
    try:
        refused(blank(FILE.conf(bed.node(1), bed.nodes)), (IO, CONFIG, UNAVAILABLE), (file,), command)
    finally:
        host.run("rm", "-rf", file)


@pytest.mark.parametrize(
    "wrap", [lambda peers: peers, lambda peers: {"peers": peers}], ids=["list", "object"]
)
def test_a_peers_file_that_is_well(bed: Bed, quiet: State, wrap: Callable[[Any], Any]) -> None:
    node = bed.node(1)
    publish(FILE, [node])
    node.host.write(peers_file(FILE), json.dumps(wrap([FILE.record(other) for other in bed.nodes])))
    detach(attach(node, "ovkegood", FILE.conf(node, bed.nodes)))
    assert differences(quiet, tables(node)) == []


def test_del_and_gc_need_no_peers_file(bed: Bed, quiet: State) -> None:
    """Nor one that makes sense."""
    node = bed.node(1)
    for number, content in enumerate(("", "[", None)):
        publish(FILE, bed.nodes)
        conf = FILE.conf(node, bed.nodes)
        container = attach(node, "ovkegood", conf)
        path = node.host.path(peers_file(FILE))
        path.unlink() if content is None else path.write_text(content)
        if number:
            detach(container)
        else:
            node.host.remove_netns("ovkegood")
            run(node.host, Call("GC", {**conf, "cni.dev/valid-attachments": []})).ok()
        assert differences(quiet, tables(node)) == []


def changed(conf: Mapping[str, Any], changes: Changes) -> dict[str, Any]:
    """The configuration, with the values at dotted paths replaced or removed."""
    made: Any = copy.deepcopy(dict(conf))
    for path, value in changes.items():
        *parents, last = (int(part) if part.isdigit() else part for part in path.split("."))
        at: Any = reduce(lambda at, part: at[part], parents, made)
        if value is REMOVED:
            del at[last]
        else:
            at[last] = value
    return dict(made)


def refused(
    container: Container,
    codes: int | tuple[int, ...],
    told: Words,
    command: str = "ADD",
    *,
    warm: bool = False,
) -> Answer:
    call = container.asks(command)
    if not warm:
        call = call.but(variables=NO_AGENT)
    answer = finish(start(container.node.host, call), call, timeout=SECONDS)
    if answer.code == 0:
        container.call("DEL")  # or all that follow would fail too
    assert answer.code == 1, answer
    assert answer.document["code"] in (codes if isinstance(codes, tuple) else (codes,)), answer
    said = told_by(answer)
    assert [word for word in told if word not in said] == [], answer.document
    assert len(said) < 20_000, len(said)
    assert b"Traceback" not in answer.err
    return answer


def told_by(answer: Answer) -> str:
    return f"{answer.document['msg']} {answer.document.get('details', '')}"
