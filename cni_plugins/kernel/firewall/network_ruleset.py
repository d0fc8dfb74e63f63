"""Compares all objects of one network in our nf_tables table, and corrects them in one transaction.

A network has rules, sets of its own, and elements in sets that it shares with other networks. Each difference
consists of a phrase for people and the messages that correct it. Rules and elements that no network owns are
removed as well; objects of attachments (see attachment_rules) are ignored. The generation number guards the
transaction, as there.
"""

from collections.abc import Callable, Iterable
from ipaddress import ip_address
from typing import NamedTuple

from cni_plugins.errors import TryAgainLater
from cni_plugins.kernel.firewall import nft_table
from cni_plugins.kernel.firewall import read as look
from cni_plugins.kernel.firewall.chain_rules import is_misplaced
from cni_plugins.kernel.firewall.nft_table import Chain, Set
from cni_plugins.kernel.firewall.read import Element, FoundRule, Hook
from cni_plugins.kernel.netlink import nf_tables as wire
from cni_plugins.kernel.netlink.nf_tables import attr
from cni_plugins.kernel.netlink.socket import NLM_F_CREATE, Refused
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import NETWORK_OWNER, NFT_TABLE, OF_NETWORKS, RULE_MARK, digest

_NAMED = 4  # elements named in one phrase


class PlacedRule(NamedTuple):
    """A rule, its chain, and a description of its purpose."""

    chain: Chain
    what: str
    expressions: bytes


class Holding(NamedTuple):
    """A set and the network's elements in it, which are all of its elements unless the set is shared.

    Elements of shared sets have their owner as comment; others have none, as the comment of the set names it
    and thousands of them must fit into one datagram.

    :param keys: None: the set is known to contain what it should; it is not read.
    """

    item: Set
    keys: frozenset[bytes] | None
    word: str
    shared: bool = False


class SetIsGone(Exception):
    """A set that was known to contain what it should is gone."""


class Whole(NamedTuple):
    """The objects of a network in the table; only shared sets without keys: all its objects are removed.

    :param chains: all chains that contain rules of networks.
    """

    tag: str
    network: str
    chains: tuple[Chain, ...]
    holdings: tuple[Holding, ...]
    rules: tuple[PlacedRule, ...] = ()

    @property
    def owner(self) -> str:
        return f"{NETWORK_OWNER}{self.tag} "

    @property
    def comment(self) -> str:
        return f"{self.owner}net: {self.network}"

    def mark(self, rule: PlacedRule) -> str:
        """The rule's comment as read back; it contains a digest, so a changed rule has another comment."""
        content = digest(rule.expressions.hex(), 8)
        return wire.comment_text(wire.comment(f"{RULE_MARK}{self.owner}{content} net: {self.network}"))


class Drift(NamedTuple):
    """One difference: its text, empty if another one reports it already, and the messages that correct it."""

    text: str
    messages: list[bytearray]


class _Found(NamedTuple):
    """The objects in the table, with rules grouped by owner.

    :param kept: rules in chains of networks that are correct, or belong to another network.
    :param stale: rules in these chains that must be removed.
    :param others: rules in all other chains.
    :param moving: rules of other networks in chains that are deleted, which the new chains get.
    """

    hooks: dict[str, Hook]
    sets: frozenset[str]
    kept: list[FoundRule]
    stale: list[FoundRule]
    others: list[FoundRule]
    moving: list[FoundRule]


def bring_in_line(session: Session, whole: Whole) -> None:
    """Make the network's part of the table match exactly; send nothing if it matches already."""
    for _ in range(nft_table.TRIES):
        generation = look.generation(session)
        messages = [item for drift in drifts(session, whole) for item in drift.messages]
        if not messages:
            return
        table = nft_table.in_table(wire.NEWTABLE, wire.INET, NLM_F_CREATE)
        try:
            session.nft().transact(wire.batch([table, *messages], generation))
        except Refused as err:
            if not nft_table.has_changed(err):
                raise
        else:
            return
    raise TryAgainLater("the nf_tables ruleset keeps changing", f"table {NFT_TABLE}, {nft_table.TRIES} tries")


def drifts(session: Session, whole: Whole) -> list[Drift]:
    """Return all differences, in an order in which the kernel accepts their messages."""
    found = _look(session, whole)
    changes: list[Drift] = []
    idle: list[Drift] = []
    left = bool(found.kept or found.moving or whole.rules)
    for holding in whole.holdings:
        if holding.keys is None:
            if not _is_there(holding, found):
                raise SetIsGone(holding.item.name)
            continue
        present = look.elements(session, wire.INET, holding.item.name) if _is_there(holding, found) else []
        changes += _of_elements(whole, holding, present, is_new=not _is_there(holding, found))
        if not left and not holding.keys and _is_there(holding, found):
            idle.append(_del_set(holding.item.name))
    wanted = {holding.item.name for holding in whole.holdings}
    own = (name for name in found.sets if name.startswith(OF_NETWORKS) and name.endswith(whole.tag))
    idle += [_del_set(name) for name in sorted(own) if name not in wanted]
    every = [
        *_of_chains(whole, found),
        *_of_sets(whole, found),
        *(Drift(_of(rule), [nft_table.del_rule(wire.INET, rule)]) for rule in found.stale),
        *changes,
        *_of_rules(whole, found),
        *idle,
        *_of_idle_chains(whole, found),
    ]
    is_last = not left and not found.others and len(idle) == len(found.sets)
    return [Drift("", [nft_table.in_table(wire.DELTABLE, wire.INET)])] if every and is_last else every


# ---------------------------------------------------------------------------------------------- looking


def _look(session: Session, whole: Whole) -> _Found:
    looked_up = ((chain.name, look.hook(session, wire.INET, chain.name)) for chain in whole.chains)
    hooks = {name: hook for name, hook in looked_up if hook}
    names = {chain.name for chain in whole.chains}
    rules = look.all_rules(session, wire.INET)
    misplaced = {chain.name for chain in whole.chains if is_misplaced(chain, hooks.get(chain.name))}
    wanted = {(rule.chain.name, whole.mark(rule)) for rule in whole.rules}
    kept: list[FoundRule] = []
    stale: list[FoundRule] = []
    moving: list[FoundRule] = []
    for rule in rules:
        is_ours = rule.mark.startswith(RULE_MARK + whole.owner)
        is_of_network = rule.mark.startswith(RULE_MARK + NETWORK_OWNER)
        if rule.chain not in names:
            continue
        if rule.chain in misplaced:  # a misplaced chain is removed with its rules
            moving += [rule] if is_of_network and not is_ours else []
            continue
        is_kept = rule.key in wanted if is_ours else is_of_network
        wanted.discard(rule.key)  # a second identical rule is stale
        (kept if is_kept else stale).append(rule)
    others = [rule for rule in rules if rule.chain not in names]
    return _Found(hooks, frozenset(look.set_names(session, wire.INET)), kept, stale, others, moving)


def _is_there(holding: Holding, found: _Found) -> bool:
    return holding.item.name in found.sets


def _of(rule: FoundRule) -> str:
    whose = "an outdated rule" if rule.mark.startswith(RULE_MARK + NETWORK_OWNER) else "a foreign rule"
    return f"{whose} is in chain {rule.chain}"


# ---------------------------------------------------------------------------------------------- mending


def _of_chains(whole: Whole, found: _Found) -> Iterable[Drift]:
    for chain in dict.fromkeys(rule.chain for rule in whole.rules):
        hook = found.hooks.get(chain.name)
        new = nft_table.new_chain(wire.INET, chain)
        if hook is None:
            yield Drift(f"chain {chain.name} is missing", [new])
        elif is_misplaced(chain, hook):
            gone = nft_table.in_table(wire.DELCHAIN, wire.INET, 0, attr(3, chain.name))
            moved = (
                nft_table.new_rule(wire.INET, chain, rule.mark, rule.expressions)
                for rule in found.moving
                if rule.chain == chain.name
            )
            yield Drift(f"chain {chain.name} has the wrong type, hook or priority", [gone, new, *moved])
        elif chain.kind and hook.policy != nft_table.ACCEPT:
            yield Drift(f"the policy of chain {chain.name} is not accept", [new])


def _of_idle_chains(whole: Whole, found: _Found) -> Iterable[Drift]:
    used = {rule.chain.name for rule in whole.rules} | {rule.chain for rule in (*found.kept, *found.moving)}
    for name in found.hooks:
        if name not in used:
            gone = nft_table.in_table(wire.DELCHAIN, wire.INET, 0, attr(3, name))
            yield Drift(f"chain {name} is unused", [gone])


def _of_sets(whole: Whole, found: _Found) -> Iterable[Drift]:
    for number, holding in enumerate(whole.holdings, 1):
        if not _is_there(holding, found) and (holding.keys or not holding.shared):
            new = nft_table.new_set(wire.INET, holding.item, number)
            yield Drift(f"set {holding.item.name} is missing", [new])


def _del_set(name: str) -> Drift:
    return Drift(f"set {name} is unused", [nft_table.in_table(wire.DELSET, wire.INET, 0, attr(2, name))])


def _of_rules(whole: Whole, found: _Found) -> Iterable[Drift]:
    present = {rule.key for rule in found.kept}
    for rule in whole.rules:
        mark = whole.mark(rule)
        if (rule.chain.name, mark) not in present:
            new = nft_table.new_rule(wire.INET, rule.chain, mark, rule.expressions)
            yield Drift(f"the rule in chain {rule.chain.name} ({rule.what}) is missing", [new])


def _of_elements(whole: Whole, holding: Holding, present: list[Element], *, is_new: bool) -> Iterable[Drift]:
    """Yield removals before additions, as a wrong element may have the key of a new one."""
    keys = holding.keys or frozenset()
    placed = {element.key for element in present if _is_placed(whole, holding, element)}
    going = sorted(
        element.key
        for element in present
        if element.key not in placed and not _belongs_to_other(whole, holding, element)
    )
    missing = sorted(keys - placed)
    name, shown = holding.item.name, _reader(holding)
    if going:
        yield Drift(
            f"{shown(going)} is stale", nft_table.in_parts(wire.DELSETELEM, wire.INET, 0, name, going)
        )
    if not missing:
        return
    if holding.shared:
        new = [
            nft_table.elements_message(wire.NEWSETELEM, wire.INET, NLM_F_CREATE, name, missing, whole.comment)
        ]
    else:
        new = nft_table.in_parts(wire.NEWSETELEM, wire.INET, NLM_F_CREATE, name, missing)
    yield Drift("" if is_new else f"{shown(missing)} is missing", new)


def _is_placed(whole: Whole, holding: Holding, element: Element) -> bool:
    is_owned = not holding.shared or element.comment.startswith(whole.owner)
    return is_owned and element.key in (holding.keys or ())


def _belongs_to_other(whole: Whole, holding: Holding, element: Element) -> bool:
    """Say whether another network owns the element, and its key is not one of ours."""
    named = element.comment.startswith(NETWORK_OWNER) and not element.comment.startswith(whole.owner)
    return holding.shared and named and element.key not in (holding.keys or ())


def _reader(holding: Holding) -> Callable[[list[bytes]], str]:
    """Return a function that describes elements by their keys."""

    def shown(keys: list[bytes]) -> str:
        names = [
            key.rstrip(b"\0").decode(errors="replace") if holding.item.host_order else str(ip_address(key))
            for key in keys[:_NAMED]
        ]
        more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
        return f"{holding.word} {', '.join(names)}{more}"

    return shown
