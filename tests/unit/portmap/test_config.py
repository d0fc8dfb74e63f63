"""Good and bad configs of the portmap plugin, each fault with its message."""

from typing import Any

import pytest

from cni_plugins.errors import InvalidNetworkConfig
from cni_plugins.portmap.config import PortmapConfig, parse
from cni_plugins.protocol.request import Request

PORT = {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}


def parsed(*ports: dict[str, Any], **keys: Any) -> PortmapConfig:
    runtime = {"runtimeConfig": {"portMappings": list(ports)}} if ports else {}
    return parse(Request("ADD", "net1", conf={"name": "net1", "type": "portmap", **runtime, **keys}))


def test_defaults_are_the_references() -> None:
    config = parsed()
    assert (config.snat, config.masq_all, config.mark_bit) == (True, False, 13)
    assert config.chosen_backend == "nftables"
    assert config.runtime_config.port_mappings == []


def test_keys_match_in_any_case_and_null_is_absent() -> None:
    config = parsed(
        RuntimeConfig={"PORTMAPPINGS": [{**PORT, "hostIp": "192.0.2.1"}]}, SNAT=None, masqall=True
    )
    (mapping,) = config.runtime_config.port_mappings
    assert (str(mapping.own_ip), config.snat, config.masq_all) == ("192.0.2.1", True, True)


@pytest.mark.parametrize(
    ("host_ip", "versions", "own"),
    [
        (None, (4, 6), "None"),
        ("", (4, 6), "None"),
        ("0.0.0.0", (4,), "None"),
        ("::", (6,), "None"),
        ("192.0.2.1", (4,), "192.0.2.1"),
        ("fd00::1", (6,), "fd00::1"),
        ("::ffff:192.0.2.1", (4,), "192.0.2.1"),
    ],
)
def test_a_host_address_chooses_the_ip_version(host_ip: Any, versions: Any, own: str) -> None:
    (mapping,) = parsed({**PORT, "hostIP": host_ip}).runtime_config.port_mappings
    assert (mapping.versions, str(mapping.own_ip)) == (versions, own)


@pytest.mark.parametrize(
    ("keys", "backend"),
    [
        ({}, "nftables"),
        ({"backend": ""}, "nftables"),
        ({"backend": "iptables"}, "iptables"),
        ({"conditionsV4": ["-s", "10.0.0.0/8"]}, "iptables"),
        ({"conditionsV6": ["!", "-d", "fd00::/8"]}, "iptables"),
        ({"conditionsV4": ["ip", "saddr", "10.0.0.0/8"]}, "nftables"),
        ({"conditionsV4": []}, "nftables"),
        ({"externalSetMarkChain": "KUBE-MARK-MASQ"}, "iptables"),
        ({"externalSetMarkChain": "", "markMasqBit": 0}, "nftables"),
    ],
)
def test_the_backend_follows_from_what_the_config_is_written_for(keys: dict[str, Any], backend: str) -> None:
    assert parsed(**keys).chosen_backend == backend


@pytest.mark.parametrize(
    "ports",
    [
        [PORT, {**PORT, "protocol": "udp"}],
        [PORT, {**PORT, "hostPort": 8081}],
        [{**PORT, "hostIP": "192.0.2.1"}, {**PORT, "hostIP": "192.0.2.2"}],
        [{**PORT, "hostIP": "0.0.0.0"}, {**PORT, "hostIP": "::"}],
        [PORT, {**PORT, "hostIP": "192.0.2.1"}],
        [{**PORT, "hostPort": 1}, {**PORT, "hostPort": 65535}],
    ],
)
def test_ports_that_differ_in_anything_are_published_together(ports: list[dict[str, Any]]) -> None:
    assert len(parsed(*ports).runtime_config.port_mappings) == len(ports)


BAD_PORTS: list[tuple[list[Any], str]] = [
    ([{**PORT, "hostPort": 0}], "hostPort: Invalid host port number: 0"),
    ([{**PORT, "hostPort": 70000}], "hostPort: Invalid host port number: 70000"),
    ([{**PORT, "hostPort": -1}], "hostPort: Invalid host port number: -1"),
    ([{**PORT, "hostPort": "80"}], "hostPort: Invalid host port number: '80'"),
    ([{**PORT, "hostPort": True}], "hostPort: Invalid host port number: true"),
    ([{**PORT, "hostPort": 80.5}], "hostPort: Invalid host port number: 80.5"),
    ([{**PORT, "containerPort": 0}], "containerPort: Invalid container port number: 0"),
    ([{**PORT, "containerPort": 65536}], "containerPort: Invalid container port number: 65536"),
    ([{"hostPort": 80, "protocol": "tcp"}], "containerPort: field required"),
    ([{**PORT, "protocol": "TCP"}], "protocol: protocol 'TCP' is not one of tcp, udp, sctp"),
    ([{**PORT, "protocol": ""}], "protocol: protocol '' is not one of tcp, udp, sctp"),
    ([{**PORT, "protocol": "icmp"}], "protocol: protocol 'icmp' is not one of tcp, udp, sctp"),
    ([{**PORT, "protocol": 6}], "protocol: protocol 6 is not one of"),
    ([{**PORT, "hostIP": "192.0.2"}], "hostIP: '192.0.2' is not an IP address"),
    ([{**PORT, "hostIP": "192.0.2.1/24"}], "hostIP: '192.0.2.1/24' is not an IP address"),
    ([{**PORT, "hostIP": "fe80::1%eth0"}], "hostIP: 'fe80::1%eth0' is not an IP address"),
    ([{**PORT, "hostIP": "224.0.0.1"}], "hostIP: '224.0.0.1' is a multicast address"),
    ([{**PORT, "hostIP": 5}], "hostIP: 5 is not an IP address"),
    ([PORT, PORT], "host port 8080/tcp is published twice"),
    ([PORT, {**PORT, "containerPort": 81}], "host port 8080/tcp is published twice"),
    ([PORT, {**PORT, "hostIP": "0.0.0.0"}], "host port 8080/tcp is published twice"),
    (
        [{**PORT, "hostIP": "fd00::1"}, {**PORT, "hostIP": "fd00:0::1"}],
        "host fd00::1 port 8080/tcp is published twice",
    ),
    (["8080:80"], "portMappings[0]: expected an object"),
]


@pytest.mark.parametrize(("ports", "message"), BAD_PORTS)
def test_a_bad_port_is_refused_with_key_and_value(ports: list[Any], message: str) -> None:
    with pytest.raises(InvalidNetworkConfig) as caught:
        parsed(*ports)
    assert message in f"{caught.value.msg}; {caught.value.details}"


BAD = [
    ({"backend": "ipvs"}, "unrecognized backend 'ipvs'"),
    ({"backend": 5}, "unrecognized backend 5"),
    ({"snat": "yes"}, "snat: input should be a valid boolean, got 'yes'"),
    ({"markMasqBit": 32}, "MasqMarkBit must be between 0 and 31"),
    ({"markMasqBit": -1}, "MasqMarkBit must be between 0 and 31"),
    ({"markMasqBit": 1, "externalSetMarkChain": "X"}, "Cannot specify externalSetMarkChain and markMasqBit"),
    ({"externalSetMarkChain": "-j"}, "'-j' is not the name of an iptables chain"),
    ({"externalSetMarkChain": "a b"}, "'a b' is not the name of an iptables chain"),
    ({"externalSetMarkChain": "x" * 29}, "is not the name of an iptables chain"),
    (
        {"backend": "iptables", "conditionsV4": ["ip", "saddr", "x"], "conditionsV6": ["ip6", "saddr", "x"]},
        "iptables backend was requested but configuration contains nftables-specific options [conditionsV4 c",
    ),
    (
        {"backend": "nftables", "conditionsV4": ["-s", "10.0.0.0/8"]},
        "nftables backend was requested but configuration contains iptables-specific options [conditionsV4]",
    ),
    (
        {"backend": "nftables", "externalSetMarkChain": "X"},
        "backend was requested but configuration contains iptables-specific options [externalSetMarkChain]",
    ),
    (
        {"conditionsV4": ["ip", "saddr", "1.2.3.4;", "flush", "ruleset"]},
        "'1.2.3.4;' is not part of a condition",
    ),
    ({"conditionsV4": ["ip", "a\nb"]}, "is not part of a condition"),
    ({"conditionsV4": ["ip", "saddr", "1.2.3.4 accept"]}, "is not part of a condition"),
    ({"conditionsV4": ["-s", "10.0.0.0/8", "-j", "ACCEPT"]}, "'-j' is not part of a condition"),
    ({"conditionsV4": ["-s", "x\n-F"]}, "is not part of a condition"),
    ({"conditionsV4": "ip saddr 10.0.0.1"}, "conditionsV4: input should be a valid list"),
    ({"conditionsV4": [5]}, "conditionsV4[0]: input should be a valid string"),
    ({"runtimeConfig": []}, "runtimeConfig: expected an object"),
    ({"runtimeConfig": {"portMappings": {}}}, "portMappings: input should be a valid list"),
]


@pytest.mark.parametrize(("keys", "message"), BAD)
def test_a_bad_config_is_refused_with_key_and_value(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidNetworkConfig) as caught:
        parsed(**keys)
    assert message in f"{caught.value.msg}; {caught.value.details}"
