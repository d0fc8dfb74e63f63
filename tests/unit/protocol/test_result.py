"""One result, seven shapes."""

import json
from ipaddress import ip_address, ip_interface
from typing import Any

import pytest

from cni_plugins.errors import DecodingFailed, InvalidNetworkConfig
from cni_plugins.protocol.decode import parse_result
from cni_plugins.protocol.encode import encode
from cni_plugins.protocol.result import DNS, Interface, IPConfig, Result, Route, own_part

FULL = Result(
    interfaces=(
        Interface("br0", "02:00:00:00:00:01"),
        Interface("eth0", "02:00:00:00:00:02", "/ns", mtu=1400),
    ),
    ips=(
        IPConfig(ip_interface("10.1.0.2/24"), ip_address("10.1.0.1"), 1),
        IPConfig(ip_interface("10.2.0.2/24"), None, 1),
        IPConfig(ip_interface("fd00::2/64"), ip_address("fd00::1"), 1),
    ),
    routes=(
        Route(ip_interface("0.0.0.0/0"), ip_address("10.1.0.1")),
        Route(ip_interface("192.0.2.0/24"), None, mtu=1300, advmss=1200, priority=7, table=0, scope=253),
    ),
    dns=DNS(nameservers=("192.0.2.53",), search=("example.org",)),
)


def decoded(version: str, result: Result = FULL) -> dict[str, Any]:
    return json.loads(encode(result, version))


def test_version_1_1_reports_everything_with_sorted_keys() -> None:
    document = decoded("1.1.0")
    assert list(document) == ["cniVersion", "dns", "interfaces", "ips", "routes"]
    assert document["interfaces"][1] == {
        "mac": "02:00:00:00:00:02",
        "mtu": 1400,
        "name": "eth0",
        "sandbox": "/ns",
    }
    assert document["ips"][0] == {"address": "10.1.0.2/24", "gateway": "10.1.0.1", "interface": 1}
    assert document["routes"][1] == {
        "dst": "192.0.2.0/24",
        "mtu": 1300,
        "advmss": 1200,
        "priority": 7,
        "table": 0,
        "scope": 253,
    }


def test_version_1_0_has_no_mtu_of_interfaces() -> None:
    assert "mtu" not in decoded("1.0.0")["interfaces"][1]


@pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0"])
def test_middle_versions_name_the_family_and_always_have_dns(version: str) -> None:
    document = decoded(version)
    assert list(document) == ["cniVersion", "interfaces", "ips", "routes", "dns"]
    assert document["ips"][2] == {
        "version": "6",
        "interface": 1,
        "address": "fd00::2/64",
        "gateway": "fd00::1",
    }
    assert decoded(version, FULL._replace(dns=DNS()))["dns"] == {}


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_old_versions_have_one_address_of_each_family(version: str) -> None:
    document = decoded(version)
    assert document == {
        "cniVersion": version,
        "ip4": {
            "ip": "10.1.0.2/24",
            "gateway": "10.1.0.1",
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}, {"dst": "192.0.2.0/24"}],
        },
        "ip6": {"ip": "fd00::2/64", "gateway": "fd00::1"},
        "dns": {"nameservers": ["192.0.2.53"], "search": ["example.org"]},
    }


def test_old_versions_cannot_be_without_addresses() -> None:
    with pytest.raises(InvalidNetworkConfig):
        encode(Result(interfaces=FULL.interfaces), "0.2.0")


def test_empty_parts_are_left_out() -> None:
    assert decoded("1.1.0", Result()) == {"cniVersion": "1.1.0"}


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_what_passes_through_loses_nothing(version: str) -> None:
    document = json.loads(encode(FULL, version))
    document["example.org/top"] = {"kept": [1, None]}
    document["interfaces"][0]["unknown"] = "kept"
    document["ips"][0]["unknown"] = 5
    document["routes"][0]["unknown"] = True
    assert json.loads(encode(parse_result(document, version), version)) == document


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_the_old_shape_is_read_too(version: str) -> None:
    document = json.loads(encode(FULL, version))
    assert json.loads(encode(parse_result(document, version), version)) == document


def test_what_1_0_does_not_know_is_kept_for_those_who_do() -> None:
    document = {"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "mtu": 1400, "pciID": "x"}]}
    assert json.loads(encode(parse_result(document, "1.0.0"), "1.0.0")) == document


@pytest.mark.parametrize(
    "document",
    [
        [],
        {"ips": {}},
        {"ips": [1]},
        {"ips": [{"address": "10.0.0.1"}]},
        {"ips": [{"address": "10.0.0.1/24", "interface": "0"}]},
        {"ips": [{"address": "10.0.0.1/24", "gateway": "10.0.0.300"}]},
        {"ips": [{"address": "fe80::1%eth0/64"}]},
        {"routes": [{"dst": "x"}]},
        {"routes": [{"dst": "0.0.0.0/0", "mtu": -1}]},
        {"interfaces": [{"name": 5}]},
        {"dns": {"nameservers": "192.0.2.1"}},
        {"dns": {"search": [1]}},
    ],
)
def test_a_result_of_the_wrong_shape_is_refused(document: Any) -> None:
    with pytest.raises(DecodingFailed):
        parse_result(document, "1.1.0")


def test_own_part_leaves_out_what_belongs_to_other_interfaces() -> None:
    result = Result(
        interfaces=(Interface("eth0", sandbox="/ns"), Interface("eth1", sandbox="/ns"), Interface("eth0")),
        ips=(
            IPConfig(ip_interface("10.1.0.2/24"), None, 0),
            IPConfig(ip_interface("10.2.0.2/24"), None, 1),
            IPConfig(ip_interface("10.3.0.2/24"), None, 2),
            IPConfig(ip_interface("10.4.0.2/24")),
        ),
        routes=(
            Route(ip_interface("0.0.0.0/0"), ip_address("10.1.0.1")),
            Route(ip_interface("192.0.2.0/24"), ip_address("10.2.0.1")),
            Route(ip_interface("198.51.100.0/24")),
        ),
    )
    own = own_part(result, "eth0", "/ns")
    assert [str(ip.address) for ip in own.ips] == ["10.1.0.2/24", "10.4.0.2/24"]
    assert [str(route.dst) for route in own.routes] == ["0.0.0.0/0"]
    alone = result._replace(ips=result.ips[:1])
    assert own_part(alone, "eth0", "/ns").routes == result.routes
