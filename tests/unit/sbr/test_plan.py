"""From request and facts to the exact plan."""

from ipaddress import ip_address, ip_interface
from typing import Any

import pytest

from cni_plugins.contract.facts import Asks, Facts, LinkFacts, RouteFacts, RuleFacts
from cni_plugins.errors import InvalidNetworkConfig, KernelRefused, NameTaken, NotAvailable, StateDrifted
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import Interface, IPConfig, Result, Route
from cni_plugins.sbr.config import parse
from cni_plugins.sbr.plugin import PLUGIN
from cni_plugins.steps.ip import AddRoute, AwaitAddresses
from cni_plugins.steps.policy_routing import (
    AddMainRoute,
    AddRouteCopy,
    AddRule,
    DelMainRoute,
    DelRule,
    DelTableRoutes,
)
from cni_plugins.steps.step import Step

IN = "sandbox"
V4, V6 = ip_interface("10.2.0.2/24"), ip_interface("fd00:2::2/64")
GW4, GW6 = ip_address("10.2.0.1"), ip_address("fd00:2::1")
IP4, IP6 = IPConfig(V4, GW4, 1), IPConfig(V6, GW6, 1)
NET4, NET6 = ip_interface("10.2.0.0/24"), ip_interface("fd00:2::/64")
ALL4, ALL6, LOCAL = ip_interface("0.0.0.0/0"), ip_interface("::/0"), ip_interface("fe80::/64")
ENDS = (Interface("veth1"), Interface("net1", sandbox="/ns"))
ON_LINK = RouteFacts(NET4, source=V4.ip, scope=253, message=b"on link")
FAR = RouteFacts(ip_interface("10.9.0.0/16"), (GW4,), message=b"far")
ON_LINK6 = RouteFacts(NET6, metric=256, message=b"on link 6")
LOCAL6 = RouteFacts(LOCAL, metric=256, message=b"local 6")


def request(command: Any = "ADD", *ips: IPConfig, routes: tuple[Route, ...] = (), **keys: Any) -> Request:
    result = Result(ENDS, ips or (IP4,), routes)
    conf = {"name": "net1", "type": "sbr", **keys}
    values: dict[str, Any] = {"container_id": "c1", "netns": "/ns", "ifname": "net1", "plugin": "+sbr"}
    return Request(command, "net1", conf=conf, prev_result=result, **values)


ME = request().attachment
OWN, SHARED = (ME.rule_mark(shares_table=shares) for shares in (False, True))


def planned(asked: Request, **facts: Any) -> tuple[Step, ...]:
    given = {"free_tables": (100, 101, 102, 103), "routes": (), **facts}
    return PLUGIN.decide(asked, parse(asked), Result(), Facts(**given)).plan


def test_marks_of_rules_are_the_attachments_and_never_zero() -> None:
    assert OWN & 1 == 0
    assert SHARED == OWN | 1
    assert OWN & 2
    assert ME.mark & ~3 == OWN & ~3
    assert request()._replace(ifname="net2").attachment.rule_mark(shares_table=False) != OWN


def test_tables_are_filled_before_packets_are_sent_to_them_and_the_main_table_is_emptied_last() -> None:
    assert planned(request(), routes=(FAR, ON_LINK)) == (
        AddRouteCopy(IN, NET4, b"on link", 100),
        AddRouteCopy(IN, FAR.dst, b"far", 100),
        AddRoute(IN, "net1", ALL4, GW4, table=100),
        AddRule(IN, V4.ip, 100, OWN),
        DelMainRoute(IN, "net1", FAR.dst, b"far"),
        DelMainRoute(IN, "net1", NET4, b"on link"),
    )


def test_each_address_has_a_table_in_its_order_whatever_its_ip_version() -> None:
    plan = planned(request("ADD", IP6, IP4), routes=(ON_LINK, ON_LINK6))
    assert [step for step in plan if isinstance(step, AddRule)] == [
        AddRule(IN, V6.ip, 100, OWN),
        AddRule(IN, V4.ip, 101, OWN),
    ]
    assert [(step.message, step.table) for step in plan if isinstance(step, AddRouteCopy)] == [
        (b"on link", 101),
        (b"on link 6", 100),
    ]


def test_an_address_listed_twice_has_one_table() -> None:
    plan = planned(request("ADD", IP4, IP4._replace(gateway=None)))
    assert [step for step in plan if isinstance(step, AddRule)] == [AddRule(IN, V4.ip, 100, OWN)]
    assert any(isinstance(step, AddRoute) for step in plan)


def test_link_local_and_multicast_routes_of_ipv6_are_copied_and_stay() -> None:
    cast = RouteFacts(ip_interface("ff00::/8"), message=b"multicast")
    learned = RouteFacts(ip_interface("2001:db8::/64"), is_learned=True, message=b"learned")
    plan = planned(request("ADD", IP6), routes=(LOCAL6, cast, learned, ON_LINK6))
    assert [step.message for step in plan if isinstance(step, AddRouteCopy)] == [
        b"local 6",
        b"multicast",
        b"learned",
        b"on link 6",
    ]
    assert [step for step in plan if isinstance(step, DelMainRoute)] == [
        DelMainRoute(IN, "net1", NET6, b"on link 6")
    ]


OTHER = IPConfig(ip_interface("10.3.0.2/24"), ip_address("10.3.0.1"), 1)
NEAR = IPConfig(ip_interface("10.2.0.3/24"), GW4, 1)
SOMEWHERE = RouteFacts(ip_interface("10.8.0.0/16"))
EVERY = {100, 101, 102}
GIVEN = {
    "by its gateway": (FAR, {100, 101}),
    "by the gateway of one": (SOMEWHERE._replace(gateways=(ip_address("10.3.0.1"),)), {102}),
    "by its source": (SOMEWHERE._replace(source=ip_address("10.3.0.2")), {102}),
    "without either": (SOMEWHERE, EVERY),
    "by a gateway elsewhere": (SOMEWHERE._replace(gateways=(ip_address("10.99.0.1"),)), EVERY),
    "by an IPv6 gateway": (SOMEWHERE._replace(gateways=(ip_address("fe80::1"),)), EVERY),
    "by several gateways": (SOMEWHERE._replace(gateways=(ip_address("10.3.0.9"), GW4)), EVERY),
}


@pytest.mark.parametrize(("route", "tables"), GIVEN.values(), ids=GIVEN)
def test_a_route_goes_to_the_tables_of_the_addresses_near_it(route: RouteFacts, tables: set[int]) -> None:
    plan = planned(request("ADD", IP4, NEAR, OTHER, IP6), routes=(route,))
    assert {step.table for step in plan if isinstance(step, AddRouteCopy)} == tables


DEFAULT = RouteFacts(ALL4, (ip_address("10.2.0.77"),), message=b"default")
DEFAULT6 = RouteFacts(ALL6, (ip_address("fd00:2::77"),), metric=1024, message=b"default 6")


@pytest.mark.parametrize(
    ("route", "ip", "is_added"),
    [
        (DEFAULT, IP4, False),
        (DEFAULT._replace(metric=5), IP4, True),
        (DEFAULT6, IP6, False),
        (DEFAULT6._replace(metric=1023), IP6, True),
        (ON_LINK, IP4._replace(gateway=None), False),
    ],
)
def test_a_default_route_is_added_unless_a_copied_one_has_its_place(
    route: RouteFacts, ip: IPConfig, is_added: bool
) -> None:
    plan = planned(request("ADD", ip), routes=(route,))
    assert any(isinstance(step, AddRoute) for step in plan) is is_added
    assert any(isinstance(step, AddRouteCopy) for step in plan)


@pytest.mark.parametrize(
    ("routes", "ip", "onlink"),
    [
        ((ON_LINK,), IP4, False),
        ((), IP4, True),
        ((FAR._replace(dst=NET4),), IP4, True),
        ((), IP6._replace(gateway=ip_address("fe80::1")), False),
        ((ON_LINK6,), IP6, False),
        ((RouteFacts(ALL4, scope=253, metric=9),), IP4, False),
    ],
)
def test_a_gateway_that_no_route_makes_a_neighbour_is_taken_for_one(
    routes: tuple[RouteFacts, ...], ip: IPConfig, onlink: bool
) -> None:
    (default,) = [step for step in planned(request("ADD", ip), routes=routes) if isinstance(step, AddRoute)]
    assert default.onlink is onlink


def test_gateways_of_the_config_replace_those_of_ipam_and_all_default_routes() -> None:
    asked = request("ADD", IP4, IP6, gateways=["10.2.0.254"])
    plan = planned(asked, routes=(DEFAULT, DEFAULT._replace(metric=9), ON_LINK, DEFAULT6))
    assert [step for step in plan if isinstance(step, AddRoute)] == [
        AddRoute(IN, "net1", ALL4, ip_address("10.2.0.254"), table=100)
    ]
    assert [step.message for step in plan if isinstance(step, AddRouteCopy)] == [b"on link", b"default 6"]
    assert len([step for step in plan if isinstance(step, DelMainRoute)]) == 4


def test_the_result_has_the_gateways_of_the_config() -> None:
    others = Route(ip_interface("0.0.0.0/0"), ip_address("10.5.0.1"), table=7)
    far = Route(FAR.dst, GW4)
    asked = request("ADD", IP4, routes=(Route(ALL4, GW4), far, others, Route(ALL6)), gateways=["10.2.0.254"])
    result = PLUGIN.decide(asked, parse(asked), Result(), Facts(free_tables=(100,), routes=())).result
    assert result.routes == (Route(ALL4, ip_address("10.2.0.254")), far, others, Route(ALL6))
    assert result._replace(routes=()) == asked.prev_result._replace(routes=())  # type: ignore[union-attr]


@pytest.mark.parametrize("keys", [{}, {"table": 500, "gateways": ["10.2.0.254"]}, {"addSourceHints": True}])
def test_otherwise_prev_result_is_passed_on_as_it_is(keys: dict[str, Any]) -> None:
    asked = request("ADD", IP4, routes=(Route(ALL4, GW4),), **keys)
    decided = PLUGIN.decide(asked, parse(asked), Result(), Facts(free_tables=(100,), routes=()))
    assert decided.result is asked.prev_result


def test_source_hints_keep_routes_to_neighbours_and_give_subnets_a_source() -> None:
    by_host = RouteFacts(ip_interface("10.2.0.1/32"), scope=253, message=b"host")
    through = RouteFacts(NET4, (GW4,), message=b"through")
    facts = {"routes": (FAR, through, by_host, LOCAL6, ON_LINK6)}
    plan = planned(request("ADD", IP4, IP6, addSourceHints=True), **facts)
    after = plan[[isinstance(step, AwaitAddresses) for step in plan].index(True) :]
    assert after == (
        AwaitAddresses(IN, "net1"),
        DelMainRoute(IN, "net1", NET4, b"through"),
        AddMainRoute(IN, "net1", NET4, b"through", V4.ip),
        DelMainRoute(IN, "net1", FAR.dst, b"far"),
        DelMainRoute(IN, "net1", NET6, b"on link 6"),
        AddMainRoute(IN, "net1", NET6, b"on link 6", V6.ip),
    )


def test_source_hints_are_added_where_a_subnet_has_no_route_and_the_last_address_is_the_source() -> None:
    plan = planned(request("ADD", IP4, NEAR, addSourceHints=True))
    assert plan[-1] == AddRoute(IN, "net1", NET4, scope=253, src=NEAR.address.ip)
    kept = planned(request("ADD", IP4, addSourceHints=True), routes=(ON_LINK,))
    assert not any(isinstance(step, AddMainRoute | DelMainRoute) for step in kept)
    single = IPConfig(ip_interface("10.2.0.2/32"), None, 1)
    assert planned(request("ADD", single, addSourceHints=True)) == (AddRule(IN, V4.ip, 100, OWN),)


def test_a_given_table_gets_rules_only() -> None:
    plan = planned(request("ADD", IP4, IP6, table=5001, addSourceHints=True), routes=None, free_tables=())
    assert plan == (AddRule(IN, V4.ip, 5001, SHARED), AddRule(IN, V6.ip, 5001, SHARED))


# ------------------------------------------------------------------------------------------------- refused


def test_addresses_of_other_interfaces_are_not_ours() -> None:
    for ips in ((IP4._replace(interface=0),), (IP4._replace(interface=9),)):
        with pytest.raises(InvalidNetworkConfig, match="No IP addresses supplied on interface: net1"):
            planned(request("ADD", *ips))
    plan = planned(request("ADD", IP4._replace(interface=0), IP6._replace(interface=None)))
    assert [step.address for step in plan if isinstance(step, AddRule)] == [V6.ip]


def test_a_gateway_of_the_other_ip_version_is_refused() -> None:
    with pytest.raises(InvalidNetworkConfig, match="10.2.0.2/24 and its gateway fd00:2::1 are of different"):
        planned(request("ADD", IP4._replace(gateway=GW6)))


def admitted(asked: Request, **facts: Any) -> None:
    PLUGIN.admit(asked, parse(asked), Facts(**facts))


def test_an_attachment_that_has_rules_already_is_refused() -> None:
    for mark in (OWN, SHARED):
        with pytest.raises(NameTaken) as raised:
            admitted(request(), rules=(RuleFacts(V4.ip, 100, 32765, mark),), routes=())
        assert raised.value.details == "the sandbox has a rule from 10.2.0.2 lookup 100"
    admitted(request(), rules=(RuleFacts(V4.ip, 100, 32765), RuleFacts(V4.ip, 100, 1, OWN ^ 4)), routes=())


def test_an_interface_that_is_not_there_is_refused() -> None:
    with pytest.raises(KernelRefused, match="link net1 not found"):
        admitted(request(), routes=None)
    admitted(request(table=7), routes=None)


def test_status_tells_which_ip_version_lacks_rules() -> None:
    asked = request("STATUS")
    PLUGIN.status(asked, parse(asked), Facts())
    for versions, text in (((6,), "IPv6"), ((4, 6), "IPv4 and IPv6")):
        with pytest.raises(NotAvailable, match=f"this kernel has no policy routing for {text}$"):
            PLUGIN.status(asked, parse(asked), Facts(without_rules=versions))


@pytest.mark.parametrize(
    ("command", "keys", "asks"),
    [
        ("ADD", {}, Asks(rules=True, routes_of="net1", free_tables=2)),
        ("ADD", {"table": 7}, Asks(rules=True)),
        ("CHECK", {}, Asks(rules=True)),
        ("DEL", {}, Asks(rules=True, sandbox=("net1",))),
        ("STATUS", {}, Asks(policy_routing=True)),
    ],
)
def test_each_command_looks_up_what_it_needs(command: str, keys: dict[str, Any], asks: Asks) -> None:
    asked = request(command, IP4, IP6, **keys)
    assert PLUGIN.asks(asked, parse(asked)) == asks
    if command == "DEL":
        assert PLUGIN.asks(asked, None) == asks


# --------------------------------------------------------------------------------------------------- CHECK

RULES = (RuleFacts(V4.ip, 107, 32765, OWN), RuleFacts(V6.ip, 108, 32765, OWN))


def test_check_compares_rules_tables_and_that_the_main_table_is_empty() -> None:
    routes = (Route(ALL4), Route(FAR.dst, GW4, mtu=1300))
    assert planned(request("CHECK", IP4, routes=routes), rules=RULES, routes=None, free_tables=()) == (
        AddRule(IN, V4.ip, 107, OWN),
        AddRoute(IN, "net1", NET4, table=107),
        AddRoute(IN, "net1", ALL4, GW4, table=107),
        AddRoute(IN, "net1", FAR.dst, GW4, 1300, table=107),
        DelMainRoute(IN, "net1", NET4),
        DelMainRoute(IN, "net1", ALL4),
        DelMainRoute(IN, "net1", FAR.dst),
    )


def test_check_demands_the_default_route_through_the_gateway() -> None:
    plan = planned(request("CHECK", IP4, IP6), rules=RULES)
    defaults = [step for step in plan if isinstance(step, AddRoute) and step.gw]
    assert defaults == [
        AddRoute(IN, "net1", ALL4, GW4, table=107),
        AddRoute(IN, "net1", ALL6, GW6, table=108),
    ]


def test_check_leaves_routes_in_other_tables_to_the_main_plugin() -> None:
    routes = (Route(FAR.dst, GW4, table=5001),)
    plan = planned(request("CHECK", IP4, routes=routes), rules=RULES)
    assert not any(isinstance(step, AddRoute | DelMainRoute) and step.dst == FAR.dst for step in plan)


def test_check_demands_the_gateways_of_the_config() -> None:
    asked = request("CHECK", IP4, routes=(Route(ALL4, GW4),), gateways=["10.2.0.254"])
    defaults = [step for step in planned(asked, rules=RULES) if isinstance(step, AddRoute) and step.gw]
    assert defaults == [AddRoute(IN, "net1", ALL4, ip_address("10.2.0.254"), table=107)]


def test_check_demands_hints() -> None:
    plan = planned(request("CHECK", IP4, IP6, addSourceHints=True), rules=RULES)
    assert [step for step in plan if isinstance(step, AddMainRoute | DelMainRoute)] == [
        AddMainRoute(IN, "net1", NET4, source=V4.ip),
        AddMainRoute(IN, "net1", NET6, source=V6.ip),
    ]


@pytest.mark.parametrize(
    "rules",
    [
        (),
        (RULES[1],),
        (RULES[0]._replace(mark=SHARED),),
        (RULES[0]._replace(mark=OWN ^ 4),),
        (RULES[0]._replace(mark=0, table=99),),
    ],
)
def test_check_misses_a_rule(rules: tuple[RuleFacts, ...]) -> None:
    with pytest.raises(StateDrifted, match="^rule from 10.2.0.2 in the sandbox is missing$"):
        planned(request("CHECK", IP4), rules=rules)


def test_check_accepts_the_references_rules_but_prefers_its_own() -> None:
    foreign = RuleFacts(V4.ip, 100, 32765)
    assert planned(request("CHECK", IP4), rules=(foreign,))[0] == AddRule(IN, V4.ip, 100, OWN)
    for rules in ((foreign, RULES[0]), (RULES[0], foreign)):
        assert planned(request("CHECK", IP4), rules=rules)[0] == AddRule(IN, V4.ip, 107, OWN)


# ----------------------------------------------------------------------------------------------------- DEL


def deleted(*rules: RuleFacts, link: LinkFacts | None = None, **keys: Any) -> tuple[Step, ...]:
    asked = request("DEL", IP4, **keys)
    facts = Facts(rules=rules, sandbox={"net1": link} if link else {})
    return PLUGIN.delete(asked, parse(asked), facts)


def test_del_removes_routes_before_the_rule_that_reserves_their_table() -> None:
    assert deleted(*RULES) == (
        DelTableRoutes(IN, "net1", 107, 4),
        DelRule(IN, V4.ip, 107, OWN),
        DelTableRoutes(IN, "net1", 108, 6),
        DelRule(IN, V6.ip, 108, OWN),
    )


def test_del_leaves_the_routes_of_a_table_that_is_not_its_own() -> None:
    assert deleted(RULES[0]._replace(mark=SHARED)) == (DelRule(IN, V4.ip, 107, SHARED),)


def test_del_leaves_the_rules_of_other_attachments() -> None:
    assert deleted(RULES[0]._replace(mark=OWN ^ 4)) == ()


LINK = LinkFacts("net1", 5, "veth", "02:00:00:00:00:01", 1500, up=True, addresses=(V6,))


def test_del_removes_the_references_rules_for_addresses_of_the_interface() -> None:
    four, six = RuleFacts(V4.ip, 100, 32765), RuleFacts(V6.ip, 101, 32764)
    assert deleted(four, six) == (DelRule(IN, V4.ip, 100, priority=32765),)
    assert deleted(four, six, link=LINK) == (DelRule(IN, V6.ip, 101, priority=32764),)
    assert deleted(four._replace(table=99)) == ()
    assert deleted(four._replace(table=99), table=99) == (DelRule(IN, V4.ip, 99, priority=32765),)
    assert deleted(four, table=99) == ()


def test_del_needs_neither_config_nor_prev_result() -> None:
    asked = request("DEL")._replace(prev_result=None)
    plan = PLUGIN.delete(asked, None, Facts(rules=(*RULES, RuleFacts(V4.ip, 100, 32765))))
    assert [step for step in plan if isinstance(step, DelRule)] == [
        DelRule(IN, V4.ip, 107, OWN),
        DelRule(IN, V6.ip, 108, OWN),
    ]
