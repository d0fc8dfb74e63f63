"""Every step: its value, its inverse or the reason for none, its words, and the functions that serve it."""

from importlib import import_module
from ipaddress import ip_interface
from pkgutil import iter_modules
from typing import Any

import pytest

from cni_plugins import steps
from cni_plugins.kernel import dispatch
from cni_plugins.kernel.deed import REMOVES, Uncompared
from cni_plugins.ownership import Attachment, Owner
from cni_plugins.steps.firewall import DelIptablesMasquerade, DelOwnedRules
from cni_plugins.steps.forwarding_filter import DelForwarding
from cni_plugins.steps.ip import DelAddress, DelRoute, EnsureAddress, EnsureSysctl
from cni_plugins.steps.links import (
    DelIdleBridge,
    DelLink,
    DelVeth,
    EnsureBridge,
    EnsurePromisc,
    EnsureUp,
    SetDown,
    SetMac,
    SetMtu,
    SetVlanFiltering,
)
from cni_plugins.steps.macvlan import DelHostAccess, DelIdleVlans
from cni_plugins.steps.neighbours import DelHostRoutes
from cni_plugins.steps.overlay import DelIdleOverlay, DelProxied
from cni_plugins.steps.policy_routing import AddMainRoute, DelMainRoute, DelRouteCopy, DelRule
from cni_plugins.steps.port_mappings import DelIptablesPorts, DelPortMaps, SetMark
from cni_plugins.steps.shaping import Bucket, DelIfb, EnsureIfb, SetBucket, SetRedirect
from cni_plugins.steps.step import ABSENT, UNCHANGED, Removal, Step, undo
from cni_plugins.steps.tuning import (
    ReplaceBackup,
    SetAllmulti,
    SetHostEndMtu,
    SetPromisc,
    SetTxQueueLen,
    WriteSysctl,
)

ATTACHMENT = Attachment("n", "c", "eth0")
ADDRESS = ip_interface("10.1.0.1/24")
SAMPLES: dict[Any, Any] = {
    str: "x",
    bool: True,
    int: 1,
    Attachment: ATTACHMENT,
    Owner: Owner(ATTACHMENT, "bridge"),
    SetMark: SetMark(13),
    Bucket | None: Bucket(1000, 2000),
}
BEFORE = {
    "SetMtu": "1500",
    "SetHostEndMtu": "1500",
    "SetTxQueueLen": "1000",
    "SetMac": "02:00:00:00:00:01",
    "DelIfb": "02:00:00:00:00:01 1500",
}
INVERSES = {
    "EnsureBridge": DelIdleBridge,
    "SetVlanFiltering": SetVlanFiltering,
    "EnsureUp": SetDown,
    "SetMac": SetMac,
    "SetMtu": SetMtu,
    "EnsurePromisc": EnsurePromisc,
    "AddVeth": DelVeth,
    "SetBucket": SetBucket,
    "EnsureIfb": DelIfb,
    "DelIfb": EnsureIfb,
    "SetRedirect": SetRedirect,
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
    "AddRule": DelRule,
    "AddRouteCopy": DelRouteCopy,
    "AddMainRoute": DelMainRoute,
    "DelMainRoute": AddMainRoute,
    "EnsureMasquerade": DelOwnedRules,
    "EnsureSourceGuard": DelOwnedRules,
    "EnsurePortSources": DelOwnedRules,
    "EnsureHostGuard": DelOwnedRules,
    "EnsureIptablesMasquerade": DelIptablesMasquerade,
    "EnsurePortMaps": DelPortMaps,
    "EnsureLocalnet": DelPortMaps,
    "EnsureIptablesPorts": DelIptablesPorts,
    "RecordSettings": ReplaceBackup,
    "WriteSysctl": WriteSysctl,
    "SetPromisc": SetPromisc,
    "SetAllmulti": SetAllmulti,
    "SetTxQueueLen": SetTxQueueLen,
    "SetHostEndMtu": SetHostEndMtu,
    "EnsureForwarding": DelForwarding,
    "EnsureIptablesForwarding": DelForwarding,
    "EnsureFirewalldSources": DelForwarding,
    "EnsureBridgesApart": DelForwarding,
    "EnsureIptablesApart": DelForwarding,
    "EnsurePortIsolated": DelForwarding,
}
# What only a new container gets, and what has no effect that could be missing.
NEVER_REPAIRED = {
    "AddVeth",
    "AddMacvlan",
    "AwaitAddresses",
    "AwaitUp",
    "ExpectForwarded",
    "Announce",
    "Advertise",
    "ForgetUdpFlows",
    "DelIfb",
    "RecordSettings",
    "WriteSysctl",
    "SetPromisc",
    "SetAllmulti",
    "SetTxQueueLen",
}
HALF_DONE = {
    "EnsurePortMaps",
    "EnsureLocalnet",
    "EnsureIptablesPorts",
    "EnsureMasquerade",
    "EnsureIptablesMasquerade",
    "EnsureSourceGuard",
    "EnsurePortSources",
    "EnsureHostGuard",
    "EnsureForwarding",
    "EnsureIptablesForwarding",
    "EnsureFirewalldSources",
    "EnsureBridgesApart",
    "EnsureIptablesApart",
    "EnsurePortIsolated",
    "EnsureHostRoutes",
    "EnsureOverlayRules",
    "EnsurePeers",
}


def leaves(kind: type[Step]) -> list[type[Step]]:
    found = [leaf for child in kind.__subclasses__() for leaf in leaves(child)]
    return found or [kind]


def every() -> list[Any]:
    for module in iter_modules(steps.__path__):
        import_module(f"cni_plugins.steps.{module.name}")
    return [kind for kind in leaves(Step) if kind.__module__.startswith("cni_plugins.steps.")]


each = pytest.mark.parametrize("kind", every(), ids=lambda kind: kind.__name__)


def sample(kind: Any) -> Any:
    values = {
        name: ADDRESS
        if name in ("address", "dst")
        else (4, 6)
        if name == "families"
        else SAMPLES.get(hint, ())
        for name, hint in kind.__annotations__.items()
    }
    return kind(**values)


def test_none_is_forgotten() -> None:
    assert len(every()) > 45
    assert {kind.__name__ for kind in every()} >= INVERSES.keys()


@each
def test_each_has_an_inverse_or_a_reason_for_none(kind: Any) -> None:
    inverse = undo(sample(kind), BEFORE.get(kind.__name__, ABSENT))
    assert type(inverse) is INVERSES.get(kind.__name__, type(None))
    assert (inverse is None) == bool(kind.kept_because)


@each
def test_what_changed_nothing_is_not_undone(kind: Any) -> None:
    assert undo(sample(kind), UNCHANGED) is None


@each
def test_each_has_a_phrase_that_begins_with_a_verb(kind: Any) -> None:
    phrase = sample(kind).phrase()
    assert phrase[0].islower() or phrase.startswith("VLAN")
    assert kind.__name__ not in phrase
    assert "\n" not in phrase


@each
def test_each_is_carried_out_and_compared(kind: Any) -> None:
    deed = dispatch.find(kind)
    assert callable(deed.carry_out)
    assert not isinstance(deed.differs, Uncompared) or deed.differs.reason
    removes = issubclass(kind, Removal) or kind.__name__ in ("DelAddress", "DelIfb")
    assert (deed.differs is REMOVES) == removes


@each
def test_each_says_whether_it_is_repaired(kind: Any) -> None:
    """A newcomer without an answer fails here, and not on a node whose rules were flushed."""
    for where in ("host", "sandbox"):
        step = sample(kind)
        placed = step.replace(where=where) if "where" in kind._fields else step
        reason = placed.not_repaired_because
        assert bool(reason) == _is_left(kind, where), (kind, reason)
        assert "\n" not in reason


def _is_left(kind: Any, where: str) -> bool:
    name = kind.__name__
    if issubclass(kind, Removal) or name == "DelAddress" or name in NEVER_REPAIRED:
        return True
    return "where" in kind._fields and where == "sandbox"


def test_steps_of_many_attachments_are_restored_together_if_their_effect_is_in_the_host() -> None:
    restored = [kind for kind in every() if dispatch.find(kind).restore]
    assert {"EnsureMasquerade", "EnsureSourceGuard"} <= {kind.__name__ for kind in restored}
    assert not [kind for kind in restored if sample(kind).not_repaired_because or sample(kind).is_shared]


@each
def test_only_steps_whose_inverse_finds_by_owner_may_be_half_done(kind: Any) -> None:
    assert kind.may_be_half_done == (kind.__name__ in HALF_DONE)


def test_old_values_are_restored() -> None:
    step = EnsureSysctl("host", ("ipv4", "ip_forward"), "1")
    assert undo(step, "0") == EnsureSysctl("host", ("ipv4", "ip_forward"), "0")
    bridge = EnsureBridge("br0", "", 0, vlan_filtering=True)
    assert undo(bridge, "off") == SetVlanFiltering("br0", on=False)
    assert undo(bridge, ABSENT) == DelIdleBridge("br0")
    assert undo(SetMtu("sandbox", "eth0", 1400), "1500") == SetMtu("sandbox", "eth0", 1500)


def test_limits_of_bandwidth_are_restored() -> None:
    bucket = Bucket(rate=1000, burst=2000, buffer=31250000, limit=2025)
    assert undo(SetBucket("veth0", Bucket(5, 6)), bucket.text) == SetBucket("veth0", bucket)
    assert undo(SetBucket("veth0", None), bucket.text) == SetBucket("veth0", bucket)
    assert undo(SetBucket("veth0", bucket), ABSENT) == SetBucket("veth0", None)
    assert undo(SetRedirect("veth0", "ifb1"), ABSENT) == SetRedirect("veth0", "")
    assert undo(SetRedirect("veth0", ""), "ifb1") == SetRedirect("veth0", "ifb1")
    ifb = EnsureIfb("ifb1", "02:00:00:00:00:01", 1500, "alias")
    assert undo(ifb, ABSENT) == DelIfb("ifb1", "alias")
    assert undo(ifb, "down") == SetDown("host", "ifb1")
    assert undo(DelIfb("ifb1", "alias"), "02:00:00:00:00:01 1500") == ifb


def test_steps_of_two_kinds_are_never_equal() -> None:
    assert EnsureUp("host", "eth0") != SetDown("host", "eth0")
    assert len({EnsureUp("host", "eth0"), SetDown("host", "eth0"), EnsureUp("host", "eth0")}) == 2


def test_steps_are_values() -> None:
    step = EnsureAddress("host", "eth0", ADDRESS)
    assert step == EnsureAddress(where="host", link="eth0", address=ADDRESS, skip_dad=False)
    assert step.replace(metric=5).metric == 5
    assert step.metric == 0
    assert repr(EnsureUp("host", "eth0")) == "EnsureUp(where='host', link='eth0')"
    with pytest.raises(AttributeError):
        step.metric = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    "make",
    [
        lambda: EnsureUp("host"),
        lambda: EnsureUp("host", "eth0", "more"),
        lambda: EnsureUp("host", where="host"),
        lambda: EnsureUp("host", "eth0", unknown=1),
    ],
)
def test_a_step_takes_its_fields_and_nothing_else(make: Any) -> None:
    with pytest.raises(TypeError, match="EnsureUp"):
        make()
