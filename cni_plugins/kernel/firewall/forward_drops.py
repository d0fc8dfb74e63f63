"""Finds filters of other programs that certainly drop what is forwarded between two links.

A chain drops by its policy what no rule of it accepts. Rules are not understood as a whole: it is enough that
one might accept the packet, by whatever it asks for beside links and the state of connections, and nothing is
said. So what is said is certain. Only the rules of chains that drop are read, and not many.
"""

import struct
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from typing import NamedTuple, TypeVar

from cni_plugins.kernel.deed import deed
from cni_plugins.kernel.firewall import iptables, read
from cni_plugins.kernel.firewall.forward_rules import FORWARD as FORWARD_HOOK
from cni_plugins.kernel.firewall.iptables_forward import FORWARD, TABLE
from cni_plugins.kernel.firewall.verdicts import DROP, JUMP, Expression, expressions, verdict
from cni_plugins.kernel.ip import sysctl
from cni_plugins.kernel.netlink import nf_tables as wire
from cni_plugins.kernel.netlink.attributes import attributes, read_text
from cni_plugins.kernel.session.session import Session
from cni_plugins.steps.forwarded import ExpectForwarded, Flow
from cni_plugins.steps.step import HOST, UNCHANGED

R = TypeVar("R")

_FAMILIES = {wire.INET: (4, 6), wire.Layout.PROTO[4]: (4,), wire.Layout.PROTO[6]: (6,)}
_NAMES = {wire.INET: "inet", wire.Layout.PROTO[4]: "ip", wire.Layout.PROTO[6]: "ip6"}
_FAMILY_AT = 16  # in a message: after the netlink header comes struct nfgenmsg
_MOST_RULES = 2000  # of one chain and those it leads to; with more, nothing is said
_BR_NETFILTER = {
    4: ("bridge", "bridge-nf-call-iptables"),
    6: ("bridge", "bridge-nf-call-ip6tables"),
}
_FIRST = "DOCKER-USER"  # where Docker wants rules of others: it puts its own before those of FORWARD

# linux/netfilter/nf_tables.h, linux/netfilter/nf_conntrack_common.h, linux/netfilter/xt_conntrack.h
_GOTO, _RETURN = -4, -5
_CMP_EQ, _CMP_NEQ = 0, 1
_LOOKUP_DREG = 3
_IIFNAME, _OIFNAME, _NFPROTO = 6, 7, 15
_CT_STATE, _OF_NEW = 0, 8 | 64  # states of a packet that begins a connection: new, or untracked
_XT_STATE_AT, _XT_STATE, _XT_OF_NEW = 148, 1, 8 | 256 | 64 | 128  # as are those that others translated
# What neither accepts a packet nor passes it to a program.
_PASSIVE = frozenset(
    (
        *("bitwise", "byteorder", "cmp", "connlimit", "counter", "ct", "dynset", "exthdr", "fib", "hash"),
        *("inner", "last", "limit", "log", "lookup", "match", "meta", "notrack", "numgen", "osf", "payload"),
        *("quota", "range", "reject", "rt", "socket", "tunnel", "xfrm"),
    )
)
_PASSIVE_TARGETS = frozenset(
    ("CHECKSUM", "CLASSIFY", "CONNMARK", "DROP", "LOG", "MARK", "NFLOG", "REJECT", "RETURN", "SET", "TCPMSS")
)


class _Chain(NamedTuple):
    family: int
    table: str
    name: str


def sentences(session: Session, flows: Iterable[Flow]) -> tuple[str, ...]:
    """Return a sentence for each filter that certainly drops one of the flows, with the rules to add."""
    listed = [flow for flow in flows if not flow.bridged or _passes_filters(session, flow)]
    if not listed:
        return ()
    found = [*_in_nf_tables(session, listed), *_in_iptables(listed)]
    return tuple(dict.fromkeys(found))


def _passes_filters(session: Session, flow: Flow) -> bool:
    """Say whether frames between ports of a bridge pass the filters of IP packets."""
    return any(sysctl.value(session, HOST, _BR_NETFILTER[version]) == "1" for version in flow.versions)


# ------------------------------------------------------------------------------------------- nf_tables


def _in_nf_tables(session: Session, flows: list[Flow]) -> Iterator[str]:
    if not (read.has_netfilter(session) and read.usable(session)):
        return
    chains = [wire.fields(data) | {-1: data[_FAMILY_AT : _FAMILY_AT + 1]} for data in _chains(session)]
    names = {(item[-1][0], read_text(item[1]), read_text(item[3])) for item in chains}
    for item in chains:
        chain = _Chain(item[-1][0], read_text(item[1]), read_text(item[3]))
        met = [flow for flow in flows if set(flow.versions).intersection(_FAMILIES.get(chain.family, ()))]
        if _drops(item) and any(_is_dropped(session, chain, flow) for flow in met):
            has_first = (chain.family, chain.table, _FIRST) in names
            yield _sentence(chain, flows[0].inside, has_first=has_first)


def _chains(session: Session) -> list[bytes]:
    return read.dump(session, wire.GETCHAIN, 0)


def _drops(item: dict[int, bytes]) -> bool:
    """Say whether a chain is one of the hook forward whose policy is to drop."""
    hook = dict(attributes(item.get(4, b"")))
    return item.get(5) == struct.pack(">I", DROP) and hook.get(1) == struct.pack(">I", FORWARD_HOOK)


def _is_dropped(session: Session, chain: _Chain, flow: Flow) -> bool:
    def rules(name: str) -> list[bytes]:
        return read.raw_rules(session, chain.family, chain.table, name)

    return _no_rule_accepts(chain.name, rules, lambda rule: _outcome(rule, flow))


def _no_rule_accepts(start: str, rules: Callable[[str], list[R]], outcome: Callable[[R], str | None]) -> bool:
    """Walk the chains that packets may reach.

    :param outcome: the chain a rule leads to, empty if it may accept, None if it does neither.
    """
    waiting, seen, count = [start], {start}, 0
    while waiting:
        listed = rules(waiting.pop())
        count += len(listed)
        if count > _MOST_RULES:
            return False
        for rule in listed:
            next_ = outcome(rule)
            if next_ == "":
                return False
            if next_ is not None and next_ not in seen:
                seen.add(next_)
                waiting.append(next_)
    return True


def _outcome(rule: bytes, flow: Flow) -> str | None:
    """Return what a rule may do with a packet of the flow, as `_no_rule_accepts` takes it."""
    loaded: tuple[str, int] = ("", 0)
    for item in expressions(rule):
        if _decides(item):
            return _decision(item)
        if _excludes(item.name, item.content, loaded, flow):
            return None
        loaded = _loaded(item.name, item.content, loaded)
    return None


def _decides(item: Expression) -> bool:
    """Say whether an expression ends its rule; one that is not known might."""
    if item.name == "immediate":
        return verdict(item)[0] is not None
    is_map_of_verdicts = item.name == "lookup" and _LOOKUP_DREG in item.content
    return item.name not in _PASSIVE or is_map_of_verdicts


def _decision(item: Expression) -> str | None:
    if item.name == "target":
        return None if read_text(item.content.get(1, b"")) in _PASSIVE_TARGETS else ""
    code, chain = verdict(item) if item.name == "immediate" else (None, "")
    if code in (JUMP, _GOTO):
        return chain
    return None if code in (DROP, _RETURN) else ""


def _loaded(name: str, content: dict[int, bytes], before: tuple[str, int]) -> tuple[str, int]:
    """Return what a comparison that follows would compare: a key of `meta`, or states of connections."""
    if name == "meta" and 2 in content:  # noqa: PLR2004 (NFTA_META_KEY)
        return "meta", _number(content[2])
    if name == "ct" and _number(content.get(2, b"\1" * 4)) == _CT_STATE:
        return "states", ~0
    if name == "bitwise" and before[0] == "states":
        mask = dict(attributes(content.get(4, b""))).get(1, b"")
        return "states", struct.unpack("=I", mask)[0] if len(mask) == 4 else ~0  # noqa: PLR2004
    return ("", 0)


def _number(value: bytes) -> int:
    return int.from_bytes(value, "big")


def _excludes(name: str, content: dict[int, bytes], loaded: tuple[str, int], flow: Flow) -> bool:
    """Say whether an expression certainly does not match a packet of the flow."""
    if name != "cmp":
        return name == "match" and _excludes_state(content)
    operator = _number(content.get(2, b""))
    value = dict(attributes(content.get(3, b""))).get(1, b"")
    if loaded[0] == "states":
        return _compares_no_new(operator, value, loaded[1])
    wanted = {_IIFNAME: flow.enters, _OIFNAME: flow.leaves}.get(loaded[1], "") if loaded[0] == "meta" else ""
    if wanted and operator in (_CMP_EQ, _CMP_NEQ):
        is_equal = wanted.encode().ljust(wire.IFNAME_LENGTH, b"\0").startswith(value)
        return is_equal == (operator == _CMP_NEQ)
    of_other_family = value not in [bytes([wire.Layout.PROTO[version]]) for version in flow.versions]
    return loaded == ("meta", _NFPROTO) and operator == _CMP_EQ and of_other_family


def _compares_no_new(operator: int, value: bytes, mask: int) -> bool:
    """Say whether states are compared so that one which begins a connection does not match."""
    if len(value) != 4:  # noqa: PLR2004
        return False
    number = struct.unpack("=I", value)[0]
    if operator == _CMP_NEQ and number == 0:
        return not mask & _OF_NEW
    return operator == _CMP_EQ and number != 0 and not number & _OF_NEW


def _excludes_state(content: dict[int, bytes]) -> bool:
    """Say whether `-m conntrack --ctstate` has no state of a packet that begins a connection."""
    info = content.get(3, b"")
    if read_text(content.get(1, b"")) != "conntrack" or len(info) < _XT_STATE_AT + 6:
        return False
    matched, inverted, states = struct.unpack_from("=HHH", info, _XT_STATE_AT - 2)
    return bool(matched & _XT_STATE) and not inverted & _XT_STATE and not states & _XT_OF_NEW


# -------------------------------------------------------------------------------------- iptables-legacy


def _in_iptables(flows: list[Flow]) -> Iterator[str]:
    for version in iptables.COMMANDS:
        met = [flow for flow in flows if version in flow.versions]
        if not (met and iptables.has_old_table(version, TABLE) and iptables.installed(version)):
            continue
        found = iptables.rules(version, TABLE)
        if not any(rule.words == ("-P", FORWARD, "DROP") for rule in found):
            continue
        chains = iptables.listing_of(found).chains
        names = frozenset(rule.words[1] for rule in found if rule.words[0] == "-N")
        if any(_is_dropped_by(chains, names, flow) for flow in met):
            chain = _Chain(wire.Layout.PROTO[version], TABLE, FORWARD)
            yield _sentence(chain, flows[0].inside, has_first=_FIRST in names)


def _is_dropped_by(chains: dict[str, list[iptables.Rule]], names: frozenset[str], flow: Flow) -> bool:
    return _no_rule_accepts(
        FORWARD,
        lambda chain: chains.get(chain, []),
        lambda rule: _outcome_of_line(rule.words, names, flow),
    )


def _outcome_of_line(words: tuple[str, ...], chains: frozenset[str], flow: Flow) -> str | None:
    for at, word in enumerate(words[:-1]):
        inverted = at > 0 and words[at - 1] == "!"
        link = {"-i": flow.enters, "-o": flow.leaves}.get(word, "")
        if link and fnmatchcase(link, words[at + 1].replace("+", "*")) == inverted:
            return None
        states = words[at + 1].split(",") if word in ("--ctstate", "--state") else ["NEW"]
        if not inverted and set(states) <= {"RELATED", "ESTABLISHED", "INVALID"}:
            return None
    target = next((words[at + 1] for at, word in enumerate(words[:-1]) if word in ("-j", "-g")), "")
    if not target or target in _PASSIVE_TARGETS:
        return None
    return target if target in chains else ""


# ------------------------------------------------------------------------------------------- sentences


def _sentence(chain: _Chain, link: str, *, has_first: bool) -> str:
    name = f"{_NAMES[chain.family]} {chain.table}"
    if (chain.table, chain.name) == (TABLE, FORWARD) and chain.family != wire.INET:
        command = "iptables" if chain.family == wire.Layout.PROTO[4] else "ip6tables"
        target = _FIRST if has_first else FORWARD
        added = [f"{command} -I {target} {option} {link} -j ACCEPT" for option in ("-i", "-o")]
    else:
        added = [f"nft insert rule {name} {chain.name} {key} {link} accept" for key in ("iifname", "oifname")]
    listed = " and ".join(f"`{command}`" for command in added)
    return f"chain {chain.name} of table {name} drops what is forwarded at {link}: {listed} let it through"


def _differs(session: Session, step: ExpectForwarded) -> str:
    return "; ".join(sentences(session, step.flows))


DEEDS = deed(ExpectForwarded, lambda *_: UNCHANGED, _differs)
