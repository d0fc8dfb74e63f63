"""What DEL and GC take away: everything that bears the attachment's names, whatever is still alive."""

from collections.abc import Iterator

from cni_plugins.bridge.config import BridgeConfig
from cni_plugins.contract.facts import Facts
from cni_plugins.spec.attachment import ALIAS_PREFIX, HOST_END_PREFIX, network_tag
from cni_plugins.spec.fields import IPInterface, get
from cni_plugins.spec.request import Request
from cni_plugins.steps.links import DelIdleBridge, DelLink
from cni_plugins.steps.places import HOST, SANDBOX
from cni_plugins.steps.plan import Plan, Step
from cni_plugins.steps.rules import (
    DelIptablesMasquerade,
    DelOwnedRules,
    DelReferenceRules,
    DelStaleIptables,
    DelStaleRules,
)


def delete(request: Request, config: BridgeConfig | None, facts: Facts) -> Plan:
    """Return the steps of DEL; the host end's name needs neither the sandbox nor prevResult."""
    return tuple(_steps(request, config, facts))


def _steps(request: Request, config: BridgeConfig | None, facts: Facts) -> Iterator[Step]:
    attachment = request.attachment
    yield DelLink(HOST, attachment.host_end)
    inside = facts.sandbox.get(request.ifname)
    # A device without a kind is hardware, or `lo`: nothing that a bridge plugin made.
    if inside is not None and inside.kind:
        yield DelLink(SANDBOX, request.ifname)
    yield DelOwnedRules(attachment)
    if config is None or config.ip_masq_backend == "iptables":
        yield DelIptablesMasquerade(attachment)
    if _made_by_reference(request, facts):
        yield DelReferenceRules(attachment, _addresses(request, facts))
    if config is not None and config.remove_idle_bridge:
        yield DelIdleBridge(config.bridge)


def _made_by_reference(request: Request, facts: Facts) -> bool:
    """Say whether the host end bears another name than ours: in the kernel, or else in prevResult."""
    inside, ours = facts.sandbox.get(request.ifname), request.attachment.host_end
    if inside is not None:
        return inside.kind == "veth" and inside.peer != ours
    listed = request.prev_result.interfaces if request.prev_result else ()
    ends = [item.name for item in listed if not item.sandbox and item.name.startswith(HOST_END_PREFIX)]
    return bool(ends) and ours not in ends


def _addresses(request: Request, facts: Facts) -> tuple[IPInterface, ...]:
    inside = facts.sandbox.get(request.ifname)
    if inside is not None:
        return tuple(address for address in inside.addresses if not address.ip.is_link_local)
    return tuple(ip.address for ip in request.prev_result.ips) if request.prev_result else ()


def collect(request: Request, facts: Facts) -> Plan:
    """Return the steps of GC: whatever bears this network's tag and no valid attachment's."""
    prefix = ALIAS_PREFIX + network_tag(request.network)
    stale = (
        link.name
        for link in facts.owned
        if link.alias.startswith(prefix) and _tag(link.alias) not in request.valid_tags
    )
    return (
        *(DelLink(HOST, name) for name in stale),
        DelStaleRules(request.network, request.valid_tags),
        *(
            (DelStaleIptables(request.network, request.valid_attachments),)
            if get(request.conf, "ipMasqBackend") == "iptables"
            else ()
        ),
    )


def _tag(alias: str) -> str:
    return alias.removeprefix(ALIAS_PREFIX).split(" ", 1)[0]
