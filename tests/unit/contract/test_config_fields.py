"""Keys that plugins have in common, with the messages of their faults."""

from typing import Any

import pytest

from cni_plugins.contract.config_fields import (
    AUTO,
    NO_MASQUERADE,
    ArgsSection,
    IpMasqField,
    LinkName,
    Mac,
    MacHolder,
    Mtu,
    OptionalDns,
    PlainMtu,
    mac_in_effect,
)
from cni_plugins.contract.model import ConfigModel, load
from cni_plugins.errors import BadEnvironment, InvalidNetworkConfig
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import DNS


class Keys(ConfigModel):
    mac: Mac = ""
    link: LinkName = "br0"
    mtu: Mtu = 0
    plain: PlainMtu = 0
    ip_masq: IpMasqField = NO_MASQUERADE
    dns: OptionalDns = None


def loaded(**keys: Any) -> Keys:
    return load(Keys, keys)


@pytest.mark.parametrize("value", [0, 68, 65535])
def test_both_sorts_of_mtu_take_a_number(value: int) -> None:
    assert (loaded(mtu=value).mtu, loaded(plain=value).plain) == (value, value)


def test_auto_is_an_mtu_of_one_sort() -> None:
    assert loaded(mtu=AUTO).mtu == AUTO


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"plain": AUTO}, "plain: invalid MTU 'auto' (must be 0, or 68 to 65535)"),
        ({"plain": 67}, "invalid MTU 67"),
        ({"plain": True}, "invalid MTU true"),
        ({"mtu": 1500.0}, 'mtu: invalid MTU 1500.0 (must be 0, 68 to 65535, or "auto")'),
        ({"mtu": [1500]}, "invalid MTU [1500]"),
        ({"link": "a/b"}, "link: link name 'a/b' contains / or : or whitespace"),
        ({"link": 5}, "link: input should be a valid string, got 5"),
        ({"mac": "zz"}, "mac: invalid MAC address 'zz'"),
        ({"ipMasq": 1}, "ipMasq: expected an object, got 1"),
        ({"dns": {"search": "x"}}, "dns: search: expected a list"),
    ],
)
def test_a_fault_names_key_and_value(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidNetworkConfig) as caught:
        loaded(**keys)
    assert message in caught.value.details


@pytest.mark.parametrize(
    ("value", "families"),
    [(True, (True, True)), (False, (False, False)), ({"v4": False}, (False, True)), ({}, (True, True))],
)
def test_masquerading_is_a_switch_or_an_object(value: Any, families: tuple[bool, bool]) -> None:
    masquerade = loaded(ipMasq=value).ip_masq
    assert (masquerade.v4, masquerade.v6) == families
    assert masquerade.is_on is any(families)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ({}, None),
        ({"domain": ""}, None),
        ({"options": []}, DNS()),
        ({"domain": "example.org"}, DNS(domain="example.org")),
    ],
)
def test_dns_counts_when_a_list_or_a_domain_is_given(value: Any, wanted: DNS | None) -> None:
    assert loaded(dns=value).dns == wanted


@pytest.mark.parametrize(
    ("last", "wanted"),
    [("runtime", "02:00:00:00:00:04"), ("cni", "02:00:00:00:00:03"), ("args", "02:00:00:00:00:02")],
)
def test_who_is_nearest_to_the_user_chooses_the_mac_address(last: str, wanted: str) -> None:
    given = {"args": ("args",), "cni": ("args", "cni"), "runtime": ("args", "cni", "runtime")}[last]
    asked = Request("ADD", "net1", args="MAC=02:00:00:00:00:02" if "args" in given else "")
    args = ArgsSection(cni=MacHolder(mac="02:00:00:00:00:03" if "cni" in given else ""))
    runtime = MacHolder(mac="02:00:00:00:00:04" if "runtime" in given else "")
    assert mac_in_effect(asked, runtime, args, "02:00:00:00:00:01") == wanted


def test_the_configs_own_mac_address_is_the_last_choice() -> None:
    nobody = Request("ADD", "net1")
    assert mac_in_effect(nobody, MacHolder(), ArgsSection(), "02:00:00:00:00:01") == "02:00:00:00:00:01"
    assert mac_in_effect(nobody, MacHolder(), ArgsSection()) == ""


def test_bad_arguments_are_told_from_bad_addresses() -> None:
    with pytest.raises(BadEnvironment):
        mac_in_effect(Request("ADD", "net1", args="MAC"), MacHolder(), ArgsSection())
    with pytest.raises(InvalidNetworkConfig, match="invalid MAC address 'zz'"):
        mac_in_effect(Request("ADD", "net1", args="MAC=zz"), MacHolder(), ArgsSection())
