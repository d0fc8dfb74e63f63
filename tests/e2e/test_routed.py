"""Containers of three hosts, attached by ptp with `"routed": true` and reached by BGP: see docs/routed.md."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.lab.agent import wait_for
from tests.e2e.lab.bgp import EXAMPLE, SECONDS, Node, raise_nodes
from tests.e2e.lab.plugin import Answer, Call, run
from tests.e2e.lab.state import assert_unchanged, leases, observe
from tests.e2e.lab.tools import REPOSITORY

pytestmark = pytest.mark.needs("vtysh", "setpriv", "ping", "nft")

FULL_FRAME = {4: 1500 - 20 - 8, 6: 1500 - 40 - 8}
Record = Callable[[str, object], None]


@dataclass(frozen=True)
class Container:
    """A container of a node, to be attached and detached."""

    node: Node
    name: str
    addresses: tuple[str, ...] = ()

    def call(self, command: str) -> Answer:
        netns = f"/run/netns/{self.name}"
        return run(self.node.host, Call(command, conf(self.node), self.name, netns)).ok()

    def add(self) -> Container:
        return Container(self.node, self.name, tuple(self.call("ADD").addresses))

    def is_known_to(self, node: Node) -> bool:
        return node.learned() >= set(self.addresses)

    def is_forgotten_by(self, node: Node) -> bool:
        return not node.learned() & set(self.addresses)

    def ping(self, address: str) -> None:
        self.node.host.run("ip", "netns", "exec", self.name, *ping_argv(address))


@pytest.fixture(scope="module")
def nodes(dist: Path) -> Iterator[list[Node]]:
    with raise_nodes(dist) as up:
        yield up


@pytest.fixture
def containers(nodes: list[Node]) -> Iterator[list[Container]]:
    """One on each node, known to the others; afterwards every node is as it was."""
    before = [observe(node.host) for node in nodes]
    for node in nodes:
        node.host.netns("cnir")
    try:
        attached = [Container(node, "cnir").add() for node in nodes]
        wait_for_peers(nodes, attached)
        yield attached
    finally:
        for node in nodes:
            Container(node, "cnir").call("DEL")
            node.host.run("ip", "netns", "del", "cnir", check=False)
    for node, state in zip(nodes, before, strict=True):
        assert_unchanged(node.host, state)


def test_containers_of_all_hosts_reach_each_other(containers: list[Container]) -> None:
    for one, other in permutations(containers, 2):
        for address in other.addresses:
            one.ping(address)


def test_a_host_reaches_the_containers_of_the_others(containers: list[Container]) -> None:
    for one, other in permutations(containers, 2):
        for address in other.addresses:
            one.node.host.run(*ping_argv(address))


def test_every_container_has_its_own_route_by_way_of_its_host(
    nodes: list[Node], containers: list[Container]
) -> None:
    for node in nodes:
        remote = [container for container in containers if container.node is not node]
        assert node.learned() == {address for container in remote for address in container.addresses}
        for container in remote:
            [ipv4, ipv6] = container.addresses
            assert f"via {container.node.address} dev uplink" in route_to(node, ipv4)
            assert "dev uplink proto bgp" in route_to(node, ipv6)


def test_del_takes_the_routes_from_the_peers_and_add_brings_them_back(
    containers: list[Container], record_property: Record
) -> None:
    [first, second, third] = containers
    peers = [second.node, third.node]

    first.call("DEL")
    gone = seconds_until("the routes to go", lambda: all(map(first.is_forgotten_by, peers)))
    second.ping(third.addresses[0])
    second.ping(third.addresses[1])

    again = first.add()
    back = seconds_until("the routes to come back", lambda: all(map(again.is_known_to, peers)))
    for address in again.addresses:
        third.ping(address)

    report(record_property, "DEL to routes gone from the peers", gone)
    report(record_property, "ADD to routes on the peers", back)


def test_the_routes_of_a_killed_container_go_with_its_link_and_gc_frees_its_addresses(
    containers: list[Container], record_property: Record
) -> None:
    [first, second, third] = containers
    host = first.node.host
    host.remove_netns(first.name)
    gone = seconds_until(
        "the routes to go", lambda: all(map(first.is_forgotten_by, [second.node, third.node]))
    )
    report(record_property, "end of the namespace to routes gone from the peers", gone)

    assert len(leases(host)) == len(first.addresses)
    run(host, Call("GC", {**conf(first.node), "cni.dev/valid-attachments": []})).ok()
    assert leases(host) == []
    for address in third.addresses:
        second.ping(address)


def test_a_restarted_daemon_announces_the_containers_that_were_there(
    nodes: list[Node], containers: list[Container]
) -> None:
    [first, second, third] = containers
    first.node.stop()
    wait_for("the routes to go", lambda: first.is_forgotten_by(second.node), SECONDS)
    first.node.start()
    wait_for_peers(nodes, containers)
    for address in first.addresses:
        third.ping(address)


def test_the_page_shows_the_example_that_is_tried_here() -> None:
    lines = [line for line in EXAMPLE.read_text().splitlines() if not line.lstrip().startswith("! ")]
    assert "\n".join(lines).strip("!\n") in (REPOSITORY / "docs/routed.md").read_text()


def conf(node: Node) -> dict[str, Any]:
    ranges = (f"10.88.{node.number}.0/24", f"fd88:{node.number}::/64")
    ipam = {"type": "host-local", "ranges": [[{"subnet": subnet}] for subnet in ranges]}
    return {
        "cniVersion": "1.1.0",
        "name": "cnirouted",
        "type": "ptp",
        "routed": True,
        "mtu": 1500,
        "ipam": ipam,
    }


def wait_for_peers(nodes: list[Node], containers: list[Container]) -> None:
    pairs = [(container, node) for container in containers for node in nodes if node is not container.node]
    wait_for(
        "every route on every peer",
        lambda: all(container.is_known_to(node) for container, node in pairs),
        SECONDS,
    )


def ping_argv(address: str) -> list[str]:
    """One frame of the full size, not to be split."""
    size = FULL_FRAME[6 if ":" in address else 4]
    return ["ping", "-c1", "-W3", "-M", "do", "-s", str(size), address]


def route_to(node: Node, address: str) -> str:
    family, length = ("-6", 128) if ":" in address else ("-4", 32)
    return node.host.run("ip", family, "route", "show", f"{address}/{length}").stdout


def seconds_until(what: str, condition: Callable[[], bool]) -> float:
    """Looks about every 20 ms."""
    start = time.monotonic()
    wait_for(what, condition, SECONDS)
    return time.monotonic() - start


def report(record_property: Record, what: str, seconds: float) -> None:
    record_property(what, round(seconds, 3))
    print(f"{what}: {seconds * 1000:.0f} ms")
