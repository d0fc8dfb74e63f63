"""rtnetlink messages are what pyroute2 writes, byte by byte."""

from ipaddress import ip_address
from typing import Any

import pytest
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from cni_plugins.kernel.netlink import rtnetlink as wire

ASKED = 0x604  # NLM_F_ACK, NLM_F_EXCL, NLM_F_CREATE
MAC, OTHER_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"


def theirs(message: Any, kind: int, attrs: list[Any], **fields: int) -> bytes:
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = attrs
    message["header"]["type"] = kind
    message["header"]["flags"] = ASKED | 1
    message.encode()
    return bytes(message.data)


def kind_of(name: str, *data: Any) -> Any:
    info = [("IFLA_INFO_KIND", name), ("IFLA_INFO_DATA", {"attrs": list(data)})]
    return ("IFLA_LINKINFO", {"attrs": info})


def test_a_veth_pair() -> None:
    peer = [("IFLA_IFNAME", "eth0"), ("IFLA_ADDRESS", OTHER_MAC), ("IFLA_NET_NS_FD", 9), ("IFLA_MTU", 1400)]
    expected = theirs(
        ifinfmsg(),
        16,
        [
            ("IFLA_IFNAME", "veth0123"),
            ("IFLA_ADDRESS", MAC),
            ("IFLA_MTU", 1400),
            kind_of("veth", ("VETH_INFO_PEER", {"attrs": peer})),
        ],
    )
    inner = (
        wire.text(wire.IFLA_IFNAME, "eth0"),
        wire.mac(wire.IFLA_ADDRESS, OTHER_MAC),
        wire.number(wire.IFLA_NET_NS_FD, 9),
        wire.number(wire.IFLA_MTU, 1400),
    )
    ours = wire.link(
        wire.RTM_NEWLINK,
        ASKED,
        wire.text(wire.IFLA_IFNAME, "veth0123"),
        wire.mac(wire.IFLA_ADDRESS, MAC),
        wire.number(wire.IFLA_MTU, 1400),
        wire.kind_of_link("veth", wire.veth_peer(*inner)),
    )
    assert bytes(ours) == expected


def test_a_bridge_that_filters_vlans() -> None:
    expected = theirs(
        ifinfmsg(), 16, [("IFLA_IFNAME", "br0"), kind_of("bridge", ("IFLA_BR_VLAN_FILTERING", 1))]
    )
    filtering = wire.kind_of_link("bridge", wire.octet(wire.IFLA_BR_VLAN_FILTERING, 1))
    assert (
        bytes(wire.link(wire.RTM_NEWLINK, ASKED, wire.text(wire.IFLA_IFNAME, "br0"), filtering)) == expected
    )


def test_a_port_with_its_flags() -> None:
    flags = [("IFLA_BRPORT_MODE", 1), ("IFLA_BRPORT_ISOLATED", 0)]
    info = [("IFLA_INFO_SLAVE_KIND", "bridge"), ("IFLA_INFO_SLAVE_DATA", {"attrs": flags})]
    expected = theirs(
        ifinfmsg(),
        16,
        [("IFLA_MASTER", 5), ("IFLA_IFALIAS", "ours"), ("IFLA_LINKINFO", {"attrs": info})],
        index=7,
        flags=1,
        change=1,
    )
    data = wire.nest(
        wire.IFLA_INFO_SLAVE_DATA,
        wire.octet(wire.IFLA_BRPORT_MODE, 1),
        wire.octet(wire.IFLA_BRPORT_ISOLATED, 0),
    )
    ours = wire.link(
        wire.RTM_NEWLINK,
        ASKED,
        wire.number(wire.IFLA_MASTER, 5),
        wire.text(wire.IFLA_IFALIAS, "ours"),
        wire.nest(wire.IFLA_LINKINFO, wire.text(wire.IFLA_INFO_SLAVE_KIND, "bridge"), data),
        index=7,
        flags=1,
        mask=1,
    )
    assert bytes(ours) == expected


def test_the_vlans_of_a_port() -> None:
    spec = {"attrs": [("IFLA_BRIDGE_VLAN_INFO", {"flags": 6, "vid": 100})]}
    expected = theirs(ifinfmsg(), 19, [("IFLA_AF_SPEC", spec), ("IFLA_EXT_MASK", 2)], family=7, index=3)
    info = wire.packed(wire.IFLA_BRIDGE_VLAN_INFO, b"\x06\x00\x64\x00")
    attrs = (wire.nest(wire.IFLA_AF_SPEC, info), wire.number(wire.IFLA_EXT_MASK, 2))
    assert bytes(wire.link(19, ASKED, *attrs, family=7, index=3)) == expected


@pytest.mark.parametrize(("text", "length"), [("10.1.2.3", 24), ("fd00::7", 64)])
def test_an_address(text: str, length: int) -> None:
    address = ip_address(text)
    family = {4: 2, 6: 10}[address.version]
    attrs = [("IFA_LOCAL", text), ("IFA_ADDRESS", text), ("IFA_BROADCAST", text), ("IFA_FLAGS", 2)]
    expected = theirs(ifaddrmsg(), 20, attrs, family=family, prefixlen=length, index=4)
    ours = wire.address(
        wire.RTM_NEWADDR,
        ASKED,
        wire.ip(wire.IFA_LOCAL, address),
        wire.ip(wire.IFA_ADDRESS, address),
        wire.ip(wire.IFA_BROADCAST, address),
        wire.number(wire.IFA_FLAGS, 2),
        family=wire.FAMILY[address.version],
        length=length,
        index=4,
    )
    assert bytes(ours) == expected


@pytest.mark.parametrize(("network", "gateway"), [("10.1.2.0", "10.1.0.1"), ("fd00::", "fe80::1")])
def test_a_route(network: str, gateway: str) -> None:
    family = {4: 2, 6: 10}[ip_address(network).version]
    metrics = {"attrs": [("RTAX_MTU", 1400), ("RTAX_ADVMSS", 1300)]}
    attrs = [
        ("RTA_TABLE", 1000),
        ("RTA_OIF", 4),
        ("RTA_DST", network),
        ("RTA_GATEWAY", gateway),
        ("RTA_PRIORITY", 5),
        ("RTA_METRICS", metrics),
    ]
    fields = {
        "family": family,
        "dst_len": 24,
        "table": 252,
        "proto": 217,
        "scope": 253,
        "type": 1,
        "flags": 4,
    }
    expected = theirs(rtmsg(), 24, attrs, **fields)
    head = wire.RouteHead(family, dst_len=24, table=252, protocol=217, scope=253, kind=1, flags=4)
    ours = wire.route(
        wire.RTM_NEWROUTE,
        ASKED,
        head,
        wire.number(wire.RTA_TABLE, 1000),
        wire.number(wire.RTA_OIF, 4),
        wire.ip(wire.RTA_DST, ip_address(network)),
        wire.ip(wire.RTA_GATEWAY, ip_address(gateway)),
        wire.number(wire.RTA_PRIORITY, 5),
        wire.nest(wire.RTA_METRICS, wire.number(wire.RTAX_MTU, 1400), wire.number(wire.RTAX_ADVMSS, 1300)),
    )
    assert bytes(ours) == expected


@pytest.mark.parametrize(("address", "length"), [("10.1.0.2", 32), ("fd00::2", 128)])
@pytest.mark.parametrize("table", [100, 255, 256, 4294967295])
def test_a_rule(address: str, length: int, table: int) -> None:
    family = {4: 2, 6: 10}[ip_address(address).version]
    octet = table if table < 256 else 0
    attrs = [
        ("FRA_SRC", address),
        ("FRA_TABLE", table),
        ("FRA_FWMARK", 0xCAFE),
        ("FRA_FWMASK", 0),
        ("FRA_PROTOCOL", 217),
    ]
    fields = {"family": family, "src_len": length, "table": octet, "action": 1}
    expected = theirs(fibmsg(), 32, attrs, **fields)
    ours = wire.rule(
        wire.RTM_NEWRULE,
        ASKED,
        wire.ip(wire.FRA_SRC, ip_address(address)),
        wire.number(wire.FRA_TABLE, table),
        wire.number(wire.FRA_FWMARK, 0xCAFE),
        wire.number(wire.FRA_FWMASK, 0),
        wire.octet(wire.FRA_PROTOCOL, 217),
        family=family,
        src_len=length,
        table=wire.octet_of_table(table),
        action=wire.FR_ACT_TO_TBL,
    )
    assert bytes(ours) == expected


def test_numbers_are_read_in_host_order_whatever_their_size() -> None:
    assert wire.read_number(None) == 0
    assert wire.read_number(b"\x06") == 6
    assert wire.read_number(wire.number(1, 70000)[4:]) == 70000
