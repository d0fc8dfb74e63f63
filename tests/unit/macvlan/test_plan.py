"""From request, lease and facts to the exact plan."""

from ipaddress import ip_address, ip_interface
from typing import Any

import pytest

from cni_plugins.contract.facts import Facts, LinkFacts, LinkUser
from cni_plugins.errors import InvalidNetworkConfig, NameTaken, NotAvailable
from cni_plugins.macvlan.config import parse
from cni_plugins.macvlan.master import names, resolve
from cni_plugins.macvlan.names import vlan_link
from cni_plugins.macvlan.plan import admit, decide
from cni_plugins.macvlan.plugin import PLUGIN, asks, status
from cni_plugins.macvlan.removal import collect, delete
from cni_plugins.ownership import HOST_LINK_ALIAS, VLAN_ALIAS, Attachment, Owner, host_link
from cni_plugins.protocol.macs import link_local
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import DNS, Interface, IPConfig, Result, Route
from cni_plugins.steps.firewall import (
    DelIptablesMasquerade,
    DelOwnedRules,
    DelStaleIptables,
    DelStaleRules,
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
from cni_plugins.steps.links import DelLink, EnsureUp
from cni_plugins.steps.macvlan import (
    AddMacvlan,
    DelAttached,
    DelHostAccess,
    DelIdleVlans,
    DelStaleAttached,
    DelStaleHostAccess,
    EnsureHostLink,
    EnsureVlan,
)
from cni_plugins.steps.neighbours import Advertise, EnsureHostRoutes, EnsureNeighbour

NOTHING = Result()
LEASE = Result(ips=(IPConfig(ip_interface("10.1.0.2/24"), ip_address("10.1.0.1")),))
V6 = Result(ips=(IPConfig(ip_interface("fd00::2/64"), ip_address("fd00::1")),))
DUAL = Result(ips=(*LEASE.ips, *V6.ips))
MAIN = (
    ip_interface("10.1.0.99/32"),
    ip_interface("10.1.0.250/24"),
    ip_interface("fd00::250/64"),
    ip_interface("fe80::1/64"),
)
ETH0 = LinkFacts(
    "eth0",
    7,
    kind="",
    mac="02:00:00:00:00:09",
    mtu=1500,
    up=True,
    addresses=(*MAIN, ip_interface("10.1.0.100/24")),
    main_addresses=MAIN,
)
FACTS = Facts(host={"eth0": ETH0}, host_seed="boot:netns", has_sandbox=True)


def request(command: Any = "ADD", **more: Any) -> Request:
    conf = {"name": "net1", "type": "macvlan", "master": "eth0", **more.pop("conf", {})}
    values = {"container_id": "c1", "netns": "/ns", "ifname": "net0", "conf": conf}
    return Request(command, "net1", **{**values, **more})


def planned(lease: Result = NOTHING, facts: Facts = FACTS, **keys: Any) -> tuple[Any, ...]:
    asked = request(conf=keys)
    return decide(asked, parse(asked), lease, facts).plan


def of(plan: tuple[Any, ...], kind: type) -> list[Any]:
    return [step for step in plan if type(step) is kind]


def vlan(name: str = "eth0.100", number: int = 100, **more: Any) -> LinkFacts:
    values = {"kind": "vlan", "mac": ETH0.mac, "mtu": 1500, "up": True, "alias": VLAN_ALIAS}
    return LinkFacts(name, 8, **{**values, "lower": 7, "vlan": (number, 0x8100), **more})


ME = request().attachment


def test_the_exact_plan_of_a_dual_stack_link() -> None:
    lease = DUAL._replace(routes=(Route(ip_interface("0.0.0.0/0")),))
    assert planned(lease, ipam={"type": "static"}) == (
        AddMacvlan("host", "eth0", "net0", ME, ME.mac("sandbox", "boot:netns"), 0, "bridge"),
        EnsureSysctl("sandbox", ("ipv4", "conf", "net0", "arp_notify"), "1", WANTED),
        EnsureSysctl("sandbox", ("ipv6", "conf", "net0", "ndisc_notify"), "1", WANTED),
        EnsureSysctl("sandbox", ("ipv6", "conf", "net0", "optimistic_dad"), "1", WANTED),
        EnsureSysctl("sandbox", ("ipv6", "conf", "net0", "use_optimistic"), "1", WANTED),
        EnsureAddress("sandbox", "net0", ip_interface("10.1.0.2/24")),
        EnsureSysctl("sandbox", ("ipv6", "conf", "lo", "disable_ipv6"), "0"),
        EnsureSysctl("sandbox", ("ipv6", "conf", "net0", "disable_ipv6"), "0"),
        EnsureSysctl("sandbox", ("ipv6", "conf", "net0", "keep_addr_on_down"), "1", WANTED),
        EnsureAddress("sandbox", "net0", link_local(ME.mac("sandbox", "boot:netns")), skip_dad=True),
        EnsureUp("sandbox", "net0"),
        EnsureAddress("sandbox", "net0", ip_interface("fd00::2/64"), optimistic=True),
        AddRoute("sandbox", "net0", ip_interface("0.0.0.0/0"), ip_address("10.1.0.1")),
        Advertise("net0", ME.mac("sandbox", "boot:netns"), (ip_address("fd00::2"),)),
    )


def test_a_link_without_addresses_is_only_set_up() -> None:
    assert [type(step) for step in planned()] == [AddMacvlan, EnsureUp]


def test_enabledad_waits_and_is_not_optimistic() -> None:
    plan = planned(V6, enabledad=True, ipam={"type": "static"})
    (address,) = of(plan, EnsureAddress)
    assert not address.optimistic
    assert of(plan, AwaitAddresses) == [AwaitAddresses("sandbox", "net0")]


@pytest.mark.parametrize("mode", ["private", "passthru", "source"])
def test_a_link_that_may_hear_itself_does_not_look_for_duplicates(mode: str) -> None:
    keys = {"allowedMACs": ["02:00:00:00:00:07"]} if mode == "source" else {}
    addresses = of(planned(V6, mode=mode, ipam={"type": "static"}, **keys), EnsureAddress)
    assert [(step.skip_dad, step.optimistic) for step in addresses] == [(True, False), (True, False)]


def test_a_link_that_hears_its_senders_does_not_send_that_on() -> None:
    plan = planned(mode="source", allowedMACs=["02:00:00:00:00:07"])
    assert EnsureSysctl("sandbox", ("ipv4", "conf", "net0", "forwarding"), "0", IF_PRESENT) in plan
    assert not of(planned(), EnsureSysctl)


def test_passthru_takes_the_masters_address_unless_another_is_asked_for() -> None:
    (link,) = of(planned(mode="passthru"), AddMacvlan)
    assert link.mac == ""
    (link,) = of(planned(mode="passthru", mac="02:00:00:00:00:42"), AddMacvlan)
    assert link.mac == "02:00:00:00:00:42"
    asked = request(conf={"mode": "passthru"})
    assert decide(asked, parse(asked), Result(), FACTS).result.interfaces[0].mac == ETH0.mac


def test_the_settings_of_the_link_are_handed_on() -> None:
    keys = {"mode": "source", "allowedMACs": ["02:00:00:00:00:07"], "bcqueuelen": 9, "mtu": 1400}
    (link,) = of(planned(**keys), AddMacvlan)
    assert (link.mode, link.sources, link.bc_queue_len, link.mtu) == (
        "source",
        ("02:00:00:00:00:07",),
        9,
        1400,
    )


# ---------------------------------------------------------------------------------------------------- master


def test_the_default_routes_link_is_the_master_where_none_is_named() -> None:
    asked = request(conf={"master": ""})
    config = parse(asked)
    assert asks(asked, config).default_route
    assert resolve(asked, config, Facts(default_route=ETH0)).name == "eth0"
    with pytest.raises(InvalidNetworkConfig, match="no default route interface found"):
        resolve(asked, config, Facts())


def test_the_one_host_link_of_a_chain_is_the_master() -> None:
    before = Result(interfaces=(Interface("bond0"), Interface("eth0", sandbox="/ns")))
    asked = request(conf={"master": ""}, prev_result=before)
    assert names(asked, parse(asked)) == ("bond0",)
    several = request(conf={"master": ""}, prev_result=Result(interfaces=(Interface("a"), Interface("b"))))
    assert names(several, parse(several)) == ()
    inside = request(conf={"master": "", "linkInContainer": True}, prev_result=before)
    assert names(inside, parse(inside)) == ("eth0",)


def test_check_does_not_take_the_hosts_own_link_for_the_master() -> None:
    own = Interface(host_link("net1", "bond0"))
    before = Result(interfaces=(Interface("bond0"), Interface("net0", sandbox="/ns"), own))
    asked = request("CHECK", conf={"master": "", "hostAccess": True}, prev_result=before)
    assert names(asked, parse(asked)) == ("bond0",)


@pytest.mark.parametrize(
    ("link", "said"),
    [
        (ETH0._replace(loopback=True), "is a loopback link"),
        (ETH0._replace(ethernet=False), "is not an Ethernet link"),
        (ETH0._replace(master="br0"), "is a port of br0"),
        (ETH0._replace(alias=f"{HOST_LINK_ALIAS}x"), "the host's own link"),
    ],
)
def test_links_that_no_macvlan_link_can_be_on(link: LinkFacts, said: str) -> None:
    asked = request()
    facts = Facts(host={"eth0": link})
    with pytest.raises(InvalidNetworkConfig, match=said):
        admit(asked, parse(asked), facts)
    with pytest.raises(NotAvailable, match=said):
        status(asked, parse(asked), facts)


@pytest.mark.parametrize(("mtu", "lease"), [(1501, Result()), (1279, V6)])
def test_mtus_the_link_cannot_have(mtu: int, lease: Result) -> None:
    with pytest.raises(InvalidNetworkConfig, match=f"invalid MTU {mtu}"):
        planned(lease, mtu=mtu, ipam={"type": "static"})


def test_a_small_master_is_too_small_for_ipv6_too() -> None:
    facts = Facts(host={"eth0": ETH0._replace(mtu=1000)})
    with pytest.raises(InvalidNetworkConfig, match="invalid MTU 1000, IPv6 needs 1280"):
        planned(V6, facts, ipam={"type": "static"})


# ----------------------------------------------------------------------------------------------------- VLANs


@pytest.mark.parametrize("keys", [{"vlan": 100}, {"master": "eth0.100"}])
def test_a_vlan_link_is_made_first(keys: Any) -> None:
    first, second, *_ = planned(**keys)
    assert first == EnsureVlan("eth0.100", "eth0", 100, "802.1q")
    assert second.master == "eth0.100"


def test_a_vlan_link_of_ours_is_kept_from_being_removed_meanwhile() -> None:
    facts = FACTS._replace(host={"eth0": ETH0, "eth0.100": vlan()}, of_kinds=(vlan(),))
    for keys in ({"vlan": 100}, {"master": "eth0.100"}):
        assert of(planned(facts=facts, **keys), EnsureVlan) == [EnsureVlan("eth0.100", "eth0", 100, "802.1q")]


def test_a_vlan_link_of_others_is_used_as_it_is() -> None:
    office = vlan("office", alias="")
    plan = planned(facts=FACTS._replace(of_kinds=(office,)), vlan=100)
    assert not of(plan, EnsureVlan)
    assert of(plan, AddMacvlan)[0].master == "office"


def test_another_protocol_is_another_vlan() -> None:
    facts = FACTS._replace(of_kinds=(vlan(),))
    (step,) = of(planned(facts=facts, vlan=100, vlanProtocol="802.1ad"), EnsureVlan)
    assert step.protocol == "802.1ad"


def test_a_link_of_another_protocol_is_not_taken_for_the_one_asked_for() -> None:
    facts = FACTS._replace(host={"eth0": ETH0, "eth0.100": vlan()})
    with pytest.raises(InvalidNetworkConfig, match="a protocol other than 802.1ad"):
        planned(facts=facts, master="eth0.100", vlanProtocol="802.1AD")
    assert of(planned(facts=facts, master="eth0.100"), AddMacvlan)


def test_a_vlan_link_whose_parent_was_renamed_is_used_as_it_is() -> None:
    facts = FACTS._replace(host={"eth0": ETH0._replace(ifindex=9), "eth0.100": vlan()})
    assert not of(planned(facts=facts, master="eth0.100"), EnsureVlan)


def test_a_name_that_would_be_too_long_is_made_from_a_digest() -> None:
    assert vlan_link("eth0", 100) == "eth0.100"
    name = vlan_link("enp175s0f1np1", 4094)
    assert name.startswith("vlan")
    assert name.endswith(".4094")
    assert len(name) <= 15


@pytest.mark.parametrize("name", ["eth0.0", "eth0.4095", "eth0.x"])
def test_a_dotted_name_has_to_be_a_vlans(name: str) -> None:
    with pytest.raises(InvalidNetworkConfig, match="invalid VLAN ID"):
        planned(master=name)


def test_a_missing_master_is_not_made() -> None:
    for keys in ({"master": "eth1.100"}, {"master": "eth1"}, {"master": "eth0.7", "vlan": 5}):
        with pytest.raises(InvalidNetworkConfig, match="does not exist"):
            planned(**keys)


# ----------------------------------------------------------------------------------------------- host access


def test_host_access_is_a_link_routes_and_neighbours() -> None:
    asked = request(conf={"hostAccess": True, "ipam": {"type": "static"}})
    plan = decide(asked, parse(asked), DUAL, FACTS).plan
    name = host_link("net1", "eth0")
    (link,) = of(plan, EnsureHostLink)
    assert (link.name, link.master, link.network) == (name, "eth0", "net1")
    addresses = (ip_address("10.1.0.2"), ip_address("fd00::2"))
    known = (ip_address("10.1.0.250"), ip_address("fd00::250"))
    assert of(plan, EnsureHostRoutes) == [
        EnsureHostRoutes(name, addresses, ME.mark, known, ME.mac("sandbox", "boot:netns"))
    ]
    assert of(plan, EnsureNeighbour) == [
        EnsureNeighbour("sandbox", "net0", address, link.mac) for address in known
    ]
    assert not of(plan, EnableForwarding)
    assert decide(asked, parse(asked), DUAL, FACTS).result.interfaces[1] == Interface(name, link.mac)


def test_a_gateway_address_that_the_master_bears_is_not_borne_twice() -> None:
    """The wire would learn of the host's own link by it, and not forget it when that goes."""
    own = (ip_interface("10.1.0.1/24"), ip_interface("fd00::1/64"))
    facts = Facts(host={"eth0": ETH0._replace(addresses=own, main_addresses=own)}, host_seed="x")
    plan = planned(DUAL, facts, hostAccess=True, isGateway=True, ipam={"type": "static"})
    assert not [step for step in of(plan, EnsureAddress) if step.where == "host"]
    assert [step.address for step in of(plan, EnsureNeighbour)] == [address.ip for address in own]


@pytest.mark.parametrize("gateway", ["10.1.0.2", "10.1.0.0", "10.1.0.255"])
def test_a_gateway_has_to_be_a_routers_address(gateway: str) -> None:
    lease = Result(ips=(IPConfig(ip_interface("10.1.0.2/24"), ip_address(gateway)),))
    with pytest.raises(InvalidNetworkConfig, match=f"gateway {gateway} is"):
        planned(lease, hostAccess=True, isGateway=True, ipam={"type": "static"})


def test_the_host_can_be_the_gateway() -> None:
    keys = {"hostAccess": True, "isGateway": True, "ipMasq": True, "ipam": {"type": "static"}}
    plan = planned(DUAL, **keys)
    name = host_link("net1", "eth0")
    bears = [step for step in of(plan, EnsureAddress) if step.link == name]
    assert [str(step.address) for step in bears] == ["10.1.0.1/24", "fd00::1/64"]
    assert all(step.metric for step in bears)
    (masquerade,) = of(plan, EnsureMasquerade)
    assert masquerade.link == ""
    assert plan[-1] == EnableForwarding((4, 6))
    through = planned(DUAL, **keys, ipMasqBackend="iptables")
    assert of(through, EnsureIptablesMasquerade)


def test_a_gateway_network_without_gateway_takes_its_first_address() -> None:
    lease = Result(ips=(IPConfig(ip_interface("10.1.0.2/24")),), routes=(Route(ip_interface("0.0.0.0/0")),))
    plan = planned(lease, hostAccess=True, isGateway=True, ipam={"type": "static"})
    (route,) = of(plan, AddRoute)
    assert str(route.gw) == "10.1.0.1"


def test_a_gateway_outside_of_its_subnet_is_refused() -> None:
    lease = Result(ips=(IPConfig(ip_interface("10.1.0.2/24"), ip_address("10.2.0.1")),))
    with pytest.raises(InvalidNetworkConfig, match=r"gateway 10\.2\.0\.1 is outside of 10\.1\.0\.0/24"):
        planned(lease, hostAccess=True, isGateway=True, ipam={"type": "static"})


# ---------------------------------------------------------------------------------------------------- result


def test_the_result_keeps_what_the_chain_made() -> None:
    before = Result(
        interfaces=(Interface("bond0"), Interface("eth0", sandbox="/ns")),
        ips=(IPConfig(ip_interface("10.9.0.2/24"), interface=1),),
        routes=(Route(ip_interface("10.8.0.0/16")),),
        dns=DNS(nameservers=("10.9.0.53",)),
    )
    asked = request(conf={"ipam": {"type": "static"}}, prev_result=before)
    made = decide(asked, parse(asked), LEASE, FACTS).result
    assert [item.name for item in made.interfaces] == ["bond0", "eth0", "net0"]
    assert [(str(ip.address), ip.interface) for ip in made.ips] == [("10.9.0.2/24", 1), ("10.1.0.2/24", 2)]
    assert made.routes == before.routes
    assert made.dns == before.dns


def test_dns_of_the_config_replaces_the_ipams() -> None:
    lease = LEASE._replace(dns=DNS(nameservers=("10.1.0.53",)))
    asked = request(conf={"ipam": {"type": "static"}})
    assert decide(asked, parse(asked), lease, FACTS).result.dns == lease.dns
    asked = request(conf={"ipam": {"type": "static"}, "dns": {"search": ["example.org"]}})
    assert decide(asked, parse(asked), lease, FACTS).result.dns == DNS(search=("example.org",))


# ---------------------------------------------------------------------------------------- admission, removal


def test_a_taken_name_is_refused_before_anything_is_reserved() -> None:
    asked = request()
    facts = FACTS._replace(sandbox={"net0": ETH0})
    with pytest.raises(NameTaken, match='container link name \\("net0"\\) already exists'):
        admit(asked, parse(asked), facts)


def test_del_needs_nothing_but_the_names() -> None:
    rest = (
        DelHostAccess("net1", ME.mark),
        DelOwnedRules(Owner(ME)),
        DelIptablesMasquerade(ME),
        DelIdleVlans(),
    )
    assert delete(request("DEL"), None, Facts()) == (DelAttached(ME), *rest)
    own = ETH0._replace(name="net0", kind="macvlan", alias=ME.alias)
    facts = Facts(has_sandbox=True, sandbox={"net0": own})
    assert delete(request("DEL"), None, facts) == (DelLink("sandbox", "net0"), *rest)


@pytest.mark.parametrize(
    ("link", "taken"),
    [
        (ETH0._replace(kind="macvlan"), True),  # the reference's has no alias
        (ETH0._replace(kind="macvlan", alias=Attachment("net1", "c2", "net0").alias), False),
        (ETH0._replace(kind="veth"), False),
    ],
)
def test_del_tells_whose_link_it_is(link: LinkFacts, taken: bool) -> None:
    facts = Facts(has_sandbox=True, sandbox={"net0": link})
    assert bool(of(delete(request("DEL"), None, facts), DelLink)) == taken


def test_del_finds_what_a_killed_add_left_unnamed() -> None:
    facts = Facts(has_sandbox=True, sandbox={ME.host_end: ETH0._replace(kind="macvlan")})
    assert of(delete(request("DEL"), None, facts), DelLink) == [DelLink("sandbox", ME.host_end)]


def test_gc_keeps_what_is_valid() -> None:
    asked = request("GC", valid_attachments=(("c1", "net0"),))
    assert collect(asked, Facts()) == (
        DelStaleAttached("net1", frozenset({ME.tag})),
        DelStaleHostAccess("net1", frozenset({ME.mark})),
        DelStaleRules("net1", "", frozenset({ME.tag})),
        DelStaleIptables("net1", (("c1", "net0"),)),
        DelIdleVlans(),
    )


# ---------------------------------------------------------------------------------------------------- status


def test_status_tells_what_is_missing() -> None:
    asked = request("STATUS", conf={"vlan": 100})
    config = parse(asked)
    assert asks(asked, config).unsupported_kinds == ("macvlan", "vlan")
    with pytest.raises(NotAvailable, match=r"no VLAN links \(802.1Q\)"):
        status(asked, config, FACTS._replace(unsupported_kinds=("vlan",)))
    with pytest.raises(NotAvailable, match="master eth0 does not exist"):
        status(asked, config, Facts())
    with pytest.raises(NotAvailable, match="has no nf_tables"):
        status(asked, config, FACTS._replace(nf_tables=False))
    with pytest.raises(NotAvailable, match="iptables-restore is not installed"):
        status(asked, config, FACTS._replace(iptables=False))
    down = FACTS._replace(host={"eth0": ETH0._replace(up=False)})
    with pytest.raises(NotAvailable, match="is down"):
        status(asked, config, down)
    status(asked, config, FACTS)
    plain = request("STATUS")
    status(plain, parse(plain), down)


def test_status_names_the_holder_of_the_master() -> None:
    asked = request("STATUS")
    facts = FACTS._replace(macvlan_users={7: (LinkUser("passthru", "net: n, if: eth0, id: c9"),)})
    with pytest.raises(NotAvailable, match="held in mode passthru by net: n, if: eth0, id: c9"):
        status(asked, parse(asked), facts)
    alone = request("STATUS", conf={"mode": "passthru"})
    with pytest.raises(NotAvailable, match="in use by c9, and mode passthru needs it alone"):
        status(alone, parse(alone), FACTS._replace(macvlan_users={7: (LinkUser("bridge", "c9"),)}))


def test_the_ipam_type_is_asked_of_broken_configs_too() -> None:
    assert PLUGIN.ipam_type(request(conf={"mode": 7, "ipam": {"type": "static"}})) == "static"


def test_masquerading_is_ready_before_the_container_has_an_address() -> None:
    plan = planned(DUAL, ipam={"type": "static"}, hostAccess=True, isGateway=True, ipMasq=True)
    kinds = [(type(step), getattr(step, "where", "")) for step in plan]
    assert kinds.index((EnsureMasquerade, "")) < kinds.index((EnsureAddress, "sandbox"))
