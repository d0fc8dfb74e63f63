"""Guards the host against ports of internal bridges: it takes no frame from them, and so forwards none.

A bridge without an address is not enough: the host forwards a packet that is sent to the bridge's own MAC
address whatever the bridge's addresses are.
"""

from cni_plugins.kernel.deed import deed
from cni_plugins.kernel.firewall import attachment_rules
from cni_plugins.kernel.firewall.attachment_rules import Item, Objects, Rule, Want
from cni_plugins.kernel.firewall.nft_table import Chain, Set
from cni_plugins.kernel.netlink import nf_tables as wire
from cni_plugins.kernel.session.session import Session
from cni_plugins.steps.host_guard import EnsureHostGuard

# linux/netfilter_bridge.h: NF_BR_LOCAL_IN, NF_BR_PRI_FILTER_BRIDGED
_CHAIN = Chain("host_guard", "filter", 1, -200)
_INTERNAL = Set(
    "internal", wire.IFNAME, wire.IFNAME_LENGTH, "ports that the host takes nothing from", host_order=True
)


def _ensure(session: Session, step: EnsureHostGuard) -> None:
    attachment_rules.ensure(session, *_wanted(step))


def _wanted(step: EnsureHostGuard) -> Want:
    return Want(_guard(step.link), step.owner, step.link)


def _differs(session: Session, step: EnsureHostGuard) -> str:
    gap = attachment_rules.missing(session, _guard(step.link), step.owner)
    return f"guard of the host against {step.link}: {gap} is missing" if gap else ""


def _guard(link: str) -> Objects:
    rule = Rule(_CHAIN, (_INTERNAL,), _dropping)
    return Objects(wire.BRIDGE, (rule,), (Item(_INTERNAL.name, wire.link_name(link)),))


def _dropping() -> bytes:
    return wire.enters_by(_INTERNAL.name) + wire.drop()


DEEDS = deed(EnsureHostGuard, _ensure, _differs, restore=attachment_rules.restoring(_wanted))
