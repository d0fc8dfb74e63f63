"""podman, with CNI as its network backend, runs containers on two of our networks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.lab import image, network
from tests.e2e.lab.host import raise_host
from tests.e2e.lab.podman import Podman, install
from tests.e2e.lab.state import State, assert_unchanged, observe

pytestmark = pytest.mark.needs("podman", "conmon", "runc", "busybox", "nft")

CAPABILITIES = {"capabilities": {"ips": True, "mac": True}}
FIRST = network.conflist(network.NAME, "cniebr0", "10.89.0.0/24", "fd00:89::/64", **CAPABILITIES)
SECOND = network.conflist("cniesecond", "cniebr1", "10.90.0.0/24", **CAPABILITIES)
MAC = "02:00:00:00:89:32"


@pytest.fixture(scope="module")
def podman(dist: Path, busybox: Path) -> Iterator[Podman]:
    with raise_host(dist, runtimes=True) as host:
        network.install(host, FIRST, SECOND)
        network.serve_outside(host)
        yield install(host, busybox, network.NAME)


@pytest.fixture
def idle(podman: Podman) -> State:
    """The state to come back to: after a first container, so with the bridges, which stay by design."""
    for name in (FIRST["name"], SECOND["name"]):
        podman("run", "--rm", "--network", name, image.NAME, "true")
    state = observe(podman.host)
    assert state["leases"] == []
    return state


@pytest.fixture
def pair(podman: Podman, idle: State) -> Iterator[tuple[str, str]]:
    """Two containers: a web server at 10.89.0.50 with a MAC of its own, and one beside it."""
    asked = ("--ip", "10.89.0.50", "--mac-address", MAC)
    _run(podman, "cniea", *asked, command=("httpd", "-f", "-p", "80", "-h", "/www"))
    _run(podman, "cnieb")
    yield "cniea", "cnieb"
    podman("rm", "-f", "-t0", "cniea", "cnieb")
    assert_unchanged(podman.host, idle)


def test_containers_reach_each_other_and_the_outside(podman: Podman, pair: tuple[str, str]) -> None:
    server, client = pair
    assert "10.89.0.50/24" in podman.execute(server, "ip", "-4", "-o", "addr", "show", "eth0")
    assert MAC in podman.execute(server, "ip", "link", "show", "eth0")
    podman.execute(client, "ping", "-c1", "-W3", "10.89.0.50")
    assert podman.execute(client, "wget", "-qO-", "http://10.89.0.50/") == image.PAGE
    assert podman.execute(client, *network.ASK_WHO).strip() == network.HOST_AS_SEEN_OUTSIDE


def test_networks_are_connected_and_disconnected(podman: Podman, pair: tuple[str, str]) -> None:
    server, client = pair
    connected = observe(podman.host)
    podman("network", "connect", SECOND["name"], client)
    assert " 10.90.0." in podman.execute(client, "ip", "-4", "-o", "addr")
    podman.execute(client, "ping", "-c1", "-W3", "10.89.0.50")
    podman("network", "disconnect", SECOND["name"], client)
    assert " 10.90.0." not in podman.execute(client, "ip", "-4", "-o", "addr")
    podman.execute(client, "ping", "-c1", "-W3", "10.89.0.50")
    assert_unchanged(podman.host, connected)
    podman("network", "disconnect", network.NAME, server)
    assert "eth0" not in podman.execute(server, "ip", "-o", "link")


def test_reload_gives_back_the_same_addresses(podman: Podman, pair: tuple[str, str]) -> None:
    server, client = pair
    before = _addresses(podman, server)
    podman("network", "reload", server)
    assert _addresses(podman, server) == before
    assert MAC in podman.execute(server, "ip", "link", "show", "eth0")
    assert podman.execute(client, "wget", "-qO-", "http://10.89.0.50/") == image.PAGE


def _run(podman: Podman, name: str, *options: str, command: tuple[str, ...] = ()) -> None:
    podman(
        *("run", "-d", "--name", name, "--network", network.NAME, "--cap-add", "NET_RAW"),  # for ping
        *options,
        image.NAME,
        *command,
    )


def _addresses(podman: Podman, name: str) -> tuple[str, str]:
    settings = json.loads(podman("inspect", name).stdout)[0]["NetworkSettings"]["Networks"][network.NAME]
    return settings["IPAddress"], settings["GlobalIPv6Address"]
