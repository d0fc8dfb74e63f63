"""Plans `hostAccess`: lets the host and its containers on one master exchange packets.

The kernel does not deliver between a master and its macvlan links. So the host gets a macvlan link of its
own, and routes through it to each container address. That link has no addresses except gateways: the host
sends from an address of the master. Containers get a neighbour entry for that address, and the host one for
each container. So neither asks all others by ARP or ND, who therefore never learn about the link.
"""

from collections.abc import Iterator
from ipaddress import ip_interface

from cni_plugins.contract.config_fields import IPV4, IPV6
from cni_plugins.contract.plan_parts import forwarding_on, no_router_advertisements
from cni_plugins.errors import InvalidNetworkConfig
from cni_plugins.macvlan.identity import MacvlanIdentity
from cni_plugins.macvlan.master import Master
from cni_plugins.protocol.fields import IPAddress
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import IPConfig
from cni_plugins.steps.ip import IF_PRESENT, EnsureAddress, EnsureSysctl
from cni_plugins.steps.links import EnsureUp
from cni_plugins.steps.macvlan import EnsureHostLink
from cni_plugins.steps.neighbours import EnsureHostRoutes, EnsureNeighbour
from cni_plugins.steps.step import HOST, SANDBOX, Step

# Larger than those of the master's prefix routes, through which other neighbours on the wire are reached.
_GATEWAY_METRIC = 2048


def host_access(
    request: Request,
    identity: MacvlanIdentity,
    master: Master,
    ips: tuple[IPConfig, ...],
    *,
    is_gateway: bool,
) -> Iterator[Step]:
    link = identity.host_link
    yield EnsureHostLink(link, master.name, identity.host_mac, master.mtu, request.network)
    yield no_router_advertisements(link)
    # Answer only neighbours routed through this link; others on the wire must learn the master's MAC address.
    yield EnsureSysctl(HOST, ("ipv4", "conf", link, "arp_filter"), "1")
    yield EnsureSysctl(HOST, ("ipv6", "conf", link, "accept_dad"), "0", IF_PRESENT)
    families = {ip.address.version for ip in ips}
    yield from forwarding_on(link, families if is_gateway else families - {IPV4})
    yield EnsureUp(HOST, link)
    if is_gateway:
        yield from _gateways(link, master, ips)
    known = _neighbours_of(ips, master)
    wanted = tuple(ip.address.ip for ip in ips)
    yield EnsureHostRoutes(link, wanted, request.attachment.mark, _sources(known), identity.first_mac)
    for address in known:
        yield EnsureNeighbour(SANDBOX, request.ifname, address, identity.host_mac)


def _gateways(link: str, master: Master, ips: tuple[IPConfig, ...]) -> Iterator[EnsureAddress]:
    """Yield the gateway addresses, except those of the master that containers have a neighbour entry for."""
    known = _neighbours_of(ips, master)
    return (_gateway(link, ip) for ip in ips if ip.gateway not in known)


def _gateway(link: str, ip: IPConfig) -> EnsureAddress:
    """:raises InvalidNetworkConfig: when the gateway is not a valid router address in the subnet."""
    network = ip.address.network
    fault = ""
    if ip.gateway is None or ip.gateway not in network:
        fault = f"is outside of {network}"
    elif ip.gateway == ip.address.ip:
        fault = "is the container's own address"
    elif ip.gateway.version == IPV4 and ip.gateway in (network.network_address, network.broadcast_address):
        fault = f"is not a host address of {network}"
    if fault or ip.gateway is None:
        raise InvalidNetworkConfig(f"gateway {ip.gateway} {fault}", "isGateway and hostAccess are set")
    address = ip_interface((ip.gateway.packed, ip.address.network.prefixlen))
    return EnsureAddress(HOST, link, address, skip_dad=True, metric=_GATEWAY_METRIC)


def _neighbours_of(ips: tuple[IPConfig, ...], master: Master) -> list[IPAddress]:
    """Return the master's addresses that are in a subnet of the container.

    Addresses that move between hosts are left out: they have full prefix length, or are secondary.
    """
    return [
        address.ip
        for address in master.main_addresses
        if address.network.num_addresses > 1
        and not (address.version == IPV6 and address.ip.is_link_local)
        and any(address.version == ip.address.version and address.ip in ip.address.network for ip in ips)
    ]


def _sources(known: list[IPAddress]) -> tuple[IPAddress, ...]:
    """Return the oldest address of each family, as the most likely one to remain.

    The kernel lists IPv4 addresses oldest first, IPv6 addresses newest first.
    """
    of_family = {version: [item for item in known if item.version == version] for version in (IPV4, IPV6)}
    return (*of_family[IPV4][:1], *of_family[IPV6][-1:])
