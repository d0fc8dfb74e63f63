"""Links that go, or come again under their name, between two steps of one request."""

from ipaddress import ip_interface
from typing import Any

import pytest

from cni_plugins.errors import KernelRefused
from cni_plugins.kernel import apply
from cni_plugins.kernel.session.session import Session
from cni_plugins.steps.ip import AddRoute, EnsureAddress
from cni_plugins.steps.links import AddVeth, AttachPort, EnsureBridge
from cni_plugins.steps.step import Plan

ADDRESS = ip_interface("10.1.0.1/24")
BRIDGE = EnsureBridge("br0", "02:00:00:00:00:01", 0, vlan_filtering=False)
LATER: list[Plan] = [
    (EnsureAddress("host", "br0", ADDRESS),),
    (AddRoute("host", "br0", ip_interface("10.2.0.0/24")),),
    (AttachPort("veth1", "br0", hairpin=False, isolated=False),),
]


def prepare(bed: Any, session: Session) -> None:
    bed.host.run("ip", "link", "add", "veth1", "type", "veth", "peer", "name", "veth2")
    apply.apply(session, (BRIDGE,))
    bed.host.run("ip", "link", "del", "br0")


@pytest.mark.parametrize("plan", LATER)
def test_a_link_that_went_is_named(bed: Any, plan: Plan) -> None:
    with bed.inside(), Session(None) as session:
        prepare(bed, session)
        with pytest.raises(KernelRefused) as caught:
            apply.apply(session, plan)
    assert caught.value.msg == "link br0 not found"


@pytest.mark.parametrize("plan", LATER)
def test_a_link_that_came_again_serves(bed: Any, plan: Plan) -> None:
    with bed.inside(), Session(None) as session:
        prepare(bed, session)
        bed.host.run("ip", "link", "add", "br0", "up", "type", "bridge")
        apply.apply(session, plan)
        assert apply.compare(session, plan) == []


def test_both_ends_of_a_pair_are_known_without_a_question(bed: Any) -> None:
    sandbox = bed.sandbox()
    with bed.inside(), open(sandbox.path) as netns, Session(netns.fileno()) as session:
        step = AddVeth("eth0", "02:00:00:00:00:02", 0, "veth1", "02:00:00:00:00:03", "cni-plugins:test")
        apply.apply(session, (step,))
        session.sandbox = None  # closed by the block above
        known = dict(session.indexes)
    assert known["sandbox", "eth0"] == sandbox.link("eth0")["ifindex"]
    assert known["host", "veth1"] == bed.host.link("veth1")["ifindex"]
