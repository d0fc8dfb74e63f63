"""Carries out and compares the steps of overlay networks, without which other plugins start."""

from cni_plugins.kernel import overlay_entries, overlay_rules, overlays, vxlans
from cni_plugins.kernel.session import Session
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
from cni_plugins.steps.plan import UNCHANGED


def carry_out(session: Session, step: OverlayStep) -> str:  # noqa: C901 (one arm per word)
    """Carry out one step; return what was there before (see steps.plan)."""
    match step:
        case EnsureVxlan():
            return vxlans.ensure(session, step)
        case EnsureOverlayBridge():
            return overlays.ensure_bridge(session, step)
        case AttachVxlan():
            overlays.attach(session, step)
        case EnsurePeers():
            overlay_entries.ensure(session, step)
        case EnsureOverlayRules():
            overlay_rules.ensure(session, step)
        case EnsureProxied():
            return overlay_entries.ensure_proxied(session, step)
        case DelProxied():
            overlay_entries.del_proxied(session, step)
        case DelIdleOverlay():
            overlays.delete_idle(session, step)
    return UNCHANGED  # goes with the links


def differs(session: Session, step: OverlayStep) -> str:  # noqa: PLR0911 (one arm per word)
    """Say how the kernel differs from what the step makes; empty when it does not."""
    match step:
        case EnsureVxlan():
            return vxlans.differs(session, step)
        case EnsureOverlayBridge():
            return overlays.bridge_differs(session, step)
        case AttachVxlan():
            return overlays.attach_differs(session, step)
        case EnsurePeers():
            return overlay_entries.differs(session, step)
        case EnsureProxied():
            return overlay_entries.proxied_differs(session, step)
        case EnsureOverlayRules():
            return overlay_rules.differs(session, step)
        case DelProxied() | DelIdleOverlay():
            return ""  # take things away; a plan that makes an attachment has none of them
