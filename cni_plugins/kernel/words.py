"""Carries out single steps, and compares with the kernel what they make: the two places that know every step.

Those of macvlan links and of overlay networks are in modules of their own, as other plugins start without.
"""

from cni_plugins.kernel import (
    addresses,
    bridges,
    iptables,
    link_checks,
    links,
    new_links,
    nft_look,
    reference,
    routes,
    rules,
    sysctl,
    vlans,
)
from cni_plugins.kernel.session import Session
from cni_plugins.steps.addresses import (
    AddRoute,
    AwaitAddresses,
    DelAddress,
    DelRoute,
    EnsureAddress,
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
from cni_plugins.steps.macvlans import MacvlanStep
from cni_plugins.steps.overlays import OverlayStep
from cni_plugins.steps.places import HOST
from cni_plugins.steps.plan import ABSENT, UNCHANGED, Step
from cni_plugins.steps.rules import (
    DelIptablesMasquerade,
    DelOwnedRules,
    DelReferenceRules,
    DelStaleIptables,
    DelStaleRules,
    EnsureIptablesMasquerade,
    EnsureMasquerade,
    EnsureSourceGuard,
    RuleRemoval,
)
from cni_plugins.steps.settings import EnableForwarding, EnsureSysctl


def carry_out(session: Session, step: Step) -> str:  # noqa: C901, PLR0911, PLR0912, PLR0915 (one arm per word)
    """Carry out one step; return what was there before (see steps.plan)."""
    if isinstance(step, MacvlanStep):
        from cni_plugins.kernel import macvlan_words

        return macvlan_words.carry_out(session, step)
    if isinstance(step, OverlayStep):
        from cni_plugins.kernel import overlay_words

        return overlay_words.carry_out(session, step)
    if isinstance(step, RuleRemoval) and not nft_look.has_netfilter(session):
        return UNCHANGED  # there are no rules
    match step:
        case EnsureBridge():
            return bridges.ensure_bridge(session, step)
        case SetVlanFiltering(name, on):
            bridges.set_vlan_filtering(session, name, on=on)
        case DelIdleBridge(name):
            bridges.del_idle_bridge(session, name)
        case EnsureUp(where, link):
            return links.set_up(session, where, link, up=True)
        case SetDown(where, link):
            return links.set_up(session, where, link, up=False)
        case EnsurePromisc(link, on):
            return links.set_promisc(session, link, on=on)
        case PinMac(bridge):
            links.repeat_mac(session, HOST, bridge)
        case AddVeth():
            new_links.add_veth(session, step)
        case DelLink(where, link):
            links.delete(session, where, link)
        case AttachPort():
            bridges.attach_port(session, step)
        case SetPortVlans():
            vlans.set_port_vlans(session, step)
        case EnsureGatewayPort():
            return bridges.ensure_gateway_port(session, step)
        case AwaitUp(link):
            bridges.await_up(session, link)
        case Announce(where, link):
            links.repeat_mac(session, where, link)
        case EnsureAddress():
            return addresses.ensure_address(session, step)
        case DelAddress():
            return addresses.del_address(session, step)
        case AddRoute():
            routes.add_route(session, step)
        case DelRoute():
            routes.del_route(session, step)
        case AwaitAddresses():
            addresses.await_addresses(session, step)
        case EnsureSysctl():
            return sysctl.ensure(session, step)
        case EnableForwarding():
            return sysctl.enable_forwarding(session, step)
        case EnsureMasquerade():
            rules.ensure_masquerade(session, step)
        case EnsureIptablesMasquerade():
            iptables.ensure(step)
        case DelIptablesMasquerade():
            iptables.delete(session, step)
        case EnsureSourceGuard():
            rules.ensure_source_guard(session, step)
        case DelOwnedRules():
            rules.delete_owned(session, step)
        case DelStaleRules():
            rules.delete_stale(session, step)
        case DelStaleIptables():
            iptables.delete_stale(session, step)
        case DelReferenceRules():
            reference.delete(session, step)
    return ABSENT


def differs(session: Session, step: Step) -> str:  # noqa: C901, PLR0911, PLR0912 (one arm per word)
    """Say how the kernel differs from what the step makes; empty when it does not."""
    if isinstance(step, MacvlanStep):
        from cni_plugins.kernel import macvlan_words

        return macvlan_words.differs(session, step)
    if isinstance(step, OverlayStep):
        from cni_plugins.kernel import overlay_words

        return overlay_words.differs(session, step)
    match step:
        case EnsureBridge():
            return link_checks.bridge_differs(session, step)
        case EnsureUp(where, link):
            return link_checks.up_differs(session, where, link)
        case EnsurePromisc(link, on):
            return link_checks.promisc_differs(session, link, on=on)
        case AddVeth():
            return link_checks.veth_differs(session, step)
        case AttachPort():
            return link_checks.port_differs(session, step)
        case SetPortVlans():
            return vlans.differs(session, step)
        case EnsureGatewayPort():
            return bridges.gateway_port_differs(session, step)
        case EnsureAddress():
            return addresses.address_differs(session, step)
        case AddRoute():
            return routes.route_differs(session, step)
        case EnsureSysctl():
            return sysctl.differs(session, step)
        case EnableForwarding():
            return sysctl.forwarding_differs(session, step)
        case EnsureMasquerade():
            return rules.masquerade_differs(session, step)
        case EnsureIptablesMasquerade():
            return iptables.differs(step)
        case EnsureSourceGuard():
            return rules.source_guard_differs(session, step)
        case AwaitUp(link):
            return link_checks.operational_differs(session, link)
        case SetVlanFiltering() | PinMac() | AwaitAddresses() | Announce():
            return ""  # leave nothing behind that another step does not check
        case SetDown() | DelIdleBridge() | DelLink() | DelAddress() | DelRoute() | DelIptablesMasquerade():
            return ""  # take things away; a plan that makes an attachment has none of them
        case DelOwnedRules() | DelStaleRules() | DelStaleIptables() | DelReferenceRules():
            return ""  # likewise
