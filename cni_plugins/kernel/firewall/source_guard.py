"""Source address checks at bridge ports: frames with another source MAC than the container's are dropped."""

from cni_plugins.kernel.deed import deed
from cni_plugins.kernel.firewall import attachment_rules
from cni_plugins.kernel.firewall.attachment_rules import Chain, Objects, Rule, Set
from cni_plugins.kernel.netlink import nf_tables as wire
from cni_plugins.kernel.session.session import Session
from cni_plugins.steps.firewall import EnsureSourceGuard

_CHAIN = Chain("source_guard", "filter", 0, -300)  # linux/netfilter_bridge.h: NF_BR_PRI_NAT_DST_BRIDGED
_ETHER_ADDRESS = 9  # nft(8) data type
_CONCATENATION = 6  # bits by which nft(8) shifts each part's type
_GUARDED = Set(
    "guarded", wire.IFNAME, wire.IFNAME_LENGTH, "links whose source addresses are checked", host_order=True
)
_PAIR = wire.IFNAME << _CONCATENATION | _ETHER_ADDRESS
_ALLOWED = Set("allowed", _PAIR, 24, "link and source address that may enter by it")


def _ensure(session: Session, step: EnsureSourceGuard) -> None:
    attachment_rules.ensure(session, _source_guard(step), step.owner.comment(step.link))


def _differs(session: Session, step: EnsureSourceGuard) -> str:
    gap = attachment_rules.missing(session, _source_guard(step), step.owner)
    return f"source address check of {step.link}: {gap} is missing" if gap else ""


def _source_guard(step: EnsureSourceGuard) -> Objects:
    link = step.link.encode().ljust(16, b"\0")
    mac = bytes.fromhex(step.mac.replace(":", "")).ljust(8, b"\0")
    return Objects(
        family=wire.BRIDGE,
        chain=_CHAIN,
        rules=(Rule((_GUARDED, _ALLOWED), _guarding),),
        elements=((_GUARDED.name, link), (_ALLOWED.name, link + mac)),
    )


def _guarding() -> bytes:
    return wire.enters_by(_GUARDED.name) + wire.port_and_source_not_in(_ALLOWED.name) + wire.drop()


DEEDS = deed(EnsureSourceGuard, _ensure, _differs)
