"""Records of hosts: what each must be, and what all of them together."""

from ipaddress import IPv4Network, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cni_plugins.contract.model import ConfigModel, load
from cni_plugins.errors import InvalidNetworkConfig
from cni_plugins.vxlan.records import MOST_PEERS, Extent, Record, RecordList, faults

ROUTED = Extent("l3", (ip_network("10.244.0.0/16"), ip_network("fd00::/16")), 0, 4789)
STRETCHED = Extent("l2", (ip_network("192.168.100.0/24"),), 0, 4789)


class Holder(ConfigModel):
    peers: RecordList


def models(*records: Any) -> Any:
    return load(Holder, {"peers": list(records)}).peers


def found(extent: Extent, *records: Any) -> list[str]:
    return list(faults(models(*records), extent))


def l3(last: int, subnet: str, **more: Any) -> dict[str, Any]:
    return {"node": f"h{last}", "vtep": f"192.0.2.{last}", "subnet": subnet, **more}


def test_a_record_is_an_object_or_an_address_alone() -> None:
    one, other, third = models(
        {"vtep": "192.0.2.1"},
        "192.0.2.2",
        {"NODE": "h3", "vtep": "192.0.2.3", "mac": "02-00-00-00-00-03", "mtu": 1500, "epoch": "x", "v": 1},
    )
    assert one.record() == Record("192.0.2.1", ip_address("192.0.2.1"))
    assert other.record() == Record("192.0.2.2", ip_address("192.0.2.2"))
    assert third.record() == Record("h3", ip_address("192.0.2.3"), mac="02:00:00:00:00:03", mtu=1500)


def test_parts_are_one_or_a_list_under_either_key() -> None:
    expected = (ip_network("10.244.1.0/24"), ip_network("fd00:1::/64"))
    listed = list(map(str, expected))
    for keys in ({"subnets": listed}, {"subnet": listed}, {"subnet": listed[0], "subnets": listed[1]}):
        (model,) = models({"vtep": "192.0.2.1", **keys})
        assert model.record().subnets == expected
    (model,) = models({"vtep": "192.0.2.1", "blocks": "10.0.0.0/28"})
    assert model.record().blocks == (ip_network("10.0.0.0/28"),)


BAD: list[tuple[Any, str]] = [
    (5, "peers[0]: expected an object, got 5"),
    (["192.0.2.1"], 'peers[0]: expected an object, got ["192.0.2.1"]'),
    ("h1", "peers[0].vtep: 'h1' is not an IP address"),
    ({}, "peers[0].vtep: field required"),
    ({"vtep": "192.0.2.1", "subnetz": "10.244.1.0/24"}, "peers[0]: unknown key 'subnetz' (known are block, "),
    ({"vtep": 3221225985}, "peers[0].vtep: 3221225985 is not an IP address"),
    ({"vtep": "192.0.2.1/24"}, "peers[0].vtep: '192.0.2.1/24' is not an IP address"),
    ({"vtep": "fe80::1%eth0"}, "peers[0].vtep: 'fe80::1%eth0' is not an IP address"),
    ({"vtep": "239.1.1.1"}, "peers[0]: vtep 239.1.1.1 is not a host address"),
    ({"vtep": "0.0.0.0"}, "peers[0]: vtep 0.0.0.0 is not a host address"),
    ({"vtep": "127.0.0.1"}, "peers[0]: vtep 127.0.0.1 is not a host address"),
    ({"vtep": "::1"}, "peers[0]: vtep ::1 is not a host address"),
    ({"vtep": "255.255.255.255"}, "peers[0]: vtep 255.255.255.255 is not a host address"),
    ({"vtep": "169.254.1.1"}, "peers[0]: vtep 169.254.1.1 is a link-local address"),
    ({"vtep": "fe80::1"}, "peers[0]: vtep fe80::1 is a link-local address"),
    ({"vtep": "192.0.2.1", "v": 2}, "peers[0]: v is 2; this build reads records of version 1"),
    ({"vtep": "192.0.2.1", "v": "1"}, "peers[0].v: input should be a valid integer, got '1'"),
    ({"vtep": "192.0.2.1", "mtu": 575}, "peers[0]: mtu is 575 (must be 576 to 65535)"),
    ({"vtep": "192.0.2.1", "mtu": 65536}, "peers[0]: mtu is 65536 (must be 576 to 65535)"),
    ({"vtep": "192.0.2.1", "mtu": -1}, "peers[0]: mtu is -1"),
    ({"vtep": "192.0.2.1", "mac": "01:00:5e:00:00:01"}, "peers[0].mac: MAC address '01:00:5e:00:00:01' is"),
    ({"vtep": "192.0.2.1", "subnet": "10.244.1.0"}, "peers[0].subnet[0]: '10.244.1.0' is not an address in"),
    ({"vtep": "192.0.2.1", "subnet": None, "blocks": [None]}, "peers[0].blocks[0]: null is not an address"),
    ({"vtep": "192.0.2.1", "node": "n" * 254}, "peers[0].node: "),
    ({"vtep": "192.0.2.1", "node": "h\n1"}, "peers[0]: node 'h\\n1' has unprintable characters"),
    ({"vtep": "192.0.2.1", "node": "h\x1b[2J"}, "has unprintable characters"),
    ({"vtep": "192.0.2.1", "subnet": "10.244.1.1/24"}, "'10.244.1.1/24' is an address; the network is"),
    ({"vtep": "192.0.2.1", "blocks": ["10.244.1.8/28"]}, "peers[0].blocks[0]: '10.244.1.8/28' is an address"),
    ({"vtep": "192.0.2.1", "node": 5}, "peers[0].node: input should be a valid string, got 5"),
]


@pytest.mark.parametrize(("record", "message"), BAD)
def test_a_bad_record_is_refused_with_path_and_value(record: Any, message: str) -> None:
    with pytest.raises(InvalidNetworkConfig) as caught:
        models(record)
    assert message in caught.value.details


def test_every_bad_record_is_named_and_the_good_ones_are_not() -> None:
    with pytest.raises(InvalidNetworkConfig) as caught:
        models("192.0.2.1", "x", "192.0.2.3", {"vtep": "y"})
    assert "peers[1].vtep: 'x'" in caught.value.details
    assert "peers[3].vtep: 'y'" in caught.value.details
    assert "[0]" not in caught.value.details


def test_there_is_a_limit_to_their_number() -> None:
    assert len(models(*["192.0.2.1"] * MOST_PEERS)) == MOST_PEERS
    with pytest.raises(InvalidNetworkConfig, match=f"peers: .*{MOST_PEERS} items"):
        models(*["192.0.2.1"] * (MOST_PEERS + 1))


AT_ODDS: list[tuple[Extent, list[Any], str]] = [
    (ROUTED, [l3(1, "10.245.1.0/24")], "peer h1: subnet 10.245.1.0/24 is outside 10.244.0.0/16, fd00::/16"),
    (ROUTED, [l3(1, "10.0.0.0/8")], "peer h1: subnet 10.0.0.0/8 is outside"),
    (ROUTED, [l3(1, "10.244.1.0/31")], "peer h1: subnet 10.244.1.0/31 is too small"),
    (ROUTED, [l3(1, "fd00:1::/127")], "peer h1: subnet fd00:1::/127 is too small"),
    (ROUTED, [l3(1, "10.244.1.0/24", block="10.244.1.0/28")], "peer h1: blocks 10.244.1.0/28 in mode l3"),
    (ROUTED, [l3(1, "10.244.1.0/24", port=8472)], "peer h1: port is 8472, the network's is 4789"),
    (
        ROUTED,
        [l3(1, "10.244.1.0/24", subnets=["10.244.2.0/24"])],
        "peer h1: more than one IPv4 subnet",
    ),
    (
        ROUTED,
        [l3(1, "10.244.1.0/24", subnets=["fd00:1::/64", "fd00:2::/64"])],
        "peer h1: more than one IPv6 subnet",
    ),
    (
        ROUTED,
        [{"node": "h1", "vtep": "10.244.9.1", "subnet": "10.244.1.0/24"}],
        "peer h1: vtep 10.244.9.1 is an address of the overlay itself (10.244.0.0/16)",
    ),
    (
        ROUTED,
        [l3(1, "10.244.1.0/24"), l3(2, "10.244.2.0/24", node="h1")],
        "peers h1 and h1 both have node 'h1'",
    ),
    (
        ROUTED,
        [l3(1, "10.244.1.0/24"), l3(2, "10.244.2.0/24", vtep="192.0.2.1")],
        "peers h1 and h2 both have vtep '192.0.2.1'",
    ),
    (
        ROUTED,
        [l3(1, "10.244.1.0/24"), l3(2, "10.244.2.0/24", vtep="2001:db8::2")],
        "peers h1 and h2: IPv4 and IPv6 vteps cannot be mixed",
    ),
    (ROUTED, [l3(1, "10.244.1.0/24"), {"node": "h2", "vtep": "192.0.2.2"}], "peer h2 has no subnet, but h1"),
    (
        ROUTED,
        [l3(1, "10.244.0.0/20"), l3(2, "10.244.15.0/24")],
        "subnet 10.244.15.0/24 of peer h2 overlaps 10.244.0.0/20 of peer h1",
    ),
    (
        ROUTED,
        [l3(1, "10.244.1.0/24"), l3(2, "10.244.1.0/24")],
        "subnet 10.244.1.0/24 of peer h2 overlaps 10.244.1.0/24 of peer h1",
    ),
    (
        ROUTED,
        [l3(1, "10.244.1.0/24", mac="02:00:00:00:00:01"), l3(2, "10.244.2.0/24", mac="02:00:00:00:00:01")],
        "peers h1 and h2 both have mac '02:00:00:00:00:01'",
    ),
    (
        ROUTED,
        [l3(1, "10.244.1.0/24"), l3(2, "10.244.2.0/24", mac="02:fe:c0:00:02:01")],
        "peers h1 and h2 both have mac '02:fe:c0:00:02:01'",
    ),
    (
        STRETCHED,
        [{"node": "h1", "vtep": "192.0.2.1", "blocks": ["192.168.100.0/27", "192.168.100.16/28"]}],
        "peer h1: blocks 192.168.100.0/27 and 192.168.100.16/28 overlap",
    ),
    (
        STRETCHED,
        [{"node": f"h{n}", "vtep": f"192.0.2.{n}", "block": "192.168.100.5/32"} for n in (1, 2)],
        "block 192.168.100.5/32 of peer h2 overlaps 192.168.100.5/32 of peer h1",
    ),
    (
        STRETCHED,
        [{"node": "h1", "vtep": "192.0.2.1", "subnet": "192.168.100.0/28"}],
        "peer h1: subnets 192.168.100.0/28 in mode l2",
    ),
    (
        STRETCHED,
        [{"node": "h1", "vtep": "192.0.2.1", "block": "192.168.101.0/28"}],
        "peer h1: block 192.168.101.0/28 is outside 192.168.100.0/24",
    ),
]


@pytest.mark.parametrize(("extent", "records", "message"), AT_ODDS)
def test_records_at_odds_with_the_network_or_each_other(
    extent: Extent, records: list[Any], message: str
) -> None:
    assert any(fault.startswith(message) for fault in found(extent, *records)), found(extent, *records)


def test_the_length_of_parts_is_of_ipv4_alone() -> None:
    extent = ROUTED._replace(length=24)
    assert not found(extent, l3(1, "10.244.1.0/24", subnets=["fd00:1::/64"]))
    assert found(extent, l3(1, "10.244.1.0/25")) == [
        "peer h1: subnet 10.244.1.0/25 must have prefix length /24"
    ]


def test_sound_records() -> None:
    assert not found(ROUTED, l3(1, "10.244.1.0/24"), l3(2, "10.244.2.0/24", port=4789))
    assert not found(ROUTED, "192.0.2.1", "192.0.2.2")
    assert not found(ROUTED, l3(1, "10.244.1.0/24", subnets=["fd00:1::/64"]), l3(2, "10.244.2.0/24"))


# ---------------------------------------------------------------------------------------------- any records


@st.composite
def splits(draw: st.DrawFn, network: str = "10.244.0.0/16") -> list[IPv4Network]:
    """Draw disjoint parts of a network, of many lengths, in any order."""
    whole = [IPv4Network(network)]
    for _ in range(draw(st.integers(0, 12))):
        chosen = whole.pop(draw(st.integers(0, len(whole) - 1)))
        whole += [chosen] if chosen.prefixlen > 28 else list(chosen.subnets())
    kept = draw(st.lists(st.sampled_from(whole), unique=True, min_size=1))
    return draw(st.permutations(kept))


def of(parts: list[IPv4Network]) -> list[dict[str, Any]]:
    return [l3(number, str(part)) for number, part in enumerate(parts, start=1)]


@settings(max_examples=60)
@given(splits())
def test_disjoint_subnets_are_never_at_odds(parts: list[IPv4Network]) -> None:
    assert not found(ROUTED, *of(parts))


@settings(max_examples=60)
@given(splits(), st.data())
def test_an_overlap_is_always_found(parts: list[IPv4Network], data: st.DataObject) -> None:
    victim = data.draw(st.sampled_from(parts))
    length = data.draw(st.integers(16, 30))
    number = data.draw(st.integers(int(victim.network_address), int(victim.broadcast_address)))
    intruder = IPv4Network((number, length), strict=False)
    records = data.draw(st.permutations(of([*parts, intruder])))
    assert any("overlap" in fault for fault in found(ROUTED, *records))


@settings(max_examples=60)
@given(st.lists(st.integers(1, 254), unique=True, min_size=2, max_size=8), st.data())
def test_a_vtep_that_two_hosts_have_is_always_found(lasts: list[int], data: st.DataObject) -> None:
    records = [l3(last, f"10.244.{last}.0/24") for last in lasts]
    assert not found(ROUTED, *records)
    twice = data.draw(st.sampled_from(records))
    other = {**twice, "node": "other", "subnet": "10.244.0.0/24"}
    mixed = data.draw(st.permutations([*records, other]))
    assert any("both have vtep" in fault for fault in found(ROUTED, *mixed))
