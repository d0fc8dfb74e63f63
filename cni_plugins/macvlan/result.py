"""Builds the result of ADD: prevResult, the macvlan link, and the host's own link."""

from cni_plugins.contract.gateways import with_gateways
from cni_plugins.macvlan.config import MacvlanConfig
from cni_plugins.macvlan.identity import MacvlanIdentity
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import DNS, Interface, IPConfig, Result, Route


def own_addresses(
    request: Request, config: MacvlanConfig, lease: Result
) -> tuple[tuple[IPConfig, ...], tuple[Route, ...]]:
    """Return addresses and routes of the link: the IPAM's, or those of prevResult for a link of the host."""
    chained = request.command == "ADD" and not config.ipam.type
    ips, routes = (
        (_host_ips(request.prev_result), _routes_of(request)) if chained else (lease.ips, lease.routes)
    )
    return (with_gateways(ips) if config.routes_for_containers else ips), (routes if ips else ())


def _host_ips(result: Result | None) -> tuple[IPConfig, ...]:
    """Return the addresses of prevResult that do not belong to an interface of a sandbox."""
    if result is None:
        return ()
    inside = {number for number, item in enumerate(result.interfaces) if item.sandbox}
    return tuple(ip for ip in result.ips if ip.interface is None or ip.interface not in inside)


def _routes_of(request: Request) -> tuple[Route, ...]:
    return request.prev_result.routes if request.prev_result else ()


def result(request: Request, config: MacvlanConfig, identity: MacvlanIdentity, own: Result) -> Result:
    """Return prevResult with the link and the host's own link appended.

    :param own: the addresses and routes of the link, as `own_addresses` returns them.
    """
    before = request.prev_result or Result()
    index = len(before.interfaces)
    interfaces = [
        *before.interfaces,
        Interface(request.ifname, identity.mac, request.netns, mtu=identity.mtu),
    ]
    if config.host_access:
        interfaces.append(Interface(identity.host_link, identity.host_mac))
    taken = () if config.ipam.type else _host_ips(request.prev_result)
    return before._replace(
        interfaces=tuple(interfaces),
        ips=(
            *(ip for ip in before.ips if ip not in taken),
            *(ip._replace(interface=index) for ip in own.ips),
        ),
        routes=_routes(config, own, before),
        dns=_dns(config, own, before),
    )


def _routes(config: MacvlanConfig, own: Result, before: Result) -> tuple[Route, ...]:
    return (*before.routes, *own.routes) if config.ipam.type else before.routes or own.routes


def _dns(config: MacvlanConfig, own: Result, before: Result) -> DNS:
    if config.dns is not None:
        return config.dns
    return own.dns if own.dns != DNS() else before.dns
