"""Checks source addresses at bridge ports: drops frames whose source MAC is not the container's."""

from cni_plugins.kernel.deed import deed
from cni_plugins.kernel.firewall import attachment_rules
from cni_plugins.kernel.firewall.attachment_rules import Item, Objects, Rule, Want
from cni_plugins.kernel.firewall.nft_table import Chain, Set
from cni_plugins.kernel.netlink import nf_tables as wire
from cni_plugins.kernel.session.session import Session
from cni_plugins.steps.firewall import EnsureSourceGuard

_CHAIN = Chain("source_guard", "filter", 0, -300)  # linux/netfilter_bridge.h: NF_BR_PRI_NAT_DST_BRIDGED
_ETHER_ADDRESS = 9  # nft(8) data type
_GUARDED = Set(
    "guarded", wire.IFNAME, wire.IFNAME_LENGTH, "links whose source addresses are checked", host_order=True
)
_PAIR = wire.IFNAME << wire.CONCATENATION | _ETHER_ADDRESS
_ALLOWED = Set("allowed", _PAIR, 24, "link and source address that may enter by it")


def _ensure(session: Session, step: EnsureSourceGuard) -> None:
    attachment_rules.ensure(session, *_wanted(step))


def _wanted(step: EnsureSourceGuard) -> Want:
    return Want(_source_guard(step.link, step.mac), step.owner, step.link)


def _differs(session: Session, step: EnsureSourceGuard) -> str:
    macs = dict.fromkeys(filter(None, (step.mac, step.recorded_mac)))
    gaps = [attachment_rules.missing(session, _source_guard(step.link, mac), step.owner) for mac in macs]
    return "" if "" in gaps else f"source address check of {step.link}: {gaps[0]} is missing"


def _source_guard(link_name: str, mac_text: str) -> Objects:
    link = link_name.encode().ljust(16, b"\0")
    mac = bytes.fromhex(mac_text.replace(":", "")).ljust(8, b"\0")
    return Objects(
        family=wire.BRIDGE,
        rules=(Rule(_CHAIN, (_GUARDED, _ALLOWED), _guarding),),
        elements=(Item(_GUARDED.name, link), Item(_ALLOWED.name, link + mac)),
    )


def _guarding() -> bytes:
    return wire.enters_by(_GUARDED.name) + wire.port_and_source_not_in(_ALLOWED.name) + wire.drop()


DEEDS = deed(EnsureSourceGuard, _ensure, _differs, restore=attachment_rules.restoring(_wanted))
