"""What a VXLAN link says of itself, and what it is made of."""

from ipaddress import ip_address
from typing import Any

import pytest
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from cni_plugins.kernel.links.link import Link, VxlanSettings, decoded
from cni_plugins.kernel.netlink import rtnetlink as wire
from cni_plugins.kernel.netlink.socket import Answer


def told(linkinfo: list[Any]) -> Link:
    """Return a link as the kernel would tell it, written by pyroute2."""
    message = ifinfmsg()
    message["attrs"] = [("IFLA_IFNAME", "vx0"), ("IFLA_LINKINFO", {"attrs": linkinfo})]
    message["header"]["type"] = 16
    message.encode()
    return decoded(Answer(16, bytes(message.data)))


def vxlan(**attrs: Any) -> VxlanSettings:
    data = [(f"IFLA_VXLAN_{key}", value) for key, value in attrs.items()]
    found = told([("IFLA_INFO_KIND", "vxlan"), ("IFLA_INFO_DATA", {"attrs": data})]).vxlan
    assert found is not None
    return found


def test_a_link_over_ipv4() -> None:
    found = vxlan(ID=77, GROUP="239.1.1.1", LINK=3, LOCAL="10.0.0.1", TTL=4, LEARNING=1, PORT=4789, DF=2)
    local, group = ip_address("10.0.0.1"), ip_address("239.1.1.1")
    assert found == VxlanSettings(77, 4789, 3, local, 2, learning=True, group=group, ttl=4, external=False)
    assert found.version == 4


def test_a_link_over_ipv6() -> None:
    found = vxlan(ID=77, GROUP6="ff05::7", LOCAL6="fd00::1", LEARNING=0, PORT=8472)
    assert (found.local, found.group) == (ip_address("fd00::1"), ip_address("ff05::7"))
    assert (found.port, found.learning, found.df, found.version) == (8472, False, 0, 6)


def test_a_link_without_addresses_goes_over_ipv4() -> None:
    found = vxlan(ID=1, LOCAL="0.0.0.0", COLLECT_METADATA=1, PORT=4789)
    assert (found.local, found.group, found.external, found.version) == (None, None, True, 4)


def test_other_links_are_no_vxlan_links() -> None:
    assert told([("IFLA_INFO_KIND", "bridge")]).vxlan is None


@pytest.mark.parametrize("on", [0, 1])
def test_the_flags_of_a_port(on: int) -> None:
    names = ("LEARNING", "UNICAST_FLOOD", "MCAST_FLOOD", "BCAST_FLOOD", "NEIGH_SUPPRESS")
    flags = {"attrs": [(f"IFLA_BRPORT_{name}", on) for name in names]}
    link = told(
        [("IFLA_INFO_KIND", "vxlan"), ("IFLA_INFO_SLAVE_KIND", "bridge"), ("IFLA_INFO_SLAVE_DATA", flags)]
    )
    assert link.port_flags == (bool(on),) * 5


def test_a_udp_port_is_in_network_order() -> None:
    assert wire.port(wire.IFLA_VXLAN_PORT, 0x1234) == bytes((6, 0, 15, 0, 0x12, 0x34, 0, 0))
