"""All that one network has in our nf_tables table: compared as a whole, brought in line in one transaction.

It has rules, sets of its own, and elements in sets that it shares with other networks. Each difference is a
sentence for people, and the messages that mend it. Rules and elements that no network owns go as well; what
is of attachments (see nft) is not looked at. The generation number guards a transaction, as there.
"""

from collections.abc import Callable, Iterable
from ipaddress import ip_address
from typing import NamedTuple

from cni_plugins.errors import TryAgainLater
from cni_plugins.kernel.firewall import attachment_rules
from cni_plugins.kernel.firewall import read as look
from cni_plugins.kernel.firewall.attachment_rules import Chain, Set
from cni_plugins.kernel.firewall.read import Element, FoundRule, Hook
from cni_plugins.kernel.netlink import nf_tables as wire
from cni_plugins.kernel.netlink.nf_tables import attr
from cni_plugins.kernel.netlink.socket import NLM_F_CREATE, Refused
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import NETWORK_OWNER, NFT_TABLE, OF_NETWORKS, RULE_MARK, digest

_NAMED = 4  # elements that one sentence names


class PlacedRule(NamedTuple):
    """A rule in its chain, and in words what it is for."""

    chain: Chain
    what: str
    expressions: bytes


class Holding(NamedTuple):
    """A set and the network's elements in it, which are all there are unless the set is shared.

    Elements of shared sets bear their owner's comment; others bear none, as the set's own says it, and
    thousands of them have to fit into one datagram.
    """

    item: Set
    keys: frozenset[bytes]
    word: str
    shared: bool = False


class Whole(NamedTuple):
    """What a network has in the table; nothing but shared sets without elements of its: it has none.

    :param chains: every chain that networks have rules in.
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
        """The rule's comment as it can be read back; it tells the content: a changed rule is another one."""
        content = digest(rule.expressions.hex(), 8)
        return wire.comment_text(wire.comment(f"{RULE_MARK}{self.owner}{content} net: {self.network}"))


class Drift(NamedTuple):
    """One difference in words, none if another tells it already, and the messages that mend it."""

    text: str
    messages: list[bytearray]


class _Found(NamedTuple):
    """What is in the table; rules are sorted by whose they are.

    :param kept: rules in chains of networks that are as they should be, or another network's.
    :param stale: rules there that are to go.
    :param others: rules in any other chain.
    """

    hooks: dict[str, Hook]
    sets: frozenset[str]
    kept: list[FoundRule]
    stale: list[FoundRule]
    others: list[FoundRule]


def bring_in_line(session: Session, whole: Whole) -> None:
    """Make the table hold exactly this of the network's; nothing is sent when it does."""
    for _ in range(attachment_rules.TRIES):
        generation = look.generation(session)
        messages = [item for drift in drifts(session, whole) for item in drift.messages]
        if not messages:
            return
        table = attachment_rules.in_table(wire.NEWTABLE, wire.INET, NLM_F_CREATE)
        try:
            session.nft().transact(wire.batch([table, *messages], generation))
        except Refused as err:
            if not attachment_rules.has_changed(err):
                raise
        else:
            return
    raise TryAgainLater(
        "the nf_tables ruleset keeps changing", f"table {NFT_TABLE}, {attachment_rules.TRIES} tries"
    )


def drifts(session: Session, whole: Whole) -> list[Drift]:
    """Return all that differs, in the order in which the kernel can take the messages."""
    found = _look(session, whole)
    changes: list[Drift] = []
    idle: list[Drift] = []
    left = bool(found.kept or whole.rules)
    for holding in whole.holdings:
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
        *(Drift(_of(rule), [attachment_rules.del_rule(wire.INET, rule)]) for rule in found.stale),
        *changes,
        *_of_rules(whole, found),
        *idle,
        *_of_idle_chains(whole, found),
    ]
    is_last = not left and not found.others and len(idle) == len(found.sets)
    return [Drift("", [attachment_rules.in_table(wire.DELTABLE, wire.INET)])] if every and is_last else every


# ---------------------------------------------------------------------------------------------- looking


def _look(session: Session, whole: Whole) -> _Found:
    asked = ((chain.name, look.hook(session, wire.INET, chain.name)) for chain in whole.chains)
    hooks = {name: hook for name, hook in asked if hook}
    names = {chain.name for chain in whole.chains}
    rules = look.all_rules(session, wire.INET)
    misplaced = {chain.name for chain in whole.chains if _is_misplaced(chain, hooks.get(chain.name))}
    wanted = {(rule.chain.name, whole.mark(rule)) for rule in whole.rules}
    kept: list[FoundRule] = []
    stale: list[FoundRule] = []
    for rule in rules:
        if rule.chain not in names or rule.chain in misplaced:
            continue  # a chain that is misplaced goes with its rules
        is_ours = rule.mark.startswith(RULE_MARK + whole.owner)
        is_due = rule.key in wanted if is_ours else rule.mark.startswith(RULE_MARK + NETWORK_OWNER)
        wanted.discard(rule.key)  # a second one like it is one too many
        (kept if is_due else stale).append(rule)
    others = [rule for rule in rules if rule.chain not in names]
    return _Found(hooks, frozenset(look.set_names(session, wire.INET)), kept, stale, others)


def _is_misplaced(chain: Chain, hook: Hook | None) -> bool:
    return hook is not None and hook[:3] != (chain.kind, chain.hook, chain.priority)


def _is_there(holding: Holding, found: _Found) -> bool:
    return holding.item.name in found.sets


def _of(rule: FoundRule) -> str:
    whose = "an outdated rule" if rule.mark.startswith(RULE_MARK + NETWORK_OWNER) else "a foreign rule"
    return f"{whose} is in chain {rule.chain}"


# ---------------------------------------------------------------------------------------------- mending


def _of_chains(whole: Whole, found: _Found) -> Iterable[Drift]:
    for chain in dict.fromkeys(rule.chain for rule in whole.rules):
        hook = found.hooks.get(chain.name)
        new = attachment_rules.new_chain(wire.INET, chain)
        if hook is None:
            yield Drift(f"chain {chain.name} is missing", [new])
        elif _is_misplaced(chain, hook):
            gone = attachment_rules.in_table(wire.DELCHAIN, wire.INET, 0, attr(3, chain.name))
            yield Drift(f"chain {chain.name} is in the wrong place", [gone, new])
        elif hook.policy != attachment_rules.ACCEPT:
            yield Drift(f"the policy of chain {chain.name} is not to accept", [new])


def _of_idle_chains(whole: Whole, found: _Found) -> Iterable[Drift]:
    used = {rule.chain.name for rule in whole.rules} | {rule.chain for rule in found.kept}
    for name in found.hooks:
        if name not in used:
            gone = attachment_rules.in_table(wire.DELCHAIN, wire.INET, 0, attr(3, name))
            yield Drift(f"chain {name} has no use", [gone])


def _of_sets(whole: Whole, found: _Found) -> Iterable[Drift]:
    for number, holding in enumerate(whole.holdings, 1):
        if not _is_there(holding, found) and (holding.keys or not holding.shared):
            new = attachment_rules.new_set(wire.INET, holding.item, number)
            yield Drift(f"set {holding.item.name} is missing", [new])


def _del_set(name: str) -> Drift:
    return Drift(
        f"set {name} has no use", [attachment_rules.in_table(wire.DELSET, wire.INET, 0, attr(2, name))]
    )


def _of_rules(whole: Whole, found: _Found) -> Iterable[Drift]:
    present = {rule.key for rule in found.kept}
    for rule in whole.rules:
        mark = whole.mark(rule)
        if (rule.chain.name, mark) not in present:
            new = attachment_rules.new_rule(wire.INET, rule.chain, mark, rule.expressions)
            yield Drift(f"the rule in chain {rule.chain.name} ({rule.what}) is missing", [new])


def _of_elements(whole: Whole, holding: Holding, present: list[Element], *, is_new: bool) -> Iterable[Drift]:
    """What is in place of an element of ours goes before it."""
    placed = {element.key for element in present if _is_placed(whole, holding, element)}
    going = sorted(
        element.key
        for element in present
        if element.key not in placed and not _is_anothers(whole, holding, element)
    )
    lacking = sorted(holding.keys - placed)
    name, shown = holding.item.name, _reader(holding)
    if going:
        yield Drift(
            f"{shown(going)} is stale", attachment_rules.in_parts(wire.DELSETELEM, wire.INET, 0, name, going)
        )
    if not lacking:
        return
    if holding.shared:
        new = [
            attachment_rules.elements_message(
                wire.NEWSETELEM, wire.INET, NLM_F_CREATE, name, lacking, whole.comment
            )
        ]
    else:
        new = attachment_rules.in_parts(wire.NEWSETELEM, wire.INET, NLM_F_CREATE, name, lacking)
    yield Drift("" if is_new else f"{shown(lacking)} is missing", new)


def _is_placed(whole: Whole, holding: Holding, element: Element) -> bool:
    is_owned = not holding.shared or element.comment.startswith(whole.owner)
    return is_owned and element.key in holding.keys


def _is_anothers(whole: Whole, holding: Holding, element: Element) -> bool:
    """Say whether another network has the element, and we have no claim to it."""
    named = element.comment.startswith(NETWORK_OWNER) and not element.comment.startswith(whole.owner)
    return holding.shared and named and element.key not in holding.keys


def _reader(holding: Holding) -> Callable[[list[bytes]], str]:
    """Return what names elements by their keys."""

    def shown(keys: list[bytes]) -> str:
        names = [
            key.rstrip(b"\0").decode(errors="replace") if holding.item.host_order else str(ip_address(key))
            for key in keys[:_NAMED]
        ]
        more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
        return f"{holding.word} {', '.join(names)}{more}"

    return shown
