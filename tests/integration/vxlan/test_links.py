"""The kernel room's part for an overlay's links: what is made, taken again, refused and taken away."""

import contextlib
import json
import multiprocessing
import socket
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from cni_plugins.contract.facts import Asks, NextHop
from cni_plugins.errors import KernelRefused, NameTaken
from cni_plugins.kernel import apply, dispatch, observe
from cni_plugins.kernel.overlay import attachments, vxlan
from cni_plugins.kernel.session import locks
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import overlay_alias
from cni_plugins.steps.ip import EnsureSysctl
from cni_plugins.steps.links import EnsureUp
from cni_plugins.steps.overlay import (
    DelIdleOverlay,
    EnsureOverlayBridge,
    EnsureOverlayRules,
    EnsurePeers,
    EnsureVxlan,
    PeerRoute,
)
from cni_plugins.steps.step import ABSENT, HOST, UNCHANGED, Step
from tests import namespaces
from tests.integration.vxlan.conftest import BRIDGE, PORT, VXLAN, Underlay

REFUSED = EnsureSysctl(HOST, ("ipv4", "no", "such", "setting"), "1")
IN_IPV6 = VXLAN.replace(local=ip_address("fd99::1"), mtu=1430)
OTHERWISE = {
    "vni": VXLAN.replace(vni=4200002),
    "port": VXLAN.replace(port=4790),
    "link": VXLAN.replace(link="eth1"),
    "local": VXLAN.replace(local=ip_address("10.99.0.3")),
    "version": IN_IPV6,
    "mac": VXLAN.replace(mac="02:fe:0a:63:00:09"),
    "df": VXLAN.replace(df="inherit"),
    "learning": VXLAN.replace(learning=True),
    "group": VXLAN.replace(group=ip_address("239.7.7.7")),
    "ttl": VXLAN.replace(ttl=9),
}


def ensure(underlay: Underlay, step: EnsureVxlan = VXLAN) -> str:
    with underlay.session() as session:
        return dispatch.carry_out(session, step)


def differs(underlay: Underlay, step: EnsureVxlan = VXLAN) -> str:
    with underlay.session() as session:
        return dispatch.differs(session, step)


def refused(underlay: Underlay, step: EnsureVxlan = VXLAN) -> NameTaken:
    with pytest.raises(NameTaken) as raised:
        ensure(underlay, step)
    return raised.value


# ------------------------------------------------------------------------------------------ VXLAN links


def test_a_link_is_made_with_all_its_settings(underlay: Underlay) -> None:
    assert ensure(underlay) == ABSENT
    link = underlay.host.link("vx1")
    assert link is not None
    assert (link["address"], link["mtu"], "UP" in link["flags"]) == ("02:fe:0a:63:00:01", 1450, True)
    assert link["ifalias"].startswith("cni-plugins overlay ")
    assert link["ifalias"].endswith(" net: net1")
    has = underlay.vxlan("vx1")
    assert {key: has[key] for key in ("id", "local", "link", "port", "learning", "df", "ttl")} == {
        "id": 4200001,
        "local": "10.99.0.1",
        "link": "eth0",
        "port": 4789,
        "learning": False,
        "df": "set",
        "ttl": 0,
    }
    assert "group" not in has
    assert differs(underlay) == ""


def test_a_link_is_taken_again(underlay: Underlay) -> None:
    ensure(underlay)
    index = underlay.index("vx1")
    assert ensure(underlay) == UNCHANGED
    assert underlay.index("vx1") == index


def test_a_link_that_is_down_is_set_up_again(underlay: Underlay) -> None:
    ensure(underlay)
    underlay.host.run("ip", "link", "set", "vx1", "down")
    assert ensure(underlay) == UNCHANGED
    link = underlay.host.link("vx1")
    assert link is not None
    assert "UP" in link["flags"]


@pytest.mark.parametrize("what", OTHERWISE)
def test_a_link_with_another_setting_is_made_anew(underlay: Underlay, what: str) -> None:
    step = OTHERWISE[what]
    ensure(underlay)
    index = underlay.index("vx1")
    assert differs(underlay, step) != ""
    assert ensure(underlay, step) == ABSENT
    assert underlay.index("vx1") != index
    assert differs(underlay, step) == ""
    assert ensure(underlay, step) == UNCHANGED


def test_one_request_goes_on_with_a_link_made_anew(underlay: Underlay) -> None:
    with underlay.session() as session:
        dispatch.carry_out(session, VXLAN)
        dispatch.carry_out(session, BRIDGE)
        dispatch.carry_out(session, PORT)
        assert dispatch.carry_out(session, OTHERWISE["vni"]) == ABSENT
        dispatch.carry_out(session, PORT)
        assert dispatch.differs(session, PORT) == ""


def test_the_mtu_changes_in_place(underlay: Underlay) -> None:
    ensure(underlay)
    index = underlay.index("vx1")
    assert ensure(underlay, VXLAN.replace(mtu=1300)) == UNCHANGED
    link = underlay.host.link("vx1")
    assert link is not None
    assert (link["ifindex"], link["mtu"]) == (index, 1300)


def test_an_mtu_that_the_underlay_has_no_room_for(underlay: Underlay) -> None:
    with pytest.raises(KernelRefused, match="vx1 cannot have mtu 1451, as eth0 has 1500"):
        ensure(underlay, VXLAN.replace(mtu=1451))
    assert "vx1" not in underlay.names()
    ensure(underlay)
    with pytest.raises(KernelRefused, match="vx1 cannot have mtu 1451"):
        ensure(underlay, VXLAN.replace(mtu=1451))
    assert differs(underlay) == ""


def test_an_underlay_link_that_is_missing(underlay: Underlay) -> None:
    ensure(underlay)
    with pytest.raises(KernelRefused, match="link eth7 not found"):
        ensure(underlay, VXLAN.replace(link="eth7"))
    assert differs(underlay) == ""
    assert differs(underlay, VXLAN.replace(link="eth7")) == "link eth7 is missing in the host"


@pytest.mark.parametrize(
    ("step", "group", "local"),
    [
        (VXLAN.replace(group=ip_address("239.7.7.7"), ttl=4, learning=True), "group", "local"),
        (IN_IPV6.replace(group=ip_address("ff05::7")), "group6", "local6"),
        (IN_IPV6, None, "local6"),
    ],
)
def test_groups_and_ipv6(underlay: Underlay, step: EnsureVxlan, group: str | None, local: str) -> None:
    assert ensure(underlay, step) == ABSENT
    has = underlay.vxlan("vx1")
    assert has[local] == str(step.local)
    assert group is None or has[group] == str(step.group)
    assert (has["learning"], has["ttl"]) == (step.learning, step.ttl)
    assert ensure(underlay, step) == UNCHANGED


def test_a_long_network_name(underlay: Underlay) -> None:
    step = VXLAN.replace(network="n" * 300)
    assert ensure(underlay, step) == ABSENT
    assert ensure(underlay, step) == UNCHANGED


def _in_a_process(path: str, barrier: Any, answers: Any, step: EnsureVxlan | EnsureOverlayBridge) -> None:
    barrier.wait(20)
    with namespaces.entered(path), Session(None) as session:
        if isinstance(step, EnsureVxlan):
            answers.put(dispatch.carry_out(session, step))
        else:
            answers.put(dispatch.carry_out(session, step))


@pytest.mark.parametrize("step", [VXLAN, BRIDGE], ids=["VXLAN link", "bridge"])
def test_parallel_adds_make_one_link(underlay: Underlay, step: EnsureVxlan | EnsureOverlayBridge) -> None:
    many = multiprocessing.get_context("fork")
    barrier, answers = many.Barrier(4), many.Queue()
    arguments = (underlay.host.path, barrier, answers, step)
    processes = [many.Process(target=_in_a_process, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    told = sorted(answers.get(timeout=30) for _ in processes)
    for process in processes:
        process.join(10)
    assert told == [ABSENT, UNCHANGED, UNCHANGED, UNCHANGED]


def test_a_link_whose_alias_is_about_to_come_is_ours(
    underlay: Underlay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another ADD has made it a moment ago."""
    monkeypatch.setattr(vxlan, "_AWAIT_ALIAS", 20.0)
    ensure(underlay)
    index, alias = underlay.index("vx1"), overlay_alias("net1")
    underlay.host.run("ip", "link", "set", "vx1", "alias", "")
    naming = f"sleep 0.2; ip link set vx1 alias '{alias}'"
    with underlay.host.entered(), subprocess.Popen(["sh", "-c", naming]):
        assert ensure(underlay) == UNCHANGED
    assert underlay.index("vx1") == index


# ---------------------------------------------------------------------------------- what others have taken


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (("bridge",), '"vx1" already exists but is not a VXLAN link'),
        (
            ("vxlan", "id", "7", "dstport", "4789", "dev", "eth0"),
            '"vx1" already exists but is not the VXLAN link of network net1',
        ),
    ],
)
def test_a_name_that_is_taken(underlay: Underlay, kind: tuple[str, ...], said: str) -> None:
    underlay.host.run("ip", "link", "add", "vx1", "type", *kind)
    index = underlay.index("vx1")
    assert refused(underlay).msg == said
    assert differs(underlay) == said
    assert underlay.index("vx1") == index


def test_a_name_that_another_network_has(underlay: Underlay) -> None:
    ensure(underlay, VXLAN.replace(network="net2", vni=7))
    index = underlay.index("vx1")
    err = refused(underlay)
    assert err.msg == '"vx1" already exists but is not the VXLAN link of network net1'
    assert "net: net2" in err.details
    assert underlay.index("vx1") == index


def test_a_vni_that_is_taken_at_the_port(underlay: Underlay) -> None:
    settings = ("id", "4200001", "dstport", "4789", "local", "10.99.0.1", "dev", "eth0")
    underlay.host.run("ip", "link", "add", "elses", "type", "vxlan", *settings)
    assert refused(underlay).msg == "VNI 4200001 at UDP port 4789 is taken by link elses"
    assert "vx1" not in underlay.names()
    underlay.host.run("ip", "link", "set", "elses", "netns", underlay.far.path)
    assert refused(underlay).msg == (
        "VNI 4200001 at UDP port 4789 is taken by a link that was moved to another network namespace"
    )


def test_a_link_that_was_moved_here_holds_nothing_here(underlay: Underlay) -> None:
    """Its VNI is one of the namespace that it was made in."""
    for where, name, link in ((underlay.far, "came", "far0"), (underlay.host, "went", "eth0")):
        settings = ("id", "4200001", "dstport", "4789", "dev", link)
        where.run("ip", "link", "add", name, "type", "vxlan", *settings)
    underlay.far.run("ip", "link", "set", "came", "netns", underlay.host.path)
    underlay.host.run("ip", "link", "set", "went", "netns", underlay.far.path)
    assert "came" in underlay.names()
    assert "moved to another network namespace" in refused(underlay).msg
    underlay.far.run("ip", "link", "del", "went")
    assert ensure(underlay) == ABSENT


def test_the_holder_is_of_the_same_version_of_ip(underlay: Underlay) -> None:
    """The kernel keeps IPv4 and IPv6 apart, so the one of the other version does not stand in the way."""
    six = ("id", "4200001", "dstport", "4789", "local", "fd99::1", "dev", "eth0")
    underlay.host.run("ip", "link", "add", "six", "type", "vxlan", *six)
    assert ensure(underlay) == ABSENT
    err = refused(underlay, VXLAN.replace(name="vx2", network="net2"))
    assert err.msg == "VNI 4200001 at UDP port 4789 is taken by link vx1"


@pytest.mark.parametrize("step", [VXLAN, IN_IPV6], ids=["IPv4", "IPv6"])
def test_a_udp_port_that_is_in_use(underlay: Underlay, step: EnsureVxlan) -> None:
    family = socket.AF_INET if step.local.version == 4 else socket.AF_INET6
    with held(underlay, family, str(step.local)):
        assert refused(underlay, step).msg == "UDP port 4789 is in use by another socket"
        assert "vx1" not in underlay.names()
    assert ensure(underlay, step) == ABSENT


def test_a_link_of_ours_stays_when_the_port_was_taken_meanwhile(underlay: Underlay) -> None:
    ensure(underlay)
    underlay.host.run("ip", "link", "set", "vx1", "down")
    with held(underlay, socket.AF_INET, ""):
        assert refused(underlay).msg == "UDP port 4789 is in use by another socket"
    assert ensure(underlay) == UNCHANGED


@pytest.mark.parametrize("settings", [("external",), ("id", "9", "gbp", "local", "10.99.0.1", "dev", "eth0")])
def test_a_vxlan_link_that_does_not_share_its_port(underlay: Underlay, settings: tuple[str, ...]) -> None:
    underlay.host.run("ip", "link", "add", "flows", "type", "vxlan", "dstport", "4789", *settings)
    underlay.host.run("ip", "link", "set", "flows", "up")
    assert refused(underlay).msg == "UDP port 4789 is in use by VXLAN link flows, which does not share it"
    assert "vx1" not in underlay.names()


def test_a_vxlan_link_that_is_down_holds_no_port(underlay: Underlay) -> None:
    underlay.host.run("ip", "link", "add", "flows", "type", "vxlan", "dstport", "4789", "external")
    with held(underlay, socket.AF_INET, ""):
        assert refused(underlay).msg == "UDP port 4789 is in use by another socket"
    assert ensure(underlay) == ABSENT


def test_networks_share_a_port(underlay: Underlay) -> None:
    ensure(underlay)
    assert ensure(underlay, VXLAN.replace(name="vx2", vni=5, network="net2")) == ABSENT
    assert differs(underlay) == ""


# ------------------------------------------------------------------------------------------ differences


TAMPERED = {
    "source address 10.99.0.7, not 10.99.0.1": ("type", "vxlan", "local", "10.99.0.7", "dev", "eth0"),
    "underlay link eth1, not eth0": ("type", "vxlan", "dev", "eth1"),
    "df inherit, not set": ("type", "vxlan", "df", "inherit"),
    "learning on, not off": ("type", "vxlan", "learning"),
    "ttl 5, not 0": ("type", "vxlan", "ttl", "5"),
    "group 239.1.1.1, not none": ("type", "vxlan", "group", "239.1.1.1", "dev", "eth0"),
    "address 02:00:00:00:00:99, not 02:fe:0a:63:00:01": ("address", "02:00:00:00:00:99"),
    "mtu 1200, not 1450": ("mtu", "1200"),
}


@pytest.mark.parametrize("said", TAMPERED)
def test_a_setting_that_was_changed_is_named(underlay: Underlay, said: str) -> None:
    ensure(underlay)
    underlay.host.run("ip", "link", "set", "vx1", *TAMPERED[said])
    assert differs(underlay) == f"VXLAN link vx1 has {said}"
    ensure(underlay)
    assert differs(underlay) == ""


def test_all_that_differs_is_named(underlay: Underlay) -> None:
    ensure(underlay)
    wanted = VXLAN.replace(vni=8, port=8472, group=ip_address("239.1.1.1"))
    assert differs(underlay, wanted) == (
        "VXLAN link vx1 has VNI 4200001, not 8; VXLAN link vx1 has UDP port 4789, not 8472; "
        "VXLAN link vx1 has group none, not 239.1.1.1"
    )


def test_a_link_that_is_gone_is_missed(underlay: Underlay) -> None:
    ensure(underlay)
    underlay.host.run("ip", "link", "del", "vx1")
    assert differs(underlay) == "link vx1 is missing in the host"


# ---------------------------------------------------------------------------------------------- bridges


def ensure_bridge(underlay: Underlay) -> str:
    with underlay.session() as session:
        return dispatch.carry_out(session, BRIDGE)


def bridge_differs(underlay: Underlay) -> str:
    with underlay.session() as session:
        return dispatch.differs(session, BRIDGE)


def test_a_bridge_is_made_and_taken_again(underlay: Underlay) -> None:
    assert bridge_differs(underlay) == "link vxbr1 is missing in the host"
    assert ensure_bridge(underlay) == ABSENT
    link = underlay.host.link("vxbr1")
    assert link is not None
    assert (link["linkinfo"]["info_kind"], link["address"], link["mtu"]) == (
        "bridge",
        "02:00:00:00:00:11",
        1450,
    )
    assert link["ifalias"].endswith(" net: net1")
    assert ensure_bridge(underlay) == UNCHANGED
    assert underlay.index("vxbr1") == link["ifindex"]
    assert bridge_differs(underlay) == ""


def test_a_bridge_is_brought_in_line(underlay: Underlay) -> None:
    ensure_bridge(underlay)
    index = underlay.index("vxbr1")
    underlay.host.run("ip", "link", "set", "vxbr1", "address", "02:00:00:00:00:22", "mtu", "1400")
    assert bridge_differs(underlay) == (
        "bridge vxbr1 has address 02:00:00:00:00:22, not 02:00:00:00:00:11; "
        "bridge vxbr1 has mtu 1400, not 1450"
    )
    assert ensure_bridge(underlay) == UNCHANGED
    assert underlay.index("vxbr1") == index
    assert bridge_differs(underlay) == ""


def test_a_small_port_does_not_change_the_bridge(underlay: Underlay) -> None:
    ensure_bridge(underlay)
    underlay.host.run("ip", "link", "set", "wire1", "address", "00:00:00:00:00:01", "mtu", "1280")
    underlay.host.run("ip", "link", "set", "wire1", "master", "vxbr1")
    assert bridge_differs(underlay) == ""


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (("vxlan", "id", "7", "dstport", "4789"), "is not a bridge"),
        (("bridge",), "is not the bridge of network net1"),
    ],
)
def test_a_bridge_name_that_is_taken(underlay: Underlay, kind: tuple[str, ...], said: str) -> None:
    underlay.host.run("ip", "link", "add", "vxbr1", "type", *kind)
    before = underlay.host.link("vxbr1")
    with pytest.raises(NameTaken) as raised:
        ensure_bridge(underlay)
    assert raised.value.msg == f'"vxbr1" already exists but {said}' == bridge_differs(underlay)
    assert underlay.host.link("vxbr1") == before


# ------------------------------------------------------------------------------------------------ ports


FLAGS = ("learning", "flood", "mcast_flood", "bcast_flood", "neigh_suppress")


def made(underlay: Underlay, *, programmed: bool = True) -> None:
    with underlay.session() as session:
        dispatch.carry_out(session, VXLAN)
        dispatch.carry_out(session, BRIDGE)
        dispatch.carry_out(session, PORT.replace(programmed=programmed))


def attach_differs(underlay: Underlay) -> str:
    with underlay.session() as session:
        return dispatch.differs(session, PORT)


@pytest.mark.parametrize("programmed", [True, False])
def test_the_port_of_a_bridge(underlay: Underlay, programmed: bool) -> None:
    made(underlay, programmed=programmed)
    (port,) = json.loads(underlay.host.run("bridge", "-j", "-d", "link", "show", "dev", "vx1"))
    assert port["master"] == "vxbr1"
    assert "UP" in port["flags"]
    on = not programmed
    assert {flag: port[flag] for flag in FLAGS} == dict(zip(FLAGS, (on, on, on, on, True), strict=True))
    assert attach_differs(underlay) == (
        ""
        if programmed
        else "; ".join(f"port vx1 has {flag} on" for flag in FLAGS if flag != "neigh_suppress")
    )


@pytest.mark.parametrize("flag", FLAGS)
def test_a_port_flag_that_was_changed_is_named(underlay: Underlay, flag: str) -> None:
    made(underlay)
    state = "off" if flag == "neigh_suppress" else "on"
    underlay.host.run("bridge", "link", "set", "dev", "vx1", flag, state)
    assert attach_differs(underlay) == f"port vx1 has {flag} {state}"
    with underlay.session() as session:
        dispatch.carry_out(session, PORT)
    assert attach_differs(underlay) == ""


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("set", "vx1", "nomaster"), "link vx1 is not a port of vxbr1"),
        (("set", "vx1", "down"), "port vx1 is down"),
        (("del", "vx1"), "link vx1 is missing in the host"),
        (("del", "vxbr1"), "link vxbr1 is missing in the host"),
    ],
)
def test_a_port_that_was_taken_out_is_missed(underlay: Underlay, command: tuple[str, ...], said: str) -> None:
    made(underlay)
    underlay.host.run("ip", "link", *command)
    assert attach_differs(underlay) == said


# ---------------------------------------------------------------------------------------------- the end


def delete_idle(underlay: Underlay, network: str = "net1") -> None:
    with underlay.session() as session:
        apply.apply(session, (DelIdleOverlay(network),))


def other_network(underlay: Underlay) -> None:
    with underlay.session() as session:
        dispatch.carry_out(session, VXLAN.replace(name="vx2", network="net2", vni=5))
        dispatch.carry_out(session, BRIDGE.replace(name="vxbr2", network="net2"))


def test_an_idle_network_goes_and_others_stay(underlay: Underlay) -> None:
    before = underlay.names()
    made(underlay)
    other_network(underlay)
    delete_idle(underlay)
    assert underlay.names() == before | {"vx2", "vxbr2"}
    delete_idle(underlay)
    delete_idle(underlay, "net2")
    assert underlay.names() == before


def test_links_go_by_their_alias_whatever_their_name(underlay: Underlay) -> None:
    before = underlay.names()
    made(underlay)
    for old, new in (("vx1", "renamed1"), ("vxbr1", "renamed2")):
        underlay.host.run("ip", "link", "set", old, "down")
        underlay.host.run("ip", "link", "set", old, "name", new)
    with underlay.session() as session:
        dispatch.carry_out(session, VXLAN.replace(vni=6))
        dispatch.carry_out(session, BRIDGE)
    delete_idle(underlay)
    assert underlay.names() == before


def test_a_network_in_use_stays(underlay: Underlay) -> None:
    """Whoever's port it is."""
    made(underlay)
    underlay.host.run("ip", "link", "set", "wire1", "master", "vxbr1")
    with underlay.session() as session:
        assert attachments.exist(session, "net1")
        assert not attachments.exist(session, "net2")
    before = underlay.names()
    delete_idle(underlay)
    assert underlay.names() == before
    underlay.host.run("ip", "link", "set", "wire1", "nomaster")
    with underlay.session() as session:
        assert not attachments.exist(session, "net1")
    delete_idle(underlay)
    assert underlay.names() == before - {"vx1", "vxbr1"}


def test_a_network_that_an_add_is_about_to_use_stays(
    underlay: Underlay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_HOST_TIMEOUT", 0.1)
    with underlay.session() as session:
        dispatch.carry_out(session, VXLAN)
        delete_idle(underlay)
        assert "vx1" in underlay.names()
    delete_idle(underlay)
    assert "vx1" not in underlay.names()


def routes_and_rules(underlay: Underlay) -> None:
    from cni_plugins.ownership import network_mark

    metric = str(network_mark("net1"))
    other = str(network_mark("net2"))
    underlay.host.run("ip", "route", "add", "blackhole", "10.244.0.0/16", "proto", "217", "metric", metric)
    underlay.host.run("ip", "route", "add", "blackhole", "10.245.0.0/16", "proto", "217", "metric", other)
    underlay.host.run("ip", "route", "add", "blackhole", "10.246.0.0/16", "proto", "static", "metric", metric)


def test_routes_of_a_network_without_links_go(underlay: Underlay) -> None:
    routes_and_rules(underlay)
    delete_idle(underlay)
    left = {route["dst"] for route in underlay.host.ip("route", "show", "type", "blackhole")}
    assert left == {"10.245.0.0/16", "10.246.0.0/16"}


def test_routes_of_a_network_in_use_stay(underlay: Underlay) -> None:
    made(underlay)
    underlay.host.run("ip", "link", "set", "wire1", "master", "vxbr1")
    routes_and_rules(underlay)
    delete_idle(underlay)
    left = {route["dst"] for route in underlay.host.ip("route", "show", "type", "blackhole")}
    assert left == {"10.244.0.0/16", "10.245.0.0/16", "10.246.0.0/16"}


FAR = ip_address("10.99.0.2")
FAR_MAC = "02:fe:0a:63:00:02"
PEERS = EnsurePeers(
    network="net1",
    vxlan="vx1",
    fdb=((FAR_MAC, FAR),),
    behind=(FAR_MAC,),
    at="vxbr1",
    neighbours=((ip_address("10.244.2.0"), FAR_MAC),),
    routes=(
        PeerRoute(ip_network("10.244.2.0/24"), "vxbr1", ip_address("10.244.2.0"), mtu=1450, onlink=True),
        PeerRoute(ip_network("10.244.0.0/16")),
    ),
)
RULES = EnsureOverlayRules("net1", VXLAN.vni, VXLAN.port, 4, "vxbr1", "vx1", (FAR,))
UP = EnsureUp(HOST, "vxbr1")
WHOLE = (VXLAN, BRIDGE, PORT, UP, PEERS, RULES)


def test_a_whole_network_comes_and_goes(underlay: Underlay) -> None:
    before = underlay.bed.state()
    with underlay.session() as session:
        apply.apply(session, WHOLE)
    with underlay.session() as session:
        assert apply.compare(session, WHOLE) == []
    assert underlay.bed.state()["nft"] != before["nft"]
    delete_idle(underlay)
    assert underlay.bed.state() == before


def test_routes_and_rules_go_when_the_links_are_gone_already(underlay: Underlay) -> None:
    before = underlay.bed.state()
    with underlay.session() as session:
        apply.apply(session, WHOLE)
    for link in ("vx1", "vxbr1"):
        underlay.host.run("ip", "link", "del", link)
    assert underlay.bed.state() != before
    delete_idle(underlay)
    assert underlay.bed.state() == before


@pytest.mark.parametrize("position", range(1, len(WHOLE) + 1))
def test_a_refused_plan_leaves_nothing(underlay: Underlay, position: int) -> None:
    before = underlay.bed.state()
    with underlay.session() as session, pytest.raises(KernelRefused):
        apply.apply(session, (*WHOLE[:position], REFUSED))
    assert underlay.bed.state() == before


def test_a_refused_plan_leaves_what_others_use(underlay: Underlay) -> None:
    with underlay.session() as session:
        apply.apply(session, WHOLE)
    underlay.host.run("ip", "link", "set", "wire1", "master", "vxbr1")
    before = underlay.bed.state()
    with underlay.session() as session, pytest.raises(KernelRefused):
        apply.apply(session, (*WHOLE, REFUSED))
    assert underlay.bed.state() == before
    underlay.host.run("ip", "link", "set", "vxbr1", "down")
    with underlay.session() as session, pytest.raises(KernelRefused):
        apply.apply(session, (*WHOLE, REFUSED))
    assert underlay.bed.state() == before, "what was repaired stays so"


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (PORT.replace(bridge="eth1"), "attach vx1 to bridge eth1: Operation not supported"),
        (BRIDGE.replace(mtu=70000), "create bridge vxbr1 of network net1: Invalid argument"),
        (
            VXLAN.replace(vni=1 << 24),
            "create VXLAN link vx1 with VNI 16777216 and port 4789: Numerical result out of range",
        ),
    ],
)
def test_a_refused_step_is_told_in_words(underlay: Underlay, step: Step, said: str) -> None:
    ensure(underlay)
    with underlay.session() as session, pytest.raises(KernelRefused) as raised:
        apply.apply(session, (step,))
    assert raised.value.msg == said


def test_a_check_tells_of_every_step(underlay: Underlay) -> None:
    made(underlay)
    plan = (VXLAN, BRIDGE, PORT)
    with underlay.session() as session:
        assert apply.compare(session, plan) == []
    underlay.host.run("ip", "link", "del", "vx1")
    underlay.host.run("ip", "link", "set", "vxbr1", "mtu", "1300")
    with underlay.session() as session:
        assert apply.compare(session, plan) == [
            "link vx1 is missing in the host",
            "bridge vxbr1 has mtu 1300, not 1450",
            "link vx1 is missing in the host",
        ]


# ------------------------------------------------------------------------------------------------ facts


def asked(underlay: Underlay, **asks: Any) -> Any:
    with underlay.session() as session:
        return observe.observe(session, Asks(**asks))


def test_links_with_addresses(underlay: Underlay) -> None:
    host = underlay.host
    host.run("ip", "address", "add", "10.99.0.5/24", "dev", "eth0")
    found = {link.name: link for link in asked(underlay, addressed=True).addressed}
    assert set(found) == {"eth0"}
    told = [str(address) for address in found["eth0"].addresses]
    assert {"10.99.0.1/24", "fd99::1/64", "10.99.0.5/24"} <= set(told)
    assert "10.99.0.5/24" not in [str(address) for address in found["eth0"].main_addresses]
    assert (found["eth0"].mtu, found["eth0"].up) == (1500, True)
    host.run("ip", "address", "add", "192.0.2.1/32", "dev", "lo")
    host.run("ip", "address", "add", "fd01::1/64", "dev", "eth1", "nodad")
    assert [link.name for link in asked(underlay, addressed=True).addressed] == ["lo", "eth0", "eth1"]
    assert asked(underlay).addressed == ()


def test_ways(underlay: Underlay) -> None:
    host = underlay.host
    for route in (
        ("10.20.0.0/16", "via", "10.99.0.2"),
        ("10.21.0.0/16", "via", "inet6", "fd99::2", "dev", "eth0"),
        ("10.22.0.0/16", "dev", "eth1", "src", "10.99.0.1"),
        ("10.23.0.0/16", "nexthop", "via", "10.99.0.2", "nexthop", "via", "10.99.0.3"),
        ("unreachable", "10.30.0.0/16"),
        ("blackhole", "10.31.0.0/16"),
        ("prohibit", "10.32.0.0/16"),
        ("throw", "10.33.0.0/16"),
        ("fd20::/64", "via", "fd99::2"),
        ("unreachable", "fd30::/64"),
        ("blackhole", "fd31::/64"),
        ("prohibit", "fd32::/64"),
    ):
        host.run(
            "ip", *(("-6",) if any(part.startswith("fd3") for part in route) else ()), "route", "add", *route
        )
    reached = {
        "10.99.0.2": ("eth0", None, "10.99.0.1"),
        "10.20.0.1": ("eth0", "10.99.0.2", "10.99.0.1"),
        "10.21.0.1": ("eth0", "fd99::2", "10.99.0.1"),
        "10.22.0.1": ("eth1", None, "10.99.0.1"),
        "10.99.0.1": ("lo", None, "10.99.0.1"),
        "fd99::1": ("lo", None, "fd99::1"),
        "fd99::2": ("eth0", None, "fd99::1"),
        "fd20::1": ("eth0", "fd99::2", "fd99::1"),
    }
    lost = [f"10.{n}.0.1" for n in (30, 31, 32, 33, 40)] + [f"fd{n}::1" for n in (30, 31, 32, 40)]
    addresses = tuple(map(ip_address, (*reached, *lost)))
    routes_to = asked(underlay, routes_to=addresses).routes_to
    expected = {
        ip_address(to): NextHop(link, gateway and ip_address(gateway), ip_address(source))
        for to, (link, gateway, source) in reached.items()
    }
    assert routes_to == expected
    (hop,) = asked(underlay, routes_to=(ip_address("10.23.0.1"),)).routes_to.values()
    assert (hop.link, str(hop.gateway)) in {("eth0", "10.99.0.2"), ("eth0", "10.99.0.3")}
    assert asked(underlay).routes_to == {}


def test_ways_to_very_many(underlay: Underlay) -> None:
    """More answers than fit into a socket at once."""
    first = int(ip_address("10.20.0.0"))
    underlay.host.run("ip", "route", "add", "10.20.0.0/21", "via", "10.99.0.2")
    addresses = tuple(ip_address(first + number) for number in range(3000))
    routes_to = asked(underlay, routes_to=addresses).routes_to
    assert len(routes_to) == 2048
    assert {way.gateway for way in routes_to.values()} == {ip_address("10.99.0.2")}


@contextlib.contextmanager
def held(underlay: Underlay, family: socket.AddressFamily, address: str) -> Iterator[None]:
    """Run a block while a socket in the host has the port."""
    with underlay.bed.inside(), socket.socket(family, socket.SOCK_DGRAM) as holding:
        holding.bind((address, 4789))
        yield


@pytest.mark.parametrize(
    ("family", "address"),
    [(socket.AF_INET, ""), (socket.AF_INET, "10.99.0.1"), (socket.AF_INET6, "::1"), (socket.AF_INET6, "")],
)
def test_a_taken_udp_port(underlay: Underlay, family: socket.AddressFamily, address: str) -> None:
    assert not asked(underlay, udp_port=4789).udp_port_taken
    with held(underlay, family, address):
        assert asked(underlay, udp_port=4789).udp_port_taken
        assert not asked(underlay, udp_port=4790).udp_port_taken
        assert not asked(underlay).udp_port_taken


@pytest.mark.parametrize("step", [VXLAN, IN_IPV6], ids=["IPv4", "IPv6"])
def test_the_udp_port_of_vxlan_links_is_not_taken(underlay: Underlay, step: EnsureVxlan) -> None:
    ensure(underlay, step.replace(vni=0xFFFFFF))
    assert not asked(underlay, udp_port=4789).udp_port_taken
    ensure(underlay, step)
    before = underlay.names()
    assert not asked(underlay, udp_port=4789).udp_port_taken
    assert underlay.names() == before
    underlay.host.run("ip", "link", "set", "vx1", "down")
    with held(underlay, socket.AF_INET, ""):
        assert asked(underlay, udp_port=4789).udp_port_taken


def test_the_udp_port_of_a_link_that_was_moved_is_not_taken(underlay: Underlay) -> None:
    ensure(underlay, VXLAN.replace(name="elses", vni=7, network="net2"))
    underlay.host.run("ip", "link", "set", "elses", "netns", underlay.far.path)
    underlay.far.run("ip", "link", "set", "elses", "up")
    assert not asked(underlay, udp_port=4789).udp_port_taken
    assert ensure(underlay) == ABSENT


def test_the_udp_port_of_a_link_that_does_not_share_it_is_taken(underlay: Underlay) -> None:
    underlay.host.run("ip", "link", "add", "flows", "type", "vxlan", "dstport", "4789", "external")
    assert not asked(underlay, udp_port=4789).udp_port_taken
    underlay.host.run("ip", "link", "set", "flows", "up")
    assert asked(underlay, udp_port=4789).udp_port_taken


def test_the_facts_of_vxlan_links(underlay: Underlay) -> None:
    ensure(underlay)
    underlay.host.run("ip", "link", "add", "elses", "type", "vxlan", "id", "7", "dstport", "8472")
    facts = asked(underlay, host=("vx1", "eth0"), kinds=("vxlan",), unsupported_kinds=("vxlan", "macvlan"))
    assert {link.name: link.vxlan for link in facts.of_kinds} == {"vx1": (4200001, 4789), "elses": (7, 8472)}
    assert (facts.host["vx1"].vxlan, facts.host["eth0"].vxlan) == ((4200001, 4789), (0, 0))
    assert facts.unsupported_kinds == ()


# ------------------------------------------------------------------------------------------ what is in use


def test_a_link_stays_where_it_is_when_the_port_it_is_to_have_is_taken(underlay: Underlay) -> None:
    ensure(underlay)
    index = underlay.index("vx1")
    with underlay.bed.inside():
        holder = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        holder.bind(("", 4790))
    with holder:
        fault = refused(underlay, VXLAN.replace(port=4790))
    assert "UDP port 4790 is in use by another socket" in fault.msg
    assert (underlay.index("vx1"), underlay.vxlan("vx1")["port"]) == (index, 4789)


def test_a_bridge_takes_no_larger_packets_than_its_containers(underlay: Underlay) -> None:
    """A bridge drops what is too large for a port, and tells nobody."""
    with underlay.session() as session:
        dispatch.carry_out(session, BRIDGE)
    underlay.host.run("ip", "link", "add", "veth1", "mtu", "1400", "master", "vxbr1", "type", "veth")
    for mtu in (1450, 1440):
        wider = BRIDGE.replace(mtu=mtu)
        with underlay.session() as session:
            dispatch.carry_out(session, wider)
            assert dispatch.differs(session, wider) == ""
        link = underlay.host.link("vxbr1")
        assert link is not None
        assert link["mtu"] == (1450 if mtu == 1450 else 1400)
    underlay.host.run("ip", "link", "del", "veth1")
    with underlay.session() as session:
        assert "mtu 1400, not 1440" in dispatch.differs(session, BRIDGE.replace(mtu=1440))


def test_being_alone_ends_with_the_outermost_block(underlay: Underlay) -> None:
    with underlay.session() as session, underlay.session() as other, session.host_alone() as alone:
        with session.host_alone() as still:
            assert (alone, still) == (True, True)
        with other.host_alone() as meanwhile:
            assert not meanwhile
