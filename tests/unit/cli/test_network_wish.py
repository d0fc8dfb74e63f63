"""What `cnictl network create` understands, and the list of plugins that comes of it."""

from ipaddress import ip_network
from typing import Any

import pytest

from cni_plugins.cli.failure import Failed
from cni_plugins.cli.network.conflist import bridge_of, conflist
from cni_plugins.cli.network.wish import Words, read
from cni_plugins.upkeep.networks import validate

HOST_LOCAL = {"type": "host-local"}
SHARED = {"ips": True, "mac": True, "ipRanges": True}
PORTMAP = {"type": "portmap", "capabilities": {"portMappings": True}}
BRIDGE = {
    "type": "bridge",
    "bridge": "br-d6077a19f538",
    "isDefaultGateway": True,
    "ipMasq": True,
    "hairpinMode": True,
    "removeIdleBridge": True,
    "mtuAuto": True,
    "capabilities": SHARED,
}
SUBNET = "10.1.0.0/24"


def made(*subnets: str, links: tuple[str, ...] = (), **words: Any) -> dict[str, Any]:
    wish = read(Words("blue", subnets=subnets, **words))
    backend = {"type": "static", "peers": [{"node": "h1", "vtep": "192.0.2.1", "block": "10.1.0.16/28"}]}
    overlay = {"vni": 7, "backend": backend} if wish.driver == "vxlan" else {}
    if wish.driver == "vxlan" and wish.mode == "l3":
        overlay["backend"] = {"type": "static", "peers": ["192.0.2.1"], "subnet": "10.1.1.0/24"}
    document = conflist(wish, [ip_network(text) for text in subnets], links, overlay)
    validate.require_valid(document)
    return document


def plugins(*subnets: str, **words: Any) -> list[dict[str, Any]]:
    return made(*subnets, **words)["plugins"]


def host_local(*ranges: dict[str, str], **more: Any) -> dict[str, Any]:
    return {"ipam": {"type": "host-local", "ranges": [[*ranges]], **more}}


def test_the_default_is_what_dockers_bridge_is() -> None:
    assert made(SUBNET, labels=("a=b", "c")) == {
        "cniVersion": "1.0.0",
        "name": "blue",
        "cni-plugins.network": {"labels": {"a": "b", "c": ""}},
        "plugins": [
            {**BRIDGE, **host_local({"subnet": SUBNET})},
            PORTMAP,
            {"type": "firewall", "ingressPolicy": "same-bridge"},
        ],
    }


def changed(**keys: Any) -> dict[str, Any]:
    return {**BRIDGE, **host_local({"subnet": SUBNET}), **keys}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("com.docker.network.bridge.name=lan", {"bridge": "lan"}),
        ("com.docker.network.bridge.enable_ip_masquerade=false", {"ipMasq": False}),
        ("com.docker.network.bridge.enable_ip_masquerade=1", {"ipMasq": True}),
        ("vlan=12", {"vlan": 12, "bridge": "br-d6077a1"}),
    ],
)
def test_an_option_of_a_bridge_changes_one_key(options: str, expected: dict[str, Any]) -> None:
    assert plugins(SUBNET, options=(options,))[0] == changed(**expected)


@pytest.mark.parametrize("key", ["mtu", "com.docker.network.driver.mtu"])
def test_an_mtu_takes_the_place_of_the_hosts(key: str) -> None:
    expected = changed(mtu=1400)
    del expected["mtuAuto"]
    assert plugins(SUBNET, options=(f"{key}=1400",))[0] == expected


def test_without_icc_containers_of_a_bridge_are_isolated() -> None:
    *_, firewall = plugins(SUBNET, options=("com.docker.network.bridge.enable_icc=false",))
    assert firewall == {"type": "firewall", "ingressPolicy": "isolated"}


def test_an_internal_bridge_has_no_gateway_no_masquerade_and_no_ports() -> None:
    document = made(SUBNET, internal=True)
    bridge, firewall = document["plugins"]
    assert {"isDefaultGateway", "isGateway", "ipMasq"} & set(bridge) == set()
    assert bridge["internal"] is True
    assert "routes" not in bridge["ipam"]
    assert firewall["type"] == "firewall"
    assert document["cni-plugins.network"]["internal"] is True


@pytest.mark.parametrize(
    ("words", "ranges"),
    [
        ({"gateways": ("10.1.0.254",)}, [{"subnet": SUBNET, "gateway": "10.1.0.254"}]),
        (
            {"ranges": ("10.1.0.128/25",)},
            [{"subnet": SUBNET, "rangeStart": "10.1.0.128", "rangeEnd": "10.1.0.254"}],
        ),
        (
            {"ranges": ("10.1.0.0/28",), "gateways": ("10.1.0.254",)},
            [
                {
                    "subnet": SUBNET,
                    "rangeStart": "10.1.0.1",
                    "rangeEnd": "10.1.0.15",
                    "gateway": "10.1.0.254",
                }
            ],
        ),
        (
            {"aux": ("router=10.1.0.5", "dns=10.1.0.254")},
            [
                {"subnet": SUBNET, "rangeStart": "10.1.0.1", "rangeEnd": "10.1.0.4"},
                {"subnet": SUBNET, "rangeStart": "10.1.0.6", "rangeEnd": "10.1.0.253"},
            ],
        ),
    ],
)
def test_addresses_come_from_what_was_given(words: dict[str, Any], ranges: list[dict[str, str]]) -> None:
    assert plugins(SUBNET, **words)[0]["ipam"]["ranges"] == [ranges]


def test_each_subnet_has_its_gateway_and_range() -> None:
    ipam = plugins(SUBNET, "fd00::/64", gateways=("fd00::ff", "10.1.0.9"), ranges=("fd00::100/120",))[0][
        "ipam"
    ]
    assert ipam["ranges"] == [
        [{"subnet": SUBNET, "gateway": "10.1.0.9"}],
        [{"subnet": "fd00::/64", "rangeStart": "fd00::100", "rangeEnd": "fd00::1ff", "gateway": "fd00::ff"}],
    ]


MACVLAN = {
    "type": "macvlan",
    "mode": "bridge",
    "capabilities": SHARED,
    **host_local({"subnet": SUBNET}, routes=[{"dst": "0.0.0.0/0"}]),
}


@pytest.mark.parametrize(
    ("options", "links", "expected"),
    [
        ((), (), {}),
        (("parent=eth0",), (), {"master": "eth0"}),
        (("parent=ens34.10",), ("ens34",), {"master": "ens34", "vlan": 10}),
        (("parent=ens34.10",), ("ens34", "ens34.10"), {"master": "ens34.10"}),
        (("parent=uplink.x",), (), {"master": "uplink.x"}),
        (
            ("parent=eth0", "macvlan_mode=vepa", "mtu=9000"),
            (),
            {"master": "eth0", "mode": "vepa", "mtu": 9000},
        ),
    ],
)
def test_macvlan_takes_a_link_or_a_vlan_of_one(
    options: tuple[str, ...], links: tuple[str, ...], expected: dict[str, Any]
) -> None:
    assert plugins(SUBNET, driver="macvlan", options=options, links=links) == [{**MACVLAN, **expected}]


def test_macvlan_may_ask_the_wire_for_addresses() -> None:
    (plugin,) = plugins(driver="macvlan", ipam="dhcp", options=("parent=eth0",))
    assert plugin["ipam"] == {"type": "dhcp"}


def test_a_network_without_addresses_is_a_bridge_alone() -> None:
    (bridge,) = plugins(ipam="none")
    assert {"ipam", "isDefaultGateway", "ipMasq"} & set(bridge) == set()


@pytest.mark.parametrize(
    ("internal", "ipam", "masquerade", "rest"),
    [
        (False, host_local({"subnet": SUBNET}, routes=[{"dst": "0.0.0.0/0"}]), True, [PORTMAP]),
        (True, host_local({"subnet": SUBNET}), False, []),
    ],
)
def test_ptp_leads_out_unless_it_is_internal(
    internal: bool, ipam: dict[str, Any], masquerade: bool, rest: list[dict[str, Any]]
) -> None:
    expected = {"type": "ptp", "ipMasq": masquerade, "mtuAuto": True, "capabilities": SHARED, **ipam}
    found = plugins(SUBNET, driver="ptp", internal=internal)
    assert found == [expected, *rest, {"type": "firewall"}]


@pytest.mark.parametrize(
    ("subnet", "options", "expected"),
    [
        ("10.1.0.0/16", (), {"network": ["10.1.0.0/16"], "subnetLen": 24}),
        ("10.1.0.0/16", ("subnet_len=26",), {"network": ["10.1.0.0/16"], "subnetLen": 26}),
        ("10.1.0.0/20", ("port=8472",), {"network": ["10.1.0.0/20"], "subnetLen": 24, "port": 8472}),
        ("10.1.0.0/22", (), {"network": ["10.1.0.0/22"], "subnetLen": 26}),
    ],
)
def test_a_routed_overlay_has_a_subnet_for_each_host(
    subnet: str, options: tuple[str, ...], expected: dict[str, Any]
) -> None:
    wish = read(Words("blue", "vxlan", (subnet,), options=options))
    overlay, portmap, firewall = conflist(wish, wish.subnets, (), {"vni": 7})["plugins"]
    common = {"type": "vxlan", "mode": "l3", "vni": 7, "ipMasq": True, "capabilities": SHARED}
    assert overlay == {**common, **expected}
    assert (portmap, firewall) == (PORTMAP, {"type": "firewall"})


def test_a_stretched_overlay_has_a_block_for_each_host() -> None:
    overlay, *_ = plugins(SUBNET, driver="overlay", options=("mode=l2",), gateways=("10.1.0.9",))
    assert (overlay["subnet"], overlay["blockLen"], overlay["gateway"]) == ([SUBNET], 28, ["10.1.0.9"])


def test_an_internal_overlay_leads_to_its_other_hosts_only() -> None:
    overlay, firewall = conflist(
        read(Words("b", "vxlan", ("10.1.0.0/16",), internal=True)), [ip_network("10.1.0.0/16")]
    )["plugins"]
    assert overlay["isDefaultGateway"] is False
    assert overlay["ipMasq"] is False
    assert overlay["ipam"] == {"routes": [{"dst": "10.1.0.0/16"}]}
    assert firewall == {"type": "firewall"}


@pytest.mark.parametrize("name", ["a", "a" * 200, "red", "R-2.d_2"])
def test_bridges_have_names_that_links_can_have(name: str) -> None:
    assert len(bridge_of(read(Words(name)))) == 15


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (Words("-x"), "network name '-x' must begin with a letter or digit, and have"),
        (Words("../x"), "network name '../x' must begin"),
        (Words("x" * 201), "is longer than 200 characters"),
        (Words("b", "ipvlan"), "there is no driver 'ipvlan', only bridge, macvlan, ptp, vxlan"),
        (Words("b", ipam="null"), "there is no IPAM driver 'null', only host-local, dhcp, none"),
        (Words("b", subnets=("10.1.0.0",)), "--subnet '10.1.0.0' is not a network such as 10.1.0.0/24"),
        (
            Words("b", subnets=("10.1.0.1/24",)),
            "--subnet 10.1.0.1/24 has host bits set; the network is 10.1.0.0/24",
        ),
        (Words("b", subnets=(SUBNET, "10.1.0.0/16")), "--subnet 10.1.0.0/24 overlaps --subnet 10.1.0.0/16"),
        (Words("b", gateways=("10.1.0.1",)), "--gateway 10.1.0.1 needs a --subnet that it is in"),
        (
            Words("b", subnets=(SUBNET,), gateways=("10.2.0.1",)),
            "--gateway 10.2.0.1 is in no --subnet (10.1.0.0/24)",
        ),
        (Words("b", subnets=(SUBNET,), gateways=("x",)), "--gateway 'x' is not an IP address"),
        (
            Words("b", subnets=(SUBNET,), gateways=("10.1.0.1", "10.1.0.2")),
            "--gateway: subnet 10.1.0.0/24 can have one",
        ),
        (Words("b", subnets=(SUBNET,), ranges=("10.1.0.0/16",)), "--ip-range 10.1.0.0/16 is in no --subnet"),
        (
            Words("b", subnets=(SUBNET,), aux=("10.1.0.3",)),
            "--aux-address '10.1.0.3' must have the form name=value",
        ),
        (Words("b", subnets=(SUBNET,), aux=("a=fd00::1",)), "--aux-address a fd00::1 is in no --subnet"),
        (Words("b", labels=("=x",)), "--label '=x' must have the form name=value"),
        (
            Words("b", options=("parent=eth0",)),
            "-o parent: driver bridge has no such option, only com.docker.network.",
        ),
        (Words("b", "macvlan", options=("foo",)), "-o foo: driver macvlan has no such option, only"),
        (Words("b", options=("mtu=x",)), "-o mtu=x: it must be a number"),
        (
            Words("b", options=("mtu=9", "com.docker.network.driver.mtu=9")),
            "is given twice, maybe by another name",
        ),
        (Words("b", options=("com.docker.network.bridge.enable_icc=maybe",)), "it must be true or false"),
        (
            Words("b", "macvlan", options=("macvlan_mode=l3",)),
            "it must be one of bridge, vepa, private, passthru",
        ),
        (
            Words("b", "vxlan", options=("encrypted",)),
            "-o encrypted: no release can encrypt an overlay by itself",
        ),
        (Words("b", "macvlan"), "driver macvlan needs the wire's --subnet, or --ipam-driver dhcp"),
        (Words("b", "macvlan", internal=True), "--internal: driver macvlan puts containers on the wire"),
        (
            Words("b", ipam="dhcp", subnets=(SUBNET,)),
            "--ipam-driver dhcp gives out no addresses of a --subnet",
        ),
        (Words("b", "ptp", ipam="none"), "driver ptp needs addresses"),
        (
            Words("b", "vxlan", (SUBNET,), ("10.1.0.1",)),
            "--gateway: in mode l3 each host has a gateway of its own",
        ),
        (
            Words("b", "vxlan", (SUBNET,), ranges=(SUBNET,)),
            "--ip-range and --aux-address: hosts of an overlay",
        ),
        (Words("b", "vxlan", options=("block_len=28",)), "-o block_len is an option of the other mode"),
        (Words("b", "vxlan", (SUBNET, "10.2.0.0/24")), "driver vxlan takes one --subnet of each IP version"),
        (Words("b", ipv4=False), "--no-ipv4 without --ipv6 leaves no addresses"),
        (
            Words("b", internal=True, options=("com.docker.network.bridge.enable_ip_masquerade=true",)),
            "--internal and -o com.docker.network.bridge.enable_ip_masquerade=true contradict",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_the_word_that_says_it(words: Words, message: str) -> None:
    with pytest.raises(Failed) as caught:
        read(words)
    assert message in str(caught.value)
