"""What DEL and GC take away: everything that bears the attachment's names, whatever is still alive."""

from collections.abc import Iterator

from cni_plugins.bridge.config import DEFAULT_BRIDGE, BridgeConfig
from cni_plugins.contract.facts import Facts, LinkFacts
from cni_plugins.spec.attachment import ALIAS_PREFIX, HOST_END_PREFIX, network_tag
from cni_plugins.spec.fields import IPInterface, get
from cni_plugins.spec.ifnames import ifname_fault
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
    if not _is_anothers(request, facts.host.get(attachment.host_end)):
        yield DelLink(HOST, attachment.host_end)
    foreign = _made_by_reference(request, config, facts)
    if foreign:
        yield DelLink(SANDBOX, request.ifname)
    yield DelOwnedRules(attachment)
    yield DelIptablesMasquerade(attachment)
    if foreign:
        yield DelReferenceRules(attachment, _addresses(request, facts))
    if config is not None and config.remove_idle_bridge:
        yield DelIdleBridge(config.bridge)


def _is_anothers(request: Request, link: LinkFacts | None) -> bool:
    """Say whether a link of our host end's name bears another attachment's alias: 32 bits can collide."""
    if link is None or not link.alias.startswith(ALIAS_PREFIX):
        return False
    return _tag(link.alias) != request.attachment.tag


def _made_by_reference(request: Request, config: BridgeConfig | None, facts: Facts) -> bool:
    """Say whether the reference made the attachment: then its host end bears another name.

    A sandbox whose path was given to another container meanwhile, or an interface of another plugin, must not
    be taken for it: the host end has to be the one of prevResult, or without that, a port of our bridge.
    """
    inside, ours = facts.sandbox.get(request.ifname), request.attachment.host_end
    listed = request.prev_result.interfaces if request.prev_result else ()
    ends = {item.name for item in listed if not item.sandbox and item.name.startswith(HOST_END_PREFIX)}
    if inside is None:
        return bool(ends) and ours not in ends
    if inside.kind != "veth" or inside.peer == ours or inside.peer_alias.startswith(ALIAS_PREFIX):
        return False
    if ends:
        return inside.peer in ends
    return config is not None and inside.peer_master == config.bridge


def _addresses(request: Request, facts: Facts) -> tuple[IPInterface, ...]:
    inside = facts.sandbox.get(request.ifname)
    if inside is not None:
        return tuple(address for address in inside.addresses if not address.ip.is_link_local)
    return tuple(ip.address for ip in request.prev_result.ips) if request.prev_result else ()


def collect(request: Request, facts: Facts) -> Plan:
    """Return the steps of GC: whatever bears this network's tag and no valid attachment's."""
    prefix, valid = ALIAS_PREFIX + network_tag(request.network), request.valid_tags
    stale = (
        link.name for link in facts.owned if link.alias.startswith(prefix) and _tag(link.alias) not in valid
    )
    return (
        *(DelLink(HOST, name) for name in stale),
        DelStaleRules(request.network, valid),
        DelStaleIptables(request.network, request.valid_attachments),
        *_idle_bridge(request),
    )


def _idle_bridge(request: Request) -> Iterator[Step]:
    """GC works with broken configs too, so this key is read by itself."""
    name = get(request.conf, "bridge") or DEFAULT_BRIDGE
    if get(request.conf, "removeIdleBridge") is True and isinstance(name, str) and not ifname_fault(name):
        yield DelIdleBridge(name)


def _tag(alias: str) -> str:
    return alias.removeprefix(ALIAS_PREFIX).split(" ", 1)[0]
