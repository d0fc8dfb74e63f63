"""Who reaches whom over the vxlan plugin: three hosts, both modes, every way of knowing the peers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.lab.overlay import (
    OUTSIDE,
    Bed,
    Container,
    Net,
    Node,
    at_once,
    attach,
    attached,
    detach,
    left,
    overlay_addresses,
    overlay_link,
    raise_bed,
    tables,
    unreached,
)
from tests.e2e.lab.overlay_wire import Frame, heard, overheard, said, seen_from, shout, smuggled
from tests.e2e.lab.state import State, differences, settled

pytestmark = pytest.mark.needs("ip", "nft", "nsenter", "ping", "setpriv", "sysctl")

KNOWN = ("l3", "l2", "l2-head-end", "l2-multicast", "l3-multicast", "l3-bare", "l2-bare")
NETS = {f"{shape}-over-ipv{version}": Net(shape, version) for shape in KNOWN for version in (4, 6)}
PLACES = ((1, "ovkea"), (1, "ovkeb"), (2, "ovkec"), (3, "ovked"))
LINK_LAYER = ("arp", "nd")
FORGET = "ip -4 neigh flush all; ip -6 neigh flush all; true"


@pytest.fixture(scope="module")
def bed(dist: Path) -> Iterator[Bed]:
    with raise_bed(dist, warm=True) as bed:
        yield bed


@pytest.fixture(scope="module")
def routed(dist: Path) -> Iterator[Bed]:
    """The third host is behind a router."""
    with raise_bed(dist, (0, 0, 1)) as bed:
        yield bed


@pytest.fixture
def empty(bed: Bed) -> Iterator[list[State]]:
    """The hosts without containers, which they must be again afterwards."""
    yield from _unchanged(bed)


@pytest.fixture
def empty_routed(routed: Bed) -> Iterator[list[State]]:
    yield from _unchanged(routed)


def _unchanged(bed: Bed) -> Iterator[list[State]]:
    before = at_once(tables, bed.nodes)
    yield before
    assert left(bed.nodes, before) == []


@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_everybody_reaches_everybody(bed: Bed, net: Net) -> None:
    with attached(bed, net, PLACES) as containers:
        assert containers_unreached(containers) == []
        assert hosts_unreached(bed, containers) == []
        for one in (containers[0], containers[-1]):
            for version, outside in OUTSIDE.items():
                own = one.node.vteps[version]
                assert seen_from(one.netns, bed.routers()[0], outside) == own
        for one, other in ((containers[0], containers[-1]), (containers[0], containers[1])):
            for source, target in zip(one.addresses, other.addresses, strict=True):
                assert seen_from(one.netns, other.netns, target) == source
        for container in (containers[0], containers[-1]):
            container.check().ok()


@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize("version", [4, 6])
def test_no_arp_and_no_nd_crosses_the_underlay_of_a_programmed_network(bed: Bed, version: int) -> None:
    with heard(bed) as frames, attached(bed, Net("l2", version), PLACES) as containers:
        for container in containers:
            container.run("sh", "-c", FORGET)
        assert containers_unreached(containers) == []
        assert hosts_unreached(bed, containers) == []
        inside = [frame for frame in frames() if frame.vni >= 0]
        assert {frame.what for frame in inside} >= {"ip4", "ip6"}, "nothing was heard at all"
        assert [frame for frame in inside if frame.what in LINK_LAYER] == []


@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize("shape", ["l2-head-end", "l2-multicast"])
def test_arp_crosses_the_underlay_of_a_network_that_floods(bed: Bed, shape: str) -> None:
    """Without which the test above would prove nothing."""
    with heard(bed) as frames, attached(bed, Net(shape), PLACES) as containers:
        assert containers_unreached(containers) == []
        assert LINK_LAYER[0] in {frame.what for frame in frames() if frame.vni >= 0}


@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize("shape", ["l3", "l3-bare", "l2", "l2-head-end"])
def test_a_host_finds_its_containers_for_whom_it_forwards(bed: Bed, shape: str) -> None:
    """Although it has forgotten them, as it does sooner or later: it must be able to ask for them."""
    net = Net(shape)
    networks = net.wide().get("subnet") or net.subnets(1)
    with attached(bed, net, PLACES[:1]) as [one]:
        routes = [f"route {{}} {to} via {one.node.vteps[6 if ':' in to else 4]}" for to in networks]
        tell(bed, "add", routes)
        try:
            one.node.host.run("sh", "-c", FORGET)
            for address in one.addresses:
                bed.switch.run("ip", "netns", "exec", "near", "ping", "-n", "-c1", "-W3", address)
        finally:
            tell(bed, "del", routes)


def tell(bed: Bed, verb: str, routes: Iterable[str]) -> None:
    """Give the outside routes, or take them."""
    bed.switch.run(
        "ip", "-n", "near", "-b", "-", input="".join(f"{route.format(verb)}\n" for route in routes)
    )


@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize("restricted", [True, False], ids=["restricted", "open"])
@pytest.mark.parametrize("shape", ["l3", "l2"])
def test_who_is_no_peer_is_not_listened_to(bed: Bed, shape: str, restricted: bool) -> None:
    """The outside sends well-made VXLAN packets; without the restriction they arrive."""
    net = Net(shape, more={} if restricted else {"restrictSources": False})
    with attached(bed, net, PLACES[:1]) as [one]:
        mac = VTEP_MAC if shape == "l3" else one.result["interfaces"][2]["mac"]
        vni = vni_of(one.node)
        said = smuggled(bed.routers()[0], one.netns, one.node.vteps[4], vni, mac, one.addresses[0])
        assert said == (not restricted)


@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize("shape", ["l3", "l2"])
def test_a_container_cannot_make_packets_of_the_overlay(bed: Bed, shape: str) -> None:
    """Not even ones for another network, whose hosts take its host for the sender."""
    net, other = Net(shape), Net("l3", number=1)
    with (
        attached(bed, net, PLACES[:1]) as [one],
        attached(bed, other, [(1, "ovkev"), (2, "ovkew")]) as [_, victim],
    ):
        vtep, vni = victim.node.vteps[4], vni_of(victim.node)
        assert smuggled(one.node.file(""), victim.netns, vtep, vni, MAC_OF_SECOND, victim.addresses[0])
        assert not smuggled(one.netns, victim.netns, vtep, vni, MAC_OF_SECOND, victim.addresses[0])


@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize("sticky", [True, False], ids=["as it is", "if it could"])
def test_a_container_takes_over_no_address_of_another_host(bed: Bed, sticky: bool) -> None:
    """Whose packets it would get if the bridge believed a frame that it sends."""
    more = {} if sticky else {"sourceGuard": False}  # which drops such frames before the bridge sees them
    with attached(bed, Net("l2", more=more), PLACES) as containers:
        one, forger, victim, _ = containers
        macs = [victim.result["interfaces"][number]["mac"] for number in (0, 2)]  # its bridge, and itself
        assert one.unreached(victim.addresses) == []
        for mac in macs if not sticky else ():
            vxlan = overlay_link(forger.node, "vxlan")
            forger.node.host.run("bridge", "fdb", "replace", mac, "dev", vxlan, "master", "static")
        with overheard(forger.netns, macs) as count:
            for mac in macs:
                shout(forger.netns, "eth0", mac)
            assert (one.unreached(victim.addresses, 1) == []) is sticky
            assert (count() == 0) is sticky
            if sticky:
                assert containers_unreached(containers) == []
                assert hosts_unreached(bed, containers) == []
                assert count() == 0
                forger.check().ok()


@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize("restricted", [True, False], ids=["restricted", "open"])
@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_a_container_speaks_for_nobody_else(bed: Bed, family: int, restricted: bool) -> None:
    """Not for a container of another host, nor for the outside."""
    net = Net("l3", more={} if restricted else {"restrictSources": False})
    with attached(bed, net, PLACES) as containers:
        one, _, victim, other = containers
        target, theirs = victim.addresses[family], other.addresses[family]
        strange = ("198.51.100.9", "2001:db8::9")[family]
        assert said(one.netns, one.addresses[family], victim.netns, target)
        assert said(other.netns, theirs, victim.netns, target)
        for address in (theirs, strange):
            # Until the kernel is done with an address of IPv6, nobody can bind to it.
            one.run("ip", "addr", "add", address, "dev", "lo", *(["nodad"] if family else []))
            assert said(one.netns, address, victim.netns, target) is not restricted


VTEP_MAC, MAC_OF_SECOND = "02:fe:0a:63:00:01", "02:fe:0a:63:00:02"


def vni_of(node: Node) -> int:
    """Of the node's one VXLAN link, or the last one made."""
    links = json.loads(node.host.run("ip", "-j", "-d", "link", "show", "type", "vxlan").stdout)
    return int(links[-1]["linkinfo"]["info_data"]["id"])


# ------------------------------------------------------------------------------------------- direct routes


@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("how", ["same-subnet", "always"])
def test_neighbours_on_the_underlay_are_reached_in_the_clear(bed: Bed, how: str, version: int) -> None:
    net = Net("l3", version, more={"directRouting": how}, families=(version,))
    with heard(bed) as frames, attached(bed, net, PLACES) as containers:
        assert containers_unreached(containers) == []
        assert hosts_unreached(bed, containers) == []
        for one in (containers[0], containers[-1]):
            own = one.node.vteps[version]
            assert seen_from(one.netns, bed.routers()[0], OUTSIDE[version]) == own
        for container in containers:
            container.check().ok()
        sent = frames()
        assert between(sent, containers) > 0
        assert [frame for frame in sent if frame.vni >= 0] == []
        if how == "always":
            assert vxlan_links(bed.nodes) == []


@pytest.mark.usefixtures("empty")
def test_what_the_underlay_has_no_version_for_is_encapsulated(bed: Bed) -> None:
    net = Net("l3", more={"directRouting": "same-subnet"})
    with heard(bed) as frames, attached(bed, net, PLACES) as containers:
        assert containers_unreached(containers) == []
        sent = frames()
        assert between(sent, containers) > 0
        assert {frame.what for frame in sent if frame.vni >= 0} == {"ip6"}


@pytest.mark.usefixtures("empty_routed")
def test_only_who_is_behind_a_router_is_reached_encapsulated(routed: Bed) -> None:
    net = Net("l3", more={"directRouting": "same-subnet"}, families=(4,))
    with heard(routed) as frames, attached(routed, net, PLACES) as containers:
        assert containers_unreached(containers) == []
        assert hosts_unreached(routed, containers) == []
        sent = frames()
        assert between(sent, [one for one in containers if one.node.number != 3]) > 0
        pairs = {frozenset(frame.outer) for frame in sent if frame.vni >= 0}
        near, other, far = (node.vteps[4] for node in routed.nodes)
        assert pairs == {frozenset((near, far)), frozenset((other, far))}


@pytest.mark.usefixtures("empty_routed")
@pytest.mark.parametrize(
    ("here", "peer", "gateway"), [(1, "10.99.1.3", "10.99.0.254"), (3, "10.99.0.", "10.99.1.254")]
)
def test_who_is_behind_a_router_cannot_always_be_reached_directly(
    routed: Bed, here: int, peer: str, gateway: str
) -> None:
    node = routed.node(here)
    node.host.netns("ovkea")
    conf = Net("l3", more={"directRouting": "always"}, families=(4,)).conf(node, routed.nodes)
    answer = Container(node, "ovkea", conf).call("ADD")
    node.host.remove_netns("ovkea")
    assert answer.code == 1
    assert answer.document["code"] == 7, answer
    said = answer.document["msg"] + answer.document.get("details", "")
    assert peer in said
    assert gateway in said


# --------------------------------------------------------------------------------------- several networks


SAME = {"directRouting": "same-subnet"}
ALWAYS = {"directRouting": "always"}
PAIRS: dict[str, tuple[Net, Net]] = {
    "l3-l3": (Net("l3"), Net("l3", number=1)),
    "l2-l2": (Net("l2"), Net("l2", number=1)),
    "l3-l2": (Net("l3"), Net("l2", number=1)),
    "same-subnet": (Net("l3", more=SAME), Net("l3", number=1, more=SAME)),
    "always": (Net("l3", more=ALWAYS, families=(4,)), Net("l3", number=1, more=ALWAYS, families=(4,))),
    "always-over-ipv6": (
        Net("l3", 6, more=ALWAYS, families=(6,)),
        Net("l3", 6, number=1, more=ALWAYS, families=(6,)),
    ),
    "always-l2": (Net("l3", more=ALWAYS, families=(4,)), Net("l2", number=1)),
    "multicast": (Net("l3-multicast"), Net("l2-multicast", number=1)),
}


@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize(("one", "other"), PAIRS.values(), ids=PAIRS)
def test_networks_of_the_same_hosts_are_apart(bed: Bed, one: Net, other: Net) -> None:
    with (
        attached(bed, one, [(1, "ovkea"), (2, "ovkeb")]) as here,
        attached(bed, other, [(1, "ovkec"), (2, "ovked")]) as there,
    ):
        assert containers_unreached(here) == []
        assert containers_unreached(there) == []
        for mine, theirs in ((here, there), (there, here)):
            targets = sorted(address for container in theirs for address in container.addresses)
            assert at_once(partial(Container.unreached, addresses=targets, seconds=1), mine) == [
                targets,
                targets,
            ]
        for node in bed.nodes[:2]:
            assert unreached(node, [address for one in (*here, *there) for address in one.addresses]) == []


def test_a_network_stays_when_another_goes(bed: Bed) -> None:
    one, other = PAIRS["l3-l2"]
    before = at_once(tables, bed.nodes)
    with attached(bed, one, PLACES[1:]) as containers:
        alone = at_once(tables, bed.nodes)
        with attached(bed, other, [(1, "ovkee"), (2, "ovkef")]) as others:
            assert containers_unreached(others) == []
        assert left(bed.nodes, alone) == []
        assert containers_unreached(containers) == []
    assert left(bed.nodes, before) == []


@pytest.mark.usefixtures("empty")
def test_a_network_stays_until_its_last_container_goes(bed: Bed) -> None:
    node = bed.node(1)
    conf = Net("l3").conf(node, bed.nodes)
    first = attach(node, "ovkea", conf)
    alone = tables(node)
    second = attach(node, "ovkeb", conf)
    detach(second)
    assert differences(alone, settled(lambda: tables(node), alone)) == []
    detach(first)


# ------------------------------------------------------------------------------------------------ addresses


@pytest.mark.usefixtures("empty")
def test_a_container_with_several_addresses_of_its_own(bed: Bed) -> None:
    net = Net("l3")
    addresses = ["10.44.1.50/24", "10.44.1.51/24", "fd44:0:0:1::50/64", "fd44:0:0:1::51/64"]
    ipam = {"type": "static", "addresses": [{"address": address} for address in addresses]}
    with attached(bed, net, [(1, "ovkea"), (2, "ovkeb")]) as containers:
        conf = {**net.conf(bed.node(1), bed.nodes), "ipam": ipam}
        several = attach(bed.node(1), "ovkec", conf)
        try:
            assert [ip["address"] for ip in several.result["ips"]] == addresses
            assert containers_unreached([*containers, several]) == []
            several.check().ok()
        finally:
            detach(several)


@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize("shape", ["l3", "l2"])
def test_a_container_that_asks_for_an_address(bed: Bed, shape: str) -> None:
    net = Net(shape)
    asked = {"l3": "10.44.1.77", "l2": "192.168.100.29"}[shape]
    conf = {**net.conf(bed.node(1), bed.nodes), "runtimeConfig": {"ips": [asked]}}
    with attached(bed, net, [(2, "ovkeb")]) as containers:
        mine = attach(bed.node(1), "ovkea", conf)
        try:
            assert mine.addresses[0] == asked
            assert containers_unreached([*containers, mine]) == []
        finally:
            detach(mine)


@pytest.mark.usefixtures("empty")
def test_addresses_run_out_where_the_block_ends(bed: Bed) -> None:
    net = Net("l2", more={"subnet": "192.168.100.0/24"})
    node = bed.node(1)
    narrow = {**net.record(node), "block": "192.168.100.16/30"}
    others = [net.record(other) for other in bed.nodes[1:]]
    conf = {**net.conf(node, bed.nodes), "backend": {"type": "static", "peers": [narrow, *others]}}
    made = []
    node.host.netns("ovkefull")
    try:
        full = Container(node, "ovkefull", conf)
        for number in range(4):
            answer = full.call("ADD") if number == 3 else None
            if answer is None:
                made.append(attach(node, f"ovken{number}", conf))
                continue
            assert answer.document["code"] == 102, answer
    finally:
        at_once(detach, made)
        node.host.remove_netns("ovkefull")
    used = {address for container in made for address in container.addresses}
    assert used == {"192.168.100.17", "192.168.100.18", "192.168.100.19"}


def containers_unreached(containers: Iterable[Container]) -> list[str]:
    """Every container pings all the addresses of all the others, all at once."""
    there = list(containers)

    def ping(one: Container) -> list[str]:
        others = [address for other in there if other is not one for address in other.addresses]
        return [f"{one.node.name} {one.name} -> {address}" for address in one.unreached(others)]

    return [line for lines in at_once(ping, there) for line in lines]


def hosts_unreached(bed: Bed, containers: list[Container]) -> list[str]:
    """Hosts ping all containers; containers ping the hosts' addresses on the overlay."""
    own = {node.number: overlay_addresses(node) for node in bed.nodes}
    missed = []
    for node in bed.nodes:
        targets = [address for one in containers for address in one.addresses]
        missed += [f"{node.name} -> {address}" for address in unreached(node, targets)]
    for one in containers:
        targets = sorted({address for addresses in own.values() for address in addresses})
        missed += [f"{one.node.name} {one.name} -> {address}" for address in one.unreached(targets)]
    return missed


def between(frames: Iterable[Frame], containers: list[Container]) -> int:
    """How many frames in the clear are of containers of different hosts."""
    ours = {address for container in containers for address in container.addresses}
    return sum(frame.vni < 0 and {frame.source, frame.target} <= ours for frame in frames)


def vxlan_links(nodes: Iterable[Node]) -> list[str]:
    asked = (node.host.run("ip", "-br", "link", "show", "type", "vxlan").stdout for node in nodes)
    return [line for answer in asked for line in answer.splitlines()]
