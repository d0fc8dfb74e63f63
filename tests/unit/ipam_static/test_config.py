from collections.abc import Mapping

import pytest

from cni_plugins.errors import BadEnvironment, InvalidNetworkConfig
from cni_plugins.ipam_static.config import Static, parse
from cni_plugins.protocol.request import Request

ONE = {"address": "10.1.0.5/24", "gateway": "10.1.0.1"}


def parsed(
    addresses: object = (),
    args: str = "",
    version: str = "1.1.0",
    conf: Mapping[str, object] | None = None,
    **ipam: object,
) -> Static:
    whole = {"ipam": {"addresses": list(addresses) if isinstance(addresses, tuple) else addresses, **ipam}}
    return parse(Request("ADD", "net", conf={**whole, **(conf or {})}, args=args, cni_version=version))


def shown(config: Static) -> list[str]:
    return [f"{ip.address} via {ip.gateway}" for ip in config.ips]


def test_addresses_routes_and_dns_are_returned_as_they_are() -> None:
    config = parsed(
        (ONE, {"address": "fd00::5/64"}),
        routes=[{"dst": "0.0.0.0/0", "mtu": 1400}],
        dns={"nameservers": ["10.1.0.1"], "domain": "example"},
    )
    assert shown(config) == ["10.1.0.5/24 via 10.1.0.1", "fd00::5/64 via None"]
    assert (str(config.routes[0].dst), config.routes[0].mtu) == ("0.0.0.0/0", 1400)
    assert (config.dns.nameservers, config.dns.domain) == (("10.1.0.1",), "example")


def test_no_address_at_all_is_a_result_without_addresses() -> None:
    assert parsed().ips == ()


def test_keys_match_in_any_case_and_null_means_absent() -> None:
    config = parsed(None, ADDRESSES=[{"Address": "10.1.0.5/24", "GATEWAY": None}])
    assert shown(config) == ["10.1.0.5/24 via None"]


def test_addresses_in_the_arguments_are_added() -> None:
    config = parsed((ONE,), args="IP=10.2.0.5/24,fd00::5/64")
    assert shown(config) == ["10.1.0.5/24 via 10.1.0.1", "10.2.0.5/24 via None", "fd00::5/64 via None"]


def test_an_address_given_twice_is_answered_once() -> None:
    assert shown(parsed((ONE,), args="IP=10.1.0.5/24")) == ["10.1.0.5/24 via 10.1.0.1"]


def test_a_gateway_in_the_arguments_serves_every_address_whose_subnet_it_is_in() -> None:
    config = parsed((ONE,), args="IP=10.2.0.5/24;GATEWAY=10.1.0.9,10.2.0.9,10.2.0.8")
    assert shown(config) == ["10.1.0.5/24 via 10.1.0.9", "10.2.0.5/24 via 10.2.0.8"]


@pytest.mark.parametrize("key", ["args", "runtimeConfig"])
def test_addresses_of_the_runtime_replace_all_others(key: str) -> None:
    asked = {"ips": ["10.9.0.5/24"]}
    config = parsed((ONE,), args="IP=10.2.0.5/24", conf={key: {"cni": asked} if key == "args" else asked})
    assert shown(config) == ["10.9.0.5/24 via None"]


def test_runtime_config_wins_over_args_and_its_doubles_count_once() -> None:
    conf = {
        "args": {"cni": {"ips": ["10.8.0.5/24"]}},
        "runtimeConfig": {"ips": ["10.9.0.5/24", "10.9.0.5/24"]},
    }
    assert shown(parsed(conf=conf)) == ["10.9.0.5/24 via None"]


def test_an_address_of_the_runtime_gets_a_configured_gateway_of_its_subnet() -> None:
    asked = {"runtimeConfig": {"ips": ["10.1.0.77/24", "fd00::77/64", "10.7.0.7/24"]}}
    config = parsed((ONE,), conf=asked, gateways=["192.168.0.1", "fd00::1", "fd00::2"])
    assert shown(config) == ["10.1.0.77/24 via 10.1.0.1", "fd00::77/64 via fd00::1", "10.7.0.7/24 via None"]


def test_a_gateway_beside_the_address_wins_over_those_of_the_list() -> None:
    assert shown(parsed((ONE,), gateways=["10.1.0.254"])) == ["10.1.0.5/24 via 10.1.0.1"]


def test_a_gateway_outside_the_subnet_is_the_operators_choice() -> None:
    assert shown(parsed(({"address": "10.1.0.5/32", "gateway": "169.254.1.1"},))) == [
        "10.1.0.5/32 via 169.254.1.1"
    ]


BAD = [
    ({"addresses": [{}]}, "field required", "ipam.addresses[0].address"),
    (
        {"addresses": [{"address": "10.1.0.5"}]},
        "the 'address' field is expected to be in CIDR notation, got: '10.1.0.5'",
        "ipam.addresses[0].address",
    ),
    ({"addresses": [{"address": 7}]}, "expected to be in CIDR notation, got: 7", "ipam.addresses[0].address"),
    ({"addresses": [ONE, {"address": "10.1.0.5/99"}]}, "got: '10.1.0.5/99'", "ipam.addresses[1].address"),
    ({"addresses": [{**ONE, "gateway": "x"}]}, "'x' is not an IP address", "ipam.addresses[0].gateway"),
    ({"addresses": {}}, "ipam.addresses", "{}"),
    ({"addresses": "10.1.0.5/24"}, "ipam.addresses", "'10.1.0.5/24'"),
    ({"gateways": ["10.1.0.1/24"]}, "'10.1.0.1/24' is not an IP address", "ipam.gateways[0]"),
    ({"gateways": "10.1.0.1"}, "ipam.gateways", "'10.1.0.1'"),
    ({"routes": [{"gw": "10.1.0.1"}]}, "is not an address in CIDR notation", "ipam.routes[0]"),
    ({"dns": []}, "expected an object, got []", "ipam.dns"),
    ({"dns": {"search": "a"}}, "expected a list", "ipam.dns"),
    ("x", "IPAM config missing 'ipam' key", "ipam is 'x'"),
    (None, "IPAM config missing 'ipam' key", "ipam is null"),
]


@pytest.mark.parametrize(("ipam", "message", "details"), BAD)
def test_a_config_that_cannot_work_is_refused_with_key_and_value(
    ipam: object, message: str, details: str
) -> None:
    with pytest.raises(InvalidNetworkConfig) as refused:
        parse(Request("ADD", "net", conf={"ipam": ipam}))
    assert message in refused.value.msg
    assert details in refused.value.details


@pytest.mark.parametrize(
    ("conf", "where"),
    [
        ({"runtimeConfig": {"ips": ["10.1.0.5"]}}, "runtimeConfig.ips[0]: the 'ips' field"),
        ({"runtimeConfig": {"ips": "10.1.0.5/24"}}, "runtimeConfig.ips"),
        ({"args": {"cni": {"ips": [7]}}}, "args.cni.ips[0]"),
    ],
)
def test_what_the_runtime_sends_is_checked_too(conf: Mapping[str, object], where: str) -> None:
    with pytest.raises(InvalidNetworkConfig) as refused:
        parsed(conf=conf)
    assert where in refused.value.details


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("IP=10.1.0.5", "the 'ip' field is expected to be in CIDR notation, got: '10.1.0.5'"),
        ("IP=10.1.0.5/24,", "the 'ip' field is expected to be in CIDR notation, got: ''"),
        ("GATEWAY=10.1.0.1/24", "invalid gateway address: 10.1.0.1/24"),
        ("IP=a=b", 'invalid pair "IP=a=b"'),
        ("COLOUR=red", "unknown args"),
    ],
)
def test_malformed_arguments_are_a_fault_of_the_environment(args: str, message: str) -> None:
    with pytest.raises(BadEnvironment) as refused:
        parsed(args=args)
    assert message in refused.value.msg


def test_old_versions_have_room_for_one_address_of_each_family() -> None:
    two = (ONE, {"address": "10.2.0.5/24"})
    assert len(parsed((ONE, {"address": "fd00::5/64"}), version="0.2.0").ips) == 2
    assert len(parsed(two, version="0.3.0").ips) == 2
    with pytest.raises(
        InvalidNetworkConfig, match=r"CNI version 0\.1\.0 does not support more than 1 address"
    ):
        parsed(two, version="0.1.0")
