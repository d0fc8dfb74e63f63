"""Compares one chain of our nf_tables table, and its rules, with what they should be, and mends both.

Another program may have flushed or deleted them, put a chain of our name elsewhere, or rules into our chain.
So ADD and repair look at the chain before they rely on it: a set without its rule does nothing.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from cni_plugins.kernel.firewall import nft_table
from cni_plugins.kernel.firewall import read as look
from cni_plugins.kernel.firewall.nft_table import Chain, Set
from cni_plugins.kernel.firewall.read import FoundRule, Hook
from cni_plugins.kernel.netlink import nf_tables as wire
from cni_plugins.kernel.netlink.nf_tables import attr
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import NFT_TABLE, RULE_MARK


class Rule(NamedTuple):
    """A rule over sets in a chain; its expressions are only built if it has to be created.

    :param words: the rule as nft(8) is told it, if that has to translate it; see port_rules.
    :param purpose: distinguishes rules of one chain over the same sets; not the name of a set.
    """

    chain: Chain
    sets: tuple[Set, ...]
    expressions: Callable[[], bytes]
    words: str = ""
    purpose: str = ""

    @property
    def mark(self) -> str:
        """The rule's comment: names its sets, so that it is found again, and deleted with any of them."""
        return RULE_MARK + " ".join(filter(None, (*(item.name for item in self.sets), self.purpose)))

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

    :param ordered: whether the rules of a chain must be in this order, as the first that matches decides.
    :param reached: chains that the rules jump to, and in which there are none of ours.
    """

    family: int
    rules: tuple[Rule, ...]
    elements: tuple[Item, ...]
    ordered: bool = False
    reached: tuple[Chain, ...] = ()

    @property
    def chains(self) -> tuple[Chain, ...]:
        return tuple(dict.fromkeys(rule.chain for rule in self.rules))


class ChainState(NamedTuple):
    """A chain as it is in the kernel; `hook` is None if it does not exist."""

    hook: Hook | None
    rules: list[FoundRule]


States = Mapping[Chain, ChainState]


def states_of(session: Session, family: int, chains: Sequence[Chain]) -> States:
    hooks = look.hooks(session, family, [chain.name for chain in chains])
    return {
        chain: ChainState(hook, look.chain_rules(session, family, chain.name) if hook else [])
        for chain, hook in zip(chains, hooks, strict=True)
    }


def is_misplaced(chain: Chain, hook: Hook | None) -> bool:
    """Say whether a chain has another type, hook or priority, or is a base chain and should be none."""
    return hook is not None and hook[:3] != (chain.kind, chain.hook, chain.priority)


def fault(objects: Objects, states: States) -> str:
    """Say what is missing of the chains and their rules; empty if nothing is."""
    found = (_fault(objects, chain, states[chain]) for chain in objects.chains)
    return next(filter(None, found), "")


def _fault(objects: Objects, chain: Chain, state: ChainState) -> str:
    of_table = f"{chain.name} of table {NFT_TABLE}"
    if is_misplaced(chain, state.hook):
        return f"chain {of_table} with the right type, hook and priority"
    if state.hook and chain.kind and state.hook.policy != nft_table.ACCEPT:
        return f"the policy accept of chain {of_table}"
    kept = _kept(objects, chain, state.rules)
    wanted = {rule.mark for rule in objects.rules if rule.chain == chain}
    is_there = wanted.issubset(rule.mark for rule in state.rules)
    if wanted.issubset(rule.mark for rule in kept) and len(kept) == len(state.rules):
        return "" if state.hook else f"chain {of_table}"
    what = "order of the rules" if is_there and not wanted.issubset(rule.mark for rule in kept) else "rule"
    return f"the {what} in chain {of_table}, without foreign rules,"


def mending(objects: Objects, states: States) -> list[bytearray]:
    """Return the messages that create chains and rules that are missing, and remove what is wrong.

    A misplaced chain is deleted with its rules, of which those of other attachments move to the new one.

    :raises Exception: what the expressions of a rule raise.
    """
    return [item for chain in objects.chains for item in _mending(objects, chain, states[chain])]


def _mending(objects: Objects, chain: Chain, state: ChainState) -> list[bytearray]:
    family = objects.family
    kept = _kept(objects, chain, state.rules)
    moves = is_misplaced(chain, state.hook)
    # What nft(8) has translated can only be copied.
    rebuilt = {rule.mark for rule in objects.rules if rule.chain == chain and not (moves and rule.words)}
    moved = [rule for rule in kept if rule.mark not in rebuilt] if moves else []
    present = {rule.mark for rule in (moved if moves else kept)}
    going = [] if moves else [rule for rule in state.rules if rule not in kept]
    return [
        *([nft_table.in_table(wire.DELCHAIN, family, 0, attr(3, chain.name))] if moves else []),
        nft_table.new_chain(family, chain),
        *(nft_table.del_rule(family, rule) for rule in going),
        *(nft_table.new_rule(family, chain, rule.mark, rule.expressions) for rule in moved),
        *(
            nft_table.new_rule(family, chain, rule.mark, rule.expressions())
            for rule in objects.rules
            if rule.chain == chain and rule.mark not in present
        ),
    ]


def _kept(objects: Objects, chain: Chain, rules: Iterable[FoundRule]) -> list[FoundRule]:
    """Return the rules of the suite, each once; without those of the objects if their order is wrong."""
    ours = [rule for rule in rules if rule.mark.startswith(RULE_MARK)]
    first = list({rule.mark: rule for rule in reversed(ours)}.values())
    kept = first[::-1]
    wanted = [rule.mark for rule in objects.rules if rule.chain == chain]
    present = [rule.mark for rule in kept if rule.mark in wanted]
    if objects.ordered and present != wanted[: len(present)]:  # new ones are appended
        return [rule for rule in kept if rule.mark not in wanted]
    return kept
