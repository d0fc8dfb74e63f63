"""What prevResult, config and facts lead to: exact plans, and errors."""

import contextlib
from ipaddress import ip_address, ip_interface
from typing import Any

import pytest

from cni_plugins.contract.facts import Asks, Facts, ForwardFilter, ForwardFilterAsks, LinkFacts, NextHop
from cni_plugins.errors import (
    CniError,
    InvalidNetworkConfig,
    LimitedConnectivity,
    NotAvailable,
    StateDrifted,
    UnsupportedField,
)
from cni_plugins.firewall import backends
from cni_plugins.firewall.config import parse
from cni_plugins.firewall.plugin import PLUGIN
from cni_plugins.ownership import Attachment, Owner
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import Interface, IPConfig, Result
from cni_plugins.steps.forwarding_filter import (
    DelForwarding,
    DelStaleForwarding,
    EnsureBridgesApart,
    EnsureFirewalldSources,
    EnsureForwarding,
    EnsureIptablesApart,
    EnsureIptablesForwarding,
    EnsurePortIsolated,
)

FOUR, SIX = ip_address("10.1.0.2"), ip_address("fd00:1::2")
INTERFACES = (Interface("br0"), Interface("veth1"), Interface("eth0", sandbox="/run/netns/c1"))
RESULT = Result(
    INTERFACES,
    (IPConfig(ip_interface("10.1.0.2/24"), interface=2), IPConfig(ip_interface("fd00:1::2/64"), interface=2)),
)
OURS = RESULT._replace(
    interfaces=(Interface("br0"), Interface(Attachment("net1", "c1", "eth0").host_end), INTERFACES[2])
)
BUS = {"DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/bus"}


def request(command: str = "ADD", result: Result | None = RESULT, **keys: Any) -> Request:
    return Request(
        command,  # type: ignore[arg-type]
        "net1",
        "c1",
        "/run/netns/c1",
        "eth0",
        conf=keys,
        prev_result=result,
        plugin="+firewall",
        environment=BUS,
    )


OWNER: Owner = request().owner


def link(name: str, master: str = "", kind: str = "veth") -> LinkFacts:
    return LinkFacts(name, 7, kind, "02:00:00:00:00:01", 1500, up=True, master=master)


def facts(*links: LinkFacts, routes: dict[str, str] | None = None, **filters: Any) -> Facts:
    hops = {ip_address(item): NextHop(name, None, None) for item, name in (routes or {}).items()}
    present = links or (link("veth1", "br0"),)
    return Facts(
        host={item.name: item for item in present}, routes_to=hops, forward_filter=ForwardFilter(**filters)
    )


def plan(found: Facts, command: str = "ADD", result: Result = RESULT, **keys: Any) -> tuple[Any, ...]:
    asked = request(command, result, **keys)
    config = parse(asked)
    PLUGIN.admit(asked, config, found)
    decision = PLUGIN.decide(asked, config, Result(), found)
    assert decision.result == result
    return decision.plan


# ---------------------------------------------------------------------------------------- the backend

NFTABLES = EnsureForwarding(OWNER, (FOUR, SIX))
IPTABLES = EnsureIptablesForwarding(OWNER, (FOUR, SIX), "CNI-ADMIN")
FIREWALLD = EnsureFirewalldSources(OWNER, (FOUR, SIX), "trusted", "unix:path=/bus")
BY_FACTS: list[tuple[dict[str, Any], Any]] = [
    ({}, NFTABLES),
    ({"forward_drops": True}, IPTABLES),
    ({"forward_drops": True, "iptables": ()}, NFTABLES),
    ({"nf_tables": False}, IPTABLES),
    ({"firewalld": True}, FIREWALLD),
    ({"firewalld": True, "forward_drops": True}, FIREWALLD),
    ({"apart_in_iptables": (4, 6)}, NFTABLES),
]


@pytest.mark.parametrize(("found", "step"), BY_FACTS, ids=str)
def test_the_backend_is_chosen_as_the_host_needs_it(found: dict[str, Any], step: Any) -> None:
    assert plan(facts(**found)) == (step,)
    assert plan(facts(**found), backend="") == (step,)


@pytest.mark.parametrize("found", [item for item, _ in BY_FACTS[:2] + BY_FACTS[4:]], ids=str)
def test_a_configured_backend_is_used(found: dict[str, Any]) -> None:
    assert plan(facts(**found), backend="nftables") == (NFTABLES,)
    assert plan(facts(**found), backend="iptables", iptablesAdminChainName="SITE") == (
        IPTABLES.replace(admin_chain="SITE"),
    )
    assert plan(facts(**found), backend="firewalld", firewalldZone="dmz") == (FIREWALLD.replace(zone="dmz"),)


@pytest.mark.parametrize(
    ("recorded", "step"), [("nftables", NFTABLES), ("iptables", IPTABLES), ("firewalld", FIREWALLD)]
)
def test_check_takes_the_recorded_backend(recorded: str, step: Any) -> None:
    found = facts(recorded=recorded, firewalld=True, forward_drops=True)
    for backend in ("", "nftables", "iptables", "firewalld"):
        assert plan(found, "CHECK", backend=backend) == (step,)


def test_check_without_a_record_expects_what_add_would_do() -> None:
    assert plan(facts(), "CHECK", OURS) == (NFTABLES,)
    assert plan(facts(forward_drops=True), "CHECK", OURS) == (IPTABLES,)
    assert plan(facts(in_iptables=True), "CHECK", OURS) == (IPTABLES,)


def test_check_expects_of_the_reference_what_it_makes() -> None:
    theirs = IPTABLES.replace(is_recorded=False)
    assert plan(facts(in_iptables=True), "CHECK") == (theirs,)
    assert plan(facts(firewalld=True), "CHECK") == (FIREWALLD.replace(is_recorded=False),)
    assert plan(facts(), "CHECK") == (NFTABLES,)
    apart = EnsureIptablesApart(OWNER, ("br0",), (4, 6), isolated=True)
    assert plan(facts(), "CHECK", backend="iptables", ingressPolicy="isolated") == (theirs, apart)


# ------------------------------------------------------------------------------------------- addresses

ADDRESSES: dict[str, tuple[Result, tuple[Any, ...]]] = {
    "those of the interface": (RESULT, (FOUR, SIX)),
    "none": (Result(INTERFACES), ()),
    "an address twice": (RESULT._replace(ips=(RESULT.ips[0], *RESULT.ips)), (FOUR, SIX)),
    "without an interface": (Result((), (IPConfig(ip_interface("10.1.0.2/24")),)), (FOUR,)),
    "of another interface": (
        RESULT._replace(
            interfaces=(*INTERFACES, Interface("eth1", sandbox="/run/netns/c1")),
            ips=(*RESULT.ips, IPConfig(ip_interface("10.2.0.2/24"), interface=3)),
        ),
        (FOUR, SIX),
    ),
    "of the host": (
        RESULT._replace(ips=(RESULT.ips[0], IPConfig(ip_interface("10.1.0.1/24"), interface=0))),
        (FOUR,),
    ),
    "of an interface that is not listed": (
        RESULT._replace(ips=(IPConfig(ip_interface("10.1.0.2/24"), interface=9),)),
        (FOUR,),
    ),
    "in a sandbox that is written otherwise": (
        RESULT._replace(interfaces=(*INTERFACES[:2], Interface("eth0", sandbox="/var/run/netns/c1"))),
        (FOUR, SIX),
    ),
}


@pytest.mark.parametrize(("result", "own"), ADDRESSES.values(), ids=ADDRESSES)
def test_addresses_are_those_of_the_interface(result: Result, own: tuple[Any, ...]) -> None:
    expected = (EnsureForwarding(OWNER, own),) if own else ()
    assert plan(facts(), result=result) == expected


# -------------------------------------------------------------------------------------------- policies


def test_same_bridge() -> None:
    apart = EnsureBridgesApart(OWNER, ("br0",), "veth1", isolated=False)
    keys = {"ingressPolicy": "same-bridge"}
    assert plan(facts(), **keys) == (apart, NFTABLES)
    assert plan(facts(), backend="firewalld", **keys) == (apart, FIREWALLD)
    in_iptables = EnsureIptablesApart(OWNER, ("br0",), (4, 6), isolated=False)
    assert plan(facts(), backend="iptables", **keys) == (apart, IPTABLES, in_iptables)


def test_isolated() -> None:
    apart = EnsureBridgesApart(OWNER, ("br0",), "veth1", isolated=True)
    port = EnsurePortIsolated(OWNER, "veth1")
    keys = {"ingressPolicy": "isolated"}
    assert plan(facts(), **keys) == (apart, port, NFTABLES)
    in_iptables = EnsureIptablesApart(OWNER, ("br0",), (4, 6), isolated=True)
    assert plan(facts(), backend="iptables", **keys) == (apart, port, IPTABLES, in_iptables)
    assert plan(facts(filters_frames=False, br_netfilter=True), **keys) == (apart, NFTABLES)


def test_bridges_are_entered_where_the_reference_has_its_own() -> None:
    for backend in ("nftables", "firewalld"):
        *_, last = plan(facts(apart_in_iptables=(4,)), backend=backend, ingressPolicy="same-bridge")
        assert last == EnsureIptablesApart(OWNER, ("br0",), (4,), isolated=False)


def test_without_nf_tables_iptables_keeps_bridges_apart_alone() -> None:
    found = facts(nf_tables=False, br_netfilter=True, filters_frames=False)
    in_iptables = EnsureIptablesApart(OWNER, ("br0",), (4, 6), isolated=True)
    assert plan(found, ingressPolicy="isolated") == (IPTABLES, in_iptables)


PLACES: dict[str, tuple[LinkFacts, dict[str, str], tuple[str, ...], bool]] = {
    "a bridge without an address": (link("veth1", "br0"), {"10.1.0.2": "up0"}, ("br0",), True),
    "a bridge with one": (link("veth1", "br0"), {"10.1.0.2": "br0", "fd00:1::2": "br0"}, ("br0",), True),
    "another bridge than listed": (link("veth1", "br9"), {"10.1.0.2": "br9"}, ("br9",), True),
    "a gateway of a VLAN": (link("veth1", "br0"), {"10.1.0.2": "br0.5"}, ("br0.5",), True),
    "two gateways": (link("veth1", "br0"), {"10.1.0.2": "br0.5", "fd00:1::2": "br0"}, ("br0", "br0.5"), True),
    "no bridge": (link("veth1"), {"10.1.0.2": "veth1"}, ("veth1",), False),
}


@pytest.mark.parametrize(("outer", "routes", "bridges", "is_port"), PLACES.values(), ids=PLACES)
def test_the_links_that_are_kept_apart(
    outer: LinkFacts, routes: dict[str, str], bridges: tuple[str, ...], is_port: bool
) -> None:
    result = RESULT._replace(interfaces=(*INTERFACES, Interface("br0.5")))
    steps = plan(facts(outer, routes=routes), result=result, ingressPolicy="isolated")
    assert steps[0] == EnsureBridgesApart(OWNER, bridges, "veth1", isolated=True)
    assert (EnsurePortIsolated(OWNER, "veth1") in steps) is is_port


REFUSED: dict[str, tuple[Facts, dict[str, Any], type[CniError], str]] = {
    "a link that is gone": (facts(link("other")), {}, InvalidNetworkConfig, "link veth1 not found"),
    "a link on the wire": (
        facts(link("veth1", kind="macvlan")),
        {},
        InvalidNetworkConfig,
        'ingress policy "isolated" needs a container whose packets the host forwards',
    ),
    "no nf_tables, for nftables": (
        facts(nf_tables=False),
        {"backend": "nftables"},
        UnsupportedField,
        "this kernel has no nf_tables",
    ),
    "no nf_tables, for firewalld": (
        facts(nf_tables=False),
        {"backend": "firewalld"},
        UnsupportedField,
        "this kernel has no nf_tables",
    ),
    "nothing that filters frames": (
        facts(filters_frames=False),
        {},
        UnsupportedField,
        "this kernel's nf_tables cannot filter frames of bridges, and br_netfilter is off",
    ),
}


@pytest.mark.parametrize(("found", "keys", "kind", "message"), REFUSED.values(), ids=REFUSED)
def test_what_no_host_can_do(found: Facts, keys: dict[str, Any], kind: type[CniError], message: str) -> None:
    with pytest.raises(kind) as caught:
        plan(found, ingressPolicy="isolated", **keys)
    assert caught.value.msg == message


def test_check_reports_a_link_that_is_gone() -> None:
    with pytest.raises(StateDrifted, match="link veth1 not found"):
        plan(facts(link("other")), "CHECK", ingressPolicy="isolated")


OTHER_LINKS: dict[str, tuple[tuple[Interface, ...], str]] = {
    "none of the host": ((INTERFACES[2],), 'interface needs to be set for ingress policy "isolated", '),
    "only later ones": (
        (INTERFACES[2], *INTERFACES[:2]),
        "interface needs to be set for ingress policy",
    ),
    "none": ((), "prevResult has no interface eth0 in /run/netns/c1"),
    "not its own": (INTERFACES[:2], "prevResult has no interface eth0 in /run/netns/c1"),
    "a name with a space": (
        (Interface("a b"), INTERFACES[2]),
        "prevResult lists a link that cannot",
    ),
    "a surrogate": ((Interface("\ud800"), INTERFACES[2]), "prevResult lists a link that cannot"),
    "a long name": ((Interface("x" * 16), INTERFACES[2]), "prevResult lists a link that cannot"),
    "a quotation mark": ((Interface('a"'), INTERFACES[2]), "prevResult lists a link that cannot"),
}


@pytest.mark.parametrize(("interfaces", "message"), OTHER_LINKS.values(), ids=OTHER_LINKS)
def test_a_policy_needs_a_link_of_the_host(interfaces: tuple[Interface, ...], message: str) -> None:
    asked = request(result=Result(interfaces), ingressPolicy="isolated")
    with pytest.raises(InvalidNetworkConfig) as caught:
        PLUGIN.asks(asked, parse(asked))
    assert caught.value.msg.startswith(message)


# --------------------------------------------------------------------------------------- the other commands


def test_del_and_gc_ask_nothing_and_cover_every_backend() -> None:
    asked = request("DEL")
    assert PLUGIN.asks(asked, parse(asked)) == Asks()
    removal = DelForwarding(OWNER, (FOUR, SIX), "trusted", "unix:path=/bus")
    assert PLUGIN.delete(asked, parse(asked), Facts()) == (removal,)
    asked = request("DEL", firewalldZone="dmz", ingressPolicy="isolated")
    whole = removal.replace(zone="dmz", links=("br0", "veth1"))
    assert PLUGIN.delete(asked, parse(asked), Facts()) == (whole,)
    assert PLUGIN.delete(asked, None, Facts()) == (whole.replace(zone="trusted"),)
    nothing = request("DEL", None)
    assert PLUGIN.delete(nothing, None, Facts()) == (DelForwarding(OWNER, (), "trusted", "unix:path=/bus"),)
    collected = request("GC")._replace(valid_attachments=(("c2", "eth0"),))
    stale = DelStaleForwarding("net1", "+firewall", collected.valid_tags, "unix:path=/bus")
    assert PLUGIN.collect(collected, Facts()) == (stale,)


def test_names_no_link_can_have_are_left_out_of_a_del() -> None:
    odd = (Interface("a b"), Interface("\ud800"), Interface("x" * 20), Interface(""), Interface("br0"))
    (step,) = PLUGIN.delete(request("DEL", RESULT._replace(interfaces=(*odd, INTERFACES[2]))), None, Facts())
    assert step.links == ("br0",)


def test_the_facts_that_are_asked_for() -> None:
    def asks(command: str, **keys: Any) -> Asks:
        asked = request(command, RESULT if command != "STATUS" else None, **keys)
        return PLUGIN.asks(asked, parse(asked))

    add = ForwardFilterAsks("", (4, 6), (FOUR, SIX), bus="unix:path=/bus")
    assert asks("ADD") == Asks(forward_filter=add)
    assert asks("CHECK") == Asks(forward_filter=add._replace(owner=OWNER))
    isolated = add._replace(apart=True, isolated=True)
    assert asks("ADD", ingressPolicy="isolated") == Asks(
        host=("veth1",), routes_to=(FOUR, SIX), forward_filter=isolated
    )
    status = ForwardFilterAsks("iptables", (4, 6), status=True, bus="unix:path=/bus")
    assert asks("STATUS", backend="iptables") == Asks(forward_filter=status)


STATUSES: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {}, ""),
    ({"forward_drops": True}, {}, ""),
    ({"iptables": (6,)}, {"backend": "iptables"}, "iptables-restore is not installed"),
    ({"iptables": (4,)}, {"backend": "iptables"}, ""),
    ({}, {"backend": "firewalld"}, "firewalld does not run"),
    ({"firewalld": True, "zones": ("public",)}, {}, "firewalld has no zone trusted"),
    ({"firewalld": True, "zones": ("trusted",)}, {}, ""),
    ({"firewalld": True, "zones": ("trusted",)}, {"firewalldZone": "x"}, "firewalld has no zone x"),
    ({"nf_tables": False, "iptables": ()}, {}, "this kernel has no nf_tables"),
    ({"closed_chain": "forward of table site"}, {}, "chain forward of table site of nf_tables drops"),
    ({"closed_chain": "FORWARD of table filter"}, {"backend": "iptables"}, ""),
]


@pytest.mark.parametrize(("found", "keys", "message"), STATUSES, ids=str)
def test_status(found: dict[str, Any], keys: dict[str, Any], message: str) -> None:
    asked = request("STATUS", None, **keys)
    expected = contextlib.nullcontext()
    if message:
        kind = LimitedConnectivity if "closed_chain" in found else NotAvailable
        expected = pytest.raises(kind, match=f"^{message}")
    with expected:
        PLUGIN.status(asked, parse(asked), facts(**found))


def test_the_backends_are_those_of_the_config() -> None:
    names = (backends.NFTABLES, backends.IPTABLES, backends.FIREWALLD)
    assert {parse(request(backend=name)).backend for name in names} == set(names)
