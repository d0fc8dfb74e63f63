"""The packet filter of overlays, with real packets: who may send VXLAN, what is forwarded, what goes."""

import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.errors import KernelRefused
from cni_plugins.kernel import apply, dispatch
from cni_plugins.kernel.firewall import read
from cni_plugins.kernel.overlay import packet_filter
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import Attachment, Owner, network_tag
from cni_plugins.steps.firewall import DelOwnedRules, DelStaleRules, EnsureMasquerade
from cni_plugins.steps.overlay import EnsureOverlayRules, NetworkMasquerade

PORT = 4789
HOST, HOST6 = "192.0.2.1", "2001:db8::1"
VTEP, STRANGER = "192.0.2.2", "192.0.2.9"
VTEP6, STRANGER6 = "2001:db8::2", "2001:db8::9"
STEP = EnsureOverlayRules("net1", 100, PORT, 4, "br1", "vx1", (ip_address(VTEP), ip_address("192.0.2.3")))
OTHER = EnsureOverlayRules("net2", 200, PORT, 4, "br2", "vx2", None)
MINE = Attachment("net1", "c1", "eth0")
MASQUERADE = EnsureMasquerade(Owner(MINE), (ip_interface("10.1.0.2/24"),), (), random_fully=True)
_SEND = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.socket(family, socket.SOCK_DGRAM) as made:
    made.bind((sys.argv[1], int(sys.argv[2])))
    made.sendto(bytes.fromhex(sys.argv[5]), (sys.argv[3], int(sys.argv[4])))
    if len(sys.argv) > 6:
        made.settimeout(3)
        print(made.recv(99).decode())
"""
_FRAME = """
import socket, sys
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as made:
    made.bind(("eth0", 0))
    made.send(bytes.fromhex(sys.argv[1]))
"""
_ECHO = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
    made.bind(("", 7))
    print("up", flush=True)
    data, sender = made.recvfrom(99)
    made.sendto(str(sender[1]).encode(), sender)
"""


@pytest.fixture
def session(bed: Any) -> Iterator[Session]:
    with bed.inside(), Session(None) as made:
        yield made


def ruleset(bed: Any) -> str:
    return bed.host.run("nft", "list", "ruleset")


def wired(bed: Any, link: str, address: str, far_link: str, far_addresses: tuple[str, ...]) -> Any:
    """Return a new namespace at the other end of a link of the host."""
    far = bed.sandbox()
    for where in (bed.host, far):
        where.skip_dad()
    bed.host.run("ip", "link", "add", link, "type", "veth", "peer", "name", far_link, "netns", far.path)
    for where, name, addresses in ((bed.host, link, (address,)), (far, far_link, far_addresses)):
        where.run("ip", "link", "set", name, "up")
        for item in addresses:
            nodad = ("nodad",) if ":" in item else ()
            where.run("ip", "address", "add", item, "dev", name, *nodad)
    return far


def send(
    where: Any, source: str, target: str, payload: bytes, port: int = PORT, source_port: int = 0
) -> None:
    where.run(sys.executable, "-S", "-c", _SEND, source, str(source_port), target, str(port), payload.hex())


def vxlan_packet(vni: int) -> bytes:
    """Return a VXLAN header with a frame to everybody (RFC 7348, 5)."""
    return struct.pack(">BxxxI", 8, vni << 8) + b"\xff" * 6 + bytes.fromhex("020000000001") + b"\x88\xb5" * 30


def vxlan(bed: Any, name: str, vni: int, local: str) -> None:
    described = ("type", "vxlan", "id", str(vni), "dstport", str(PORT), "local", local, "dev", "eth0")
    bed.host.run("ip", "link", "add", name, *described, "nolearning")
    bed.host.run("ip", "link", "set", name, "up")


def received(bed: Any, name: str) -> int:
    (link,) = bed.host.ip("-s", "link", "show", name)
    return link["stats64"]["rx"]["packets"]


@pytest.fixture
def underlay(bed: Any) -> Any:
    """Return another machine on the host's eth0; the host has the VXLAN links vx1, vx2 and six1."""
    far_addresses = (f"{VTEP}/24", f"{STRANGER}/24", f"{VTEP6}/64", f"{STRANGER6}/64")
    far = wired(bed, "eth0", f"{HOST}/24", "far0", far_addresses)
    bed.host.run("ip", "address", "add", f"{HOST6}/64", "dev", "eth0", "nodad")
    vxlan(bed, "vx1", 100, HOST)
    vxlan(bed, "vx2", 200, HOST)
    vxlan(bed, "six1", 100, HOST6)
    return far


# ------------------------------------------------------------------------------------- who may send VXLAN


SIX = STEP.replace(version=6, vxlan="six1", sources=(ip_address(VTEP6),))


@pytest.mark.parametrize(
    ("step", "host", "stranger"), [(STEP, HOST, STRANGER), (SIX, HOST6, STRANGER6)], ids=["IPv4", "IPv6"]
)
def test_only_known_vteps_reach_the_network(
    bed: Any, underlay: Any, session: Session, step: Any, host: str, stranger: str
) -> None:
    send(underlay, stranger, host, vxlan_packet(100))
    assert received(bed, step.vxlan) == 1  # so these packets are what the link takes
    dispatch.carry_out(session, step)
    send(underlay, stranger, host, vxlan_packet(100))
    assert received(bed, step.vxlan) == 1
    send(underlay, str(step.sources[0]), host, vxlan_packet(100))
    assert received(bed, step.vxlan) == 2


def test_another_vni_is_none_of_its_business(bed: Any, underlay: Any, session: Session) -> None:
    dispatch.carry_out(session, STEP)
    send(underlay, STRANGER, HOST, vxlan_packet(200))
    assert received(bed, "vx2") == 1
    dispatch.carry_out(session, OTHER.replace(sources=()))
    send(underlay, STRANGER, HOST, vxlan_packet(200))
    send(underlay, VTEP, HOST, vxlan_packet(100))
    assert (received(bed, "vx2"), received(bed, "vx1")) == (1, 1)


def test_sources_are_kept_in_line_and_nobody_else_gets_in(bed: Any, underlay: Any, session: Session) -> None:
    dispatch.carry_out(session, STEP)
    dispatch.carry_out(session, STEP.replace(sources=(ip_address(STRANGER),)))
    send(underlay, VTEP, HOST, vxlan_packet(100))
    assert received(bed, "vx1") == 0
    send(underlay, STRANGER, HOST, vxlan_packet(100))
    assert received(bed, "vx1") == 1
    dispatch.carry_out(session, STEP.replace(sources=None))
    send(underlay, VTEP, HOST, vxlan_packet(100))
    assert received(bed, "vx1") == 2


@pytest.mark.parametrize("filtered", [False, True])
def test_vxlan_is_not_tracked(bed: Any, underlay: Any, session: Session, filtered: bool) -> None:
    """Some rule that asks for connections makes the kernel track them."""
    bed.host.run("nft", "add table ip t; add chain ip t c { type filter hook input priority 0; }")
    bed.host.run("nft", "add rule ip t c ct state new counter")
    if filtered:
        dispatch.carry_out(session, STEP)
    bed.host.run("bridge", "fdb", "append", "00:00:00:00:00:00", "dev", "vx1", "dst", STRANGER)
    bed.host.run("ip", "address", "add", "10.5.0.1/24", "dev", "vx1")
    bed.host.run("ping", "-c1", "-W1", "10.5.0.2", check=False)  # its ARP request leaves as VXLAN
    send(underlay, VTEP, HOST, vxlan_packet(100))
    assert received(bed, "vx1") == 1
    tracked = bed.host.run("cat", "/proc/net/nf_conntrack")
    assert [f"src={end}" in tracked for end in (HOST, VTEP)] == [not filtered] * 2


# --------------------------------------------------------------------------------- containers, forwarding


def container(bed: Any, bridge: str, host: str, address: str) -> Any:
    """Return a container at the bridge, whose gateway is the host."""
    if not bed.host.link(bridge):
        bed.host.run("ip", "link", "add", bridge, "type", "bridge")
        bed.host.run("ip", "link", "set", bridge, "up")
        bed.host.run("ip", "address", "add", host, "dev", bridge)
    inside, far_end = bed.sandbox(), f"v{ip_interface(address).ip}"
    bed.host.run("ip", "link", "add", far_end, "type", "veth", "peer", "name", "eth0", "netns", inside.path)
    bed.host.run("ip", "link", "set", far_end, "up", "master", bridge)
    for command in (
        ("link", "set", "eth0", "up"),
        ("address", "add", address, "dev", "eth0"),
        ("route", "add", "default", "via", str(ip_interface(host).ip)),
    ):
        inside.run("ip", *command)
    return inside


@pytest.fixture
def routed(bed: Any) -> Any:
    """Return the machine on eth0 that has a route back to containers; the host forwards."""
    bed.host.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
    far = wired(bed, "eth0", f"{HOST}/24", "far0", (f"{VTEP}/24", "10.9.0.5/32"))
    far.run("ip", "route", "add", "10.0.0.0/8", "via", HOST)
    bed.host.run("ip", "route", "add", "10.9.0.0/16", "via", VTEP)
    return far


def test_nothing_for_the_overlay_leaves_in_clear(bed: Any, routed: Any, session: Session) -> None:
    """Neither the host's own packets nor another network's; what the host sends to itself arrives."""
    bed.host.run("ip", "address", "add", "10.9.1.1/32", "dev", "lo")
    inside = container(bed, "cni9", "10.1.0.1/24", "10.1.0.2/24")
    arrived = count_echo(routed)

    def both() -> int:
        for where in (bed.host, inside):
            where.run("ping", "-c1", "-W1", "10.9.0.5", check=False)
        return arrived()

    assert both() == 2
    dispatch.carry_out(session, STEP.replace(never_in_clear=(ip_network("10.9.0.0/16"),)))
    assert both() == 2
    assert bed.host.reaches("10.9.1.1")
    assert inside.reaches(VTEP)


def count_udp(where: Any) -> Callable[[], int]:
    """Count UDP packets that arrive at the VXLAN port."""
    where.run("nft", "add table ip t; add chain ip t c { type filter hook input priority 0; }")
    where.run("nft", f"add rule ip t c udp dport {PORT} counter")
    return lambda: int(where.run("nft", "list", "table", "ip", "t").split("packets ")[1].split()[0])


def test_no_vxlan_comes_from_a_container(bed: Any, routed: Any, session: Session) -> None:
    """Not to another machine, not to the host, whose VXLAN link would take it for a VTEP's."""
    vxlan(bed, "vx1", 100, HOST)
    first = container(bed, "br1", "10.1.0.1/24", "10.1.0.2/24")
    arrived = count_udp(routed)

    def both() -> tuple[int, int]:
        for target in (VTEP, HOST):
            send(first, "10.1.0.2", target, vxlan_packet(100))
        return arrived(), received(bed, "vx1")

    assert both() == (1, 1)
    dispatch.carry_out(session, STEP.replace(sources=(ip_address(VTEP), ip_address("10.1.0.2"))))
    assert both() == (1, 1)
    send(first, "10.1.0.2", VTEP, vxlan_packet(100), port=PORT + 1)
    send(routed, VTEP, HOST, vxlan_packet(100))
    assert received(bed, "vx1") == 2
    assert first.reaches(VTEP)


_PACKET = """
import socket, struct, sys
source, target, port, fragment, data = sys.argv[1:]
data = bytes.fromhex(data)
datagram = struct.pack(">HHHH", 4789, int(port), 8 + len(data), 0) + data
def header(length, flags):
    words = [0x4500, 20 + length, 7, flags, 64 << 8 | 17, 0]
    return struct.pack(">6H", *words) + socket.inet_aton(source) + socket.inet_aton(target)
with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as made:
    if fragment == "1":
        parts = [(0x2000, datagram[:8]), (1, datagram[8:])]
    else:
        parts = [(0, datagram)]
    for flags, part in parts:
        made.sendto(header(len(part), flags) + part, (target, 0))
"""


def forge(where: Any, source: str, target: str, vni: int, *, fragment: bool) -> None:
    """Send VXLAN with a forged source; in fragments, the first has the UDP header alone."""
    shown = (source, target, str(PORT), str(int(fragment)), vxlan_packet(vni).hex())
    where.run(sys.executable, "-S", "-c", _PACKET, *shown)


@pytest.mark.parametrize("fragment", [False, True])
@pytest.mark.parametrize("rp_filter", [0, 2])
@pytest.mark.parametrize("link", ["eth0", ""], ids=["by link", "by route"])
def test_a_container_of_another_network_cannot_send_as_a_peer(
    bed: Any, routed: Any, session: Session, link: str, rp_filter: int, fragment: bool
) -> None:
    """Neither to the host's VTEP nor to the gateway it knows the host by; a peer's own packets arrive."""
    for name in ("all", "default"):
        bed.host.run("sh", "-c", f"echo {rp_filter} > /proc/sys/net/ipv4/conf/{name}/rp_filter")
    vxlan(bed, "vx1", 100, HOST)
    inside = container(bed, "cni9", "10.1.0.1/24", "10.1.0.2/24")
    bed.host.run("sh", "-c", f"echo {rp_filter} > /proc/sys/net/ipv4/conf/cni9/rp_filter")
    for target in (HOST, "10.1.0.1"):
        forge(inside, VTEP, target, 100, fragment=fragment)
    until(lambda: received(bed, "vx1") == 2)  # so the kernel takes these
    dispatch.carry_out(session, STEP.replace(underlay=tuple(filter(None, [link]))))
    for target in (HOST, "10.1.0.1"):
        forge(inside, VTEP, target, 100, fragment=fragment)
    assert received(bed, "vx1") == 2
    forge(routed, VTEP, HOST, 100, fragment=fragment)
    until(lambda: received(bed, "vx1") == 3)


@pytest.mark.parametrize("source", [VTEP, "192.0.2.3", "10.1.0.2"])
@pytest.mark.parametrize("fragment", [False, True])
@pytest.mark.parametrize("known", [False, True])
def test_a_host_forwards_no_vxlan_of_a_container_to_a_peer(
    bed: Any, routed: Any, session: Session, source: str, fragment: bool, known: bool
) -> None:
    inside = container(bed, "cni9", "10.1.0.1/24", "10.1.0.2/24")
    arrived = count_udp(routed)
    if source == VTEP:  # the kernel drops packets from its own address
        routed.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/far0/accept_local")
    forge(inside, source, VTEP, 100, fragment=fragment)
    until(lambda: arrived() == 1)
    sources = STEP.sources if known else None
    dispatch.carry_out(session, STEP.replace(underlay=("eth0",), sources=sources))
    forge(inside, source, VTEP, 100, fragment=fragment)
    send(inside, "10.1.0.2", VTEP, b"x", port=PORT + 1)
    assert arrived() == 1
    assert inside.reaches(VTEP)


def test_a_host_that_routes_between_peers_still_does(bed: Any, routed: Any, session: Session) -> None:
    """The peer 192.0.2.3 is behind another link of the host, and its packets have a route back."""
    behind = wired(bed, "eth1", "192.0.2.100/32", "far1", ("192.0.2.3/32",))
    bed.host.run("ip", "route", "add", "192.0.2.3", "dev", "eth1")
    for command in (("192.0.2.100", "dev", "far1"), ("default", "via", "192.0.2.100")):
        behind.run("ip", "route", "add", *command)
    dispatch.carry_out(session, STEP.replace(underlay=("eth0",)))
    arrived = count_udp(routed)
    send(behind, "192.0.2.3", VTEP, vxlan_packet(100))
    until(lambda: arrived() == 1)


def test_vxlan_of_others_is_forwarded(bed: Any, routed: Any, session: Session) -> None:
    """A container may run an overlay of its own, with hosts that are none of ours."""
    inside = container(bed, "cni9", "10.1.0.1/24", "10.1.0.2/24")
    arrived = count_udp(routed)
    dispatch.carry_out(session, STEP.replace(underlay=("eth0",)))
    send(inside, "10.1.0.2", "10.9.0.5", vxlan_packet(7))
    until(lambda: arrived() == 1)


@pytest.mark.parametrize("bridged", [0, 1])
def test_with_bridged_frames_in_the_filter_a_network_still_reaches_its_own(
    bed: Any, routed: Any, session: Session, bridged: int
) -> None:
    """Where they pass it, VXLAN is dropped between containers of one bridge too."""
    setting = "/proc/sys/net/bridge/bridge-nf-call-iptables"
    if not Path(setting).exists():
        pytest.skip("br_netfilter is not loaded")
    bed.host.run("sh", "-c", f"echo {bridged} > {setting}")
    first, second = (
        container(bed, "br1", "10.1.0.1/24", address) for address in ("10.1.0.2/24", "10.1.0.3/24")
    )
    dispatch.carry_out(session, STEP)
    arrived = count_udp(second)
    send(first, "10.1.0.2", "10.1.0.3", vxlan_packet(100))
    assert first.reaches("10.1.0.3")
    assert arrived() == 1 - bridged


INSIDE = STEP.replace(inside=(ip_network("10.1.0.0/24"), ip_network("fd10::/64")))
OWN, FORGED = ("10.1.0.2", "fd10::2"), ("10.7.0.2", "10.1.1.2", "fd17::2", "fd10:0:0:1::2")


def filter_bridged(bed: Any, bridged: int) -> None:
    for family in ("iptables", "ip6tables"):
        setting = f"/proc/sys/net/bridge/bridge-nf-call-{family}"
        if not Path(setting).exists():
            pytest.skip("br_netfilter is not loaded")
        bed.host.run("sh", "-c", f"echo {bridged} > {setting}")


@pytest.fixture
def insiders(bed: Any, routed: Any) -> Any:
    """Two containers that have addresses of both families."""
    bed.host.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding")
    bed.host.run("ip", "address", "add", f"{HOST6}/64", "dev", "eth0", "nodad")
    routed.run("ip", "address", "add", f"{VTEP6}/64", "dev", "far0", "nodad")
    made = [container(bed, "br1", "10.1.0.1/24", f"10.1.0.{last}/24") for last in (2, 3)]
    bed.host.run("ip", "address", "add", "fd10::1/64", "dev", "br1", "nodad")
    for last, inside in enumerate(made, 2):
        inside.run("ip", "address", "add", f"fd10::{last}/64", "dev", "eth0", "nodad")
        inside.run("ip", "route", "add", "default", "via", "fd10::1")
    return made


@pytest.mark.parametrize("bridged", [0, 1])
def test_a_forged_source_goes_nowhere(
    bed: Any, routed: Any, insiders: Any, session: Session, bridged: int
) -> None:
    """Nor to its neighbour, where bridged frames pass the filter."""
    filter_bridged(bed, bridged)
    first, second = insiders
    for address in FORGED:
        first.run("ip", "address", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else []))
    places = {routed: (VTEP, VTEP6), bed.host: (HOST, HOST6), second: ("10.1.0.3", "fd10::3")}
    counts = [count_discarded(where) for where in places]

    def arrived(source: str) -> tuple[int, ...]:
        before = [count() for count in counts]
        for targets in places.values():
            send(first, source, targets[":" in source], b"x", port=9)
        return tuple(count() - former for count, former in zip(counts, before, strict=True))

    assert {source: arrived(source) for source in (*OWN, *FORGED)} == dict.fromkeys(OWN + FORGED, (1, 1, 1))
    dispatch.carry_out(session, INSIDE)
    assert {source: arrived(source) for source in OWN} == dict.fromkeys(OWN, (1, 1, 1))
    assert {source: arrived(source) for source in FORGED} == dict.fromkeys(FORGED, (0, 0, 1 - bridged))


def count_discarded(where: Any) -> Callable[[], int]:
    where.run("nft", "add table inet t; add chain inet t c { type filter hook input priority 0; }")
    where.run("nft", "add rule inet t c udp dport 9 counter")
    return lambda: int(where.run("nft", "list", "table", "inet", "t").split("packets ")[1].split()[0])


@pytest.mark.parametrize("bridged", [0, 1])
def test_who_has_no_address_yet_is_heard(
    bed: Any, routed: Any, insiders: Any, session: Session, bridged: int
) -> None:
    """By neighbours and by the host: in search of a DHCP server, or of another that has the address."""
    filter_bridged(bed, bridged)
    dispatch.carry_out(session, INSIDE)
    first, second = insiders
    for target in map(link_local, (bed.host, second)):
        until(partial(first.reaches, f"{target}%eth0"))
    counts = [count_discarded(where) for where in (bed.host, second)]
    broadcast = "02aa00000001 0800 4500001d000040004011 3ad1 00000000ffffffff 00440009 00090000 78"
    first.run(sys.executable, "-S", "-c", _FRAME, "ff" * 6 + broadcast)
    assert [count() for count in counts] == [1, 1]
    first.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/eth0/accept_dad")
    for taken in ("fd10::1", "fd10::3"):
        first.run("ip", "address", "add", f"{taken}/64", "dev", "eth0")
    until(lambda: first.run("ip", "address", "show", "dadfailed").count("fd10::") == 2)


def link_local(where: Any) -> str:
    """Return the address of a namespace's link to the bridge, or of the bridge."""
    names = [link["ifname"] for link in where.ip("link")]
    shown = where.ip("-6", "address", "show", "dev", "br1" if "br1" in names else "eth0", "scope", "link")
    return str(next(info["local"] for link in shown for info in link.get("addr_info", ()) if info))


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end, "in vain"
        time.sleep(0.1)


def test_overlays_are_kept_apart_but_reach_their_own_and_the_outside(
    bed: Any, routed: Any, session: Session
) -> None:
    first = container(bed, "br1", "10.1.0.1/24", "10.1.0.2/24")
    second = container(bed, "br2", "10.2.0.1/24", "10.2.0.2/24")
    beyond = wired(bed, "vx1", "10.3.0.1/24", "eth0", ("10.3.0.2/24",))  # in place of a tunnel
    beyond.run("ip", "route", "add", "default", "via", "10.3.0.1")
    assert first.reaches("10.2.0.2")
    dispatch.carry_out(session, STEP)
    dispatch.carry_out(session, OTHER)
    assert not first.reaches("10.2.0.2")
    assert not second.reaches("10.3.0.2")
    assert first.reaches("10.3.0.2")
    assert beyond.reaches("10.1.0.2")
    assert all(inside.reaches(VTEP) for inside in (first, second, beyond))
    assert routed.reaches("10.2.0.2")


@pytest.mark.parametrize("clear", [False, True])
def test_what_arrives_in_clear_is_kept_apart_by_its_addresses(
    bed: Any, routed: Any, session: Session, clear: bool
) -> None:
    first = container(bed, "br1", "10.1.0.1/24", "10.1.0.2/24")
    second = container(bed, "br2", "10.2.0.1/24", "10.2.0.2/24")
    in_clear = (ip_network("10.9.0.0/16"),) if clear else ()
    dispatch.carry_out(session, STEP.replace(in_clear=in_clear, vxlan=""))
    dispatch.carry_out(session, OTHER)
    assert first.reaches("10.9.0.5")
    assert second.reaches("10.9.0.5") is not clear
    assert second.reaches(VTEP)
    count = count_echo(second)
    routed.run("ping", "-c1", "-W1", "-I", "10.9.0.5", "10.2.0.2", check=False)
    assert count() == int(not clear)


def count_echo(where: Any) -> Callable[[], int]:
    where.run("nft", "add table ip t; add chain ip t c { type filter hook input priority 0; }")
    where.run("nft", "add rule ip t c icmp type echo-request counter")
    return lambda: int(where.run("nft", "list", "table", "ip", "t").split("packets ")[1].split()[0])


# ------------------------------------------------------------------------------------------- masquerading


def masquerading(*networks: str, random_fully: bool = False) -> EnsureOverlayRules:
    return STEP.replace(
        masquerades=tuple(
            NetworkMasquerade(ip_network(it), (ip_network(it),), random_fully) for it in networks
        )
    )


@pytest.mark.parametrize("random_fully", [False, True])
def test_nothing_leaves_from_the_vxlan_port(
    bed: Any, routed: Any, session: Session, random_fully: bool
) -> None:
    """The outside sees another port, and its answer comes back to the container."""
    inside = container(bed, "br1", "10.1.0.1/24", "10.1.0.2/24")
    dispatch.carry_out(session, masquerading("10.1.0.0/24", random_fully=random_fully))
    with routed.entered():
        echo = subprocess.Popen([sys.executable, "-S", "-c", _ECHO], stdout=subprocess.PIPE)
    try:
        assert echo.stdout is not None
        assert echo.stdout.readline() == b"up\n"
        command = (sys.executable, "-S", "-c", _SEND, "10.1.0.2", str(PORT), VTEP, "7", "00", "answer")
        seen = int(inside.run(*command))
    finally:
        echo.kill()
        echo.communicate()
    assert PORT < seen <= 65535
    assert inside.reaches(VTEP)


def test_masquerading_reads_as_what_it_is(bed: Any, session: Session) -> None:
    step = masquerading("10.1.0.0/24", "fd00::/64", random_fully=True)
    dispatch.carry_out(session, step)
    listed = ruleset(bed)
    assert listed.count("meta l4proto udp masquerade to :4790-65535 fully-random") == 2
    assert listed.count("meta l4proto != udp masquerade fully-random") == 2
    assert dispatch.differs(session, step) == ""


@pytest.mark.parametrize("part", ["udp", "!= udp"])
def test_either_of_the_two_rules_is_missed_and_mended(bed: Any, session: Session, part: str) -> None:
    step = masquerading("10.1.0.0/24")
    dispatch.carry_out(session, step)
    (line,) = [line for line in rules_with_handles(bed) if f"l4proto {part} masq" in line]
    bed.host.run("nft", "delete", "rule", "inet", "cni_plugins", "overlay_postrouting", *line.split()[-2:])
    assert "the rule" in dispatch.differs(session, step)
    dispatch.carry_out(session, step)
    assert dispatch.differs(session, step) == ""


def test_masquerading_that_is_no_longer_configured_goes(bed: Any, session: Session) -> None:
    dispatch.carry_out(session, masquerading("10.1.0.0/24", "fd00::/64"))
    dispatch.carry_out(session, STEP)
    assert "masquerade" not in ruleset(bed)
    assert "postrouting" not in ruleset(bed)
    packet_filter.delete(session, "net1")
    assert ruleset(bed) == ""


def rules_with_handles(bed: Any) -> list[str]:
    return bed.host.run("nft", "--handle", "list", "ruleset").splitlines()


# ------------------------------------------------------------------------------------------- what is there


def test_it_reads_as_what_it_is(bed: Any, session: Session) -> None:
    clear = (ip_network("10.9.0.0/16"), ip_network("2001:db8:9::/48"))
    inside = (ip_network("10.9.1.0/24"), ip_network("2001:db8:9:2::/63"))
    dispatch.carry_out(session, STEP.replace(in_clear=clear, inside=inside, underlay=("eth0",)))
    own, vteps = (f"@overlay_{kind}_{network_tag('net1')}" for kind in ("links", "vteps4"))
    leaves, enters = (f'{key} != "br1" {key} != "vx1"' for key in ("oifname", "iifname"))
    listed = [line.split(" comment ")[0].strip() for line in ruleset(bed).splitlines()]
    assert [line for line in listed if line.endswith(("drop", "notrack")) or " jump " in line] == [
        f"{leaves} iifname {own} oifname @overlay_links drop",
        f"{leaves} ip saddr 10.9.0.0/16 oifname @overlay_links drop",
        f"{enters} ip daddr 10.9.0.0/16 iifname @overlay_links drop",
        f"{leaves} ip6 saddr 2001:db8:9::/48 oifname @overlay_links drop",
        f"{enters} ip6 daddr 2001:db8:9::/48 iifname @overlay_links drop",
        f'udp dport 4789 notrack iifname != "eth0" jump overlay_vxlan_{network_tag("net1")}',
        'iifname "br1" ip saddr != 10.9.1.0/24 ip saddr != 0.0.0.0 drop',
        'iifname "br1" ip6 saddr != 2001:db8:9:2::/63 ip6 saddr != :: ip6 saddr != fe80::/10 drop',
        "udp dport 4789 notrack",
        "iifname @overlay_links drop",
        f"ip daddr {vteps} ip saddr != {vteps} drop",
        f"ip daddr {vteps} fib saddr . iif oif missing drop",
        'iifname != "eth0" udp dport 4789 @th,96,24 0x64 drop',
        f"udp dport 4789 @th,96,24 0x64 ip saddr != {vteps} drop",
    ]
    assert [line for line in listed if line.startswith("type filter")] == [
        "type filter hook forward priority filter; policy accept;",
        "type filter hook prerouting priority raw; policy accept;",
        "type filter hook output priority raw; policy accept;",
        "type filter hook input priority filter; policy accept;",
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sources": None},
        {"sources": ()},
        {"vxlan": "", "sources": None},
        {"in_clear": (ip_network("10.9.0.0/16"), ip_network("10.9.1.1/32"), ip_network("::/0"))},
        {"version": 6, "sources": (ip_address(VTEP6),)},
        {"inside": (ip_network("10.1.0.0/24"), ip_network("fd10::/63"))},
        {"network": "n" * 200},
        {"underlay": ("eth0",)},
        {"never_in_clear": (ip_network("10.9.0.0/16"), ip_network("2001:db8:9::/48"))},
        {"underlay": ("eth0", "vrf1"), "sources": None},
        {"masquerades": (NetworkMasquerade(ip_network("10.1.0.0/24"), (), random_fully=False),)},
    ],
    ids=lambda changes: " ".join(changes) or "plain",
)
def test_a_second_time_changes_nothing(bed: Any, session: Session, changes: dict[str, Any]) -> None:
    step = STEP.replace(**changes)
    assert dispatch.differs(session, step)
    dispatch.carry_out(session, step)
    generation = read.generation(session)
    assert dispatch.differs(session, step) == ""
    dispatch.carry_out(session, step)
    assert read.generation(session) == generation
    packet_filter.delete(session, step.network)
    assert ruleset(bed) == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"vni": 101},
        {"port": 8472},
        {"bridge": "br9"},
        {"vxlan": "vx9"},
        {"version": 6, "sources": (ip_address(VTEP6),)},
        {"sources": (ip_address("192.0.2.3"), ip_address("192.0.2.4"))},
        {"sources": ()},
        {"sources": None},
        {"vxlan": "", "sources": None},
        {"in_clear": ()},
        {"in_clear": (ip_network("10.8.0.0/16"),)},
        {"inside": INSIDE.inside},
    ],
    ids=str,
)
@pytest.mark.parametrize("alone", [True, False])
def test_a_changed_network_leaves_nothing_of_the_old(
    bed: Any, session: Session, alone: bool, changes: dict[str, Any]
) -> None:
    first = STEP.replace(in_clear=(ip_network("10.9.0.0/16"),))
    changed = first.replace(**changes)
    if not alone:
        dispatch.carry_out(session, OTHER)
    dispatch.carry_out(session, changed)
    expected = same(ruleset(bed))
    packet_filter.delete(session, "net1")
    dispatch.carry_out(session, first)
    generation = read.generation(session)
    dispatch.carry_out(session, changed)
    assert read.generation(session) == generation + 1
    assert same(ruleset(bed)) == expected


def same(listed: str) -> list[str]:
    """Return a ruleset in comparable form: its lines, whatever their order."""
    return sorted(line.strip() for line in listed.splitlines())


IN = "inet cni_plugins"
TAG = network_tag("net1")
_RAW = f"{IN} overlay_raw"
_OF_ANOTHER = '"br1" comment "overlay:0123456789abcdef net: x"'
_OUTPUT = "type filter hook output priority -300;"
TAMPERED = {
    "no table": (f"delete table {IN}", "chain overlay_input is missing"),
    "no rules": (
        f"flush chain {IN} overlay_input",
        "(VNI 100 at port 4789 from known sources only) is missing",
    ),
    "tracking": (f"flush chain {IN} overlay_raw_out", "(no tracking of UDP to port 4789) is missing"),
    "foreign rule": (f"insert rule {IN} overlay_input accept", "a foreign rule is in chain overlay_input"),
    "policy": (f"chain {IN} overlay_forward {{ policy drop; }}", "the policy of chain overlay_forward"),
    "no source": (
        f"delete element {IN} overlay_vteps4_{TAG} {{ 192.0.2.3 }}",
        "source 192.0.2.3 is missing",
    ),
    "more sources": (
        f"add element {IN} overlay_vteps4_{TAG} {{ {STRANGER} }}",
        f"source {STRANGER} is stale",
    ),
    "no sources": (f"flush set {IN} overlay_vteps4_{TAG}", "source 192.0.2.2, 192.0.2.3 is missing"),
    "link": (f'delete element {IN} overlay_links {{ "br1" }}', "link br1 is missing"),
    "own link": (f'delete element {IN} overlay_links_{TAG} {{ "vx1" }}', "own link vx1 is missing"),
    "more own links": (f'add element {IN} overlay_links_{TAG} {{ "br2" }}', "own link br2 is stale"),
    "nobody's link": (f'add element {IN} overlay_links {{ "eth0" }}', "link eth0 is stale"),
    "another's link": (
        f'delete element {IN} overlay_links {{ "br1" }}; add element {IN} overlay_links {{ {_OF_ANOTHER} }}',
        "link br1 is missing",
    ),
    "wrong place": (
        f"flush chain {_RAW}; delete chain {_RAW}; add chain {_RAW} {{ {_OUTPUT} }}",
        "chain overlay_raw has the wrong type, hook or priority",
    ),
    "no place": (
        f"flush chain {IN} overlay_input; delete chain {IN} overlay_input; add chain {IN} overlay_input",
        "chain overlay_input has the wrong type, hook or priority",
    ),
    "no set": (
        (
            f"flush chain {IN} overlay_input; flush chain {IN} overlay_vxlan_{TAG}; "
            f"delete set {IN} overlay_vteps4_{TAG}"
        ),
        f"set overlay_vteps4_{TAG} is missing",
    ),
}


@pytest.mark.parametrize("tampering", TAMPERED)
def test_what_was_tampered_with_is_named_and_mended(bed: Any, session: Session, tampering: str) -> None:
    command, named = TAMPERED[tampering]
    dispatch.carry_out(session, STEP)
    before = same(ruleset(bed))
    bed.host.run("nft", command)
    text = dispatch.differs(session, STEP)
    assert text.startswith("packet filter of network net1: ")
    assert named in text
    dispatch.carry_out(session, STEP)
    assert same(ruleset(bed)) == before
    assert dispatch.differs(session, STEP) == ""


def test_a_rule_that_stands_twice_is_one_too_many(bed: Any, session: Session) -> None:
    dispatch.carry_out(session, STEP)
    before = ruleset(bed)
    (line,) = [line.strip() for line in before.splitlines() if "@th" in line and "@overlay" in line]
    bed.host.run("nft", f"add rule {IN} overlay_input {line}")
    assert "an outdated rule is in chain overlay_input" in dispatch.differs(session, STEP)
    dispatch.carry_out(session, STEP)
    assert ruleset(bed) == before


def test_a_rule_by_hand_in_another_chain_is_nobodys_business(bed: Any, session: Session) -> None:
    dispatch.carry_out(session, STEP)
    bed.host.run("nft", "add table inet x; add chain inet x c; add rule inet x c accept")
    assert dispatch.differs(session, STEP) == ""
    packet_filter.delete(session, "net1")
    assert "cni_plugins" not in ruleset(bed)
    assert "accept" in ruleset(bed)


# ------------------------------------------------------------------------------------ beside other owners


def test_another_network_keeps_its_rules(bed: Any, session: Session) -> None:
    dispatch.carry_out(session, OTHER)
    before = ruleset(bed)
    dispatch.carry_out(session, STEP)
    assert dispatch.differs(session, OTHER) == ""
    packet_filter.delete(session, "net1")
    assert same(ruleset(bed)) == same(before)
    packet_filter.delete(session, "net1")
    packet_filter.delete(session, "net2")
    assert ruleset(bed) == ""


def test_a_network_whose_links_were_lost_takes_no_others_with_it(bed: Any, session: Session) -> None:
    """The set of all links stays as long as any rule needs it."""
    dispatch.carry_out(session, OTHER)
    dispatch.carry_out(session, STEP)
    bed.host.run("nft", f"flush set {IN} overlay_links")
    packet_filter.delete(session, "net1")
    assert "link br2, vx2 is missing" in dispatch.differs(session, OTHER)
    dispatch.carry_out(session, OTHER)
    assert dispatch.differs(session, OTHER) == ""


REMOVALS = {
    "owned": lambda session: dispatch.carry_out(session, DelOwnedRules(Owner(MINE))),
    "stale": lambda session: dispatch.carry_out(session, DelStaleRules("net1", "", frozenset())),
}


@pytest.mark.parametrize("removal", REMOVALS)
@pytest.mark.parametrize("sources", [STEP.sources, ()], ids=["sources", "no source"])
def test_what_goes_with_attachments_leaves_the_network_alone(
    bed: Any, session: Session, removal: str, sources: Any
) -> None:
    """Nor is a set without elements swept away, whose rule keeps everybody out."""
    step = STEP.replace(sources=sources)
    dispatch.carry_out(session, step)
    before = ruleset(bed)
    dispatch.carry_out(session, MASQUERADE)
    assert dispatch.differs(session, step) == ""
    REMOVALS[removal](session)
    assert ruleset(bed) == before


def test_what_goes_with_the_network_leaves_attachments_alone(bed: Any, session: Session) -> None:
    dispatch.carry_out(session, MASQUERADE)
    before = ruleset(bed)
    dispatch.carry_out(session, STEP)
    packet_filter.delete(session, "net1")
    assert ruleset(bed) == before
    dispatch.carry_out(session, DelOwnedRules(Owner(MINE)))
    assert ruleset(bed) == ""


def test_the_masquerade_chain_does_not_outlive_its_rules(bed: Any, session: Session) -> None:
    dispatch.carry_out(session, STEP)
    dispatch.carry_out(session, MASQUERADE)
    packet_filter.delete(session, "net1")
    assert "overlay" not in ruleset(bed)
    assert dispatch.differs(session, MASQUERADE) == ""


def test_a_thousand_sources(bed: Any, session: Session) -> None:
    sources = tuple(ip_address("2001:db8:1::") + number for number in range(1000))
    step = STEP.replace(version=6, sources=sources)
    dispatch.carry_out(session, step)
    assert ruleset(bed).count("2001:db8:1::") == 1000
    generation = read.generation(session)
    dispatch.carry_out(session, step)
    assert read.generation(session) == generation
    dispatch.carry_out(session, step.replace(sources=sources[:1]))
    assert read.generation(session) == generation + 1
    text = dispatch.differs(session, step)
    assert text.endswith("2001:db8:1::1, 2001:db8:1::2, 2001:db8:1::3, 2001:db8:1::4 and 995 more is missing")
    packet_filter.delete(session, "net1")
    assert ruleset(bed) == ""


def test_whoever_changes_the_ruleset_meanwhile_is_not_undone(
    bed: Any, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was seen is looked at anew when the ruleset has changed since."""
    dispatch.carry_out(session, OTHER)
    seen = read.all_rules
    looks = []

    def seen_late(asking: Session, family: int) -> Any:
        found = seen(asking, family)
        looks.append(len(found))
        if len(looks) == 1:
            with Session(None) as other:
                packet_filter.delete(other, "net2")
        return found

    monkeypatch.setattr(read, "all_rules", seen_late)
    dispatch.carry_out(session, STEP)
    assert len(looks) >= 3
    assert dispatch.differs(session, STEP) == ""
    assert "net2" not in ruleset(bed)


def test_a_host_without_nf_tables_is_refused(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """As masquerading is; what is not there is gone."""

    def refuse(_: Session) -> None:
        raise OSError(93, "Protocol not supported")

    monkeypatch.setattr(Session, "nft", refuse)
    for step in (STEP, MASQUERADE):
        with pytest.raises(KernelRefused, match="Protocol not supported"), apply.refusals(session, step):
            dispatch.carry_out(session, step)
    packet_filter.delete(session, "net1")
