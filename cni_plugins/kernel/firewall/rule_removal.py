"""Removes elements of attachments from our nf_tables tables, with the sets, rules and chains left unused.

The elements of one owner are found by the index (owner_index), those of a whole network by reading all. When
the last element of a set is deleted, its rule is deleted, and with the last set the table. That clean-up is
guarded by the generation number of the ruleset: if anything has changed since the ruleset was read, the
kernel refuses the transaction, and the ruleset is read again. Objects of a whole network are ignored here
(see network_ruleset), as are those that keep bridges apart (see bridges_apart): their sets and chains have
names that begin with OF_NETWORKS and OF_BRIDGES.
"""

import errno
import fcntl
import socket
import struct
from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

from cni_plugins.kernel.deed import REMOVES, deed
from cni_plugins.kernel.firewall import nft_table, owner_index
from cni_plugins.kernel.firewall import read as look
from cni_plugins.kernel.firewall.read import Element, where_there_are_rules
from cni_plugins.kernel.netlink import nf_tables as wire
from cni_plugins.kernel.netlink.nf_tables import attr
from cni_plugins.kernel.netlink.socket import Refused
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import (
    ADMIN_CHAIN,
    FORWARD_CHAIN,
    NFT_TABLE,
    NO_LINK,
    OF_BRIDGES,
    OF_NETWORKS,
    RULE_MARK,
    Holder,
    Owner,
    holder_of,
    is_stale,
    link_of,
)
from cni_plugins.steps.firewall import DelOwnedRules, DelStaleRules

_FAMILIES = (wire.INET, wire.BRIDGE)
_UNOWNED = (OF_NETWORKS, OF_BRIDGES)
_FEW = 32  # elements of a set, which are read on DEL
_AT_ONCE = 2000  # elements removed in one transaction
_SIOCGIFINDEX = 0x8933  # linux/sockios.h
_IFREQ = struct.Struct("16s24x")  # linux/if.h: the name, and room for the answer


def remove(session: Session, look_anew: Callable[[], Callable[[Element], bool]]) -> None:
    """Remove the elements that a predicate selects, and the sets, rules and chains that become unused.

    Reads every element.

    :param look_anew: returns the predicate for one reading of the ruleset, for which it may cache results.
    """
    for family in _FAMILIES:
        for attempt in range(nft_table.TRIES):
            if _remove_once(session, family, look_anew(), clean_up=attempt < nft_table.TRIES - 1):
                break


# ---------------------------------------------------------------------------------------------- removing


def _remove_once(
    session: Session, family: int, is_going: Callable[[Element], bool], *, clean_up: bool
) -> bool:
    """Read the ruleset and remove; return False if more is left, or the ruleset has changed meanwhile."""
    generation = look.generation(session)
    kept: dict[str, int] = {}
    going: dict[str, list[Element]] = {}
    names = look.set_names(session, family)
    for set_name in (name for name in names if not name.startswith(_UNOWNED)):
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
    empty = {name for name, number in kept.items() if number == 0 and name != owner_index.INDEX.name}
    whole = all(len(elements) <= _AT_ONCE for elements in going.values())
    guarded = clean_up and bool(empty) and whole
    if guarded:
        messages = _with_clean_up(session, family, messages, empty)
    try:
        session.nft().transact(wire.batch(messages, generation if guarded else None))
    except Refused as err:
        if err.errno == errno.EBUSY and guarded:  # a rule of the administrator's refers to what is unused
            return _remove_once(session, family, is_going, clean_up=False)
        if err.errno == errno.ENOENT or nft_table.has_changed(err):
            return False
        raise
    return whole and (guarded or not empty or not clean_up)


def _with_clean_up(
    session: Session, family: int, messages: list[bytearray], empty: set[str]
) -> list[bytearray]:
    """Return the messages with those that remove unused sets, and what goes with them."""
    index = owner_index.INDEX.name
    others = [name for name in look.set_names(session, family) if name not in empty and name != index]
    idle_sets = [name for name in others if owner_index.count(session, family, name) == 0]
    empty = empty.union(idle_sets)  # their elements were replaced
    others = [name for name in others if name not in empty]
    rules = [item for item in look.all_rules(session, family) if not item.chain.startswith(_UNOWNED)]
    going = [item for item in rules if empty.intersection(_set_names(item.mark))]
    staying = {item.chain for item in rules if item not in going}
    if not others and ADMIN_CHAIN not in staying:
        return [nft_table.in_table(wire.DELTABLE, family)]
    if all(name.startswith(_UNOWNED) for name in others):
        empty = empty | {index}
    idle = {item.chain for item in going} - staying
    if FORWARD_CHAIN in idle and ADMIN_CHAIN not in staying:
        idle.add(ADMIN_CHAIN)
    stands_for = (owner_index.chain_of(name).name for name in empty)
    idle |= {name for name in stands_for if look.has_chain(session, family, NFT_TABLE, name)}
    return [
        *messages,
        *(nft_table.del_rule(family, item) for item in going),
        *(nft_table.in_table(wire.DELSET, family, 0, attr(2, name)) for name in sorted(empty)),
        *(nft_table.in_table(wire.DELCHAIN, family, 0, attr(3, name)) for name in sorted(idle)),
    ]


def sweep(session: Session, family: int, chains: list[str]) -> None:
    """Remove sets that no element is in, their rules, and those of the chains that are empty.

    For what was prepared for elements that were not added then.
    """
    generation = look.generation(session)
    names = look.set_names(session, family)
    empty = {name for name in names if owner_index.count(session, family, name) == 0}
    idle = [name for name in dict.fromkeys(chains) if look.uses_of_chain(session, family, name) == 0]
    messages = _with_clean_up(session, family, [], empty) if empty else []
    if not any(is_about_table(message) for message in messages):
        messages += [nft_table.in_table(wire.DELCHAIN, family, 0, attr(3, name)) for name in idle]
    if not messages:
        return
    try:
        session.nft().transact(wire.batch(messages, generation))
    except Refused as err:
        if err.errno not in (errno.ENOENT, errno.EBUSY) and not nft_table.has_changed(err):
            raise


def is_about_table(message: bytearray) -> bool:
    return (message[4], message[5]) == (wire.DELTABLE, 10)  # NFNL_SUBSYS_NFTABLES


def _set_names(mark: str) -> list[str]:
    """Return the set names in a rule's comment, an empty list for a rule that is not ours."""
    return mark.removeprefix(RULE_MARK).split() if mark.startswith(RULE_MARK) else []


# ------------------------------------------------------------------------------------- the rules of an owner


def remove_owned(session: Session, owner: Owner, families: tuple[int, ...] = _FAMILIES) -> list[Element]:
    """Remove the owner's elements, without reading those of others.

    Where its sets are small, also the elements of the same network and plugin whose link vanished without a
    DEL.

    :param families: where it may have elements.
    :returns: the owner's elements.
    """
    removed: list[Element] = []
    for family in families:
        for attempt in range(nft_table.TRIES):
            found = _remove_owned_once(session, family, owner, clean_up=attempt < nft_table.TRIES - 1)
            if found is not None:
                removed += found
                break
    return removed


def _remove_owned_once(
    session: Session, family: int, owner: Owner, *, clean_up: bool
) -> list[Element] | None:
    """Return the owner's elements, which are removed; None if the ruleset has changed meanwhile."""
    generation = look.generation(session)
    entries = owner_index.entries(session, family, owner.holder)
    if not entries and owner_index.exists(session, family):
        return []
    if not entries or not all(entry.key for entry in entries):
        return _remove_by_reading(session, family, owner, clean_up=clean_up)
    elements = owner_index.present(session, family, entries, owner.holder)
    going = Going({}, {})
    going.take(entries, elements)
    counts = {name: owner_index.count(session, family, name) for name in going.entered}
    abandoned = _abandoned(session, family, owner, [name for name, n in counts.items() if n and n <= _FEW])
    for holder in abandoned:
        take_owner(session, family, going, holder)
    empty = {name for name, number in counts.items() if clean_up and number == going.entered[name]}
    try:
        guard = generation if empty or abandoned else None
        messages = going.messages(family)
        if empty:
            messages = _with_clean_up(session, family, messages, empty)
        session.nft().transact(wire.batch(messages, guard))
    except Refused as err:
        if err.errno == errno.EBUSY and clean_up:
            return _remove_owned_once(session, family, owner, clean_up=False)
        if err.errno == errno.ENOENT or nft_table.has_changed(err):
            return None
        raise
    return elements


class Going(NamedTuple):
    """The keys of the elements that are removed, by set, and how many of the index's entries lead to each."""

    keys: dict[str, set[bytes]]
    entered: dict[str, int]

    def take(self, entries: list[owner_index.Entry], elements: list[Element]) -> None:
        for entry in entries:
            self.keys.setdefault(owner_index.INDEX.name, set()).add(entry.own_key)
            self.entered[entry.set_name] = self.entered.get(entry.set_name, 0) + 1
        for element in elements:
            self.keys.setdefault(element.set_name, set()).add(element.key)

    def messages(self, family: int) -> list[bytearray]:
        return [
            item
            for name, keys in self.keys.items()
            for item in nft_table.in_parts(wire.DELSETELEM, family, 0, name, sorted(keys))
        ]


def take_owner(session: Session, family: int, going: Going, holder: Holder) -> None:
    """Add all elements of an owner to those that are removed."""
    entries = owner_index.entries(session, family, holder)
    going.take(entries, owner_index.present(session, family, entries, holder))


def _abandoned(session: Session, family: int, owner: Owner, set_names: list[str]) -> set[Holder]:
    """Return the owners, of the same network and plugin, whose link vanished without a DEL."""
    network = owner.attachment.network
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as any_socket:
        link_is_gone = cache(partial(is_gone, any_socket))  # a link has an element for each of its addresses
        return {
            holder_of(item.comment)
            for name in set_names
            for item in look.elements(session, family, name)
            if not owner.owns(item.comment)
            and is_stale(item.comment, network, owner.plugin, frozenset())
            and link_is_gone(link_of(item.comment))
        }


def _remove_by_reading(
    session: Session, family: int, owner: Owner, *, clean_up: bool
) -> list[Element] | None:
    """Remove the owner's elements by reading all of them, where there is no index, or it is of no use."""
    removed: list[Element] = []

    def is_going(item: Element) -> bool:
        if not owner.owns(item.comment):
            return False
        removed.append(item)
        return True

    done = _remove_once(session, family, is_going, clean_up=clean_up)
    return [item for item in removed if item.set_name != owner_index.INDEX.name] if done else None


def _delete_owned(session: Session, step: DelOwnedRules) -> None:
    remove_owned(session, step.owner)


def is_gone(any_socket: socket.socket, link: str) -> bool:
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
