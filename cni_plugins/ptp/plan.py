"""What the ptp plugin decides: pure functions from request, config, lease and facts to a plan.

A point-to-point link is no subnet: the container's only neighbour is the host, through which it reaches all
the rest, its own subnet too.
"""

from collections.abc import Iterator

from cni_plugins.contract import plan_parts, veth
from cni_plugins.contract.config_fields import IPV4, IPV6
from cni_plugins.contract.facts import Facts, LinkFacts
from cni_plugins.contract.plugin import Decision
from cni_plugins.errors import StateDrifted
from cni_plugins.ownership import HOST_END_PREFIX
from cni_plugins.protocol.fields import IPAddress, IPInterface
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import IPConfig, Result
from cni_plugins.ptp.addressing import ROUTED_GATEWAY, families, in_effect, is_routed, single, subnet
from cni_plugins.ptp.config import PtpConfig
from cni_plugins.steps.firewall import EnsureMasquerade
from cni_plugins.steps.ip import (
    IF_PRESENT,
    SCOPE_HOST,
    SCOPE_LINK,
    SCOPE_UNIVERSE,
    WANTED,
    AddRoute,
    AwaitAddresses,
    EnableForwarding,
    EnsureAddress,
    EnsureSysctl,
)
from cni_plugins.steps.links import AwaitUp, EnsureUp
from cni_plugins.steps.neighbours import EnsureNeighbour
from cni_plugins.steps.step import HOST, SANDBOX, Plan, Step

_FIRST = 1  # the metric before all others
_SANDBOX_INTERFACE = 1  # its place in the result: after the host end


def admit(request: Request, _config: PtpConfig, facts: Facts) -> None:
    veth.admit(request, facts)


def decide(request: Request, config: PtpConfig, lease: Result, facts: Facts) -> Decision:
    """Return steps and result of ADD, host-wide switches last; CHECK compares the same steps with the kernel.

    :raises InvalidNetworkConfig: when the IPAM's answer does not fit a point-to-point link.
    """
    pair = _identify(request, config, facts)
    routed = _is_routed(request, config, pair, lease)
    _require_no_master(request, pair, facts)
    lease = in_effect(request, config, lease, routed=routed)
    veth.require_mtu(request, pair, config.mtu, lease.ips)
    plan = (
        veth.add(request, pair),
        *_host_end(pair, lease.ips, routed=routed),
        *_sandbox(request, config, pair, lease.ips),
        *(_routed_routes(request.ifname, pair, lease) if routed else _plain_routes(request.ifname, lease)),
        *_host_routes(pair, lease.ips, routed=routed),
        *_masquerade(request, config, pair, lease.ips, routed=routed),
        AwaitUp(pair.host_end),
        EnableForwarding(families(lease.ips)),
    )
    return Decision(plan, _result(request, config, pair, lease))


def _result(request: Request, config: PtpConfig, pair: veth.Pair, lease: Result) -> Result:
    """Return both ends of the pair, and the addresses and routes as the container has them."""
    return lease._replace(
        interfaces=veth.interfaces(request, pair),
        ips=tuple(ip._replace(interface=_SANDBOX_INTERFACE) for ip in lease.ips),
        dns=lease.dns if config.dns is None else config.dns,
    )


def _identify(request: Request, config: PtpConfig, facts: Facts) -> veth.Pair:
    return veth.identify(request, config.mac, veth.mtu(config.mtu, facts.default_route), facts)


def _is_routed(request: Request, config: PtpConfig, pair: veth.Pair, lease: Result) -> bool:
    """Say whether the container is, or is to be, routed; what is there stays when the config changes."""
    if request.command == "CHECK":
        return pair.ours and is_routed(lease.ips)
    return config.routed


def _require_no_master(request: Request, pair: veth.Pair, facts: Facts) -> None:
    """:raises StateDrifted: when somebody has made the host end a port, which takes its packets."""
    host_end = facts.host.get(pair.host_end)
    if request.command == "CHECK" and host_end is not None and host_end.master:
        raise StateDrifted(f"link {host_end.name} is a port of {host_end.master}", "it should be nobody's")


def _host_end(pair: veth.Pair, ips: tuple[IPConfig, ...], *, routed: bool) -> Iterator[Step]:
    link = pair.host_end
    yield plan_parts.no_router_advertisements(link)
    if pair.ours and IPV4 in families(ips):
        # Hosts may have it off for new links.
        yield EnsureSysctl(HOST, ("ipv4", "conf", link, "forwarding"), "1", IF_PRESENT)
    if pair.ours and IPV6 in families(ips):
        yield EnsureSysctl(HOST, ("ipv6", "conf", link, "disable_ipv6"), "0", IF_PRESENT)
        # What it forwards waits until it has a link-local address from which to ask for the neighbour.
        yield EnsureSysctl(HOST, ("ipv6", "conf", link, "accept_dad"), "0", IF_PRESENT)
    if routed:
        # No link-local address but the gateway's.
        yield EnsureSysctl(HOST, ("ipv6", "conf", link, "addr_gen_mode"), "1", IF_PRESENT)
    yield EnsureUp(HOST, link)
    if routed:
        # An address, not proxy ARP: that answers only where the host has a default route itself.
        for version in families(ips):
            yield EnsureAddress(HOST, link, ROUTED_GATEWAY[version], skip_dad=True, scope=SCOPE_LINK)
    else:
        for gateway in dict.fromkeys(ip.gateway for ip in ips if ip.gateway):
            yield EnsureAddress(HOST, link, single(gateway), skip_dad=True)


def _sandbox(
    request: Request, config: PtpConfig, pair: veth.Pair, ips: tuple[IPConfig, ...]
) -> Iterator[Step]:
    """Addresses go on while the link is down, as in the reference, so it never speaks without them."""
    link = request.ifname
    has_v6 = IPV6 in families(ips)
    if has_v6:
        yield from plan_parts.with_ipv6(link, keep_on_down=pair.ours)
    if has_v6 and pair.ours and not config.enabledad:
        # There is nobody on the link to have the same address; this spares the link-local one the wait.
        yield EnsureSysctl(SANDBOX, ("ipv6", "conf", link, "accept_dad"), "0", WANTED)
    for ip in ips:
        yield EnsureAddress(SANDBOX, link, ip.address, skip_dad=not config.enabledad, prefix_route=False)
    yield EnsureUp(SANDBOX, link)
    if has_v6 and config.enabledad:
        # Before any route: the kernel takes no tentative address for its source.
        yield AwaitAddresses(SANDBOX, link)


def _plain_routes(link: str, lease: Result) -> Iterator[Step]:
    """Yield the routes to each gateway, through it to the subnet, and then the IPAM's.

    Addresses that share a gateway share these routes; the first of them is the source address.
    """
    made: dict[tuple[IPInterface, IPAddress | None], AddRoute] = {}
    # in_effect has refused an address without one.
    for ip, via in ((ip, ip.gateway) for ip in lease.ips if ip.gateway):
        gateway, network, source = single(via), subnet(ip.address), ip.address.ip
        made.setdefault((gateway, None), AddRoute(SANDBOX, link, gateway, scope=SCOPE_LINK, src=source))
        if network.network.num_addresses > 1:
            made.setdefault((network, via), AddRoute(SANDBOX, link, network, via, src=source))
    yield from made.values()
    gateways = {ip.gateway for ip in lease.ips}
    for route in lease.routes:
        step = plan_parts.route(link, route, lease.ips)
        # No other neighbour is there, but the kernel is told there is, as in the reference's order of things.
        yield step.replace(onlink=step.onlink or (step.gw is not None and step.gw not in gateways))


def _routed_routes(link: str, pair: veth.Pair, lease: Result) -> Iterator[Step]:
    """Yield the route to the gateway, and those through it; fe80::1 is on every IPv6 link as it is.

    The gateway's link-layer address is told, as some hosts answer no ARP from addresses of other subnets.
    """
    for version in families(lease.ips):
        gateway = ROUTED_GATEWAY[version].ip
        yield EnsureNeighbour(SANDBOX, link, gateway, pair.host_mac, can_be_asked=True)
    if IPV4 in families(lease.ips):
        yield AddRoute(SANDBOX, link, ROUTED_GATEWAY[IPV4], scope=SCOPE_LINK)
    for route in lease.routes:
        yield plan_parts.route(link, route, lease.ips).replace(onlink=False)


def _host_routes(pair: veth.Pair, ips: tuple[IPConfig, ...], *, routed: bool) -> Iterator[Step]:
    """Scope host lets the plain gateway be the host's source address towards the container.

    The gateway of routed ones, of scope link itself, must not be: it is every host's.
    """
    scope = SCOPE_UNIVERSE if routed else SCOPE_HOST
    for ip in ips:
        step = AddRoute(HOST, pair.host_end, single(ip.address.ip), exclusive=True)
        if ip.address.version == IPV4:
            yield step.replace(scope=scope)
        else:
            # IPv6 routes have no scope, and a metric that those of routing daemons would be before.
            yield step.replace(priority=_FIRST if pair.ours else 0)


def _masquerade(
    request: Request, config: PtpConfig, pair: veth.Pair, ips: tuple[IPConfig, ...], *, routed: bool
) -> Iterator[Step]:
    if pair.ours:
        steps = plan_parts.masquerade(request, config.ip_masq, config.ip_masq_backend, ips, pair.host_end)
        # What is a subnet elsewhere is the network's containers here.
        yield from (
            step.replace(exempts_network=routed) if isinstance(step, EnsureMasquerade) else step
            for step in steps
        )


def delete(request: Request, _config: PtpConfig | None, facts: Facts) -> Plan:
    """Return the steps of DEL; addresses and routes of the host go with its end of the pair."""
    return tuple(veth.delete(request, facts, foreign=veth.made_by_reference(request, facts, _is_likely)))


def _is_likely(inside: LinkFacts) -> bool:
    """A host end that the reference named, and that is no bridge's port."""
    return inside.peer.startswith(HOST_END_PREFIX) and not inside.peer_master


def collect(request: Request, facts: Facts) -> Plan:
    return tuple(veth.collect(request, facts))
