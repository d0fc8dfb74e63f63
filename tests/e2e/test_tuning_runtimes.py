"""tuning under podman, in a network as podman writes it, and under cnitool."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.lab import image, network
from tests.e2e.lab.host import Host, raise_host
from tests.e2e.lab.plugin import BIN
from tests.e2e.lab.podman import Podman, install
from tests.e2e.lab.state import assert_unchanged, observe
from tests.e2e.lab.tools import program

MAC = "02:00:00:00:89:77"
BACKUPS = "/run/cni/tuning"
SYSCTLS = {"net.core.somaxconn": "777", "net.ipv4.conf.IFNAME.arp_filter": "1"}


def conflist(name: str, **tuning: Any) -> dict[str, Any]:
    whole = network.conflist(name, "cniebr0", "10.89.0.0/24", "fd00:89::/64", capabilities={"ips": True})
    whole["plugins"].append({"type": "tuning", "capabilities": {"mac": True}, **tuning})
    return whole


def backups(host: Host) -> list[str]:
    return host.run("sh", "-c", f"ls -A {BACKUPS} 2>/dev/null; true").stdout.split()


@pytest.fixture(scope="module")
def podman(dist: Path, busybox: Path) -> Iterator[Podman]:
    with raise_host(dist, runtimes=True) as host:
        network.install(host, conflist(network.NAME), conflist("cnietuned", sysctl=SYSCTLS, mtu=1400))
        yield install(host, busybox, network.NAME)


@pytest.mark.needs("podman", "conmon", "runc", "busybox", "nft")
@pytest.mark.parametrize("name", [network.NAME, "cnietuned"])
def test_a_container_of_podman_with_a_mac_address(podman: Podman, name: str) -> None:
    podman("run", "--rm", "--network", name, image.NAME, "true")
    idle = observe(podman.host)
    shown = "cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu /proc/sys/net/core/somaxconn"
    asked = ("--network", name, "--mac-address", MAC)
    mac, mtu, somaxconn = podman("run", "--rm", *asked, image.NAME, "sh", "-c", shown).stdout.split()
    assert mac == MAC
    assert ((mtu, somaxconn) == ("1400", "777")) == (name == "cnietuned")
    assert backups(podman.host) == []
    assert_unchanged(podman.host, idle)


@pytest.mark.needs("cnitool", "ip", "nft")
def test_the_life_of_a_tuned_container(node: Host) -> None:
    tool = program("cnitool")
    assert tool is not None
    conf = conflist("cnietuned", sysctl=SYSCTLS, mac=MAC, promisc=True, mtu=1400, allmulti=True, txQLen=7)
    node.write("/etc/cni/net.d/10-cnie.conflist", json.dumps(conf | {"cniVersion": "1.1.0"}))
    [netns] = node.netns("cnie1")

    def cnitool(verb: str, *, check: bool = True) -> Any:
        return node.run(tool, verb, "cnietuned", netns, check=check, env={"CNI_PATH": BIN})

    def somaxconn() -> str:
        return node.run("ip", "netns", "exec", "cnie1", "cat", "/proc/sys/net/core/somaxconn").stdout.strip()

    before = somaxconn()
    for _ in range(2):
        cnitool("status")
        result = json.loads(cnitool("add").stdout)
        [own] = [item for item in result["interfaces"] if item["name"] == "eth0"]
        assert (own["mac"], own["mtu"]) == (MAC, 1400)
        assert len(backups(node)) == 1
        cnitool("check")
        node.run("ip", "-n", "cnie1", "link", "set", "eth0", "mtu", "1300")
        assert "mtu 1300, not 1400" in str(cnitool("check", check=False))
        cnitool("del")
        assert (somaxconn(), backups(node)) == (before, [])
        cnitool("del")
