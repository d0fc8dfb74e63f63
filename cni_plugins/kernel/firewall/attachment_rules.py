"""Adds the nf_tables objects of attachments: one table per family, rules over sets, elements with owners.

A rule is created once per network and matches a set; an attachment only adds elements, so the cost of an ADD
and of a packet does not depend on the number of containers. The comment of an element, which `nft list
ruleset` shows, names its owner, and an index leads from each owner to its elements (owner_index). How they
are removed: rule_removal. Objects of a whole network: network_ruleset.
"""

import errno
import socket
from collections.abc import Callable
from typing import NamedTuple

from cni_plugins.errors import CniError, NameTaken, TryAgainLater
from cni_plugins.kernel.firewall import nft_table, owner_index
from cni_plugins.kernel.firewall import read as look
from cni_plugins.kernel.firewall.nft_table import Chain, Set
from cni_plugins.kernel.firewall.read import Element
from cni_plugins.kernel.firewall.rule_removal import Going, is_gone, take_owner
from cni_plugins.kernel.netlink import nf_tables as wire
from cni_plugins.kernel.netlink.socket import NLM_F_CREATE, NLM_F_EXCL, Refused
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import NFT_TABLE, RULE_MARK, Owner, holder_of, link_of

_NEW = NLM_F_CREATE | NLM_F_EXCL
_TRIED_TABLE = "cni_plugtry"  # as long as the name of ours, so that it can take its place in a message


class Rule(NamedTuple):
    """A rule over sets in a chain; its expressions are only built if it has to be created.

    :param words: the rule as nft(8) is told it, if that has to translate it; see port_rules.
    """

    chain: Chain
    sets: tuple[Set, ...]
    expressions: Callable[[], bytes]
    words: str = ""

    @property
    def mark(self) -> str:
        """The rule's comment: names its sets, so that it is found again, and deleted with any of them."""
        return RULE_MARK + " ".join(item.name for item in self.sets)

    @property
    def key(self) -> tuple[str, str]:
        return self.chain.name, self.mark


class Item(NamedTuple):
    """One element: of a set, or of a map with what it has under the key."""

    set_name: str
    key: bytes
    data: bytes = b""


class Objects(NamedTuple):
    """The objects of one attachment in one table: rules, and its own elements.

    :param reached: chains that the rules jump to, and in which there are none of ours.
    """

    family: int
    rules: tuple[Rule, ...]
    elements: tuple[Item, ...]
    reached: tuple[Chain, ...] = ()

    @property
    def chains(self) -> tuple[Chain, ...]:
        return tuple(dict.fromkeys(rule.chain for rule in self.rules))


Refusal = Callable[[Item, str], CniError | None]


def ensure(
    session: Session, objects: Objects, owner: Owner, link: str = "", refusal: Refusal | None = None
) -> None:
    """Add the elements, and whatever they need that does not exist yet, in one transaction.

    An element that another attachment left under the same key is replaced: the address has a new owner.

    :param link: the host link whose absence shows that the attachment is gone, if there is one.
    :param refusal: returns the error for an element that is not replaced while its other owner exists.
    :raises NameTaken: when another plugin of the same attachment has such an element.
    """
    building: list[bytearray] = []
    generation = None
    # Checked first: aborting a refused transaction takes the kernel 10 ms (nf_tables_abort waits for RCU).
    # Asked for the rules: a set without its rule, which `nft flush` leaves, does nothing.
    if not _present(session, objects).issuperset(rule.key for rule in objects.rules):
        generation = look.generation(session)
        building = _build(session, objects)
    if refusal:
        _evict(session, objects, owner, refusal)
    elements = _additions(session, objects, owner, owner.comment(link))
    for _ in range(nft_table.TRIES):
        try:
            session.nft().transact(wire.batch([*building, *elements], generation))
        except Refused as err:
            if err.errno == errno.EEXIST:
                _evict(session, objects, owner, refusal)
                elements = _additions(session, objects, owner, owner.comment(link))
            elif err.errno == errno.ENOENT or nft_table.has_changed(err):
                generation = look.generation(session)
                building = _build(session, objects)
            else:
                raise
        else:
            return
    raise TryAgainLater("the nf_tables ruleset keeps changing", f"table {NFT_TABLE}, {nft_table.TRIES} tries")


def prepare(session: Session, objects: Objects) -> set[tuple[str, str]]:
    """Create table, chains and sets of rules; return the keys of the rules that are missing."""
    session.nft().transact(wire.batch(_frame(objects)))
    return {rule.key for rule in objects.rules} - _present(session, objects)


def rehearse(session: Session, objects: Objects) -> None:
    """Create what the rules need, and the rules, in a table that the same transaction removes.

    :raises Refused: for what the kernel does not know.
    """
    rules = (
        nft_table.new_rule(objects.family, rule.chain, rule.mark, rule.expressions())
        for rule in objects.rules
    )
    messages = [*_frame(objects), *rules, nft_table.in_table(wire.DELTABLE, objects.family)]
    ours, other = NFT_TABLE.encode(), _TRIED_TABLE.encode()
    session.nft().transact(wire.batch([message.replace(ours, other) for message in messages]))


def missing(session: Session, objects: Objects, owner: Owner) -> str:
    """Say which of the objects are missing, or do not belong to the owner; empty if all are present."""
    for chain in objects.chains:
        marks = [text for _, text in look.rules(session, objects.family, chain.name)]
        wanted = {rule.mark for rule in objects.rules if rule.chain == chain}
        if not wanted.issubset(marks) or not all(text.startswith(RULE_MARK) for text in marks):
            return f"the rule in chain {chain.name} of table {NFT_TABLE}, without foreign rules,"
    for item, found in _elements_of(session, objects):
        if found is None or not owner.owns(found.comment) or found.data != item.data:
            return f"the element of set {item.set_name} of table {NFT_TABLE}"
    return ""


# ---------------------------------------------------------------------------------------------- adding


def _build(session: Session, objects: Objects) -> list[bytearray]:
    """Return the messages that create table, chains and sets, and those rules that are missing."""
    family = objects.family
    present = _present(session, objects)
    missing_rules = [rule for rule in objects.rules if rule.key not in present]
    return [
        *_frame(objects),
        *(nft_table.new_rule(family, rule.chain, rule.mark, rule.expressions()) for rule in missing_rules),
    ]


def _frame(objects: Objects) -> list[bytearray]:
    family = objects.family
    sets = dict.fromkeys(item for rule in objects.rules for item in rule.sets)
    return [
        nft_table.in_table(wire.NEWTABLE, family, NLM_F_CREATE),
        *(nft_table.new_chain(family, chain) for chain in (*objects.chains, *objects.reached)),
        *(nft_table.new_chain(family, owner_index.chain_of(item.name)) for item in sets),
        *(nft_table.new_set(family, item, n) for n, item in enumerate((owner_index.INDEX, *sets), 1)),
    ]


def _present(session: Session, objects: Objects) -> set[tuple[str, str]]:
    """Return chain and comment of the rules in the chains; a set that a rule names exists."""
    return {
        (chain.name, text)
        for chain in objects.chains
        for _, text in look.rules(session, objects.family, chain.name)
    }


def _additions(session: Session, objects: Objects, owner: Owner, comment: str) -> list[bytearray]:
    """Return the messages that add the elements, and their entries in the index."""
    family = objects.family
    known = owner_index.entries(session, family, owner.holder)
    places = [(item.set_name, item.key) for item in objects.elements]
    return [
        *(_element(objects, item, wire.NEWSETELEM, _NEW, comment) for item in objects.elements),
        *owner_index.additions(family, owner.holder, known, places, comment),
    ]


def _element(objects: Objects, item: Item, kind: int, flags: int, comment: str = "") -> bytearray:
    return nft_table.element_message(kind, objects.family, flags, item, comment)


def _evict(session: Session, objects: Objects, owner: Owner, refusal: Refusal | None) -> None:
    """Remove the elements with our keys, and whatever else their owners have that are gone.

    :raises CniError: before anything is removed, if one of them must stay.
    """
    going = Going({}, {})
    for item, found in _elements_of(session, objects):
        if found is None:
            continue
        _require_free(item, found, owner, refusal)
        going.take([], [found])
        if not owner.owns(found.comment) and not _is_alive(found.comment):
            take_owner(session, objects.family, going, holder_of(found.comment))
    if not going.keys:
        return
    try:
        session.nft().transact(wire.batch(going.messages(objects.family)))
    except Refused as err:
        if err.errno != errno.ENOENT:
            raise


def _require_free(item: Item, found: Element, owner: Owner, refusal: Refusal | None) -> None:
    """:raises CniError: when an element with one of our keys must stay."""
    if owner.shares_attachment_with(found.comment):
        raise NameTaken(
            f"another plugin of this attachment has an element in set {item.set_name} with the same key",
            f"its owner is {found.comment}",
        )
    if refusal and found.comment and not owner.owns(found.comment) and _is_alive(found.comment):
        error = refusal(item, found.comment)
        if error:
            raise error


def _is_alive(comment: str) -> bool:
    """Say whether an owner may exist still: its host link does, or none goes with it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as any_socket:
        return not is_gone(any_socket, link_of(comment))


def _elements_of(session: Session, objects: Objects) -> list[tuple[Item, Element | None]]:
    """Return what there is under the key of each element."""
    by_set: dict[str, list[Item]] = {}
    for item in objects.elements:
        by_set.setdefault(item.set_name, []).append(item)
    return [
        pair
        for name, items in by_set.items()
        for pair in zip(
            items,
            look.elements_at(session, objects.family, name, [item.key for item in items]),
            strict=True,
        )
    ]
