"""Plans ADD, CHECK, DEL and GC of the ptp plugin: pure functions from request, config, lease and facts.

A point-to-point link is not a subnet: the container's only neighbour is the host, which routes everything
else, including other addresses of its own subnet.
"""

from collections.abc import Iterator

from cni_plugins.contract import plan_parts, veth
from cni_plugins.contract.config_fields import IPV4, IPV6
from cni_plugins.contract.facts import Facts, LinkFacts
from cni_plugins.contract.plugin import Decision
from cni_plugins.contract.prev_result import appended
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

_FIRST = 1  # the metric that the kernel prefers to all others
_SANDBOX_INTERFACE = 1  # its index in the result: after the host end


def admit(request: Request, _config: PtpConfig, facts: Facts) -> None:
    veth.admit(request, facts)


def decide(request: Request, config: PtpConfig, lease: Result, facts: Facts) -> Decision:
    """Return steps and result of ADD, host-wide sysctls last; CHECK compares the same steps with the kernel.

    :raises InvalidNetworkConfig: when the IPAM's answer does not fit a point-to-point link.
    """
    pair = _identify(request, config, facts)
    routed = _is_routed(request, config, pair, lease)
    _require_no_master(request, pair, facts)
    lease = in_effect(request, config, lease, routed=routed)
    veth.require_mtu(request, pair, config.wanted_mtu, lease.ips)
    plan = (
        veth.add(request, pair),
        *_host_end(pair, lease.ips, routed=routed),
        # Before the sandbox has routes: a program that sends at once must not get past the rules.
        *_masquerade(request, config, pair, lease.ips, routed=routed),
        *_sandbox(request, config, pair, lease.ips),
        *(_routed_routes(request.ifname, pair, lease) if routed else _plain_routes(request.ifname, lease)),
        *_host_routes(pair, lease.ips, routed=routed),
        AwaitUp(pair.host_end),
        EnableForwarding(families(lease.ips)),
    )
    return Decision(plan, _result(request, config, pair, lease))


def _result(request: Request, config: PtpConfig, pair: veth.Pair, lease: Result) -> Result:
    """Return both ends of the pair, and the container's addresses and routes."""
    own = lease._replace(
        interfaces=veth.interfaces(request, pair),
        ips=tuple(ip._replace(interface=_SANDBOX_INTERFACE) for ip in lease.ips),
        dns=lease.dns if config.dns is None else config.dns,
    )
    return appended(request, own)


def _identify(request: Request, config: PtpConfig, facts: Facts) -> veth.Pair:
    return veth.identify(request, config.mac, veth.mtu(config.wanted_mtu, facts.default_route), facts)


def _is_routed(request: Request, config: PtpConfig, pair: veth.Pair, lease: Result) -> bool:
    """Say whether the container is routed; an existing one stays as it is when the config changes."""
    if request.command == "CHECK":
        return pair.ours and is_routed(lease.ips)
    return config.routed


def _require_no_master(request: Request, pair: veth.Pair, facts: Facts) -> None:
    """:raises StateDrifted: when the host end is a port of another link, which then receives its packets."""
    host_end = facts.host.get(pair.host_end)
    if request.command == "CHECK" and host_end is not None and host_end.master:
        raise StateDrifted(f"link {host_end.name} is a port of {host_end.master}", "it must have no master")


def _host_end(pair: veth.Pair, ips: tuple[IPConfig, ...], *, routed: bool) -> Iterator[Step]:
    link = pair.host_end
    yield plan_parts.no_router_advertisements(link)
    if pair.ours:
        yield from plan_parts.forwarding_on(link, families(ips))
    if pair.ours and IPV6 in families(ips):
        # Forwarded packets wait until it has a link-local address to send neighbour solicitations from.
        yield EnsureSysctl(HOST, ("ipv6", "conf", link, "accept_dad"), "0", IF_PRESENT)
    if routed:
        # Its only link-local address is the gateway's.
        yield EnsureSysctl(HOST, ("ipv6", "conf", link, "addr_gen_mode"), "1", IF_PRESENT)
    yield EnsureUp(HOST, link)
    if routed:
        # An address: proxy ARP would reply only if the host itself has a default route.
        for version in families(ips):
            yield EnsureAddress(HOST, link, ROUTED_GATEWAY[version], skip_dad=True, scope=SCOPE_LINK)
    else:
        for gateway in dict.fromkeys(ip.gateway for ip in ips if ip.gateway):
            yield EnsureAddress(HOST, link, single(gateway), skip_dad=True)


def _sandbox(
    request: Request, config: PtpConfig, pair: veth.Pair, ips: tuple[IPConfig, ...]
) -> Iterator[Step]:
    """Yield the sandbox's steps: addresses come before the link is up, so it never sends without them."""
    link = request.ifname
    has_v6 = IPV6 in families(ips)
    if has_v6:
        yield from plan_parts.with_ipv6(link, keep_on_down=pair.ours)
    if has_v6 and pair.ours and not config.enabledad:
        # The host is the only neighbour, so DAD is pointless, and would delay the link-local address.
        yield EnsureSysctl(SANDBOX, ("ipv6", "conf", link, "accept_dad"), "0", WANTED)
    for ip in ips:
        yield EnsureAddress(SANDBOX, link, ip.address, skip_dad=not config.enabledad, prefix_route=False)
    yield EnsureUp(SANDBOX, link)
    if has_v6 and config.enabledad:
        # Before any route: the kernel rejects a tentative address as its source.
        yield AwaitAddresses(SANDBOX, link)


def _plain_routes(link: str, lease: Result) -> Iterator[Step]:
    """Yield the routes to each gateway, to its subnet through it, and then the IPAM's routes.

    Addresses with the same gateway share these routes; the first address is their source.
    """
    made: dict[tuple[IPInterface, IPAddress | None], AddRoute] = {}
    # in_effect has refused addresses without a gateway.
    for ip, via in ((ip, ip.gateway) for ip in lease.ips if ip.gateway):
        gateway, network, source = single(via), subnet(ip.address), ip.address.ip
        made.setdefault((gateway, None), AddRoute(SANDBOX, link, gateway, scope=SCOPE_LINK, src=source))
        if network.network.num_addresses > 1:
            made.setdefault((network, via), AddRoute(SANDBOX, link, network, via, src=source))
    yield from made.values()
    gateways = {ip.gateway for ip in lease.ips}
    for route in lease.routes:
        step = plan_parts.route(link, route, lease.ips)
        # The kernel would refuse other gateways; the reference adds them while the prefix route exists.
        yield step.replace(onlink=step.onlink or (step.gw is not None and step.gw not in gateways))


def _routed_routes(link: str, pair: veth.Pair, lease: Result) -> Iterator[Step]:
    """Yield the gateway's neighbour entry and route, and the routes through it; fe80::/64 needs no route.

    The neighbour entry is permanent, as some hosts do not answer ARP from addresses of other subnets.
    """
    for version in families(lease.ips):
        gateway = ROUTED_GATEWAY[version].ip
        yield EnsureNeighbour(SANDBOX, link, gateway, pair.host_mac, can_be_asked=True)
    if IPV4 in families(lease.ips):
        yield AddRoute(SANDBOX, link, ROUTED_GATEWAY[IPV4], scope=SCOPE_LINK)
    for route in lease.routes:
        yield plan_parts.route(link, route, lease.ips).replace(onlink=False)


def _host_routes(pair: veth.Pair, ips: tuple[IPConfig, ...], *, routed: bool) -> Iterator[Step]:
    """Yield the host's routes to the container.

    Scope host makes the plain gateway the host's source address towards the container. The gateway of routed
    containers, itself of scope link, must not be a source address, as every host has it.
    """
    scope = SCOPE_UNIVERSE if routed else SCOPE_HOST
    for ip in ips:
        step = AddRoute(HOST, pair.host_end, single(ip.address.ip), exclusive=True)
        if ip.address.version == IPV4:
            yield step.replace(scope=scope)
        else:
            # IPv6 routes have no scope, and a default metric that routing daemons undercut.
            yield step.replace(priority=_FIRST if pair.ours else 0)


def _masquerade(
    request: Request, config: PtpConfig, pair: veth.Pair, ips: tuple[IPConfig, ...], *, routed: bool
) -> Iterator[Step]:
    if pair.ours:
        steps = plan_parts.masquerade(request, config.masquerade, config.ip_masq_backend, ips, pair.host_end)
        # A routed container has no subnet; here the network is the set of its containers.
        yield from (
            step.replace(exempts_network=routed) if isinstance(step, EnsureMasquerade) else step
            for step in steps
        )


def delete(request: Request, _config: PtpConfig | None, facts: Facts) -> Plan:
    """Return the steps of DEL; addresses and routes of the host go with its end of the pair."""
    return tuple(veth.delete(request, facts, foreign=veth.made_by_reference(request, facts, _is_likely)))


def _is_likely(inside: LinkFacts) -> bool:
    """Say whether the host end has a name of the reference's form and is not a bridge port."""
    return inside.peer.startswith(HOST_END_PREFIX) and not inside.peer_master


def collect(request: Request, facts: Facts) -> Plan:
    return tuple(veth.collect(request, facts))
