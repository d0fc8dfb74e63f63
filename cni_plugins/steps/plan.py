"""A plan is a tuple of steps; `inverse` says how each is taken back, given what was there before.

What was there is told by the kernel room when it carries a step out: `ABSENT` (the step made it), `UNCHANGED`
(nothing to take back), or the old value.
"""

from typing import Final

from cni_plugins.steps.addresses import (
    AddRoute,
    AwaitAddresses,
    DelAddress,
    DelHostRoutes,
    DelRoute,
    EnsureAddress,
    EnsureHostRoutes,
    EnsureNeighbour,
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
    SetDown,
    SetPortVlans,
    SetVlanFiltering,
)
from cni_plugins.steps.macvlans import (
    AddMacvlan,
    Advertise,
    DelAttached,
    DelHostAccess,
    DelIdleVlans,
    DelStaleAttached,
    DelStaleHostAccess,
    EnsureHostLink,
    EnsureVlan,
    MacvlanStep,
)
from cni_plugins.steps.overlays import (
    AttachVxlan,
    DelIdleOverlay,
    DelProxied,
    EnsureOverlayBridge,
    EnsureOverlayRules,
    EnsurePeers,
    EnsureProxied,
    EnsureVxlan,
    OverlayStep,
)
from cni_plugins.steps.places import HOST, SANDBOX
from cni_plugins.steps.rules import (
    DelIptablesMasquerade,
    DelOwnedRules,
    DelReferenceRules,
    DelStaleIptables,
    DelStaleRules,
    EnsureIptablesMasquerade,
    EnsureMasquerade,
    EnsureSourceGuard,
)
from cni_plugins.steps.settings import EnableForwarding, EnsureSysctl

Step = (
    EnsureBridge
    | SetVlanFiltering
    | DelIdleBridge
    | EnsureUp
    | SetDown
    | EnsurePromisc
    | PinMac
    | AddVeth
    | DelLink
    | AttachPort
    | SetPortVlans
    | EnsureGatewayPort
    | AwaitUp
    | Announce
    | MacvlanStep
    | OverlayStep
    | EnsureAddress
    | DelAddress
    | AddRoute
    | DelRoute
    | AwaitAddresses
    | EnsureSysctl
    | EnableForwarding
    | EnsureMasquerade
    | EnsureIptablesMasquerade
    | DelIptablesMasquerade
    | EnsureSourceGuard
    | DelOwnedRules
    | DelStaleRules
    | DelStaleIptables
    | DelReferenceRules
)
Plan = tuple[Step, ...]

ABSENT: Final = ""
UNCHANGED: Final = "\0unchanged"
NO_MARK: Final = 0  # which no attachment has


def may_be_half_done(step: Step) -> bool:
    """Say whether a refused step may have left something, which its inverse finds by its owner alone."""
    return isinstance(
        step,
        EnsureMasquerade
        | EnsureIptablesMasquerade
        | EnsureSourceGuard
        | EnsureHostRoutes
        | EnsureOverlayRules
        | EnsurePeers,
    )


def is_shared(step: Step) -> bool:
    """Say whether other attachments may rely on what the step made, once they are there too."""
    match step:
        case EnsureBridge() | SetVlanFiltering() | EnsurePromisc() | EnsureGatewayPort():
            return True
        case EnsureVlan() | EnsureHostLink():
            return True
        case EnsureVxlan() | EnsureOverlayBridge() | AttachVxlan() | EnsurePeers() | EnsureOverlayRules():
            return True
        case EnsureUp(where) | EnsureAddress(where) | DelAddress(where) | EnsureSysctl(where):
            return where == HOST
        case _:
            return False


def inverse(step: Step, before: str = ABSENT) -> Step | None:  # noqa: C901, PLR0911, PLR0912 (one arm per word)
    """Return the step that takes `step` back, or None where there is nothing to take back."""
    if before == UNCHANGED:
        return None
    match step:
        case EnsureBridge(name=name):
            return DelIdleBridge(name) if before == ABSENT else SetVlanFiltering(name, on=False)
        case SetVlanFiltering(name=name, on=on):
            return SetVlanFiltering(name, on=not on)
        case EnsureUp(where, link):
            return SetDown(where, link)
        case EnsurePromisc(link, on):
            return EnsurePromisc(link, on=not on)
        case AddVeth(host_end=host_end):
            return DelLink(HOST, host_end)
        case EnsureGatewayPort(name=name):
            return DelLink(HOST, name)
        case EnsureAddress(where, link, address):
            return DelAddress(where, link, address)
        case DelAddress(where, link, address):
            return EnsureAddress(where, link, address, skip_dad=True)
        case AddRoute(where, link, dst, gw):
            return DelRoute(where, link, dst, gw, step.priority, step.table)
        case EnsureSysctl(where, key, _, optional):
            return EnsureSysctl(where, key, before, optional)
        case AddMacvlan(ifname=ifname):
            return DelLink(SANDBOX, ifname)
        case EnsureVlan():
            return DelIdleVlans()
        case EnsureHostLink(network=network):
            return DelHostAccess(network, NO_MARK)
        case EnsureHostRoutes(link, _, mark):
            return DelHostRoutes(link, mark)
        case EnsureVxlan(network=network) | EnsureOverlayBridge(network=network):
            return DelIdleOverlay(network)
        case EnsureOverlayRules(network=network) | EnsurePeers(network=network):
            return DelIdleOverlay(network)
        case EnsureProxied(link, addresses, kept_at):
            return DelProxied(link, addresses, kept_at)
        case EnsureMasquerade(attachment) | EnsureSourceGuard(attachment):
            return DelOwnedRules(attachment)
        case EnsureIptablesMasquerade(attachment):
            return DelIptablesMasquerade(attachment)
        case AttachPort() | SetPortVlans() | EnsureNeighbour() | AttachVxlan():
            return None  # goes with the link
        case PinMac():
            return None  # the address stays what it was
        case EnableForwarding():
            return None  # host-wide, others may rely on it by now; every plan has it last
        case AwaitUp() | AwaitAddresses() | Announce() | Advertise():
            return None  # waits, and words that are spoken
        case SetDown() | DelLink() | DelIdleBridge() | DelRoute() | DelIptablesMasquerade() | DelOwnedRules():
            return None  # only in plans that take things away, which never turn back
        case DelStaleRules() | DelStaleIptables() | DelReferenceRules():
            return None  # likewise
        case DelAttached() | DelStaleAttached() | DelIdleVlans() | DelHostAccess() | DelStaleHostAccess():
            return None  # likewise
        case DelHostRoutes() | DelIdleOverlay() | DelProxied():
            return None  # likewise
