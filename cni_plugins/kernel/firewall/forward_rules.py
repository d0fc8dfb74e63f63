"""Lets containers' packets through in nf_tables, where nothing else drops what is forwarded.

A packet that one base chain accepts can still be dropped by another, so no rule of ours could let a packet
through: the chain has a jump to the administrator's chain, and the sets of the containers' addresses, for
rules in there. The administrator's chain is created empty and kept while there is a rule in it.
"""

from collections.abc import Callable

from cni_plugins.kernel.deed import deed
from cni_plugins.kernel.firewall import attachment_rules, forward_records
from cni_plugins.kernel.firewall.attachment_rules import Objects, Rule, Want
from cni_plugins.kernel.firewall.forward_records import NFTABLES
from cni_plugins.kernel.firewall.nft_table import Chain
from cni_plugins.kernel.netlink import nf_tables as wire
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import ADMIN_CHAIN, FORWARD_CHAIN
from cni_plugins.steps.forwarding_filter import EnsureForwarding

FORWARD, FILTER = 2, 0  # linux/netfilter.h: NF_INET_FORWARD; linux/netfilter_ipv4.h: NF_IP_PRI_FILTER
_CHAIN = Chain(FORWARD_CHAIN, "filter", FORWARD, FILTER)


def _ensure(session: Session, step: EnsureForwarding) -> None:
    attachment_rules.ensure(session, _forwarding(step), step.owner)


def _differs(session: Session, step: EnsureForwarding) -> str:
    gap = attachment_rules.missing(session, _forwarding(step), step.owner)
    return f"firewall: {gap} is missing" if gap else ""


def _forwarding(step: EnsureForwarding) -> Objects:
    versions = sorted({address.version for address in step.addresses})
    rules = tuple(
        Rule(_CHAIN, (forward_records.addresses_set(NFTABLES, item),), _to_admin(item)) for item in versions
    )
    items = forward_records.elements(NFTABLES, step.addresses)
    return Objects(wire.INET, rules, items, reached=(Chain(ADMIN_CHAIN),))


def _to_admin(version: int) -> Callable[[], bytes]:
    return lambda: wire.is_family(version) + wire.jump(ADMIN_CHAIN)


def _wanted(step: EnsureForwarding) -> Want:
    return Want(_forwarding(step), step.owner)


DEEDS = deed(EnsureForwarding, _ensure, _differs, restore=attachment_rules.restoring(_wanted))
