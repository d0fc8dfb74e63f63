"""What the kernel is told of peers, seen with iproute2: exactly what is listed; what others made stays."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from cni_plugins.errors import KernelRefused
from cni_plugins.kernel import dispatch
from cni_plugins.kernel.overlay import peers as peer_tables
from cni_plugins.kernel.overlay.routes import measured
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import network_mark
from cni_plugins.steps.overlay import FLOOD, DelProxied, EnsurePeers, EnsureProxied, PeerRoute
from tests.integration.conftest import Bed, Namespace

MARK = network_mark("blue")
GROUP = "239.7.7.7"
MAC2, MAC3, MAC9 = "02:fe:0a:63:00:02", "02:fe:0a:63:00:03", "02:fe:0a:63:00:09"
VTEP2, VTEP3, VTEP9 = (ip_address(f"10.99.0.{n}") for n in (2, 3, 9))
SUBNET2, SUBNET6, OWN = ip_network("10.244.2.0/24"), ip_network("fd44:2::/64"), ip_network("10.244.0.0/16")
CLEAR, SOURCED = ip_network("10.244.9.0/24"), ip_network("fd44:9::/64")
GATEWAY2, GATEWAY6 = ip_address("10.244.2.0"), ip_address("fd44:2::")


def peers(**changes: Any) -> EnsurePeers:
    """A network that has one of everything."""
    step = EnsurePeers(
        "blue",
        "vx0",
        fdb=((MAC2, VTEP2), (MAC3, VTEP3), (FLOOD, VTEP2), (FLOOD, VTEP3)),
        behind=(MAC2, MAC3),
        at="br0",
        neighbours=((GATEWAY2, MAC2), (GATEWAY6, MAC2), (ip_address("10.244.3.0"), MAC3)),
        routes=(
            PeerRoute(SUBNET2, "br0", GATEWAY2, 1450, onlink=True),
            PeerRoute(SUBNET6, "br0", GATEWAY6, 1430, onlink=True),
            PeerRoute(ip_network("10.244.3.0/24"), "br0", GATEWAY6, 1450, onlink=True),
            PeerRoute(CLEAR, "eth0", ip_address("10.99.0.9"), src=ip_address("10.99.0.1")),
            PeerRoute(SOURCED, "br0", src=ip_address("fd99::1")),
            PeerRoute(OWN),
            PeerRoute(ip_network("fd44::/32")),
        ),
    )
    return step.replace(**changes)


class Overlay:
    """A host with a VXLAN link in a bridge."""

    def __init__(self, bed: Bed) -> None:
        self.bed, self.host = bed, bed.host
        for words in (
            "link add eth0 up type veth peer name far0",
            "link set far0 up",
            "address add 10.99.0.1/16 dev eth0",
            "link add br0 up type bridge",
            "link add vx0 type vxlan id 100 local 10.99.0.1 dev eth0 dstport 4789 learning ttl 4 group "
            + GROUP,
            "link set vx0 addrgenmode none master br0 up",
            "address add fd99::1/64 dev br0 nodad",
        ):
            self.host.run("ip", *words.split())

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        with self.bed.inside(), Session(None) as session:
            yield session

    def ensure(self, step: EnsurePeers) -> None:
        with self.session() as session:
            dispatch.carry_out(session, step)

    def differs(self, step: EnsurePeers) -> str:
        with self.session() as session:
            return dispatch.differs(session, step)

    def run(self, words: str) -> str:
        return self.host.run(*words.split())

    def tables(self) -> dict[str, list[str]]:
        """Return what iproute2 shows, without what the kernel changes by itself."""
        shown = {
            "fdb": self.run("bridge fdb show dev vx0"),
            "neighbours": self.run("ip neigh show nud permanent"),
            "proxied": self.run("ip -6 neigh show proxy"),
            "routes": self.run("ip -4 -details route show proto 217"),
            "routes6": self.run("ip -6 -details route show proto 217"),
        }
        return {
            name: sorted(" ".join(line.split()) for line in text.splitlines()) for name, text in shown.items()
        }

    def shows(self, table: str, text: str) -> bool:
        return any(text in line for line in self.tables()[table])


@pytest.fixture
def overlay(bed: Bed) -> Overlay:
    return Overlay(bed)


@contextlib.contextmanager
def events(host: Namespace) -> Iterator[list[str]]:
    """Collect what `ip monitor` and `bridge monitor` tell meanwhile."""
    heard: list[str] = []
    words = (("ip", "monitor", "route", "neigh"), ("bridge", "monitor", "fdb"))
    with host.entered():
        running = [
            subprocess.Popen(["stdbuf", "-oL", *command], stdout=subprocess.PIPE, text=True)
            for command in words
        ]
    time.sleep(0.3)  # until they listen
    try:
        yield heard
        # A change of the test's own tells that they were listening all the time.
        for deed in ("add", "del"):
            host.run("ip", "route", deed, "blackhole", "192.0.2.99/32")
            host.run("bridge", "fdb", deed, "02:00:00:00:00:99", "dev", "vx0", "dst", "192.0.2.99")
        time.sleep(0.3)
    finally:
        for process in running:
            process.terminate()
            text, _ = process.communicate()
            assert "192.0.2.99" in text
            heard += [line for line in text.splitlines() if line.strip() and "192.0.2.99" not in line]


def ours(heard: list[str]) -> list[str]:
    """Leave out what the kernel does of itself: it asks for VTEPs, and it learns its own multicast."""
    return [
        line for line in heard if "192.0.2.99" not in line and "10.99.0." not in line and "ff0" not in line
    ]


# ------------------------------------------------------------------------------------------------- fresh


def test_everything_listed_is_there_and_nothing_differs(overlay: Overlay) -> None:
    before = overlay.tables()["fdb"]
    assert "route 10.244.2.0/24 that leads out of br0 via 10.244.2.0 onlink is missing" in overlay.differs(
        peers()
    )
    overlay.ensure(peers())
    shown = overlay.tables()
    assert overlay.differs(peers()) == ""
    assert sorted(set(shown["fdb"]) - set(before)) == [
        "00:00:00:00:00:00 dst 10.99.0.2 self permanent",
        "00:00:00:00:00:00 dst 10.99.0.3 self permanent",
        f"{MAC2} dst 10.99.0.2 self permanent",
        f"{MAC2} sticky master br0 static",
        f"{MAC3} dst 10.99.0.3 self permanent",
        f"{MAC3} sticky master br0 static",
    ]
    assert set(before) <= set(shown["fdb"])
    assert shown["neighbours"] == [
        f"10.244.2.0 dev br0 lladdr {MAC2} PERMANENT",
        f"10.244.3.0 dev br0 lladdr {MAC3} PERMANENT",
        f"fd44:2:: dev br0 lladdr {MAC2} PERMANENT",
    ]
    own = f"scope global metric {MARK}"
    assert shown["routes"] == [
        f"blackhole 10.244.0.0/16 {own}",
        f"unicast 10.244.2.0/24 via 10.244.2.0 dev br0 {own} onlink mtu 1450",
        f"unicast 10.244.3.0/24 via inet6 fd44:2:: dev br0 {own} onlink mtu 1450",
        f"unicast 10.244.9.0/24 via 10.99.0.9 dev eth0 scope global src 10.99.0.1 metric {MARK}",
    ]
    assert shown["routes6"] == [
        f"blackhole fd44::/32 dev lo {own} pref medium",
        f"unicast fd44:2::/64 via fd44:2:: dev br0 {own} onlink mtu 1430 pref medium",
        f"unicast fd44:9::/64 dev br0 scope global src fd99::1 metric {MARK} pref medium",
    ]


def test_the_second_time_changes_nothing_and_makes_no_event(overlay: Overlay) -> None:
    overlay.ensure(peers())
    before = overlay.tables()
    with events(overlay.host) as heard:
        overlay.ensure(peers())
    assert ours(heard) == []
    assert overlay.tables() == before


def test_nothing_leads_to_what_is_not_there(overlay: Overlay) -> None:
    """Neighbours come before routes, and go after them."""
    with events(overlay.host) as heard:
        overlay.ensure(peers())
    assert _first(heard, "10.244.2.0 dev br0 lladdr") < _first(heard, "10.244.2.0/24 via")
    assert any(MAC2 in line and "master br0" in line for line in heard)  # this watcher hears as well
    with events(overlay.host) as heard:
        overlay.ensure(EnsurePeers("blue", "vx0", at="br0"))
    assert _first(heard, "Deleted 10.244.2.0/24 via") < _first(heard, "Deleted 10.244.2.0 dev br0")


def _first(lines: list[str], text: str) -> int:
    return next(number for number, line in enumerate(lines) if text in line)


def test_many_peers_take_several_datagrams(overlay: Overlay) -> None:
    numbers = range(700)
    step = EnsurePeers(
        "blue",
        "vx0",
        fdb=tuple((f"02:fe:00:00:{n >> 8:02x}:{n & 255:02x}", ip_address(0x0A630100 + n)) for n in numbers),
        at="vx0",
        neighbours=tuple(
            (ip_address(0x0AF40000 + n), f"02:fe:00:00:{n >> 8:02x}:{n & 255:02x}") for n in numbers
        ),
    )
    assert overlay.differs(step).endswith("; and 1380 more")
    overlay.ensure(step)
    assert overlay.differs(step) == ""
    assert len(overlay.run("ip neigh show nud permanent dev vx0").splitlines()) == 700
    overlay.ensure(EnsurePeers("blue", "vx0", at="vx0"))
    assert overlay.tables()["neighbours"] == []


# ---------------------------------------------------------------------------------------------- tampering

R = f"proto 217 metric {MARK}"
VIA2, VIA6 = "leads out of br0 via 10.244.2.0 onlink", "leads out of br0 via fd44:2:: onlink"
TAMPERING = [
    # forwarding entries of the VXLAN link
    (f"bridge fdb del {MAC2} dev vx0 self", f"FDB entry {MAC2} → 10.99.0.2 of vx0 is missing"),
    (
        f"bridge fdb replace {MAC2} dev vx0 self dst 10.99.0.9",
        f"FDB entry {MAC2} → 10.99.0.2 of vx0 leads to 10.99.0.9",
    ),
    (
        f"bridge fdb replace {MAC2} dev vx0 self dst 10.99.0.2 vni 7",
        f"FDB entry {MAC2} → 10.99.0.2 of vx0 leads to 10.99.0.2 (with extra attributes)",
    ),
    (f"bridge fdb add {MAC9} dev vx0 self dst 10.99.0.9", f"FDB entry {MAC9} → 10.99.0.9 of vx0 is stale"),
    (
        f"bridge fdb add {MAC9} dev vx0 self static dst 10.99.0.9",
        f"FDB entry {MAC9} → 10.99.0.9 of vx0 is stale",
    ),
    (
        f"bridge fdb append {FLOOD} dev vx0 dst 10.99.0.9",
        f"FDB entry {FLOOD} → 10.99.0.9 of vx0 is stale",
    ),
    (
        f"bridge fdb append {FLOOD} dev vx0 dst 10.99.0.9 port 5000 vni 7 via eth0",
        f"FDB entry {FLOOD} → 10.99.0.9 (with extra attributes) of vx0 is stale",
    ),
    (
        f"bridge fdb del {FLOOD} dev vx0 dst 10.99.0.3",
        f"FDB entry {FLOOD} → 10.99.0.3 of vx0 is missing",
    ),
    # what the bridge finds behind it
    (f"bridge fdb del {MAC3} dev vx0 master", f"bridge's entry {MAC3} behind vx0 is missing"),
    (f"bridge fdb replace {MAC3} dev vx0 master dynamic", f"bridge's entry {MAC3} behind vx0 is missing"),
    (f"bridge fdb replace {MAC3} dev vx0 master static", f"bridge's entry {MAC3} behind vx0 can be moved"),
    (f"bridge fdb add {MAC9} dev vx0 master static", f"bridge's entry {MAC9} behind vx0 is stale"),
    # neighbours
    ("ip neigh del 10.244.2.0 dev br0", f"neighbour 10.244.2.0 → {MAC2} of br0 is missing"),
    (
        f"ip neigh replace fd44:2:: lladdr {MAC9} dev br0 nud permanent",
        f"neighbour fd44:2:: → {MAC2} of br0 is {MAC9}",
    ),
    (
        f"ip neigh replace 10.244.2.0 lladdr {MAC2} dev br0 nud reachable",
        f"neighbour 10.244.2.0 → {MAC2} of br0 is missing",
    ),
    (
        f"ip neigh add 10.244.7.0 lladdr {MAC9} dev br0 nud permanent",
        f"neighbour 10.244.7.0 → {MAC9} of br0 is stale",
    ),
    # routes
    (
        f"ip route del 10.244.2.0/24 {R}",
        f"route 10.244.2.0/24 that {VIA2} is missing",
    ),
    (
        f"ip route replace 10.244.2.0/24 via 10.244.2.0 dev br0 onlink {R} mtu 1400",
        f"route 10.244.2.0/24 that {VIA2} has mtu 1400, not 1450",
    ),
    (
        f"ip route replace 10.244.2.0/24 via 10.244.2.0 dev br0 onlink {R}",
        f"route 10.244.2.0/24 that {VIA2} has the mtu of its link, not 1450",
    ),
    (
        f"ip route replace 10.244.2.0/24 via 10.244.2.0 dev br0 onlink {R} mtu 1450 advmss 1000",
        f"route 10.244.2.0/24 that {VIA2} has advmss 1000",
    ),
    (
        f"ip -6 route replace fd44:2::/64 dev vx0 {R} mtu 1430",
        f"route fd44:2::/64 that {VIA6} leads out of vx0 instead",
    ),
    (
        f"ip -6 route del fd44:2::/64 dev br0 {R}",
        f"route fd44:2::/64 that {VIA6} is missing",
    ),
    (
        f"ip route replace 10.244.0.0/16 dev br0 {R}",
        "route 10.244.0.0/16 that drops leads out of br0 instead",
    ),
    (
        f"ip -6 route replace blackhole fd44:2::/64 {R}",
        f"route fd44:2::/64 that {VIA6} drops instead",
    ),
    (
        f"ip route add 10.245.0.0/24 via 10.99.0.4 dev eth0 {R}",
        "route 10.245.0.0/24 that leads out of eth0 via 10.99.0.4 is stale",
    ),
    (f"ip -6 route add blackhole fd45::/64 {R}", "route fd45::/64 that drops is stale"),
    (
        f"ip route append 10.244.2.0/24 via 10.99.0.4 dev eth0 {R}",
        "route 10.244.2.0/24 that leads out of eth0 via 10.99.0.4 is stale",
    ),
    (
        f"ip route prepend 10.244.2.0/24 via 10.99.0.4 dev eth0 {R}",
        "; ".join(
            f"route 10.244.2.0/24 that {VIA2} {what}"
            for what in ("leads out of eth0 via 10.99.0.4 instead", "is stale")
        ),
    ),
    (
        f"ip -6 route append fd44:2::/64 via fd44:2::9 dev br0 onlink {R}",
        f"route fd44:2::/64 that {VIA6} has several next hops instead",
    ),
    (
        f"ip route replace 10.244.2.0/24 {R} nexthop via 10.99.0.4 dev eth0 nexthop via 10.99.0.5 dev eth0",
        f"route 10.244.2.0/24 that {VIA2} has several next hops instead",
    ),
    (
        f"ip route add 10.245.0.0/24 {R} nexthop via 10.99.0.4 dev eth0 nexthop via 10.99.0.5 dev eth0",
        "route 10.245.0.0/24 that has several next hops is stale",
    ),
    (
        f"ip -6 route add fd45::/64 {R} nexthop via fd99::4 dev br0 nexthop via fd99::5 dev br0",
        "route fd45::/64 that has several next hops is stale",
    ),
    (
        f"ip -6 route replace fd44:2::/64 {R} nexthop via fe80::4 dev br0 nexthop via fe80::5 dev eth0",
        f"route fd44:2::/64 that {VIA6} has several next hops instead",
    ),
]


@pytest.mark.parametrize(("command", "finding"), TAMPERING)
def test_tampering_is_named_and_repaired(overlay: Overlay, command: str, finding: str) -> None:
    overlay.ensure(peers())
    before = overlay.tables()
    overlay.run(command)
    assert overlay.tables() != before
    assert overlay.differs(peers()) == finding
    overlay.ensure(peers())
    assert overlay.differs(peers()) == ""
    assert overlay.tables() == before


def test_a_next_hop_group_gives_way(overlay: Overlay) -> None:
    overlay.ensure(peers())
    before = overlay.tables()
    overlay.run("ip nexthop add id 12 via 10.99.0.2 fdb")
    overlay.run("ip nexthop add id 102 group 12 fdb")
    overlay.run(f"bridge fdb del {MAC2} dev vx0 self")
    overlay.run(f"bridge fdb add {MAC2} dev vx0 nhid 102 self")
    assert "is missing" in overlay.differs(peers())
    overlay.ensure(peers())
    assert overlay.tables() == before


# ------------------------------------------------------------------------------------ what is not ours


def test_what_others_made_or_learned_stays(overlay: Overlay) -> None:
    for words in (
        f"bridge fdb add {MAC9} dev vx0 self dynamic dst 10.99.0.9",
        "bridge fdb add 02:00:00:00:00:0a dev vx0 self extern_learn dst 10.99.0.9",
        "bridge fdb add 02:00:00:00:00:0b dev vx0 master dynamic",
        "bridge fdb add 02:00:00:00:00:0c dev vx0 master permanent",
        "bridge fdb add 02:00:00:00:00:0d dev vx0 master extern_learn",
        f"ip neigh add 10.244.7.0 lladdr {MAC9} dev br0 nud stale",
        f"ip neigh add 10.244.8.0 lladdr {MAC9} dev br0 nud noarp",
        f"ip neigh add 10.244.9.0 lladdr {MAC9} dev br0 nud permanent extern_learn",
        f"ip neigh add 10.99.0.77 lladdr {MAC9} dev eth0 nud permanent",
        "ip -6 neigh add proxy fd44::77 dev br0",
        f"ip route add 10.1.0.0/24 via 10.99.0.4 dev eth0 proto 217 metric {MARK ^ 1}",
        f"ip -6 route add fd01::/64 dev br0 proto 217 metric {MARK ^ 1}",
        "ip route add 10.2.0.0/24 via 10.99.0.4 dev eth0 proto 217",
        f"ip route add 10.3.0.0/24 via 10.99.0.4 dev eth0 proto static metric {MARK}",
        f"ip route add 10.4.0.0/24 via 10.99.0.4 dev eth0 table 77 {R}",
    ):
        overlay.run(words)
    shown = (
        "ip neigh show nud all",
        "bridge fdb show",
        "ip route show table all",
        "ip -6 route show table all",
    )
    before = [
        {line for line in overlay.run(words).splitlines() if "ff02" not in line and "33:33" not in line}
        for words in shown
    ]
    assert any(GROUP in line for line in before[1])  # the entry the link came with
    overlay.ensure(peers())
    overlay.ensure(EnsurePeers("blue", "vx0", at="br0"))
    for words, lines in zip(shown, before, strict=True):
        kept = set(overlay.run(words).splitlines())
        assert lines - kept == set()
    assert overlay.differs(EnsurePeers("blue", "vx0", at="br0")) == ""
    assert overlay.tables()["routes6"] == [line for line in overlay.tables()["routes6"] if "fd01::" in line]


def test_learned_entries_of_listed_addresses_are_replaced(overlay: Overlay) -> None:
    overlay.run(f"bridge fdb add {MAC2} dev vx0 self dynamic dst 10.99.0.9")
    overlay.run(f"bridge fdb add {MAC2} dev vx0 master dynamic")
    overlay.run(f"ip neigh add 10.244.2.0 lladdr {MAC9} dev br0 nud stale")
    overlay.run(f"bridge fdb add {MAC3} dev vx0 self extern_learn dst 10.99.0.9")
    overlay.ensure(peers())
    assert overlay.differs(peers()) == ""
    lines = [line for line in overlay.tables()["fdb"] if line.startswith((MAC2, MAC3))]
    assert lines == [
        f"{MAC2} dst 10.99.0.2 self permanent",
        f"{MAC2} sticky master br0 static",
        f"{MAC3} dst 10.99.0.3 self permanent",
        f"{MAC3} sticky master br0 static",
    ]


def test_an_address_at_another_port_of_the_bridge_moves(overlay: Overlay) -> None:
    overlay.run("ip link add p0 up master br0 type veth peer name p1")
    overlay.run(f"bridge fdb add {MAC2} dev p0 master static")
    overlay.ensure(peers())
    assert MAC2 not in overlay.run("bridge fdb show dev p0")
    assert overlay.shows("fdb", f"{MAC2} sticky master br0 static")


@pytest.mark.parametrize("sticky", [True, False])
def test_a_frame_moves_no_address_to_another_port(overlay: Overlay, sticky: bool) -> None:
    """A container sends from the address of one behind the tunnel, whose packets it would get."""
    overlay.run("ip link add p0 up master br0 type veth peer name p1")
    overlay.run("ip link set p1 up")
    overlay.ensure(peers())
    if not sticky:
        overlay.run(f"bridge fdb replace {MAC2} dev vx0 master static")
    sent = (
        "import socket, sys; s = socket.socket(17, 3); s.bind(('p1', 0)); s.send(bytes.fromhex(sys.argv[1]))"
    )
    frame = "ff" * 6 + MAC2.replace(":", "") + "88b5" + "00" * 46
    overlay.host.run(sys.executable, "-S", "-c", sent, frame)
    assert (MAC2 in overlay.run("bridge fdb show dev p0")) is not sticky
    assert (overlay.differs(peers()) == "") is sticky


OVERTAKEN = [
    ("ip route add 10.244.2.0/24 dev eth0 metric 5", "10.244.2.0/24 leave by eth0, not br0"),
    ("ip route add 10.244.2.0/25 via 10.99.0.2", "10.244.2.0/24 leave by eth0, not br0"),
    ("ip route add 10.244.2.0/24 dev br0 metric 5", "10.244.2.0/24 leave by br0, not br0"),
    ("ip -6 route add fd44:2::/64 dev vx0 metric 5", "fd44:2::/64 leave by vx0, not br0"),
    ("ip route add 10.244.9.0/24 via 10.99.0.8 metric 5", "10.244.9.0/24 leave by eth0, not eth0"),
    ("ip route add unreachable 10.244.2.0/24 metric 5", "10.244.2.0/24 are dropped, not br0"),
    ("ip -6 route add blackhole fd44:2::/64 metric 5", "fd44:2::/64 are dropped, not br0"),
]


@pytest.mark.parametrize(("command", "named"), OVERTAKEN)
def test_a_route_that_is_not_taken_is_named(overlay: Overlay, command: str, named: str) -> None:
    """It stays so: the one that comes first is not ours to take away."""
    overlay.ensure(peers())
    overlay.run(command)
    overlay.ensure(peers())
    assert overlay.differs(peers()) == f"packets to {named}: another route comes first"


def test_a_route_that_comes_last_is_nobodys_business(overlay: Overlay) -> None:
    overlay.ensure(peers())
    for command in (
        f"ip route add 10.244.2.0/24 dev eth0 metric {MARK + 1}",
        f"ip -6 route add fd44:2::/64 dev vx0 metric {MARK + 1}",
        "ip route add 10.244.0.0/17 via 10.99.0.2",
    ):
        overlay.run(command)
    assert overlay.differs(peers()) == ""


def test_tables_that_are_not_named_are_not_looked_at(overlay: Overlay) -> None:
    overlay.ensure(peers())
    before = overlay.tables()
    overlay.ensure(EnsurePeers("blue", "", routes=peers().routes))
    assert overlay.tables() == before


def test_a_network_does_not_touch_another(overlay: Overlay) -> None:
    overlay.ensure(peers())
    before = overlay.tables()
    red = EnsurePeers("red", "", routes=(PeerRoute(ip_network("10.77.0.0/24")), PeerRoute(SUBNET2)))
    overlay.ensure(red)
    assert overlay.differs(peers()) == overlay.differs(red) == ""
    with overlay.session() as session:
        peer_tables.delete_routes(session, "red")
    assert overlay.tables() == before


# ---------------------------------------------------------------------------------------------- change


def test_a_peer_at_another_address_leaves_nothing_stale(overlay: Overlay) -> None:
    overlay.ensure(peers())
    moved = peers(
        fdb=((MAC9, VTEP9), (MAC3, VTEP3), (FLOOD, VTEP9), (FLOOD, VTEP3)),
        behind=(MAC9, MAC3),
        neighbours=((GATEWAY2, MAC9), (GATEWAY6, MAC9), (ip_address("10.244.3.0"), MAC3)),
    )
    with events(overlay.host) as heard:
        overlay.ensure(moved)
    assert not [line for line in heard if "/24" in line]  # the routes stay as they are
    assert overlay.differs(moved) == ""
    text = str(overlay.tables())
    assert MAC2 not in text
    assert "10.99.0.2 " not in text
    assert overlay.shows("fdb", GROUP)


def test_a_changed_route_is_never_missing(overlay: Overlay) -> None:
    overlay.ensure(peers())
    routes = (PeerRoute(SUBNET2, "eth0", VTEP9, 1400), *peers().routes[1:])
    with events(overlay.host) as heard:
        overlay.ensure(peers(routes=routes))
    lines = [line for line in heard if "10.244.2.0/24" in line]
    assert lines
    assert not [line for line in lines if "Deleted" in line]
    assert overlay.shows("routes", "10.244.2.0/24 via 10.99.0.9 dev eth0")


def test_a_route_changes_its_link_and_back(overlay: Overlay) -> None:
    """IPv6 refuses a gateway on the link whose way there is the route to be replaced."""
    direct = (
        PeerRoute(SUBNET2, "eth0", VTEP9),
        PeerRoute(SUBNET6, "vx0", ip_address("fd97::9"), onlink=True),
    )
    for routes in (peers().routes, direct, peers().routes[:3]):
        overlay.ensure(peers(routes=routes))
        assert overlay.differs(peers(routes=routes)) == ""
        assert len(overlay.tables()["routes6"]) == len([one for one in routes if one.dst.version == 6])


def test_a_peer_that_went_takes_all_it_had(overlay: Overlay) -> None:
    before = overlay.tables()
    overlay.ensure(peers())
    overlay.ensure(EnsurePeers("blue", "vx0", at="br0"))
    assert overlay.tables() == before


def test_an_overlay_of_ipv6_hosts(overlay: Overlay) -> None:
    overlay.run("ip address add fd98::1/64 dev eth0 nodad")
    overlay.run("ip link add vx6 type vxlan id 106 local fd98::1 dev eth0 dstport 4790 nolearning")
    overlay.run("ip link set vx6 up")
    step = EnsurePeers(
        "six",
        "vx6",
        ((MAC2, ip_address("fd98::2")), (FLOOD, ip_address("fd98::2")), (FLOOD, ip_address("fd98::3"))),
        at="vx6",
        neighbours=((GATEWAY2, MAC2), (GATEWAY6, MAC2)),
    )
    overlay.ensure(step)
    shown = overlay.run("bridge fdb show dev vx6").splitlines()
    assert sorted(line.strip() for line in shown) == [
        "00:00:00:00:00:00 dst fd98::2 self permanent",
        "00:00:00:00:00:00 dst fd98::3 self permanent",
        f"{MAC2} dst fd98::2 self permanent",
    ]
    overlay.run("bridge fdb append 00:00:00:00:00:00 dst fd98::4 dev vx6")
    assert overlay.differs(step) == f"FDB entry {FLOOD} → fd98::4 of vx6 is stale"
    overlay.ensure(step.replace(fdb=step.fdb[:2]))
    assert len(overlay.run("bridge fdb show dev vx6").splitlines()) == 2


# -------------------------------------------------------------------------------------------- refusals


def test_an_absent_link_is_named(overlay: Overlay) -> None:
    step = peers(vxlan="vx7", at="br7")
    assert overlay.differs(step) == "link br7 is missing in the host; link vx7 is missing in the host"
    with pytest.raises(KernelRefused, match=r"link (br7|vx7) not found"):
        overlay.ensure(step)


@pytest.mark.parametrize("position", [0, 150, 299])
def test_the_entry_that_was_refused_is_named(overlay: Overlay, position: int) -> None:
    """Wherever it stands in a datagram: the kernel takes no gateway that nothing leads to."""
    routes = [PeerRoute(ip_network(f"10.50.{n}.0/24")) for n in range(250)]
    routes += [PeerRoute(ip_network(f"10.51.{n}.0/24")) for n in range(50)]
    routes[position] = PeerRoute(ip_network("10.60.0.0/24"), "eth0", ip_address("10.77.0.1"))
    with pytest.raises(KernelRefused) as caught:
        overlay.ensure(EnsurePeers("blue", "", routes=tuple(routes)))
    wanted = (
        "route 10.60.0.0/24 that leads out of eth0 via 10.77.0.1 could not be set: Network is unreachable"
    )
    assert caught.value.msg == wanted


def test_entries_gone_meanwhile_are_no_failure(overlay: Overlay, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody deletes some of them between the look and the deed."""
    routes = tuple(PeerRoute(ip_network(f"10.50.{n}.0/24")) for n in range(200))
    overlay.ensure(EnsurePeers("blue", "", routes=routes))
    look = peer_tables.route_table.routes

    def meanwhile(session: Session, network: str) -> Any:
        found = look(session, network)
        for n in (0, 3, 127, 199):
            overlay.run(f"ip route del blackhole 10.50.{n}.0/24 {R}")
        return found

    monkeypatch.setattr(peer_tables.route_table, "routes", meanwhile)
    with overlay.session() as session:
        peer_tables.delete_routes(session, "blue")
    assert overlay.tables()["routes"] == []


# ------------------------------------------------------------------------------------- measured routes


def test_a_measured_mtu_stays(overlay: Overlay) -> None:
    overlay.ensure(peers())
    with overlay.session() as session:
        measures = {SUBNET2: 1350, SUBNET6: 1330, CLEAR: 1350, OWN: 1000, ip_network("10.8.0.0/24"): 1000}
        peer_tables.set_measured(session, "blue", measures)
    shown = overlay.tables()
    assert overlay.shows("routes", f"10.244.2.0/24 via 10.244.2.0 dev br0 scope global metric {MARK}")
    assert overlay.shows("routes", "onlink mtu 1350 advmss 1310")
    assert overlay.shows("routes6", "onlink mtu 1330 advmss 1270")
    assert overlay.shows("routes", f"src 10.99.0.1 metric {MARK} mtu 1350 advmss 1310")
    assert "mtu" not in next(line for line in shown["routes"] if "blackhole" in line)
    assert overlay.differs(peers()) == ""
    overlay.ensure(peers())
    assert overlay.tables() == shown
    with overlay.session() as session:
        marked = {route.dst for route in peer_tables.routes_of(session, "blue") if route.measured}
    assert marked == {SUBNET2, SUBNET6, CLEAR}


def test_a_measured_mtu_above_the_wanted_one_goes(overlay: Overlay) -> None:
    overlay.ensure(peers())
    with overlay.session() as session:
        peer_tables.set_measured(session, "blue", {SUBNET2: 1400})
    smaller = peers(routes=(peers().routes[0]._replace(mtu=1380), *peers().routes[1:]))
    assert overlay.differs(smaller).endswith("has mtu 1400, not 1380")
    overlay.ensure(smaller)
    assert overlay.shows("routes", "10.244.2.0 dev br0 scope global metric")
    assert overlay.differs(smaller) == ""
    assert not overlay.shows("routes", "advmss")


@pytest.mark.parametrize(
    ("first", "second", "shown", "differs"),
    [
        (1440, 0, "mtu 1440", False),  # the wanted one: no mark
        (9000, 0, "mtu 1440", False),
        (1350, 1300, "mtu 1300 advmss 1260", False),
        (1350, 1400, "mtu 1400 advmss 1360", False),
        (1350, 9000, "mtu 1450", True),  # that of the link, until the next ensure
    ],
)
def test_measured_again(overlay: Overlay, first: int, second: int, shown: str, differs: bool) -> None:
    step = peers(routes=(peers().routes[0]._replace(mtu=1440),))
    overlay.ensure(step)
    with overlay.session() as session:
        for mtu in filter(None, (first, second)):
            peer_tables.set_measured(session, "blue", {SUBNET2: mtu})
    line = next(line for line in overlay.tables()["routes"] if "10.244.2.0/24" in line)
    assert line.endswith(f"onlink {shown}")
    assert bool(overlay.differs(step)) == differs


def test_a_route_with_the_mtu_of_its_link_keeps_it_when_nothing_smaller_was_measured(
    overlay: Overlay,
) -> None:
    overlay.ensure(peers())
    before = overlay.tables()
    with overlay.session() as session:
        peer_tables.set_measured(session, "blue", {CLEAR: 1500})
    assert overlay.tables() == before


def test_routes_for_a_status_page(overlay: Overlay) -> None:
    overlay.ensure(peers())
    with overlay.session() as session:
        found = {route.dst: route[1:] for route in peer_tables.routes_of(session, "blue")}
        assert peer_tables.routes_of(session, "red") == []
    assert len(found) == len(peers().routes)
    assert found[SUBNET2] == ("br0", GATEWAY2, 1450, False)
    assert found[ip_network("10.244.3.0/24")] == ("br0", GATEWAY6, 1450, False)
    assert found[SOURCED] == ("br0", None, 0, False)
    assert found[OWN] == found[ip_network("fd44::/32")] == ("", None, 0, False)
    assert measured(1450, 4) == 1410
    assert measured(1450, 6) == 1390


@pytest.mark.parametrize("tamper", ["", f"ip route append 10.244.2.0/24 via 10.99.0.4 dev eth0 {R}"])
def test_all_routes_of_a_network_go(overlay: Overlay, tamper: str) -> None:
    overlay.ensure(peers())
    if tamper:
        overlay.run(tamper)
    with overlay.session() as session:
        peer_tables.delete_routes(session, "blue")
        peer_tables.delete_routes(session, "blue")
    shown = overlay.tables()
    assert shown["routes"] == shown["routes6"] == []
    assert shown["neighbours"]


# ------------------------------------------------------------------------------------ answers for others

PROXIED = tuple(ip_address(f"fd44::{n:x}") for n in range(1, 4))


def test_proxied_addresses(overlay: Overlay) -> None:
    step = EnsureProxied("br0", PROXIED)
    overlay.run("ip -6 neigh add proxy fd44::99 dev br0")
    overlay.run("ip -6 neigh add proxy fd44::1 dev eth0")
    with overlay.session() as session:
        assert dispatch.differs(session, step).count("is missing") == 3
        dispatch.carry_out(session, step)
        dispatch.carry_out(session, step)
        assert dispatch.differs(session, step) == ""
        overlay.run("ip -6 neigh del proxy fd44::2 dev br0")
        assert dispatch.differs(session, step) == "proxy neighbour fd44::2 on br0 is missing"
        dispatch.carry_out(session, peers())
        assert overlay.shows("proxied", "fd44::3 dev br0")
        dispatch.carry_out(session, DelProxied("br0", PROXIED))
        dispatch.carry_out(session, DelProxied("br0", PROXIED))
    assert [line.split(" proxy")[0] for line in overlay.tables()["proxied"]] == [
        "fd44::1 dev eth0",
        "fd44::99 dev br0",
    ]


def test_proxied_addresses_of_a_link_that_went(overlay: Overlay) -> None:
    with overlay.session() as session:
        dispatch.carry_out(session, DelProxied("br7", PROXIED))
        assert dispatch.differs(session, EnsureProxied("br7", PROXIED[:1]))
        with pytest.raises(KernelRefused, match="link br7 not found"):
            dispatch.carry_out(session, EnsureProxied("br7", PROXIED))
