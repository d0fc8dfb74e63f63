"""Plans ADD, CHECK and DEL of the sbr plugin: pure functions from request, config and facts."""

import errno
from collections.abc import Iterator, Sequence
from ipaddress import ip_interface

from cni_plugins.contract.config_fields import IPV6
from cni_plugins.contract.facts import Facts, RouteFacts, RuleFacts
from cni_plugins.contract.plan_parts import route
from cni_plugins.contract.plugin import Decision
from cni_plugins.contract.prev_result import required
from cni_plugins.errors import KernelRefused, NameTaken, StateDrifted
from cni_plugins.protocol.fields import IPAddress, IPInterface, IPNetwork
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import IPConfig, Result
from cni_plugins.sbr import sources as parts
from cni_plugins.sbr.config import SbrConfig
from cni_plugins.sbr.sources import Source
from cni_plugins.steps.ip import SCOPE_LINK, AddRoute, AwaitAddresses
from cni_plugins.steps.policy_routing import (
    AddMainRoute,
    AddRouteCopy,
    AddRule,
    DelMainRoute,
    DelRule,
    DelTableRoutes,
)
from cni_plugins.steps.step import SANDBOX, Plan, Step

_FIRST_TABLE = 100  # of those that the reference chooses


def admit(request: Request, config: SbrConfig, facts: Facts) -> None:
    """Refuse before anything is changed.

    :raises NameTaken: when the sandbox has rules of the attachment already.
    :raises KernelRefused: when there is no such interface.
    """
    present = next((rule for rule in facts.rules if rule.mark in _marks(request)), None)
    if present is not None:
        raise NameTaken(
            f"source based routing of {request.ifname} is already set up",
            f"the sandbox has a rule from {present.address} lookup {present.table}",
        )
    if config.table is None and facts.routes is None:
        raise KernelRefused(f"link {request.ifname} not found", f"CNI_NETNS is {request.netns}", errno.ENODEV)


def decide(request: Request, config: SbrConfig, _lease: Result, facts: Facts) -> Decision:
    """Return the steps and, unless the config has other gateways, prevResult as it is.

    :raises InvalidNetworkConfig: when the interface has no address.
    :raises StateDrifted: when CHECK finds addresses without a rule.
    """
    parts.require_addresses(request)
    if config.table is not None:
        ips = parts.own_result(request).ips
        sources = tuple(Source(ip, config.table) for ip in ips)
        return Decision(tuple(_rules(request, config, sources)), required(request))
    steps = _check(request, config, facts) if request.command == "CHECK" else _add(request, config, facts)
    return Decision(tuple(steps), _result(request, config))


def _result(request: Request, config: SbrConfig) -> Result:
    """Return prevResult, with the gateways of the config in default routes, as CHECK would miss others."""
    result = required(request)
    if not config.gateways:
        return result
    own = [item for item in parts.main_routes(parts.own_result(request)) if parts.is_default(item.dst)]
    routes = (
        item._replace(gw=config.gateway(item.dst.version) or item.gw) if item in own else item
        for item in result.routes
    )
    return result._replace(routes=tuple(routes))


def _marks(request: Request) -> tuple[int, int]:
    mark = request.attachment.rule_mark
    return mark(shares_table=False), mark(shares_table=True)


def _rules(request: Request, config: SbrConfig, sources: Sequence[Source]) -> Iterator[Step]:
    mark = request.attachment.rule_mark(shares_table=config.table is not None)
    for source in sources:
        yield AddRule(SANDBOX, source.ip.address.ip, source.table, mark)


# ------------------------------------------------------------------------------------------------- ADD


def _add(request: Request, config: SbrConfig, facts: Facts) -> Iterator[Step]:
    """Yield steps that fill the tables, direct packets to them, and then empty the main table."""
    ips = parts.with_gateways(config, parts.own_result(request).ips)
    sources = tuple(map(Source, ips, facts.free_tables))
    versions = {source.version for source in sources}
    routes = tuple(item for item in facts.routes or () if item.dst.version in versions)
    copied: dict[int, list[RouteFacts]] = {source.table: [] for source in sources}
    for source, item in parts.copies(config, sources, routes):
        copied[source.table].append(item)
        yield AddRouteCopy(SANDBOX, item.dst, item.message, source.table)
    for source in sources:
        yield from _default(request.ifname, source, copied[source.table])
    yield from _rules(request, config, sources)
    yield from _main_table(request.ifname, parts.hints(sources) if config.add_source_hints else None, routes)


def _default(link: str, source: Source, copied: Sequence[RouteFacts]) -> Iterator[Step]:
    """Yield the default route through the source's gateway, unless a copied one has its place."""
    step = parts.default_route(link, source)
    defaults = (item for item in copied if parts.is_default(item.dst))
    if step and not any(parts.replaces_default(source, item.metric) for item in defaults):
        # A point-to-point link has an address in a subnet without being connected to it.
        yield step.replace(onlink=not parts.is_neighbour(step.gw, copied))


def _main_table(
    link: str, hints: dict[IPNetwork, IPAddress] | None, routes: Sequence[RouteFacts]
) -> Iterator[Step]:
    """Yield steps that remove the routes from the main table, those to gateways last.

    :param hints: the source address for each subnet, whose routes stay; None: no route to neighbours stays.
    """
    if hints is not None and any(network.version == IPV6 for network in hints):
        yield AwaitAddresses(SANDBOX, link)  # the kernel rejects a tentative address as source
    for item in reversed(parts.in_order(routes)):
        if item.is_learned or parts.stays(item.dst.network):
            continue
        if hints is None or not (item.dst.network in hints or parts.is_on_link(item)):
            yield DelMainRoute(SANDBOX, link, item.dst, item.message)
        else:
            yield from _hinted(link, item, hints.get(item.dst.network))
    present = {item.dst.network for item in routes}
    for network, address in (hints or {}).items():
        if network not in present:
            yield AddRoute(SANDBOX, link, _interface(network), scope=SCOPE_LINK, src=address)


def _hinted(link: str, item: RouteFacts, address: IPAddress | None) -> Iterator[Step]:
    """Yield steps that give a route a source address; the kernel cannot change that of a route."""
    if address is not None and address != item.source:
        yield DelMainRoute(SANDBOX, link, item.dst, item.message)
        yield AddMainRoute(SANDBOX, link, item.dst, item.message, address)


def _interface(network: IPNetwork) -> IPInterface:
    return ip_interface((network.network_address.packed, network.prefixlen))


# ----------------------------------------------------------------------------------------------- CHECK


def _check(request: Request, config: SbrConfig, facts: Facts) -> Iterator[Step]:
    """Yield steps for what ADD made, as far as it follows from prevResult.

    The tables are those to which the rules lead.
    """
    link, own = request.ifname, parts.own_result(request)
    ips = parts.with_gateways(config, own.ips)
    sources = _found(request, ips, facts.rules)
    yield from _rules(request, config, sources)
    recorded = tuple(
        route(link, item, own.ips).replace(table=None)
        for item in parts.main_routes(own)
        if not (parts.is_default(item.dst) and config.gateway(item.dst.version))
    )
    for source in sources:
        yield from _filled(link, source, [item for item in recorded if source in _takers(sources, item)])
    yield from _emptied(link, config, sources, [item.dst for item in parts.main_routes(own)])


def _found(request: Request, ips: tuple[IPConfig, ...], rules: Sequence[RuleFacts]) -> tuple[Source, ...]:
    """Return the addresses with the tables to which the rules lead.

    :raises StateDrifted: when one has no rule, of the attachment or without mark, as the reference makes it.
    """
    own = request.attachment.rule_mark(shares_table=False)
    plain = {rule.address: rule.table for rule in rules if not rule.mark and rule.table >= _FIRST_TABLE}
    tables = plain | {rule.address: rule.table for rule in rules if rule.mark == own}
    missing = [
        f"rule from {ip.address.ip} in the sandbox is missing" for ip in ips if ip.address.ip not in tables
    ]
    if missing:
        raise StateDrifted(missing[0], "; ".join(missing))
    return tuple(Source(ip, tables[ip.address.ip]) for ip in ips)


def _takers(sources: Sequence[Source], item: AddRoute) -> tuple[Source, ...]:
    return parts.takers(sources, item.dst.version, () if item.gw is None else (item.gw,))


def _filled(link: str, source: Source, recorded: Sequence[AddRoute]) -> Iterator[Step]:
    """Yield the routes that a source's table contains: to its subnet, the recorded ones, and the default."""
    if source.network.num_addresses > 1:
        yield AddRoute(SANDBOX, link, _interface(source.network), table=source.table)
    yield from (item.replace(table=source.table) for item in recorded)
    step = parts.default_route(link, source)
    defaults = (item for item in recorded if parts.is_default(item.dst))
    if step and not any(parts.replaces_default(source, item.priority) for item in defaults):
        yield step


def _emptied(
    link: str, config: SbrConfig, sources: Sequence[Source], recorded: Sequence[IPInterface]
) -> Iterator[Step]:
    """Yield steps for what the main table does not contain any more, and for the hints in it."""
    hints = parts.hints(sources) if config.add_source_hints else {}
    subnets = (_interface(source.network) for source in sources if source.network.num_addresses > 1)
    going = dict.fromkeys(item.network for item in (*subnets, *recorded))
    for network in going:
        if network not in hints and not parts.stays(network):
            yield DelMainRoute(SANDBOX, link, _interface(network))
    for network, address in hints.items():
        yield AddMainRoute(SANDBOX, link, _interface(network), source=address)


# ------------------------------------------------------------------------------------------------- DEL


def delete(request: Request, config: SbrConfig | None, facts: Facts) -> Plan:
    """Return the steps of DEL: routes before the rule that keeps others from choosing their table."""
    own, shared = _marks(request)
    steps: list[Step] = []
    for rule in facts.rules:
        if rule.mark == own:
            steps.append(DelTableRoutes(SANDBOX, request.ifname, rule.table, rule.address.version))
        if rule.mark in (own, shared):
            steps.append(DelRule(SANDBOX, rule.address, rule.table, rule.mark))
        elif _is_references(request, config, rule, facts):
            steps.append(DelRule(SANDBOX, rule.address, rule.table, priority=rule.priority))
    return tuple(steps)


def _is_references(request: Request, config: SbrConfig | None, rule: RuleFacts, facts: Facts) -> bool:
    """Say whether the reference may have made a rule, which it does not mark."""
    table = config.table if config else None
    is_likely = rule.table >= _FIRST_TABLE if table is None else rule.table == table
    return not rule.mark and is_likely and rule.address in _addresses(request, facts)


def _addresses(request: Request, facts: Facts) -> set[IPAddress]:
    """Return the interface's addresses; those of prevResult if it is gone."""
    link = facts.sandbox.get(request.ifname)
    if link is not None:
        return {address.ip for address in link.addresses}
    return {ip.address.ip for ip in parts.own_result(request).ips}
