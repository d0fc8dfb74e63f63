"""A wire: the host's eth0 leads to another machine, and containers go onto it by macvlan links."""

from typing import Any

import pytest

from tests.integration.conftest import Bed

HOST_ADDRESSES = ("10.1.0.1/24", "fd00:1::1/64")
FAR_ADDRESSES = ("10.1.0.9/24", "fd00:1::9/64")


class Wire:
    """The bed of a host, and a machine `far` at the other end of its eth0."""

    def __init__(self, bed: Bed) -> None:
        self.bed = bed
        self.host = bed.host
        self.far = bed.sandbox()
        for where in (self.host, self.far):
            where.skip_dad()
        pair = ("eth0", "type", "veth", "peer", "name", "far0", "netns", self.far.path)
        self.host.run("ip", "link", "add", *pair)
        for where, link, addresses in (
            (self.host, "eth0", HOST_ADDRESSES),
            (self.far, "far0", FAR_ADDRESSES),
        ):
            where.run("ip", "link", "set", link, "up")
            for address in addresses:
                nodad = ("nodad",) if ":" in address else ()
                where.run("ip", "address", "add", address, "dev", link, *nodad)

    def conf(self, **keys: Any) -> dict[str, Any]:
        return {"cniVersion": "1.1.0", "name": "net1", "type": "macvlan", "master": "eth0", **keys}

    def static(self, *addresses: str, **more: Any) -> dict[str, Any]:
        return {"type": "static", "addresses": [{"address": address} for address in addresses], **more}

    def host_links(self) -> list[str]:
        return [link["ifname"] for link in self.host.ip("link")]


@pytest.fixture
def wire(bed: Bed) -> Wire:
    return Wire(bed)
