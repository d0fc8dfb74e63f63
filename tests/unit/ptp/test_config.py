"""Good and bad configs of the ptp plugin, each fault with its message."""

from typing import Any

import pytest

from cni_plugins.contract.config_fields import AUTO
from cni_plugins.errors import InvalidNetworkConfig
from cni_plugins.protocol.request import Request
from cni_plugins.ptp.config import PtpConfig, parse


def parsed(cni_args: str = "", **keys: Any) -> PtpConfig:
    conf = {"name": "net1", "type": "ptp", "ipam": {"type": "host-local"}, **keys}
    return parse(Request("ADD", "net1", conf=conf, args=cni_args))


def test_defaults_are_the_references() -> None:
    config = parsed()
    assert (config.mtu, config.mac, config.dns, config.ip_masq_backend) == (0, "", None, "")
    assert not any((config.ip_masq.is_on, config.routed, config.enabledad))


def test_keys_match_in_any_case_and_null_is_absent() -> None:
    config = parsed(IPMASQ=True, Mtu="auto", routed=None, EnableDAD=True, unknown=5)
    assert (config.ip_masq.v4, config.mtu, config.routed, config.enabledad) == (True, AUTO, False, True)


@pytest.mark.parametrize(
    ("args", "keys", "mac"),
    [
        ("", {"mac": "02-00-00-00-00-01"}, "02:00:00:00:00:01"),
        ("MAC=02:00:00:00:00:02", {"mac": "02:00:00:00:00:01"}, "02:00:00:00:00:02"),
        ("", {"runtimeConfig": {"mac": "02:00:00:00:00:03"}, "mac": ""}, "02:00:00:00:00:03"),
    ],
)
def test_the_mac_address_in_effect(args: str, keys: dict[str, Any], mac: str) -> None:
    assert parsed(args, **keys).mac == mac


BAD = [
    ({"ipam": None}, "ipam.type is missing: a point-to-point link needs addresses"),
    ({"ipam": {}}, "ipam.type is missing"),
    ({"ipam": {"type": ""}}, "ipam.type is missing"),
    ({"ipam": {"type": 5}}, "ipam.type: input should be a valid string, got 5"),
    ({"ipam": []}, "ipam: expected an object, got []"),
    ({"mtu": -1}, "invalid MTU -1"),
    ({"mtu": "big"}, "invalid MTU 'big'"),
    ({"ipMasq": "yes"}, "ipMasq: expected an object, got 'yes'"),
    ({"ipMasqBackend": "pf"}, "ipMasqBackend: input should be '', 'iptables' or 'nftables', got 'pf'"),
    ({"routed": "yes"}, "routed: input should be a valid boolean, got 'yes'"),
    ({"enabledad": 1}, "enabledad: input should be a valid boolean, got 1"),
    ({"mac": "zz"}, "mac: invalid MAC address 'zz'"),
    ({"runtimeConfig": {"mac": "01:00:5e:00:00:01"}}, "runtimeConfig.mac: MAC address"),
    ({"dns": []}, "dns: expected an object, got []"),
]


@pytest.mark.parametrize(("keys", "message"), BAD)
def test_a_bad_config_is_refused_with_key_and_value(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidNetworkConfig) as caught:
        parsed(**keys)
    assert message in caught.value.details


def test_every_fault_is_named() -> None:
    with pytest.raises(InvalidNetworkConfig) as caught:
        parsed(mtu="x", routed="y", mac="z")
    assert all(key in caught.value.details for key in ("mtu", "routed", "mac"))
