"""Computes the addresses of an overlay: the IPAM ranges of a host, its own addresses, and their gateways.

Also refuses IPAM answers with addresses that other hosts would not find here.
"""

import json
from collections.abc import Iterable, Iterator
from ipaddress import ip_address, ip_interface
from typing import Any

from cni_plugins.contract.gateways import default_routes
from cni_plugins.errors import InvalidNetworkConfig
from cni_plugins.protocol.fields import IPAddress, IPInterface, IPNetwork, get
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import IPConfig, Result
from cni_plugins.vxlan.config import Overlay
from cni_plugins.vxlan.local_host import LocalHost
from cni_plugins.vxlan.records import holds

_IPV4, _IPV6 = 4, 6
IPAM = "host-local"


def ipam_type(request: Request) -> str:
    return request.ipam_type or IPAM


# ------------------------------------------------------------------------------------- the request to IPAM


def ipam_request(request: Request, overlay: Overlay | None, host: LocalHost | None) -> Request:
    """Return the request for the IPAM plugin: with this host's ranges, unless the config has ranges.

    :raises InvalidNetworkConfig: when this host has no address for a container.
    """
    given = get(request.conf, "ipam")
    ipam = dict(given) if isinstance(given, dict) else {}
    if request.ipam_type not in ("", IPAM):
        return request
    if not request.ipam_type:
        ipam["type"] = IPAM
    runtime_config = get(request.conf, "runtimeConfig")
    has_ranges = any(get(ipam, key) for key in ("ranges", "subnet")) or bool(
        isinstance(runtime_config, dict) and get(runtime_config, "ipRanges")
    )
    if overlay is not None and host is not None and not has_ranges:
        ipam["ranges"] = list(_ranges(overlay, host))
        if not ipam["ranges"]:
            raise InvalidNetworkConfig(
                "this host has no addresses to give out",
                f"ipam has no ranges, and peer {host.own.node} has no free address in its blocks "
                f"({_listed(host.own.blocks)})",
            )
    rest = {key: value for key, value in request.conf.items() if key.lower() != "ipam"}
    conf = {**rest, "ipam": ipam}
    return request._replace(conf=conf, stdin=json.dumps(conf).encode())


def _listed(networks: tuple[IPNetwork, ...]) -> str:
    return ", ".join(map(str, networks)) or "none"


def _ranges(overlay: Overlay, host: LocalHost) -> Iterator[list[dict[str, Any]]]:
    if overlay.config.mode == "l3":
        for subnet in host.own.subnets:
            yield [{"subnet": str(subnet), "gateway": str(overlay.gateway(subnet))}]
        return
    subnet = overlay.config.within[0]
    ranges = [_range(overlay, host, subnet, block) for block in host.own.blocks]
    if any(ranges):
        yield [item for item in ranges if item]


def _range(overlay: Overlay, host: LocalHost, subnet: IPNetwork, block: IPNetwork) -> dict[str, Any]:
    """Return the range of a block that containers can use, empty if there is none."""
    node = node_address(overlay, host.own.blocks, subnet)
    own = None if node is None else node.ip
    # Blocks may be too large to enumerate when hosts learn addresses, so only the ends are computed.
    ends = [
        next((address for address in addresses_of(overlay, block, backwards=last) if address != own), None)
        for last in (False, True)
    ]
    if None in ends:
        return {}
    bounds = {"rangeStart": str(ends[0]), "rangeEnd": str(ends[1])}
    return {"subnet": str(subnet), **bounds, "gateway": str(overlay.gateway(subnet))}


# ---------------------------------------------------------------------------------------- stretched subnets


def addresses_of(overlay: Overlay, block: IPNetwork, *, backwards: bool = False) -> Iterator[IPAddress]:
    """Yield the addresses of a block that a host or container can have."""
    subnet = overlay.config.within[0]
    taken = {subnet.network_address, overlay.gateway(subnet)}
    if subnet.version == _IPV4:
        taken.add(subnet.broadcast_address)
    first = int(block.network_address)
    numbers = range(first, first + block.num_addresses)
    for number in reversed(numbers) if backwards else numbers:
        address = type(block.network_address)(number)
        if address not in taken:
            yield address


def node_address(overlay: Overlay, blocks: tuple[IPNetwork, ...], subnet: IPNetwork) -> IPInterface | None:
    """Return the host's own address in a stretched subnet: the first of its first block.

    Replies to the host must reach this host; every host has the gateway address, so it cannot be the source.
    """
    first = next((address for block in blocks for address in addresses_of(overlay, block)), None)
    if first is None:
        return None
    address = first if first.version == subnet.version else twin(overlay, first)
    return None if address is None else ip_interface(f"{address}/{subnet.prefixlen}")


def twin(overlay: Overlay, address: IPAddress) -> IPAddress | None:
    """Return the IPv6 address paired with an IPv4 address: at the same offset in its subnet."""
    ipv4, *ipv6 = overlay.config.within
    if not ipv6 or address.version != _IPV4:
        return None
    return ip_address(int(ipv6[0].network_address) + int(address) - int(ipv4.network_address))


# ------------------------------------------------------------------------------------- the answer of IPAM


def in_effect(overlay: Overlay, host: LocalHost, lease: Result) -> Result:
    """Return the lease with the overlay's gateways, default routes, and the IPv6 twins of its addresses.

    :raises InvalidNetworkConfig: when peers would not look for one of the addresses on this host.
    """
    ips = tuple(_with_gateway(overlay, host, ip) for ip in (*lease.ips, *_twins(overlay, lease.ips)))
    _require_reachable(overlay, host, ips)
    routes = default_routes(ips, lease.routes) if overlay.config.is_default_gateway else lease.routes
    return lease._replace(ips=ips, routes=routes)


def _twins(overlay: Overlay, ips: Iterable[IPConfig]) -> Iterator[IPConfig]:
    if overlay.config.mode == "l3" or any(ip.address.version == _IPV6 for ip in ips):
        return
    for ip in ips:
        address = twin(overlay, ip.address.ip)
        if address is not None:
            yield IPConfig(ip_interface(f"{address}/{overlay.config.within[1].prefixlen}"))


def _with_gateway(overlay: Overlay, host: LocalHost, ip: IPConfig) -> IPConfig:
    network = next((net for net in own_networks(overlay, host) if holds(net, ip.address.ip)), None)
    if network is None:
        listed = ", ".join(map(str, own_networks(overlay, host)))
        raise InvalidNetworkConfig(
            f"address {ip.address.ip} is not in a network of this host: peers would not find it",
            f"this host has {listed}",
        )
    gateway = overlay.gateway(network)
    if ip.address.ip in (gateway, network.network_address):
        raise InvalidNetworkConfig(f"address {ip.address.ip} is the host's own", f"in network {network}")
    if network.version == _IPV4 and ip.address.ip == network.broadcast_address:
        raise InvalidNetworkConfig(f"address {ip.address.ip} is a broadcast address", f"in network {network}")
    # host-local returns the first address as gateway for ranges without one.
    if overlay.config.ipam.type not in ("", IPAM) and ip.gateway not in (None, gateway):
        raise InvalidNetworkConfig(
            f"gateway {ip.gateway} of address {ip.address.ip} is not the overlay's, {gateway}",
            f"the IPAM plugin returned it, and the host has {gateway} in {network}",
        )
    return ip._replace(gateway=gateway, address=ip_interface(f"{ip.address.ip}/{network.prefixlen}"))


def own_networks(overlay: Overlay, host: LocalHost) -> tuple[IPNetwork, ...]:
    """Return the networks in which the host has a gateway address: its subnets, or the stretched one."""
    return host.own.subnets if overlay.config.mode == "l3" else overlay.config.within


def _require_reachable(overlay: Overlay, host: LocalHost, ips: tuple[IPConfig, ...]) -> None:
    """:raises InvalidNetworkConfig: when other hosts would look for one of the addresses on another host."""
    for ip in ips:
        node = (
            node_address(overlay, host.own.blocks, ip.address.network)
            if overlay.config.mode == "l2"
            else None
        )
        if node is not None and node.ip == ip.address.ip:
            raise InvalidNetworkConfig(
                f"address {ip.address.ip} is the host's own", "first of its first block"
            )
    if overlay.config.mode == "l3" or not overlay.programmed or not ips:
        return
    first = ips[0].address.ip
    expected = [first, other] if (other := twin(overlay, first)) else [first]
    if not any(holds(block, first) for block in host.own.blocks):
        raise InvalidNetworkConfig(
            f"address {first} is not in a block of this host: peers would look for it elsewhere",
            f"blocks are {', '.join(map(str, host.own.blocks))}, bum is none",
        )
    odd = next((ip.address.ip for ip in ips if ip.address.ip not in expected), None)
    if odd is not None:
        raise InvalidNetworkConfig(
            f"address {odd} beside {first}: a container has one MAC address, derived from one IP address",
            "bum is none; with head-end a container may have several",
        )
