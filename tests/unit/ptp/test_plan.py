"""From request, lease and facts to the exact plan."""

from ipaddress import ip_address, ip_interface
from typing import Any

import pytest

from cni_plugins.contract.facts import Facts, LinkFacts
from cni_plugins.errors import InvalidNetworkConfig, NameTaken, NotAvailable
from cni_plugins.ownership import Owner
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import DNS, Interface, IPConfig, Result, Route
from cni_plugins.ptp.config import parse
from cni_plugins.ptp.plugin import PLUGIN
from cni_plugins.steps.firewall import (
    DelIptablesMasquerade,
    DelOwnedRules,
    DelReferenceRules,
    EnsureIptablesMasquerade,
    EnsureMasquerade,
)
from cni_plugins.steps.ip import (
    IF_PRESENT,
    WANTED,
    AddRoute,
    AwaitAddresses,
    EnableForwarding,
    EnsureAddress,
    EnsureSysctl,
)
from cni_plugins.steps.links import AddVeth, AwaitUp, DelLink, EnsureUp
from cni_plugins.steps.neighbours import EnsureNeighbour

V4, V6 = ip_interface("10.1.0.2/24"), ip_interface("fd00::2/64")
IP4, IP6 = IPConfig(V4, ip_address("10.1.0.1")), IPConfig(V6, ip_address("fd00::1"))
DEFAULTS = (Route(ip_interface("0.0.0.0/0")), Route(ip_interface("::/0")))
LEASE, DUAL = Result(ips=(IP4,), routes=DEFAULTS[:1]), Result(ips=(IP4, IP6), routes=DEFAULTS)
NO_FACTS = Facts()


def request(command: Any = "ADD", **more: Any) -> Request:
    conf = {"name": "net1", "type": "ptp", "ipam": {"type": "host-local"}, **more.pop("conf", {})}
    values = {"container_id": "c1", "netns": "/ns", "ifname": "eth0", "conf": conf}
    return Request(command, "net1", **{**values, **more})


ME = request().attachment
END = ME.host_end


def link(name: str, **more: Any) -> LinkFacts:
    return LinkFacts(name, 7, **{"kind": "veth", "mac": "02:00:00:00:00:09", "mtu": 1500, "up": True, **more})


def planned(lease: Result = LEASE, facts: Facts = NO_FACTS, **keys: Any) -> tuple[Any, ...]:
    asked = request(conf=keys)
    return PLUGIN.decide(asked, parse(asked), lease, facts).plan


def answered(lease: Result = LEASE, facts: Facts = NO_FACTS, **keys: Any) -> Result:
    asked = request(conf=keys)
    return PLUGIN.decide(asked, parse(asked), lease, facts).result


def of(plan: tuple[Any, ...], kind: type) -> list[Any]:
    return [step for step in plan if type(step) is kind]


def routes(lease: Result, where: str = "sandbox", **keys: Any) -> list[tuple[str, str, int | None]]:
    """Return destination, gateway and scope of the routes of one place."""
    steps = [step for step in of(planned(lease, **keys), AddRoute) if step.where == where]
    return [(str(step.dst), str(step.gw or ""), step.scope) for step in steps]


def lines(plan: tuple[Any, ...]) -> list[str]:
    """Return steps as text: tuples of different kinds could be equal."""
    return [repr(step) for step in plan]


def setting(where: Any, key: str, value: str, link: str = "eth0", **more: Any) -> EnsureSysctl:
    return EnsureSysctl(where, ("ipv6", "conf", link, key), value, **more)


def test_the_exact_plan_of_a_plain_link() -> None:
    mine, gateway, single = ip_address("10.1.0.2"), ip_address("10.1.0.1"), ip_interface("10.1.0.1/32")
    assert lines(planned(ipMasq=True)) == lines(
        (
            AddVeth("eth0", ME.mac("sandbox", ""), 0, END, ME.mac("host", ""), ME.alias),
            setting("host", "accept_ra", "0", END, need=IF_PRESENT),
            EnsureSysctl("host", ("ipv4", "conf", END, "forwarding"), "1", IF_PRESENT),
            EnsureUp("host", END),
            EnsureAddress("host", END, single, skip_dad=True),
            EnsureMasquerade(Owner(ME), (V4,), (), random_fully=False, link=END),
            EnsureAddress("sandbox", "eth0", V4, skip_dad=True, prefix_route=False),
            EnsureUp("sandbox", "eth0"),
            AddRoute("sandbox", "eth0", single, scope=253, src=mine),
            AddRoute("sandbox", "eth0", ip_interface("10.1.0.0/24"), gateway, src=mine),
            AddRoute("sandbox", "eth0", ip_interface("0.0.0.0/0"), gateway),
            AddRoute("host", END, ip_interface("10.1.0.2/32"), scope=254, exclusive=True),
            AwaitUp(END),
            EnableForwarding((4,)),
        )
    )


def test_the_exact_plan_of_a_routed_link() -> None:
    single = ip_interface("fd00::2/128")
    assert lines(planned(Result(ips=(IP6,)), routed=True)) == lines(
        (
            AddVeth("eth0", ME.mac("sandbox", ""), 0, END, ME.mac("host", ""), ME.alias),
            setting("host", "accept_ra", "0", END, need=IF_PRESENT),
            setting("host", "disable_ipv6", "0", END, need=IF_PRESENT),
            setting("host", "accept_dad", "0", END, need=IF_PRESENT),
            setting("host", "addr_gen_mode", "1", END, need=IF_PRESENT),
            EnsureUp("host", END),
            EnsureAddress("host", END, ip_interface("fe80::1/64"), skip_dad=True, scope=253),
            setting("sandbox", "disable_ipv6", "0", "lo"),
            setting("sandbox", "disable_ipv6", "0"),
            setting("sandbox", "keep_addr_on_down", "1", need=WANTED),
            setting("sandbox", "accept_dad", "0", need=WANTED),
            EnsureAddress("sandbox", "eth0", single, skip_dad=True, prefix_route=False),
            EnsureUp("sandbox", "eth0"),
            EnsureNeighbour("sandbox", "eth0", ip_address("fe80::1"), ME.mac("host", ""), can_be_asked=True),
            AddRoute("sandbox", "eth0", ip_interface("::/0"), ip_address("fe80::1")),
            AddRoute("host", END, single, priority=1, exclusive=True),
            AwaitUp(END),
            EnableForwarding((6,)),
        )
    )


def test_forwarding_is_last_as_it_is_never_taken_back() -> None:
    assert planned(DUAL, ipMasq=True)[-1] == EnableForwarding((4, 6))


def test_both_families_lead_through_their_gateways() -> None:
    assert routes(DUAL) == [
        ("10.1.0.1/32", "", 253),
        ("10.1.0.0/24", "10.1.0.1", None),
        ("fd00::1/128", "", 253),
        ("fd00::/64", "fd00::1", None),
        ("0.0.0.0/0", "10.1.0.1", None),
        ("::/0", "fd00::1", None),
    ]
    assert routes(DUAL, "host") == [("10.1.0.2/32", "", 254), ("fd00::2/128", "", None)]


def test_addresses_of_one_subnet_share_its_routes() -> None:
    second = IPConfig(ip_interface("10.1.0.3/24"), IP4.gateway)
    plan = planned(Result(ips=(IP4, second)))
    assert routes(Result(ips=(IP4, second))) == [("10.1.0.1/32", "", 253), ("10.1.0.0/24", "10.1.0.1", None)]
    assert [step.address for step in of(plan, EnsureAddress) if step.where == "host"] == [
        ip_interface("10.1.0.1/32")
    ]
    assert len(routes(Result(ips=(IP4, second)), "host")) == 2


def test_an_address_without_a_subnet_needs_no_route_to_it() -> None:
    alone = Result(ips=(IPConfig(ip_interface("10.1.0.2/32"), IP4.gateway),), routes=DEFAULTS[:1])
    assert routes(alone) == [("10.1.0.1/32", "", 253), ("0.0.0.0/0", "10.1.0.1", None)]


def test_duplicates_are_looked_for_before_the_address_becomes_a_source() -> None:
    plan = planned(DUAL, enabledad=True)
    assert plan.index(AwaitAddresses("sandbox", "eth0")) < plan.index(of(plan, AddRoute)[0])
    assert setting("sandbox", "accept_dad", "0", need=WANTED) not in plan
    assert not any(step.skip_dad for step in of(plan, EnsureAddress) if step.where == "sandbox")
    assert not of(planned(LEASE, enabledad=True), AwaitAddresses)


@pytest.mark.parametrize(
    ("ip", "message"),
    [
        (IPConfig(V4), "10.1.0.2/24 has no gateway, which a point-to-point link needs"),
        (IPConfig(V4, V4.ip), "the gateway of 10.1.0.2/24 is the container's own address"),
    ],
)
def test_an_address_without_a_gateway_of_its_own_is_refused(ip: IPConfig, message: str) -> None:
    with pytest.raises(InvalidNetworkConfig, match=message) as caught:
        planned(Result(ips=(ip,)))
    assert "ipam.type is host-local" in caught.value.details
    assert planned(Result(ips=(ip,)), routed=True)


def test_a_routed_container_has_its_own_address_and_the_hosts() -> None:
    plan = planned(DUAL, routed=True)
    assert [(step.where, str(step.address), step.scope) for step in of(plan, EnsureAddress)] == [
        ("host", "169.254.1.1/32", 253),
        ("host", "fe80::1/64", 253),
        ("sandbox", "10.1.0.2/32", 0),
        ("sandbox", "fd00::2/128", 0),
    ]
    assert routes(DUAL, routed=True) == [
        ("169.254.1.1/32", "", 253),
        ("0.0.0.0/0", "169.254.1.1", None),
        ("::/0", "fe80::1", None),
    ]
    assert routes(DUAL, "host", routed=True) == [("10.1.0.2/32", "", 0), ("fd00::2/128", "", None)]
    assert not any(step.onlink for step in of(plan, AddRoute))


def test_a_family_without_a_route_gets_a_default_route_when_routed() -> None:
    special = Route(ip_interface("192.0.2.0/24"), ip_address("169.254.1.1"), 1300)
    lease = DUAL._replace(routes=(special,))
    assert answered(lease, routed=True).routes == (
        special,
        Route(ip_interface("::/0"), ip_address("fe80::1")),
    )
    assert of(planned(lease, routed=True), AddRoute)[1].mtu == 1300


@pytest.mark.parametrize(
    ("route", "details"),
    [
        (Route(ip_interface("0.0.0.0/0"), ip_address("10.1.0.1")), "its gateway is 10.1.0.1, routed is on"),
        (Route(ip_interface("192.0.2.0/24"), scope=253), "its scope is 253, routed is on"),
        (Route(ip_interface("::/0")), "the container has no IPv6 address, routed is on"),
    ],
)
def test_a_routed_container_reaches_only_the_host(route: Route, details: str) -> None:
    with pytest.raises(InvalidNetworkConfig, match="a routed container reaches only") as caught:
        planned(LEASE._replace(routes=(route,)), routed=True)
    assert caught.value.details == details


def test_the_result_names_both_ends() -> None:
    result = answered(DUAL, mtu=1400)
    assert result.interfaces == (
        Interface(END, ME.mac("host", ""), mtu=1400),
        Interface("eth0", ME.mac("sandbox", ""), "/ns", mtu=1400),
    )
    assert [(ip.address, ip.gateway, ip.interface) for ip in result.ips] == [
        (V4, IP4.gateway, 1),
        (V6, IP6.gateway, 1),
    ]
    assert result.routes == DUAL.routes


def test_the_result_of_a_routed_link_says_what_the_container_has() -> None:
    result = answered(DUAL, routed=True)
    assert [(str(ip.address), str(ip.gateway)) for ip in result.ips] == [
        ("10.1.0.2/32", "169.254.1.1"),
        ("fd00::2/128", "fe80::1"),
    ]
    assert [str(route.gw) for route in result.routes] == ["169.254.1.1", "fe80::1"]


def test_configured_dns_replaces_the_ipams() -> None:
    lease = LEASE._replace(dns=DNS(nameservers=("192.0.2.53",)))
    assert answered(lease, dns={"domain": ""}).dns == lease.dns
    assert answered(lease, dns={"nameservers": []}).dns == DNS()


def test_mac_and_mtu_are_the_configs() -> None:
    facts = Facts(default_route=link("up0", mtu=1380))
    (pair,) = of(planned(facts=facts, mtu="auto", mac="02:00:00:00:00:42"), AddVeth)
    assert (pair.mac, pair.mtu) == ("02:00:00:00:00:42", 1380)


def test_masquerading_of_one_family_through_iptables() -> None:
    plan = planned(DUAL, ipMasq={"v4": False}, ipMasqBackend="iptables")
    assert of(plan, EnsureIptablesMasquerade)[0].addresses == (V6,)


def test_an_add_is_refused_before_addresses_are_reserved() -> None:
    asked = request()
    PLUGIN.admit(asked, parse(asked), NO_FACTS)
    with pytest.raises(NameTaken, match="already exists"):
        PLUGIN.admit(asked, parse(asked), Facts(sandbox={"eth0": link("eth0")}))


# ---------------------------------------------------------------------------------------------- CHECK


def checked(recorded: Result, facts: Facts = NO_FACTS, **keys: Any) -> tuple[Any, ...]:
    asked = request("CHECK", conf=keys, prev_result=recorded)
    return PLUGIN.decide(asked, parse(asked), recorded, facts).plan


@pytest.mark.parametrize("keys", [{}, {"routed": True}, {"ipMasq": True}])
def test_check_compares_the_plan_of_add(keys: dict[str, Any]) -> None:
    made = [step for step in planned(DUAL, mtu=1400, **keys) if type(step) is not AddVeth]
    compared = [
        step for step in checked(answered(DUAL, mtu=1400, **keys), **keys) if type(step) is not AddVeth
    ]
    assert lines(tuple(compared)) == lines(tuple(made))


def test_check_leaves_routes_of_later_plugins_alone() -> None:
    recorded = answered(LEASE, routed=True)
    later = Route(ip_interface("192.0.2.0/24"), ip_address("10.1.0.9"))
    plan = checked(recorded._replace(routes=(*recorded.routes, later)), routed=True)
    assert [str(step.dst) for step in of(plan, AddRoute)] == ["169.254.1.1/32", "0.0.0.0/0", "10.1.0.2/32"]


@pytest.mark.parametrize("routed", [False, True])
def test_check_of_an_attachment_the_reference_made_leaves_out_what_only_we_make(routed: bool) -> None:
    recorded = DUAL._replace(interfaces=(Interface("veth1234"), Interface("eth0", "m", "/ns")))
    facts = Facts(sandbox={"eth0": link("eth0", peer="veth1234")})
    plan = checked(recorded, facts, ipMasq=True, routed=routed)
    assert of(plan, AddVeth)[0].host_end == "veth1234"
    assert not of(plan, EnsureMasquerade)
    assert [step.key[3] for step in of(plan, EnsureSysctl)] == ["accept_ra", "disable_ipv6", "disable_ipv6"]
    assert ip_interface("10.1.0.1/32") in [step.address for step in of(plan, EnsureAddress)]


# ---------------------------------------------------------------------------------------------- DEL, GC


def deleted(facts: Facts = NO_FACTS, *recorded: str) -> tuple[Any, ...]:
    asked = request("DEL", prev_result=Result(interfaces=tuple(map(Interface, recorded))))
    return PLUGIN.delete(asked, None, facts)


def test_del_goes_by_our_names_alone() -> None:
    assert lines(deleted()) == lines(
        (DelLink("host", END), DelOwnedRules(Owner(ME)), DelIptablesMasquerade(ME))
    )


@pytest.mark.parametrize(
    ("inside", "recorded", "foreign"),
    [
        ({"peer": "veth1234"}, (), True),
        ({"peer": "veth1234", "peer_master": "br0"}, (), False),
        ({"peer": "veth1234", "peer_master": "br0"}, ("veth1234",), True),
        ({"peer": "cali1234"}, (), False),
        ({"peer": ""}, (), False),
        ({"peer": END}, (), False),
        ({"kind": "macvlan"}, (), False),
    ],
)
def test_del_takes_what_the_reference_made(
    inside: dict[str, Any], recorded: tuple[str, ...], foreign: bool
) -> None:
    plan = deleted(Facts(sandbox={"eth0": link("eth0", **inside)}), *recorded)
    assert (DelLink("sandbox", "eth0") in plan) is foreign
    assert bool(of(plan, DelReferenceRules)) is foreign


def test_gc_takes_stale_pairs() -> None:
    owned = (link(END, alias=ME.alias),)
    assert DelLink("host", END) in PLUGIN.collect(request("GC"), Facts(owned=owned))
    valid = request("GC", valid_attachments=(("c1", "eth0"),))
    assert DelLink("host", END) not in PLUGIN.collect(valid, Facts(owned=owned))


# ---------------------------------------------------------------------------------------------- questions


def test_each_command_asks_only_what_it_needs() -> None:
    asked = request(conf={"mtu": "auto", "ipMasq": True})
    config = parse(asked)
    assert PLUGIN.ipam_type(asked) == "host-local"
    assert PLUGIN.asks(asked, config)[:3] == ((END,), ("eth0",), True)
    assert PLUGIN.asks(asked._replace(command="CHECK"), config)[:3] == ((END,), ("eth0",), False)
    assert PLUGIN.asks(asked._replace(command="DEL"), None)[:2] == ((END,), ("eth0",))
    assert PLUGIN.asks(asked._replace(command="GC"), None).owned
    wanted = PLUGIN.asks(asked._replace(command="STATUS"), config)
    assert (wanted.host, wanted.nf_tables, wanted.iptables) == ((), True, False)
    through = parse(request(conf={"ipMasq": True, "ipMasqBackend": "iptables"}))
    wanted = PLUGIN.asks(asked._replace(command="STATUS"), through)
    assert (wanted.nf_tables, wanted.iptables) == (False, True)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (Facts(nf_tables=False), "no nf_tables"),
        (Facts(iptables=False), "iptables-restore is not installed"),
    ],
)
def test_status_says_why_an_add_would_fail(facts: Facts, message: str) -> None:
    PLUGIN.status(request("STATUS"), parse(request()), NO_FACTS)
    with pytest.raises(NotAvailable, match=message):
        PLUGIN.status(request("STATUS"), parse(request()), facts)


def test_masquerading_is_ready_before_the_container_has_an_address() -> None:
    plan = planned(DUAL, ipMasq=True)
    kinds = [(type(step), getattr(step, "where", "")) for step in plan]
    assert kinds.index((EnsureMasquerade, "")) < kinds.index((EnsureAddress, "sandbox"))
