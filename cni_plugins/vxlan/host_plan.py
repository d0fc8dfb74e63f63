"""Plans the host-wide part of an overlay: filter rules, VXLAN link, bridge, peer entries.

The first ADD creates it, later ones reuse it, and `cnictl overlay sync` repairs it.
"""

from collections.abc import Iterator
from ipaddress import ip_interface

from cni_plugins.contract import plan_parts
from cni_plugins.contract.config_fields import IPV4, IPV6
from cni_plugins.contract.facts import Facts
from cni_plugins.errors import NameTaken
from cni_plugins.protocol.fields import IPAddress, IPInterface, IPNetwork
from cni_plugins.protocol.macs import link_local
from cni_plugins.steps.ip import IF_PRESENT, EnableForwarding, EnsureAddress, EnsureSysctl
from cni_plugins.steps.links import DelLink, EnsureUp
from cni_plugins.steps.overlay import (
    AttachVxlan,
    Edition,
    EnsureOverlayBridge,
    EnsureOverlayRules,
    EnsureProxied,
    EnsureVxlan,
    Filled,
    NetworkMasquerade,
)
from cni_plugins.steps.step import HOST, Plan, Step
from cni_plugins.vxlan.addressing import node_address, own_networks
from cni_plugins.vxlan.config import Overlay
from cni_plugins.vxlan.identity import ContainerMacs, vxlan_name
from cni_plugins.vxlan.local_host import LocalHost, clashes, find, is_of
from cni_plugins.vxlan.peer_entries import content, peer_entries, sources

_SINGLE = {IPV4: 32, IPV6: 128}


def require_no_clash(overlay: Overlay, facts: Facts) -> None:
    """:raises NameTaken: when a link of the host has addresses that conflict with the overlay's."""
    names = frozenset({overlay.bridge, vxlan_name(overlay.vni)})
    clash = clashes(overlay, facts, names)
    if clash:
        raise NameTaken(clash, f"network {overlay.network}: the host could not tell the two apart")
    host = find(overlay, facts)
    wanted = {
        address for network in own_networks(overlay, host) for address in _addresses(overlay, host, network)
    }
    for link in (link for link in facts.addressed if link.name in names):
        if not is_of(link, overlay.network):
            # Checked before any rule refers to the link: undoing that would remove the other network's rule.
            raise NameTaken(
                f'"{link.name}" already exists but is not of network {overlay.network}',
                f"its kind is {link.kind or 'a device'}, its alias {link.alias!r}",
            )
        former = [item for item in link.addresses if not item.ip.is_link_local and item not in wanted]
        if former and link.name in (overlay.bridge, overlay.vxlan):
            raise NameTaken(
                f"link {link.name} has {former[0]}, which no longer belongs to this host",
                f"network {overlay.network}: delete the containers with such addresses, then run GC",
            )


def _addresses(overlay: Overlay, host: LocalHost, network: IPNetwork) -> Iterator[IPInterface]:
    """Yield the addresses of the bridge, and in mode l3 of the VXLAN link, in one of the host's networks."""
    yield from _host_addresses(overlay, host, network)
    yield _single(network.network_address)


def host_plan(overlay: Overlay, facts: Facts) -> Plan:
    """Return the steps that join this host to the overlay, without any container.

    :raises InvalidNetworkConfig: as `vxlan.plan.decide`.
    """
    host = find(overlay, facts)
    return (*network_steps(overlay, host, facts), *host_settings(overlay, host))


def network_steps(overlay: Overlay, host: LocalHost, facts: Facts) -> Iterator[Step]:
    """Yield rules before links, so that no packet bypasses them, and links before objects that refer to them.

    When the VXLAN link moves to another UDP port, the rules come after it: if the new port is taken, the link
    must not lose the rules for its old one.
    """
    moves = _changes_port(overlay, facts)
    entries = peer_entries(overlay, host, facts.routes_to)
    edition = _edition(overlay, host)
    rules = _rules(overlay, host, edition)
    if not moves:
        yield rules
    if overlay.vxlan:
        yield from _vxlan(overlay, host)
    if moves:
        yield rules
    if _has_unused_link(overlay, facts):
        yield DelLink(HOST, vxlan_name(overlay.vni))
    yield from _bridge(overlay, host)
    if overlay.vxlan and overlay.config.mode == "l2":
        yield AttachVxlan(overlay.vxlan, overlay.bridge, overlay.programmed)
    gateways = (overlay.gateway(network) for network in own_networks(overlay, host))
    yield from proxied(overlay, tuple(gateway for gateway in gateways if gateway.version == IPV6))
    yield entries.replace(edition=edition)


def _edition(overlay: Overlay, host: LocalHost) -> Edition | None:
    """Return by what the tables are recognised; plain routes go with the underlay's link, and are read."""
    if overlay.config.direct_routing != "off":
        return None
    networks = own_networks(overlay, host)
    at_bridge = (address for network in networks for address in _host_addresses(overlay, host, network))
    own = Filled(overlay.vxlan, host.mac, _source_addresses(overlay, host))
    bridge = Filled(overlay.bridge, bridge_mac(overlay, host), tuple(at_bridge))
    return Edition(
        content(overlay, host),
        (own, bridge),
        version=0 if sources(overlay, host) is None else host.local.version,
        bridged=overlay.config.mode == "l2",
    )


def _source_addresses(overlay: Overlay, host: LocalHost) -> tuple[IPInterface, ...]:
    """Return the source address of what the host itself sends to peers' containers, of each family."""
    subnets = host.own.subnets if overlay.config.mode == "l3" else ()
    return tuple(_single(subnet.network_address) for subnet in subnets)


def _changes_port(overlay: Overlay, facts: Facts) -> bool:
    """Say whether the network's VXLAN link exists with a UDP port other than the configured one."""
    link = facts.host.get(overlay.vxlan)
    return link is not None and link.vxlan not in ((0, 0), (overlay.vni, overlay.config.port))


def _has_unused_link(overlay: Overlay, facts: Facts) -> bool:
    """Say whether the network's VXLAN link exists although the config no longer needs it."""
    name = vxlan_name(overlay.vni)
    return not overlay.vxlan and any(
        link.name == name and is_of(link, overlay.network) for link in facts.addressed
    )


def _rules(overlay: Overlay, host: LocalHost, edition: Edition | None) -> EnsureOverlayRules:
    return EnsureOverlayRules(
        overlay.network,
        overlay.vni,
        overlay.config.port,
        host.local.version,
        overlay.bridge,
        overlay.vxlan,
        sources=sources(overlay, host),
        underlay=host.arrives_by,
        restricted=overlay.restricted,
        in_clear=overlay.config.within if overlay.config.direct_routing != "off" else (),
        # Elsewhere blackhole routes do this; here, the route into the tunnel has their destination.
        never_in_clear=overlay.config.within
        if overlay.config.mode == "l3" and not overlay.programmed
        else (),
        # Otherwise a container could forge its source and direct replies to any host, in other overlays too.
        inside=() if overlay.config.restrict_sources is False else host.own.subnets,
        masquerades=tuple(_masquerades(overlay, host)),
        edition=edition,
    )


def _masquerades(overlay: Overlay, host: LocalHost) -> Iterator[NetworkMasquerade]:
    """Yield what is masqueraded: addresses of this host's containers, which in mode l2 may be any."""
    ip_masq, within = overlay.config.masquerade, overlay.config.within
    for network in host.own.subnets if overlay.config.mode == "l3" else within:
        if ip_masq.covers(network.version):
            same = [net for net in (*within, *ip_masq.exclude) if net.version == network.version]
            yield NetworkMasquerade(network, tuple(same), ip_masq.random_fully)


def _vxlan(overlay: Overlay, host: LocalHost) -> Iterator[Step]:
    link = overlay.vxlan
    yield EnsureVxlan(
        link,
        overlay.vni,
        overlay.config.port,
        overlay.network,
        host.link,
        host.local,
        host.mac,
        host.inner_mtu,
        overlay.df,
        learning=not overlay.programmed,
        group=overlay.roster.group,
        ttl=overlay.roster.ttl,
    )
    yield plan_parts.no_router_advertisements(link)
    if overlay.config.mode == "l3":
        if not overlay.programmed:
            yield from _proxy_sysctls(link)
        yield from plan_parts.forwarding_on(link, {subnet.version for subnet in host.own.subnets})
        if not overlay.programmed and any(subnet.version == IPV6 for subnet in host.own.subnets):
            yield _solicits_at_once(link, host.mac)
        for address in _source_addresses(overlay, host):  # peers can route replies to it
            yield EnsureAddress(HOST, link, address, skip_dad=True)
    yield EnsureUp(HOST, link)


def _solicits_at_once(link: str, mac: str) -> EnsureAddress:
    """Return the step for the link-local address that the kernel would add, usable at once.

    Neighbour solicitations for forwarded packets have it as source, and are not sent while it is tentative
    (ndisc_send_ns, net/ipv6/ndisc.c). Even without DAD only a work queue ends that, which may take seconds.
    """
    return EnsureAddress(HOST, link, link_local(mac), skip_dad=True)


def _proxy_sysctls(link: str) -> Iterator[Step]:
    """Make the host answer ARP and ND requests of other hosts for its containers' addresses."""
    yield EnsureSysctl(HOST, ("ipv4", "conf", link, "proxy_arp"), "1")
    yield EnsureSysctl(HOST, ("ipv4", "neigh", link, "proxy_delay"), "0")
    yield EnsureSysctl(HOST, ("ipv6", "conf", link, "proxy_ndp"), "1", IF_PRESENT)
    yield EnsureSysctl(HOST, ("ipv6", "neigh", link, "proxy_delay"), "0", IF_PRESENT)


def proxied(overlay: Overlay, addresses: tuple[IPAddress, ...]) -> Iterator[Step]:
    """Yield the step that proxies ND where hosts resolve addresses: Linux needs an entry for each address.

    Addresses of existing containers are included, as a VXLAN link that was recreated has no entries.
    """
    has_v6 = any(network.version == IPV6 for network in overlay.config.within)
    if has_v6 and overlay.config.mode == "l3" and not overlay.programmed:
        yield EnsureProxied(overlay.vxlan, addresses, overlay.bridge)


def _bridge(overlay: Overlay, host: LocalHost) -> Iterator[Step]:
    link = overlay.bridge
    yield EnsureOverlayBridge(link, overlay.network, bridge_mac(overlay, host), host.inner_mtu)
    yield plan_parts.no_router_advertisements(link)
    networks = own_networks(overlay, host)
    yield from plan_parts.forwarding_on(link, {network.version for network in networks})
    if any(network.version == IPV6 for network in networks):
        yield _solicits_at_once(link, bridge_mac(overlay, host))
    for network in networks:
        node, *gateway = _host_addresses(overlay, host, network)
        yield EnsureAddress(HOST, link, node, skip_dad=True)
        for address in gateway:
            # Every host has this address: replies to packets sent from it could reach any of them.
            yield EnsureAddress(HOST, link, address, skip_dad=True, deprecated=network.version == IPV6)
    yield EnsureUp(HOST, link)


def _host_addresses(overlay: Overlay, host: LocalHost, network: IPNetwork) -> Iterator[IPInterface]:
    """Yield the host's addresses in one of its networks; in a stretched one all hosts share the gateway."""
    gateway = overlay.gateway(network)
    if overlay.config.mode == "l3":
        yield ip_interface(f"{gateway}/{network.prefixlen}")
        return
    node = node_address(overlay, host.own.blocks, network)
    if node is not None:
        yield node
        yield _single(gateway)
    else:
        yield ip_interface(f"{gateway}/{network.prefixlen}")


def bridge_mac(overlay: Overlay, host: LocalHost) -> str:
    """Return the bridge's MAC address: in a stretched subnet the one derived from the host's own address."""
    macs = ContainerMacs(overlay.vni)
    node = (
        node_address(overlay, host.own.blocks, overlay.config.within[0])
        if overlay.config.mode == "l2"
        else None
    )
    return macs.of(node.ip if node is not None else host.local)


def _single(address: IPAddress) -> IPInterface:
    return ip_interface(f"{address}/{_SINGLE[address.version]}")


def host_settings(overlay: Overlay, host: LocalHost) -> Iterator[Step]:
    if overlay.vxlan and overlay.config.mode == "l3" and overlay.config.sysctls:
        # Otherwise the host forwards oversized packets into the tunnel for ever, without an ICMP error.
        yield EnsureSysctl(HOST, ("ipv4", "ip_forward_use_pmtu"), "1", IF_PRESENT)
    yield EnableForwarding(tuple(sorted({network.version for network in own_networks(overlay, host)})))
