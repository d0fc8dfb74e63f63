"""Reads, adds and deletes rules of policy routing, and finds unused routing tables."""

import errno
from ipaddress import ip_address
from itertools import count, islice
from typing import NamedTuple

from cni_plugins.contract.facts import RuleFacts
from cni_plugins.errors import KernelRefused
from cni_plugins.kernel.deed import REMOVES, deed
from cni_plugins.kernel.ip import addresses
from cni_plugins.kernel.netlink import rtnetlink as wire
from cni_plugins.kernel.netlink.attributes import attributes
from cni_plugins.kernel.netlink.rtnetlink import read_number
from cni_plugins.kernel.netlink.socket import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    Refused,
    is_absent,
)
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import ROUTE_PROTOCOL
from cni_plugins.protocol.fields import IPAddress
from cni_plugins.steps.policy_routing import AddRule, DelRule
from cni_plugins.steps.step import Place

_FIRST_TABLE = 100  # as the reference
_RESERVED = (wire.RT_TABLE_DEFAULT, wire.RT_TABLE_MAIN, wire.RT_TABLE_LOCAL)
_UNSUPPORTED = (errno.EAFNOSUPPORT, errno.EOPNOTSUPP)
# The attributes of a rule that says no more than "from an address, look a table up".
_PLAIN = {
    wire.FRA_SRC,
    wire.FRA_PRIORITY,
    wire.FRA_TABLE,
    wire.FRA_SUPPRESS_PREFIXLEN,
    wire.FRA_PROTOCOL,
    wire.FRA_PAD,
    wire.FRA_FWMARK,
    wire.FRA_FWMASK,
}
_NO_SUPPRESSION = 0xFFFFFFFF


class _Rule(NamedTuple):
    """A rule as the kernel lists it; attributes by number, as they are in the message."""

    version: int
    src_len: int
    is_lookup: bool
    table: int
    attrs: dict[int, bytes]

    @property
    def is_plain(self) -> bool:
        """Whether every packet from one address is routed by the table, as long as that has a route."""
        suppressed = read_number(self.attrs.get(wire.FRA_SUPPRESS_PREFIXLEN, b"\xff" * 4))
        return (
            self.is_lookup
            and self.src_len == wire.FULL_LENGTH[self.version]
            and self.attrs.keys() <= _PLAIN
            and suppressed == _NO_SUPPRESSION
            and read_number(self.attrs.get(wire.FRA_FWMASK)) == 0
        )


def from_addresses(session: Session, where: Place) -> tuple[RuleFacts, ...]:
    """Return the rules that select packets by one source address and nothing else."""
    return tuple(
        RuleFacts(
            address=ip_address(rule.attrs[wire.FRA_SRC]),
            table=rule.table,
            priority=read_number(rule.attrs.get(wire.FRA_PRIORITY)),
            mark=read_number(rule.attrs.get(wire.FRA_FWMARK)),
        )
        for rule in _every(session, where)
        if rule.is_plain
    )


def _every(session: Session, where: Place) -> list[_Rule]:
    return [rule for version in (4, 6) for rule in _of_version(session, where, version)]


def _of_version(session: Session, where: Place, version: int) -> list[_Rule]:
    """Return the rules of one IP version; none if the kernel has none."""
    family = wire.FAMILY[version]
    try:
        answers = session.rtnl(where).dump(wire.rule(wire.RTM_GETRULE, NLM_F_DUMP, family=family))
    except Refused as err:
        if err.errno in _UNSUPPORTED:
            return []
        raise
    # The kernel answers with the rules of all families if it does not know this one.
    return [_decoded(answer.data, version) for answer in answers if answer.data[wire.BODY] == family]


def _decoded(data: bytes, version: int) -> _Rule:
    _, dst_len, src_len, tos, table, action, flags = wire.RULE.unpack_from(data, wire.BODY)
    attrs = dict(attributes(data, wire.BODY + wire.RULE.size))
    is_lookup = action == wire.FR_ACT_TO_TBL and not (dst_len or tos or flags)
    return _Rule(version, src_len, is_lookup, read_number(attrs.get(wire.FRA_TABLE)) or table, attrs)


def free_tables(session: Session, where: Place, wanted: int) -> tuple[int, ...]:
    """Return numbers of tables that have no routes and that no rule leads to, from 100 up."""
    used = {rule.table for rule in _every(session, where)} | {*_RESERVED}
    free = (
        table for table in count(_FIRST_TABLE) if table not in used and not _has_routes(session, where, table)
    )
    return tuple(islice(free, wanted))


def _has_routes(session: Session, where: Place, table: int) -> bool:
    return any(_has_routes_of(session, where, table, family) for family in wire.FAMILY.values())


def _has_routes_of(session: Session, where: Place, table: int, family: int) -> bool:
    number = wire.number(wire.RTA_TABLE, table)
    asked = wire.route(wire.RTM_GETROUTE, NLM_F_DUMP, wire.RouteHead(family), number)
    try:
        answers = session.rtnl(where).dump(asked)
    except Refused as err:
        if is_absent(err) or err.errno in _UNSUPPORTED:
            return False
        raise
    # Kernels before 4.20 list all tables.
    found = (dict(attributes(answer.data, wire.BODY + wire.RTMSG.size)) for answer in answers)
    return any(read_number(attrs.get(wire.RTA_TABLE)) == table for attrs in found)


def tables_of_link(session: Session, where: Place, index: int, version: int) -> list[int]:
    """Return the tables by which packets from the addresses of a link are routed, besides the main one."""
    own = {item.address.ip for item in addresses.on_link(session, where, index)}
    rules = _of_version(session, where, version)
    found = [rule.table for rule in rules if rule.is_plain and ip_address(rule.attrs[wire.FRA_SRC]) in own]
    return [table for table in dict.fromkeys(found) if table not in _RESERVED]


def can_add(session: Session, where: Place, address: IPAddress) -> bool:
    """Say whether the kernel has policy routing for the address's IP version, by adding a rule."""
    try:
        _add(session, AddRule(where, address, _FIRST_TABLE, 0))
    except Refused:
        return False
    return True


def _ensure(session: Session, step: AddRule) -> None:
    """:raises KernelRefused: if the kernel has no policy routing; other refusals are those of the kernel."""
    try:
        _add(session, step)
    except Refused as err:
        if err.errno not in _UNSUPPORTED:
            raise
        raise KernelRefused(
            f"this kernel has no policy routing for IPv{step.address.version}",
            f"{step.phrase()}: {err.strerror}, errno {err.errno}",
            err.errno or 0,
        ) from err


def _add(session: Session, step: AddRule) -> None:
    """Add a rule; the kernel chooses a priority before those of all rules but the first."""
    protocol = wire.octet(wire.FRA_PROTOCOL, ROUTE_PROTOCOL)
    message = _message(
        wire.RTM_NEWRULE, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, step, *_marks(step.mark), protocol
    )
    session.rtnl(step.where).call(message)


def _marks(mark: int) -> tuple[bytes, ...]:
    """Return the attributes of a mark that every packet matches."""
    return (wire.number(wire.FRA_FWMARK, mark), wire.number(wire.FRA_FWMASK, 0)) if mark else ()


def _delete(session: Session, step: DelRule) -> None:
    priority = (wire.number(wire.FRA_PRIORITY, step.priority),) if step.priority else ()
    message = _message(wire.RTM_DELRULE, NLM_F_ACK, step, *_marks(step.mark), *priority)
    try:
        session.rtnl(step.where).call(message)
    except Refused as err:
        if not is_absent(err) and err.errno not in _UNSUPPORTED:
            raise


def _message(kind: int, asked: int, step: AddRule | DelRule, *attrs: bytes) -> bytearray:
    version = step.address.version
    return wire.rule(
        kind,
        asked,
        wire.ip(wire.FRA_SRC, step.address),
        wire.number(wire.FRA_TABLE, step.table),
        *attrs,
        family=wire.FAMILY[version],
        src_len=wire.FULL_LENGTH[version],
        table=wire.octet_of_table(step.table),
        action=wire.FR_ACT_TO_TBL,
    )


def _differs(session: Session, step: AddRule) -> str:
    wanted = step.address, step.table
    for rule in from_addresses(session, step.where):
        if (rule.address, rule.table) == wanted and rule.mark in (step.mark, 0):
            return ""
    return f"rule from {step.address} lookup {step.table} in the {step.where} is missing"


DEEDS = deed(AddRule, _ensure, _differs) | deed(DelRule, _delete, REMOVES)
