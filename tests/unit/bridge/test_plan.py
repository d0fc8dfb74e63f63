"""From request, lease and facts to the exact plan."""

from ipaddress import ip_address, ip_interface
from typing import Any

import pytest

from cni_plugins.bridge.config import parse
from cni_plugins.bridge.plan import admit, decide
from cni_plugins.bridge.plugin import asks, status
from cni_plugins.bridge.removal import collect, delete
from cni_plugins.contract.facts import Facts, LinkFacts
from cni_plugins.errors import InvalidNetworkConfig, NameTaken, NotAvailable
from cni_plugins.ownership import Owner
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import DNS, Interface, IPConfig, Result, Route
from cni_plugins.steps.firewall import (
    DelIptablesMasquerade,
    DelOwnedRules,
    DelReferenceRules,
    DelStaleIptables,
    DelStaleRules,
    EnsureIptablesMasquerade,
    EnsureMasquerade,
    EnsureSourceGuard,
)
from cni_plugins.steps.host_guard import EnsureHostGuard
from cni_plugins.steps.ip import (
    IF_PRESENT,
    WANTED,
    AddRoute,
    AwaitAddresses,
    DelAddress,
    EnableForwarding,
    EnsureAddress,
    EnsureSysctl,
)
from cni_plugins.steps.links import (
    AddVeth,
    Announce,
    AttachPort,
    AwaitUp,
    DelIdleBridge,
    DelLink,
    EnsureBridge,
    EnsureGatewayPort,
    EnsurePromisc,
    EnsureUp,
    PinMac,
    PortVlan,
    SetPortVlans,
)

LEASE = Result(ips=(IPConfig(ip_interface("10.1.0.2/24"), ip_address("10.1.0.1")),))
DUAL = Result(ips=(*LEASE.ips, IPConfig(ip_interface("fd00::2/64"), ip_address("fd00::1"))))
NO_FACTS = Facts(host_seed="boot:netns")


def request(command: Any = "ADD", **more: Any) -> Request:
    conf = {"name": "net1", "type": "bridge", "bridge": "br0", **more.pop("conf", {})}
    values = {"container_id": "c1", "netns": "/ns", "ifname": "eth0", "conf": conf}
    return Request(command, "net1", **{**values, **more})


def link(name: str, **more: Any) -> LinkFacts:
    values = {"kind": "bridge", "mac": "02:00:00:00:00:09", "mtu": 1500, "up": True}
    return LinkFacts(name, 7, **{**values, **more})


def planned(lease: Result = LEASE, facts: Facts = NO_FACTS, **keys: Any) -> tuple[Any, ...]:
    asked = request(conf=keys)
    return decide(asked, parse(asked), lease, facts).plan


def of(plan: tuple[Any, ...], kind: type) -> list[Any]:
    return [step for step in plan if type(step) is kind]


def test_the_exact_plan_of_a_gateway_network() -> None:
    asked = request(conf={"isGateway": True, "ipMasq": True})
    me = asked.attachment
    plan = decide(
        asked, parse(asked), LEASE._replace(routes=(Route(ip_interface("0.0.0.0/0")),)), NO_FACTS
    ).plan
    bridge = plan[0]
    assert [repr(step) for step in plan] == [
        repr(step)
        for step in (
            EnsureBridge("br0", bridge.mac, 0, vlan_filtering=False),
            EnsureSysctl("host", ("ipv6", "conf", "br0", "accept_ra"), "0", IF_PRESENT),
            EnsureUp("host", "br0"),
            AddVeth(
                "eth0",
                me.mac("sandbox", "boot:netns"),
                0,
                me.host_end,
                me.mac("host", "boot:netns"),
                me.alias,
            ),
            EnsureSysctl("host", ("ipv6", "conf", me.host_end, "accept_ra"), "0", IF_PRESENT),
            AttachPort(me.host_end, "br0", hairpin=False, isolated=False),
            EnsureSysctl("host", ("ipv4", "conf", "br0", "forwarding"), "1", IF_PRESENT),
            EnsureAddress("host", "br0", ip_interface("10.1.0.1/24"), skip_dad=True),
            EnsureMasquerade(
                Owner(me), (ip_interface("10.1.0.2/24"),), (), random_fully=False, link=me.host_end
            ),
            EnsureSysctl("sandbox", ("ipv6", "conf", "eth0", "accept_dad"), "0", WANTED),
            EnsureSysctl("sandbox", ("ipv4", "conf", "eth0", "arp_notify"), "1", WANTED),
            EnsureSysctl("sandbox", ("ipv6", "conf", "eth0", "ndisc_notify"), "1", WANTED),
            EnsureAddress("sandbox", "eth0", ip_interface("10.1.0.2/24"), skip_dad=True),
            EnsureUp("sandbox", "eth0"),
            AddRoute("sandbox", "eth0", ip_interface("0.0.0.0/0"), ip_address("10.1.0.1")),
            AwaitUp(me.host_end),
            Announce("sandbox", "eth0"),
            EnableForwarding((4,)),
        )
    ]


def test_forwarding_is_last_as_it_is_never_taken_back() -> None:
    plan = planned(DUAL, isDefaultGateway=True, ipMasq=True, macspoofchk=True)
    assert plan[-1] == EnableForwarding((4, 6))


def test_two_adds_that_find_no_bridge_decide_on_the_same_address() -> None:
    assert planned()[0].mac == planned()[0].mac
    assert planned()[0].mac != planned(facts=Facts(host_seed="other boot"))[0].mac


def test_an_existing_bridge_of_others_keeps_its_address() -> None:
    facts = Facts(host={"br0": link("br0")})
    assert of(planned(facts=facts), PinMac) == [PinMac("br0")]
    assert planned(facts=facts)[0].mac == "02:00:00:00:00:09"
    ours = Facts(host={"br0": link("br0", alias="cni-plugins bridge")})
    assert of(planned(facts=ours), PinMac) == []


def test_a_link_that_is_no_bridge_is_refused() -> None:
    with pytest.raises(NameTaken, match='"br0" already exists but is not a bridge'):
        planned(facts=Facts(host={"br0": link("br0", kind="veth")}))


def test_an_add_is_refused_before_addresses_are_reserved() -> None:
    asked = request()
    admit(asked, parse(asked), NO_FACTS)
    with pytest.raises(NameTaken, match="already exists but is not a bridge"):
        admit(asked, parse(asked), Facts(host={"br0": link("br0", kind="veth")}))
    with pytest.raises(NameTaken, match="container veth name"):
        admit(asked, parse(asked), Facts(sandbox={"eth0": link("eth0")}))


def test_a_layer_2_network_has_no_addresses() -> None:
    plan = planned(Result())
    assert not of(plan, EnsureAddress)
    assert of(plan, EnsureUp)[-1] == EnsureUp("sandbox", "eth0")


def test_a_missing_gateway_is_the_first_address() -> None:
    lease = Result(ips=(IPConfig(ip_interface("10.1.0.2/24")),))
    plan = planned(lease, isDefaultGateway=True)
    assert of(plan, EnsureAddress)[0].address == ip_interface("10.1.0.1/24")
    assert of(plan, AddRoute)[0].gw == ip_address("10.1.0.1")
    assert not of(planned(lease), AddRoute)


def test_default_routes_are_added_for_each_family_once() -> None:
    lease = DUAL._replace(ips=(*DUAL.ips, IPConfig(ip_interface("10.2.0.2/24"), ip_address("10.2.0.1"))))
    assert [str(route.dst) for route in of(planned(lease, isDefaultGateway=True), AddRoute)] == [
        "0.0.0.0/0",
        "::/0",
    ]


def test_a_route_out_of_the_link_needs_no_gateway() -> None:
    lease = LEASE._replace(routes=(Route(ip_interface("192.0.2.0/24"), scope=253),))
    assert of(planned(lease), AddRoute)[0].gw is None


@pytest.mark.parametrize(
    ("gateway", "onlink"),
    [("169.254.1.1", True), ("10.1.0.9", False), ("192.0.2.1", True), ("fe80::1", False), ("fd01::1", True)],
)
def test_a_gateway_outside_every_subnet_is_a_neighbour(gateway: str, onlink: bool) -> None:
    address = ip_address(gateway)
    default = ip_interface("0.0.0.0/0" if address.version == 4 else "::/0")
    lease = DUAL._replace(routes=(Route(default, address),))
    assert of(planned(lease), AddRoute)[0].onlink is onlink


def test_ipv6_is_switched_on_before_the_first_address() -> None:
    plan = planned(DUAL, enabledad=True)
    keys = [step.key for step in of(plan, EnsureSysctl)]
    assert ("ipv6", "conf", "lo", "disable_ipv6") in keys
    assert ("ipv6", "conf", "eth0", "enhanced_dad") in keys
    assert of(plan, AwaitAddresses) == [AwaitAddresses("sandbox", "eth0")]
    assert not of(planned(LEASE, enabledad=True), AwaitAddresses)


def test_gateway_conflicts() -> None:
    present = (ip_interface("10.9.0.1/24"), ip_interface("fe80::1/64"), ip_interface("fd00::9/64"))
    facts = Facts(host={"br0": link("br0", addresses=present)})
    with pytest.raises(NameTaken, match="IP address different from 10.1.0.1/24"):
        planned(facts=facts, isGateway=True)
    plan = planned(DUAL, facts, isGateway=True, forceAddress=True)
    assert [step.address for step in of(plan, DelAddress)] == [
        ip_interface("10.9.0.1/24"),
        ip_interface("fd00::9/64"),
    ]
    both = (ip_interface("10.9.0.1/24"), ip_interface("10.1.0.1/24"), ip_interface("fd77::1/64"))
    same = Facts(host={"br0": link("br0", addresses=both)})
    assert not of(planned(DUAL, same, isGateway=True), DelAddress)


def test_vlans_of_a_port() -> None:
    trunk = [{"id": 7}, {"minID": 10, "maxID": 12}, {"id": 12}, {"id": 5}, {"id": 100}]
    (step,) = of(planned(vlan=100, vlanTrunk=trunk, preserveDefaultVlan=True), SetPortVlans)
    assert step.vlans == (PortVlan(100, 100, access=True), PortVlan(5, 5), PortVlan(7, 7), PortVlan(10, 12))
    assert not step.exclusive
    (native,) = of(planned(vlanTrunk=[]), SetPortVlans)
    assert native.vlans == (PortVlan(1, 1, access=True),)
    assert native.exclusive


def test_a_vlan_network_has_its_gateway_on_a_port_of_its_own() -> None:
    plan = planned(vlan=100, isGateway=True)
    (port,) = of(plan, EnsureGatewayPort)
    assert (port.name, port.bridge) == ("br0.100", "br0")
    assert port.vlan == 100
    assert of(plan, EnsureAddress)[0].link == "br0.100"
    asked = request(conf={"vlan": 100, "isGateway": True})
    assert decide(asked, parse(asked), LEASE, NO_FACTS).result.interfaces[3] == Interface("br0.100", port.mac)


def test_masquerading_of_one_family_through_iptables() -> None:
    plan = planned(DUAL, ipMasq={"v4": False}, ipMasqBackend="iptables")
    (step,) = of(plan, EnsureIptablesMasquerade)
    assert step.addresses == (ip_interface("fd00::2/64"),)
    assert not of(plan, EnsureMasquerade)


def test_source_checks_bear_the_address_in_effect() -> None:
    (step,) = of(planned(macspoofchk=True, runtimeConfig={"mac": "02:00:00:00:00:42"}), EnsureSourceGuard)
    assert step.mac == "02:00:00:00:00:42"


def test_the_host_takes_nothing_from_an_internal_bridge() -> None:
    (step,) = of(planned(internal=True), EnsureHostGuard)
    assert step.link == request().attachment.host_end
    assert not of(planned(), EnsureHostGuard)


@pytest.mark.parametrize("keys", [{"isGateway": True}, {"isDefaultGateway": True}, {"ipMasq": True}])
def test_an_internal_bridge_leads_nowhere(keys: dict[str, bool]) -> None:
    with pytest.raises(InvalidNetworkConfig) as caught:
        planned(internal=True, **keys)
    assert "internal is true, so there can be no gateway on this host, and no ipMasq" in caught.value.msg


def test_promiscuous_mode() -> None:
    assert of(planned(promiscMode=True), EnsurePromisc) == [EnsurePromisc("br0", on=True)]


def test_a_link_left_down_is_not_waited_for() -> None:
    plan = planned(Result(), disableContainerInterface=True)
    assert EnsureUp("sandbox", "eth0") not in plan
    assert not of(plan, AwaitUp)


@pytest.mark.parametrize(
    ("facts", "mtu"),
    [
        (NO_FACTS, 0),
        (Facts(default_route=link("up0", mtu=1400)), 1400),
        (Facts(host={"br0": link("br0", mtu=1300)}, default_route=link("up0", mtu=1400)), 1300),
    ],
)
def test_auto_mtu(facts: Facts, mtu: int) -> None:
    assert of(planned(facts=facts, mtu="auto"), AddVeth)[0].mtu == mtu


def test_configured_dns_replaces_the_ipams() -> None:
    lease = LEASE._replace(dns=DNS(nameservers=("192.0.2.53",)))
    given = {"domain": "x"}
    for conf, wanted in (
        ({}, lease.dns),
        ({"dns": {}}, lease.dns),
        ({"dns": {"domain": ""}}, lease.dns),
        ({"dns": {"nameservers": []}}, DNS()),
        ({"dns": given}, DNS(domain="x")),
    ):
        asked = request(conf=conf)
        assert decide(asked, parse(asked), lease, NO_FACTS).result.dns == wanted


# ---------------------------------------------------------------------------------------------- CHECK


def checked(interfaces: tuple[Interface, ...], facts: Facts = NO_FACTS, **keys: Any) -> tuple[Any, ...]:
    asked = request("CHECK", conf=keys, prev_result=Result(interfaces=interfaces))
    return decide(asked, parse(asked), LEASE, facts).plan


def test_check_takes_names_and_addresses_from_prev_result() -> None:
    me = request().attachment
    recorded = (
        Interface("br0", "02:00:00:00:00:01"),
        Interface(me.host_end, "02:00:00:00:00:02", mtu=1500),
        Interface("eth0", "02:00:00:00:00:03", "/ns", mtu=1400),  # as a chained plugin changed it
    )
    plan = checked(recorded)
    assert plan[0].mac == "02:00:00:00:00:01"
    assert of(plan, AddVeth)[0][:5] == ("eth0", "02:00:00:00:00:03", 1500, me.host_end, "02:00:00:00:00:02")


def test_check_of_an_attachment_the_reference_made_leaves_out_what_only_we_make() -> None:
    recorded = (Interface("br0"), Interface("veth1234"), Interface("eth0", "02:00:00:00:00:03", "/ns"))
    facts = Facts(sandbox={"eth0": link("eth0", kind="veth", peer="veth1234")})
    plan = checked(recorded, facts, ipMasq=True, macspoofchk=True)
    assert of(plan, AddVeth)[0].host_end == "veth1234"
    assert not of(plan, EnsureMasquerade) + of(plan, EnsureSourceGuard)
    assert ("ipv6", "conf", "eth0", "ndisc_notify") not in [step.key for step in of(plan, EnsureSysctl)]


def test_check_takes_another_address_of_the_bridge_for_nobodys_fault() -> None:
    facts = Facts(host={"br0": link("br0", addresses=(ip_interface("10.9.0.1/24"),))})
    recorded = (Interface("br0"), Interface(request().attachment.host_end), Interface("eth0", sandbox="/ns"))
    (step, *_) = of(checked(recorded, facts, isGateway=True), EnsureAddress)
    assert step.address == ip_interface("10.1.0.1/24")


def test_check_needs_its_interface_in_prev_result() -> None:
    with pytest.raises(InvalidNetworkConfig, match="prevResult has no interface eth0"):
        checked((Interface("br0"),))


# ---------------------------------------------------------------------------------------------- DEL, GC


def deleted(facts: Facts = NO_FACTS, prev_result: Result | None = None, **keys: Any) -> tuple[Any, ...]:
    asked = request("DEL", conf=keys, prev_result=prev_result)
    return delete(asked, parse(asked), facts)


def test_del_goes_by_our_names_alone() -> None:
    me = request().attachment
    assert deleted() == (DelLink("host", me.host_end), DelOwnedRules(Owner(me)), DelIptablesMasquerade(me))


def test_del_without_a_config_tries_everything() -> None:
    me = request().attachment
    assert DelIptablesMasquerade(me) in delete(request("DEL"), None, NO_FACTS)


@pytest.mark.parametrize(
    ("inside", "recorded", "ours"),
    [
        ({"kind": "veth", "peer": "veth1234", "peer_master": "br0"}, (), True),
        ({"kind": "veth", "peer": "veth1234", "peer_master": "other"}, (), False),
        ({"kind": "veth", "peer": "veth1234", "peer_master": ""}, ("veth1234",), True),
        ({"kind": "veth", "peer": "veth1234", "peer_master": "br0"}, ("veth9999",), False),
        (
            {"kind": "veth", "peer": "veth1234", "peer_master": "br0", "peer_alias": "cni-plugins:x"},
            (),
            False,
        ),
        ({"kind": "veth", "peer": request().attachment.host_end}, (), False),
        ({"kind": "macvlan"}, (), False),
        ({"kind": ""}, (), False),
    ],
)
def test_del_takes_a_sandbox_end_only_when_the_reference_made_it(
    inside: dict[str, Any], recorded: tuple[str, ...], ours: bool
) -> None:
    facts = Facts(sandbox={"eth0": link("eth0", **inside)})
    plan = deleted(facts, Result(interfaces=tuple(Interface(name) for name in recorded)))
    assert (DelLink("sandbox", "eth0") in plan) is ours


def test_del_leaves_a_host_end_that_is_another_attachments() -> None:
    me, other = request().attachment, request(container_id="other").attachment
    taken = Facts(host={me.host_end: link(me.host_end, kind="veth", alias=other.alias)})
    assert DelLink("host", me.host_end) not in deleted(taken)
    own = Facts(host={me.host_end: link(me.host_end, kind="veth", alias=me.alias)})
    assert DelLink("host", me.host_end) in deleted(own)


@pytest.mark.parametrize(
    "address", ["255.255.255.255/32", "10.1.0.1/31", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"]
)
def test_a_subnet_without_room_for_a_gateway(address: str) -> None:
    with pytest.raises(InvalidNetworkConfig, match="its subnet has no address left for one"):
        planned(Result(ips=(IPConfig(ip_interface(address)),)), isGateway=True)


def test_gc_removes_an_idle_bridge_where_asked() -> None:
    assert collect(request("GC", conf={"removeIdleBridge": True}), NO_FACTS)[-1] == DelIdleBridge("br0")


def test_del_removes_an_idle_bridge_where_asked() -> None:
    assert deleted(removeIdleBridge=True)[-1] == DelIdleBridge("br0")


@pytest.mark.parametrize(
    ("inside", "interfaces", "foreign"),
    [
        (None, (), False),
        (link("eth0", kind="veth", peer=request().attachment.host_end), (), False),
        (link("eth0", kind="veth", peer="veth1234", peer_master="br0"), (), True),
        (None, (Interface("br0"), Interface("veth1234"), Interface("eth0", sandbox="/ns")), True),
        (None, (Interface("br0"), Interface(request().attachment.host_end)), False),
    ],
)
def test_the_references_rules_are_looked_for_only_where_it_made_the_attachment(
    inside: LinkFacts | None, interfaces: tuple[Interface, ...], foreign: bool
) -> None:
    facts = Facts(sandbox={"eth0": inside} if inside else {})
    plan = deleted(facts, Result(interfaces=interfaces, ips=LEASE.ips))
    assert bool(of(plan, DelReferenceRules)) is foreign


def test_gc_takes_links_of_this_network_that_are_not_valid() -> None:
    living, gone = request(), request(container_id="gone")
    other = Request("GC", "net2", "c9", ifname="eth0")
    owned = tuple(
        link(item.attachment.host_end, alias=item.attachment.alias) for item in (living, gone, other)
    )
    asked = request("GC", valid_attachments=(("c1", "eth0"),))
    plan = collect(asked, Facts(owned=owned))
    assert plan == (
        DelLink("host", gone.attachment.host_end),
        DelStaleRules("net1", "", asked.valid_tags),
        DelStaleIptables("net1", (("c1", "eth0"),)),
    )


# ---------------------------------------------------------------------------------------------- questions


def test_each_command_asks_only_what_it_needs() -> None:
    asked = request(conf={"mtu": "auto", "vlan": 5, "macspoofchk": True})
    config = parse(asked)
    host_end = asked.attachment.host_end
    assert asks(asked, config)[:3] == (("br0", "br0.5", host_end), ("eth0",), True)
    assert asks(asked._replace(command="CHECK"), config).host == ("br0", "br0.5")
    assert asks(asked._replace(command="DEL"), None) == asks(asked._replace(command="DEL"), config)
    assert asks(asked._replace(command="GC"), None).owned
    wanted = asks(asked._replace(command="STATUS"), config)
    assert (wanted.vlan_filtering, wanted.nf_tables, wanted.iptables) == (True, True, False)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (Facts(host={"br0": link("br0", kind="dummy")}), "is not a bridge"),
        (Facts(vlan_filtering=False), "cannot filter VLANs"),
        (Facts(nf_tables=False), "no nf_tables"),
        (Facts(iptables=False), "iptables-restore is not installed"),
    ],
)
def test_status_says_why_an_add_would_fail(facts: Facts, message: str) -> None:
    with pytest.raises(NotAvailable, match=message):
        status(request("STATUS"), parse(request()), facts)


def test_status_is_silent_when_all_is_well() -> None:
    status(request("STATUS"), parse(request()), NO_FACTS)


def test_masquerading_is_ready_before_the_container_has_an_address() -> None:
    plan = planned(DUAL, isGateway=True, ipMasq=True)
    kinds = [(type(step), getattr(step, "where", "")) for step in plan]
    assert kinds.index((EnsureMasquerade, "")) < kinds.index((EnsureAddress, "sandbox"))


def test_overlapping_ranges_of_a_trunk_are_joined() -> None:
    trunk = [{"minID": 1 + n % 90, "maxID": 4094 - n % 80} for n in range(20_000)]
    plan = planned(vlan=5, vlanTrunk=trunk)
    (step,) = [step for step in plan if isinstance(step, SetPortVlans)]
    assert [(item.first, item.last) for item in step.vlans] == [(5, 5), (1, 4), (6, 4094)]
