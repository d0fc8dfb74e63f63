"""Good and bad configs of the bridge plugin, each fault with its message."""

from typing import Any

import pytest

from cni_plugins.bridge.config import parse
from cni_plugins.contract.config_fields import AUTO
from cni_plugins.errors import BadEnvironment, InvalidNetworkConfig
from cni_plugins.protocol.request import Request


def parsed(cni_args: str = "", **keys: Any) -> Any:
    return parse(Request("ADD", "net1", conf={"name": "net1", "type": "bridge", **keys}, args=cni_args))


def test_defaults_are_the_references() -> None:
    config = parsed()
    assert (config.bridge, config.mtu, config.vlan, config.vlan_trunk, config.mac) == ("cni0", 0, 0, None, "")
    assert not any((config.is_gw, config.ip_masq.v4, config.hairpin_mode, config.uses_vlans, config.dns))


def test_keys_match_in_any_case_and_null_is_absent() -> None:
    config = parsed(ISGATEWAY=True, Bridge="br0", mtu=None, unknown={"kept": "elsewhere"})
    assert (config.is_gateway, config.bridge, config.mtu) == (True, "br0", 0)


def test_the_default_gateway_is_a_gateway() -> None:
    assert parsed(isDefaultGateway=True).is_gw


@pytest.mark.parametrize(
    ("value", "v4", "v6"),
    [(True, True, True), (False, False, False), ({"v6": False}, True, False), ({}, True, True)],
)
def test_masquerading_is_a_switch_or_an_object(value: Any, v4: bool, v6: bool) -> None:
    config = parsed(ipMasq=value)
    assert (config.ip_masq.v4, config.ip_masq.v6) == (v4, v6)


def test_masquerading_has_exclusions() -> None:
    masquerade = parsed(ipMasq={"exclude": ["10.0.0.5/8", "fd00::/8"], "randomFully": True}).ip_masq
    assert [str(network) for network in masquerade.exclude] == ["10.0.0.0/8", "fd00::/8"]
    assert masquerade.random_fully


def test_second_spellings_have_the_types_that_podman_reads() -> None:
    options = {"v6": False, "exclude": ["10.0.0.0/8"]}
    config = parsed(ipMasq=True, ipMasqOptions=options, mtuAuto=True)
    assert config.masquerade == parsed(ipMasq=options).masquerade
    assert config.wanted_mtu == parsed(mtu="auto").wanted_mtu == AUTO
    assert not parsed(ipMasq=False, ipMasqOptions=options).masquerade.is_on
    for keys, message in (
        ({"ipMasq": {"v4": False}, "ipMasqOptions": {}}, "ipMasqOptions is set"),
        ({"mtu": 1400, "mtuAuto": True}, "mtuAuto is true, and mtu is 1400"),
        ({"ipMasq": True, "ipMasqOptions": True}, "ipMasqOptions"),
    ):
        with pytest.raises(InvalidNetworkConfig, match=message):
            parsed(**keys)


def test_mtu_may_follow_the_host() -> None:
    assert parsed(mtu="auto").mtu == AUTO


def test_an_empty_trunk_is_a_trunk() -> None:
    assert parsed(vlanTrunk=[]).uses_vlans


def test_dns_is_given_when_any_key_is_even_an_empty_one() -> None:
    assert parsed(dns={}).dns is None
    assert parsed(dns={"search": []}).dns is not None
    assert parsed(dns={"nameservers": ["192.0.2.53"]}).dns.nameservers == ("192.0.2.53",)


@pytest.mark.parametrize(
    ("args", "keys", "mac"),
    [
        ("MAC=02:00:00:00:00:01", {}, "02:00:00:00:00:01"),
        ("MAC=02:00:00:00:00:01", {"args": {"cni": {"mac": "02:00:00:00:00:02"}}}, "02:00:00:00:00:02"),
        (
            "",
            {"args": {"cni": {"mac": "02:00:00:00:00:02"}}, "runtimeConfig": {"mac": "02:00:00:00:00:03"}},
            "02:00:00:00:00:03",
        ),
        ("IP=10.1.0.5", {"runtimeConfig": {"mac": ""}}, ""),
    ],
)
def test_the_mac_address_in_effect(args: str, keys: dict[str, Any], mac: str) -> None:
    assert parsed(args, **keys).mac == mac


BAD = [
    ({"bridge": 5}, "bridge: input should be a valid string, got 5"),
    ({"bridge": "../br"}, "contains / or : or whitespace"),
    ({"bridge": "sixteen-bytes-xx"}, "too long"),
    ({"bridge": ""}, "is empty"),
    ({"isGateway": "yes"}, "isGateway: input should be a valid boolean, got 'yes'"),
    ({"isGateway": 1}, "isGateway: input should be a valid boolean, got 1"),
    ({"mtu": "big"}, "invalid MTU 'big'"),
    ({"mtu": 67}, "invalid MTU 67"),
    ({"mtu": 65536}, "invalid MTU 65536"),
    ({"mtu": -1}, "invalid MTU -1"),
    ({"mtu": 1500.0}, "invalid MTU 1500.0"),
    ({"mtu": True}, "invalid MTU true"),
    ({"vlan": 4095}, "invalid VLAN ID 4095 (must be between 0 and 4094)"),
    ({"vlan": -1}, "invalid VLAN ID -1"),
    ({"vlan": "x"}, "invalid VLAN ID 'x'"),
    ({"vlanTrunk": {}}, "vlanTrunk: input should be a valid list"),
    ({"vlanTrunk": [{"id": 0}]}, "vlanTrunk[0]: incorrect trunk id parameter"),
    ({"vlanTrunk": [{"minID": 0, "maxID": 5}]}, "incorrect trunk minID parameter"),
    ({"vlanTrunk": [{"minID": 1, "maxID": 4095}]}, "incorrect trunk maxID parameter"),
    ({"vlanTrunk": [{"minID": 5, "maxID": 4}]}, "minID is greater than maxID in trunk parameter"),
    ({"vlanTrunk": [{"maxID": 4}]}, "minID and maxID should be configured simultaneously, minID is missing"),
    ({"vlanTrunk": [{"minID": 4}]}, "minID and maxID should be configured simultaneously, maxID is missing"),
    ({"ipMasq": "yes"}, "ipMasq: expected an object, got 'yes'"),
    ({"ipMasq": {"exclude": ["x"]}}, "ipMasq.exclude[0]: 'x' is not an address in CIDR notation"),
    ({"ipMasqBackend": "pf"}, "ipMasqBackend: input should be '', 'iptables' or 'nftables', got 'pf'"),
    (
        {"hairpinMode": True, "promiscMode": True},
        "cannot set hairpin mode and promiscuous mode at the same time",
    ),
    (
        {"disableContainerInterface": True, "ipam": {"type": "host-local"}},
        "cannot use IPAM when DisableContainerInterface flag is set",
    ),
    (
        {"isGateway": True, "bridge": "bridge-name-12", "vlan": 100},
        "link name 'bridge-name-12.100' is too long",
    ),
    ({"ipam": "host-local"}, "ipam: expected an object, got 'host-local'"),
    ({"ipam": {"type": 5}}, "ipam.type: input should be a valid string, got 5"),
    ({"dns": {"nameservers": "192.0.2.53"}}, "dns: nameservers: expected a list"),
    ({"dns": []}, "dns: expected an object, got []"),
    ({"runtimeConfig": {"mac": "zz"}}, "runtimeConfig.mac: invalid MAC address 'zz'"),
    (
        {"args": {"cni": {"mac": "01:00:5e:00:00:01"}}},
        "args.cni.mac: MAC address '01:00:5e:00:00:01' is multicast",
    ),
    ({"runtimeConfig": {"mac": "00:00:00:00:00:00"}}, "is all zero"),
]


@pytest.mark.parametrize(("keys", "message"), BAD)
def test_a_bad_config_is_refused_with_key_and_value(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidNetworkConfig) as caught:
        parsed(**keys)
    assert message in caught.value.details


def test_every_fault_is_named() -> None:
    with pytest.raises(InvalidNetworkConfig) as caught:
        parsed(mtu="x", vlan=-1, isGateway="y")
    assert all(key in caught.value.details for key in ("mtu", "vlan", "isGateway"))


def test_bad_arguments_are_the_environments_fault() -> None:
    with pytest.raises(BadEnvironment):
        parsed("MAC")
    with pytest.raises(InvalidNetworkConfig, match="invalid MAC address 'zz'"):
        parsed("MAC=zz")
