"""What portmap decides: which addresses get which ports, and what is translated for them."""

from ipaddress import ip_address, ip_interface
from typing import Any

import pytest

from cni_plugins.contract.facts import Facts, NextHop
from cni_plugins.portmap.config import parse
from cni_plugins.portmap.plan import asks, collect, decide, delete
from cni_plugins.protocol.decode import parse_result
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import Result
from cni_plugins.steps.ip import EnsureSysctl
from cni_plugins.steps.port_mappings import (
    DelIptablesPorts,
    DelPortMaps,
    DelReferencePorts,
    EnsureIptablesPorts,
    EnsureLocalnet,
    EnsurePortMaps,
    ForgetUdpFlows,
    PortMapping,
    Publication,
    SetMark,
)

PREV = {
    "cniVersion": "1.0.0",
    "interfaces": [
        {"name": "br0"},
        {"name": "veth1"},
        {"name": "eth0", "sandbox": "/ns"},
        {"name": "eth9", "sandbox": "/ns"},
    ],
    "ips": [
        {"address": "10.9.0.9/24", "interface": 3},
        {"address": "10.1.0.5/24", "interface": 2},
        {"address": "10.1.0.6/24", "interface": 2},
        {"address": "fd01::5/64", "interface": 2},
    ],
}
PORTS = [
    {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
    {"hostPort": 53, "containerPort": 53, "protocol": "udp", "hostIP": "192.0.2.1"},
    {"hostPort": 54, "containerPort": 54, "protocol": "udp", "hostIP": "::"},
]
WEB = PortMapping("tcp", 8080, 80)
V4, V6 = ip_interface("10.1.0.5/24"), ip_interface("fd01::5/64")
DIRECT = Facts(routes_to={V4.ip: NextHop("br0", None, None)})


def request(prev: Any = None, ports: Any = PORTS, command: Any = "ADD", **keys: Any) -> Request:
    conf = {"name": "n", "type": "portmap", "runtimeConfig": {"portMappings": ports}, **keys}
    result = parse_result(PREV if prev is None else prev, "1.0.0")
    return Request(command, "n", "c", "/ns", "eth0", conf=conf, prev_result=result, plugin="+portmap")


def plan(facts: Facts = DIRECT, **more: Any) -> tuple[Any, ...]:
    made = request(**more)
    decision = decide(made, parse(made), Result(), facts)
    assert decision.result == made.prev_result
    return decision.whole


def test_each_address_gets_the_ports_of_its_ip_version() -> None:
    owner = request().owner
    published = (
        Publication(
            V4, (WEB, PortMapping("udp", 53, 53, ip_address("192.0.2.1"))), snat=True, masq_all=False
        ),
        Publication(V6, (WEB, PortMapping("udp", 54, 54)), snat=True, masq_all=False),
    )
    assert plan() == (
        EnsurePortMaps(owner, "veth1", published),
        EnsureLocalnet(owner, "br0", V4.ip, "veth1"),
        ForgetUdpFlows(published),
    )


def test_without_ports_or_addresses_nothing_is_done() -> None:
    assert plan(ports=[]) == ()
    assert plan(ports=None) == ()
    assert plan(prev={"cniVersion": "1.0.0"}) == ()
    assert plan(prev={"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.5/24"}]}, ports=[PORTS[2]]) == ()


@pytest.mark.parametrize("index", [None, 7, -1])
def test_an_address_of_no_listed_interface_counts(index: int | None) -> None:
    ip = {"address": "10.1.0.5/24"} | ({} if index is None else {"interface": index})
    ensured = plan(prev={"cniVersion": "1.0.0", "ips": [ip]})[0]
    assert [one.target for one in ensured.publications] == [V4]
    assert ensured.link == ""


def test_an_address_on_the_hosts_side_does_not_count() -> None:
    prev = {**PREV, "ips": [{"address": "10.1.0.1/24", "interface": 0}]}
    assert plan(prev=prev) == ()


def test_without_snat_no_source_is_hidden_and_localhost_is_left_out() -> None:
    ensured, forgotten = plan(snat=False, masqAll=True)
    assert not any(one.snat or one.masq_all for one in ensured.publications)
    assert isinstance(forgotten, ForgetUdpFlows)


@pytest.mark.parametrize(
    "facts",
    [Facts(), Facts(routes_to={V4.ip: NextHop("eth0", ip_address("192.0.2.254"), None)})],
    ids=["no route", "behind a router"],
)
def test_localhost_needs_a_link_to_the_container(facts: Facts) -> None:
    assert not any(isinstance(step, EnsureLocalnet) for step in plan(facts))


def test_localhost_without_nf_tables_is_a_setting_that_stays() -> None:
    steps = plan(DIRECT._replace(nf_tables=False), backend="iptables")
    assert EnsureSysctl("host", ("ipv4", "conf", "br0", "route_localnet"), "1") in steps


def test_the_backend_iptables_has_a_mark() -> None:
    assert plan(backend="iptables", markMasqBit=3)[0].mark == SetMark(3)
    ensured = plan(externalSetMarkChain="KUBE-MARK-MASQ")[0]
    assert isinstance(ensured, EnsureIptablesPorts)
    assert ensured.mark == SetMark(13, "KUBE-MARK-MASQ")


def test_conditions_go_to_their_ip_version() -> None:
    ensured = plan(conditionsV4=["ip", "saddr", "10.0.0.0/8"])[0]
    assert [one.conditions for one in ensured.publications] == [("ip", "saddr", "10.0.0.0/8"), ()]


def test_a_removal_looks_up_nothing() -> None:
    made = request(command="DEL")
    assert asks(made, parse(made)) == asks(made, None)
    assert not any(asks(made, None))


def test_a_removal_covers_both_backends_and_the_reference() -> None:
    made = request(command="DEL")
    every = tuple(ip_address(text) for text in ("10.9.0.9", "10.1.0.5", "10.1.0.6", "fd01::5"))
    assert delete(made, None, Facts()) == (
        DelPortMaps(made.owner, ("br0", "veth1")),
        DelIptablesPorts(made.attachment),
        DelReferencePorts("c", every),
    )
    assert delete(made._replace(prev_result=None), None, Facts())[2] == DelReferencePorts("c", ())


def test_a_collection_covers_both_backends() -> None:
    made = request(command="GC")._replace(valid_attachments=(("c", "eth0"),))
    assert len(collect(made, Facts())) == 2
