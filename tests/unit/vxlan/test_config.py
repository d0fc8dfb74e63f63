"""Good and bad configs of the vxlan plugin, each fault with its path and value."""

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from cni_plugins.contract.config_fields import AUTO
from cni_plugins.errors import BadEnvironment, InvalidNetworkConfig
from cni_plugins.vxlan.config import parse
from cni_plugins.vxlan.identity import default_vni
from tests.unit.vxlan.hosts import BARE, BLOCKS, DUAL_STRETCHED, GROUP, PEERS, STRETCHED, parsed, request

HEAD_END = {"mode": "l2", "subnet": "192.168.100.0/24", "bum": "head-end"}


def test_defaults() -> None:
    overlay = parsed(vni=None)
    config = overlay.config
    assert (config.mode, config.port, config.mtu, config.direct_routing) == ("l3", 4789, AUTO, "off")
    assert (overlay.vni, overlay.df, overlay.restricted, overlay.programmed) == (
        default_vni("net1"),
        "set",
        True,
        True,
    )
    assert not config.ip_masq.is_on
    assert config.is_default_gateway
    assert [str(record.vtep) for record in overlay.roster.records or ()] == BARE


def test_keys_match_in_any_case_and_null_is_absent() -> None:
    overlay = parsed(VNI=5, vni=None, DirectRouting="same-subnet", unknown={"kept": "elsewhere"}, mtu=None)
    assert (overlay.vni, overlay.config.direct_routing, overlay.config.mtu) == (5, "same-subnet", AUTO)
    assert parsed(underlay={"CANREACH": "10.99.0.9"}).config.underlay.can_reach == ip_address("10.99.0.9")


def test_the_networks_names_follow_from_the_vni() -> None:
    overlay = parsed(vni=35)
    assert (overlay.vxlan, overlay.bridge) == ("vxz", "vxbrz")
    assert parsed(vni=35, directRouting="always").vxlan == ""


def test_a_network_is_one_or_two_with_ipv4_first() -> None:
    keys = {"network": ["fd00::/16", "10.244.0.0/16"]}
    assert parsed(**keys).config.within == (ip_network("10.244.0.0/16"), ip_network("fd00::/16"))
    assert parsed(**DUAL_STRETCHED).config.within == (ip_network("192.168.100.0/24"), ip_network("fd64::/64"))


def test_the_gateway_is_the_first_address_unless_it_is_named() -> None:
    overlay = parsed(**DUAL_STRETCHED)
    assert [overlay.gateway(net) for net in overlay.config.within] == [
        ip_address("192.168.100.1"),
        ip_address("fd64::1"),
    ]
    named = parsed(**STRETCHED, gateway="192.168.100.254")
    assert named.gateway(named.config.within[0]) == ip_address("192.168.100.254")


@pytest.mark.parametrize(
    ("keys", "bum", "programmed", "restricted"),
    [
        ({}, "none", True, True),
        ({"backend": GROUP}, "multicast", False, False),
        ({"peers": BARE, "backend": {"subnet": "10.244.1.0/24"}}, "none", False, True),
        (STRETCHED, "none", True, True),
        ({**STRETCHED, "bum": "head-end"}, "head-end", False, True),
        ({**STRETCHED, "restrictSources": False}, "none", True, False),
    ],
)
def test_what_the_hosts_know_of_each_other(
    keys: dict[str, Any], bum: str, programmed: bool, restricted: bool
) -> None:
    overlay = parsed(**keys)
    assert (overlay.bum, overlay.programmed, overlay.restricted) == (bum, programmed, restricted)


@pytest.mark.parametrize(
    ("keys", "df"),
    [
        ({}, "set"),
        ({"sysctls": False}, "unset"),
        ({"sysctls": False, "df": "inherit"}, "inherit"),
        ({**STRETCHED, "sysctls": False}, "set"),
    ],
)
def test_what_does_not_fit_is_cut_where_nobody_tells_the_sender(keys: dict[str, Any], df: str) -> None:
    assert parsed(**keys).df == df


@pytest.mark.parametrize(
    ("args", "keys", "mac"),
    [
        ("", {}, ""),
        ("MAC=02:00:00:00:00:01", {}, "02:00:00:00:00:01"),
        ("MAC=02:00:00:00:00:01", {"args": {"cni": {"mac": "02:00:00:00:00:02"}}}, "02:00:00:00:00:02"),
        ("", {"runtimeConfig": {"mac": "02:00:00:00:00:03"}}, "02:00:00:00:00:03"),
        # Not the config's own: no two containers of a network have the same.
        ("", {"mac": "02:00:00:00:00:04"}, ""),
    ],
)
def test_the_mac_address_asked_for(args: str, keys: dict[str, Any], mac: str) -> None:
    assert parse(request(keys=keys, args=args)).config.mac == mac


BAD: list[tuple[dict[str, Any], str]] = [
    ({"mode": "l4"}, "mode: input should be 'l3' or 'l2', got 'l4'"),
    ({"mode": True}, "mode: input should be 'l3' or 'l2', got true"),
    ({"vni": 0}, "vni: invalid VNI 0 (must be 1 to 16777215)"),
    ({"vni": 1 << 24}, "vni: invalid VNI 16777216"),
    ({"vni": True}, "vni: invalid VNI true"),
    ({"vni": "77"}, "vni: invalid VNI '77'"),
    ({"port": 0}, "port: invalid UDP port 0 (must be 1 to 65535)"),
    ({"port": 65536}, "port: invalid UDP port 65536"),
    ({"port": 4789.0}, "port: invalid UDP port 4789.0"),
    ({"underlay": "eth1"}, "underlay: expected an object, got 'eth1'"),
    ({"underlay": {"interfaces": "eth1"}}, "underlay: unknown key 'interfaces' (known are address, canReach"),
    ({"underlay": {"interface": "a/b"}}, "underlay.interface: link name 'a/b' contains / or : or whitespace"),
    ({"underlay": {"cidr": "10.99.0.0"}}, "underlay.cidr: '10.99.0.0' is not an address in CIDR notation"),
    ({"underlay": {"canReach": "gw"}}, "underlay.canReach: 'gw' is not an IP address"),
    ({"underlay": {"address": "fe80::1%2"}}, "underlay.address: 'fe80::1%2' is not an IP address"),
    (
        {"underlay": {"interface": "eth0", "address": "10.99.0.1"}},
        "underlay: more than one of interface, cidr, canReach, address",
    ),
    ({"mtu": 67}, "mtu: invalid MTU 67"),
    ({"mtu": "1450"}, "mtu: invalid MTU '1450'"),
    ({"df": "yes"}, "df: input should be 'set', 'inherit' or 'unset', got 'yes'"),
    ({"df": True}, "df: input should be 'set', 'inherit' or 'unset', got true"),
    ({"sysctls": "no"}, "sysctls: input should be a valid boolean, got 'no'"),
    ({"network": None}, "network is missing: mode l3 needs it"),
    ({"network": []}, "network is missing: mode l3 needs it"),
    ({"network": "10.244.0.0"}, "network[0]: '10.244.0.0' is not an address in CIDR notation"),
    ({"network": ["10.244.0.0/16", 5]}, "network[1]: 5 is not an address in CIDR notation"),
    (
        {"network": ["10.244.0.0/16", "10.245.0.0/16"]},
        "network has more than one network of a family",
    ),
    *(
        ({"network": network}, f"network {network} has addresses that no host can have")
        for network in ("0.0.0.0/0", "0.1.0.0/16", "127.3.0.0/16", "224.0.0.0/8", "128.0.0.0/1")
    ),
    *(
        ({"network": ["10.244.0.0/16", network]}, f"network {network} has addresses that no host can have")
        for network in ("::/0", "::/64", "fe80::/64", "fe00::/8", "ff05::/16")
    ),
    (
        {**STRETCHED, "subnet": "239.0.0.0/16", "peers": BARE},
        "subnet 239.0.0.0/16 has addresses that no host can have",
    ),
    ({"network": "10.244.1.0/16"}, "network[0]: '10.244.1.0/16' is an address; the network is 10.244.0.0/16"),
    ({"network": "fd00::1/16"}, "network[0]: 'fd00::1/16' is an address; the network is fd00::/16"),
    ({**STRETCHED, "subnet": "192.168.100.1/24"}, "subnet[0]: '192.168.100.1/24' is an address"),
    (
        {
            "mode": "l2",
            "subnet": "fd64::/64",
            "peers": [{"vtep": f"192.0.2.{n}", "block": f"fd64::{n}:0:0/124"} for n in (1, 2)],
        },
        "IPv6 blocks of more than one /96: their addresses would share MAC addresses",
    ),
    ({"subnetLen": "24"}, "subnetLen: input should be a valid integer, got '24'"),
    ({"subnetLen": 25}, "peer h1: subnet 10.244.1.0/24 must have prefix length /25"),
    ({"subnet": "10.244.0.0/16"}, "subnet is a key of the other mode, and mode is l3"),
    ({"bum": "none"}, "bum is a key of the other mode, and mode is l3"),
    ({"gateway": "10.244.1.1"}, "gateway is a key of the other mode, and mode is l3"),
    ({"blockLen": 0}, "blockLen is a key of the other mode, and mode is l3"),
    ({**STRETCHED, "network": "10.244.0.0/16"}, "network is a key of the other mode, and mode is l2"),
    ({**STRETCHED, "subnetLen": 24}, "subnetLen is a key of the other mode, and mode is l2"),
    ({**STRETCHED, "directRouting": "off"}, "directRouting is a key of the other mode, and mode is l2"),
    ({**STRETCHED, "subnet": []}, "subnet is missing: mode l2 needs it"),
    ({**STRETCHED, "blockLen": 24}, "peer h1: block 192.168.100.0/28 must have prefix length /24"),
    ({**STRETCHED, "gateway": "192.168.101.1"}, "gateway 192.168.101.1 is not a host address of subnet"),
    ({**STRETCHED, "gateway": "192.168.100.0"}, "gateway 192.168.100.0 is not a host address of subnet"),
    (
        {**STRETCHED, "gateway": ["fd64::1"]},
        "gateway fd64::1 is not a host address of subnet 192.168.100.0/24",
    ),
    ({**STRETCHED, "gateway": ["x"]}, "gateway[0]: 'x' is not an IP address"),
    ({**STRETCHED, "bum": "flood"}, "bum: input should be 'none', 'head-end' or 'multicast', got 'flood'"),
    ({**STRETCHED, "bum": "multicast"}, "bum is multicast, but backend static has no multicast group"),
    (
        {**HEAD_END, "backend": {"type": "multicast", "group": "239.7.7.7"}},
        "bum is head-end, but backend multicast has a multicast group",
    ),
    (
        {"mode": "l2", "subnet": "192.168.100.0/24", "peers": BARE},
        "bum is none, but no peer has a block: bum must be head-end",
    ),
    (
        {**STRETCHED, "subnet": ["192.168.100.0/24", "fd64::/121"]},
        "subnet fd64::/121 is smaller than 192.168.100.0/24, whose addresses are mapped into it",
    ),
    (
        {**DUAL_STRETCHED, "backend": {"peers": [{"vtep": "10.99.0.1", "block": "fd64::/124"}]}},
        "block fd64::/124 is not in 192.168.100.0/24",
    ),
    (
        {
            "mode": "l2",
            "subnet": "10.0.0.0/8",
            "peers": [{"vtep": "192.0.2.1", "block": "10.1.0.0/19"}],
        },
        "block 10.1.0.0/19 has more than 4096 addresses",
    ),
    (
        {**STRETCHED, "runtimeConfig": {"mac": "02:00:00:00:00:01"}},
        "mac is 02:00:00:00:00:01, but with bum none it is derived from the container's IP address",
    ),
    ({"directRouting": "on"}, "directRouting: input should be 'off', 'same-subnet' or 'always', got 'on'"),
    (
        {"peers": BARE, "backend": {"subnet": "10.244.1.0/24"}, "directRouting": "always"},
        "directRouting is always, but the peers' subnets are not known",
    ),
    ({"backend": GROUP, "directRouting": "same-subnet"}, "directRouting is same-subnet, but the peers'"),
    ({"backend": GROUP, "restrictSources": True}, "restrictSources is true, but backend multicast does not"),
    ({"restrictSources": "yes"}, "restrictSources: input should be a valid boolean, got 'yes'"),
    ({"ipMasq": "yes"}, "ipMasq: expected an object, got 'yes'"),
    (
        {"ipMasq": {"exclude": ["10.0.0.0"]}},
        "ipMasq.exclude[0]: '10.0.0.0' is not an address in CIDR notation",
    ),
    ({"ipMasqBackend": "iptables"}, "ipMasqBackend: input should be '' or 'nftables', got 'iptables'"),
    ({"isDefaultGateway": 1}, "isDefaultGateway: input should be a valid boolean, got 1"),
    ({"ipam": "host-local"}, "ipam: expected an object, got 'host-local'"),
    ({"ipam": {"type": 5}}, "ipam.type: input should be a valid string, got 5"),
    ({"dns": {"search": "x"}}, "dns: search: expected a list"),
    ({"runtimeConfig": {"mac": "zz"}}, "runtimeConfig.mac: invalid MAC address 'zz'"),
    ({"args": {"cni": {"mac": "01:00:5e:00:00:01"}}}, "args.cni.mac: MAC address '01:00:5e:00:00:01' is"),
]


@pytest.mark.parametrize(("keys", "message"), BAD)
def test_a_bad_config_is_refused_with_path_and_value(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidNetworkConfig) as caught:
        parsed(**keys)
    assert message in caught.value.details
    assert caught.value.msg.startswith(("invalid network config: ", "invalid peers: "))


def test_a_config_without_backend() -> None:
    given = {key: value for key, value in request().conf.items() if key != "backend"}
    with pytest.raises(InvalidNetworkConfig, match="backend: field required"):
        parse(request(conf=given))
    for value in ("static", [], None):
        with pytest.raises(InvalidNetworkConfig, match="backend: "):
            parse(request(conf={**given, "backend": value}))


def test_every_fault_is_named() -> None:
    with pytest.raises(InvalidNetworkConfig) as caught:
        parsed(mtu="x", vni=-1, sysctls="y", underlay={"address": "z", "interface": "/"})
    named = ("mtu", "vni", "sysctls", "underlay.address", "underlay.interface")
    assert all(f"{path}: " in caught.value.details for path in named)


def test_what_no_host_can_have_is_next_to_what_one_can() -> None:
    for network in ("1.0.0.0/8", "126.0.0.0/8", "128.0.0.0/16", "223.0.0.0/8", "240.0.0.0/8"):
        assert parsed(network=network, peers=BARE, backend={"subnet": network}).config.within
    for network in ("100::/8", "fe00::/16", "fec0::/10"):
        assert parsed(network=network, peers=BARE, backend={"subnet": network}).config.within


def test_ipv6_blocks_of_one_96_are_told_apart() -> None:
    peers = [{"vtep": f"192.0.2.{n}", "block": f"fd64::{n}:0/124"} for n in (1, 2)]
    assert parsed(mode="l2", subnet="fd64::/64", peers=peers).programmed
    # Where hosts learn, a MAC address follows from none.
    apart = [{"vtep": f"192.0.2.{n}", "block": f"fd64::{n}:0:0/124"} for n in (1, 2)]
    assert not parsed(mode="l2", subnet="fd64::/64", bum="head-end", peers=apart).programmed


def test_every_contradiction_is_named() -> None:
    keys = {**STRETCHED, "backend": {"type": "multicast", "group": "239.7.7.7"}, "bum": "none"}
    with pytest.raises(InvalidNetworkConfig) as caught:
        parsed(**keys, restrictSources=True, runtimeConfig={"mac": "02:00:00:00:00:01"})
    assert all(
        word in caught.value.details for word in ("bum is none, but backend", "restrictSources", "mac is ")
    )


def test_bad_arguments_are_the_environments_fault() -> None:
    with pytest.raises(BadEnvironment):
        parse(request(args="MAC"))
    with pytest.raises(InvalidNetworkConfig, match="invalid MAC address 'zz'"):
        parse(request(args="MAC=zz"))


def test_a_mac_address_of_ones_own_is_taken_where_hosts_learn() -> None:
    mac = {"runtimeConfig": {"mac": "02:00:00:00:00:01"}}
    assert parsed(**mac).config.mac == "02:00:00:00:00:01"
    assert parsed(**HEAD_END, peers=BLOCKS, **mac).config.mac == "02:00:00:00:00:01"


def test_an_overlay_within_a_documentation_network() -> None:
    """Whatever the network is: no address of ours stands in for one of the hosts'."""
    for network in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "10.0.0.0/8", "172.16.0.0/12"):
        first = str(ip_network(network).network_address)
        peers = [{"node": "h1", "vtep": "100.64.0.1", "subnet": f"{first}/25"}]
        assert parsed(network=network, peers=peers).roster.records


@pytest.mark.parametrize(
    "subnet", ["192.168.100.0/31", "192.168.100.7/32", "255.255.255.255/32", "fd64::/128"]
)
def test_a_stretched_subnet_that_has_no_room(subnet: str) -> None:
    with pytest.raises(InvalidNetworkConfig, match="subnet"):
        parsed(mode="l2", subnet=subnet, bum="head-end", peers=BARE)


@pytest.mark.parametrize(
    "gateway", ["192.168.100.255", ["192.168.100.2", "192.168.100.3"], ["192.168.100.254", "fd64::1"]]
)
def test_a_gateway_that_can_be_none(gateway: Any) -> None:
    """The broadcast address, two of one family, or one that is the twin of a container's address."""
    with pytest.raises(InvalidNetworkConfig, match="gateway"):
        parsed(**DUAL_STRETCHED, gateway=gateway)


def test_a_gateways_twin_is_the_gateway_of_the_other_family() -> None:
    overlay = parsed(**DUAL_STRETCHED, gateway="192.168.100.254")
    assert overlay.gateway(overlay.config.within[1]) == ip_address("fd64::fe")


def test_peers_are_not_changed_by_a_config_that_names_them() -> None:
    assert [record.node for record in parsed(peers=PEERS).roster.records or ()] == ["h1", "h2", "h3"]


@pytest.mark.parametrize(
    ("keys", "guarded"),
    [
        ({}, True),
        ({"peers": BARE, "backend": {"subnet": "10.244.1.0/24"}}, True),
        ({"restrictSources": False}, False),
        ({"restrictSources": False, "sourceGuard": True}, True),
        ({"sourceGuard": False}, False),
        (STRETCHED, True),
        ({**STRETCHED, "bum": "head-end"}, False),
        ({**STRETCHED, "bum": "head-end", "sourceGuard": True}, True),
    ],
)
def test_sources_are_checked_where_all_are_known(keys: dict[str, Any], guarded: bool) -> None:
    assert parsed(**keys).guarded is guarded
