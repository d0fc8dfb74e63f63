"""Adds the nf_tables objects of attachments: one table per family, rules over sets, elements with owners.

A rule is created once per network and matches a set; an attachment only adds elements, so the cost of an ADD
and of a packet does not depend on the number of containers. The comment of an element, which `nft list
ruleset` shows, names its owner, and an index leads from each owner to its elements (owner_index). How they
are removed: rule_removal. Objects of a whole network: network_ruleset.
"""

import errno
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

from cni_plugins.errors import CniError, NameTaken, TryAgainLater
from cni_plugins.kernel.firewall import chain_rules, nft_table, owner_index
from cni_plugins.kernel.firewall import read as look
from cni_plugins.kernel.firewall.chain_rules import Item, Objects, Rule
from cni_plugins.kernel.firewall.read import Element
from cni_plugins.kernel.firewall.rule_removal import Going, is_gone, take_owner
from cni_plugins.kernel.netlink import nf_tables as wire
from cni_plugins.kernel.netlink.socket import NLM_F_CREATE, NLM_F_EXCL, Refused
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import NFT_TABLE, Owner, holder_of, link_of
from cni_plugins.steps.step import Step

__all__ = (
    "Item",
    "Objects",
    "Rule",
    "Want",
    "ensure",
    "missing",
    "prepare",
    "rehearse",
    "restore",
    "restoring",
)

S = TypeVar("S", bound=Step)

_NEW = NLM_F_CREATE | NLM_F_EXCL
_TRIED_TABLE = "cni_plugtry"  # as long as the name of ours, so that it can take its place in a message


class Want(NamedTuple):
    """The objects of one attachment in one table, with their owner, as `ensure` takes them."""

    objects: Objects
    owner: Owner
    link: str = ""


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
    if chain_rules.fault(objects, chain_rules.states_of(session, objects.family, objects.chains)):
        generation, building = _build(session, objects)
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
                generation, building = _build(session, objects)
            else:
                raise
        else:
            return
    raise _keeps_changing()


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
    family, chains = objects.family, objects.chains
    states = session.remembered(
        ("chains", family, chains), partial(chain_rules.states_of, session, family, chains)
    )
    gap = chain_rules.fault(objects, states)
    if gap:
        return gap
    elements = _remembered_elements if session.is_repair else _elements_of
    for item, found in elements(session, objects):
        if found is None or not owner.owns(found.comment) or found.data != item.data:
            return f"the element of set {item.set_name} of table {NFT_TABLE}"
    if session.is_repair and not _is_indexed(session, objects, owner):
        return f"an entry of set {owner_index.INDEX.name} of table {NFT_TABLE}"
    return ""


def _remembered_elements(session: Session, objects: Objects) -> list[tuple[Item, Element | None]]:
    """Return what there is under the key of each element, of whole sets that were read once."""
    found = {name: _whole(session, objects.family, name) for name in {item[0] for item in objects.elements}}
    return [(item, found[item.set_name].get(item.key)) for item in objects.elements]


def _whole(session: Session, family: int, name: str) -> dict[bytes, Element]:
    def find() -> dict[bytes, Element]:
        return {element.key: element for element in look.elements(session, family, name)}

    return session.remembered(("elements", family, name), find)


def _is_indexed(session: Session, objects: Objects, owner: Owner) -> bool:
    """Say whether DEL finds every element: another program may have flushed the index alone."""
    index = _whole(session, objects.family, owner_index.INDEX.name)
    known = {(entry.set_name, entry.key) for entry in owner_index.entries_among(index, owner.holder)}
    return known.issuperset((item.set_name, item.key) for item in objects.elements)


def restore(session: Session, wants: Sequence[Want]) -> None:
    """Add what is missing of the objects of many attachments, in one transaction.

    :raises NameTaken: when an element of another attachment has one of the keys; nothing is changed then.
    """
    for _ in range(nft_table.TRIES):
        generation = look.generation(session)
        families = dict.fromkeys(want.objects.family for want in wants)
        messages = [item for family in families for item in _restoring(session, family, wants)]
        try:
            if messages:
                session.nft().transact(wire.batch(messages, generation))
        except Refused as err:
            if not nft_table.has_changed(err):
                raise
        else:
            return
    raise _keeps_changing()


def restoring(want: Callable[[S], Want]) -> Callable[[Session, Sequence[S]], None]:
    """Return the `restore` of a deed whose steps are such objects."""
    return lambda session, steps: restore(session, [want(step) for step in steps])


def _restoring(session: Session, family: int, wants: Sequence[Want]) -> list[bytearray]:
    """Return the messages for attachments of one table."""
    chosen = [want for want in wants if want.objects.family == family]
    rules = {rule.key: rule for want in chosen for rule in want.objects.rules}
    ordered = any(want.objects.ordered for want in chosen)
    reached = dict.fromkeys(chain for want in chosen for chain in want.objects.reached)
    objects = Objects(family, tuple(rules.values()), (), ordered, tuple(reached))
    states = chain_rules.states_of(session, family, objects.chains)
    building = _mended(objects, states) if chain_rules.fault(objects, states) else []
    index = owner_index.whole(session, family)
    entries = [message for want in chosen for message in _entered(family, want, index)]
    return [*building, *_absent(session, family, chosen), *entries]


def _entered(family: int, want: Want, index: Mapping[bytes, Element]) -> list[bytearray]:
    """Return the messages that enter the elements in the index, anew if a saved ruleset was loaded."""
    holder, comment = want.owner.holder, want.owner.comment(want.link)
    entries = owner_index.entries_among(index, holder)
    going = [] if all(entry.key for entry in entries) else [entry.own_key for entry in entries]
    places = [(item.set_name, item.key) for item in want.objects.elements]
    return [
        *nft_table.in_parts(wire.DELSETELEM, family, 0, owner_index.INDEX.name, going),
        *owner_index.additions(family, holder, [] if going else entries, places, comment),
    ]


def _absent(session: Session, family: int, wants: Sequence[Want]) -> list[bytearray]:
    """Return the messages that add elements which do not exist, or are the owner's and lead elsewhere.

    :raises NameTaken: when one of the keys is another's.
    """
    new: dict[str, list[tuple[bytes, bytes, str]]] = {}
    wrong: dict[str, list[bytes]] = {}
    present: dict[str, dict[bytes, Element]] = {}
    for want in wants:
        for name, key, data in dict.fromkeys(want.objects.elements):
            if name not in present:
                present[name] = {one.key: one for one in look.elements(session, family, name)}
            there = present[name].get(key)
            if there is not None and not want.owner.owns(there.comment):
                raise _belongs_to_another(name, there.comment)
            if there is None or there.data != data:
                new.setdefault(name, []).append((key, data, want.owner.comment(want.link)))
            if there is not None and there.data != data:
                wrong.setdefault(name, []).append(key)
    return [
        *(
            item
            for name, keys in wrong.items()
            for item in nft_table.in_parts(wire.DELSETELEM, family, 0, name, keys)
        ),
        *(item for name, items in new.items() for item in nft_table.owned_elements(family, name, items)),
    ]


def _belongs_to_another(set_name: str, comment: str) -> NameTaken:
    return NameTaken(f"the element of set {set_name} belongs to another", f"its owner is {comment}")


def _keeps_changing() -> TryAgainLater:
    tries = f"table {NFT_TABLE}, {nft_table.TRIES} tries"
    return TryAgainLater("the nf_tables ruleset keeps changing", tries)


# ---------------------------------------------------------------------------------------------- adding


def _build(session: Session, objects: Objects) -> tuple[int, list[bytearray]]:
    """Return the generation, and the messages that create what is missing in it and mend what is wrong."""
    generation = look.generation(session)
    states = chain_rules.states_of(session, objects.family, objects.chains)
    return generation, _mended(objects, states)


def _mended(objects: Objects, states: chain_rules.States) -> list[bytearray]:
    table = nft_table.in_table(wire.NEWTABLE, objects.family, NLM_F_CREATE)
    reached = (nft_table.new_chain(objects.family, chain) for chain in objects.reached)
    return [table, *reached, *_sets(objects), *chain_rules.mending(objects, states)]


def _frame(objects: Objects) -> list[bytearray]:
    family = objects.family
    return [
        nft_table.in_table(wire.NEWTABLE, family, NLM_F_CREATE),
        *(nft_table.new_chain(family, chain) for chain in (*objects.chains, *objects.reached)),
        *_sets(objects),
    ]


def _sets(objects: Objects) -> list[bytearray]:
    family = objects.family
    sets = dict.fromkeys(item for rule in objects.rules for item in rule.sets)
    return [
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
        if session.is_repair and not owner.owns(found.comment):
            raise _belongs_to_another(item.set_name, found.comment)
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
