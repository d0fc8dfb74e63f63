"""Computes gateways for hosts that are the gateway: missing ones are the first address of the subnet."""

from ipaddress import ip_interface

from cni_plugins.errors import InvalidNetworkConfig
from cni_plugins.protocol.fields import IPAddress, IPInterface
from cni_plugins.protocol.result import IPConfig, Route

DEFAULT_ROUTE = {4: ip_interface("0.0.0.0/0"), 6: ip_interface("::/0")}


def with_gateways(ips: tuple[IPConfig, ...]) -> tuple[IPConfig, ...]:
    """Return the addresses, each with a gateway.

    :raises InvalidNetworkConfig: when a subnet has no address left for one.
    """
    return tuple(ip if ip.gateway else ip._replace(gateway=_first_address(ip.address)) for ip in ips)


def _first_address(address: IPInterface) -> IPAddress:
    network = address.network
    last = int(network.network_address) == (1 << network.max_prefixlen) - 1
    if last or network.network_address + 1 == address.ip:
        raise InvalidNetworkConfig(
            f"{address} has no gateway, and its subnet has no address left for one", "isGateway is set"
        )
    return network.network_address + 1


def default_routes(ips: tuple[IPConfig, ...], given: tuple[Route, ...]) -> tuple[Route, ...]:
    """Return the given routes, plus a default route for each address family that lacks one."""
    taken = {route.dst.version for route in given if route.dst == DEFAULT_ROUTE[route.dst.version]}
    added = []
    for ip in ips:
        version = ip.address.version
        if version not in taken:
            taken.add(version)
            added.append(Route(DEFAULT_ROUTE[version], ip.gateway))
    return (*given, *added)
