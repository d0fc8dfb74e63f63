"""Good and bad configs of the sbr plugin, each fault with its message."""

from ipaddress import ip_address
from typing import Any

import pytest

from cni_plugins.errors import InvalidNetworkConfig
from cni_plugins.protocol.request import Request
from cni_plugins.sbr.config import SbrConfig, parse


def parsed(**keys: Any) -> SbrConfig:
    return parse(Request("ADD", "net1", conf={"name": "net1", "type": "sbr", **keys}))


def test_defaults_are_the_references() -> None:
    config = parsed()
    assert (config.table, config.gateways, config.add_source_hints) == (None, [], False)


def test_keys_match_in_any_case_and_null_is_absent() -> None:
    config = parsed(TABLE=5001, gateways=None, ADDSOURCEHINTS=True, unknown=5)
    assert (config.table, config.gateways, config.add_source_hints) == (5001, [], True)


@pytest.mark.parametrize("table", [1, 99, 100, 253, 254, 255, 256, 4294967295])
def test_every_number_that_the_kernel_has_is_a_table(table: int) -> None:
    assert parsed(table=table).table == table


def test_each_ip_version_may_have_a_gateway() -> None:
    config = parsed(gateways=["fd00::1", "10.0.0.1"])
    assert (config.gateway(4), config.gateway(6)) == (ip_address("10.0.0.1"), ip_address("fd00::1"))
    assert parsed(gateways=["fe80::1"]).gateway(4) is None


BAD = [
    ({"table": 0}, "table: invalid table 0 (must be 1 to 4294967295)"),
    ({"table": -1}, "table: invalid table -1 (must be 1 to 4294967295)"),
    ({"table": 4294967296}, "table: invalid table 4294967296"),
    ({"table": 10**30}, "table: invalid table 1000000000000000000000000000000"),
    ({"table": "100"}, "table: invalid table '100'"),
    ({"table": "main"}, "table: invalid table 'main'"),
    ({"table": True}, "table: invalid table true"),
    ({"table": 100.0}, "table: invalid table 100.0"),
    ({"table": [100]}, "table: invalid table [100]"),
    ({"gateways": "10.0.0.1"}, "gateways: expected a list of addresses, got '10.0.0.1'"),
    ({"gateways": {}}, "gateways: expected a list of addresses, got {}"),
    ({"gateways": [""]}, "gateways: invalid static gateway IP address: ''"),
    ({"gateways": ["rubbish"]}, "gateways: invalid static gateway IP address: 'rubbish'"),
    ({"gateways": ["10.0.0.1\0"]}, "gateways: invalid static gateway IP address: '10.0.0.1\\x00'"),
    ({"gateways": ["fe80::1%eth0"]}, "gateways: invalid static gateway IP address: 'fe80::1%eth0'"),
    ({"gateways": ["10.0.0.0/24"]}, "gateways: invalid static gateway IP address: '10.0.0.0/24'"),
    ({"gateways": [5]}, "gateways: invalid static gateway IP address: 5"),
    ({"gateways": [None]}, "gateways: invalid static gateway IP address: null"),
    ({"gateways": ["0.0.0.0"]}, "gateways: static gateway 0.0.0.0 is not the address of a neighbour"),
    ({"gateways": ["ff02::1"]}, "gateways: static gateway ff02::1 is not the address of a neighbour"),
    ({"gateways": ["127.0.0.1"]}, "gateways: static gateway 127.0.0.1 is not the address of a neighbour"),
    (
        {"gateways": ["10.0.0.1", "10.0.0.2"]},
        "gateways: gateways list contains multiple IPv4 addresses: 10.0.0.1 and 10.0.0.2",
    ),
    (
        {"gateways": ["fd00::1", "fd00::1"]},
        "gateways: gateways list contains multiple IPv6 addresses: fd00::1 and fd00::1",
    ),
    (
        {"gateways": ["10.0.0.1", "fd00::1", "fd00::2"]},
        "gateways: gateways list cannot contain more than 2 entries (one IPv4, one IPv6)",
    ),
    ({"addSourceHints": "yes"}, "addSourceHints: input should be a valid boolean, got 'yes'"),
    ({"addSourceHints": 1}, "addSourceHints: input should be a valid boolean, got 1"),
]


@pytest.mark.parametrize(("keys", "message"), BAD, ids=str)
def test_a_bad_config_is_refused_with_key_and_value(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidNetworkConfig) as raised:
        parsed(**keys)
    assert message in raised.value.msg


def test_every_fault_is_told() -> None:
    with pytest.raises(InvalidNetworkConfig) as raised:
        parsed(table=0, gateways=5, addSourceHints=5)
    assert raised.value.details.count(";") == 2
