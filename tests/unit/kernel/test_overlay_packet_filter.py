"""What of the packet filter is decided without a kernel: ports, names, and what tells a rule's content."""

from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from cni_plugins.kernel.firewall import masquerade, network_ruleset, nft_table
from cni_plugins.kernel.netlink import nf_tables as wire
from cni_plugins.kernel.netlink.attributes import attributes, read_text
from cni_plugins.kernel.overlay import packet_filter
from cni_plugins.ownership import Attachment, Owner, network_tag
from cni_plugins.steps.firewall import EnsureMasquerade
from cni_plugins.steps.overlay import EnsureOverlayRules, NetworkMasquerade

STEP = EnsureOverlayRules("net1", 100, 4789, 4, "br1", "vx1", (ip_address("10.0.0.2"),), ("eth0",))
VXLAN_CHAIN = f"overlay_vxlan_{network_tag('net1')}"
MASQUERADE = EnsureMasquerade(
    Owner(Attachment("net1", "c1", "eth0"), "bridge"),
    (ip_interface("10.1.0.2/24"), ip_interface("fd00::2/64")),
    (),
    random_fully=True,
)


def expressions(raw: bytes) -> list[tuple[str, dict[int, bytes]]]:
    """Return names and attributes of a rule's expressions."""
    listed = [dict(attributes(value)) for _, value in attributes(raw)]
    return [(read_text(item[1]), dict(attributes(item[2]))) for item in listed]


def value(data: bytes) -> bytes:
    return dict(attributes(data))[1]


def whole(**changes: Any) -> network_ruleset.Whole:
    return packet_filter._whole(STEP.replace(**changes))


def marks(**changes: Any) -> set[tuple[str, str]]:
    made = whole(**changes)
    return {(rule.chain.name, made.mark(rule)) for rule in made.rules}


@pytest.mark.parametrize(
    ("port", "beside"),
    [
        (4789, (4790, 65535)),
        (8472, (8473, 65535)),
        (60000, (1024, 59999)),
        (65535, (1024, 65534)),
        (1024, (1025, 65535)),
        (500, (1024, 65535)),
    ],
)
def test_the_wider_side_of_a_spared_port_is_taken(port: int, beside: tuple[int, int]) -> None:
    assert packet_filter.ports_beside(port) == beside


def test_masquerading_names_its_ports_in_network_order() -> None:
    low, high, masquerade = expressions(wire.masquerade(random_fully=True, ports=(4790, 65535)))
    assert (value(low[1][2]), value(high[1][2])) == (b"\x12\xb6", b"\xff\xff")
    assert masquerade[0] == "masq"
    assert masquerade[1] == {1: b"\0\0\0\x12", 2: low[1][1], 3: high[1][1]}


@pytest.mark.parametrize("random_fully", [False, True])
def test_masquerading_without_ports_is_one_expression(random_fully: bool) -> None:
    flags = {1: b"\0\0\0\x10"} if random_fully else {}
    assert expressions(wire.masquerade(random_fully=random_fully)) == [("masq", flags)]


def test_a_vni_is_three_bytes_behind_the_udp_header_and_the_flags() -> None:
    (_, load), (_, compare) = expressions(wire.vni_is(0x010203))
    assert [int.from_bytes(load[kind]) for kind in (2, 3, 4)] == [2, 12, 3]
    assert value(compare[3]) == b"\x01\x02\x03"


def test_a_network_is_masqueraded_by_two_rules_of_which_one_spares_the_port() -> None:
    item = NetworkMasquerade(ip_network("10.1.0.0/24"), (ip_network("10.0.0.0/8"),), random_fully=True)
    made = whole(masquerades=(item,))
    udp, others = (expressions(rule.expressions) for rule in made.rules if "masquerade" in rule.what)
    assert [name for name, _ in udp[-3:]] == ["immediate", "immediate", "masq"]
    assert [name for name, _ in others[-2:]] == ["cmp", "masq"]
    assert {key for holding in made.holdings for key in holding.keys if b"10.1" in key} == set()


def test_set_and_rule_of_an_attachment_are_what_they_were() -> None:
    """A rule that is in the kernel already is found again by the name of its set."""
    made = masquerade._masquerade(MASQUERADE)
    assert [rule.mark for rule in made.rules] == [f"cni-plugins {item.set_name}" for item in made.elements]
    assert made.elements[0][0] == f"masq4_{network_tag('net1')}_{CONTENT}"


CONTENT = "3d5214eb"


def test_a_rules_mark_is_the_networks_and_tells_its_content() -> None:
    start = f"cni-plugins overlay:{network_tag('net1')} "
    assert all(mark.startswith(start) and mark.endswith(" net: net1") for _, mark in marks())


@pytest.mark.parametrize(
    ("changes", "chains"),
    [
        ({"vni": 101}, {"overlay_input"}),
        ({"version": 6, "sources": (ip_address("fd00::2"),)}, {VXLAN_CHAIN, "overlay_input"}),
        ({"port": 8472}, {"overlay_raw", "overlay_raw_out", "overlay_input"}),
        ({"underlay": ("eth1",)}, {"overlay_raw", "overlay_input"}),
        ({"underlay": ()}, {"overlay_raw", "overlay_input"}),
        ({"sources": None}, {VXLAN_CHAIN, "overlay_input", "overlay_forward"}),
        ({"sources": (ip_address("10.0.0.9"),)}, set()),
        ({"bridge": "br9"}, {"overlay_forward"}),
        ({"restricted": False}, {"overlay_input"}),
        ({"inside": (ip_network("10.1.0.0/24"), ip_network("fd00::/64"))}, {"overlay_raw"}),
    ],
)
def test_a_changed_setting_changes_the_rules_it_is_in(changes: dict[str, Any], chains: set[str]) -> None:
    assert {chain for chain, _ in marks(**changes) ^ marks()} == chains


def test_without_known_sources_any_may_send() -> None:
    chains = {rule.chain.name for rule in whole(sources=None).rules}
    assert chains == {"overlay_raw", "overlay_raw_out", "overlay_forward", "overlay_input", VXLAN_CHAIN}
    assert not any("source" in rule.what for rule in whole(sources=None).rules)


def test_no_known_source_is_not_any_source() -> None:
    assert any("known sources" in rule.what for rule in whole(sources=()).rules)


def test_where_nothing_is_encapsulated_nothing_is_let_in_and_the_port_is_kept_all_the_same() -> None:
    made = whole(vxlan="", in_clear=(ip_network("10.2.0.0/16"), ip_network("fd00::/48")))
    names = [rule.chain.name for rule in made.rules]
    assert sorted(names) == [*["overlay_forward"] * 5, "overlay_raw", "overlay_raw_out", VXLAN_CHAIN]
    assert {key.rstrip(b"\0") for holding in made.holdings for key in holding.keys} == {b"br1"}


def test_each_family_a_container_sends_from_has_a_rule_that_spares_what_has_no_source() -> None:
    made = whole(inside=(ip_network("10.1.0.0/24"), ip_network("fd00::/64")))
    ipv4, ipv6 = (compared(rule.expressions) for rule in made.rules if "containers send" in rule.what)
    assert ipv4[2:] == [b"\x0a\x01", b""]
    assert ipv6[2:] == [b"\xfd", b"", b"\xfe\x80"]


def compared(rule: bytes) -> list[bytes]:
    """Return what a rule compares with, without zeros at the ends."""
    return [value(item[3]).rstrip(b"\0") for name, item in expressions(rule) if name == "cmp"]


def test_many_elements_fit_into_messages_that_netlink_can_carry() -> None:
    keys = [number.to_bytes(16, "big") for number in range(1001)]
    messages = nft_table.in_parts(wire.NEWSETELEM, wire.INET, 0, "s", keys)
    entries = [list(attributes(wire.fields(bytes(item))[3])) for item in messages]
    assert sum(map(len, entries)) == len(keys)
    assert all(len(item) < 1 << 16 for item in messages)
    assert len(messages) < 5
