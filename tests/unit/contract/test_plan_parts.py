"""Parts of plans that plugins have in common."""

from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from cni_plugins.contract import plan_parts
from cni_plugins.contract.config_fields import NO_MASQUERADE, IpMasq
from cni_plugins.contract.model import load
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import IPConfig, Route
from cni_plugins.steps.firewall import EnsureIptablesMasquerade, EnsureMasquerade
from cni_plugins.steps.ip import WANTED, AddRoute, EnsureSysctl

REQUEST = Request("ADD", "net1", "c1", ifname="eth0")
IPS = (
    IPConfig(ip_interface("10.1.0.2/24"), ip_address("10.1.0.1")),
    IPConfig(ip_interface("10.2.0.2/24"), ip_address("10.2.0.1")),
    IPConfig(ip_interface("fd00::2/64")),
)


def test_ipv6_is_switched_on_for_the_loopback_too() -> None:
    settings = [
        (step.key[2], step.key[3], step.value)  # type: ignore[union-attr]
        for step in plan_parts.with_ipv6("eth0", keep_on_down=True)
    ]
    assert settings == [
        ("lo", "disable_ipv6", "0"),
        ("eth0", "disable_ipv6", "0"),
        ("eth0", "keep_addr_on_down", "1"),
    ]
    assert len(list(plan_parts.with_ipv6("eth0", keep_on_down=False))) == 2


@pytest.mark.parametrize("detects", [True, False])
@pytest.mark.parametrize("ours", [True, False])
def test_announcing(detects: bool, ours: bool) -> None:
    steps = list(plan_parts.announcing("net0", detects=detects, ours=ours))
    assert all(isinstance(step, EnsureSysctl) and step.where == "sandbox" for step in steps)
    settings = {step.key: (step.value, step.need) for step in steps}  # type: ignore[union-attr]
    assert settings == {
        ("ipv4", "conf", "net0", "arp_notify"): ("1", WANTED),
        ("ipv6", "conf", "net0", "accept_dad"): ("1" if detects else "0", WANTED),
        **({("ipv6", "conf", "net0", "enhanced_dad"): ("1", WANTED)} if detects else {}),
        **({("ipv6", "conf", "net0", "ndisc_notify"): ("1", WANTED)} if ours else {}),
    }


@pytest.mark.parametrize(
    ("route", "gateway", "onlink"),
    [
        ({"dst": "0.0.0.0/0"}, "10.1.0.1", False),
        ({"dst": "::/0"}, None, False),
        ({"dst": "192.0.2.0/24", "scope": 253}, None, False),
        ({"dst": "192.0.2.0/24", "gw": "10.2.0.9"}, "10.2.0.9", False),
        ({"dst": "192.0.2.0/24", "gw": "169.254.1.1"}, "169.254.1.1", True),
        ({"dst": "::/0", "gw": "fe80::1"}, "fe80::1", False),
        ({"dst": "::/0", "gw": "fd01::1"}, "fd01::1", True),
    ],
)
def test_the_gateway_of_a_route(route: dict[str, Any], gateway: str | None, onlink: bool) -> None:
    given = Route(
        ip_interface(route["dst"]),
        ip_address(route["gw"]) if "gw" in route else None,
        scope=route.get("scope"),
    )
    step = plan_parts.route("eth0", given, IPS)
    assert (step.gw, step.onlink) == (ip_address(gateway) if gateway else None, onlink)


def test_a_route_keeps_its_particulars() -> None:
    given = Route(ip_interface("192.0.2.0/24"), None, 1300, 1200, 77, 100)
    gateway = ip_address("10.1.0.1")
    assert plan_parts.route("eth0", given, IPS) == AddRoute(
        "sandbox", "eth0", given.dst, gateway, 1300, 1200, 77, 100
    )


def test_masquerading_takes_the_families_asked_for() -> None:
    wish = load(IpMasq, {"v4": False, "exclude": ["fd00::/8"], "randomFully": True})
    chosen = (IPS[2].address,)
    exclude = (ip_network("fd00::/8"),)
    (step,) = plan_parts.masquerade(REQUEST, wish, "nftables", IPS, "veth1")
    assert step == EnsureMasquerade(REQUEST.owner, chosen, exclude, True, "veth1")
    (step,) = plan_parts.masquerade(REQUEST, wish, "iptables", IPS, "veth1")
    assert step == EnsureIptablesMasquerade(REQUEST.attachment, chosen, exclude, True)
    assert not list(plan_parts.masquerade(REQUEST, wish, "", IPS[:2], "veth1"))
    assert not list(plan_parts.masquerade(REQUEST, NO_MASQUERADE, "", IPS, "veth1"))
