"""Addresses from a DHCP server on the wire, through the reference's dhcp plugin and its daemon."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.lab.host import Host
from tests.e2e.lab.plugin import BIN, Call, run
from tests.e2e.lab.state import assert_unchanged, observe, settled

pytestmark = pytest.mark.needs("busybox", "ip", "ping")

REFERENCE = Path("/usr/lib/cni/dhcp")
SOCKET = "/run/cni/dhcp.sock"
SERVER = "10.89.0.1"
UDHCPD = f"""
start 10.89.0.50
end 10.89.0.60
interface wire0
lease_file /run/cnid.leases
pidfile /run/cnid.pid
auto_time 0
option subnet 255.255.255.0
option router {SERVER}
option lease 3600
"""
IPAM = {"type": "dhcp"}
PATH = {"CNI_PATH": f"{BIN}:{REFERENCE.parent}"}
CONFS: dict[str, dict[str, Any]] = {
    "macvlan": {"type": "macvlan", "master": "eth0"},
    "macvlan with host access": {"type": "macvlan", "master": "eth0", "hostAccess": True},
    "bridge": {"type": "bridge", "bridge": "cniedhcp0"},
}


@pytest.fixture
def served(node: Host) -> Iterator[Host]:
    """A host whose eth0 leads to a DHCP server, and on which the daemon runs that asks it for containers."""
    if not REFERENCE.is_file():
        pytest.skip("the reference's dhcp plugin is not installed (containernetworking-plugins)")
    node.netns("cniedhcp")
    node.run(
        "sh",
        "-euc",
        f"""
        mkdir -p /run/cni
        ip link add eth0 type veth peer name wire0 netns cniedhcp
        ip addr add 10.89.0.2/24 dev eth0
        ip link set eth0 up
        ip -n cniedhcp addr add {SERVER}/24 dev wire0
        ip -n cniedhcp link set wire0 up
        """,
    )
    node.write("/etc/udhcpd.conf", UDHCPD)
    node.path("/run/cnid.leases").touch()
    programs = (
        ("ip", "netns", "exec", "cniedhcp", "busybox", "udhcpd", "-f", "/etc/udhcpd.conf"),
        (str(REFERENCE), "daemon", "-socketpath", SOCKET),
    )
    started = [node.start(*words, log=subprocess.DEVNULL) for words in programs]
    try:
        assert settled(lambda: node.path(SOCKET).exists(), True)
        yield node
    finally:
        for process in started:
            process.kill()
            process.wait()


@pytest.mark.parametrize("name", CONFS)
def test_a_container_is_given_its_address_on_its_own_link(served: Host, name: str) -> None:
    conf = {"cniVersion": "1.0.0", "name": "cniedhcp", "ipam": IPAM, **CONFS[name]}
    [netns] = served.netns("cnie1")
    if name == "bridge":  # with the wire as a port, as people have it
        served.run("ip", "link", "add", "cniedhcp0", "type", "bridge")
        served.run("ip", "link", "set", "eth0", "master", "cniedhcp0")
        served.run("ip", "link", "set", "cniedhcp0", "up")
    before = observe(served)
    add = Call("ADD", conf, netns=netns, variables=PATH)
    added = run(served, add).ok()
    [address] = added.addresses
    assert 50 <= int(address.removeprefix("10.89.0.").partition("/")[0]) <= 60
    served.run("ip", "netns", "exec", "cnie1", "ping", "-c1", "-W3", SERVER)
    if "access" in name:
        served.run("ping", "-c1", "-W3", address)
    run(served, add.but(command="CHECK", conf={**conf, "prevResult": added.document})).ok()
    run(served, add.but(command="DEL")).ok()
    assert_unchanged(served, before)


@pytest.mark.parametrize("name", CONFS)
def test_without_the_daemon_nothing_is_left(node: Host, name: str) -> None:
    """The link is made before it is asked for an address, so it has to be taken back."""
    node.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "wire0")
    ipam = {**IPAM, "daemonSocketPath": "/run/cniednone"}
    removed = {"removeIdleBridge": True} if name == "bridge" else {}
    conf = {"cniVersion": "1.0.0", "name": "cniedhcp", "ipam": ipam, **CONFS[name], **removed}
    [netns] = node.netns("cnie1")
    before = observe(node)
    answer = run(node, Call("ADD", conf, netns=netns, variables=PATH))
    assert answer.code == 1
    assert "/run/cniednone" in answer.document["msg"]
    assert_unchanged(node, before)
    links = node.run("ip", "-n", "cnie1", "-br", "link").stdout.splitlines()
    assert [line.split()[0] for line in links] == ["lo"]
