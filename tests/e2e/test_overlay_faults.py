"""
What becomes of an overlay that is damaged: CHECK names what is wrong, the next ADD, or a sync, puts it right.

And what becomes of one whose hosts change, vanish, come back, contradict each other, or are cut short.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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
    collect,
    detach,
    left,
    overlay_link,
    publish,
    raise_bed,
    tables,
)
from tests.e2e.lab.overlay_wire import pinging, seen_from
from tests.e2e.lab.plugin import BIN, Answer, run, start
from tests.e2e.lab.state import State, differences, settled

pytestmark = pytest.mark.needs("ip", "nft", "nsenter", "ping", "setpriv", "sysctl")

CONFIG, DRIFTED = 7, 103
PLACES = ((1, "ovkea"), (2, "ovkeb"), (3, "ovkec"))
NETS = {"l3": Net("l3-file"), "l2": Net("l2-file")}
KILLS = 20


@pytest.fixture(scope="module")
def bed(dist: Path) -> Iterator[Bed]:
    with raise_bed(dist) as bed:
        yield bed


@pytest.fixture
def empty(bed: Bed) -> Iterator[None]:
    """The hosts without containers, which they must be again afterwards."""
    before = at_once(tables, bed.nodes)
    yield
    assert left(bed.nodes, before) == []


@dataclass(frozen=True)
class Up:
    """A network with a container on each host."""

    bed: Bed
    net: Net
    containers: list[Container]

    @property
    def damaged(self) -> Container:
        return self.containers[0]

    @property
    def words(self) -> dict[str, str]:
        """What scripts that do damage name on the first host, and of its first peer."""
        node = self.bed.node(1)
        peer = self.containers[1]
        return {
            "vx": overlay_link(node, "vxlan"),
            "br": overlay_link(node, "bridge"),
            "port": host_end(self.damaged),
            "peer": peer.addresses[0],
            "peer6": peer.addresses[1],
            "mac": container_mac(peer),
            "vtep": peer.node.vteps[4],
            "other": self.bed.node(3).vteps[4],
        }

    def unreached(self) -> list[str]:
        """All ping all."""
        return [
            f"{one.name} -> {address}"
            for one in self.containers
            for address in one.unreached(
                address for other in self.containers if other is not one for address in other.addresses
            )
        ]

    def add_another(self, node: Node | None = None) -> None:
        """ADD, which repairs, and DEL, so that what is there can be compared."""
        where = node or self.damaged.node
        detach(attach(where, "ovkefix", self.net.conf(where, self.bed.nodes)))

    def synchronise(self) -> None:
        """Have `cnictl` compare every entry, which an ADD with an unchanged list does not do."""
        node = self.damaged.node
        node.host.write("/etc/cni/sync.conf", json.dumps(self.net.conf(node, self.bed.nodes)))
        node.host.run(f"{BIN}/cnictl", "overlay", "sync", "--conf", "/etc/cni/sync.conf")


@contextmanager
def up(bed: Bed, net: Net) -> Iterator[Up]:
    publish(net, bed.nodes)
    with attached(bed, net, PLACES) as containers:
        yield Up(bed, net, containers)


@pytest.fixture(scope="module")
def lasting(dist: Path) -> Iterator[Bed]:
    """For containers that live through one test after the other."""
    with raise_bed(dist, warm=True) as bed:
        yield bed


@pytest.fixture(scope="module", params=NETS)
def running(lasting: Bed, request: pytest.FixtureRequest) -> Iterator[Up]:
    with up(lasting, NETS[request.param]) as there:
        assert there.unreached() == []
        yield there


# ---------------------------------------------------------------------------------------- damage by hand

PEER_ROUTE, PEER_HOP, PEER_MAC = "10.44.2.0/24", "10.44.2.0", "02:fe:0a:63:00:02"
MADE_ANEW = """
ip link del {vx}
ip link add {vx} type vxlan id {vni} dstport 4789 local 10.99.0.1 dev uplink
ip link set {vx} alias '{alias}' up
"""
ELSEWHERE = f"""
ip route del {PEER_ROUTE}
ip route add {PEER_ROUTE} via 10.99.0.254 metric {{metric}} proto 217
"""
OF_RULES = ("overlay_", "packet filter", "nf_tables", "nftables")
EITHER: dict[str, tuple[str, tuple[str, ...]]] = {
    "VXLAN link deleted": ("ip link del {vx}", ("{vx}",)),
    "VXLAN link down": ("ip link set {vx} down", ("{vx}",)),
    "VXLAN link with another MTU": ("ip link set {vx} mtu 1300", ("{vx}", "1300")),
    "VXLAN link with another MAC": ("ip link set {vx} address 02:00:00:00:00:09", ("{vx}",)),
    "VXLAN link made anew by hand": (MADE_ANEW, ("{vx}",)),
    "bridge down": ("ip link set {br} down", ("{br}",)),
    "bridge with another MAC": ("ip link set {br} address 02:00:00:00:00:08", ("{br}",)),
    "gateway address gone": ("ip addr flush dev {br} scope global", ("{br}",)),
    "nftables chains emptied": ("{flush_chains}", OF_RULES),
    "nftables chains deleted": ("{flush_chains}; {delete_chains}", OF_RULES),
    "nftables sets emptied": ("{flush_sets}", OF_RULES),
}
OF_L3: dict[str, tuple[str, tuple[str, ...]]] = {
    "FDB entry deleted": (f"bridge fdb del {PEER_MAC} dev {{vx}}", (PEER_MAC,)),
    "FDB entry changed": (
        f"bridge fdb replace {PEER_MAC} dev {{vx}} dst {{other}} self permanent",
        (PEER_MAC, "{vtep}"),
    ),
    "neighbour deleted": (f"ip neigh del {PEER_HOP} dev {{vx}}", (PEER_HOP,)),
    "neighbour changed": (
        f"ip neigh replace {PEER_HOP} lladdr 02:00:00:00:00:07 dev {{vx}} nud permanent",
        (PEER_HOP,),
    ),
    "route deleted": (f"ip route del {PEER_ROUTE}", (PEER_ROUTE,)),
    "route changed": (ELSEWHERE, (PEER_ROUTE,)),
    "IPv6 route deleted": ("ip -6 route del fd44:0:0:2::/64", ("fd44:0:0:2::/64",)),
    "dead end deleted": ("ip route del blackhole 10.44.0.0/16", ("10.44.0.0/16",)),
    "blackhole deleted": ("ip route del blackhole 10.44.1.0/24", ("10.44.1.0/24",)),
    "address of the VXLAN link gone": ("ip addr del 10.44.1.0/32 dev {vx}", ("10.44.1.0",)),
    "stale route of ours": (
        "ip route add 10.44.9.0/24 via 10.44.9.0 dev {vx} onlink metric {metric} proto 217",
        ("10.44.9.0",),
    ),
}
OF_L2: dict[str, tuple[str, tuple[str, ...]]] = {
    "VXLAN link no port of the bridge": ("ip link set {vx} nomaster", ("{vx}",)),
    "learning and flooding": ("bridge link set dev {vx} learning on flood on", ("{vx}",)),
    "no suppression": ("bridge link set dev {vx} neigh_suppress off", ("{vx}",)),
    "FDB entry deleted": ("bridge fdb del {mac} dev {vx} self", ("{mac}",)),
    "FDB entry changed": ("bridge fdb replace {mac} dev {vx} dst {other} self permanent", ("{mac}",)),
    "bridge's FDB entry deleted": ("bridge fdb del {mac} dev {vx} master", ("{mac}",)),
    "bridge's FDB entry at another port": ("bridge fdb replace {mac} dev {port} master static", ("{mac}",)),
    "bridge's FDB entry that can be moved": (
        "bridge fdb replace {mac} dev {vx} master static",
        ("{mac} behind {vx} can be moved",),
    ),
    "neighbour deleted": ("ip neigh del {peer} dev {br}", ("{peer}",)),
    "IPv6 neighbour deleted": ("ip neigh del {peer6} dev {br}", ("{peer6}",)),
    "neighbour changed": (
        "ip neigh replace {peer} lladdr 02:00:00:00:00:07 dev {br} nud permanent",
        ("{peer}",),
    ),
}
ALWAYS: dict[str, tuple[str, tuple[str, ...]]] = {
    "stale FDB entry of ours": (
        "bridge fdb append 02:fe:0a:63:00:63 dev {vx} dst 10.99.0.99 self permanent",
        ("02:fe:0a:63:00:63",),
    ),
    "stale neighbour of ours": (
        "ip neigh add {stale} lladdr 02:fe:0a:63:00:63 dev {at} nud permanent",
        ("{stale}",),
    ),
}


# Of single entries, which an ADD with an unchanged list takes to be there.
BY_SYNC = {
    *OF_L3,
    *ALWAYS,
    *(name for name in OF_L2 if "entry" in name or "neighbour" in name),
    "nftables sets emptied",
} - {"address of the VXLAN link gone"}


def damages() -> list[Any]:
    sorts = {"l3": {**EITHER, **OF_L3, **ALWAYS}, "l2": {**EITHER, **OF_L2, **ALWAYS}}
    return [
        pytest.param(mode, script, told, name in BY_SYNC, id=f"{mode}-{name}")
        for mode, them in sorts.items()
        for name, (script, told) in them.items()
    ]


@pytest.mark.parametrize(
    ("running", "script", "told", "by_sync"), damages(), indirect=["running"], scope="module"
)
def test_damage_is_named_by_check_and_put_right_by_the_next_add_or_a_sync(
    running: Up,
    script: str,
    told: tuple[str, ...],
    by_sync: bool,
) -> None:
    node = running.damaged.node
    running.damaged.check().ok()
    before = tables(node)
    words = {**running.words, **more_words(running)}

    node.host.run("sh", "-euc", script.format(**words))
    assert differences(before, tables(node)), "no damage was done"
    found = running.damaged.check()
    said = told_by(found)
    wanted = [word.format(**words) for word in told]
    assert any(word in said for word in wanted), found
    assert found.document["code"] == DRIFTED, found

    if by_sync:
        running.synchronise()
    else:
        running.add_another()
    assert repaired(before, node) == []
    assert running.unreached() == []
    running.damaged.check().ok()


def repaired(before: State, node: Node) -> list[str]:
    return differences(before, settled(lambda: tables(node), before))


def more_words(running: Up) -> dict[str, str]:
    """Those that take a look at the kernel."""
    host = running.damaged.node.host
    words = running.words
    [link] = json.loads(host.run("ip", "-j", "-d", "link", "show", words["vx"]).stdout)
    objects = [
        next(iter(item.items()))
        for item in json.loads(host.run("nft", "-j", "list", "ruleset").stdout)["nftables"]
    ]
    named = [(kind, body) for kind, body in objects if kind in ("table", "chain", "set", "map")]

    def each(verb: str, *kinds: str) -> str:
        return "; ".join(
            f"nft {verb} {kind} {body['family']} {' '.join(filter(None, (body.get('table'), body['name'])))}"
            for kind, body in named
            if kind in kinds and body["name"].startswith("overlay")
        )

    routes = host.run("ip", "-o", "route", "show", PEER_ROUTE).stdout.split()
    return {
        "vni": str(link["linkinfo"]["info_data"]["id"]),
        "alias": link["ifalias"],
        "delete_chains": each("delete", "chain"),
        "flush_chains": each("flush", "chain"),
        "flush_sets": each("flush", "set", "map") or "true",
        "metric": routes[routes.index("metric") + 1] if "metric" in routes else "0",
        "at": words["br"] if running.net.shape.startswith("l2") else words["vx"],
        "stale": "192.168.100.99" if running.net.shape.startswith("l2") else "10.44.9.0",
    }


@pytest.mark.parametrize("running", NETS, indirect=True, scope="module")
def test_check_names_a_container_that_is_no_port_of_the_bridge(running: Up) -> None:
    port, bridge = running.words["port"], running.words["br"]
    host = running.damaged.node.host
    host.run("ip", "link", "set", port, "nomaster")
    try:
        said = told_by(running.damaged.check())
        assert port in said
        assert bridge in said
    finally:
        host.run("ip", "link", "set", port, "master", bridge)
    running.damaged.check().ok()


@pytest.mark.parametrize("running", ["l3"], indirect=True, scope="module")
def test_check_names_a_route_that_is_not_taken(running: Up) -> None:
    """Until whoever made the other takes it away: the next ADD must not."""
    host, other = running.damaged.node.host, (PEER_ROUTE, "via", "10.99.0.254", "metric", "5")
    host.run("ip", "route", "add", *other)
    try:
        running.add_another()
        found = running.damaged.check()
        assert found.document["code"] == DRIFTED, found
        vxlan = running.words["vx"]
        told = f"packets to {PEER_ROUTE} leave by uplink, not {vxlan}: another route comes first"
        assert told in told_by(found)
    finally:
        host.run("ip", "route", "del", *other)
    running.damaged.check().ok()


@pytest.mark.parametrize("running", NETS, indirect=True, scope="module")
def test_damage_to_the_tables_of_all_hosts_at_once(running: Up) -> None:
    """The VXLAN links of all are gone; each host's next ADD brings its part back."""
    before = at_once(tables, running.bed.nodes)
    for node in running.bed.nodes:
        node.host.run("ip", "link", "del", overlay_link(node, "vxlan"))
    at_once(running.add_another, running.bed.nodes)
    assert left(running.bed.nodes, before) == []
    assert running.unreached() == []


# -------------------------------------------------------------------------------------- hosts that change

EACH_NET = pytest.mark.parametrize("net", NETS.values(), ids=NETS)


@pytest.mark.usefixtures("empty")
@EACH_NET
def test_a_host_that_gets_another_address(bed: Bed, net: Net) -> None:
    mover = bed.node(2)
    with up(bed, net) as there:
        mover.readdress(22)
        try:
            publish(net, bed.nodes)
            for container in there.containers:
                assert container.check().code == 1
            at_once(there.add_another, bed.nodes)
            assert there.unreached() == []
            for container in there.containers:
                container.check().ok()
            for node in bed.nodes:
                assert mentions(node, "10.99.0.2", "02:fe:0a:63:00:02") == []
        finally:
            mover.readdress(2)
            publish(net, bed.nodes)


@pytest.mark.usefixtures("empty")
@EACH_NET
@pytest.mark.parametrize("keep", [True, False], ids=["leases-kept", "leases-gone"])
def test_a_host_that_boots(bed: Bed, net: Net, keep: bool) -> None:
    node = bed.node(2)
    publish(net, bed.nodes)
    with attached(bed, net, [PLACES[0], PLACES[2]]) as others:
        before = tables(node)
        lost = attach(node, "ovkeb", net.conf(node, bed.nodes))
        others_before = [tables(other) for other in (bed.node(1), bed.node(3))]
        bed.reboot(node, keep=keep)
        publish(net, bed.nodes)
        again = attach(node, "ovkenew", net.conf(node, bed.nodes))
        try:
            there = Up(bed, net, [*others, again])
            assert there.unreached() == []
            assert (set(again.addresses) & set(lost.addresses) == set()) == keep
            for container in there.containers:
                container.check().ok()
            assert left([bed.node(1), bed.node(3)], others_before) == []
            collect(node, again.conf, [again])
            again.check().ok()
        finally:
            detach(again)
            collect(node, again.conf)
        assert left([node], [before]) == []


@pytest.mark.usefixtures("empty")
@EACH_NET
def test_a_host_that_left_while_another_was_away(bed: Bed, net: Net) -> None:
    """What a host still had of it goes with the next ADD; so too if the list changes between ADDs."""
    with up(bed, net) as there:
        peers = [net.record(node) for node in bed.nodes[:2]]
        publish(net, bed.nodes[:2], peers)
        assert told_by(there.containers[0].check())
        there.add_another()
        gone = there.containers[2]
        words = ["10.99.0.3", "02:fe:0a:63:00:03", "10.44.3.", container_mac(gone), *gone.addresses]
        assert mentions(bed.node(1), *words) == []
        first, second, _ = there.containers
        assert first.unreached(second.addresses) == []
        assert first.unreached(gone.addresses, 1) == sorted(gone.addresses)
        first.check().ok()
        publish(net, bed.nodes)
        there.add_another()
        assert there.unreached() == []


@pytest.mark.usefixtures("empty")
@EACH_NET
def test_a_host_that_joins(bed: Bed, net: Net) -> None:
    publish(net, bed.nodes, [net.record(node) for node in bed.nodes[:2]])
    with attached(bed, net, PLACES[:2]) as pair, pinging(pair[0], pair[1].addresses[0]):
        publish(net, bed.nodes)
        late = attach(bed.node(3), "ovkec", net.conf(bed.node(3), bed.nodes))
        try:
            there = Up(bed, net, [*pair, late])
            for node in bed.nodes[:2]:
                there.add_another(node)
            assert there.unreached() == []
        finally:
            detach(late)


@pytest.mark.usefixtures("empty")
@EACH_NET
def test_a_packet_filter_that_was_emptied(bed: Bed, net: Net) -> None:
    """What is the network's comes back with any ADD; what is a container's only with its own."""
    node = bed.node(1)
    with up(bed, net) as there:
        before = tables(node)
        node.host.run("nft", "flush", "ruleset")
        assert "masq" in told_by(there.damaged.check())
        there.add_another()
        of_containers = ("masq", '"family": "bridge"')  # masquerading, and the guard of its sources
        rest = [line for line in repaired(before, node) if not any(word in line for word in of_containers)]
        assert rest == []
        assert there.unreached() == []
        there.damaged.call("DEL").ok()
        again = replace(there.damaged, result=there.damaged.call("ADD").ok().document)
        again.check().ok()
        wanted = [node.vteps[4], node.vteps[6]]
        assert [seen_from(again.netns, bed.routers()[0], outside) for outside in OUTSIDE.values()] == wanted


# ------------------------------------------------------------------------------------------ contradictions


def record_of(net: Net, bed: Bed, **changes: Any) -> list[dict[str, Any]]:
    """The records of all, the third with other values."""
    first, second, third = (net.record(node) for node in bed.nodes)
    return [first, second, {**third, **changes}]


OF_BOTH: dict[str, tuple[Mapping[str, Any], tuple[str, ...]]] = {
    "one name": ({"node": "h2"}, ("h2",)),
    "one VTEP": ({"vtep": "10.99.0.2"}, ("h2", "h3", "10.99.0.2")),
}
CLAIMS: dict[str, dict[str, tuple[Mapping[str, Any], tuple[str, ...]]]] = {
    "l3": {
        **OF_BOTH,
        "one subnet": ({"subnets": ["10.44.2.0/24", "fd44:0:0:3::/64"]}, ("h2", "h3", "10.44.2.0/24")),
        "one IPv6 subnet": (
            {"subnets": ["10.44.3.0/24", "fd44:0:0:2::/64"]},
            ("h2", "h3", "fd44:0:0:2::/64"),
        ),
        "a subnet around": (
            {"subnets": ["10.44.2.0/23", "fd44:0:0:3::/64"]},
            ("h2", "h3", "10.44.2.0/24", "10.44.2.0/23"),
        ),
        "a subnet inside": (
            {"subnets": ["10.44.1.128/25", "fd44:0:0:3::/64"]},
            ("h1", "h3", "10.44.1.0/24", "10.44.1.128/25"),
        ),
    },
    "l2": {
        **OF_BOTH,
        "one block": ({"block": "192.168.100.32/28"}, ("h2", "h3", "192.168.100.32/28")),
        "a block inside": (
            {"block": "192.168.100.40/29"},
            ("h2", "h3", "192.168.100.32/28", "192.168.100.40/29"),
        ),
    },
}


@pytest.mark.parametrize(
    ("running", "changes", "told"),
    [
        pytest.param(mode, changes, told, id=f"{mode}-{name}")
        for mode, claims in CLAIMS.items()
        for name, (changes, told) in claims.items()
    ],
    indirect=["running"],
    scope="module",
)
def test_two_hosts_that_claim_the_same(
    running: Up, changes: Mapping[str, Any], told: tuple[str, ...]
) -> None:
    bed, net = running.bed, running.net
    before = at_once(tables, bed.nodes)
    with pinging(running.containers[0], running.containers[1].addresses[0]):
        publish(net, bed.nodes, record_of(net, bed, **changes))
        try:
            for node in bed.nodes:
                answer = refused(node, net.conf(node, bed.nodes))
                assert answer.document["code"] == CONFIG, answer
                said = told_by(answer)
                assert [word for word in told if word not in said] == [], said
        finally:
            publish(net, bed.nodes)
    assert left(bed.nodes, before) == []
    assert running.unreached() == []


# ------------------------------------------------------------------------------------------- killed calls


@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize("company", [False, True], ids=["alone", "beside-another"])
@EACH_NET
def test_an_add_that_is_killed(bed: Bed, net: Net, company: bool) -> None:
    """DEL or GC takes away what there is of it, and of the network if nobody else is on it."""
    node = bed.node(3)
    publish(net, bed.nodes)
    conf = net.conf(node, bed.nodes)
    with attached(bed, net, PLACES[2:] if company else []) as others:
        before = tables(node)
        begin = time.monotonic()
        detach(attach(node, "ovketime", conf))
        seconds = (time.monotonic() - begin) / 1.5
        killed = 0
        for number in range(KILLS // 2):
            chance = random.Random(number)
            name = f"ovkek{number}"
            node.host.netns(name)
            blank = Container(node, name, conf)
            killed += kill(blank, chance.uniform(0, seconds)).code == -signal.SIGKILL
            if number % 3 == 2:
                node.host.remove_netns(name)
            if number % 2:
                blank.call("DEL").ok()
            else:
                collect(node, conf, others)
            changes = differences(before, settled(lambda: tables(node), before))
            assert changes == [], f"round {number}"
            if number % 3 != 2:
                assert inside(blank) == ["lo"]
                node.host.remove_netns(name)
        assert killed >= KILLS / 10, "hardly any ADD was killed in flight"
        for other in others:
            other.check().ok()


@pytest.mark.usefixtures("empty")
@EACH_NET
def test_a_del_that_is_killed(bed: Bed, net: Net) -> None:
    node = bed.node(3)
    publish(net, bed.nodes)
    conf = net.conf(node, bed.nodes)
    before = tables(node)
    for number in range(KILLS // 4):
        container = attach(node, f"ovkek{number}", conf)
        kill(container, random.Random(number).uniform(0, 0.15), "DEL")
        if number % 2:
            node.host.remove_netns(container.name)
            collect(node, conf)
        else:
            detach(container)
        assert differences(before, settled(lambda: tables(node), before)) == [], f"round {number}"


def kill(container: Container, after: float, command: str = "ADD") -> Answer:
    """Call, and send SIGKILL to all of the call after so many seconds."""
    call = container.asks(command)
    process = start(container.node.host, call)
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin:
        process.stdin.write(call.stdin)
    process.stdin = None
    time.sleep(after)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    return Answer(process.returncode, out, err)


def refused(node: Node, conf: Mapping[str, Any]) -> Answer:
    node.host.netns("ovkebad")
    blank = Container(node, "ovkebad", conf)
    answer = run(node.host, blank.asks("ADD"))
    assert inside(blank) == ["lo"]
    node.host.remove_netns("ovkebad")
    assert answer.code == 1, answer
    return answer


def told_by(answer: Answer) -> str:
    assert answer.code == 1, answer
    return f"{answer.document['msg']} {answer.document.get('details', '')}"


def inside(container: Container) -> list[str]:
    """The links in a container's namespace."""
    return [link["ifname"] for link in json.loads(container.run("ip", "-j", "link").stdout)]


def host_end(container: Container) -> str:
    [name] = [link["name"] for link in container.result["interfaces"][1:2]]
    return str(name)


def container_mac(container: Container) -> str:
    return str(container.result["interfaces"][2]["mac"])


def mentions(node: Node, *words: str) -> list[str]:
    """What of the host's tables has one of these words; one that ends with a dot is the start of a word."""
    lines = [f"{what}: {line}" for what, lines in tables(node).items() for line in lines]
    return [line for line in lines if any(_has(line, word) for word in words)]


def _has(line: str, word: str) -> bool:
    parts = (
        line.replace('"', " ").replace("=", " ").replace(",", " ").replace("/", " ").replace("|", " ").split()
    )
    return any(part == word or (word.endswith(".") and part.startswith(word)) for part in parts)
