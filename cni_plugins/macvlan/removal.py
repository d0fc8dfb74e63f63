"""Plans DEL and GC of the macvlan plugin: deletes whatever carries the attachment's names, alive or not."""

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
    # A link is created under the second name; an ADD that was killed may have left it there.
    names = (request.ifname, attachment.host_end)
    found = [name for name in names if _is_own(request, facts.sandbox.get(name))]
    for name in found:
        yield DelLink(SANDBOX, name)
    if not found:  # the sandbox is gone or reused, or the link was renamed
        yield DelAttached(attachment)
    yield DelHostAccess(attachment.network, attachment.mark)
    yield DelOwnedRules(request.owner)
    yield DelIptablesMasquerade(attachment)
    yield DelIdleVlans()


def _is_own(request: Request, link: LinkFacts | None) -> bool:
    """Say whether a link is the attachment's: its sandbox path may be reused; the reference sets no alias."""
    return link is not None and link.kind == "macvlan" and tag_of(link.alias) in ("", request.attachment.tag)


def collect(request: Request, _facts: Facts) -> Plan:
    """Return the steps of GC: delete whatever has this network's tag but no valid attachment's."""
    valid = request.valid_tags
    return (
        DelStaleAttached(request.network, valid),
        DelStaleHostAccess(request.network, frozenset(map(mark_of, valid))),
        DelStaleRules(request.network, request.plugin, valid),
        DelStaleIptables(request.network, request.valid_attachments),
        DelIdleVlans(),
    )
