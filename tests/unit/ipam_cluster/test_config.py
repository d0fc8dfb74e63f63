"""The config of cluster: what it means, and what is wrong with it in one sentence."""

from typing import Any

import pytest

from cni_plugins.errors import CniError
from cni_plugins.ipam_cluster.config import Cluster, parse
from cni_plugins.protocol.request import Request

REGISTRY = {"type": "etcd", "endpoints": ["http://192.0.2.250:2379"]}
V4, V6 = {"subnet": "192.0.2.0/24"}, {"subnet": "2001:db8::/64"}


def parsed(args: str = "", conf: dict[str, Any] | None = None, **ipam: Any) -> Cluster:
    section = {"type": "cluster", "registry": REGISTRY, **ipam}
    return parse(
        Request(
            command="ADD", network="net", conf={"name": "net", "ipam": section, **(conf or {})}, args=args
        )
    )


def test_defaults_follow_from_the_subnet() -> None:
    (subnet,) = parsed(**V4).subnets
    assert (str(subnet.network), str(subnet.bounds), subnet.length) == (
        "192.0.2.0/24",
        "192.0.2.1-192.0.2.254",
        28,
    )
    assert str(subnet.only(subnet.network[1]).interface(subnet.bounds.gateway)) == "192.0.2.1/24"
    assert parsed(**V6).subnets[0].length == 120
    assert parsed(subnet="192.0.2.0/29").subnets[0].length == 29
    assert parsed(**V4).data_dir == "/var/lib/cni/networks"


def test_both_families_are_two_ranges() -> None:
    found = parsed(ranges=[[{**V4, "gateway": "192.0.2.254", "blockLen": 27}], [V6]])
    assert [(str(one.network), one.length) for one in found.subnets] == [
        ("192.0.2.0/24", 27),
        ("2001:db8::/64", 120),
    ]


def test_addresses_are_asked_for_in_three_ways() -> None:
    conf = {"runtimeConfig": {"ips": ["192.0.2.7/24"]}, "args": {"cni": {"ips": ["192.0.2.6"]}}}
    assert [str(one) for one in parsed("IP=192.0.2.5", conf, **V4).requested] == [
        "192.0.2.5",
        "192.0.2.6",
        "192.0.2.7",
    ]


BAD: list[Any] = [
    ({}, "one of subnet and ranges is needed"),
    ({**V4, "ranges": [[V6]]}, "one of subnet and ranges is needed"),
    ({"subnet": "192.0.2.1/24"}, "Network has host bits set"),
    ({"subnet": "192.0.2.0/31"}, "too small to allocate from"),
    ({"subnet": "x"}, "not an address in CIDR notation"),
    ({**V4, "blockLen": 23}, "blockLen 23 must be 24 to 32, as subnet is 192.0.2.0/24"),
    ({**V4, "blockLen": 33}, "blockLen 33 must be 24 to 32"),
    ({**V4, "blockLen": "28"}, "ipam.blockLen"),
    ({**V4, "rangeStart": "192.0.3.1"}, "RangeStart 192.0.3.1 not in network"),
    ({**V4, "rangeStart": "192.0.2.9", "rangeEnd": "192.0.2.8"}, "is after RangeEnd"),
    ({**V4, "exclude": ["192.0.3.0/28"]}, "exclude 192.0.3.0/28 is not in subnet"),
    ({**V4, "exclude": ["192.0.2.1/28"]}, "neither an address nor a network"),
    ({**V4, "exclude": [7]}, "neither an address nor a network"),
    ({**V4, "exclude": ["192.0.2.0/24"]}, "has no address to give out"),
    ({**V4, "rangeStart": "192.0.2.1", "rangeEnd": "192.0.2.1"}, "has no address to give out"),
    ({"ranges": [[V4, {"subnet": "192.0.3.0/24"}]]}, "ranges[0] must have one subnet"),
    ({"ranges": [[V4], [{"subnet": "192.0.3.0/24"}]]}, "more than one subnet of a family"),
    ({"ranges": [[V4], [{}]]}, "ranges[1][0]: subnet is missing"),
    ({**V4, "registry": None}, "registry"),
    ({**V4, "registry": {"type": "etcd"}}, "endpoints is missing"),
    ({**V4, "registry": {**REGISTRY, "tokens": ""}}, "unknown key 'tokens'"),
    ({**V4, "dataDir": "leases"}, "ipam.dataDir is not an absolute path"),
]


@pytest.mark.parametrize(("ipam", "text"), BAD)
def test_what_cannot_work_is_refused_with_key_and_value(ipam: dict[str, Any], text: str) -> None:
    with pytest.raises(CniError) as raised:
        parsed(**ipam)
    assert raised.value.code == 7
    assert text in raised.value.msg
