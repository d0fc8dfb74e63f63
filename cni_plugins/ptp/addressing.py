"""Computes a container's addresses, gateways and routes: plain ones as IPAM returns them, or routed ones.

A plain container has an address in a subnet, and its host end has that subnet's gateway address. A routed one
has only its own address: all containers share one link-local gateway, so hosts need no subnets of their own,
and no address is spent on gateways.
"""

from collections.abc import Iterator
from ipaddress import ip_interface

from cni_plugins.contract.config_fields import IPV4, IPV6
from cni_plugins.contract.gateways import DEFAULT_ROUTE
from cni_plugins.errors import InvalidNetworkConfig
from cni_plugins.protocol.fields import IPAddress, IPInterface
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import IPConfig, Result, Route
from cni_plugins.ptp.config import PtpConfig
from cni_plugins.steps.ip import SCOPE_LINK

# Link-local (RFC 3927, RFC 4291): every host has them.
ROUTED_GATEWAY = {IPV4: ip_interface("169.254.1.1/32"), IPV6: ip_interface("fe80::1/64")}


def single(address: IPAddress) -> IPInterface:
    """Return an address with full prefix length."""
    return ip_interface(address.packed)


def subnet(address: IPInterface) -> IPInterface:
    """Return the network of an address, with host bits zero."""
    return ip_interface((address.network.network_address.packed, address.network.prefixlen))


def families(ips: tuple[IPConfig, ...]) -> tuple[int, ...]:
    return tuple(sorted({ip.address.version for ip in ips}))


def in_effect(request: Request, config: PtpConfig, lease: Result, *, routed: bool) -> Result:
    """Return the lease as it is applied to the container and listed in the result.

    :raises InvalidNetworkConfig: when an address has no gateway, or a route's gateway is unreachable.
    """
    if request.command == "CHECK":
        # Later plugins of the chain may have added addresses and routes to prevResult.
        routes = tuple(_recorded(lease)) if routed else lease.routes
        return lease._replace(ips=tuple(ip for ip in lease.ips if ip.gateway), routes=routes)
    if not routed:
        _require_gateways(config, lease.ips)
        return lease
    _require_routable(config, lease.ips)
    ips = tuple(
        ip._replace(address=single(ip.address.ip), gateway=_routed_gateway(ip.address.version))
        for ip in lease.ips
    )
    return lease._replace(ips=ips, routes=tuple(_routes(lease)))


def is_routed(ips: tuple[IPConfig, ...]) -> bool:
    """Say whether recorded addresses belong to a routed container; the config may have changed since."""
    return any(ip.gateway == _routed_gateway(ip.address.version) for ip in ips)


def _require_routable(config: PtpConfig, ips: tuple[IPConfig, ...]) -> None:
    for ip in ips:
        if ip.address.ip.is_link_local:
            raise InvalidNetworkConfig(
                f"{ip.address} is a link-local address, which cannot be routed",
                f"ipam.type is {config.ipam.type}, routed is on",
            )


def _require_gateways(config: PtpConfig, ips: tuple[IPConfig, ...]) -> None:
    own = {ip.address.ip for ip in ips}
    for ip in ips:
        if ip.gateway is None:
            raise InvalidNetworkConfig(
                f"{ip.address} has no gateway, which a point-to-point link needs",
                f"ipam.type is {config.ipam.type}, routed is off",
            )
        if ip.gateway.version != ip.address.version or not ip.address.network.prefixlen:
            raise InvalidNetworkConfig(
                f"{ip.address} and its gateway {ip.gateway} are not in one subnet",
                f"ipam.type is {config.ipam.type}, routed is off",
            )
        if ip.gateway in own:
            raise InvalidNetworkConfig(
                f"the gateway of {ip.address} is the container's own address",
                f"ipam.type is {config.ipam.type}, gateway is {ip.gateway}",
            )


def _routed_gateway(version: int) -> IPAddress:
    return ROUTED_GATEWAY[version].ip


def _routes(lease: Result) -> Iterator[Route]:
    """Yield the IPAM's routes, each through the host, and a default route for each family without routes."""
    present = families(lease.ips)
    for route in lease.routes:
        _require_reachable(route, present)
        yield route._replace(gw=_routed_gateway(route.dst.version))
    for version in present:
        if not any(route.dst.version == version for route in lease.routes):
            yield Route(DEFAULT_ROUTE[version], _routed_gateway(version))


def _require_reachable(route: Route, present: tuple[int, ...]) -> None:
    version = route.dst.version
    gateway = _routed_gateway(version)
    fault = ""
    if version not in present:
        fault = f"the container has no IPv{version} address"
    elif route.gw not in (None, gateway):
        fault = f"its gateway is {route.gw}"
    elif (route.scope or 0) >= SCOPE_LINK:
        fault = f"its scope is {route.scope}"
    if fault:
        raise InvalidNetworkConfig(
            f"a routed container reaches only {gateway}, so the route to {route.dst.network} cannot work",
            f"{fault}, routed is on",
        )


def _recorded(lease: Result) -> Iterator[Route]:
    return (route for route in lease.routes if route.gw == _routed_gateway(route.dst.version))
