"""Lets containers' packets through chain FORWARD of iptables, with the chains and rules of the reference.

The rules name an address and have no comment, so that the reference's DEL finds them too; who owns them is
recorded in nf_tables (forward_records). Chains and jumps stay, as the administrator may have rules in them.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from socket import AF_INET, AF_INET6, inet_ntop

from cni_plugins.errors import KernelRefused
from cni_plugins.kernel.deed import deed
from cni_plugins.kernel.firewall import forward_records, iptables, read
from cni_plugins.kernel.firewall.forward_records import IPTABLES
from cni_plugins.kernel.firewall.verdicts import jumps_to
from cni_plugins.kernel.netlink import nf_tables as wire
from cni_plugins.kernel.session import locks
from cni_plugins.kernel.session.session import Session
from cni_plugins.protocol.fields import IPAddress
from cni_plugins.steps.forwarding_filter import EnsureIptablesForwarding

TABLE, FORWARD, CHAIN = "filter", "FORWARD", "CNI-FORWARD"
LOCK = ("iptables filter", 60.0)  # name and seconds; held from looking at the table until it is changed
_SOCKETS = {4: AF_INET, 6: AF_INET6}  # iptables writes addresses as the C library does
_INTO, _ADMIN = "CNI firewall plugin rules", "CNI firewall plugin admin overrides"


def comment(text: str) -> tuple[str, ...]:
    return ("-m", "comment", "--comment", text)


APART, APART_COMMENT = "CNI-ISOLATION-STAGE-1", comment(f"{_INTO} (ingressPolicy: same-bridge|isolated)")
JUMP_APART = (FORWARD, *APART_COMMENT, "-j", APART)


def _ensure(session: Session, step: EnsureIptablesForwarding) -> None:
    forward_records.ensure(session, IPTABLES, step.addresses, step.owner)
    families = _families(step)
    with locks.locked(*LOCK):
        if all(_only_lacks_rules(session, step, family) for family in families):
            new = {family: [appended(rule) for rule in _rules(step.addresses, family)] for family in families}
            try:
                iptables.restore_each(TABLE, new)
            except KernelRefused:  # these iptables do not change nf_tables
                pass
            else:
                return
        listed = {family: iptables.lines(family, TABLE) for family in families}
        iptables.restore_each(
            TABLE, {family: list(_missing(step, family, listed[family])) for family in listed}
        )


def _only_lacks_rules(session: Session, step: EnsureIptablesForwarding, family: int) -> bool:
    """Say whether chains and jumps are there, and nothing of the addresses; asks nf_tables."""
    if iptables.has_old_table(family, TABLE) or not forward_records.usable(session):
        return False
    number, admin = wire.Layout.PROTO[family], step.admin_chain
    own = read.raw_rules(session, number, TABLE, CHAIN)
    return (
        any(jumps_to(data) == admin for data in own if admin.encode() in data)
        and any(jumps_to(data) == CHAIN for data in read.raw_rules(session, number, TABLE, FORWARD))
        and not any(item.packed in data for data in own for item in step.addresses if item.version == family)
    )


def _families(step: EnsureIptablesForwarding) -> list[int]:
    return sorted({address.version for address in step.addresses})


def _missing(step: EnsureIptablesForwarding, family: int, listed: list[str]) -> Iterator[str]:
    present = set(listed)
    for chain in dict.fromkeys((CHAIN, step.admin_chain)):
        if f"-N {chain}" not in present:
            yield f"-N {chain}"
    into, to_admin = _jumps(step.admin_chain)
    if appended(into) not in present:
        yield inserted(into, _after_isolation(listed))
    if appended(to_admin) not in present:
        yield inserted(to_admin)
    for rule in _rules(step.addresses, family):
        if appended(rule) not in present:
            yield appended(rule)


def _differs(session: Session, step: EnsureIptablesForwarding) -> str:
    for family in _families(step):
        present = set(iptables.lines(family, TABLE))
        for rule in (*_jumps(step.admin_chain), *_rules(step.addresses, family)):
            if appended(rule) not in present:
                return f"firewall: {iptables.COMMANDS[family]} has no rule {appended(rule)}"
    return forward_records.differ(session, IPTABLES, step.addresses, step.owner, expected=step.is_recorded)


def _jumps(admin_chain: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the rules that come first in their chains."""
    return (FORWARD, *comment(_INTO), "-j", CHAIN), (CHAIN, *comment(_ADMIN), "-j", admin_chain)


def _after_isolation(listed: list[str]) -> int:
    """Return the first place in FORWARD that is behind the jump by which bridges are kept apart."""
    in_forward = [line for line in listed if line.startswith(f"-A {FORWARD} ")]
    jump = appended(JUMP_APART)
    return in_forward.index(jump) + 2 if jump in in_forward else 1


def _rules(addresses: Iterable[IPAddress], family: int) -> Iterator[tuple[str, ...]]:
    for address in addresses:
        if address.version == family:
            whole = f"{inet_ntop(_SOCKETS[family], address.packed)}/{address.max_prefixlen}"
            yield (CHAIN, "-d", whole, "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT")
            yield (CHAIN, "-s", whole, "-j", "ACCEPT")


def appended(rule: tuple[str, ...]) -> str:
    """Return a rule as iptables lists it, and as it is appended."""
    return iptables.quoted(("-A", *rule))


def inserted(rule: tuple[str, ...], place: int = 1) -> str:
    """Return the line that inserts a rule at a place in its chain."""
    return iptables.quoted(("-I", rule[0], str(place), *rule[1:]))


# ---------------------------------------------------------------------------------------------- removing


def delete(session: Session, addresses: Iterable[IPAddress]) -> None:
    """Remove the rules of addresses; runs nothing where there are none.

    Usually each is there once: then they need not be listed.
    """
    own = [item for item in addresses if _may_have(session, item)]
    if not own:
        return
    with locks.locked(*LOCK):
        with suppress(KernelRefused):
            iptables.restore_each(TABLE, {family: _removal(own, family) for family in iptables.COMMANDS})
        for family in {item.version for item in own if _may_have(session, item)}:
            going = {*_removal(own, family)}
            present = (deletion(line) for line in iptables.lines(family, TABLE))
            iptables.restore(family, TABLE, [line for line in present if line in going])


def _removal(addresses: Iterable[IPAddress], family: int) -> list[str]:
    return [deletion(appended(rule)) for rule in _rules(addresses, family)]


def deletion(listed: str) -> str:
    """Return the line that removes a rule which is listed so."""
    return f"-D{listed[2:]}"


def has_rules(session: Session, addresses: tuple[IPAddress, ...]) -> bool:
    """Say whether the reference's rules are there for any of these addresses."""
    return any(
        appended(rule) in present
        for family in sorted({item.version for item in addresses if _may_have(session, item)})
        for present in [set(iptables.lines(family, TABLE))]
        for rule in _rules(addresses, family)
    )


def _may_have(session: Session, address: IPAddress) -> bool:
    """Say whether there may be rules for an address, without an exec where iptables-nft keeps them."""
    if iptables.has_old_table(address.version, TABLE):
        return True
    if not forward_records.usable(session):
        return False
    rules = read.raw_rules(session, wire.Layout.PROTO[address.version], TABLE, CHAIN)
    return any(address.packed in data for data in rules)


def families_with(session: Session, chain: str) -> tuple[int, ...]:
    """Return the IP versions that may have a chain, also on a kernel without nf_tables."""
    if not forward_records.usable(session):
        return tuple(family for family in iptables.COMMANDS if iptables.has_old_table(family, TABLE))
    return tuple(iptables.families_with(session, TABLE, chain))


DEEDS = deed(EnsureIptablesForwarding, _ensure, _differs)
