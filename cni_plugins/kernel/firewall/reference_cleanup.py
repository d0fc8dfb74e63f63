"""Removes the firewall objects of attachments that the reference plugins created.

Only needed if the host end of a sandbox does not have the name that we give it. Objects are found by the
names and comments of the reference: masquerade rules of both backends, and chains of source address checks.
"""

from cni_plugins.kernel.deed import REMOVES, deed
from cni_plugins.kernel.firewall import iptables_masquerade, read
from cni_plugins.kernel.netlink import nf_tables as wire
from cni_plugins.kernel.netlink.nf_tables import attr, message
from cni_plugins.kernel.session.session import Session
from cni_plugins.steps.firewall import DelReferenceRules

_MASQUERADE_TABLE, _MASQUERADE_CHAIN = "cni_plugins_masquerade", "masq_checks"
_GUARD_TABLE, _GUARD_CHAIN = "nat", "PREROUTING"


def _delete(session: Session, step: DelReferenceRules) -> None:
    _delete_masquerade(session, step)
    _delete_source_guard(session, step)
    iptables_masquerade.delete_reference(session, step.attachment, step.addresses)


def _delete_masquerade(session: Session, step: DelReferenceRules) -> None:
    """Remove masquerade rules, whose comments begin with a tag like ours: digest of network, dash, digest."""
    listed = read.rules(session, wire.INET, _MASQUERADE_CHAIN, _MASQUERADE_TABLE)
    going = [handle for handle, text in listed if text.startswith(step.attachment.tag)]
    messages = [_rule_removal(wire.INET, _MASQUERADE_TABLE, _MASQUERADE_CHAIN, handle) for handle in going]
    if messages:
        session.nft().transact(wire.batch(messages))


def _delete_source_guard(session: Session, step: DelReferenceRules) -> None:
    """Remove rules first, as they refer to the chains, then the outer chain before the one it jumps to."""
    _, container_id, ifname = step.attachment
    outer = f"cni-br-iface-{container_id}-{ifname}"
    chains = [outer, f"{outer}-mac"]
    entry = read.rules(session, wire.BRIDGE, _GUARD_CHAIN, _GUARD_TABLE)
    going = [
        (_GUARD_CHAIN, handle) for handle, text in entry if text == f"macspoofchk-{container_id}-{ifname}"
    ]
    going += [
        (chain, handle)
        for chain in chains
        for handle, _ in read.rules(session, wire.BRIDGE, chain, _GUARD_TABLE)
    ]
    messages = [_rule_removal(wire.BRIDGE, _GUARD_TABLE, chain, handle) for chain, handle in going]
    if messages:
        messages += [
            message(wire.DELCHAIN, wire.BRIDGE, 0, attr(1, _GUARD_TABLE), attr(3, chain)) for chain in chains
        ]
        session.nft().transact(wire.batch(messages))


def _rule_removal(family: int, table: str, chain: str, handle: bytes) -> bytearray:
    return message(wire.DELRULE, family, 0, attr(1, table), attr(2, chain), attr(3, handle))


DEEDS = deed(DelReferenceRules, read.where_there_are_rules(_delete), REMOVES)
