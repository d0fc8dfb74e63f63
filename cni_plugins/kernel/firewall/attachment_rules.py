"""nf_tables objects of attachments: one table per family, rules over sets, elements that name their owner.

A rule is created once for a network and matches a set; an attachment only adds elements, so both an ADD and a
packet cost the same however many containers there are. Ownership is in the elements' comments, which `nft
list ruleset` shows. When the last element of a set is deleted, its rule is deleted, and with the last set the
table. That clean-up is guarded by the ruleset's generation number: if anything changed since the ruleset was
read, the kernel refuses it and it is read again. Objects of a whole network are ignored here (see
network_ruleset): the names of their sets and chains begin with OF_NETWORKS.
"""

import errno
import fcntl
import socket
import struct
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import NamedTuple

from cni_plugins.errors import TryAgainLater
from cni_plugins.kernel.deed import REMOVES, deed
from cni_plugins.kernel.firewall import read as look
from cni_plugins.kernel.firewall.read import Element, FoundRule, where_there_are_rules
from cni_plugins.kernel.netlink import nf_tables as wire
from cni_plugins.kernel.netlink.nf_tables import attr, message
from cni_plugins.kernel.netlink.socket import NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, Refused
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import NFT_TABLE, NO_LINK, OF_NETWORKS, RULE_MARK, Owner, is_stale, link_of
from cni_plugins.steps.firewall import DelOwnedRules, DelStaleRules

_FAMILIES = (wire.INET, wire.BRIDGE)
TRIES = 50
_ELEMENTS = 500  # in one message; an attribute ends at 64 KiB
_AT_ONCE = 2000  # elements removed in one transaction
_HOST_ORDER = struct.pack("=BBI", 0, 4, 1)  # NFTNL_UDATA_SET_KEYBYTEORDER, as nft(8) writes it
_SET_COMMENT = 7  # NFTNL_UDATA_SET_COMMENT
ACCEPT = 1
_SIOCGIFINDEX = 0x8933  # linux/sockios.h
_IFREQ = struct.Struct("16s24x")  # linux/if.h: the name, and room for the answer


class Chain(NamedTuple):
    """A base chain: where in the packet's way it hooks in."""

    name: str
    kind: str
    hook: int
    priority: int


class Set(NamedTuple):
    """A named set; key type as nft(8) numbers its data types, length in bytes.

    `host_order` tells nft(8), not the kernel, how to read the key: names of links are in host order to it.
    """

    name: str
    key_type: int
    key_length: int
    comment: str
    host_order: bool = False


class Rule(NamedTuple):
    """A rule over sets; its expressions are only spelled out when it has to be made.

    :param part: which of several rules over the same sets; a word that is no set's name.
    """

    sets: tuple[Set, ...]
    expressions: Callable[[], bytes]
    part: str = ""

    @property
    def mark(self) -> str:
        """The rule's comment: by the names of its sets it is found again, and goes when one of them does."""
        names = [item.name for item in self.sets]
        return RULE_MARK + " ".join([*names, self.part] if self.part else names)


class Objects(NamedTuple):
    """What one attachment needs in one table: rules, and its own elements (set name, key)."""

    family: int
    chain: Chain
    rules: tuple[Rule, ...]
    elements: tuple[tuple[str, bytes], ...]


def ensure(session: Session, objects: Objects, comment: str) -> None:
    """Add the elements, and whatever they need that is not there yet, in one transaction.

    An element that somebody else left under the same key is replaced: the address is ours now.
    """
    building: list[bytearray] = []
    generation = None
    # Asked first: a refused transaction is aborted by the kernel in 10 ms (nf_tables_abort waits for RCU).
    if not all(look.has_set(session, objects.family, name) for name, _ in objects.elements):
        generation = look.generation(session)
        building = _build(session, objects)
    for _ in range(TRIES):
        add = [
            _element(objects, item, wire.NEWSETELEM, NLM_F_CREATE | NLM_F_EXCL, comment)
            for item in objects.elements
        ]
        try:
            session.nft().transact(wire.batch([*building, *add], generation))
        except Refused as err:
            if err.errno == errno.EEXIST:
                _evict(session, objects)
            elif err.errno == errno.ENOENT or has_changed(err):
                generation = look.generation(session)
                building = _build(session, objects)
            else:
                raise
        else:
            return
    raise TryAgainLater("the nf_tables ruleset keeps changing", f"table {NFT_TABLE}, {TRIES} tries")


def missing(session: Session, objects: Objects, owner: Owner) -> str:
    """Say what of the objects is not in the kernel, or is not the owner's; empty when all is well."""
    marks = [text for _, text in look.rules(session, objects.family, objects.chain.name)]
    wanted = {rule.mark for rule in objects.rules}
    if not wanted.issubset(marks) or not all(text.startswith(RULE_MARK) for text in marks):
        return f"the rule in chain {objects.chain.name} of table {NFT_TABLE}, with no other beside our own,"
    for item in objects.elements:
        query = _element(objects, item, wire.GETSETELEM, NLM_F_ACK)
        try:
            answers = session.nft().call(query)
        except Refused as err:
            if err.errno != errno.ENOENT:
                raise
            answers = []
        found = [element for answer in answers for element in look.elements_of(answer.data)]
        if not any(owner.owns(element.comment) for element in found):
            return f"the element of set {item[0]} of table {NFT_TABLE}"
    return ""


def remove(session: Session, look_anew: Callable[[], Callable[[Element], bool]]) -> None:
    """Remove the elements that a predicate names, and all that has no element left because of it.

    :param look_anew: makes the predicate for one look at the ruleset; it may remember things as long as that.
    """
    for family in _FAMILIES:
        for attempt in range(TRIES):
            if _remove_once(session, family, look_anew(), tidy=attempt < TRIES - 1):
                break


# ---------------------------------------------------------------------------------------------- adding


def _build(session: Session, objects: Objects) -> list[bytearray]:
    """Return the messages that make table, chain, sets and rules, rules only where they are missing."""
    family, chain = objects.family, objects.chain
    sets = dict.fromkeys(item for rule in objects.rules for item in rule.sets)
    present = {text for _, text in look.rules(session, family, chain.name)}
    lacking = [rule for rule in objects.rules if rule.mark not in present]
    return [
        in_table(wire.NEWTABLE, family, NLM_F_CREATE),
        new_chain(family, chain),
        *(new_set(family, item, number) for number, item in enumerate(sets, 1)),
        *(new_rule(family, chain, rule.mark, rule.expressions()) for rule in lacking),
    ]


def in_table(kind: int, family: int, flags: int = 0, *attrs: bytes) -> bytearray:
    """Return a message on our table, or on something in it."""
    return message(kind, family, flags, attr(1, NFT_TABLE), *attrs)


def new_chain(family: int, chain: Chain) -> bytearray:
    hook = attr(4, [attr(1, chain.hook), attr(2, chain.priority)])
    described = (attr(3, chain.name), hook, attr(5, ACCEPT), attr(7, chain.kind))
    return in_table(wire.NEWCHAIN, family, NLM_F_CREATE, *described)


def new_rule(family: int, chain: Chain, mark: str, expressions: bytes) -> bytearray:
    described = (attr(2, chain.name), attr(4, [expressions]), attr(7, wire.comment(mark)))
    return in_table(wire.NEWRULE, family, NLM_F_CREATE | NLM_F_APPEND, *described)


def new_set(family: int, item: Set, number: int) -> bytearray:
    userdata = (_HOST_ORDER if item.host_order else b"") + wire.comment(item.comment, _SET_COMMENT)
    return in_table(
        wire.NEWSET,
        family,
        NLM_F_CREATE,
        attr(2, item.name),
        attr(3, 0),
        attr(4, item.key_type),
        attr(5, item.key_length),
        attr(10, number),
        attr(13, userdata),
    )


def _element(
    objects: Objects, item: tuple[str, bytes], kind: int, flags: int, comment: str = ""
) -> bytearray:
    return elements_message(kind, objects.family, flags, item[0], [item[1]], comment)


def elements_message(
    kind: int, family: int, flags: int, set_name: str, keys: Sequence[bytes], comment: str = ""
) -> bytearray:
    userdata = [attr(6, wire.comment(comment))] if comment else []
    entries = [attr(1, [attr(1, [attr(1, key)]), *userdata]) for key in keys]
    return in_table(kind, family, flags, attr(2, set_name), attr(3, entries))


def in_parts(kind: int, family: int, flags: int, set_name: str, keys: Sequence[bytes]) -> list[bytearray]:
    """Return messages for elements of one set that bear no comment, many to a message."""
    parts = [keys[start : start + _ELEMENTS] for start in range(0, len(keys), _ELEMENTS)]
    return [elements_message(kind, family, flags, set_name, part) for part in parts]


def _evict(session: Session, objects: Objects) -> None:
    """Remove what stands under our keys, one by one, as only some of them may be taken."""
    for item in objects.elements:
        try:
            session.nft().transact(wire.batch([_element(objects, item, wire.DELSETELEM, 0)]))
        except Refused as err:
            if err.errno != errno.ENOENT:
                raise


# ---------------------------------------------------------------------------------------------- removing


def _remove_once(session: Session, family: int, doomed: Callable[[Element], bool], *, tidy: bool) -> bool:
    """Look and remove; say whether that settles it: more may be left, or the ruleset may have changed."""
    generation = look.generation(session)
    kept: dict[str, int] = {}
    going: dict[str, list[Element]] = {}
    names = look.set_names(session, family)
    for set_name in (name for name in names if not name.startswith(OF_NETWORKS)):
        elements = look.elements(session, family, set_name)
        going[set_name] = [element for element in elements if doomed(element)]
        kept[set_name] = len(elements) - len(going[set_name])
    count = sum(map(len, going.values()))
    if not count:
        return True
    messages = [
        item
        for name, elements in going.items()
        for item in in_parts(
            wire.DELSETELEM, family, 0, name, [element.key for element in elements[:_AT_ONCE]]
        )
    ]
    empty = {name for name, number in kept.items() if number == 0}
    whole = all(len(elements) <= _AT_ONCE for elements in going.values())
    guarded = tidy and bool(empty) and whole
    if guarded:
        messages = _tidied(session, family, messages, empty, everything=len(empty) == len(names))
    try:
        session.nft().transact(wire.batch(messages, generation if guarded else None))
    except Refused as err:
        if err.errno == errno.ENOENT or has_changed(err):
            return False
        raise
    return whole and (guarded or not empty or not tidy)


def _tidied(
    session: Session, family: int, messages: list[bytearray], empty: set[str], *, everything: bool
) -> list[bytearray]:
    if everything:
        return [in_table(wire.DELTABLE, family)]
    rules = [item for item in look.all_rules(session, family) if not item.chain.startswith(OF_NETWORKS)]
    going = [item for item in rules if empty.intersection(_set_names(item.mark))]
    idle = {item.chain for item in going} - {item.chain for item in rules if item not in going}
    return [
        *messages,
        *(del_rule(family, item) for item in going),
        *(in_table(wire.DELSET, family, 0, attr(2, name)) for name in sorted(empty)),
        *(in_table(wire.DELCHAIN, family, 0, attr(3, name)) for name in sorted(idle)),
    ]


def del_rule(family: int, rule: FoundRule) -> bytearray:
    return in_table(wire.DELRULE, family, 0, attr(2, rule.chain), attr(3, rule.handle))


def _set_names(mark: str) -> list[str]:
    """Return the names in a rule's comment; of a rule that is not ours there are none."""
    return mark.removeprefix(RULE_MARK).split() if mark.startswith(RULE_MARK) else []


def has_changed(err: Refused) -> bool:
    """Say whether a batch was refused because the generation moved on."""
    return err.errno in (errno.ERESTART, errno.EINTR)


# ------------------------------------------------------------------------------------- the rules of an owner


def _delete_owned(session: Session, step: DelOwnedRules) -> None:
    """Remove the owner's elements, and those of its network and plugin whose link is gone without a DEL."""
    owner = step.owner
    network = owner.attachment.network
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asking:

        def look() -> Callable[[Element], bool]:
            is_gone = cache(partial(_is_gone, asking))  # a link has an element for each of its addresses
            return lambda item: (
                owner.owns(item.comment)
                or (
                    is_stale(item.comment, network, owner.plugin, frozenset())
                    and is_gone(link_of(item.comment))
                )
            )

        remove(session, look)


def _is_gone(asking: socket.socket, link: str) -> bool:
    """Ask as socket.if_nametoindex() does, but without a new socket for each of many links."""
    if link == NO_LINK:
        return False
    try:
        fcntl.ioctl(asking, _SIOCGIFINDEX, _IFREQ.pack(link.encode()))
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
