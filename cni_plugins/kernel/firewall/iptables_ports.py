"""Publishes ports through the iptables executables, for hosts configured to use them.

Chains and rules are those of the reference, so either implementation checks and removes the other's. It has
one chain for all interfaces of a container on a network; here another rule in it, which does nothing, names
the interface, its ports, and the host link whose absence shows that the container is gone.
"""

import re
import shlex
import socket
from collections.abc import Iterator
from ipaddress import ip_address
from itertools import pairwise
from typing import NamedTuple

from cni_plugins.errors import NameTaken
from cni_plugins.kernel.deed import REMOVES, deed
from cni_plugins.kernel.firewall import conntrack, iptables, read
from cni_plugins.kernel.firewall.conntrack import Flows
from cni_plugins.kernel.firewall.iptables import Rule
from cni_plugins.kernel.session import locks
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import NO_LINK, Attachment, digest, quoted_ifname, unquoted_ifname
from cni_plugins.steps.port_mappings import (
    DelIptablesPorts,
    DelStaleIptablesPorts,
    EnsureIptablesPorts,
    PortMapping,
    Publication,
)

_TABLE, _LOCK = "nat", "iptables nat"
_ENTRY, _SET_MARK, _MASQUERADE = "CNI-HOSTPORT-DNAT", "CNI-HOSTPORT-SETMARK", "CNI-HOSTPORT-MASQ"
_PREFIX = "CNI-DN-"
_MOST_PORTS = 15  # of one multiport match
_MARKED = 3  # ports in one comment, which has at most 255 characters
_ANY = {4: "0.0.0.0/0", 6: "::/0"}
Words = tuple[str, ...]


def _chain_of(network: str, container_id: str) -> str:
    return f"{_PREFIX}{digest(network + container_id, 21)}"


def publishes(session: Session, attachment: Attachment, publications: tuple[Publication, ...]) -> bool:
    """Say whether iptables rules of the reference publish all these ports."""
    chain = _chain_of(attachment.network, attachment.container_id)
    families = iptables.families_with(session, _TABLE, chain)
    for one in publications:
        inside = iptables.rules(one.target.version, _TABLE, chain) if one.target.version in families else []
        if not all(any(_sends(rule, one, mapping) for rule in inside) for mapping in one.mappings):
            return False
    return True


def is_foreign(session: Session, attachment: Attachment) -> bool:
    """Say whether the reference made the container's chain."""
    chain = _chain_of(attachment.network, attachment.container_id)
    families = iptables.families_with(session, _TABLE, chain)
    return any(
        inside and not _markers(inside)
        for inside in (iptables.rules(family, _TABLE, chain) for family in families)
    )


def _ensure(_session: Session, step: EnsureIptablesPorts) -> None:
    for one in step.publications:
        family = one.target.version
        with locks.locked(f"{_LOCK} {family}"):
            entries = iptables.rules(family, _TABLE, _ENTRY)
            taken = list(_take_over(step, one, entries))
            iptables.restore(
                family,
                _TABLE,
                [*_common_lines(step, family, entries), *taken, *_own_lines(step, one, entries)],
            )


def _differs(_session: Session, step: EnsureIptablesPorts) -> str:
    for one in step.publications:
        family = one.target.version
        entries = iptables.rules(family, _TABLE, _ENTRY)
        chain = _chain_of(step.attachment.network, step.attachment.container_id)
        inside = iptables.rules(family, _TABLE, chain)
        for mapping in one.mappings:
            if not any(_sends(rule, one, mapping) for rule in inside) or not any(
                rule.target == chain and _has_port(rule, mapping) for rule in entries
            ):
                return f"published ports: {iptables.COMMANDS[family]} has no rules for {mapping}"
        if any(_missing_jumps(family, entries)):
            return f"published ports: {iptables.COMMANDS[family]} has no rule that jumps to {_ENTRY}"
    return ""


# ------------------------------------------------------------------------------------------- what all share


def _common_lines(step: EnsureIptablesPorts, family: int, entries: list[Rule]) -> Iterator[str]:
    """Yield the lines for chains and jumps that all containers share, if they are missing."""
    if not entries:
        yield f"-N {_ENTRY}"
    yield from map(iptables.quoted, _missing_jumps(family, entries))
    if step.mark.chain:
        return
    bit = 1 << step.mark.bit
    marked = f"{bit:#x}/{bit:#x}"
    yield from _filled(
        family,
        _SET_MARK,
        ("-m", "comment", "--comment", "CNI portfwd masquerade mark", "-j", "MARK", "--set-xmark", marked),
        f"--set-xmark {marked}",
    )
    yield from _filled(
        family,
        _MASQUERADE,
        ("-m", "mark", "--mark", marked, "-j", "MASQUERADE"),
        f"--mark {marked}",
    )
    last = ("-m", "comment", "--comment", "CNI portfwd requiring masquerade", "-j", _MASQUERADE)
    if not any(rule.target == _MASQUERADE for rule in iptables.rules(family, _TABLE, "POSTROUTING")):
        yield iptables.quoted(("-I", "POSTROUTING", "1", *last))


def _missing_jumps(family: int, entries: list[Rule]) -> Iterator[Words]:
    for hook in ("PREROUTING", "OUTPUT"):
        if not entries or not any(rule.target == _ENTRY for rule in iptables.rules(family, _TABLE, hook)):
            yield ("-A", hook, "-m", "addrtype", "--dst-type", "LOCAL", "-j", _ENTRY)


def _filled(family: int, chain: str, rule: Words, part: str) -> Iterator[str]:
    """Yield the lines for a chain with one rule, that is recognised by a part of it."""
    present = iptables.rules(family, _TABLE, chain)
    if not present:
        yield f"-N {chain}"
    if not any(part in shlex.join(item.words) for item in present):
        yield iptables.quoted(("-A", chain, *rule))


# ------------------------------------------------------------------------------------- one attachment's own


def _own_lines(step: EnsureIptablesPorts, one: Publication, entries: list[Rule]) -> Iterator[str]:
    """Yield the lines for an attachment's rules, after those that remove former ones."""
    family, attachment = one.target.version, step.attachment
    chain = _chain_of(attachment.network, attachment.container_id)
    inside = iptables.rules(family, _TABLE, chain)
    yield from [] if inside else [f"-N {chain}"]
    yield from (iptables.deletion(rule) for rule in _own(inside, attachment))
    for words in _inner_rules(step, one, chain):
        yield iptables.quoted(words)
    known = {" ".join(rule.words) for rule in entries if rule.target == chain}
    for words in _entry_rules(step, one, chain):
        if not any(_same_entry(words, text) for text in known):
            yield iptables.quoted(words)


def _entry_rules(step: EnsureIptablesPorts, one: Publication, chain: str) -> Iterator[Words]:
    named = f'dnat name: "{step.attachment.network}" id: "{step.attachment.container_id}"'
    comment = ("-m", "comment", "--comment", named)
    for protocol in dict.fromkeys(mapping.protocol for mapping in one.mappings):
        ports = sorted({mapping.host_port for mapping in one.mappings if mapping.protocol == protocol})
        for start in range(0, len(ports), _MOST_PORTS):
            listed = ",".join(map(str, ports[start : start + _MOST_PORTS]))
            match = ("-p", protocol, *comment, "-m", "multiport", "--dports", listed)
            yield ("-A", _ENTRY, *match, *one.conditions, "-j", chain)


def _same_entry(words: Words, text: str) -> bool:
    """Say whether a listed rule is for the same protocol and ports."""
    protocol, ports = words[3], words[words.index("--dports") + 1]
    return f"-p {protocol} " in text and f"--dports {ports} " in text


def _inner_rules(step: EnsureIptablesPorts, one: Publication, chain: str) -> Iterator[Words]:
    mark = step.mark.chain or _SET_MARK
    yield from _marks(step, one, chain)
    for mapping in one.mappings:
        match = _match(mapping)
        for source in _hidden_sources(one):
            yield ("-A", chain, "-s", source, *match, "-j", mark)
        yield ("-A", chain, *match, "-j", "DNAT", "--to-destination", _target(one, mapping))


def _match(mapping: PortMapping) -> Words:
    at = ("-d", str(mapping.host_ip)) if mapping.host_ip else ()
    return (*at, "-p", mapping.protocol, "-m", mapping.protocol, "--dport", str(mapping.host_port))


def _hidden_sources(one: Publication) -> Iterator[str]:
    family = one.target.version
    if one.masq_all:
        yield _ANY[family]
    elif one.snat:
        yield str(one.target.network)
        if family == 4:  # noqa: PLR2004 (IPv6 has no route_localnet)
            yield "127.0.0.1"


def _target(one: Publication, mapping: PortMapping) -> str:
    address = one.target.ip
    host = str(address) if address.version == 4 else f"[{address}]"  # noqa: PLR2004
    return f"{host}:{mapping.container_port}"


class _Marker(NamedTuple):
    """What the marks in a container's chain say of one interface.

    The rules themselves are those that the reference's CHECK looks for, which have no comment.

    :param ports: protocol, port and address of the host.
    """

    link: str
    ports: set[tuple[str, str, str]]


_MARK = re.compile(r"if: (\S+) link: (\S+) ports: (.+)")


def _marks(step: EnsureIptablesPorts, one: Publication, chain: str) -> Iterator[Words]:
    """Yield rules that do nothing but name the interface, its host link, and its ports."""
    named = f"if: {quoted_ifname(step.attachment.ifname)} link: {quoted_ifname(step.link or NO_LINK)}"
    listed = [f"{mapping.protocol}/{mapping.host_port}/{mapping.host_ip or ''}" for mapping in one.mappings]
    for start in range(0, len(listed), _MARKED):
        text = f"{named} ports: {' '.join(listed[start : start + _MARKED])}"
        yield ("-A", chain, "-m", "comment", "--comment", text)


def _markers(inside: list[Rule]) -> dict[str, _Marker]:
    """Return what the marks say, by interface; those of the reference's rules are absent."""
    found: dict[str, _Marker] = {}
    for rule in inside:
        marked = _MARK.fullmatch(rule.comment)
        if marked:
            ifname = unquoted_ifname(marked[1])
            marker = found.setdefault(ifname, _Marker(unquoted_ifname(marked[2]), set()))
            for text in marked[3].split():
                protocol, port, at = (*text.split("/", 2), "", "")[:3]
                marker.ports.add((protocol, port, at))
    return found


def _own(inside: list[Rule], attachment: Attachment) -> list[Rule]:
    """Return the rules of an interface, which are all of them if the reference made the chain."""
    rules = [rule for rule in inside if rule.words[0] == "-A"]
    markers = _markers(inside)
    if not markers:
        return rules
    marker = markers.get(attachment.ifname)
    return [rule for rule in rules if marker and _is_marked(rule, attachment.ifname, marker)]


def _is_marked(rule: Rule, ifname: str, marker: _Marker) -> bool:
    named = _MARK.fullmatch(rule.comment)
    if named:
        return unquoted_ifname(named[1]) == ifname
    after = dict(pairwise(rule.words))
    return (after.get("-p"), after.get("--dport"), _at(rule.words)) in marker.ports


def _at(words: Words) -> str:
    """Return the host's address that a rule is for, empty for all."""
    return words[words.index("-d") + 1].partition("/")[0] if "-d" in words else ""


def _sends(rule: Rule, one: Publication, mapping: PortMapping) -> bool:
    words = rule.words
    return rule.target == "DNAT" and words[-1] == _target(one, mapping) and _matches(words, mapping)


def _matches(words: Words, mapping: PortMapping) -> bool:
    pairs = set(pairwise(words))
    return {("-p", mapping.protocol), ("--dport", str(mapping.host_port))} <= pairs


def _has_port(rule: Rule, mapping: PortMapping) -> bool:
    """Say whether a rule in the chain of all containers is for a port."""
    words = rule.words
    if ("-p", mapping.protocol) not in pairwise(words) or "--dports" not in words:
        return False
    return str(mapping.host_port) in words[words.index("--dports") + 1].split(",")


# ---------------------------------------------------------------------------------------- ports of others


def _take_over(step: EnsureIptablesPorts, one: Publication, entries: list[Rule]) -> Iterator[str]:
    """Yield the lines that remove rules of containers that are gone and had one of the ports.

    :raises NameTaken: when a container has it that exists still.
    """
    own = _chain_of(step.attachment.network, step.attachment.container_id)
    family = one.target.version
    removed: set[str] = set()
    for mapping in one.mappings:
        for entry in entries:
            if entry.target in (own, *removed) or not _has_port(entry, mapping):
                continue
            inside = iptables.rules(family, _TABLE, entry.target)
            holder = next((rule for rule in inside if _is_holder(rule, mapping)), None)
            if not holder or one.conditions:
                continue
            link = _link_of(holder, inside)
            if link != NO_LINK and _exists(link):
                raise NameTaken(
                    f"host {mapping} is published by another container",
                    f"its holder is {entry.comment.removeprefix('dnat ')}",
                )
            if link != NO_LINK or holder.words[-1] == _target(one, mapping):
                removed.add(entry.target)
                yield from _removal(entry.target, entries)


def _link_of(holder: Rule, inside: list[Rule]) -> str:
    """Return the host link of the interface that a rule is of, NO_LINK if it is not known."""
    markers = _markers(inside).items()
    return next((marker.link for ifname, marker in markers if _is_marked(holder, ifname, marker)), NO_LINK)


def _is_holder(rule: Rule, mapping: PortMapping) -> bool:
    if rule.target != "DNAT" or not _matches(rule.words, mapping):
        return False
    return _at(rule.words) == (str(mapping.host_ip) if mapping.host_ip else "")


def _exists(link: str) -> bool:
    try:
        socket.if_nametoindex(link)
    except OSError:
        return False
    return True


def _removal(chain: str, entries: list[Rule]) -> Iterator[str]:
    yield from (iptables.deletion(rule) for rule in entries if rule.target == chain)
    yield f"-F {chain}"
    yield f"-X {chain}"


# -------------------------------------------------------------------------------------------- removing


def _delete(session: Session, step: DelIptablesPorts) -> None:
    """Remove this interface's rules, and the chain if no other interface has rules in it."""
    chain = _chain_of(step.attachment.network, step.attachment.container_id)
    for family in iptables.families_with(session, _TABLE, chain):
        with locks.locked(f"{_LOCK} {family}"):
            inside = iptables.rules(family, _TABLE, chain)
            if inside:
                entries = iptables.rules(family, _TABLE, _ENTRY)
                iptables.restore(family, _TABLE, list(_deletions(step.attachment, chain, inside, entries)))
        _forget(session, family, _own(inside, step.attachment))


def _forget(session: Session, family: int, removed: list[Rule]) -> None:
    """Forget UDP flows to ports that are published no more."""
    flows: list[Flows] = []
    for rule in removed:
        after = dict(pairwise(rule.words))
        if rule.target == "DNAT" and after.get("-p") == "udp" and after.get("--dport", "").isdigit():
            target = ip_address(rule.words[-1].rpartition(":")[0].strip("[]"))
            flows.append(Flows(family, int(after["--dport"]), answered_by=target))
    conntrack.forget_udp(session, flows)


def _deletions(attachment: Attachment, chain: str, inside: list[Rule], entries: list[Rule]) -> Iterator[str]:
    own = _own(inside, attachment)
    if not any(rule.words[0] == "-A" and rule not in own for rule in inside):
        yield from _removal(chain, entries)
        return
    yield from (iptables.deletion(rule) for rule in _own(inside, attachment))


def _delete_stale(session: Session, step: DelStaleIptablesPorts) -> None:
    for family in iptables.families_with(session, _TABLE, _ENTRY):
        with locks.locked(f"{_LOCK} {family}"):
            entries = iptables.rules(family, _TABLE, _ENTRY)
            for chain, container_id in _chains_of_network(entries, step.network).items():
                _collect(family, chain, container_id, entries, step)


def _chains_of_network(entries: list[Rule], network: str) -> dict[str, str]:
    """Return the container ids of a network by the names of their chains."""
    found = {}
    for rule in entries:
        named = re.fullmatch(r'dnat name: "(\S+)" id: "(\S+)"', rule.comment)
        if named and named[1] == network and rule.target.startswith(_PREFIX):
            found[rule.target] = named[2]
    return found


def _collect(
    family: int, chain: str, container_id: str, entries: list[Rule], step: DelStaleIptablesPorts
) -> None:
    interfaces = [ifname for other, ifname in step.valid if other == container_id]
    if not interfaces:
        iptables.restore(family, _TABLE, list(_removal(chain, entries)))
        return
    inside = iptables.rules(family, _TABLE, chain)
    for ifname in _markers(inside):
        if ifname not in interfaces:
            stale = _own(inside, Attachment(step.network, container_id, ifname))
            iptables.restore(family, _TABLE, [iptables.deletion(rule) for rule in stale])


DEEDS = (
    deed(EnsureIptablesPorts, _ensure, _differs)
    | deed(DelIptablesPorts, read.where_there_are_rules(_delete), REMOVES)
    | deed(DelStaleIptablesPorts, read.where_there_are_rules(_delete_stale), REMOVES)
)
