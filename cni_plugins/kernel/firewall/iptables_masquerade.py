"""Masquerades through the iptables executables, for hosts configured to use them.

Chain names and POSTROUTING rules are those of the reference, so either implementation removes the other's.
The reference has one chain for all interfaces of a container on a network; here the rules inside the chain
name their interface, so those of one interface can be removed without the others.
"""

import shlex
from collections.abc import Iterator, Sequence
from functools import partial
from ipaddress import ip_interface

from cni_plugins.kernel.deed import REMOVES, deed
from cni_plugins.kernel.firewall import iptables, read
from cni_plugins.kernel.firewall.iptables import Listing, Rule
from cni_plugins.kernel.firewall.masquerade import exclusions
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import Attachment, digest, quoted_ifname, unquoted_ifname
from cni_plugins.protocol.fields import IPInterface, IPNetwork
from cni_plugins.steps.firewall import DelIptablesMasquerade, DelStaleIptables, EnsureIptablesMasquerade

_MULTICAST = {4: "224.0.0.0/4", 6: "ff00::/8"}
_TABLE, _POSTROUTING, _CHAIN_PREFIX = "nat", "POSTROUTING", "CNI-"


def chain_of(attachment: Attachment) -> str:
    """Return the reference's chain name, which does not depend on the interface."""
    return f"{_CHAIN_PREFIX}{digest(attachment.network + attachment.container_id, 24)}"


def _ensure(_session: Session, step: EnsureIptablesMasquerade) -> None:
    for family in _families(step):
        listing = iptables.listing_of(_rules(family, chain_of(step.attachment)))
        iptables.restore(family, _TABLE, list(_missing_lines(step, family, listing)))


def _ensure_all(_session: Session, steps: Sequence[EnsureIptablesMasquerade]) -> None:
    """Add what is missing for all steps, with one restore for each family."""
    for family in sorted({family for step in steps for family in _families(step)}):
        listing = iptables.listing(family, _TABLE)
        lines = [line for step in steps for line in _missing_lines(step, family, listing)]
        iptables.restore(family, _TABLE, list(dict.fromkeys(lines)))


def _families(step: EnsureIptablesMasquerade) -> list[int]:
    return sorted({address.version for address in step.addresses})


def _rules(family: int, chain: str) -> list[Rule]:
    """Return a chain and its rules, and those beside the jumps to it: others may be thousands."""
    inside = iptables.rules(family, _TABLE, chain)
    return [*inside, *iptables.rules(family, _TABLE, _POSTROUTING)] if inside else []


def _missing_lines(step: EnsureIptablesMasquerade, family: int, listing: Listing) -> Iterator[str]:
    wanted = _wanted(step, family)
    chain = chain_of(step.attachment)
    if any(address.version == family for address in step.addresses) and ("-N", chain) not in listing.lines:
        yield f"-N {chain}"
    is_early = _comes_too_early(step, family, listing)
    for words in wanted:
        is_there = iptables.listed(words) in listing.lines
        if is_there and is_early and words[-1:] == ("ACCEPT",):
            yield iptables.quoted(("-D", *words[1:]))  # and again at the top
        elif is_there:
            continue
        yield iptables.quoted(words)


def _comes_too_early(step: EnsureIptablesMasquerade, family: int, listing: Listing) -> bool:
    """Say whether the chain masquerades before it has come to what is exempt."""
    accepting = {iptables.listed(words) for words in _wanted(step, family) if words[-1:] == ("ACCEPT",)}
    in_chain = listing.chains.get(chain_of(step.attachment), [])
    first = next((at for at, rule in enumerate(in_chain) if rule.target == "MASQUERADE"), len(in_chain))
    return any(rule.words in accepting for rule in in_chain[first:])


def _differs(session: Session, step: EnsureIptablesMasquerade) -> str:
    for family in _families(step):
        listing = _listing(session, family, chain_of(step.attachment))
        lacks = (words for words in _wanted(step, family) if iptables.listed(words) not in listing.lines)
        missing = next(lacks, None)
        if missing is not None:
            return f"masquerade: {iptables.COMMANDS[family]} has no rule {shlex.join(missing)}"
        if _comes_too_early(step, family, listing):
            return f"masquerade: {iptables.COMMANDS[family]} masquerades before it exempts"
    return ""


def _listing(session: Session, family: int, chain: str) -> Listing:
    """Return what a chain is compared with; in a repair the whole table, which is listed once."""
    if session.is_repair:
        return session.remembered(("iptables", family), partial(iptables.listing, family, _TABLE))
    return iptables.listing_of(_rules(family, chain))


def _delete(session: Session, step: DelIptablesMasquerade) -> None:
    """Remove this interface's rules, and the chain if no other interface has rules in it.

    Runs on every DEL, as the config may have named another backend at the time of ADD.
    """
    chain, mine = chain_of(step.attachment), _inner_comment(step.attachment)
    for family in iptables.families_with(session, _TABLE, chain):
        rules = _rules(family, chain)
        sources = {rule.source for rule in rules if rule.chain == chain and rule.comment == mine}
        others = any(rule.target == chain and rule.source not in sources for rule in rules)
        iptables.restore(family, _TABLE, _removal(rules, chain, sources, mine, keep=others))


def delete_reference(session: Session, attachment: Attachment, addresses: tuple[IPInterface, ...]) -> None:
    """Remove the reference's rules for these addresses, and its chain if no other rule jumps to it."""
    sources = {str(ip_interface(address.ip)) for address in addresses}
    chain = chain_of(attachment)
    for family in iptables.families_with(session, _TABLE, chain):
        rules = _rules(family, chain)
        jumps = [rule for rule in rules if rule.target == chain]
        others = any(rule.source not in sources for rule in jumps) and bool(sources)
        going = {rule.source for rule in jumps if not sources or rule.source in sources}
        iptables.restore(family, _TABLE, _removal(rules, chain, going, "", keep=others))


def _delete_stale(session: Session, step: DelStaleIptables) -> None:
    """GC: remove chains whose rules name the network and no valid container and interface."""
    for family in iptables.families_with_any(session, _TABLE, _CHAIN_PREFIX):
        rules = iptables.rules(family, _TABLE)
        for rule in rules:
            owner = _owner(rule.comment)
            if owner and owner[0] == step.network and (owner[1], owner[2]) not in step.valid:
                _delete(session, DelIptablesMasquerade(Attachment(*owner)))


def _owner(comment: str) -> tuple[str, str, str] | None:
    """Parse network, container id and interface from one of our comments."""
    try:
        words = shlex.split(comment)
    except ValueError:
        return None
    if words[0::2] != ["name:", "id:", "if:"] or len(words) != 6:  # noqa: PLR2004 (three pairs)
        return None
    return words[1], words[3], unquoted_ifname(words[5])


def _removal(rules: list[Rule], chain: str, sources: set[str], mine: str, *, keep: bool) -> list[str]:
    exists = any(rule.words[:2] == ("-N", chain) for rule in rules)
    lines = [iptables.deletion(rule) for rule in rules if rule.target == chain and rule.source in sources]
    if keep:
        return lines + [
            iptables.deletion(rule) for rule in rules if rule.chain == chain and mine and rule.comment == mine
        ]
    return [*lines, f"-F {chain}", f"-X {chain}"] if exists else []


def _wanted(step: EnsureIptablesMasquerade, family: int) -> list[tuple[str, ...]]:
    """Return the rules in the form of `iptables -S`, so that existing ones are recognised."""
    chain = chain_of(step.attachment)
    outer, inner = _outer_comment(step.attachment), _inner_comment(step.attachment)
    addresses = [address for address in step.addresses if address.version == family]
    random = ("--random-fully",) if step.random_fully else ()
    rules: list[tuple[str, ...]] = []
    for address in addresses:
        source = str(ip_interface(address.ip))
        # Inserted at the top: appended rules of a second interface would come after the MASQUERADE rule.
        rules += [
            ("-I", chain, "-s", source, *_towards(net), "-m", "comment", "--comment", inner, "-j", "ACCEPT")
            for net in exclusions(step, address)
            if str(net) != _MULTICAST[family]
        ]
    last = ("!", "-d", _MULTICAST[family], "-m", "comment", "--comment", outer, "-j", "MASQUERADE", *random)
    rules.append(("-A", chain, *last))
    for address in addresses:
        source = str(ip_interface(address.ip))
        rules.append(("-A", _POSTROUTING, "-s", source, "-m", "comment", "--comment", outer, "-j", chain))
    return rules


def _towards(network: IPNetwork) -> tuple[str, ...]:
    """Return the match on the destination; `iptables -S` omits a prefix that matches everything."""
    return ("-d", str(network)) if network.prefixlen else ()


def _outer_comment(attachment: Attachment) -> str:
    return f'name: "{attachment.network}" id: "{attachment.container_id}"'


def _inner_comment(attachment: Attachment) -> str:
    return f'{_outer_comment(attachment)} if: "{quoted_ifname(attachment.ifname)}"'


DEEDS = (
    deed(EnsureIptablesMasquerade, _ensure, _differs, restore=_ensure_all)
    | deed(DelIptablesMasquerade, read.where_there_are_rules(_delete), REMOVES)
    | deed(DelStaleIptables, read.where_there_are_rules(_delete_stale), REMOVES)
)
