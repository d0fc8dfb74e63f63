"""How the host and its containers on one master reach each other, which the kernel by itself prevents.

The host gets a macvlan link of its own beside theirs, and routes to each of their addresses out of it. It
bears no address but gateways: what the host sends has an address of the master as its source, and the
containers are told the link-layer address for that. So no neighbour on the wire ever learns of the link.
"""

from collections.abc import Iterator
from ipaddress import ip_interface

from cni_plugins.contract.config_fields import IPV4, IPV6
from cni_plugins.contract.plan_parts import no_router_advertisements
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

# Behind any route of the master's own addresses, which others on the wire are reached by.
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
    # Answer only those who are reached by this link; others on the wire shall know the master's address.
    yield EnsureSysctl(HOST, ("ipv4", "conf", link, "arp_filter"), "1")
    yield EnsureSysctl(HOST, ("ipv6", "conf", link, "accept_dad"), "0", IF_PRESENT)
    yield EnsureUp(HOST, link)
    if is_gateway:
        yield from _gateways(link, master, ips)
    known = _known_to(ips, master)
    wanted = tuple(ip.address.ip for ip in ips)
    yield EnsureHostRoutes(link, wanted, request.attachment.mark, _sources(known))
    for address in known:
        yield EnsureNeighbour(SANDBOX, request.ifname, address, identity.host_mac)


def _gateways(link: str, master: Master, ips: tuple[IPConfig, ...]) -> Iterator[EnsureAddress]:
    """Yield the gateway addresses but those that the master bears, if containers know them as the host's."""
    known = _known_to(ips, master)
    return (_gateway(link, ip) for ip in ips if ip.gateway not in known)


def _gateway(link: str, ip: IPConfig) -> EnsureAddress:
    """:raises InvalidNetworkConfig: when the gateway is no address that a router of the subnet can have."""
    network = ip.address.network
    fault = ""
    if ip.gateway is None or ip.gateway not in network:
        fault = f"is outside of {network}"
    elif ip.gateway == ip.address.ip:
        fault = "is the container's own address"
    elif ip.gateway.version == IPV4 and ip.gateway in (network.network_address, network.broadcast_address):
        fault = f"is no address of a host in {network}"
    if fault or ip.gateway is None:
        raise InvalidNetworkConfig(f"gateway {ip.gateway} {fault}", "isGateway and hostAccess are set")
    address = ip_interface((ip.gateway.packed, ip.address.network.prefixlen))
    return EnsureAddress(HOST, link, address, skip_dad=True, metric=_GATEWAY_METRIC)


def _known_to(ips: tuple[IPConfig, ...], master: Master) -> list[IPAddress]:
    """Return the host's addresses that containers take for their neighbour's.

    Not those that move from host to host: they are made for one address alone, or beside the main one.
    """
    return [
        address.ip
        for address in master.main_addresses
        if address.network.num_addresses > 1
        and not (address.version == IPV6 and address.ip.is_link_local)
        and any(address.version == ip.address.version and address.ip in ip.address.network for ip in ips)
    ]


def _sources(known: list[IPAddress]) -> tuple[IPAddress, ...]:
    """Return the address of each family that the master has had for longest, as no other may stay.

    The kernel lists IPv4 addresses as they came, and the newest IPv6 address first.
    """
    of_family = {version: [item for item in known if item.version == version] for version in (IPV4, IPV6)}
    return (*of_family[IPV4][:1], *of_family[IPV6][-1:])
