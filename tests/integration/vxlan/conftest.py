"""An underlay: the host's eth0 leads to another machine, and eth1 to nowhere in particular."""

import contextlib
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pytest

from cni_plugins.kernel.session.session import Session
from cni_plugins.steps.overlay import AttachVxlan, EnsureOverlayBridge, EnsureVxlan
from tests.integration.conftest import Bed

ADDRESSES = ("10.99.0.1/24", "fd99::1/64")
FAR_ADDRESSES = ("10.99.0.2/24", "fd99::2/64")
VXLAN = EnsureVxlan(
    name="vx1",
    vni=4200001,
    port=4789,
    network="net1",
    link="eth0",
    local=ip_address("10.99.0.1"),
    mac="02:fe:0a:63:00:01",
    mtu=1450,
    df="set",
)
BRIDGE = EnsureOverlayBridge(name="vxbr1", network="net1", mac="02:00:00:00:00:11", mtu=1450)
PORT = AttachVxlan("vx1", "vxbr1", programmed=True)


class Underlay:
    """The bed of a host, and a machine `far` at the other end of its eth0."""

    def __init__(self, bed: Bed) -> None:
        self.bed = bed
        self.host = bed.host
        self.far = bed.sandbox()
        for where in (self.host, self.far):
            where.skip_dad()
        peer = ("peer", "name", "far0", "netns", self.far.path)
        self.host.run("ip", "link", "add", "eth0", "type", "veth", *peer)
        self.host.run("ip", "link", "add", "eth1", "type", "veth", "peer", "name", "wire1")
        for link in ("eth0", "eth1", "wire1"):
            self.host.run("ip", "link", "set", link, "up")
        self.far.run("ip", "link", "set", "far0", "up")
        for where, link, addresses in ((self.host, "eth0", ADDRESSES), (self.far, "far0", FAR_ADDRESSES)):
            for address in addresses:
                nodad = ("nodad",) if ":" in address else ()
                where.run("ip", "address", "add", address, "dev", link, *nodad)

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        """Run a block in the host, with a hold on its kernel as one request has it."""
        with self.bed.inside(), Session(None) as session:
            yield session

    def vxlan(self, name: str) -> dict[str, Any]:
        """Return what is particular to a VXLAN link."""
        link = self.host.link(name)
        assert link is not None
        return link["linkinfo"]["info_data"]

    def index(self, name: str) -> int:
        link = self.host.link(name)
        assert link is not None
        return link["ifindex"]

    def names(self) -> set[str]:
        return {link["ifname"] for link in self.host.ip("link")}


@pytest.fixture
def underlay(bed: Bed) -> Underlay:
    return Underlay(bed)
