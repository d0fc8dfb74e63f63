"""Defines the success result in one form, independent of protocol versions (see decode and encode).

Unknown keys of a prevResult are kept in `extra` and written back, so a chain loses nothing in our plugins.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from cni_plugins.protocol.fields import IPAddress, IPInterface

NOTHING: Mapping[str, Any] = MappingProxyType({})


class Interface(NamedTuple):
    """One entry of `interfaces`; an empty sandbox means the host."""

    name: str
    mac: str = ""
    sandbox: str = ""
    mtu: int = 0
    socket_path: str = ""
    pci_id: str = ""
    extra: Mapping[str, Any] = NOTHING


class IPConfig(NamedTuple):
    """One entry of `ips`; `interface` is an index into `interfaces`."""

    address: IPInterface
    gateway: IPAddress | None = None
    interface: int | None = None
    extra: Mapping[str, Any] = NOTHING


class Route(NamedTuple):
    """One entry of `routes`; zero and None mean "not given", except that table and scope 0 are values."""

    dst: IPInterface
    gw: IPAddress | None = None
    mtu: int = 0
    advmss: int = 0
    priority: int = 0
    table: int | None = None
    scope: int | None = None
    extra: Mapping[str, Any] = NOTHING


class DNS(NamedTuple):
    """Resolver settings; empty when nothing is set."""

    nameservers: tuple[str, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class Result(NamedTuple):
    """The result of ADD; that of an IPAM plugin has no interfaces."""

    interfaces: tuple[Interface, ...] = ()
    ips: tuple[IPConfig, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: DNS = DNS()
    extra: Mapping[str, Any] = NOTHING


def own_part(result: Result, ifname: str, netns: str) -> Result:
    """Return the addresses and routes of one interface in a sandbox, in the form of an IPAM plugin's result.

    Routes do not name their interface. If other interfaces have addresses too, only routes through a gateway
    of this one, or through an address in its subnets, are returned.
    """
    own = {n for n, item in enumerate(result.interfaces) if (item.name, item.sandbox) == (ifname, netns)}
    ips = tuple(ip for ip in result.ips if ip.interface is None or ip.interface in own)
    routes = result.routes
    if len(ips) < len(result.ips):
        routes = tuple(route for route in routes if _leads_through(route, ips))
    return Result(ips=ips, routes=routes, dns=result.dns)


def _leads_through(route: Route, ips: tuple[IPConfig, ...]) -> bool:
    gateway = route.gw
    if gateway is None:
        return False
    return any(
        gateway == ip.gateway or (gateway.version == ip.address.version and gateway in ip.address.network)
        for ip in ips
    )
