"""
Hosts on an underlay, the overlays they are configured with, and what their kernels hold of these.

A bed's hosts are plugged into one of two segments, each a switch and a router; what joins the routers may be
narrower than the hosts believe. The router of the first segment is also the outside: it knows of no
container network, so only masqueraded traffic gets an answer.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

from tests.e2e.lab import agent
from tests.e2e.lab.host import Host, raise_host
from tests.e2e.lab.plugin import Answer, Call, run
from tests.e2e.lab.state import State, differences, observe, settled

UPLINK = "uplink"
NAME = "ovkenet"
OUTSIDE = {4: "10.99.0.254", 6: "fd99::254"}
ROUTERS = ("near", "far")
HOP = "ovkehop"
GROUPS = {4: "239.7.7.7", 6: "ff05::7:7"}
KEPT = "/var/lib/cni"

T = TypeVar("T")
R = TypeVar("R")

RAISE_SWITCHES = f"""
ip link add ovkesw0 up type bridge
ip link add ovkesw1 up type bridge
for n in 0 1; do
    [ $n = 0 ] && router=near || router=far
    ip netns exec $router sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
    ip netns exec $router sysctl -qw net.ipv6.conf.default.accept_dad=0
    ip netns exec $router sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0
    ip link add ovker$n master ovkesw$n up type veth peer name lan netns $router
    ip -n $router addr add 10.99.$n.254/24 dev lan
    [ $n = 0 ] && six=fd99:: || six=fd99:0:0:1::
    ip -n $router addr add $six"254/64" dev lan nodad
    ip -n $router link set lan up
    ip -n $router link set lo up
done
ip -n near link add {HOP} type veth peer name {HOP} netns far
ip -n near addr add 10.99.9.1/24 dev {HOP}
ip -n near addr add fd99:0:0:9::1/64 dev {HOP} nodad
ip -n far addr add 10.99.9.2/24 dev {HOP}
ip -n far addr add fd99:0:0:9::2/64 dev {HOP} nodad
for router in near far; do
    ip -n $router link set {HOP} mtu {{hop}} up
done
ip -n near route add 10.99.1.0/24 via 10.99.9.2
ip -n near route add fd99:0:0:1::/64 via fd99:0:0:9::2
ip -n far route add 10.99.0.0/24 via 10.99.9.1
ip -n far route add fd99::/64 via fd99:0:0:9::1
"""
PLUG_IN = f"""
sysctl -qw net.ipv6.conf.{UPLINK}.accept_dad=0
ip addr add {{v4}}/24 dev {UPLINK}
ip addr add {{v6}}/64 dev {UPLINK} nodad
ip link set {UPLINK} up
ip route replace default via {{router4}}
ip -6 route replace default via {{router6}}
"""
TABLES = (
    "ip -j neigh show nud permanent",
    "ip -j neigh show nud noarp",
    "ip -j -6 neigh show proxy",
    "ip -j -4 neigh show proxy",
    "bridge -j fdb show",
    "bridge -j -d link show",
    "ip -j -d link show",
    "ip -j -4 -d route show table all",
    "ip -j -6 -d route show table all",
)
VXLAN_SETTINGS = {"id", "local", "local6", "link", "port", "learning", "df", "group", "group6", "ttl"}
# As in cnictl lab, an address that does not answer is pinged once more; and again on a machine under load.
PING_ALL = """
ask() {{ ping -n -c1 -W{seconds} "$1" >/dev/null 2>&1; }}
for to; do ask "$to" || ask "$to" || ask "$to" || echo "$to" & done
wait
"""


@dataclass
class Node:
    """A simulated host of the bed: h1, h2, … in configs."""

    number: int
    segment: int
    host: Host
    stack: ExitStack
    vteps: dict[int, str]
    """Its address of each IP version on the underlay."""

    @property
    def name(self) -> str:
        return f"h{self.number}"

    def file(self, what: str) -> str:
        """Where this process finds the host's network namespace, or one that is named in it."""
        return str(self.host.path(f"/run/netns/{what}")) if what else f"/proc/{self.host.anchor}/ns/net"

    def readdress(self, last: int) -> None:
        """Its addresses on the underlay become these, as when a provider gives it others."""
        old, self.vteps = self.vteps, underlay(last, self.segment)
        for version, prefix in ((4, 24), (6, 64)):
            self.host.run("ip", "addr", "del", f"{old[version]}/{prefix}", "dev", UPLINK)
        self.configure()

    def configure(self) -> None:
        router = underlay(254, self.segment)
        words = {"v4": self.vteps[4], "v6": self.vteps[6], "router4": router[4], "router6": router[6]}
        self.host.run("sh", "-euc", PLUG_IN.format(**words))


@dataclass
class Bed:
    """Hosts that reach each other; `raise_bed` makes one."""

    plugins: Path
    runtimes: bool
    switch: Host
    nodes: list[Node] = field(default_factory=list)
    cables: int = 0

    def node(self, number: int) -> Node:
        return self.nodes[number - 1]

    def plug_in(self, node: Node) -> None:
        """Wire the host to the switch of its segment."""
        self.cables += 1
        port = ("name", f"ovke{node.number}x{self.cables}", "master", f"ovkesw{node.segment}", "up")
        mac = f"02:99:00:00:00:{node.number:02x}"  # a host that comes back has the NIC it had
        peer = ("name", UPLINK, "address", mac, "netns", str(node.host.anchor))
        self.switch.run("ip", "link", "add", *port, "type", "veth", "peer", *peer)
        node.configure()

    def reboot(self, node: Node, *, keep: bool) -> None:
        """The host is gone with all its namespaces and comes back, its files too if they are kept."""
        with tempfile.TemporaryDirectory(prefix="ovke-") as disk:
            saved = Path(disk, "saved")
            shutil.copytree(node.host.path(KEPT), saved, symlinks=True)
            node.stack.close()
            node.host = node.stack.enter_context(raise_host(self.plugins, runtimes=self.runtimes))
            if keep:
                shutil.copytree(saved, node.host.path(KEPT), symlinks=True, dirs_exist_ok=True)
        self.plug_in(node)

    def routers(self) -> list[str]:
        """Where this process finds the namespaces of the routers."""
        return [str(self.switch.path(f"/run/netns/{router}")) for router in ROUTERS]


@contextmanager
def raise_bed(
    plugins: Path,
    segments: Iterable[int] = (0, 0, 0),
    *,
    hop: int = 1500,
    runtimes: bool = False,
    warm: bool = False,
) -> Iterator[Bed]:
    """
    Bring up a host in each of these segments; all of it is gone afterwards.

    :param warm: with an agent on each of them, where not the calls are in question but what comes of them
    """
    with ExitStack() as stack:
        switch = stack.enter_context(raise_host(plugins))
        switch.netns(*ROUTERS)
        switch.run("sh", "-euc", RAISE_SWITCHES.format(hop=hop))
        bed = Bed(plugins, runtimes, switch)
        for number, segment in enumerate(segments, 1):
            own = stack.enter_context(ExitStack())
            host = own.enter_context(raise_host(plugins, runtimes=runtimes))
            bed.nodes.append(Node(number, segment, host, own, underlay(number, segment)))
            bed.plug_in(bed.nodes[-1])
            if warm:
                own.enter_context(agent.running(host, "--workers", "2"))
        yield bed


def underlay(last: int, segment: int) -> dict[int, str]:
    six = "fd99::" if segment == 0 else "fd99:0:0:1::"
    return {4: f"10.99.{segment}.{last}", 6: f"{six}{last}"}


def at_once(do: Callable[[T], R], things: Iterable[T]) -> list[R]:
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(do, things))


# ------------------------------------------------------------------------------------------ configuration


@dataclass(frozen=True)
class Net:
    """
    A network, as all its hosts are configured with it.

    :param shape: one of SHAPES.
    :param version: of IP, that the underlay is of.
    :param number: tells networks of one bed apart.
    :param more: other keys of the config; None takes one out.
    :param families: of its containers' addresses.
    """

    shape: str
    version: int = 4
    number: int = 0
    more: Mapping[str, Any] = field(default_factory=dict)
    families: tuple[int, ...] = (4, 6)

    @property
    def name(self) -> str:
        return f"{NAME}{self.number}"

    def conf(self, node: Node, nodes: Iterable[Node]) -> dict[str, Any]:
        conf = {
            "cniVersion": "1.1.0",
            "name": self.name,
            "type": "vxlan",
            "ipMasq": True,
            **SHAPES[self.shape](self, node, list(nodes)),
        }
        return {key: value for key, value in {**conf, **self.more}.items() if value is not None}

    def subnets(self, number: int) -> list[str]:
        """In mode l3: those of a host."""
        return self._of_families(
            f"10.{44 + self.number}.{number}.0/24", f"fd{44 + self.number}:0:0:{number}::/64"
        )

    def block(self, number: int) -> str:
        """In mode l2: that of a host."""
        return f"192.168.{100 + self.number}.{16 * number}/28"

    def wide(self) -> dict[str, Any]:
        """What the whole network has in common."""
        if self.shape.startswith("l3"):
            networks = self._of_families(f"10.{44 + self.number}.0.0/16", f"fd{44 + self.number}::/48")
            return {"mode": "l3", "network": networks}
        subnets = self._of_families(f"192.168.{100 + self.number}.0/24", f"fd{70 + self.number}::/64")
        return {"mode": "l2", "subnet": subnets}

    def _of_families(self, ipv4: str, ipv6: str) -> list[str]:
        return [{4: ipv4, 6: ipv6}[family] for family in self.families]

    def record(self, node: Node) -> dict[str, Any]:
        own = (
            {"subnets": self.subnets(node.number)}
            if self.wide()["mode"] == "l3"
            else {"block": self.block(node.number)}
        )
        return {"node": node.name, "vtep": node.vteps[self.version], **own}


def records(net: Net, _node: Node, nodes: list[Node]) -> dict[str, Any]:
    return {
        **net.wide(),
        "backend": {"type": "static", "peers": [net.record(other) for other in nodes]},
    }


def file_of(net: Net, _node: Node, _nodes: list[Node]) -> dict[str, Any]:
    return {**net.wide(), "backend": {"type": "static", "peersFile": peers_file(net)}}


def bare(net: Net, node: Node, nodes: list[Node]) -> dict[str, Any]:
    peers = [other.vteps[net.version] for other in nodes]
    return {**net.wide(), "backend": {"type": "static", "peers": peers, **own_part(net, node)}}


def multicast(net: Net, node: Node, _nodes: list[Node]) -> dict[str, Any]:
    backend = {"type": "multicast", "group": GROUPS[net.version], "ttl": 4, **own_part(net, node)}
    return {**net.wide(), "backend": backend, "underlay": {"interface": UPLINK}}


def own_part(net: Net, node: Node) -> dict[str, Any]:
    if net.wide()["mode"] == "l3":
        return {"subnet": net.subnets(node.number)}
    return {"block": net.block(node.number)}


def with_bum(kind: str, make: Callable[[Net, Node, list[Node]], dict[str, Any]]) -> Shape:
    return lambda net, node, nodes: {**make(net, node, nodes), "bum": kind}


Shape = Callable[[Net, Node, list[Node]], dict[str, Any]]
SHAPES: dict[str, Shape] = {
    "l3": records,
    "l3-file": file_of,
    "l3-bare": bare,
    "l3-multicast": multicast,
    "l2": records,
    "l2-file": file_of,
    "l2-head-end": with_bum("head-end", records),
    "l2-bare": with_bum("head-end", bare),
    "l2-multicast": with_bum("multicast", multicast),
}


def peers_file(net: Net) -> str:
    return f"/etc/cni/{net.name}.peers.json"


def publish(net: Net, nodes: Iterable[Node], peers: Iterable[Mapping[str, Any]] | None = None) -> None:
    """Write the peers file of every host: the records of all, or these."""
    there = list(nodes)
    text = json.dumps(list(peers) if peers is not None else [net.record(node) for node in there])
    for node in there:
        node.host.write(peers_file(net), text)


# ----------------------------------------------------------------------------------------------- containers


@dataclass(frozen=True)
class Container:
    """A network namespace of a host, which is the name of the container too."""

    node: Node
    name: str
    conf: Mapping[str, Any]
    result: Mapping[str, Any] = field(default_factory=dict)

    @property
    def addresses(self) -> list[str]:
        return [ip["address"].split("/")[0] for ip in self.result["ips"]]

    @property
    def netns(self) -> str:
        return self.node.file(self.name)

    def call(self, command: str, **conf: Any) -> Answer:
        return run(self.node.host, self.asks(command, **conf))

    def asks(self, command: str, **conf: Any) -> Call:
        return Call(command, {**self.conf, **conf}, self.name, f"/run/netns/{self.name}")

    def check(self) -> Answer:
        return self.call("CHECK", prevResult=self.result)

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.node.host.run("ip", "netns", "exec", self.name, *command, check=check)

    def unreached(self, addresses: Iterable[str], seconds: int = 3) -> list[str]:
        """Those that answer no ping, all tried at once."""
        script = PING_ALL.format(seconds=seconds)
        return sorted(self.run("sh", "-c", script, "sh", *addresses).stdout.split())


def unreached(node: Node, addresses: Iterable[str], seconds: int = 3) -> list[str]:
    """The same for the host itself."""
    return sorted(
        node.host.run("sh", "-c", PING_ALL.format(seconds=seconds), "sh", *addresses).stdout.split()
    )


def attach(node: Node, name: str, conf: Mapping[str, Any]) -> Container:
    """Make the namespace, and ADD it."""
    node.host.netns(name)
    blank = Container(node, name, conf)
    try:
        return Container(node, name, conf, blank.call("ADD").ok().document)
    except BaseException:
        blank.call("DEL")
        node.host.remove_netns(name)
        raise


def detach(container: Container) -> None:
    container.call("DEL").ok()
    container.node.host.remove_netns(container.name)


@contextmanager
def attached(bed: Bed, net: Net, places: Iterable[tuple[int, str]]) -> Iterator[list[Container]]:
    """A container for each (number of the host, name), all made at once and gone afterwards."""
    places = list(places)
    made: list[Container] = []

    def add_all(number: int) -> None:
        node = bed.node(number)
        for at, name in places:
            if at == number:
                made.append(attach(node, name, net.conf(node, bed.nodes)))

    try:
        at_once(add_all, {number for number, _ in places})
        yield sorted(made, key=lambda one: places.index((one.node.number, one.name)))
    finally:
        at_once(detach, made)


def collect(node: Node, conf: Mapping[str, Any], living: Iterable[Container] = ()) -> None:
    valid = [{"containerID": one.name, "ifname": "eth0"} for one in living]
    run(node.host, Call("GC", {**conf, "cni.dev/valid-attachments": valid})).ok()


# ----------------------------------------------------------------------------------------------- the kernel


def tables(node: Node) -> State:
    """What `observe` sees, and what the kernel was told of neighbours, MAC addresses, ports, VXLAN links."""
    asked = node.host.run("sh", "-euc", "; echo @; ".join(TABLES)).stdout.split("@\n")
    answers = [[thing for thing in json.loads(answer.strip() or "[]") if thing] for answer in asked]
    neighbours, noarp, proxied6, proxied4, fdb, ports, links, routes4, routes6 = answers
    return observe(node.host) | {
        "neighbours": sorted(
            f"{n['dst']} {n.get('lladdr')} {n['dev']} {n.get('state')}"
            for n in neighbours + noarp
            if not ip_address(n["dst"]).is_multicast and n["dev"] != "lo"
        ),
        "proxied": sorted(f"{n['dst']} {n['dev']}" for n in proxied4 + proxied6),
        "fdb": sorted(map(_words, filter(_for_good, fdb))),
        "ports": sorted(map(_port, ports)),
        "overlay links": sorted(
            _words(_of_overlay(link)) for link in links if link["ifname"].startswith("vx")
        ),
        "metrics": sorted(
            _words({key: value for key, value in route.items() if key not in ("flags", "pref", "expires")})
            for route in routes4 + routes6
            if route.get("protocol") not in ("kernel", "ra") and route.get("table") != "local"
        ),
    }


def left(nodes: Iterable[Node], before: Iterable[State]) -> list[str]:
    """What of the hosts is not as it was, once they have settled."""
    return [
        f"{node.name}: {line}"
        for node, state in zip(nodes, before, strict=True)
        for line in differences(state, settled(partial(tables, node), state))
    ]


def _for_good(entry: Mapping[str, Any]) -> bool:
    return entry.get("state") in ("permanent", "static") and not entry["mac"].startswith(
        ("33:33", "01:00:5e")
    )


def _words(things: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={things[key]}" for key in sorted(things) if key != "ifindex")


def _port(port: Mapping[str, Any]) -> str:
    wanted = ("ifname", "master", "learning", "neigh_suppress", "flood", "hairpin", "isolated", "mtu")
    return _words({key: port[key] for key in wanted if key in port})


def _of_overlay(link: Mapping[str, Any]) -> dict[str, Any]:
    data = link.get("linkinfo", {}).get("info_data", {})
    vxlan = {key: value for key, value in data.items() if key in VXLAN_SETTINGS}
    return {
        **{key: link.get(key) for key in ("ifname", "address", "mtu", "master", "inet6_addr_gen_mode")},
        # Without the digest of what its tables have, which is another for every link.
        "ifalias": re.sub(r" has: [0-9a-f]+", "", link.get("ifalias", "")),
        "up": "UP" in link["flags"],
        **vxlan,
    }


def overlay_addresses(node: Node) -> list[str]:
    """What the host itself answers to on the links of its overlays."""
    listed = json.loads(node.host.run("ip", "-j", "addr").stdout)
    return sorted(
        address["local"]
        for link in listed
        if link and link["ifname"].startswith("vx")
        for address in link["addr_info"]
        if address["scope"] != "link"
    )


def overlay_link(node: Node, kind: str) -> str:
    """The name of the node's one VXLAN link or its bridge."""
    listed = json.loads(node.host.run("ip", "-j", "-d", "link").stdout)
    [name] = [
        link["ifname"]
        for link in listed
        if link["ifname"].startswith("vx") and link["linkinfo"]["info_kind"] == kind
    ]
    return str(name)
