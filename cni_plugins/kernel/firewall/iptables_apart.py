"""Keeps bridges apart in chain FORWARD of iptables, with the chains and rules of the reference.

These chains keep its containers apart from each other, and our rules (bridges_apart) do that with ours: so
bridges of ours are entered in both. The reference never removes a bridge from them. Here it is removed with
the last container of ours, unless the bridge has ports left, which may be the reference's.
"""

from collections.abc import Collection, Iterable, Iterator

from cni_plugins.kernel.deed import deed
from cni_plugins.kernel.firewall import iptables
from cni_plugins.kernel.firewall.iptables_forward import (
    APART,
    APART_COMMENT,
    JUMP_APART,
    LOCK,
    TABLE,
    appended,
    comment,
    deletion,
    families_with,
    inserted,
)
from cni_plugins.kernel.links import links
from cni_plugins.kernel.session import locks
from cni_plugins.kernel.session.session import Session
from cni_plugins.steps.forwarding_filter import EnsureIptablesApart
from cni_plugins.steps.step import HOST

FIRST, SECOND = APART, "CNI-ISOLATION-STAGE-2"
_SAME_BRIDGE, _ISOLATED = (
    comment(f"CNI firewall plugin rules (ingressPolicy: {policy})") for policy in ("same-bridge", "isolated")
)
_COMMENTS = [f" {iptables.quoted(words)}" for words in (APART_COMMENT, _SAME_BRIDGE, _ISOLATED)]
_WILDCARD = "+"


def _ensure(_session: Session, step: EnsureIptablesApart) -> None:
    with locks.locked(*LOCK):
        lines = {family: list(_missing(step, _listed(family))) for family in step.families}
        iptables.restore_each(TABLE, lines)


def _missing(step: EnsureIptablesApart, present: set[str]) -> Iterator[str]:
    """Yield lines in an order in which those that begin a chain come to stand before what is there."""
    for chain in (FIRST, SECOND):
        if f"-N {chain}" not in present:
            yield f"-N {chain}"
    for rule in (JUMP_APART, *_of_bridges(step)):
        if _bare(appended(rule)) not in present:
            yield inserted(rule)
    for chain in (FIRST, SECOND):
        if _bare(appended(_end(chain))) not in present:
            yield appended(_end(chain))


def _differs(_session: Session, step: EnsureIptablesApart) -> str:
    for family in step.families:
        present = _listed(family)
        for rule in (JUMP_APART, *_of_bridges(step)):
            if _bare(appended(rule)) not in present:
                return f"firewall: {iptables.COMMANDS[family]} has no rule {appended(rule)}"
    return ""


def _listed(family: int) -> set[str]:
    return set(map(_bare, iptables.lines(family, TABLE)))


def _bare(line: str) -> str:
    """Return a listed rule without its comment, which is another one in older releases of the reference."""
    for text in _COMMENTS:
        line = line.replace(text, "")
    return line


def _end(chain: str) -> tuple[str, ...]:
    return (chain, *APART_COMMENT, "-j", "RETURN")


def _of_bridges(step: EnsureIptablesApart) -> Iterator[tuple[str, ...]]:
    policy = _ISOLATED if step.isolated else _SAME_BRIDGE
    for bridge in step.bridges:
        if not bridge.endswith(_WILDCARD):  # which no option of iptables takes literally
            yield (FIRST, "-i", bridge, "!", "-o", bridge, *policy, "-j", SECOND)
            if step.isolated:
                yield (FIRST, "-i", bridge, "-o", bridge, *policy, "-j", "DROP")
            yield (SECOND, "-o", bridge, *APART_COMMENT, "-j", "DROP")


# ---------------------------------------------------------------------------------------------- removing


def delete(session: Session, bridges: Iterable[str], own_ports: Collection[str] = ()) -> None:
    """Remove bridges that have no ports, but for those of a container that is being deleted."""
    bridges = tuple(bridges)
    families = families_with(session, FIRST) if bridges else ()
    idle = [bridge for bridge in bridges if families and not _has_ports(session, bridge, own_ports)]
    if not idle:
        return
    going = {_bare(appended(rule)) for bridge in idle for rule in _every(bridge)}
    with locks.locked(*LOCK):
        for family in families:
            present = iptables.lines(family, TABLE)
            iptables.restore(family, TABLE, [deletion(line) for line in present if _bare(line) in going])


def _every(bridge: str) -> Iterator[tuple[str, ...]]:
    yield (FIRST, "-i", bridge, "!", "-o", bridge, "-j", SECOND)
    yield (FIRST, "-i", bridge, "-o", bridge, "-j", "DROP")
    yield (SECOND, "-o", bridge, "-j", "DROP")


def _has_ports(session: Session, bridge: str, own: Collection[str]) -> bool:
    found = links.find(session, HOST, bridge)
    ports = links.every(session, HOST, master=found.ifindex) if found else []
    return any(port.name not in own for port in ports)


DEEDS = deed(EnsureIptablesApart, _ensure, _differs)
