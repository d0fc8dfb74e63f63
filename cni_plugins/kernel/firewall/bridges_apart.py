"""Keeps bridges apart: nothing is forwarded from one to another, whatever the backend is.

A packet that one table drops is dropped, so this is done in nf_tables whatever the backend is, and networks
whose containers were added while different backends were in use are apart all the same. Three sets have the
bridges; they belong to no attachment. A bridge stays in them while there is a set with members of it, whose
elements are owned by the attachments: see attachment_rules, which removes that set with the last of them.
"""

import errno
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from cni_plugins.errors import TryAgainLater
from cni_plugins.kernel.deed import deed
from cni_plugins.kernel.firewall import attachment_rules, forward_records, nft_table, read
from cni_plugins.kernel.firewall.attachment_rules import Item, Objects, Rule
from cni_plugins.kernel.firewall.forward_rules import FILTER, FORWARD
from cni_plugins.kernel.firewall.nft_table import Chain, Set
from cni_plugins.kernel.netlink import nf_tables as wire
from cni_plugins.kernel.netlink.nf_tables import attr
from cni_plugins.kernel.netlink.socket import NLM_F_CREATE, Refused
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import NFT_TABLE, OF_BRIDGES, RULE_MARK, member_set
from cni_plugins.steps.forwarding_filter import EnsureBridgesApart

CHAIN = Chain(f"{OF_BRIDGES}forward", "filter", FORWARD, FILTER)
_MEMBERS = Chain("firewall_members")  # nothing jumps to it
_PAIR_LENGTH = 2 * wire.IFNAME_LENGTH


def _set(name: str, comment: str, *, pair: bool = False) -> Set:
    kind, length = (wire.IFNAME_PAIR, _PAIR_LENGTH) if pair else (wire.IFNAME, wire.IFNAME_LENGTH)
    return Set(f"{OF_BRIDGES}{name}", kind, length, comment, host_order=not pair)


_BRIDGES = _set("bridges", "bridges between which nothing is forwarded")
_WITHIN = _set("within", "the same, each with itself", pair=True)
_ISOLATED = _set("isolated", "bridges into which nothing is forwarded back", pair=True)
_SETS = (_BRIDGES, _WITHIN, _ISOLATED)


class _Dropping(NamedTuple):
    """One of the two rules; both only drop, so that their order does not matter."""

    word: str
    expressions: Callable[[], bytes]

    @property
    def mark(self) -> str:
        return f"{RULE_MARK}{OF_BRIDGES}{self.word}"


def _between() -> bytes:
    both = wire.enters_by(_BRIDGES.name) + wire.leaves_by(_BRIDGES.name)
    return both + wire.enters_and_leaves_by(_WITHIN.name, inverted=True) + wire.drop()


def _back() -> bytes:
    return wire.enters_and_leaves_by(_ISOLATED.name) + wire.drop()


_RULES = (_Dropping("bridges", _between), _Dropping("isolated", _back))


def _ensure(session: Session, step: EnsureBridgesApart) -> None:
    # Members first: a removal of the bridge that has not seen them is refused, as the ruleset has changed.
    for item in _memberships(step):
        attachment_rules.ensure(session, item, step.owner)
    for _ in range(nft_table.TRIES):
        generation = read.generation(session)
        messages = list(_missing(session, step))
        if not messages:
            return
        try:
            session.nft().transact(wire.batch(messages, generation))
        except Refused as err:
            if not nft_table.has_changed(err):
                raise
        else:
            return
    raise TryAgainLater("the nf_tables ruleset keeps changing", f"table {NFT_TABLE}, {nft_table.TRIES} tries")


def _differs(session: Session, step: EnsureBridgesApart) -> str:
    for item in _memberships(step):
        gap = attachment_rules.missing(session, item, step.owner)
        if gap:
            return f"firewall: {gap} is missing"
    marks = _marks(session)
    if {rule.mark for rule in _RULES} != marks:
        return f"firewall: chain {CHAIN.name} of table {NFT_TABLE} has other rules"
    for name, key in _elements(step):
        if forward_records.element_at(session, name, key) is None:
            return f"firewall: an element of set {name} of table {NFT_TABLE} is missing"
    return ""


def _memberships(step: EnsureBridgesApart) -> Iterator[Objects]:
    for bridge in step.bridges:
        for isolated in (False, True)[: 2 if step.isolated else 1]:
            name = member_set(bridge, isolated=isolated)
            what = "isolated on" if isolated else "behind"
            item = Set(name, wire.IFNAME, wire.IFNAME_LENGTH, f"containers {what} {bridge}", host_order=True)
            rule = Rule(_MEMBERS, (item,), partial(wire.leaves_by_link, bridge))
            yield Objects(wire.INET, (rule,), (Item(name, wire.link_name(step.member)),))


def _elements(step: EnsureBridgesApart) -> Iterator[tuple[str, bytes]]:
    for bridge in step.bridges:
        yield from _keys(bridge, isolated=step.isolated)


def _keys(bridge: str, *, isolated: bool) -> Iterator[tuple[str, bytes]]:
    name = wire.link_name(bridge)
    yield _BRIDGES.name, name
    yield _WITHIN.name, name + name
    if isolated:
        yield _ISOLATED.name, name + name


def _missing(session: Session, step: EnsureBridgesApart) -> Iterator[bytearray]:
    """Yield the messages that create what is missing; existing sets and elements may be created again."""
    rules = [rule for rule in _RULES if rule.mark not in _marks(session)]
    elements = [
        item for item in _elements(step) if rules or forward_records.element_at(session, *item) is None
    ]
    if rules:
        yield nft_table.in_table(wire.NEWTABLE, wire.INET, NLM_F_CREATE)
        yield nft_table.new_chain(wire.INET, CHAIN)
        for number, item in enumerate(_SETS, 1):
            yield nft_table.new_set(wire.INET, item, number)
    for rule in rules:
        yield nft_table.new_rule(wire.INET, CHAIN, rule.mark, rule.expressions())
    for name, key in elements:
        yield nft_table.elements_message(wire.NEWSETELEM, wire.INET, NLM_F_CREATE, name, [key])


def _marks(session: Session) -> set[str]:
    return {text for _, text in read.rules(session, wire.INET, CHAIN.name)}


# ---------------------------------------------------------------------------------------------- removing


def tidy(session: Session) -> list[str]:
    """Remove bridges that have no members any more, and everything with the last; return their names."""
    for _ in range(nft_table.TRIES):
        generation = read.generation(session)
        if not read.has_chain(session, wire.INET, NFT_TABLE, CHAIN.name):
            return []
        gone, messages = _idle(session)
        if not messages:
            return []
        try:
            session.nft().transact(wire.batch(messages, generation))
        except Refused as err:
            if err.errno != errno.ENOENT and not nft_table.has_changed(err):
                raise
        else:
            return gone
    return []  # whoever changes the ruleset all the time removes bridges as well


def _idle(session: Session) -> tuple[list[str], list[bytearray]]:
    """Return the bridges without members, and the messages that remove what is only there for them."""
    sets = read.set_names(session, wire.INET)
    present = {item.name: read.elements(session, wire.INET, item.name) for item in _SETS}
    bridges = [_name(element.key) for element in present[_BRIDGES.name]]
    gone = [bridge for bridge in bridges if member_set(bridge) not in sets]
    if len(gone) == len(bridges):
        return gone, _everything(session, sets)
    isolated = [_name(element.key[: wire.IFNAME_LENGTH]) for element in present[_ISOLATED.name]]
    shared = [bridge for bridge in isolated if member_set(bridge, isolated=True) not in sets]
    going = {item for bridge in gone for item in _keys(bridge, isolated=False)}
    going |= {(_ISOLATED.name, wire.link_name(bridge) * 2) for bridge in shared}
    return gone, [
        nft_table.elements_message(wire.DELSETELEM, wire.INET, 0, name, [key]) for name, key in sorted(going)
    ]


def _everything(session: Session, sets: list[str]) -> list[bytearray]:
    rules = read.all_rules(session, wire.INET)
    if len(sets) == len(_SETS) and all(rule.chain == CHAIN.name for rule in rules):
        return [nft_table.in_table(wire.DELTABLE, wire.INET)]
    return [
        *(nft_table.del_rule(wire.INET, rule) for rule in rules if rule.chain == CHAIN.name),
        *(
            nft_table.in_table(wire.DELSET, wire.INET, 0, attr(2, item.name))
            for item in _SETS
            if item.name in sets
        ),
        nft_table.in_table(wire.DELCHAIN, wire.INET, 0, attr(3, CHAIN.name)),
    ]


def _name(key: bytes) -> str:
    return key.rstrip(b"\0").decode(errors="surrogateescape")


DEEDS = deed(EnsureBridgesApart, _ensure, _differs)
