"""Plans ADD and CHECK of the bridge plugin: pure functions from request, config, lease and facts."""

from collections.abc import Iterable, Iterator
from itertools import pairwise

from cni_plugins.bridge.config import BridgeConfig
from cni_plugins.bridge.gateways import gateway_addresses, gateways, routes
from cni_plugins.bridge.identity import BridgeIdentity, identify
from cni_plugins.contract import plan_parts, veth
from cni_plugins.contract.config_fields import IPV6
from cni_plugins.contract.facts import Facts, LinkFacts
from cni_plugins.contract.plugin import Decision
from cni_plugins.contract.prev_result import appended
from cni_plugins.errors import NameTaken
from cni_plugins.ownership import BRIDGE_ALIAS
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import Interface, IPConfig, Result
from cni_plugins.steps.firewall import EnsureSourceGuard
from cni_plugins.steps.ip import AwaitAddresses, EnableForwarding, EnsureAddress
from cni_plugins.steps.links import (
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
from cni_plugins.steps.step import HOST, SANDBOX, Step

_SANDBOX_INTERFACE = 2  # its index in the result: after the bridge and the host end


def admit(request: Request, config: BridgeConfig, facts: Facts) -> None:
    """:raises NameTaken: when the link `bridge` is not a bridge, or a name of the veth pair is in use."""
    _existing_bridge(config, facts)
    veth.admit(request, facts)


def decide(request: Request, config: BridgeConfig, lease: Result, facts: Facts) -> Decision:
    """Return steps and result of ADD, host-wide sysctls last; CHECK compares the same steps with the kernel.

    :raises NameTaken: when the link `bridge` is not a bridge, or has an address conflicting with a gateway.
    """
    identity = identify(request, config, facts)
    ips = gateways(config, lease.ips)
    veth.require_mtu(request, identity.pair, config.wanted_mtu, ips)
    lease = lease._replace(ips=ips, routes=routes(config, ips, lease.routes))
    plan = (
        *_bridge(config, identity, facts),
        veth.add(request, identity.pair),
        *_port(config, identity),
        *_gateways(request, config, identity, ips, facts),
        # Before the sandbox has routes: a program that sends at once must not get past the rules.
        *_source_guard(request, config, identity),
        *_host_guard(request, config, identity),
        *_masquerade(request, config, identity.pair, ips),
        *_sandbox(request, config, identity, lease),
        *_readiness(request, config, identity, ips),
        *_forwarding(config, ips),
    )
    return Decision(plan, _result(request, config, identity, lease))


def _result(request: Request, config: BridgeConfig, identity: BridgeIdentity, lease: Result) -> Result:
    """Return the bridge, both ends of the pair, and with a VLAN the link with the gateway address."""
    interfaces = [Interface(config.bridge, identity.bridge_mac), *veth.interfaces(request, identity.pair)]
    if config.vlan and config.is_gw and lease.ips:
        interfaces.append(Interface(config.gateway_link, identity.gateway_mac))
    own = lease._replace(
        interfaces=tuple(interfaces),
        ips=tuple(ip._replace(interface=_SANDBOX_INTERFACE) for ip in lease.ips),
        dns=lease.dns if config.dns is None else config.dns,
    )
    return appended(request, own)


def _bridge(config: BridgeConfig, identity: BridgeIdentity, facts: Facts) -> Iterator[Step]:
    existing = _existing_bridge(config, facts)
    yield EnsureBridge(config.bridge, identity.bridge_mac, identity.pair.mtu, config.uses_vlans)
    if _needs_pin(existing):
        yield PinMac(config.bridge)
    yield plan_parts.no_router_advertisements(config.bridge)
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
    """Say whether to pin the bridge's MAC: a foreign bridge may adopt a port's, contrary to the result."""
    return bridge is not None and bridge.alias != BRIDGE_ALIAS


def _port(config: BridgeConfig, identity: BridgeIdentity) -> Iterator[Step]:
    yield plan_parts.no_router_advertisements(identity.pair.host_end)
    yield AttachPort(identity.pair.host_end, config.bridge, config.hairpin_mode, config.port_isolation)
    if config.uses_vlans:
        yield SetPortVlans(
            identity.pair.host_end, _port_vlans(config), exclusive=not config.preserve_default_vlan
        )


def _port_vlans(config: BridgeConfig) -> tuple[PortVlan, ...]:
    """Return the port's VLANs; a trunk without `vlan` has native VLAN 1, as in the reference."""
    access = config.vlan or 1
    tagged = 0  # a bit for each id: a config may list the same ranges ten thousand times
    for entry in config.vlan_trunk or ():
        if entry.min_id is not None and entry.max_id is not None:
            tagged |= (1 << entry.max_id + 1) - (1 << entry.min_id)
        if entry.id is not None:
            tagged |= 1 << entry.id
    ids = (vid for vid in range(tagged.bit_length()) if tagged >> vid & 1 and vid != access)
    return (PortVlan(access, access, access=True), *_ranges(ids))


def _ranges(ids: Iterable[int]) -> Iterator[PortVlan]:
    """Return the ids as ranges without gaps."""
    ordered = sorted(ids)
    ends = [last for last, following in pairwise(ordered) if following != last + 1] + ordered[-1:]
    starts = ordered[:1] + [following for last, following in pairwise(ordered) if following != last + 1]
    return (PortVlan(first, last) for first, last in zip(starts, ends, strict=True))


def _gateways(
    request: Request, config: BridgeConfig, identity: BridgeIdentity, ips: tuple[IPConfig, ...], facts: Facts
) -> Iterator[Step]:
    if config.is_gw:
        checking = request.command == "CHECK"
        yield from gateway_addresses(config, identity.gateway_mac, ips, facts, checking=checking)


def _source_guard(request: Request, config: BridgeConfig, identity: BridgeIdentity) -> Iterator[Step]:
    if config.macspoofchk and identity.pair.ours:
        # ADD may have been asked for the MAC address of prevResult in a way that CHECK is not told:
        # capabilities are arguments of each call.
        pair = identity.pair
        yield EnsureSourceGuard(request.owner, pair.host_end, identity.guarded_mac, recorded_mac=pair.mac)


def _host_guard(request: Request, config: BridgeConfig, identity: BridgeIdentity) -> Iterator[Step]:
    if config.internal and identity.pair.ours:
        from cni_plugins.steps.host_guard import EnsureHostGuard

        yield EnsureHostGuard(request.owner, identity.pair.host_end)


def _sandbox(
    request: Request,
    config: BridgeConfig,
    identity: BridgeIdentity,
    lease: Result,
) -> Iterator[Step]:
    """Yield the sandbox's steps: addresses come before the link is up, so it never sends without them."""
    link, ips = request.ifname, lease.ips
    has_v6 = any(ip.address.version == IPV6 for ip in ips)
    if has_v6:
        # Older releases of the reference do not set keep_addr_on_down.
        yield from plan_parts.with_ipv6(link, keep_on_down=identity.pair.ours)
    # A container that configures its own addresses also chooses its DAD and announcement settings.
    if ips or (config.acd and config.ipam.type):  # before the link is up, which addresses are not known to
        yield from plan_parts.announcing(link, detects=config.enabledad, ours=identity.pair.ours)
    for ip in ips:
        # Without DAD too, the kernel makes an address usable in a work queue, which may take seconds.
        yield EnsureAddress(SANDBOX, link, ip.address, skip_dad=not config.enabledad)
    if not config.disable_container_interface:
        yield EnsureUp(SANDBOX, link)
    if has_v6 and config.enabledad:
        yield AwaitAddresses(SANDBOX, link)
    for route in lease.routes:
        yield plan_parts.route(link, route, ips)


def _masquerade(
    request: Request, config: BridgeConfig, pair: veth.Pair, ips: tuple[IPConfig, ...]
) -> Iterator[Step]:
    if pair.ours:
        yield from plan_parts.masquerade(
            request, config.masquerade, config.ip_masq_backend, ips, pair.host_end
        )


def _readiness(
    request: Request, config: BridgeConfig, identity: BridgeIdentity, ips: tuple[IPConfig, ...]
) -> Iterator[Step]:
    """Yield wait and announcement: frames sent before the bridge port is forwarding would be lost."""
    if not config.disable_container_interface:
        yield AwaitUp(identity.pair.host_end)
    if ips:
        yield Announce(SANDBOX, request.ifname)


def _forwarding(config: BridgeConfig, ips: tuple[IPConfig, ...]) -> Iterator[Step]:
    families = tuple(sorted({ip.address.version for ip in ips})) if config.is_gw else ()
    if families:
        yield EnableForwarding(families)
