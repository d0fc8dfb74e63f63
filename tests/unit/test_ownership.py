"""How objects are recognised: the formats are read by other releases, and so is what they wrote."""

import pytest

from cni_plugins.kernel.netlink import nf_tables
from cni_plugins.ownership import (
    ALIAS_LIMIT,
    NO_LINK,
    Attachment,
    Owner,
    gateway_port,
    host_link,
    host_link_alias,
    is_by,
    is_host_link_alias,
    is_overlay_alias,
    is_stale,
    link_of,
    network_mark,
    nursery,
    overlay_alias,
    owner_of,
    plugin_word,
    quoted_ifname,
    tag_of,
    unquoted_ifname,
)

ME = Attachment("net1", "c1", "eth0")
NAMES = "net: net1, if: eth0, id: c1"


def test_the_comment_of_an_element_names_tag_link_plugin_and_attachment() -> None:
    assert Owner(ME, "bridge").comment("veth1") == f"{ME.tag} veth1 bridge {NAMES}"
    assert Owner(ME, "+portmap").comment() == f"{ME.tag} {NO_LINK} +portmap {NAMES}"
    assert link_of(Owner(ME, "bridge").comment("veth1")) == "veth1"
    assert link_of("") == NO_LINK


def test_what_identifies_the_owner_is_never_cut_off() -> None:
    longest = Attachment("n" * 255, "c" * 255, "i" * 15)
    kept = nf_tables.comment_text(nf_tables.comment(Owner(longest, "+bandwidth").comment("v" * 15)))
    assert Owner(longest, "+bandwidth").owns(kept)
    assert not Owner(longest, "bridge").owns(kept)
    assert len(longest.alias.encode()) <= ALIAS_LIMIT
    assert tag_of(longest.alias) == longest.tag


@pytest.mark.parametrize(
    ("written", "plugin", "owned"),
    [
        ("bridge", "bridge", True),
        ("", "bridge", True),  # by a release that named no plugin
        ("", "macvlan", True),
        ("ptp", "bridge", True),  # the network was of another type
        ("+portmap", "bridge", False),
        ("+portmap", "+portmap", True),
        ("bridge", "+portmap", False),
        ("", "+portmap", False),
        ("+tuning", "+portmap", False),
        ("+portmap2", "+portmap", False),
    ],
)
def test_an_element_belongs_to_its_plugin_or_to_the_one_that_makes_the_interface(
    written: str, plugin: str, owned: bool
) -> None:
    comment = Owner(ME, written).comment("veth1")
    assert is_by(comment, plugin) is owned
    assert Owner(ME, plugin).owns(comment) is owned
    assert Owner(ME, plugin).shares_attachment_with(comment) is not owned
    other = Owner(ME._replace(container_id="c2"), plugin)
    assert not other.owns(comment)
    assert not other.shares_attachment_with(comment)
    assert is_stale(comment, "net1", plugin, frozenset()) is owned
    assert not is_stale(comment, "net1", plugin, frozenset({ME.tag}))
    assert not is_stale(comment, "net2", plugin, frozenset())


def test_the_word_for_a_plugin_says_whether_it_is_chained() -> None:
    assert plugin_word("bridge", is_chained=False) == "bridge"
    assert plugin_word("portmap", is_chained=True) == "+portmap"


def test_formats_that_other_releases_wrote_and_read() -> None:
    assert ME.alias == f"cni-plugins:{ME.tag} {NAMES}"
    assert ME.tag == "8e48f37d5de60467-f4d01f2ef4b92245"
    assert (ME.host_end, ME.mark) == ("veth294f9e4a", 1827334494)
    assert owner_of(ME.alias) == NAMES
    assert (tag_of("eth0"), owner_of("eth0")) == ("", "")
    network = ME.tag[:16]
    assert overlay_alias("net1") == f"cni-plugins overlay {network} net: net1"
    assert host_link_alias("net1") == f"cni-plugins host access {network} net: net1"
    assert host_link("net1", "eth0").startswith("mvhost")
    assert gateway_port("br0", 100).startswith("veth")
    assert nursery("net1") == 1 << 30 | int(network[:7], 16)
    assert network_mark("net1") >> 31 == 1


@pytest.mark.parametrize("ifname", ['a"b', "a\\b", "a}b{", "a;b#c", "$(a)`b`'", "e:0.1-2_3+4", "éth0"])
def test_an_interface_name_cannot_end_a_comment(ifname: str) -> None:
    strange = ME._replace(ifname=ifname)
    assert not set(strange.names) & set("\"\\{};#$'`")
    assert not set(strange.alias) & set("\"\\{};#$'`")
    assert unquoted_ifname(quoted_ifname(ifname)) == ifname


def test_aliases_of_networks_are_told_apart() -> None:
    assert is_overlay_alias(overlay_alias("net1"), "net1")
    assert not is_overlay_alias(overlay_alias("net1"), "net2")
    assert is_host_link_alias(host_link_alias("net1"), "net1")
    assert not is_host_link_alias(host_link_alias("net1"), "net2")
