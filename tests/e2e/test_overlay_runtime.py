"""Overlays under what calls plugins for real: cnitool with a list, and containerd on two hosts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.lab import containerd, image, network
from tests.e2e.lab.lives import Cnitool, cri_client, cri_pod
from tests.e2e.lab.overlay import OUTSIDE, Bed, Container, Net, Node, at_once, left, raise_bed, tables
from tests.e2e.lab.overlay_wire import seen_from
from tests.e2e.lab.state import leases

NETS = {"l3": Net("l3"), "l2": Net("l2"), "l2-multicast": Net("l2-multicast"), "l3-bare": Net("l3-bare")}
RUNTIME_NETS = {"l3": Net("l3"), "l2": Net("l2")}


def conflist(net: Net, node: Node, nodes: list[Node], version: str = "1.1.0") -> dict[str, Any]:
    """The network as a list of one plugin."""
    conf = net.conf(node, nodes)
    main = {key: value for key, value in conf.items() if key not in ("cniVersion", "name")}
    main["capabilities"] = {"ips": True}
    return {"cniVersion": version, "name": net.name, "plugins": [main]}


@pytest.mark.needs("cnitool", "ping", "nft")
@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_every_verb_under_cnitool(dist: Path, net: Net) -> None:
    with raise_bed(dist) as bed:
        for node in bed.nodes:
            network.install(node.host, conflist(net, node, bed.nodes))
            node.host.netns("ovkea", "ovkelost")
        before = at_once(tables, bed.nodes)
        tools = [Cnitool(node.host, net.name) for node in bed.nodes]
        for tool in tools:
            tool("status", "/run/netns/ovkea")
        containers = [
            Container(node, "ovkea", {}, tool.add("/run/netns/ovkea"))
            for node, tool in zip(bed.nodes, tools, strict=True)
        ]
        reach_each_other(bed, net, containers)
        for tool in tools:
            tool("check", "/run/netns/ovkea")
        containers[0].run("ip", "addr", "flush", "dev", "eth0", "scope", "global")
        assert tools[0]("check", "/run/netns/ovkea", check=False).returncode == 1

        tools[0]("del", "/run/netns/ovkea")
        tools[0]("del", "/run/netns/ovkea")
        tools[1].add("/run/netns/ovkelost")
        bed.node(2).host.remove_netns("ovkelost")
        tools[1]("gc", "/run/netns/ovkea")  # which knows of nobody who is to stay
        tools[2]("del", "/run/netns/ovkea")
        assert left(bed.nodes, before) == []
        assert [leases(node.host) for node in bed.nodes] == [[], [], []]


@pytest.fixture(scope="module")
def hosts(dist: Path, busybox: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    """Two with containerd."""
    logs = tmp_path_factory.mktemp("containerd")
    with raise_bed(dist, (0, 0), runtimes=True) as bed, ExitStack() as stack:
        yield _running(bed, busybox, logs, stack)


def _running(bed: Bed, archive: Path, logs: Path, stack: ExitStack) -> Bed:
    for node in bed.nodes:
        stack.enter_context(containerd.running(node.host, archive, logs / node.name))
    return bed


@pytest.mark.needs("containerd", "ctr", "runc", "busybox", "nft", "python:grpc")
@pytest.mark.parametrize("net", RUNTIME_NETS.values(), ids=RUNTIME_NETS)
def test_pods_of_two_hosts_reach_each_other(hosts: Bed, net: Net) -> None:
    for node in hosts.nodes:
        # containerd 1.6 knows nothing newer than 1.0.0.
        network.install(node.host, conflist(net, node, hosts.nodes, "1.0.0"))
    before = at_once(tables, hosts.nodes)
    try:
        with ExitStack() as stack:
            pods = []
            for node in hosts.nodes:
                cri = stack.enter_context(cri_client(node.host))
                pods.append(stack.enter_context(cri_pod(cri, f"ovke{node.number}")))
            (a, in_a), (b, in_b) = pods
            for execute, addresses in ((in_a, b), (in_b, a)):
                for address in addresses:
                    execute("ping", "-c1", "-W3", address)
                assert execute("wget", "-qO-", f"http://{addresses[0]}/") == image.PAGE
                execute("ping", "-c1", "-W3", OUTSIDE[4])
        assert left(hosts.nodes, before) == []
    finally:
        for node in hosts.nodes:
            node.host.run("sh", "-c", "rm -f /etc/cni/net.d/*")


def reach_each_other(bed: Bed, net: Net, containers: list[Container]) -> None:
    for one in containers:
        for other in containers:
            if other is not one:
                assert one.unreached(other.addresses) == []
        own = one.node.vteps[net.version]
        assert seen_from(one.netns, bed.routers()[0], OUTSIDE[net.version]) == own
