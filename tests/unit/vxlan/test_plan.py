"""Requests, configs, leases and facts to exact plans and results."""

from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from cni_plugins.contract.facts import Facts
from cni_plugins.errors import InvalidNetworkConfig, NameTaken
from cni_plugins.ownership import OVERLAY_ALIAS, Owner, network_tag
from cni_plugins.protocol.macs import link_local
from cni_plugins.protocol.result import DNS, Interface, IPConfig, Result, Route
from cni_plugins.steps.firewall import DelIptablesMasquerade, DelOwnedRules
from cni_plugins.steps.forwarded import ExpectForwarded, Flow
from cni_plugins.steps.ip import IF_PRESENT, WANTED, AddRoute, EnableForwarding, EnsureAddress, EnsureSysctl
from cni_plugins.steps.links import AddVeth, Announce, AttachPort, AwaitUp, DelLink, EnsureUp
from cni_plugins.steps.overlay import (
    AttachVxlan,
    DelIdleOverlay,
    DelProxied,
    Edition,
    EnsureOverlayBridge,
    EnsureOverlayRules,
    EnsurePeers,
    EnsurePortSources,
    EnsureProxied,
    EnsureVxlan,
    Filled,
    NetworkMasquerade,
)
from cni_plugins.vxlan.config import parse
from cni_plugins.vxlan.host_plan import host_plan, require_no_clash
from cni_plugins.vxlan.identity import ContainerMacs
from cni_plugins.vxlan.peer_entries import content, peer_entries
from cni_plugins.vxlan.plan import admit, collect, decide, delete
from tests.unit.vxlan.hosts import (
    BARE,
    BLOCKS,
    DUAL_PEERS,
    DUAL_STRETCHED,
    GROUP,
    STRETCHED,
    facts,
    link,
    local_host,
    parsed,
    request,
)

DUAL = {"network": ["10.244.0.0/16", "fd00::/16"], "peers": DUAL_PEERS}
ASKING = {**DUAL, "peers": BARE, "backend": {"subnet": ["10.244.1.0/24", "fd00:1::/64"]}}
MULTICAST = {"backend": GROUP, "underlay": {"interface": "eth0"}}
ME = request().attachment
H1, H2, H3 = map(ip_address, BARE)
W = (ip_network("10.244.0.0/16"),)


def leased(*addresses: str, routes: tuple[Route, ...] = ()) -> Result:
    return Result(ips=tuple(IPConfig(ip_interface(text)) for text in addresses), routes=routes)


ROUTED = leased("10.244.1.2/24")
BOTH = leased("10.244.1.2/24", "fd00:1::2/64")
IN_BLOCK = leased("192.168.100.3/24")


def planned(lease: Result = ROUTED, there: Facts | None = None, **keys: Any) -> tuple[Any, ...]:
    asked = request(keys=keys)
    return decide(asked, parse(asked), lease, there or facts()).plan


def of(plan: tuple[Any, ...], kind: type) -> list[Any]:
    return [step for step in plan if type(step) is kind]


def node_mac(address: str) -> str:
    return ContainerMacs(77).of(ip_address(address))


def test_the_exact_plan_of_a_routed_network() -> None:
    overlay = parsed()
    lease = ROUTED._replace(routes=(Route(ip_interface("192.0.2.0/24")),))
    inside = (ip_network("10.244.1.0/24"),)
    own = Filled("vx25", "02:fe:0a:63:00:01", (ip_interface("10.244.1.0/32"),))
    bridge = Filled("vxbr25", node_mac("10.99.0.1"), (ip_interface("10.244.1.1/24"),))
    edition = Edition(content(overlay, local_host(overlay)), (own, bridge), version=4)
    assert planned(lease) == (
        EnsureOverlayRules(
            "net1",
            77,
            4789,
            4,
            "vxbr25",
            "vx25",
            (H2, H3),
            ("eth0",),
            inside=inside,
            edition=edition,
        ),
        EnsureVxlan("vx25", 77, 4789, "net1", "eth0", H1, "02:fe:0a:63:00:01", 1450, "set"),
        EnsureSysctl("host", ("ipv6", "conf", "vx25", "accept_ra"), "0", IF_PRESENT),
        EnsureSysctl("host", ("ipv4", "conf", "vx25", "forwarding"), "1", IF_PRESENT),
        EnsureAddress("host", "vx25", ip_interface("10.244.1.0/32"), skip_dad=True),
        EnsureUp("host", "vx25"),
        EnsureOverlayBridge("vxbr25", "net1", node_mac("10.99.0.1"), 1450),
        EnsureSysctl("host", ("ipv6", "conf", "vxbr25", "accept_ra"), "0", IF_PRESENT),
        EnsureSysctl("host", ("ipv4", "conf", "vxbr25", "forwarding"), "1", IF_PRESENT),
        EnsureAddress("host", "vxbr25", ip_interface("10.244.1.1/24"), skip_dad=True),
        EnsureUp("host", "vxbr25"),
        peer_entries(overlay, local_host(overlay), {}).replace(edition=edition),
        AddVeth("eth0", ME.mac("sandbox", ""), 1450, ME.host_end, ME.mac("host", ""), ME.alias),
        EnsureSysctl("host", ("ipv6", "conf", ME.host_end, "accept_ra"), "0", IF_PRESENT),
        EnsurePortSources(Owner(ME), ME.host_end, ME.mac("sandbox", ""), (ip_address("10.244.1.2"),)),
        AttachPort(ME.host_end, "vxbr25", hairpin=False, isolated=False),
        EnsureSysctl("sandbox", ("ipv6", "conf", "eth0", "accept_dad"), "0", WANTED),
        EnsureSysctl("sandbox", ("ipv4", "conf", "eth0", "arp_notify"), "1", WANTED),
        EnsureSysctl("sandbox", ("ipv6", "conf", "eth0", "ndisc_notify"), "1", WANTED),
        EnsureAddress("sandbox", "eth0", ip_interface("10.244.1.2/24"), skip_dad=True),
        EnsureUp("sandbox", "eth0"),
        AddRoute("sandbox", "eth0", ip_interface("192.0.2.0/24"), ip_address("10.244.1.1")),
        AddRoute("sandbox", "eth0", ip_interface("0.0.0.0/0"), ip_address("10.244.1.1")),
        AwaitUp(ME.host_end),
        Announce("sandbox", "eth0"),
        EnsureSysctl("host", ("ipv4", "ip_forward_use_pmtu"), "1", IF_PRESENT),
        EnableForwarding((4,)),
    )


def test_the_exact_plan_of_a_stretched_network() -> None:
    overlay = parsed(**DUAL_STRETCHED)
    inside = leased("192.168.100.3/24")
    plan = planned(inside, **DUAL_STRETCHED, ipMasq=True)
    node = ContainerMacs(77).of(ip_address("192.168.100.2"))
    mac = ContainerMacs(77).of(ip_address("192.168.100.3"))
    masquerades = tuple(
        NetworkMasquerade(network, (network,), random_fully=False)
        for network in (ip_network("192.168.100.0/24"), ip_network("fd64::/64"))
    )
    at_bridge = ("192.168.100.2/24", "192.168.100.1/32", "fd64::2/64", "fd64::1/128")
    edition = Edition(
        content(overlay, local_host(overlay)),
        (
            Filled("vx25", "02:fe:0a:63:00:01"),
            Filled("vxbr25", node, tuple(map(ip_interface, at_bridge))),
        ),
        version=4,
        bridged=True,
    )
    assert plan == (
        EnsureOverlayRules(
            "net1",
            77,
            4789,
            4,
            "vxbr25",
            "vx25",
            (H2, H3),
            ("eth0",),
            masquerades=masquerades,
            edition=edition,
        ),
        EnsureVxlan("vx25", 77, 4789, "net1", "eth0", H1, "02:fe:0a:63:00:01", 1450, "set"),
        EnsureSysctl("host", ("ipv6", "conf", "vx25", "accept_ra"), "0", IF_PRESENT),
        EnsureUp("host", "vx25"),
        EnsureOverlayBridge("vxbr25", "net1", node, 1450),
        EnsureSysctl("host", ("ipv6", "conf", "vxbr25", "accept_ra"), "0", IF_PRESENT),
        EnsureSysctl("host", ("ipv4", "conf", "vxbr25", "forwarding"), "1", IF_PRESENT),
        EnsureSysctl("host", ("ipv6", "conf", "vxbr25", "disable_ipv6"), "0", IF_PRESENT),
        EnsureAddress("host", "vxbr25", link_local(node), skip_dad=True),
        EnsureAddress("host", "vxbr25", ip_interface("192.168.100.2/24"), skip_dad=True),
        EnsureAddress("host", "vxbr25", ip_interface("192.168.100.1/32"), skip_dad=True),
        EnsureAddress("host", "vxbr25", ip_interface("fd64::2/64"), skip_dad=True),
        EnsureAddress("host", "vxbr25", ip_interface("fd64::1/128"), skip_dad=True, deprecated=True),
        EnsureUp("host", "vxbr25"),
        AttachVxlan("vx25", "vxbr25", programmed=True),
        peer_entries(overlay, local_host(overlay), {}).replace(edition=edition),
        AddVeth("eth0", mac, 1450, ME.host_end, ME.mac("host", ""), ME.alias),
        EnsureSysctl("host", ("ipv6", "conf", ME.host_end, "accept_ra"), "0", IF_PRESENT),
        EnsurePortSources(
            Owner(ME),
            ME.host_end,
            mac,
            (ip_address("192.168.100.3"), ip_address("fd64::3")),
        ),
        AttachPort(ME.host_end, "vxbr25", hairpin=False, isolated=False),
        EnsureSysctl("sandbox", ("ipv6", "conf", "lo", "disable_ipv6"), "0"),
        EnsureSysctl("sandbox", ("ipv6", "conf", "eth0", "disable_ipv6"), "0"),
        EnsureSysctl("sandbox", ("ipv6", "conf", "eth0", "keep_addr_on_down"), "1", WANTED),
        EnsureSysctl("sandbox", ("ipv6", "conf", "eth0", "accept_dad"), "0", WANTED),
        EnsureSysctl("sandbox", ("ipv4", "conf", "eth0", "arp_notify"), "1", WANTED),
        EnsureSysctl("sandbox", ("ipv6", "conf", "eth0", "ndisc_notify"), "1", WANTED),
        EnsureAddress("sandbox", "eth0", ip_interface("192.168.100.3/24"), skip_dad=True),
        EnsureAddress("sandbox", "eth0", ip_interface("fd64::3/64"), skip_dad=True),
        EnsureUp("sandbox", "eth0"),
        AddRoute("sandbox", "eth0", ip_interface("0.0.0.0/0"), ip_address("192.168.100.1")),
        AddRoute("sandbox", "eth0", ip_interface("::/0"), ip_address("fd64::1")),
        AwaitUp(ME.host_end),
        Announce("sandbox", "eth0"),
        EnableForwarding((4, 6)),
    )


def test_forwarding_is_last_as_it_is_never_taken_back() -> None:
    for keys, lease in ((DUAL, BOTH), (ASKING, BOTH), (DUAL_STRETCHED, IN_BLOCK)):
        assert planned(lease, **keys, ipMasq=True)[-1] == EnableForwarding((4, 6))


def test_ipv6_is_switched_on_before_a_link_of_the_host_has_such_addresses() -> None:
    """A host whose new links have none, as with net.ipv6.conf.default.disable_ipv6."""
    plan = planned(BOTH, **DUAL)
    for step in of(plan, EnsureAddress):
        if step.where == "host" and step.address.version == 6:
            switch = EnsureSysctl("host", ("ipv6", "conf", step.link, "disable_ipv6"), "0", IF_PRESENT)
            assert switch in plan[: plan.index(step)], step


def test_membership_is_the_part_of_no_container() -> None:
    for keys, lease in ((DUAL, BOTH), (ASKING, BOTH), (DUAL_STRETCHED, IN_BLOCK), (MULTICAST, ROUTED)):
        overlay = parsed(**keys, ipMasq=True)
        alone = host_plan(overlay, facts())
        plan = planned(lease, **keys, ipMasq=True)
        assert [step for step in plan if step in alone] == list(alone)
        rest = [step for step in plan if step not in alone and step.is_shared]
        assert rest == [EnsureSysctl("host", ("ipv6", "conf", ME.host_end, "accept_ra"), "0", IF_PRESENT)]


def test_the_second_containers_plan_has_the_same_membership() -> None:
    other = request(container_id="c2")
    one, two = planned(), decide(other, parse(other), leased("10.244.1.3/24"), facts()).plan
    alone = host_plan(parsed(), facts())
    assert [step for step in one if step in alone] == [step for step in two if step in alone]


def test_a_container_without_addresses_announces_nothing() -> None:
    plan = planned(Result(), ipam={"type": "dhcp"}, isDefaultGateway=False)
    assert not of(plan, Announce)
    assert not [step for step in of(plan, EnsureAddress) if step.where == "sandbox"]


# ------------------------------------------------------------------------------------------- VXLAN, rules


@pytest.mark.parametrize(
    ("keys", "values"),
    [
        ({}, {"learning": False, "group": None, "df": "set"}),
        ({"df": "inherit", "port": 8472}, {"df": "inherit", "port": 8472}),
        ({"mtu": 1400}, {"mtu": 1400}),
        (MULTICAST, {"learning": True, "group": ip_address("239.7.7.7")}),
        (ASKING, {"learning": True, "group": None}),
        (STRETCHED, {"learning": False}),
        ({**STRETCHED, "bum": "head-end"}, {"learning": True}),
    ],
)
def test_the_settings_of_the_vxlan_link(keys: dict[str, Any], values: dict[str, Any]) -> None:
    lease = {"l2": IN_BLOCK}.get(keys.get("mode", ""), ROUTED)
    (made,) = of(planned(lease, **keys), EnsureVxlan)
    assert {name: getattr(made, name) for name in values} == values


@pytest.mark.parametrize(
    ("keys", "sources", "restricted"),
    [
        ({}, (H2, H3), True),
        ({"restrictSources": False}, (H2, H3), False),
        (MULTICAST, None, False),
        (ASKING, (H2, H3), True),
        ({"peers": BLOCKS[:1], **{key: STRETCHED[key] for key in ("mode", "subnet")}}, (), True),
    ],
)
def test_who_may_send(keys: dict[str, Any], sources: Any, restricted: bool) -> None:
    lease = {"l2": IN_BLOCK}.get(keys.get("mode", ""), ROUTED)
    (rules,) = of(planned(lease, **keys), EnsureOverlayRules)
    assert (rules.sources, rules.restricted, rules.underlay) == (sources, restricted, ("eth0",))


@pytest.mark.parametrize(
    ("changes", "underlay"),
    [({"name": "lo", "loopback": True}, ()), ({"master": "vrf1"}, ("eth0", "vrf1"))],
    ids=["on lo", "in a VRF"],
)
def test_the_links_by_which_vxlan_arrives(changes: dict[str, Any], underlay: tuple[str, ...]) -> None:
    there = facts(link(**{"name": "eth0", **changes})._replace(addresses=(ip_interface("10.99.0.1/32"),)))
    (rules,) = of(planned(there=there, mtu=1400), EnsureOverlayRules)
    assert rules.underlay == underlay


@pytest.mark.parametrize(
    ("keys", "inside"),
    [
        ({}, ["10.244.1.0/24"]),
        (DUAL, ["10.244.1.0/24", "fd00:1::/64"]),
        ({**DUAL, "restrictSources": True}, ["10.244.1.0/24", "fd00:1::/64"]),
        ({**DUAL, "restrictSources": False}, []),
        (ASKING, ["10.244.1.0/24", "fd00:1::/64"]),
        (MULTICAST, ["10.244.1.0/24"]),
        (STRETCHED, []),
    ],
)
def test_where_containers_send_from(keys: dict[str, Any], inside: list[str]) -> None:
    lease = {"l2": IN_BLOCK}.get(keys.get("mode", ""), ROUTED)
    (rules,) = of(planned(lease, **keys), EnsureOverlayRules)
    assert list(map(str, rules.inside)) == inside


def ways() -> Any:
    from cni_plugins.contract.facts import NextHop

    return {peer: NextHop("eth0", None, H1) for peer in (H2, H3)}


def test_without_encapsulation_there_is_no_vxlan_link() -> None:
    plan = planned(there=facts(routes_to=ways()), directRouting="always", ipMasq=True)
    assert not of(plan, EnsureVxlan)
    (rules,) = of(plan, EnsureOverlayRules)
    assert (rules.vxlan, rules.sources, rules.in_clear) == ("", None, (ip_network("10.244.0.0/16"),))
    assert [str(item.source) for item in rules.masquerades] == ["10.244.1.0/24"]
    assert {route.link for route in of(plan, EnsurePeers)[0].routes} == {"eth0", ""}
    assert of(plan, AddVeth)[0].mtu == 1500
    assert not [step for step in of(plan, EnsureSysctl) if "ip_forward_use_pmtu" in step.key]


def test_what_may_arrive_in_the_clear() -> None:
    plan = planned(there=facts(routes_to=ways()), directRouting="same-subnet")
    within = parsed(**ASKING).config.within
    for planned_now, expected in (
        (plan, (W, ())),
        (planned(), ((), ())),
        (planned(BOTH, **ASKING), ((), within)),
    ):
        (rules,) = of(planned_now, EnsureOverlayRules)
        assert (rules.in_clear, rules.never_in_clear) == expected


def test_a_host_that_stays_keeps_its_part_when_an_add_fails_and_after_the_last_del() -> None:
    asked = request(keys={"keep": True})
    decision = decide(asked, parse(asked), ROUTED, facts())
    assert decision.lasting == host_plan(parsed(keep=True), facts())
    assert set(decision.whole) == set(planned())
    for command in ("DEL", "GC"):
        ask = request(command, keys={"keep": True})
        steps = delete(ask, parse(ask), facts()) if command == "DEL" else collect(ask, facts())
        assert not of(steps, DelIdleOverlay)
        ask = request(command)
        steps = delete(ask, parse(ask), facts()) if command == "DEL" else collect(ask, facts())
        assert len(of(steps, DelIdleOverlay)) == 1


def test_switches_of_the_whole_host_are_left_alone_where_asked() -> None:
    plan = planned(sysctls=False)
    assert not [step for step in of(plan, EnsureSysctl) if "ip_forward_use_pmtu" in step.key]
    assert of(plan, EnsureVxlan)[0].df == "unset"


def test_hosts_that_are_asked_answer_for_their_containers() -> None:
    plan = planned(BOTH, **ASKING)
    settings = {step.key: step.value for step in of(plan, EnsureSysctl) if step.where == "host"}
    assert settings["ipv4", "conf", "vx25", "proxy_arp"] == "1"
    assert settings["ipv6", "conf", "vx25", "proxy_ndp"] == "1"
    assert of(plan, EnsureProxied) == [
        EnsureProxied("vx25", (ip_address("fd00:1::1"),), "vxbr25"),
        EnsureProxied("vx25", (ip_address("fd00:1::2"),), "vxbr25"),
    ]
    assert not of(planned(BOTH, **DUAL), EnsureProxied)


# ------------------------------------------------------------------------------------------- masquerading


@pytest.mark.parametrize(
    ("wish", "sources"),
    [
        (True, ["10.244.1.0/24", "fd00:1::/64"]),
        ({"v6": False}, ["10.244.1.0/24"]),
        (False, []),
        ({"v4": False, "v6": False}, []),
    ],
)
def test_masquerading_spares_the_network(wish: Any, sources: list[str]) -> None:
    (rules,) = of(planned(BOTH, **DUAL, ipMasq=wish, port=8472), EnsureOverlayRules)
    assert [str(item.source) for item in rules.masquerades] == sources
    within = {4: ip_network("10.244.0.0/16"), 6: ip_network("fd00::/16")}
    assert all(item.exclude == (within[item.source.version],) for item in rules.masquerades)


def test_masquerading_keeps_the_exclusions_of_the_config() -> None:
    keys = {"ipMasq": {"exclude": ["10.0.0.0/8", "fd77::/16"], "randomFully": True}}
    (item,) = of(planned(**keys), EnsureOverlayRules)[0].masquerades
    assert item.exclude == (ip_network("10.244.0.0/16"), ip_network("10.0.0.0/8"))
    assert item.random_fully


# ------------------------------------------------------------------------------------------------ results


def answered(lease: Result, **keys: Any) -> Result:
    asked = request(keys=keys)
    return decide(asked, parse(asked), lease, facts()).result


def test_the_exact_result() -> None:
    lease = BOTH._replace(routes=(Route(ip_interface("192.0.2.0/24")),), dns=DNS(("10.0.0.53",)))
    assert answered(lease, **DUAL) == Result(
        interfaces=(
            Interface("vxbr25", node_mac("10.99.0.1")),
            Interface(ME.host_end, ME.mac("host", ""), mtu=1450),
            Interface("eth0", ME.mac("sandbox", ""), "/ns", mtu=1450),
        ),
        ips=(
            IPConfig(ip_interface("10.244.1.2/24"), ip_address("10.244.1.1"), 2),
            IPConfig(ip_interface("fd00:1::2/64"), ip_address("fd00:1::1"), 2),
        ),
        routes=(
            Route(ip_interface("192.0.2.0/24")),
            Route(ip_interface("0.0.0.0/0"), ip_address("10.244.1.1")),
            Route(ip_interface("::/0"), ip_address("fd00:1::1")),
        ),
        dns=DNS(("10.0.0.53",)),
    )


def test_the_result_agrees_with_the_plan() -> None:
    for keys, lease in ((DUAL, BOTH), (DUAL_STRETCHED, IN_BLOCK), (MULTICAST, ROUTED)):
        told, plan = answered(lease, **keys), planned(lease, **keys)
        (pair,), (bridge,) = of(plan, AddVeth), of(plan, EnsureOverlayBridge)
        assert [item.mac for item in told.interfaces] == [bridge.mac, pair.host_mac, pair.mac]
        inside = [step.address for step in of(plan, EnsureAddress) if step.where == "sandbox"]
        assert [ip.address for ip in told.ips] == inside


def test_dns_of_the_config_comes_before_the_ipams() -> None:
    lease = ROUTED._replace(dns=DNS(("10.0.0.53",)))
    assert answered(lease, dns={"nameservers": ["192.0.2.53"]}).dns.nameservers == ("192.0.2.53",)
    assert answered(lease).dns.nameservers == ("10.0.0.53",)


def test_a_mac_address_of_ones_own() -> None:
    mac = {"runtimeConfig": {"mac": "02:00:00:00:00:42"}}
    assert of(planned(**mac), AddVeth)[0].mac == "02:00:00:00:00:42"
    assert answered(ROUTED, **mac).interfaces[2].mac == "02:00:00:00:00:42"


@pytest.mark.parametrize(
    ("lease", "keys"),
    [(ROUTED, {}), (BOTH, DUAL), (BOTH, ASKING), (IN_BLOCK, STRETCHED), (IN_BLOCK, DUAL_STRETCHED)],
)
def test_check_compares_the_very_steps_of_add(lease: Result, keys: dict[str, Any]) -> None:
    made = answered(lease, **keys, ipMasq=True)
    asked = request("CHECK", keys={**keys, "ipMasq": True}, prev_result=made)
    again = made._replace(interfaces=())
    *steps, forwarded = decide(asked, parse(asked), again, facts()).plan
    assert tuple(steps) == planned(lease, **keys, ipMasq=True)
    assert isinstance(forwarded, ExpectForwarded)  # which ADD cannot do anything about
    assert Flow("vxbr25", "", forwarded.flows[-1].versions, "vxbr25") == forwarded.flows[-1]


def test_check_needs_what_add_answered() -> None:
    asked = request("CHECK")
    with pytest.raises(InvalidNetworkConfig, match="required prevResult missing"):
        decide(asked, parse(asked), Result(), facts())


# ---------------------------------------------------------------------------------------------- admission

UNDERLAY = link("eth0", "10.99.0.1/24")
ALIAS = f"{OVERLAY_ALIAS}{network_tag('net1')} net: net1"


def test_names_that_are_taken() -> None:
    asked, overlay = request(), parsed()
    for there in (facts(sandbox={"eth0": UNDERLAY}), facts(host={ME.host_end: UNDERLAY})):
        with pytest.raises(NameTaken):
            admit(asked, overlay, there)
    admit(asked, overlay, facts())


def test_addresses_of_the_overlay_elsewhere_on_the_host() -> None:
    with pytest.raises(NameTaken, match="link docker0 has 10.244.9.1/24"):
        admit(request(), parsed(), facts(UNDERLAY, link("docker0", "10.244.9.1/24")))


@pytest.mark.parametrize(
    ("name", "address", "fine"),
    [
        ("vxbr25", "10.244.1.1/24", True),
        ("vx25", "10.244.1.0/32", True),
        ("vxbr25", "fe80::1/64", True),
        ("vxbr25", "10.244.9.1/24", False),
        ("vx25", "10.244.9.0/32", False),
        ("vxbr25", "10.244.1.1/16", False),
        ("vxbrother", "10.244.1.1/24", False),
    ],
)
def test_addresses_that_the_host_had_before(name: str, address: str, fine: bool) -> None:
    """Containers with addresses of the former subnet would be where nobody looks for them."""
    there = facts(UNDERLAY, link(name, address, alias=ALIAS))
    if fine:
        require_no_clash(parsed(), there)
    else:
        with pytest.raises(NameTaken, match=f"link {name} has {address}"):
            require_no_clash(parsed(), there)


def test_links_of_another_network_with_the_same_vni() -> None:
    """Its rules name the same links, and would go with those of a refused ADD."""
    other = f"{OVERLAY_ALIAS}{network_tag('net2')} net: net2"
    for name, address in (("vxbr25", "10.244.1.1/24"), ("vx25", "10.9.0.0/32")):
        with pytest.raises(NameTaken, match=f'"{name}" already exists but is not of network net1'):
            admit(request(), parsed(), facts(UNDERLAY, link(name, address, alias=other)))


# ------------------------------------------------------------------------------------------------- DEL, GC


def test_del_needs_no_config() -> None:
    asked = request("DEL")
    assert delete(asked, None, Facts()) == (
        DelLink("host", ME.host_end),
        DelOwnedRules(Owner(ME)),
        DelIptablesMasquerade(ME),
        DelIdleOverlay("net1"),
    )


@pytest.mark.parametrize(
    ("keys", "expected"),
    [(ASKING, [DelProxied("vx25", (ip_address("fd00:1::2"),), "vxbr25")]), (DUAL, []), (DUAL_STRETCHED, [])],
)
def test_del_takes_back_what_the_host_answered_for(keys: dict[str, Any], expected: Any) -> None:
    recorded = request("DEL", keys=keys, prev_result=BOTH)
    assert of(delete(recorded, parse(recorded), Facts()), DelProxied) == expected
    inside = link("eth0", "10.244.1.2/24", "fd00:1::2/64", "fe80::1/64")
    asked = request("DEL", keys=keys)
    assert of(delete(asked, parse(asked), Facts(sandbox={"eth0": inside})), DelProxied) == expected
    both = delete(recorded, parse(recorded), Facts(sandbox={"eth0": inside}))
    assert of(both, DelProxied) == expected


def test_del_leaves_the_overlay_for_last() -> None:
    asked = request("DEL", keys=ASKING, prev_result=BOTH)
    assert delete(asked, parse(asked), Facts())[-1] == DelIdleOverlay("net1")


def test_gc_removes_what_is_not_valid_and_the_idle_overlay() -> None:
    valid, gone = request(container_id="valid").attachment, request(container_id="gone").attachment
    ends = tuple(link(item.host_end, alias=item.alias) for item in (valid, gone))
    asked = request("GC", valid_attachments=(("valid", "eth0"),))
    plan = collect(asked, Facts(owned=ends))
    assert of(plan, DelLink) == [DelLink("host", gone.host_end)]
    assert plan[-1] == DelIdleOverlay("net1")


def test_masquerading_is_ready_before_the_container_has_an_address() -> None:
    plan = planned(BOTH, **DUAL, ipMasq=True)
    kinds = [(type(step), getattr(step, "where", "")) for step in plan]
    assert len(plan[kinds.index((EnsureOverlayRules, ""))].masquerades) == 2
    assert kinds.index((EnsureOverlayRules, "")) < kinds.index((EnsureAddress, "sandbox"))
