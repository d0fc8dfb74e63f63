"""Assigns routing tables to the interface's addresses, and routes to those tables: pure functions."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from cni_plugins.contract.config_fields import IPV4, IPV6
from cni_plugins.contract.facts import RouteFacts
from cni_plugins.contract.gateways import DEFAULT_ROUTE
from cni_plugins.errors import InvalidNetworkConfig
from cni_plugins.protocol.fields import IPAddress, IPInterface, IPNetwork
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import IPConfig, Result, Route, own_part
from cni_plugins.sbr.config import SbrConfig
from cni_plugins.steps.ip import SCOPE_LINK, AddRoute
from cni_plugins.steps.step import SANDBOX

_MAIN_TABLES = (None, 0, 254)  # of routes in a result: how these name the main table
_DEFAULT_METRIC = {IPV4: 0, IPV6: 1024}  # of a route without one; of IPv6 IP6_RT_PRIO_USER


class Source(NamedTuple):
    """An address of the interface, and the table by which packets from it are routed."""

    ip: IPConfig
    table: int

    @property
    def version(self) -> int:
        return self.ip.address.version

    @property
    def network(self) -> IPNetwork:
        return self.ip.address.network


def own_result(request: Request) -> Result:
    """Return the addresses and routes of the interface in prevResult, each address once."""
    own = own_part(request.prev_result or Result(), request.ifname, request.netns)
    once = {ip.address.ip: ip for ip in reversed(own.ips)}
    return own._replace(ips=tuple(reversed(once.values())))


def require_addresses(request: Request) -> None:
    """:raises InvalidNetworkConfig: when there is no address, or a gateway of the other IP version."""
    ips = own_result(request).ips
    if not ips:
        raise InvalidNetworkConfig(
            f"No IP addresses supplied on interface: {request.ifname}",
            f"prevResult has none for {request.ifname} in {request.netns}",
        )
    for ip in ips:
        if ip.gateway is not None and ip.gateway.version != ip.address.version:
            raise InvalidNetworkConfig(
                f"{ip.address} and its gateway {ip.gateway} are of different IP versions", "prevResult.ips"
            )


def with_gateways(config: SbrConfig, ips: tuple[IPConfig, ...]) -> tuple[IPConfig, ...]:
    """Return the addresses with the gateways in effect: those of the config come before those of IPAM."""
    return tuple(ip._replace(gateway=config.gateway(ip.address.version) or ip.gateway) for ip in ips)


def takers(
    sources: Sequence[Source], version: int, gateways: Sequence[IPAddress], source: IPAddress | None = None
) -> tuple[Source, ...]:
    """Return the sources whose tables a route belongs into.

    These are the ones whose subnet contains its gateway or its source address; if there is none, or the route
    has neither, all of its IP version.
    """
    family = tuple(item for item in sources if item.version == version)
    found = {address for address in (*gateways, source) if address is not None}
    near = tuple(
        item
        for item in family
        if any(address.version == version and address in item.network for address in found)
    )
    return near or family


def copies(
    config: SbrConfig, sources: Sequence[Source], routes: Sequence[RouteFacts]
) -> Iterator[tuple[Source, RouteFacts]]:
    """Yield which table gets a copy of which route: those to neighbours first, which others lead through.

    A gateway of the config replaces all default routes of its IP version.
    """
    for item in in_order(routes):
        if is_default(item.dst) and config.gateway(item.dst.version):
            continue
        for source in takers(sources, item.dst.version, item.gateways, item.source):
            yield source, item


def in_order(routes: Sequence[RouteFacts]) -> list[RouteFacts]:
    """Return routes so that each comes after the one to its gateway, otherwise in the kernel's order."""
    return sorted(routes, key=lambda item: bool(item.gateways))


def is_default(dst: IPInterface) -> bool:
    return not dst.network.prefixlen


def stays(dst: IPNetwork) -> bool:
    """Say whether a route remains in the main table: packets to these destinations name their link."""
    return dst.version == IPV6 and (dst.is_link_local or dst.is_multicast)


def default_route(link: str, source: Source) -> AddRoute | None:
    """Return the step for the default route of a source's table, None without a gateway."""
    gateway = source.ip.gateway
    if gateway is None:
        return None
    return AddRoute(SANDBOX, link, DEFAULT_ROUTE[source.version], gateway, table=source.table)


def replaces_default(source: Source, metric: int) -> bool:
    """Say whether a default route of this metric takes the place of the one through the source's gateway.

    :param metric: 0: the kernel's default.
    """
    return metric in (0, _DEFAULT_METRIC[source.version])


def main_routes(own: Result) -> tuple[Route, ...]:
    """Return the recorded routes that the main plugin has added to the main table."""
    return tuple(item for item in own.routes if item.table in _MAIN_TABLES)


def is_on_link(item: RouteFacts) -> bool:
    """Say whether a route's destinations are neighbours; IPv6 routes have no scope."""
    return item.scope >= SCOPE_LINK if item.dst.version == IPV4 else not item.gateways


def is_neighbour(address: IPAddress | None, routes: Sequence[RouteFacts]) -> bool:
    """Say whether an address is on the link, as link-local ones of IPv6 always are."""
    if address is None or (address.version == IPV6 and address.is_link_local):
        return True
    return any(
        is_on_link(item) and item.dst.version == address.version and address in item.dst.network
        for item in routes
    )


def hints(sources: Sequence[Source]) -> dict[IPNetwork, IPAddress]:
    """Return the source address for each subnet of the interface, the last one as in the reference."""
    return {
        item.network: item.ip.address.ip
        for item in sources
        if item.network.num_addresses > 1 and not stays(item.network)
    }
