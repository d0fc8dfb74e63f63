"""Manages the nf_tables objects of attachments: one table per family, rules over sets, elements with owners.

A rule is created once per network and matches a set; an attachment only adds elements, so the cost of an ADD
and of a packet does not depend on the number of containers. The comment of an element, which `nft list
ruleset` shows, names its owner. When the last element of a set is deleted, its rule is deleted, and with the
last set the table. That clean-up is guarded by the generation number of the ruleset: if anything has changed
since the ruleset was read, the kernel refuses the transaction, and the ruleset is read again. Objects of a
whole network are ignored here (see network_ruleset): their sets and chains have names that begin with
OF_NETWORKS.
"""

import errno
import fcntl
import socket
import struct
from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

from cni_plugins.errors import NameTaken, TryAgainLater
from cni_plugins.kernel.deed import REMOVES, deed
from cni_plugins.kernel.firewall import nft_table
from cni_plugins.kernel.firewall import read as look
from cni_plugins.kernel.firewall.nft_table import Chain, Set
from cni_plugins.kernel.firewall.read import Element, where_there_are_rules
from cni_plugins.kernel.netlink import nf_tables as wire
from cni_plugins.kernel.netlink.nf_tables import attr
from cni_plugins.kernel.netlink.socket import NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, Refused
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import NFT_TABLE, NO_LINK, OF_NETWORKS, RULE_MARK, Owner, is_stale, link_of
from cni_plugins.steps.firewall import DelOwnedRules, DelStaleRules

_FAMILIES = (wire.INET, wire.BRIDGE)
_AT_ONCE = 2000  # elements removed in one transaction
_SIOCGIFINDEX = 0x8933  # linux/sockios.h
_IFREQ = struct.Struct("16s24x")  # linux/if.h: the name, and room for the answer


class Rule(NamedTuple):
    """A rule over sets; its expressions are only built if it has to be created."""

    sets: tuple[Set, ...]
    expressions: Callable[[], bytes]

    @property
    def mark(self) -> str:
        """The rule's comment: names its sets, so that it is found again, and deleted with any of them."""
        return RULE_MARK + " ".join(item.name for item in self.sets)


class Objects(NamedTuple):
    """The objects of one attachment in one table: rules, and its own elements (set name, key)."""

    family: int
    chain: Chain
    rules: tuple[Rule, ...]
    elements: tuple[tuple[str, bytes], ...]


def ensure(session: Session, objects: Objects, owner: Owner, link: str = "") -> None:
    """Add the elements, and whatever they need that does not exist yet, in one transaction.

    An element that another attachment left under the same key is replaced: the address has a new owner.

    :param link: the host link whose absence shows that the attachment is gone, if there is one.
    :raises NameTaken: when another plugin of the same attachment has such an element.
    """
    comment = owner.comment(link)
    building: list[bytearray] = []
    generation = None
    # Checked first: aborting a refused transaction takes the kernel 10 ms (nf_tables_abort waits for RCU).
    # Asked for the rules: a set without its rule, which `nft flush` leaves, does nothing.
    if not _marks(session, objects).issuperset(rule.mark for rule in objects.rules):
        generation = look.generation(session)
        building = _build(session, objects)
    for _ in range(nft_table.TRIES):
        add = [
            _element(objects, item, wire.NEWSETELEM, NLM_F_CREATE | NLM_F_EXCL, comment)
            for item in objects.elements
        ]
        try:
            session.nft().transact(wire.batch([*building, *add], generation))
        except Refused as err:
            if err.errno == errno.EEXIST:
                _evict(session, objects, owner)
            elif err.errno == errno.ENOENT or nft_table.has_changed(err):
                generation = look.generation(session)
                building = _build(session, objects)
            else:
                raise
        else:
            return
    raise TryAgainLater("the nf_tables ruleset keeps changing", f"table {NFT_TABLE}, {nft_table.TRIES} tries")


def missing(session: Session, objects: Objects, owner: Owner) -> str:
    """Say which of the objects are missing, or do not belong to the owner; empty if all are present."""
    marks = [text for _, text in look.rules(session, objects.family, objects.chain.name)]
    wanted = {rule.mark for rule in objects.rules}
    if not wanted.issubset(marks) or not all(text.startswith(RULE_MARK) for text in marks):
        return f"the rule in chain {objects.chain.name} of table {NFT_TABLE}, without foreign rules,"
    for item in objects.elements:
        found = _elements_at(session, objects, item)
        if not any(owner.owns(element.comment) for element in found):
            return f"the element of set {item[0]} of table {NFT_TABLE}"
    return ""


def remove(session: Session, look_anew: Callable[[], Callable[[Element], bool]]) -> None:
    """Remove the elements that a predicate selects, and the sets, rules and chains that become unused.

    :param look_anew: returns the predicate for one reading of the ruleset, for which it may cache results.
    """
    for family in _FAMILIES:
        for attempt in range(nft_table.TRIES):
            if _remove_once(session, family, look_anew(), clean_up=attempt < nft_table.TRIES - 1):
                break


# ---------------------------------------------------------------------------------------------- adding


def _build(session: Session, objects: Objects) -> list[bytearray]:
    """Return the messages that create table, chain and sets, and those rules that are missing."""
    family, chain = objects.family, objects.chain
    sets = dict.fromkeys(item for rule in objects.rules for item in rule.sets)
    present = _marks(session, objects)
    missing_rules = [rule for rule in objects.rules if rule.mark not in present]
    return [
        nft_table.in_table(wire.NEWTABLE, family, NLM_F_CREATE),
        nft_table.new_chain(family, chain),
        *(nft_table.new_set(family, item, number) for number, item in enumerate(sets, 1)),
        *(nft_table.new_rule(family, chain, rule.mark, rule.expressions()) for rule in missing_rules),
    ]


def _marks(session: Session, objects: Objects) -> set[str]:
    """Return the comments of the rules in the chain; a set that a rule names exists."""
    return {text for _, text in look.rules(session, objects.family, objects.chain.name)}


def _element(
    objects: Objects, item: tuple[str, bytes], kind: int, flags: int, comment: str = ""
) -> bytearray:
    return nft_table.elements_message(kind, objects.family, flags, item[0], [item[1]], comment)


def _evict(session: Session, objects: Objects, owner: Owner) -> None:
    """Remove the elements with our keys one by one, as only some of them may exist."""
    for item in objects.elements:
        for element in _elements_at(session, objects, item):
            if owner.shares_attachment_with(element.comment):
                raise NameTaken(
                    f"another plugin of this attachment has an element in set {item[0]} with the same key",
                    f"its owner is {element.comment}",
                )
        try:
            session.nft().transact(wire.batch([_element(objects, item, wire.DELSETELEM, 0)]))
        except Refused as err:
            if err.errno != errno.ENOENT:
                raise


def _elements_at(session: Session, objects: Objects, item: tuple[str, bytes]) -> list[Element]:
    """Return the element of a set with this key, if it exists."""
    try:
        answers = session.nft().call(_element(objects, item, wire.GETSETELEM, NLM_F_ACK))
    except Refused as err:
        if err.errno != errno.ENOENT:
            raise
        return []
    return [element for answer in answers for element in look.elements_of(answer.data)]


# ---------------------------------------------------------------------------------------------- removing


def _remove_once(
    session: Session, family: int, is_going: Callable[[Element], bool], *, clean_up: bool
) -> bool:
    """Read the ruleset and remove; return False if more is left, or the ruleset has changed meanwhile."""
    generation = look.generation(session)
    kept: dict[str, int] = {}
    going: dict[str, list[Element]] = {}
    names = look.set_names(session, family)
    for set_name in (name for name in names if not name.startswith(OF_NETWORKS)):
        elements = look.elements(session, family, set_name)
        going[set_name] = [element for element in elements if is_going(element)]
        kept[set_name] = len(elements) - len(going[set_name])
    count = sum(map(len, going.values()))
    if not count:
        return True
    messages = [
        item
        for name, elements in going.items()
        for item in nft_table.in_parts(
            wire.DELSETELEM, family, 0, name, [element.key for element in elements[:_AT_ONCE]]
        )
    ]
    empty = {name for name, number in kept.items() if number == 0}
    whole = all(len(elements) <= _AT_ONCE for elements in going.values())
    guarded = clean_up and bool(empty) and whole
    if guarded:
        messages = _with_clean_up(session, family, messages, empty, everything=len(empty) == len(names))
    try:
        session.nft().transact(wire.batch(messages, generation if guarded else None))
    except Refused as err:
        if err.errno == errno.ENOENT or nft_table.has_changed(err):
            return False
        raise
    return whole and (guarded or not empty or not clean_up)


def _with_clean_up(
    session: Session, family: int, messages: list[bytearray], empty: set[str], *, everything: bool
) -> list[bytearray]:
    if everything:
        return [nft_table.in_table(wire.DELTABLE, family)]
    rules = [item for item in look.all_rules(session, family) if not item.chain.startswith(OF_NETWORKS)]
    going = [item for item in rules if empty.intersection(_set_names(item.mark))]
    idle = {item.chain for item in going} - {item.chain for item in rules if item not in going}
    return [
        *messages,
        *(nft_table.del_rule(family, item) for item in going),
        *(nft_table.in_table(wire.DELSET, family, 0, attr(2, name)) for name in sorted(empty)),
        *(nft_table.in_table(wire.DELCHAIN, family, 0, attr(3, name)) for name in sorted(idle)),
    ]


def _set_names(mark: str) -> list[str]:
    """Return the set names in a rule's comment, an empty list for a rule that is not ours."""
    return mark.removeprefix(RULE_MARK).split() if mark.startswith(RULE_MARK) else []


# ------------------------------------------------------------------------------------- the rules of an owner


def _delete_owned(session: Session, step: DelOwnedRules) -> None:
    """Remove the owner's elements, and those of its network and plugin whose link vanished without a DEL."""
    owner = step.owner
    network = owner.attachment.network
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as any_socket:

        def look_anew() -> Callable[[Element], bool]:
            is_gone = cache(partial(_is_gone, any_socket))  # a link has an element for each of its addresses
            return lambda item: (
                owner.owns(item.comment)
                or (
                    is_stale(item.comment, network, owner.plugin, frozenset())
                    and is_gone(link_of(item.comment))
                )
            )

        remove(session, look_anew)


def _is_gone(any_socket: socket.socket, link: str) -> bool:
    """Say whether a link is gone, as socket.if_nametoindex() does, but without a new socket for each link."""
    if link == NO_LINK:
        return False
    try:
        fcntl.ioctl(any_socket, _SIOCGIFINDEX, _IFREQ.pack(link.encode()))
    except OSError:
        return True
    return False


def _delete_stale(session: Session, step: DelStaleRules) -> None:
    def is_going(item: Element) -> bool:
        return is_stale(item.comment, step.network, step.plugin, step.valid_tags)

    remove(session, lambda: is_going)


DEEDS = deed(DelOwnedRules, where_there_are_rules(_delete_owned), REMOVES) | deed(
    DelStaleRules, where_there_are_rules(_delete_stale), REMOVES
)
