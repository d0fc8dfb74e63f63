"""macvlan under containerd, podman and cnitool: on the wire, with the host beside, or through the host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.lab import network
from tests.e2e.lab.host import Host
from tests.e2e.lab.lives import CAPABILITIES, Case, under_cnitool, under_containerd, under_podman
from tests.e2e.lab.plugin import Call, run

pytestmark = pytest.mark.needs("ip", "nft", "ping", "busybox")

ON_THE_WIRE = network.host_local(
    {
        "subnet": "192.0.2.0/24",
        "rangeStart": "192.0.2.100",
        "rangeEnd": "192.0.2.120",
        "gateway": "192.0.2.2",
    },
    {
        "subnet": "2001:db8::/64",
        "rangeStart": "2001:db8::100",
        "rangeEnd": "2001:db8::120",
        "gateway": "2001:db8::2",
    },
)
HOST_ON_THE_WIRE = ("192.0.2.1", "2001:db8::1")
BEHIND = ("10.88.0.0/24", "fd00:88::/64")
BEHIND_THE_HOST = network.host_local(*BEHIND, routes=network.default_routes(*BEHIND))


def macvlan(ipam: dict[str, Any], **main: Any) -> dict[str, Any]:
    return network.single("cnimnet", "macvlan", master="uplink", ipam=ipam, **main, **CAPABILITIES)


CASES = {
    "bridge": Case(macvlan(ON_THE_WIRE, mode="bridge"), "192.0.2.115"),
    "host-access": Case(macvlan(ON_THE_WIRE, hostAccess=True), "192.0.2.115", HOST_ON_THE_WIRE),
    "gateway": Case(
        macvlan(BEHIND_THE_HOST, hostAccess=True, isGateway=True, ipMasq=True),
        "10.88.0.50",
        ("10.88.0.1", "fd00:88::1"),
        is_masqueraded=True,
    ),
}
EACH_CASE = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
WARMTH = pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])


@pytest.mark.needs("containerd", "ctr", "runc", "python:grpc")
@WARMTH
@EACH_CASE
def test_pods_of_containerd(dist: Path, busybox: Path, tmp_path: Path, case: Case, *, warm: bool) -> None:
    under_containerd(dist, busybox, tmp_path / "log", case, warm=warm)


@pytest.mark.needs("podman", "conmon", "runc")
@WARMTH
@EACH_CASE
def test_containers_of_podman(dist: Path, busybox: Path, tmp_path: Path, case: Case, *, warm: bool) -> None:
    under_podman(dist, busybox, tmp_path / "log", case, warm=warm)


@pytest.mark.needs("cnitool", "setpriv", "nsenter")
@WARMTH
@EACH_CASE
def test_every_verb_of_cnitool(node: Host, case: Case, *, warm: bool) -> None:
    under_cnitool(node, case, warm=warm)


def test_the_host_that_is_the_gateway_by_default_is_reached(node: Host) -> None:
    """host-local takes the first address of a subnet for the gateway's, which the host often has."""
    node.outside()
    [netns] = node.netns("cnim1")
    ipam = network.host_local(
        {"subnet": "192.0.2.0/24", "rangeStart": "192.0.2.100"},
        {"subnet": "2001:db8::/64", "rangeStart": "2001:db8::100"},
    )
    conf = {"cniVersion": "1.1.0", "name": "cnimnet", "type": "macvlan", "master": "uplink"}
    run(node, Call("ADD", conf | {"hostAccess": True, "ipam": ipam}, netns=netns)).ok()
    for address in HOST_ON_THE_WIRE:
        node.run("ip", "netns", "exec", "cnim1", "ping", "-c1", "-W2", address)
