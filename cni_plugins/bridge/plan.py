"""What the bridge plugin decides: pure functions from request, config, lease and facts to a plan."""

from collections.abc import Iterable, Iterator
from itertools import pairwise

from cni_plugins.bridge.config import BridgeConfig
from cni_plugins.bridge.gateways import IPV4, IPV6, gateway_addresses, gateways, routes
from cni_plugins.bridge.identity import Identity, identify
from cni_plugins.contract.facts import Facts, LinkFacts
from cni_plugins.errors import NameTaken
from cni_plugins.spec.request import Request
from cni_plugins.spec.result import IPConfig, Result, Route
from cni_plugins.steps.addresses import AddRoute, AwaitAddresses, EnsureAddress
from cni_plugins.steps.links import (
    BRIDGE_ALIAS,
    AddVeth,
    Announce,
    AttachPort,
    AwaitUp,
    EnsureBridge,
    EnsurePromisc,
    EnsureUp,
    PinMac,
    PortVlan,
    SetPortVlans,
)
from cni_plugins.steps.places import HOST, SANDBOX
from cni_plugins.steps.plan import Plan, Step
from cni_plugins.steps.rules import EnsureIptablesMasquerade, EnsureMasquerade, EnsureSourceGuard
from cni_plugins.steps.settings import EnableForwarding, EnsureSysctl

_SCOPE_LINK = 253  # linux/rtnetlink.h: RT_SCOPE_LINK, and above it only the host itself


def admit(request: Request, config: BridgeConfig, facts: Facts) -> None:
    """Refuse before addresses are reserved, as taking those back could take a living attachment's.

    :raises NameTaken: when the bridge is none, or the sandbox has an interface of that name, or the host one
        of the name of the host end: that would be taken for ours from then on.
    """
    _existing_bridge(config, facts)
    if request.ifname in facts.sandbox:
        raise NameTaken(
            f'container veth name ("{request.ifname}") already exists',
            f"CNI_IFNAME is {request.ifname}, CNI_NETNS is {request.netns}",
        )
    if request.attachment.host_end in facts.host:
        raise NameTaken(
            f'container veth name ("{request.ifname}") peer provided ("{request.attachment.host_end}") '
            "already exists",
            f"CNI_IFNAME is {request.ifname}, CNI_NETNS is {request.netns}",
        )


def add(request: Request, config: BridgeConfig, lease: Result, facts: Facts) -> Plan:
    """Return the steps of ADD, host-wide switches last; CHECK compares the same steps with the kernel.

    :raises NameTaken: when the bridge is none, or has a gateway address that is not ours to replace.
    """
    identity = identify(request, config, facts)
    ips = gateways(config, lease.ips)
    steps = [
        *_bridge(config, identity, facts),
        AddVeth(
            request.ifname,
            identity.mac,
            identity.mtu,
            identity.host_end,
            identity.host_mac,
            request.attachment.alias if identity.ours else "",
        ),
        *_port(config, identity),
        *_gateways(request, config, identity, ips, facts),
        *_source_guard(request, config, identity),
        *_sandbox(request, config, identity, ips, routes(config, ips, lease.routes)),
        *_masquerade(request, config, identity, ips),
        *_working(request, config, identity, ips),
        *_forwarding(config, ips),
    ]
    return tuple(steps)


def _bridge(config: BridgeConfig, identity: Identity, facts: Facts) -> Iterator[Step]:
    existing = _existing_bridge(config, facts)
    yield EnsureBridge(config.bridge, identity.bridge_mac, identity.mtu, config.uses_vlans)
    if _needs_pin(existing):
        yield PinMac(config.bridge)
    yield EnsureSysctl(HOST, ("ipv6", "conf", config.bridge, "accept_ra"), "0", optional=True)
    if config.promisc_mode:
        yield EnsurePromisc(config.bridge, on=True)
    yield EnsureUp(HOST, config.bridge)


def _existing_bridge(config: BridgeConfig, facts: Facts) -> LinkFacts | None:
    existing = facts.host.get(config.bridge)
    if existing is not None and existing.kind != "bridge":
        raise NameTaken(
            f'"{config.bridge}" already exists but is not a bridge',
            f"its kind is {existing.kind or 'a device'}",
        )
    return existing


def _needs_pin(bridge: LinkFacts | None) -> bool:
    """A bridge of somebody else's may follow its ports' addresses; what the result says must stay true."""
    return bridge is not None and bridge.alias != BRIDGE_ALIAS


def _port(config: BridgeConfig, identity: Identity) -> Iterator[Step]:
    yield EnsureSysctl(HOST, ("ipv6", "conf", identity.host_end, "accept_ra"), "0", optional=True)
    yield AttachPort(identity.host_end, config.bridge, config.hairpin_mode, config.port_isolation)
    if config.uses_vlans:
        yield SetPortVlans(identity.host_end, _port_vlans(config), exclusive=not config.preserve_default_vlan)


def _port_vlans(config: BridgeConfig) -> tuple[PortVlan, ...]:
    """Return the port's VLANs; a trunk without `vlan` has VLAN 1 as its native one, as in the reference."""
    access = config.vlan or 1
    tagged: set[int] = set()
    for entry in config.vlan_trunk or ():
        if entry.min_id is not None and entry.max_id is not None:
            tagged.update(range(entry.min_id, entry.max_id + 1))
        if entry.id is not None:
            tagged.add(entry.id)
    return (PortVlan(access, access, access=True), *_ranges(tagged - {access}))


def _ranges(ids: Iterable[int]) -> Iterator[PortVlan]:
    """Yield the ids as ranges without gaps."""
    ordered = sorted(ids)
    ends = [last for last, following in pairwise(ordered) if following != last + 1] + ordered[-1:]
    starts = ordered[:1] + [following for last, following in pairwise(ordered) if following != last + 1]
    return (PortVlan(first, last) for first, last in zip(starts, ends, strict=True))


def _gateways(
    request: Request, config: BridgeConfig, identity: Identity, ips: tuple[IPConfig, ...], facts: Facts
) -> Iterator[Step]:
    if config.is_gw:
        checking = request.command == "CHECK"
        yield from gateway_addresses(config, identity.gateway_mac, ips, facts, checking=checking)


def _source_guard(request: Request, config: BridgeConfig, identity: Identity) -> Iterator[Step]:
    if config.macspoofchk and identity.ours:
        yield EnsureSourceGuard(request.attachment, identity.host_end, identity.mac)


def _sandbox(
    request: Request,
    config: BridgeConfig,
    identity: Identity,
    ips: tuple[IPConfig, ...],
    wanted: tuple[Route, ...],
) -> Iterator[Step]:
    """Addresses go on while the link is down, as in the reference, so it never speaks without them."""
    link = request.ifname
    has_v6 = any(ip.address.version == IPV6 for ip in ips)
    if has_v6:
        yield from _with_ipv6(identity, link)
    # A container that gives itself addresses also chooses how it guards and announces them.
    if ips:
        yield from _announcing(config, identity, link)
    for ip in ips:
        yield EnsureAddress(SANDBOX, link, ip.address)
    if not config.disable_container_interface:
        yield EnsureUp(SANDBOX, link)
    if has_v6 and config.enabledad:
        yield AwaitAddresses(SANDBOX, link)
    for route in wanted:
        yield _route(link, route, ips)


def _with_ipv6(identity: Identity, link: str) -> Iterator[Step]:
    for name in ("lo", link):
        yield EnsureSysctl(SANDBOX, ("ipv6", "conf", name, "disable_ipv6"), "0")
    if identity.ours:  # older releases of the reference do not set it
        yield EnsureSysctl(SANDBOX, ("ipv6", "conf", link, "keep_addr_on_down"), "1")


def _announcing(config: BridgeConfig, identity: Identity, link: str) -> Iterator[Step]:
    """Duplicate address detection, and announcements by ARP (RFC 5227) and ND (RFC 4861, 7.2.6)."""
    if config.enabledad:
        yield EnsureSysctl(SANDBOX, ("ipv6", "conf", link, "enhanced_dad"), "1", optional=True)
    dad = "1" if config.enabledad else "0"
    yield EnsureSysctl(SANDBOX, ("ipv6", "conf", link, "accept_dad"), dad, optional=True)
    yield EnsureSysctl(SANDBOX, ("ipv4", "conf", link, "arp_notify"), "1")
    if identity.ours:
        yield EnsureSysctl(SANDBOX, ("ipv6", "conf", link, "ndisc_notify"), "1", optional=True)


def _route(link: str, route: Route, ips: tuple[IPConfig, ...]) -> AddRoute:
    """A route without gateway takes the first one of its family, unless its scope says it needs none."""
    family = [ip for ip in ips if ip.address.version == route.dst.version]
    gateway = route.gw
    if gateway is None and (route.scope or 0) < _SCOPE_LINK:
        gateway = next((ip.gateway for ip in family if ip.gateway), None)
    reachable = (
        gateway is None
        or (gateway.version == IPV6 and gateway.is_link_local)
        or any(gateway in ip.address.network for ip in family)
    )
    return AddRoute(
        SANDBOX,
        link,
        route.dst,
        gateway,
        route.mtu,
        route.advmss,
        route.priority,
        route.table,
        route.scope,
        onlink=not reachable,
    )


def _masquerade(
    request: Request, config: BridgeConfig, identity: Identity, ips: tuple[IPConfig, ...]
) -> Iterator[Step]:
    families = {IPV4: config.ip_masq.v4, IPV6: config.ip_masq.v6}
    chosen = tuple(ip.address for ip in ips if families[ip.address.version])
    if not chosen or not identity.ours:
        return
    exclude, random = tuple(config.ip_masq.exclude), config.ip_masq.random_fully
    if config.ip_masq_backend == "iptables":
        yield EnsureIptablesMasquerade(request.attachment, chosen, exclude, random)
    else:
        yield EnsureMasquerade(request.attachment, chosen, exclude, random, identity.host_end)


def _working(
    request: Request, config: BridgeConfig, identity: Identity, ips: tuple[IPConfig, ...]
) -> Iterator[Step]:
    """A port forwards only some time after its link is up; what is announced before that reaches nobody."""
    if not config.disable_container_interface:
        yield AwaitUp(identity.host_end)
    if ips:
        yield Announce(SANDBOX, request.ifname)


def _forwarding(config: BridgeConfig, ips: tuple[IPConfig, ...]) -> Iterator[Step]:
    families = tuple(sorted({ip.address.version for ip in ips})) if config.is_gw else ()
    if families:
        yield EnableForwarding(families)
