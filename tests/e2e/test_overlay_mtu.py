"""How large packets of an overlay are, what becomes of those too large on the way, and how fast they are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.lab.overlay import (
    UPLINK,
    Bed,
    Container,
    Net,
    Node,
    attach,
    attached,
    detach,
    overlay_addresses,
    raise_bed,
    tables,
)
from tests.e2e.lab.overlay_wire import fragments, throughput
from tests.e2e.lab.plugin import BIN
from tests.e2e.lab.state import differences

pytestmark = pytest.mark.needs("ip", "nft", "nsenter", "ping", "setpriv", "sysctl")

OVERHEAD = {4: 50, 6: 70}
HOP = 1400
PING = {4: 20 + 8, 6: 40 + 8}
"""The headers of an echo request."""
ACROSS = [(1, "ovkea"), (2, "ovkeb")]
SECONDS = 0.5
FLOWS = 1 << 20
"""Bytes a second: what crosses the narrow hop in a black hole is a handful of packets."""
ROUNDS, AS_FAST = 6, 0.97
BOTH_MODES = pytest.mark.parametrize("shape", ["l3", "l2"])
BOTH_UNDERLAYS = pytest.mark.parametrize("version", [4, 6])


@pytest.fixture(scope="module")
def narrow(dist: Path) -> Iterator[Bed]:
    """Two hosts who believe in 1500 bytes, and between them 1400."""
    with raise_bed(dist, (0, 1, 0), hop=HOP, warm=True) as bed:
        yield bed


# ------------------------------------------------------------------------------------------ the right size


@BOTH_UNDERLAYS
@BOTH_MODES
def test_the_mtu_is_what_the_underlay_leaves(narrow: Bed, shape: str, version: int) -> None:
    near, _, other = narrow.nodes
    with attached(narrow, Net(shape, version), [(1, "ovkea"), (3, "ovkeb")]) as [one, two]:
        wanted = 1500 - OVERHEAD[version]
        assert sizes(near) == {wanted}
        assert mtu(one) == wanted
        with fragments([near.file(""), other.file("")]) as cut:
            for address in two.addresses:
                largest = wanted - PING[6 if ":" in address else 4]
                one.run("ping", "-c1", "-W3", "-M", "do", "-s", str(largest), address)
                refused = one.run(
                    "ping", "-c1", "-W1", "-M", "do", "-s", str(largest + 1), address, check=False
                )
                assert refused.returncode != 0
                assert throughput(one.netns, two.netns, address, SECONDS) > FLOWS
            assert cut() == 0


@BOTH_MODES
def test_the_mtu_is_what_the_peers_leave(narrow: Bed, shape: str) -> None:
    net = Net(shape)
    peers = [net.record(node) | ({"mtu": 1400} if node.number == 3 else {}) for node in narrow.nodes]
    with attached(narrow, Net(shape, more={"backend": {"type": "static", "peers": peers}}), ACROSS) as [
        one,
        _,
    ]:
        assert sizes(one.node) == {1350}
        assert mtu(one) == 1350


@BOTH_MODES
def test_an_underlay_that_became_narrower_is_followed(narrow: Bed, shape: str) -> None:
    """By the next ADD; containers that were there keep what they have."""
    net, node = Net(shape), narrow.node(1)
    with attached(narrow, net, ACROSS) as [one, two]:
        node.host.run("ip", "link", "set", UPLINK, "mtu", "1450")
        try:
            late = attach(node, "ovkec", net.conf(node, narrow.nodes))
            try:
                assert mtu(late) == 1400
                assert sizes(node) == {1400}
                assert one.unreached(two.addresses) == []
                assert late.unreached(two.addresses) == []
            finally:
                detach(late)
        finally:
            node.host.run("ip", "link", "set", UPLINK, "mtu", "1500")


# ------------------------------------------------------------------------------------------ a narrow hop


@BOTH_UNDERLAYS
@BOTH_MODES
def test_a_narrow_hop_is_no_black_hole_and_nothing_is_cut(narrow: Bed, shape: str, version: int) -> None:
    with (
        attached(narrow, Net(shape, version), ACROSS) as [one, two],
        fragments(narrow.routers()) as cut,
    ):
        for here, there in ((one, two), (two, one)):
            for address in there.addresses:
                flow = throughput(here.netns, there.netns, address, SECONDS)
                assert flow > FLOWS, f"{here.name} to {address}: {flow:.0f} bytes/s"
        assert cut() == 0


@BOTH_MODES
def test_a_packet_too_large_for_the_hop_gets_an_answer(narrow: Bed, shape: str) -> None:
    with attached(narrow, Net(shape), ACROSS) as [one, two]:
        for address in two.addresses:
            size = 1450 - PING[6 if ":" in address else 4]
            ping = ("ping", "-n", "-W1", "-i0.2", "-M", "do", "-s")
            said = one.run(*ping, str(size), "-c4", address, check=False).stdout
            told = re.findall(r"mtu[ =:]+(\d+)", said, re.IGNORECASE)
            assert told, said
            assert int(told[-1]) == HOP - OVERHEAD[4]
            one.run(*ping, str(HOP - OVERHEAD[4] - PING[6 if ":" in address else 4]), "-c1", address)


def test_a_hosts_own_flow_passes_the_narrow_hop(narrow: Bed) -> None:
    """The first may stand still a while, as nobody tells the kernel's own sockets that a packet is lost."""
    with attached(narrow, Net("l3"), ACROSS) as [one, two], fragments(narrow.routers()) as cut:
        flows = [(one.node.file(""), two.netns, address) for address in two.addresses]
        flows += [
            (one.netns, two.node.file(""), address)
            for address in overlay_addresses(two.node)
            if not address.endswith((".0", "::"))
        ]
        for flow in flows:
            assert any(throughput(*flow, SECONDS) > FLOWS for _ in range(3)), flow
        assert cut() == 0


# ------------------------------------------------------------------------------------- a path measured


def test_a_measured_path_is_the_mtu_of_the_routes(narrow: Bed) -> None:
    """The first packet gets an answer then, CHECK agrees, and ADD leaves it; a wider path is found too."""
    net, node = Net("l3"), narrow.node(1)
    with attached(narrow, net, [*ACROSS, (3, "ovkec")]) as containers:
        one, two, _ = containers
        assert routes(node) == {2: {1450}, 3: {1450}}
        probe(node, net.conf(node, narrow.nodes))
        assert routes(node) == {2: {HOP - 50}, 3: {1450}}
        one.check().ok()
        detach(attach(node, "ovkelate", net.conf(node, narrow.nodes)))
        assert routes(node) == {2: {HOP - 50}, 3: {1450}}
        for address in two.addresses:
            size = 1450 - PING[6 if ":" in address else 4]
            said = one.run(
                "ping", "-n", "-c1", "-W1", "-M", "do", "-s", str(size), address, check=False
            ).stdout
            assert f"mtu = {HOP - 50}" in said or f"mtu={HOP - 50}" in said, said
        widen(narrow, 1500)
        try:
            probe(node, net.conf(node, narrow.nodes))
            assert routes(node) == {2: {1450}, 3: {1450}}
        finally:
            widen(narrow, HOP)


@BOTH_UNDERLAYS
def test_a_probe_without_write_writes_nothing(narrow: Bed, version: int) -> None:
    net, node = Net("l3", version), narrow.node(1)
    with attached(narrow, net, ACROSS):
        before = tables(node)
        shown = probe(node, net.conf(node, narrow.nodes), write=False)
        assert str(HOP) in shown
        assert differences(before, tables(node)) == []


def probe(node: Node, conf: Mapping[str, Any], *, write: bool = True) -> str:
    node.host.write("/etc/cni/ovke.conf", json.dumps(conf))
    command = [f"{BIN}/cnictl", "overlay", "probe", "--json", "--conf", "/etc/cni/ovke.conf"]
    # A host without containers on the network is not in it, and answers no ping inside: not zero then.
    return node.host.run(*command, *(["--write"] if write else []), check=False).stdout


def widen(bed: Bed, mtu: int) -> None:
    """What lies between the routers carries this much; and the hosts forget what they learned of it."""
    for router in ("near", "far"):
        bed.switch.run("ip", "-n", router, "link", "set", "ovkehop", "mtu", str(mtu))
    for node in bed.nodes:
        node.host.run("sh", "-c", "ip route flush cache; ip -6 route flush cache")


def routes(node: Node) -> dict[int, set[int]]:
    """The MTUs of the routes to each peer, of both families."""
    found: dict[int, set[int]] = {}
    for family in ("-4", "-6"):
        for route in json.loads(node.host.run("ip", "-j", family, "route", "show", "proto", "217").stdout):
            if route.get("type") != "blackhole":
                number = int(re.split(r"[.:]+", route["dst"])[2 if family == "-4" else 3])
                metrics = {key: value for entry in route.get("metrics", []) for key, value in entry.items()}
                found.setdefault(number, set()).add(metrics.get("mtu", 0))
    return found


# ---------------------------------------------------------------------------------------------- as fast

BY_HAND = """
ip link add ovkehbr mtu {mtu} type bridge
ip link set ovkehbr addrgenmode none up
ip link add ovkehvx mtu {mtu} type vxlan id 99 dstport 4789 local {local} dev uplink nolearning df set
ip link set ovkehvx address 02:99:99:00:00:{number} addrgenmode none
ip netns add ovkehand
ip link add ovkehve mtu {mtu} type veth peer name eth0 mtu {mtu} netns ovkehand
ip -n ovkehand link set eth0 address 02:99:98:00:00:{number}
ip link set ovkehve master ovkehbr up
ip -n ovkehand link set eth0 up
sysctl -qw net.ipv4.ip_forward=1
"""
BY_HAND_ROUTED = """
ip addr add 10.77.{number}.0/32 dev ovkehvx
ip link set ovkehvx up
ip addr add 10.77.{number}.1/24 dev ovkehbr
ip -n ovkehand addr add 10.77.{number}.2/24 dev eth0
ip -n ovkehand route add default via 10.77.{number}.1
ip neigh add 10.77.{peer}.0 lladdr 02:99:99:00:00:{peer} dev ovkehvx nud permanent
bridge fdb add 02:99:99:00:00:{peer} dev ovkehvx dst {remote} self permanent
ip route add 10.77.{peer}.0/24 via 10.77.{peer}.0 dev ovkehvx onlink
"""
BY_HAND_STRETCHED = """
ip link set ovkehvx master ovkehbr
bridge link set dev ovkehvx learning off neigh_suppress on
ip link set ovkehvx up
ip -n ovkehand addr add 10.77.0.{number}/24 dev eth0
ip neigh add 10.77.0.{peer} lladdr 02:99:98:00:00:{peer} dev ovkehbr nud permanent
bridge fdb add 02:99:98:00:00:{peer} dev ovkehvx dst {remote} self permanent
bridge fdb add 02:99:98:00:00:{peer} dev ovkehvx master static
"""
TAKE_AWAY = """
ip netns del ovkehand
ip link del ovkehvx
ip link del ovkehbr
"""


@BOTH_MODES
def test_it_is_as_fast_as_what_is_made_by_hand(narrow: Bed, shape: str) -> None:
    one, other = narrow.node(1), narrow.node(3)
    target = "10.77.3.2" if shape == "l3" else "10.77.0.3"
    with (
        attached(narrow, Net(shape), [(1, "ovkea"), (3, "ovkeb")]) as [source, sink],
        by_hand(one, other, shape),
        by_hand(other, one, shape),
    ):
        ratios: list[float] = []
        while len(ratios) < ROUNDS and max(ratios, default=0) < AS_FAST:
            ours = throughput(source.netns, sink.netns, sink.addresses[0], SECONDS)
            theirs = throughput(one.file("ovkehand"), other.file("ovkehand"), target, SECONDS)
            assert theirs > FLOWS
            ratios.append(ours / theirs)
        assert max(ratios) >= AS_FAST, ratios


@contextmanager
def by_hand(node: Node, peer: Node, shape: str) -> Iterator[None]:
    """An overlay of the same links between two hosts, each with a namespace, with no plugin in sight."""
    script = BY_HAND + (BY_HAND_ROUTED if shape == "l3" else BY_HAND_STRETCHED)
    words = {"local": node.vteps[4], "remote": peer.vteps[4], "number": node.number, "peer": peer.number}
    node.host.run("sh", "-euc", script.format(mtu=1450, **words))
    try:
        yield
    finally:
        node.host.run("sh", "-c", TAKE_AWAY)


def sizes(node: Node) -> set[int]:
    """The MTUs of the overlay's own links."""
    listed = json.loads(node.host.run("ip", "-j", "link").stdout)
    return {link["mtu"] for link in listed if link["ifname"].startswith("vx")}


def mtu(container: Container) -> int:
    [link] = json.loads(container.run("ip", "-j", "link", "show", "eth0").stdout)
    return int(link["mtu"])
