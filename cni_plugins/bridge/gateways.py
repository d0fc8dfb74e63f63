"""Computes gateways and routes of a bridge network, and the steps that give the bridge its addresses."""

from collections.abc import Iterator
from ipaddress import ip_address, ip_interface

from cni_plugins.bridge.config import BridgeConfig
from cni_plugins.contract.config_fields import IPV4
from cni_plugins.contract.facts import Facts
from cni_plugins.contract.gateways import default_routes, with_gateways
from cni_plugins.contract.plan_parts import forwarding_on
from cni_plugins.errors import InvalidNetworkConfig, NameTaken
from cni_plugins.ownership import gateway_port
from cni_plugins.protocol.fields import IPInterface
from cni_plugins.protocol.result import IPConfig, Route
from cni_plugins.steps.ip import DelAddress, EnsureAddress
from cni_plugins.steps.links import EnsureGatewayPort
from cni_plugins.steps.step import HOST, Step

# Addresses for documentation (RFC 5737, RFC 9637): the way to them is the way out of the host's own networks.
OUTSIDE = (ip_address("203.0.113.1"), ip_address("3fff::1"))


def gateways(config: BridgeConfig, ips: tuple[IPConfig, ...]) -> tuple[IPConfig, ...]:
    """Return the addresses with gateways; with isGateway, a missing one is the subnet's first address."""
    if not config.is_gw:
        return ips
    return with_gateways(ips)


def routes(config: BridgeConfig, ips: tuple[IPConfig, ...], given: tuple[Route, ...]) -> tuple[Route, ...]:
    """Return the routes of the result: the IPAM's, plus the default routes of isDefaultGateway."""
    return default_routes(ips, given) if config.is_default_gateway else given


def gateway_addresses(
    config: BridgeConfig, mac: str, ips: tuple[IPConfig, ...], facts: Facts, *, checking: bool
) -> Iterator[Step]:
    """Yield the steps that give the bridge a gateway address for each subnet.

    :param checking: True for CHECK, which accepts other addresses on the bridge.
    :raises NameTaken: when a present address conflicts with a gateway's and `forceAddress` is off.
    """
    link = config.gateway_link
    named = ((ip.gateway.packed, ip.address.network.prefixlen) for ip in ips if ip.gateway)
    wanted = list(dict.fromkeys(map(ip_interface, named)))
    present = facts.host[link].addresses if link in facts.host and not checking else ()
    if config.vlan:
        yield EnsureGatewayPort(
            link, mac, gateway_port(config.bridge, config.vlan), config.bridge, config.vlan
        )
    yield from forwarding_on(link, {address.version for address in wanted})
    for address in wanted:
        # In reverse: with the first address of a subnet, the kernel deletes its secondary ones.
        for other in reversed(_conflicts(address, present, wanted)):
            if not config.force_address:
                raise NameTaken(
                    f'"{link}" already has an IP address different from {address}',
                    f"it has {other}; forceAddress is off",
                )
            yield DelAddress(HOST, link, other)
        if address not in present:
            _require_router_elsewhere(address, link, facts)
        yield EnsureAddress(HOST, link, address, skip_dad=True)


def _require_router_elsewhere(address: IPInterface, link: str, facts: Facts) -> None:
    """:raises InvalidNetworkConfig: when the host would look for its own router behind the bridge."""
    for hop in facts.routes_to.values():
        if hop.gateway is not None and hop.link != link and hop.gateway in address.network:
            raise InvalidNetworkConfig(
                f"subnet {address.network} contains {hop.gateway}, the router of this host behind {hop.link}",
                f"with {address} on {link} the host would lose it; isGateway is set",
            )


def _conflicts(
    address: IPInterface, present: tuple[IPInterface, ...], wanted: list[IPInterface]
) -> list[IPInterface]:
    """Return the addresses that conflict with a gateway's: any other IPv4, and IPv6 of overlapping subnets.

    IPv4 follows the reference, which treats a second address as an error. Those of one plan never conflict.
    """
    if address in present:
        return []
    others = (
        other
        for other in present
        if other.version == address.version and other not in wanted and not other.ip.is_link_local
    )
    return [other for other in others if address.version == IPV4 or other.network.overlaps(address.network)]
