"""Plans ADD, CHECK, DEL and GC of the firewall plugin: pure functions from request, config and facts."""

from collections.abc import Iterator

from cni_plugins.contract.facts import Facts
from cni_plugins.contract.plugin import Decision
from cni_plugins.contract.prev_result import passed_on
from cni_plugins.firewall.backends import FIREWALLD, IPTABLES, chosen, is_by_reference
from cni_plugins.firewall.config import DEFAULT_ZONE, FirewallConfig
from cni_plugins.firewall.container import Place, addresses, host_links, place
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import Result
from cni_plugins.steps.forwarding_filter import (
    DelForwarding,
    DelStaleForwarding,
    EnsureBridgesApart,
    EnsureFirewalldSources,
    EnsureForwarding,
    EnsureIptablesApart,
    EnsureIptablesForwarding,
    EnsurePortIsolated,
)
from cni_plugins.steps.step import Plan, Step

_BUS = "DBUS_SYSTEM_BUS_ADDRESS"


def bus(request: Request) -> str:
    """Return the address of the D-Bus system bus, empty for the usual one."""
    return request.environment.get(_BUS, "")


def decide(request: Request, config: FirewallConfig, _lease: Result, facts: Facts) -> Decision:
    """Return prevResult, and the steps: what keeps packets away comes before what lets them through."""
    where = place(request, config.ingress_policy, facts) if config.is_apart else None
    backend = chosen(request, config, facts)
    plan = (
        *_apart(request, config, facts, where),
        *_through(request, config, facts, backend),
        *_apart_in_iptables(request, config, facts, backend, where),
    )
    return Decision(plan, passed_on(request))


def _through(request: Request, config: FirewallConfig, facts: Facts, backend: str) -> Iterator[Step]:
    own, owner = addresses(request), request.owner
    if not own:
        return
    recorded = not is_by_reference(request, facts)
    if backend == FIREWALLD:
        yield EnsureFirewalldSources(owner, own, config.firewalld_zone, bus(request), recorded)
    elif backend == IPTABLES:
        yield EnsureIptablesForwarding(owner, own, config.iptables_admin_chain_name, recorded)
    else:
        yield EnsureForwarding(owner, own)


def _apart(request: Request, config: FirewallConfig, facts: Facts, where: Place | None) -> Iterator[Step]:
    """Yield the steps for nf_tables, where what is dropped is dropped whatever the backend is."""
    if where is None or not facts.forward_filter.nf_tables or is_by_reference(request, facts):
        return
    isolated = config.is_isolated
    yield EnsureBridgesApart(request.owner, where.bridges, where.port, isolated)
    if isolated and where.is_port and facts.forward_filter.filters_frames:
        yield EnsurePortIsolated(request.owner, where.port)


def _apart_in_iptables(
    request: Request, config: FirewallConfig, facts: Facts, backend: str, where: Place | None
) -> Iterator[Step]:
    """Yield the step for iptables: where it is the backend, or keeps containers of the reference apart."""
    if where is None:
        return
    families = {address.version for address in addresses(request)}
    if backend != IPTABLES:
        families &= set(facts.forward_filter.apart_in_iptables)
    if families:
        yield EnsureIptablesApart(request.owner, where.bridges, tuple(sorted(families)), config.is_isolated)


def delete(request: Request, config: FirewallConfig | None, _facts: Facts) -> Plan:
    """Return the step of DEL, for all backends, whatever the config says by now."""
    zone = config.firewalld_zone if config else DEFAULT_ZONE
    links = host_links(request) if config is None or config.is_apart else ()
    return (DelForwarding(request.owner, addresses(request), zone, bus(request), links),)


def collect(request: Request, _facts: Facts) -> Plan:
    return (DelStaleForwarding(request.network, request.plugin, request.valid_tags, bus(request)),)
