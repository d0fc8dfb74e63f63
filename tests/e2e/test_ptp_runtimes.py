"""ptp under containerd, podman and cnitool: a plain link, and a routed one, masqueraded and not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.lab import network
from tests.e2e.lab.host import Host
from tests.e2e.lab.lives import CAPABILITIES, Case, under_cnitool, under_containerd, under_podman

pytestmark = pytest.mark.needs("ip", "nft", "ping", "busybox")

SUBNETS = ("10.91.0.0/24", "fd00:91::/64")
FIXED = "10.91.0.50"


def ptp(ipam: dict[str, Any], **main: Any) -> dict[str, Any]:
    return network.single("cnimptp", "ptp", ipam=ipam, **main, **CAPABILITIES)


WITH_ROUTES = network.host_local(*SUBNETS, routes=network.default_routes(*SUBNETS))
CASES = {
    "masquerade": Case(
        ptp(WITH_ROUTES, ipMasq=True, mtu="auto"),
        FIXED,
        ("10.91.0.1", "fd00:91::1", "192.0.2.1", "2001:db8::1"),
        is_masqueraded=True,
    ),
    "routed": Case(
        ptp(network.host_local(*SUBNETS), routed=True, ipMasq={"exclude": ["10.91.0.0/16", "fd00:91::/48"]}),
        FIXED,
        ("169.254.1.1", "192.0.2.1", "2001:db8::1"),
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
