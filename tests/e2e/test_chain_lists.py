"""Whole lists of plugins, called as nomad, CRI-O and bursts of pods do, beside kube-proxy and reference."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.lab import network
from tests.e2e.lab.agent import running
from tests.e2e.lab.chain import (
    BANDWIDTH,
    NOMAD,
    PORTMAP,
    Attachment,
    Chain,
    Json,
    look,
    netns_of_host,
    published,
)
from tests.e2e.lab.host import Host
from tests.e2e.lab.lives import Cnitool
from tests.e2e.lab.plugin import Call, run
from tests.e2e.lab.ports import NOBODY, Servers, ask, serving
from tests.e2e.lab.state import State, differences, leases, settled

pytestmark = pytest.mark.needs("ip", "nft", "iptables", "tc", "cnitool", "setpriv", "nsenter")

HOST, OUTSIDE, HOST6, OUTSIDE6 = "192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"
RATES = {"ingressRate": 10**8, "ingressBurst": 4294967295, "egressRate": 10**7, "egressBurst": 34359738359}
MAC = "02:00:00:00:99:77"
WARMTH = pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])


def bridge(name: str, *subnets: str, **more: Any) -> Json:
    return {
        "type": "bridge",
        "bridge": name,
        "isGateway": True,
        "ipMasq": True,
        "hairpinMode": True,
        "ipam": network.host_local(*subnets, routes=network.default_routes(*subnets)),
        **more,
    }


@pytest.fixture
def host(node: Host) -> Host:
    """A host with an outside."""
    node.outside()
    return node


@pytest.fixture
def servers() -> Iterator[Servers]:
    with serving() as servers:
        yield servers


def outside(host: Host) -> Path:
    return host.path("/run/netns/outside")


def idle_after(chain: Chain, asked: Json) -> State:
    """The state to come back to: after a first attachment, as bridges and base chains stay."""
    [netns] = chain.host.netns("first")
    first = Attachment("first", netns, asked=asked)
    result = chain.add(first)
    chain.delete(first, result)
    chain.host.remove_netns("first")
    return look(chain.host)


def assert_as(host: Host, before: State) -> None:
    changes = differences(before, settled(lambda: look(host), before))
    assert not changes, "\n".join(changes)


# ---------------------------------------------------------------------------------------------------- nomad


NOMAD_ASKED: Json = {
    "portMappings": [
        {"hostPort": port, "containerPort": to, "protocol": protocol, "hostIP": address}
        for port, to, address in ((25001, 80, ""), (25002, 81, HOST))
        for protocol in ("tcp", "udp")
    ]
}
"""nomad asks for both protocols of every port."""
NOMADS_RULE = "NOMAD-ADMIN -d 172.26.64.0/20 -o nomad -j ACCEPT"
NOMAD_STARTS = f"""
for tables in iptables ip6tables; do $tables -N NOMAD-ADMIN; $tables -P FORWARD DROP; done
iptables -A {NOMADS_RULE}
ip6tables -A NOMAD-ADMIN -o nomad -d fd00:a110:c8::/112 -j ACCEPT
"""


def test_the_network_of_nomad(host: Host, servers: Servers) -> None:
    """
    nomad makes the chain NOMAD-ADMIN itself, with a rule.

    That is for hosts whose chain FORWARD drops, as docker's does: there the rule is what lets callers in.
    """
    Chain(host, NOMAD).install()
    cnitool, wanted = Cnitool(host, "nomad"), json.dumps(NOMAD_ASKED)
    host.run("sh", "-euc", NOMAD_STARTS)
    web, other = host.netns("web", "other")
    cnitool.add(web, **NOMAD_ASKED)
    cnitool("del", web, CAP_ARGS=wanted)
    before = look(host)
    cnitool.add(web, **NOMAD_ASKED)
    theirs = address_of(cnitool.add(other))
    servers.add(host.path(web), "web", "80/tcp", "80/udp", "81/tcp", "81/udp")
    servers.add(host.path(other), "other", "80/tcp")
    servers.add(outside(host), "outside", "80/tcp")
    assert_nomads_ports_are_reached(host)
    assert ask(host.path(web), theirs, 80).startswith("other ")
    assert ask(host.path(web), OUTSIDE, 80) == f"outside {HOST}"
    cnitool("check", web, CAP_ARGS=wanted)
    host.run("iptables", "-F", "NOMAD-ADMIN")
    assert ask(outside(host), HOST, 25001, patience=0.5) == NOBODY
    host.run("iptables", "-A", *NOMADS_RULE.split())
    servers.remove("web", "other")
    cnitool("del", web, CAP_ARGS=wanted)
    cnitool("del", other)
    assert_as(host, before)
    assert NOMADS_RULE in host.run("iptables", "-S", "NOMAD-ADMIN").stdout


def assert_nomads_ports_are_reached(host: Host) -> None:
    for protocol in ("tcp", "udp"):
        for port, address, source in (
            (25001, HOST, OUTSIDE),
            (25001, HOST6, OUTSIDE6),
            (25002, HOST, OUTSIDE),
        ):
            assert ask(outside(host), address, port, protocol) == f"web {source}"
        for place, address in (
            (netns_of_host(host), "127.0.0.1"),
            (host.path("/run/netns/web"), HOST),
            (host.path("/run/netns/other"), HOST),
        ):
            assert ask(place, address, 25001, protocol).startswith("web ")
    assert ask(outside(host), HOST6, 25002, patience=0.5) == NOBODY


def address_of(result: Json) -> str:
    """The first address of eth0, as nomad takes it: the result has those of `lo` too."""
    [own] = [number for number, item in enumerate(result["interfaces"]) if item["name"] == "eth0"]
    return next(ip["address"].split("/")[0] for ip in result["ips"] if ip["interface"] == own)


# ---------------------------------------------------------------------------------------------------- CRI-O

WHOLE: Json = {
    "cniVersion": "1.1.0",
    "name": "crio",
    "plugins": [
        bridge("criobr0", "10.85.0.0/24", "fd00:85::/64", capabilities={"mac": True}),
        {"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}, "mtu": 1400},
        {"type": "firewall"},
        BANDWIDTH,
        PORTMAP,
        {"type": "sbr"},
    ],
}


def test_calls_in_the_shape_of_cri_o(host: Host) -> None:
    """STATUS before, CHECK after each ADD, GC with those that live, DEL with prevResult."""
    chain = Chain(host, WHOLE)
    chain.install()
    cnitool = Cnitool(host, "crio")
    for kind in {plugin["type"] for plugin in WHOLE["plugins"]}:
        supported = run(host, Call("VERSION", {"cniVersion": "1.1.0"}, plugin=kind)).ok().document
        assert "1.1.0" in supported["supportedVersions"]
    names = ("pod1", "pod2", "lost")
    paths = host.netns(*names)
    asked = {
        name: {"portMappings": [published(f"{port}:80/tcp")], "bandwidth": RATES}
        for port, name in enumerate(names, 7001)
    }
    cnitool("status", paths[0])
    cnitool.add(paths[0], mac=MAC, **asked["pod1"])
    cnitool("del", paths[0], CAP_ARGS=json.dumps(asked["pod1"]))
    before = look(host)
    for name, netns in zip(names[:2], paths[:2], strict=True):
        given = {"mac": MAC, **asked[name]} if name == "pod1" else asked[name]
        result = cnitool.add(netns, **given)
        cnitool("check", netns, CAP_ARGS=json.dumps(given))
        [own] = [item for item in result["interfaces"] if item.get("sandbox")]
        assert own["mtu"] == 1400
        assert (own["mac"] == MAC) == (name == "pod1")
    both = look(host)

    lost = Attachment("lost", paths[2], asked=asked["lost"])
    chain.add(lost)
    host.remove_netns("lost")
    chain.collect([Attachment(cnitool_id(host, netns), netns) for netns in paths[:2]])
    assert_as(host, both)

    for name, netns in zip(names[:2], paths[:2], strict=True):
        cnitool("check", netns, CAP_ARGS=json.dumps(asked[name]))
        cnitool("del", netns, CAP_ARGS=json.dumps(asked[name]))
        cnitool("del", netns, CAP_ARGS=json.dumps(asked[name]))
    assert_as(host, before)
    cnitool("gc", paths[0])
    assert leases(host) == []


def cnitool_id(host: Host, netns: str) -> str:
    """The container id that cnitool computed of the namespace, by its own record of the result."""
    for file in host.path("/var/lib/cni/results").glob("crio-*"):
        record = json.loads(file.read_text())
        if any(item.get("sandbox") == netns for item in record["result"]["interfaces"]):
            return str(record["containerId"])
    raise AssertionError(f"cnitool remembers no container at {netns}")


# ------------------------------------------------------------------------------------------------- many pods

PODS = 40
BURST: Json = {
    "cniVersion": "1.1.0",
    "name": "burst",
    "plugins": [
        bridge("burstbr0", "10.86.0.0/24", "fd00:86::/64"),
        PORTMAP,
        {"type": "firewall"},
        {"type": "tuning"},
    ],
}


@WARMTH
def test_forty_pods_with_three_ports_each_at_once(host: Host, servers: Servers, *, warm: bool) -> None:
    chain = Chain(host, BURST)
    names = [f"pod{number}" for number in range(PODS)]
    pods = [
        Attachment(name, path, asked=ports_of(name))
        for name, path in zip(names, host.netns(*names), strict=True)
    ]
    with running(host, "--workers", "2") if warm else nullcontext():
        before = idle_after(chain, {"portMappings": [published("9:9/tcp")]})
        with ThreadPoolExecutor(PODS) as pool:
            results = list(pool.map(chain.add, pods))
            for pod in pods:
                servers.add(host.path(pod.netns), pod.container, "80/tcp", "81/udp", "82/tcp")
            wrong = [
                answer for answers in pool.map(wrong_answers, [host] * PODS, names) for answer in answers
            ]
            assert wrong == []
            for pod, result in zip(pods[:3], results, strict=False):
                chain.check(pod, result)
            servers.remove(*names)
            list(pool.map(chain.delete, pods, results))
        assert_as(host, before)


def ports_of(name: str) -> Json:
    number = int(name.removeprefix("pod"))
    specs = (f"{20000 + number}:80/tcp", f"{21000 + number}:81/udp", f"{22000 + number}:82/tcp")
    return {"portMappings": [published(spec) for spec in specs]}


def wrong_answers(host: Host, name: str) -> list[str]:
    """The ports of a pod behind which another one answers, or nobody."""
    found = []
    for mapping in ports_of(name)["portMappings"]:
        port, protocol = mapping["hostPort"], mapping["protocol"]
        for place, address in (
            (outside(host), HOST),
            (outside(host), HOST6),
            (netns_of_host(host), "127.0.0.1"),
        ):
            answer = ask(place, address, port, protocol, patience=10)
            if answer.split()[0] != name:
                found.append(f"{address} {port}/{protocol}: {answer}, not {name}")
    return found


# ------------------------------------------------------------------------------------------------ kube-proxy

SERVICE, NODE_PORT, POD = "10.96.0.10", 30080, "10.83.0.50"
KUBE_IPTABLES = f"""
*nat
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-CNIE - [0:0]
:KUBE-EXT-CNIE - [0:0]
:KUBE-SEP-CNIE - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE
-A KUBE-SERVICES -d {SERVICE}/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-CNIE
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-NODEPORTS -p tcp -m tcp --dport {NODE_PORT} -j KUBE-EXT-CNIE
-A KUBE-EXT-CNIE -m comment --comment "masquerade traffic for external destinations" -j KUBE-MARK-MASQ
-A KUBE-EXT-CNIE -j KUBE-SVC-CNIE
-A KUBE-SVC-CNIE -j KUBE-SEP-CNIE
-A KUBE-SEP-CNIE -s {POD}/32 -j KUBE-MARK-MASQ
-A KUBE-SEP-CNIE -p tcp -m tcp -j DNAT --to-destination {POD}:80
COMMIT
*filter
:KUBE-FORWARD - [0:0]
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
"""
KUBE_NFTABLES = f"""
table ip kube-proxy {{
    comment "rules for kube-proxy";
    set nodeport-ips {{ type ipv4_addr; elements = {{ {HOST} }} }}
    map service-ips {{
        type ipv4_addr . inet_proto . inet_service : verdict;
        elements = {{ {SERVICE} . tcp . 80 : goto service-CNIE }}
    }}
    map service-nodeports {{
        type inet_proto . inet_service : verdict;
        elements = {{ tcp . {NODE_PORT} : goto external-CNIE }}
    }}
    chain mark-for-masquerade {{ meta mark set meta mark | 0x4000; }}
    chain masquerading {{
        meta mark & 0x4000 == 0 return
        meta mark set meta mark ^ 0x4000
        masquerade fully-random
    }}
    chain endpoint-CNIE {{
        ip saddr {POD} jump mark-for-masquerade
        meta l4proto tcp dnat to {POD}:80
    }}
    chain service-CNIE {{
        numgen random mod 1 vmap {{ 0 : goto endpoint-CNIE }}
    }}
    chain external-CNIE {{ jump mark-for-masquerade; goto service-CNIE; }}
    chain services {{
        ip daddr . meta l4proto . th dport vmap @service-ips
        ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
    }}
    chain nat-prerouting {{ type nat hook prerouting priority dstnat; policy accept; jump services; }}
    chain nat-output {{ type nat hook output priority -100; policy accept; jump services; }}
    chain nat-postrouting {{ type nat hook postrouting priority srcnat; policy accept; jump masquerading; }}
}}
"""
PROXIES = {"iptables": KUBE_IPTABLES, "nftables": KUBE_NFTABLES}
MAPPERS: dict[str, Json] = {
    "nftables": {},
    "iptables": {"backend": "iptables"},
    "mark-of-kube-proxy": {"snat": True, "externalSetMarkChain": "KUBE-MARK-MASQ"},
}


def tables_of(host: Host, proxy: str) -> list[str]:
    """The rules of kube-proxy, and the jumps to them, in order."""
    if proxy == "nftables":
        return host.run("nft", "list", "table", "ip", "kube-proxy").stdout.splitlines()
    saved = host.run("sh", "-c", "iptables-save -t nat; iptables-save -t filter").stdout.splitlines()
    return [line for line in saved if "KUBE" in line and not line.startswith(("#", "-A CNI"))]


@pytest.mark.parametrize(
    ("proxy", "mapper"),
    [
        (proxy, mapper)
        for proxy in PROXIES
        for mapper in MAPPERS
        if (proxy, mapper) != ("nftables", "mark-of-kube-proxy")
    ],
)
def test_ports_beside_kube_proxy(host: Host, servers: Servers, proxy: str, mapper: str) -> None:
    """Services go on working, and not a rule of kube-proxy is changed, nor its place."""
    tool = ("nft", "-f", "-") if proxy == "nftables" else ("iptables-restore", "--noflush")
    host.run(*tool, input=PROXIES[proxy])
    main = bridge("kubebr0", "10.83.0.0/24", capabilities={"ips": True})
    plugins = [main, {**PORTMAP, **MAPPERS[mapper]}, {"type": "firewall"}]
    chain = Chain(host, {"cniVersion": "1.0.0", "name": "kubenet", "plugins": plugins})
    theirs = tables_of(host, proxy)
    assert len(theirs) > 10
    web, other = host.netns("web", "other")
    before = idle_after(chain, {"portMappings": [published("9:9/tcp")]})
    ports = [published("8080:80/tcp"), published("8053:53/udp")]
    pod = Attachment("web", web, asked={"portMappings": ports, "ips": [POD]})
    result, beside = chain.add(pod), chain.add(Attachment("other", other))
    servers.add(host.path(web), "web", "80/tcp", "53/udp")
    places = (outside(host), netns_of_host(host), host.path(other), host.path(web))
    for place in places:
        assert ask(place, HOST, 8080).startswith("web ")
        assert ask(place, HOST, 8053, "udp").startswith("web ")
        assert ask(place, HOST, NODE_PORT).startswith("web ")
    for place in places[1:]:
        assert ask(place, SERVICE, 80).startswith("web ")
    assert ask(outside(host), HOST, 8080) == f"web {OUTSIDE}"
    assert ask(netns_of_host(host), "127.0.0.1", 8080).startswith("web ")
    chain.check(pod, result)
    assert tables_of(host, proxy) == theirs
    servers.remove("web")
    chain.delete(pod, result)
    chain.delete(Attachment("other", other), beside)
    assert_as(host, before)
    assert tables_of(host, proxy) == theirs


# -------------------------------------------------------------------------------------- beside the reference

REFERENCE = "/usr/lib/cni"


def swapped(version: str) -> Json:
    """What both know, with the backends that the reference has."""
    return {
        "cniVersion": version,
        "name": "swapped",
        "plugins": [
            bridge("swapbr0", "10.84.0.0/24", "fd00:84::/64", ipMasqBackend="iptables"),
            {**PORTMAP, "backend": "iptables"},
            {"type": "firewall", "backend": "iptables"},
            {"type": "tuning", "mac": MAC, "mtu": 1400, "capabilities": {"mac": True}},
            BANDWIDTH,
        ],
    }


SWAPPED_ASKED: Json = {
    "portMappings": [published("8080:80/tcp"), published("8053:53/udp")],
    "bandwidth": {**RATES, "egressBurst": 4294967295},
}


def traces(host: Host) -> list[str]:
    """All that is of one container; chains of the reference that are for all of them stay, by its design."""
    state = look(host)
    return [
        *state["leases"],
        *(line for line in state["links"] if line.startswith(("veth", "bwp", "ifb"))),
        *state["qdiscs"],
        *state["files"],
        *(
            line
            for line in state["nft"]
            if any(word in line for word in ("10.84.0.", "fd00:84::", "CNI-DN-"))
        ),
    ]


@pytest.mark.needs("/usr/lib/cni/portmap")
@pytest.mark.parametrize("way", ["with-everything", "without-netns", "without-prevResult"])
def test_ours_deletes_the_chain_that_the_reference_made(host: Host, servers: Servers, way: str) -> None:
    conf = swapped("1.0.0")
    theirs, ours = Chain(host, conf, REFERENCE), Chain(host, conf)
    web, other = host.netns("web", "other")
    pod = Attachment("web", web, asked=SWAPPED_ASKED)
    result = theirs.add(pod)
    servers.add(host.path(web), "web", "80/tcp", "53/udp")
    beside = Attachment("other", other, asked={"portMappings": [published("8081:80/tcp")]})
    kept = ours.add(beside)
    servers.add(host.path(other), "other", "80/tcp")
    for port, name in ((8080, "web"), (8081, "other")):
        assert ask(outside(host), HOST, port) == f"{name} {OUTSIDE}"
    ours.check(pod, result)
    servers.remove("web")
    if way == "without-netns":
        host.remove_netns("web")
    gone = Attachment("web", "" if way == "without-netns" else web, asked=SWAPPED_ASKED)
    ours.delete(gone, None if way == "without-prevResult" else result)
    assert ask(outside(host), HOST, 8080, patience=0.5) == NOBODY
    assert ask(outside(host), HOST, 8081) == f"other {OUTSIDE}"
    servers.remove("other")
    ours.delete(beside, kept)
    left = settled(lambda: traces(host), [])
    # Rules of the reference's firewall have no owner: without prevResult they are nobody's.
    assert [line for line in left if way != "without-prevResult" or "CNI-FORWARD" not in line] == []
    ours.delete(gone, result)
    assert settled(lambda: traces(host), []) == []


@pytest.mark.needs("/usr/lib/cni/portmap")
def test_the_reference_deletes_the_chain_that_ours_made(host: Host, servers: Servers) -> None:
    """With the backends that both have; what only ours knows goes with the next GC of ours."""
    conf = swapped("1.0.0")
    theirs, ours = Chain(host, conf, REFERENCE), Chain(host, conf)
    before = idle_after(ours, SWAPPED_ASKED)
    [web] = host.netns("web")
    pod = Attachment("web", web, asked=SWAPPED_ASKED)
    result = ours.add(pod)
    servers.add(host.path(web), "web", "80/tcp", "53/udp")
    assert ask(outside(host), HOST, 8080) == f"web {OUTSIDE}"
    servers.remove("web")
    theirs.delete(pod, result)
    assert ask(outside(host), HOST, 8080, patience=0.5) == NOBODY
    Chain(host, swapped("1.1.0")).collect([])
    assert settled(lambda: traces(host), []) == []
    assert_as(host, before)
