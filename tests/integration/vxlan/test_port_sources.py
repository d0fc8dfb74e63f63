"""A container cannot send as another one: forged frames, on the same host and to another."""

import json
from collections.abc import Iterator
from ipaddress import ip_interface
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests import namespaces
from tests.integration.conftest import Bed, Namespace
from tests.integration.vxlan import forging as forge
from tests.integration.vxlan.conftest import Underlay
from tests.integration.vxlan.forging import BROADCAST, marked
from tests.integration.vxlan.test_plugin import BLOCKS, SHAPES, vxlan

GUARDED = [shape for shape in SHAPES if not shape.startswith("flooding")]
DUAL = ["routed dual", "stretched dual"]
_IPV4, _ARP, _IPV6, _TEST = 0x0800, 0x0806, 0x86DD, 0x88B5


class Who(NamedTuple):
    """A container as others know it."""

    mac: str
    ip4: str
    ip6: str
    own6: str


def who(sandbox: Namespace) -> Who:
    link = sandbox.link("eth0")
    assert link is not None
    shown = sandbox.ip("address", "show", "dev", "eth0")[0]["addr_info"]
    found = {(info["family"], info["scope"]): info["local"] for info in shown}
    return Who(link["address"], found["inet", "global"], found["inet6", "global"], found["inet6", "link"])


def forged(me: Who, victim: Who, other: str, other6: str) -> dict[str, bytes]:
    """Return frames that claim another's MAC or address, by what they are.

    :param other: addresses that nobody has, of the same subnets.
    """
    to = victim.mac

    def frame(name: str, source: str, kind: int, payload: bytes, *tags: int) -> bytes:
        return forge.ethernet(BROADCAST if kind == _ARP else to, source, kind, payload, *tags)

    def claim(name: str, address: str, link: str = me.mac) -> bytes:
        return forge.arp(2, (link, address), (victim.mac, victim.ip4), marked(name))

    def tell(name: str, source: str, target: str) -> bytes:
        return forge.advertisement(source, victim.ip6, target, me.mac, marked(name))

    made = {
        "another MAC": (other_mac(me), _IPV4, forge.udp4(me.ip4, victim.ip4, marked("another MAC"))),
        "victim's MAC": (victim.mac, _IPV4, forge.udp4(me.ip4, victim.ip4, marked("victim's MAC"))),
        "another IPv4": (me.mac, _IPV4, forge.udp4(other, victim.ip4, marked("another IPv4"))),
        "outside IPv4": (me.mac, _IPV4, forge.udp4("8.8.8.8", victim.ip4, marked("outside IPv4"))),
        "another IPv6": (me.mac, _IPV6, forge.udp6(other6, victim.ip6, marked("another IPv6"))),
        "another link-local": (
            me.mac,
            _IPV6,
            forge.udp6("fe80::1", victim.own6, marked("another link-local")),
        ),
        "IPv6, another MAC": (
            other_mac(me),
            _IPV6,
            forge.udp6(me.ip6, victim.ip6, marked("IPv6, another MAC")),
        ),
        "ARP claim": (me.mac, _ARP, claim("ARP claim", other)),
        "ARP claim of victim": (me.mac, _ARP, claim("ARP claim of victim", victim.ip4)),
        "ARP, another MAC inside": (
            me.mac,
            _ARP,
            claim("ARP, another MAC inside", me.ip4, other_mac(me)),
        ),
        "ARP, another MAC": (other_mac(me), _ARP, claim("ARP, another MAC", me.ip4)),
        "ND claim": (me.mac, _IPV6, tell("ND claim", me.ip6, other6)),
        "ND claim with its source": (me.mac, _IPV6, tell("ND claim with its source", other6, other6)),
        "router": (
            me.mac,
            _IPV6,
            forge.icmp6(me.own6, "ff02::1", 134, bytes(12) + marked("router")),
        ),
        "redirect": (
            me.mac,
            _IPV6,
            forge.icmp6(me.own6, victim.ip6, 137, bytes(36) + marked("redirect")),
        ),
        "another protocol": (me.mac, _TEST, marked("another protocol")),
    }
    frames = {name: frame(name, source, kind, body) for name, (source, kind, body) in made.items()}
    for tags in ((0x8100,), (0x88A8, 0x8100), (0x8100, 0x8100)):
        name = f"ARP claim in {len(tags)} tags {tags[0]:x}"
        frames[name] = frame(name, me.mac, _ARP, claim(name, other), *tags)
    return frames


def other_mac(me: Who) -> str:
    return f"{me.mac[:-2]}{(int(me.mac[-2:], 16) ^ 0x55):02x}"


def honest(me: Who, victim: Who) -> dict[str, bytes]:
    to = victim.mac
    probe = forge.arp(1, (me.mac, "0.0.0.0"), ("00:00:00:00:00:00", me.ip4), marked("ARP probe"))
    own = forge.arp(2, (me.mac, me.ip4), (victim.mac, victim.ip4), marked("ARP"))
    tell = forge.advertisement(me.ip6, victim.ip6, me.ip6, me.mac, marked("ND"))
    return {
        "IPv4": forge.ethernet(to, me.mac, _IPV4, forge.udp4(me.ip4, victim.ip4, marked("IPv4"))),
        "DHCP": forge.ethernet(to, me.mac, _IPV4, forge.udp4("0.0.0.0", victim.ip4, marked("DHCP"))),
        "IPv6": forge.ethernet(to, me.mac, _IPV6, forge.udp6(me.ip6, victim.ip6, marked("IPv6"))),
        "link-local": forge.ethernet(
            to, me.mac, _IPV6, forge.udp6(me.own6, victim.own6, marked("link-local"))
        ),
        "ARP": forge.ethernet(to, me.mac, _ARP, own),
        "ARP probe": forge.ethernet(to, me.mac, _ARP, probe),
        "ND": forge.ethernet(to, me.mac, _IPV6, tell),
    }


def last(me: Who, victim: Who) -> bytes:
    return forge.ethernet(victim.mac, me.mac, _IPV4, forge.udp4(me.ip4, victim.ip4, forge.END))


def spare(sandbox: Namespace) -> tuple[str, str]:
    """Return an address of each family, of the container's subnets, that nobody has."""
    found = [ip_interface(address) for address in sorted(sandbox.addresses("eth0"), key=len)]
    return tuple(str(address.ip + 3) for address in found)  # type: ignore[return-value]


def of(sandbox: Namespace) -> tuple[str, str]:
    first, second = spare(sandbox)
    return (first, second) if ":" in second else (second, first)


@pytest.mark.parametrize("shape", DUAL)
def test_no_forged_frame_reaches_a_container_of_the_host(underlay: Underlay, shape: str) -> None:
    bed = underlay.bed
    attacker, other = bed.sandbox(), bed.sandbox()
    for number, sandbox in enumerate((attacker, other)):
        bed.add(vxlan(underlay, shape), sandbox, container=f"c{number}")
    me, victim = who(attacker), who(other)
    frames = forged(me, victim, *of(attacker))
    assert forge.heard(attacker, frames, last(me, victim), other) == []
    kept = honest(me, victim)
    assert forge.heard(attacker, kept, last(me, victim), other) == list(kept)
    assert attacker.reaches(victim.ip4)
    assert attacker.reaches(victim.ip6)


def test_without_the_guard_they_do(underlay: Underlay) -> None:
    """Or the test above would prove nothing."""
    bed = underlay.bed
    attacker, other = bed.sandbox(), bed.sandbox()
    for number, sandbox in enumerate((attacker, other)):
        bed.add(vxlan(underlay, "stretched dual", sourceGuard=False), sandbox, container=f"c{number}")
    me, victim = who(attacker), who(other)
    frames = forged(me, victim, *of(attacker))
    del frames["victim's MAC"]  # with it, the bridge would look for the victim at the attacker's port
    assert set(forge.heard(attacker, frames, last(me, victim), other)) == set(frames)


# ------------------------------------------------------------------------------------------- across hosts


@pytest.fixture
def beds(tmp_path: Path) -> Iterator[tuple[Bed, Bed]]:
    """Two hosts on one wire."""
    made = []
    for number in (1, 2):
        directory = tmp_path / f"h{number}"
        directory.mkdir()
        made.append(Bed(directory))
    one, two = made
    try:
        peer = ("peer", "name", "eth0", "netns", two.host.path)
        one.host.run("ip", "link", "add", "eth0", "type", "veth", *peer)
        for number, bed in enumerate(made, 1):
            bed.host.skip_dad()
            bed.host.run("ip", "link", "set", "eth0", "up")
            bed.host.run("ip", "address", "add", f"10.99.0.{number}/24", "dev", "eth0")
        yield one, two
    finally:
        for bed in made:
            bed.close()


def stretched(bed: Bed) -> dict[str, Any]:
    return {
        "cniVersion": "1.1.0",
        "name": "net1",
        "type": "vxlan",
        "vni": 77,
        "mode": "l2",
        "subnet": ["192.168.100.0/24", "fd64::/64"],
        "backend": {"type": "static", "peers": BLOCKS},
        "ipam": {"dataDir": str(bed.leases)},
    }


def test_no_forged_frame_reaches_another_host(beds: tuple[Bed, Bed]) -> None:
    one, two = beds
    attacker, other = one.sandbox(), two.sandbox()
    one.add(stretched(one), attacker)
    two.add(stretched(two), other, container="c2")
    me, victim = who(attacker), who(other)
    # To the victim's own MAC, as broadcasts stay on the host.
    frames = {
        name: forge.mac(victim.mac) + frame[6:] for name, frame in forged(me, victim, *of(attacker)).items()
    }
    assert forge.heard(attacker, frames, last(me, victim), other) == []
    kept = [name for name in honest(me, victim) if name != "link-local"]
    got = forge.heard(attacker, honest(me, victim), last(me, victim), other)
    assert set(kept) - {"ARP", "ARP probe", "ND"} <= set(got)  # the bridge may answer or drop those itself
    assert attacker.reaches(victim.ip4)
    assert attacker.reaches(victim.ip6)


# ------------------------------------------------------------------------------------------- life and death


def elements(underlay: Underlay) -> set[str]:
    listed = json.loads(underlay.bed.host.run("nft", "-j", "list", "ruleset"))["nftables"]
    found = {}
    for item in listed:
        if "set" in item and item["set"]["family"] == "bridge":
            found[item["set"]["name"]] = item["set"].get("elem", [])
    return {json.dumps(elem["elem"]["val"]) for name in found for elem in found[name] if "sources" in name}


@pytest.mark.parametrize("shape", GUARDED)
def test_what_is_missing_is_told_by_check_and_repaired_by_add(underlay: Underlay, shape: str) -> None:
    bed, sandbox, conf = underlay.bed, underlay.bed.sandbox(), vxlan(underlay, shape)
    result = bed.add(conf, sandbox)
    checked = {**conf, "prevResult": result}
    assert bed.call("CHECK", checked, sandbox) == (0, None)
    bed.host.run("nft", "flush", "chain", "bridge", "cni_plugins", "port_sources")
    code, error = bed.call("CHECK", checked, sandbox)
    assert code == 1
    assert error["code"] == 103
    assert "check of the sources at veth" in json.dumps(error)
    bed.add(conf, bed.sandbox(), container="c2")
    assert bed.call("CHECK", checked, sandbox) == (0, None)


def test_a_listed_ruleset_can_be_loaded_again(underlay: Underlay) -> None:
    bed, sandbox, conf = underlay.bed, underlay.bed.sandbox(), vxlan(underlay, "routed dual")
    result = bed.add(conf, sandbox)
    saved = bed.host.run("nft", "list", "table", "bridge", "cni_plugins")
    bed.host.run("nft", "delete", "table", "bridge", "cni_plugins")
    with bed.inside():
        namespaces.run("nft", "-f", "-", input=saved)
    assert bed.host.run("nft", "list", "table", "bridge", "cni_plugins") == saved
    assert bed.call("CHECK", {**conf, "prevResult": result}, sandbox) == (0, None)
    assert bed.call("DEL", conf, sandbox) == (0, None)
    assert not bed.host.succeeds("nft", "list", "table", "bridge", "cni_plugins")


def test_an_attachment_that_comes_back_with_another_address_loses_the_old_one(underlay: Underlay) -> None:
    bed, conf = underlay.bed, vxlan(underlay)
    first = bed.add(conf, bed.sandbox())
    before = elements(underlay)
    bed.host.run("ip", "link", "del", first["interfaces"][1]["name"])  # killed, without DEL
    for lease in (bed.leases / "net1").glob("10.*"):
        lease.unlink()
    again = bed.add(conf, bed.sandbox())
    old, new = (one["ips"][0]["address"].split("/")[0] for one in (first, again))
    assert old != new
    assert any(old in element for element in before)
    assert not any(old in element for element in elements(underlay))
    assert any(new in element for element in elements(underlay))


def test_flooding_overlays_have_it_on_request(underlay: Underlay) -> None:
    bed, sandbox = underlay.bed, underlay.bed.sandbox()
    bed.add(vxlan(underlay, "flooding"), sandbox)
    assert not bed.host.succeeds("nft", "list", "table", "bridge", "cni_plugins")
    bed.add(vxlan(underlay, "flooding", sourceGuard=True), bed.sandbox(), container="c2")
    assert bed.host.succeeds("nft", "list", "chain", "bridge", "cni_plugins", "port_sources")


def test_gc_leaves_nothing_of_a_container_that_is_gone(underlay: Underlay) -> None:
    bed, conf = underlay.bed, vxlan(underlay)
    bed.add(conf, bed.sandbox())
    bed.add(conf, bed.sandbox(), container="c2")
    valid = [{"containerID": "c2", "ifname": "eth0"}]
    count = len(elements(underlay))
    assert bed.call("GC", {**conf, "cni.dev/valid-attachments": valid}) == (0, None)
    assert len(elements(underlay)) == count // 2
