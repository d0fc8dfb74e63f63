"""How the host and its containers on one master reach each other, which the kernel by itself prevents.

The host gets a macvlan link of its own beside theirs, and routes to each of their addresses out of it. It
bears no address but gateways: what the host sends has an address of the master as its source, and the
containers are told the link-layer address for that. So no neighbour on the wire ever learns of the link.
"""

from collections.abc import Iterator
from ipaddress import ip_interface

from cni_plugins.contract.keys import IPV6
from cni_plugins.contract.phrases import no_router_advertisements
from cni_plugins.errors import InvalidNetworkConfig
from cni_plugins.macvlan.identity import Identity
from cni_plugins.macvlan.master import Master
from cni_plugins.spec.fields import IPAddress
from cni_plugins.spec.request import Request
from cni_plugins.spec.result import IPConfig
from cni_plugins.steps.addresses import EnsureAddress, EnsureHostRoutes, EnsureNeighbour
from cni_plugins.steps.links import EnsureUp
from cni_plugins.steps.macvlans import EnsureHostLink
from cni_plugins.steps.places import HOST, SANDBOX
from cni_plugins.steps.plan import Step
from cni_plugins.steps.settings import EnsureSysctl

# Behind any route of the master's own addresses, which others on the wire are reached by.
_GATEWAY_METRIC = 2048


def host_access(
    request: Request, identity: Identity, master: Master, ips: tuple[IPConfig, ...], *, is_gateway: bool
) -> Iterator[Step]:
    link = identity.host_link
    yield EnsureHostLink(link, master.name, identity.host_mac, 0, request.network)
    yield no_router_advertisements(link)
    # Answer only those who are reached by this link; others on the wire shall know the master's address.
    yield EnsureSysctl(HOST, ("ipv4", "conf", link, "arp_filter"), "1")
    yield EnsureSysctl(HOST, ("ipv6", "conf", link, "accept_dad"), "0", optional=True)
    yield EnsureUp(HOST, link)
    if is_gateway:
        for ip in ips:
            yield _gateway(link, ip)
    sources = {address.version: address for address in _known_to(ips, master)}
    wanted = tuple(ip.address.ip for ip in ips)
    yield EnsureHostRoutes(link, wanted, request.attachment.mark, tuple(sources.values()))
    for address in _known_to(ips, master):
        yield EnsureNeighbour(SANDBOX, request.ifname, address, identity.host_mac)


def _gateway(link: str, ip: IPConfig) -> EnsureAddress:
    """:raises InvalidNetworkConfig: when the gateway is in no subnet of the network's."""
    if ip.gateway is None or ip.gateway not in ip.address.network:
        raise InvalidNetworkConfig(
            f"gateway {ip.gateway} is outside of {ip.address.network}", "isGateway and hostAccess are set"
        )
    address = ip_interface((ip.gateway.packed, ip.address.network.prefixlen))
    return EnsureAddress(HOST, link, address, skip_dad=True, metric=_GATEWAY_METRIC)


def _known_to(ips: tuple[IPConfig, ...], master: Master) -> list[IPAddress]:
    """Return the host's addresses that containers take for their neighbour's."""
    return [
        address.ip
        for address in master.addresses
        if not (address.version == IPV6 and address.ip.is_link_local)
        and any(address.version == ip.address.version and address.ip in ip.address.network for ip in ips)
        and all(address.ip != ip.gateway for ip in ips)
    ]
