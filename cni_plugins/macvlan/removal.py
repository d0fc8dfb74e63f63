"""What DEL and GC take away: everything that bears the attachment's names, whatever is still alive."""

from collections.abc import Iterator

from cni_plugins.contract.facts import Facts, LinkFacts
from cni_plugins.macvlan.config import MacvlanConfig
from cni_plugins.ownership import mark_of, tag_of
from cni_plugins.protocol.request import Request
from cni_plugins.steps.firewall import DelIptablesMasquerade, DelOwnedRules, DelStaleIptables, DelStaleRules
from cni_plugins.steps.links import DelLink
from cni_plugins.steps.macvlan import (
    DelAttached,
    DelHostAccess,
    DelIdleVlans,
    DelStaleAttached,
    DelStaleHostAccess,
)
from cni_plugins.steps.step import SANDBOX, Plan, Step


def delete(request: Request, _config: MacvlanConfig | None, facts: Facts) -> Plan:
    """Return the steps of DEL, which need neither the sandbox nor the master nor prevResult."""
    return tuple(_steps(request, facts))


def _steps(request: Request, facts: Facts) -> Iterator[Step]:
    attachment = request.attachment
    # Under the second name a link is made; an ADD that was killed may have left it there.
    names = (request.ifname, attachment.host_end)
    found = [name for name in names if _is_own(request, facts.sandbox.get(name))]
    for name in found:
        yield DelLink(SANDBOX, name)
    if not found:  # the sandbox is gone or another's, or the link was renamed
        yield DelAttached(attachment)
    yield DelHostAccess(attachment.network, attachment.mark)
    yield DelOwnedRules(request.owner)
    yield DelIptablesMasquerade(attachment)
    yield DelIdleVlans()


def _is_own(request: Request, link: LinkFacts | None) -> bool:
    """A sandbox's path may be another container's by now; links of the reference bear no alias."""
    return link is not None and link.kind == "macvlan" and tag_of(link.alias) in ("", request.attachment.tag)


def collect(request: Request, _facts: Facts) -> Plan:
    """Return the steps of GC: whatever bears this network's tag and no valid attachment's."""
    valid = request.valid_tags
    return (
        DelStaleAttached(request.network, valid),
        DelStaleHostAccess(request.network, frozenset(map(mark_of, valid))),
        DelStaleRules(request.network, request.plugin, valid),
        DelStaleIptables(request.network, request.valid_attachments),
        DelIdleVlans(),
    )
