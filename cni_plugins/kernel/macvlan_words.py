"""Carries out and compares the steps of macvlan links, without which other plugins start."""

from cni_plugins.kernel import host_access, host_routes, macvlans, neighbours, vlan_links
from cni_plugins.kernel.session import Session
from cni_plugins.steps.addresses import DelHostRoutes, EnsureHostRoutes, EnsureNeighbour
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
from cni_plugins.steps.plan import ABSENT


def carry_out(session: Session, step: MacvlanStep) -> str:  # noqa: C901, PLR0912 (one arm per word)
    """Carry out one step; return what was there before (see steps.plan)."""
    match step:
        case AddMacvlan():
            macvlans.add(session, step)
        case DelAttached():
            macvlans.delete_attached(session, step)
        case DelStaleAttached():
            macvlans.delete_stale(session, step)
        case Advertise():
            neighbours.advertise(session, step)
        case EnsureVlan():
            return vlan_links.ensure(session, step)
        case DelIdleVlans():
            vlan_links.delete_idle(session)
        case EnsureHostLink():
            return host_access.ensure(session, step)
        case DelHostAccess():
            host_access.delete(session, step)
        case DelStaleHostAccess():
            host_access.delete_stale(session, step)
        case EnsureNeighbour():
            neighbours.ensure(session, step)
        case EnsureHostRoutes():
            host_routes.ensure(session, step)
        case DelHostRoutes():
            host_routes.delete(session, step)
    return ABSENT


def differs(session: Session, step: MacvlanStep) -> str:  # noqa: C901, PLR0911 (one arm per word)
    """Say how the kernel differs from what the step makes; empty when it does not."""
    match step:
        case AddMacvlan():
            return macvlans.differs(session, step)
        case EnsureVlan():
            return vlan_links.differs(session, step)
        case EnsureHostLink():
            return host_access.differs(session, step)
        case EnsureNeighbour():
            return neighbours.differs(session, step)
        case EnsureHostRoutes():
            return host_routes.differs(session, step)
        case Advertise():
            return ""  # words that are spoken
        case DelAttached() | DelStaleAttached() | DelIdleVlans() | DelHostAccess() | DelStaleHostAccess():
            return ""  # take things away; a plan that makes an attachment has none of them
        case DelHostRoutes():
            return ""  # likewise
