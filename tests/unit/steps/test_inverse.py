"""Every step has an inverse, or none for a reason."""

from ipaddress import ip_interface
from typing import Any, get_args

import pytest

from cni_plugins.spec.attachment import Attachment
from cni_plugins.steps.addresses import DelAddress, DelHostRoutes, DelRoute, EnsureAddress
from cni_plugins.steps.links import (
    DelIdleBridge,
    DelLink,
    EnsureBridge,
    EnsurePromisc,
    SetDown,
    SetVlanFiltering,
)
from cni_plugins.steps.macvlans import DelHostAccess, DelIdleVlans
from cni_plugins.steps.overlays import DelIdleOverlay, DelProxied
from cni_plugins.steps.plan import ABSENT, UNCHANGED, Step, inverse, may_be_half_done
from cni_plugins.steps.rules import DelIptablesMasquerade, DelOwnedRules
from cni_plugins.steps.settings import EnsureSysctl

OWNER = Attachment("n", "c", "eth0")
ADDRESS = ip_interface("10.1.0.1/24")
SAMPLES = {
    str: "x",
    bool: True,
    int: 1,
}
INVERSES = {
    "EnsureBridge": DelIdleBridge,
    "SetVlanFiltering": SetVlanFiltering,
    "EnsureUp": SetDown,
    "EnsurePromisc": EnsurePromisc,
    "AddVeth": DelLink,
    "AddMacvlan": DelLink,
    "EnsureVlan": DelIdleVlans,
    "EnsureHostLink": DelHostAccess,
    "EnsureHostRoutes": DelHostRoutes,
    "EnsureGatewayPort": DelLink,
    "EnsureVxlan": DelIdleOverlay,
    "EnsureOverlayBridge": DelIdleOverlay,
    "EnsurePeers": DelIdleOverlay,
    "EnsureOverlayRules": DelIdleOverlay,
    "EnsureProxied": DelProxied,
    "EnsureAddress": DelAddress,
    "DelAddress": EnsureAddress,
    "AddRoute": DelRoute,
    "EnsureSysctl": EnsureSysctl,
    "EnsureMasquerade": DelOwnedRules,
    "EnsureSourceGuard": DelOwnedRules,
    "EnsureIptablesMasquerade": DelIptablesMasquerade,
}


def sample(kind: Any) -> Any:
    values = {
        name: OWNER
        if hint is Attachment
        else ADDRESS
        if name in ("address", "dst")
        else SAMPLES.get(hint, ())
        for name, hint in kind.__annotations__.items()
    }
    return kind(**values)


@pytest.mark.parametrize("kind", get_args(Step), ids=lambda kind: kind.__name__)
def test_each_step_and_its_inverse(kind: Any) -> None:
    undo = inverse(sample(kind))
    assert type(undo) is INVERSES.get(kind.__name__, type(None))


@pytest.mark.parametrize("kind", get_args(Step), ids=lambda kind: kind.__name__)
def test_what_changed_nothing_is_not_taken_back(kind: Any) -> None:
    assert inverse(sample(kind), UNCHANGED) is None


def test_old_values_come_back() -> None:
    step = EnsureSysctl("host", ("ipv4", "ip_forward"), "1")
    assert inverse(step, "0") == EnsureSysctl("host", ("ipv4", "ip_forward"), "0")
    bridge = EnsureBridge("br0", "", 0, vlan_filtering=True)
    assert inverse(bridge, "off") == SetVlanFiltering("br0", on=False)
    assert inverse(bridge, ABSENT) == DelIdleBridge("br0")


def test_only_steps_whose_inverse_finds_by_owner_may_be_half_done() -> None:
    half_done = {kind.__name__ for kind in get_args(Step) if may_be_half_done(sample(kind))}
    assert half_done == {
        "EnsureMasquerade",
        "EnsureIptablesMasquerade",
        "EnsureSourceGuard",
        "EnsureHostRoutes",
        "EnsureOverlayRules",
        "EnsurePeers",
    }
