"""Attachments that are a veth pair: whose they are, and what is taken away with them."""

from ipaddress import ip_interface
from typing import Any

import pytest

from cni_plugins.contract import veth
from cni_plugins.contract.facts import Facts, LinkFacts
from cni_plugins.errors import InvalidNetworkConfig, NameTaken
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import Interface, IPConfig, Result
from cni_plugins.steps.firewall import DelReferenceRules, DelStaleIptables, DelStaleRules
from cni_plugins.steps.links import AddVeth, DelLink

NO_FACTS = Facts()
ADDRESSES = (ip_interface("10.1.0.2/24"), ip_interface("fe80::2/64"))


def request(command: Any = "ADD", **more: Any) -> Request:
    return Request(command, "net1", **{"container_id": "c1", "netns": "/ns", "ifname": "eth0", **more})


def link(name: str, **more: Any) -> LinkFacts:
    return LinkFacts(name, 7, **{"kind": "veth", "mac": "02:00:00:00:00:09", "mtu": 1500, "up": True, **more})


def recorded(*interfaces: Interface) -> Request:
    return request("CHECK", prev_result=Result(interfaces=interfaces))


def test_names_in_use_are_refused() -> None:
    me = request()
    veth.admit(me, NO_FACTS)
    with pytest.raises(NameTaken, match=r'container veth name \("eth0"\) already exists'):
        veth.admit(me, Facts(sandbox={"eth0": link("eth0")}))
    with pytest.raises(NameTaken, match="peer provided"):
        veth.admit(me, Facts(host={me.attachment.host_end: link("x")}))


def test_a_pair_is_decided_from_the_attachment() -> None:
    me = request().attachment
    pair = veth.identify(request(), "", 1400, NO_FACTS)
    assert pair == veth.Pair(me.host_end, me.mac("sandbox", ""), me.mac("host", ""), 1400)
    assert veth.identify(request(), "02:00:00:00:00:01", 0, NO_FACTS).mac == "02:00:00:00:00:01"
    assert veth.add(request(), pair) == AddVeth(
        "eth0", pair.mac, 1400, me.host_end, me.mac("host", ""), me.alias
    )
    assert veth.interfaces(request(), pair) == (
        Interface(me.host_end, me.mac("host", ""), mtu=1400),
        Interface("eth0", pair.mac, "/ns", mtu=1400),
    )
    assert veth.interfaces(request(), pair._replace(mtu=0))[0].mtu == 1500


def test_check_reads_the_pair_from_prev_result() -> None:
    me = request().attachment
    # A later plugin of the chain has changed the sandbox end, and says so.
    asked = recorded(
        Interface(me.host_end, "02:00:00:00:00:02", "", 1500), Interface("eth0", "m", "/ns", 1400)
    )
    assert veth.identify(asked, "ignored", 0, NO_FACTS) == veth.Pair(
        me.host_end, "m", "02:00:00:00:00:02", 1500
    )


@pytest.mark.parametrize(("inside", "host_end"), [({}, None), ({"peer": "veth1234"}, "veth1234")])
def test_check_finds_the_references_host_end_by_its_other_end(
    inside: dict[str, str], host_end: str | None
) -> None:
    asked = recorded(Interface("veth1234", "h"), Interface("eth0", "m", "/ns"))
    facts = Facts(sandbox={"eth0": link("eth0", **inside)} if inside else {})
    pair = veth.identify(asked, "", 0, facts)
    assert pair.host_end == (host_end or request().attachment.host_end)
    assert not pair.ours
    assert veth.add(asked, pair).alias == ""


def test_check_needs_prev_result_with_its_interface() -> None:
    with pytest.raises(InvalidNetworkConfig, match="required prevResult missing"):
        veth.identify(request("CHECK"), "", 0, NO_FACTS)
    with pytest.raises(InvalidNetworkConfig, match="prevResult has no interface eth0 in /ns"):
        veth.identify(recorded(Interface("eth0", "m", "/other")), "", 0, NO_FACTS)


@pytest.mark.parametrize(
    ("wanted", "model", "mtu"),
    [(1400, link("up0"), 1400), ("auto", link("up0", mtu=1300), 1300), ("auto", None, 0), (0, None, 0)],
)
def test_auto_mtu_follows_a_model(wanted: int | str, model: LinkFacts | None, mtu: int) -> None:
    assert veth.mtu(wanted, model) == mtu


@pytest.mark.parametrize(
    ("inside", "ends", "likely", "foreign"),
    [
        ({"peer": "veth1234"}, (), True, True),
        ({"peer": "veth1234"}, (), False, False),
        ({"peer": "veth1234"}, ("veth1234",), False, True),
        ({"peer": "veth1234"}, ("veth9999",), True, False),
        ({"peer": "veth1234", "peer_alias": "cni-plugins:x"}, (), True, False),
        ({"peer": request().attachment.host_end}, (), True, False),
        ({"kind": "macvlan"}, (), True, False),
        (None, (), True, False),
        (None, ("veth1234",), False, True),
        (None, ("eth9",), True, False),
    ],
)
def test_what_the_reference_made(
    inside: dict[str, str] | None, ends: tuple[str, ...], likely: bool, foreign: bool
) -> None:
    asked = request("DEL", prev_result=Result(interfaces=tuple(map(Interface, ends))))
    facts = Facts(sandbox={} if inside is None else {"eth0": link("eth0", **inside)})
    assert veth.made_by_reference(asked, facts, lambda _: likely) is foreign


def test_a_foreign_attachment_goes_with_its_sandbox_end_and_its_rules() -> None:
    facts = Facts(sandbox={"eth0": link("eth0", addresses=ADDRESSES)})
    plan = list(veth.delete(request("DEL"), facts, foreign=True))
    assert DelLink("sandbox", "eth0") in plan
    assert plan[-1] == DelReferenceRules(request().attachment, ADDRESSES[:1])
    remembered = Result(ips=(IPConfig(ADDRESSES[0]),))
    (*_, rules) = veth.delete(request("DEL", prev_result=remembered), NO_FACTS, foreign=True)
    assert rules == plan[-1]
    without = list(veth.delete(request("DEL"), NO_FACTS, foreign=True))
    assert DelLink("sandbox", "eth0") not in without  # nobody could carry it out


def test_a_host_end_that_was_renamed_goes() -> None:
    me = request().attachment
    inside = link("eth0", kind="veth", peer="other0", peer_alias=me.alias)
    plan = list(veth.delete(request("DEL"), Facts(sandbox={"eth0": inside}), foreign=False))
    assert DelLink("host", "other0") in plan


def test_a_host_end_with_another_alias_stays() -> None:
    me, other = request().attachment, request(container_id="other").attachment
    for alias, goes in ((other.alias, False), (me.alias, True), ("theirs", True)):
        facts = Facts(host={me.host_end: link(me.host_end, alias=alias)})
        plan = list(veth.delete(request("DEL"), facts, foreign=False))
        assert (DelLink("host", me.host_end) in plan) is goes


def test_gc_takes_stale_pairs_of_its_network() -> None:
    living, gone = request().attachment, request(container_id="gone").attachment
    other = Request("GC", "net2", "c9", ifname="eth0").attachment
    facts = Facts(owned=tuple(link(item.host_end, alias=item.alias) for item in (living, gone, other)))
    asked = request("GC", valid_attachments=(("c1", "eth0"),))
    assert list(veth.collect(asked, facts)) == [
        DelLink("host", gone.host_end),
        DelStaleRules("net1", "", asked.valid_tags),
        DelStaleIptables("net1", (("c1", "eth0"),)),
    ]
