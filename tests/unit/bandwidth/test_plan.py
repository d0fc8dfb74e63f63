"""From request, config and facts to the exact plan."""

from typing import Any

import pytest

from cni_plugins.bandwidth.config import parse
from cni_plugins.bandwidth.plugin import PLUGIN
from cni_plugins.contract.facts import Asks, Facts, LinkFacts
from cni_plugins.errors import CniError, InvalidNetworkConfig, NotAvailable, StateDrifted
from cni_plugins.ownership import Attachment
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import Interface, Result
from cni_plugins.steps.shaping import Bucket, DelIfb, EnsureIfb, SetBucket, SetRedirect

ME, OTHER = Attachment("net1", "c1", "eth0"), Attachment("net1", "c1", "eth1")
SHARED, OWN = ME.reference_ifb, ME.ifb
END = "veth12345678"
BRIDGE, HOST_END, INSIDE = Interface("br0"), Interface(END), Interface("eth0", "02:00:00:00:00:01", "/ns")
BEFORE = Result((BRIDGE, HOST_END, INSIDE))
MAC = "02:00:00:00:00:0f"
RECEIVED = {"ingressRate": 8000, "ingressBurst": 80000}
SENT = {"egressRate": 16000, "egressBurst": 160000}
TO_CONTAINER, FROM_CONTAINER = Bucket(1000, 10000), Bucket(2000, 20000)


def link(name: str, **more: Any) -> LinkFacts:
    return LinkFacts(name, 7, **{"kind": "ifb", "mac": MAC, "mtu": 1500, "up": True, **more})


def facts(*host: LinkFacts, redirected_to: str = "", **inside: Any) -> Facts:
    pair = {"kind": "veth", "peer": END, "peer_index": 9, "peer_mtu": 1450, **inside}
    return Facts(
        {item.name: item for item in host},
        {"eth0": link("eth0", **pair)},
        redirected_to=redirected_to,
        has_sandbox=True,
    )


def request(command: Any = "ADD", before: Result | None = BEFORE, **more: Any) -> Request:
    values = {"container_id": "c1", "netns": "/ns", "ifname": "eth0", "prev_result": before}
    return Request(command, "net1", **{**values, "conf": {"name": "net1"}, **more})


def decided(keys: dict[str, Any], found: Facts | None = None, **more: Any) -> Any:
    asked = request(conf={"name": "net1", **keys}, **more)
    return PLUGIN.decide(asked, parse(asked), Result(), found or facts())


def ifb(name: str = SHARED, mac: str = "", alias: str = ME.alias) -> EnsureIfb:
    return EnsureIfb(name, mac or ME.mac("ifb", ""), 1450, alias)


def test_both_directions_and_the_redirection_last() -> None:
    decision = decided({**RECEIVED, **SENT})
    assert decision.plan == (
        SetBucket(END, TO_CONTAINER),
        ifb(),
        SetBucket(SHARED, FROM_CONTAINER),
        SetRedirect(END, SHARED),
    )
    assert decision.result == Result((BRIDGE, HOST_END, INSIDE, Interface(SHARED, ME.mac("ifb", ""))))


def test_what_an_earlier_add_limited_and_this_one_does_not_is_free_again() -> None:
    assert decided(RECEIVED).plan == (
        SetBucket(END, TO_CONTAINER),
        SetRedirect(END, ""),
        SetBucket(SHARED, None),
        DelIfb(SHARED, ME.alias),
    )
    assert decided(SENT).plan[0] == SetBucket(END, None)
    free = decided({})
    assert free.plan == (
        SetBucket(END, None),
        SetRedirect(END, ""),
        SetBucket(SHARED, None),
        DelIfb(SHARED, ME.alias),
    )
    assert free.result == decided(RECEIVED).result == BEFORE


@pytest.mark.parametrize(
    "found", [Facts(has_sandbox=True), facts(kind="macvlan", peer="", peer_index=0), facts(peer="")]
)
def test_without_limits_any_interface_will_do(found: Facts) -> None:
    before = Result((INSIDE,))
    assert decided({}, found, before=before) == ((), before, ())
    assert decided({}, found, before=Result()) == ((), Result(), ())


def test_the_reference_has_the_same_name_for_all_interfaces_and_ours_is_for_one() -> None:
    assert (SHARED[:3], len(SHARED), OWN[:3], len(OWN)) == ("bwp", 15, "ifb", 15)
    assert OTHER.reference_ifb == SHARED
    assert OTHER.ifb != OWN


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ((), SHARED),
        ((link(SHARED, alias=ME.alias),), SHARED),
        ((link(SHARED, alias=OTHER.alias),), OWN),
        ((link(SHARED),), OWN),
        ((link(SHARED, kind="veth"),), OWN),
        ((link(OWN, alias=ME.alias),), OWN),
        ((link(OWN, alias=ME.alias), link(SHARED, alias=OTHER.alias)), OWN),
    ],
)
def test_the_name_of_the_ifb_link(host: tuple[LinkFacts, ...], name: str) -> None:
    plan = decided(SENT, facts(*host)).plan
    assert (plan[1].name, plan[1].alias, plan[3]) == (name, ME.alias, SetRedirect(END, name))


def test_the_ifb_link_of_the_reference_is_used_as_it_is() -> None:
    found = facts(link(SHARED), redirected_to=SHARED)
    decision = decided(SENT, found)
    assert decision.plan[1] == ifb(mac=MAC, alias="")
    assert decision.result.interfaces[-1] == Interface(SHARED, MAC)
    assert decided({}, found).plan[-1] == DelIfb(SHARED, "")


def test_an_ifb_link_is_listed_once() -> None:
    before = BEFORE._replace(interfaces=(*BEFORE.interfaces, Interface(SHARED, "02:00:00:00:00:02")))
    assert decided(SENT, before=before).result.interfaces == (
        *BEFORE.interfaces,
        Interface(SHARED, ME.mac("ifb", "")),
    )


def test_check_compares_what_is_configured_with_what_is_recorded() -> None:
    recorded = BEFORE._replace(interfaces=(*BEFORE.interfaces, Interface(OWN, ME.mac("ifb", ""))))
    here = facts(link(SHARED, alias=OTHER.alias), link(OWN, alias=ME.alias))
    assert decided({**RECEIVED, **SENT}, here, command="CHECK", before=recorded).plan == (
        SetBucket(END, TO_CONTAINER),
        ifb(OWN),
        SetBucket(OWN, FROM_CONTAINER),
        SetRedirect(END, OWN),
    )
    assert decided(RECEIVED, here, command="CHECK").plan == (SetBucket(END, TO_CONTAINER),)
    assert decided({}, here, command="CHECK").plan == ()


def test_check_wants_no_alias_of_a_link_that_the_reference_made() -> None:
    recorded = BEFORE._replace(interfaces=(*BEFORE.interfaces, Interface(SHARED, MAC)))
    assert decided(SENT, facts(link(SHARED)), command="CHECK", before=recorded).plan[0] == ifb(
        mac=MAC, alias=""
    )
    ours = BEFORE._replace(interfaces=(*BEFORE.interfaces, Interface(SHARED, ME.mac("ifb", ""))))
    assert decided(SENT, facts(link(SHARED)), command="CHECK", before=ours).plan[0] == ifb()


REFUSED = [
    (facts(), Result(), "no interfaces provided", "prevResult lists no interfaces"),
    (Facts(has_sandbox=True), BEFORE, "container interface eth0 has no veth peer", "eth0 is not there"),
    (
        facts(kind="macvlan", peer="", peer_index=0),
        BEFORE,
        "container interface eth0 has no veth peer",
        "eth0 is of kind macvlan, and only a veth can be limited",
    ),
    (facts(peer=""), BEFORE, "veth peer with index 9 is not in host ns", "CNI_IFNAME is eth0"),
    (
        facts(peer="vethother"),
        BEFORE,
        "no veth peer of container interface found in host ns",
        f"it is vethother, and prevResult lists br0, {END}",
    ),
]


@pytest.mark.parametrize("keys", [RECEIVED, SENT])
@pytest.mark.parametrize(("found", "before", "message", "details"), REFUSED)
def test_an_interface_that_cannot_be_limited(
    found: Facts, before: Result, message: str, details: str, keys: dict[str, Any]
) -> None:
    for command, kind in (("ADD", InvalidNetworkConfig), ("CHECK", StateDrifted)):
        with pytest.raises(CniError) as caught:
            decided(keys, found, command=command, before=before)
        assert type(caught.value) is kind
        assert caught.value.msg == message
        assert details in caught.value.details


# ------------------------------------------------------------------------------------------ DEL and GC


def deleted(found: Facts, before: Result | None = BEFORE) -> tuple[Any, ...]:
    return PLUGIN.delete(request("DEL", before), None, found)


OURS = (DelIfb(OWN, ME.alias), DelIfb(SHARED, ME.alias))


def ends(*names: str) -> tuple[Any, ...]:
    return tuple(step for name in names for step in (SetRedirect(name, ""), SetBucket(name, None)))


def test_del_finds_the_host_end_by_the_sandbox() -> None:
    assert deleted(facts()) == (*ends(END), *OURS)


def test_del_without_a_sandbox_tries_the_names_that_the_host_end_may_have() -> None:
    assert deleted(Facts()) == (*ends(ME.host_end, END), *OURS)
    assert deleted(facts(kind="macvlan", peer="", peer_index=0), None) == (*ends(ME.host_end), *OURS)


def test_del_removes_a_link_of_the_reference_only_where_it_is_of_this_interface() -> None:
    theirs = DelIfb(SHARED, "")
    listed = BEFORE._replace(interfaces=(*BEFORE.interfaces, Interface(SHARED)))
    assert deleted(facts(redirected_to=SHARED))[-1] == theirs
    assert deleted(facts(), listed)[-1] == theirs
    assert deleted(Facts(), listed)[-1] == theirs
    assert deleted(Facts(), None)[-1] == theirs
    for found, before in (
        (facts(), None),
        (facts(), BEFORE),
        (Facts(), BEFORE),
        (facts(redirected_to=OWN), None),
    ):
        assert theirs not in deleted(found, before)


def test_gc_deletes_ifb_links_of_the_network_without_a_valid_attachment() -> None:
    valid, stale, foreign = ME, Attachment("net1", "c2", "eth0"), Attachment("net2", "c2", "eth0")
    owned = tuple(link(f"ifb{n}", alias=item.alias) for n, item in enumerate((valid, stale, foreign)))
    veth = link("veth1", kind="veth", alias=stale.alias)
    asked = request("GC", None, valid_attachments=(("c1", "eth0"),))
    assert PLUGIN.collect(asked, Facts(owned=(*owned, veth))) == (DelIfb("ifb1", stale.alias),)


# ----------------------------------------------------------------------------------------------- STATUS


@pytest.mark.parametrize("keys", [RECEIVED, SENT, {"capabilities": {"bandwidth": True}}])
def test_status_names_the_module_that_limits_need(keys: dict[str, Any]) -> None:
    config = parse(request("STATUS", None, conf=keys))
    PLUGIN.status(request("STATUS", None), config, Facts())
    with pytest.raises(NotAvailable, match="lacks the module act_mirred"):
        PLUGIN.status(request("STATUS", None), config, Facts(lacks_for_shaping="act_mirred"))


def test_status_is_fine_where_nothing_can_be_limited() -> None:
    PLUGIN.status(request("STATUS", None), parse(request("STATUS", None)), Facts(lacks_for_shaping="ifb"))


def test_each_command_asks_for_what_it_needs() -> None:
    whole = Asks(host=(SHARED, OWN), sandbox=("eth0",), redirected="eth0")
    assert [PLUGIN.asks(request(command), None) for command in ("ADD", "CHECK", "DEL")] == [whole] * 3
    assert PLUGIN.asks(request("GC"), None) == Asks(owned=True)
    assert PLUGIN.asks(request("STATUS"), None) == Asks(shaping=True)
