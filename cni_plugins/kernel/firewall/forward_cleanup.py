"""Removes what lets an attachment's packets through, and what keeps its bridge apart, from every backend.

DEL does not ask which backend the config names now. It starts no program and asks no bus unless there is a
record of the attachment (forward_records), or the reference made it: then there is none, and prevResult has
its addresses.
"""

from contextlib import suppress

from cni_plugins.errors import BadEnvironment
from cni_plugins.kernel.deed import REMOVES, deed
from cni_plugins.kernel.firewall import (
    bridges_apart,
    firewalld,
    forward_records,
    iptables_apart,
    iptables_forward,
    rule_removal,
)
from cni_plugins.kernel.firewall.forward_records import FIREWALLD, IPTABLES, holder
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import is_stale
from cni_plugins.protocol.fields import IPAddress
from cni_plugins.steps.forwarding_filter import DelForwarding, DelStaleForwarding


def _delete(session: Session, step: DelForwarding) -> None:
    """Remove records last: they lead a second DEL to what a first one could not remove."""
    owner, keeps_records = step.owner, forward_records.usable(session)
    own = forward_records.owned(session, owner) if keeps_records else {}
    foreign = [item for item in step.addresses if not any(item in found for found in own.values())]

    def left(backend: str) -> list[IPAddress]:
        return [item for item in foreign if not keeps_records or not holder(session, backend, item)]

    iptables_forward.delete(session, (*own.get(IPTABLES, ()), *left(IPTABLES)))
    _leave_zones(step, own.get(FIREWALLD, []), left(FIREWALLD))
    if keeps_records:
        rule_removal.remove_owned(session, owner)
    idle = bridges_apart.tidy(session) if keeps_records else []
    iptables_apart.delete(
        session, dict.fromkeys((*idle, *step.links)), (owner.attachment.host_end, *step.links)
    )


def _leave_zones(step: DelForwarding, recorded: list[IPAddress], foreign: list[IPAddress]) -> None:
    """Remove recorded sources from any zone, and those that the reference added from the configured one."""
    if recorded:
        firewalld.delete(step.bus, recorded)
    if foreign and step.zone:
        with suppress(BadEnvironment):  # nothing says that there is anything to remove
            firewalld.delete(step.bus, foreign, step.zone)


def _collect(session: Session, step: DelStaleForwarding) -> None:
    if not forward_records.usable(session):
        return

    def is_going(comment: str) -> bool:
        return is_stale(comment, step.network, step.plugin, step.valid_tags)

    iptables_forward.delete(session, forward_records.selected(session, IPTABLES, is_going))
    sources = forward_records.selected(session, FIREWALLD, is_going)
    if sources:
        firewalld.delete(step.bus, sources)
    rule_removal.remove(session, lambda: lambda item: is_going(item.comment))
    iptables_apart.delete(session, bridges_apart.tidy(session))


DEEDS = deed(DelForwarding, _delete, REMOVES) | deed(DelStaleForwarding, _collect, REMOVES)
