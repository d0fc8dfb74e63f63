"""Plans ADD, CHECK, DEL and GC of the vxlan plugin: pure functions from request, network, lease and facts.

A host joins the overlay with its first container (see host_plan); each container then gets a veth pair whose
host end is a port of the network's bridge.
"""

from collections.abc import Iterator

from cni_plugins.contract import plan_parts, veth
from cni_plugins.contract.config_fields import IPV6
from cni_plugins.contract.facts import Facts
from cni_plugins.contract.plugin import Decision
from cni_plugins.contract.prev_result import appended
from cni_plugins.protocol.fields import get
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import Interface, Result
from cni_plugins.steps.forwarded import ExpectForwarded
from cni_plugins.steps.ip import EnsureAddress
from cni_plugins.steps.links import Announce, AttachPort, AwaitUp, EnsureUp
from cni_plugins.steps.overlay import DelIdleOverlay, DelProxied, EnsurePortSources
from cni_plugins.steps.step import SANDBOX, Plan, Step
from cni_plugins.vxlan.addressing import in_effect
from cni_plugins.vxlan.config import Overlay
from cni_plugins.vxlan.forwarded import flows
from cni_plugins.vxlan.host_plan import bridge_mac, host_settings, network_steps, proxied, require_no_clash
from cni_plugins.vxlan.identity import ContainerMacs
from cni_plugins.vxlan.local_host import LocalHost, find

_SANDBOX_INTERFACE = 2  # its index in the result: after the bridge and the host end


def admit(request: Request, overlay: Overlay, facts: Facts) -> None:
    """:raises NameTaken: when a name of the veth pair, or an address of the overlay, is already in use."""
    veth.admit(request, facts)
    require_no_clash(overlay, facts)


def decide(request: Request, overlay: Overlay, lease: Result, facts: Facts) -> Decision:
    """Return steps and result of ADD, host-wide sysctls last; CHECK compares the same steps with the kernel.

    :raises InvalidNetworkConfig: when this host is not part of the overlay, or the lease does not fit it.
    """
    host = find(overlay, facts)
    lease = in_effect(overlay, host, lease)
    pair = _pair(request, overlay, host, lease, facts)
    of_network = tuple(network_steps(overlay, host, facts))
    settings: Plan = tuple(host_settings(overlay, host))
    plan = _of_container(request, overlay, pair, lease)
    result = _result(request, overlay, pair, bridge_mac(overlay, host), lease)
    if request.command == "CHECK":
        settings = (*settings, ExpectForwarded(flows(overlay)))
    if overlay.config.keep:
        return Decision(plan, result, lasting=(*of_network, *settings))
    return Decision((*of_network, *plan, *settings), result)


def own_plan(request: Request, overlay: Overlay, host: LocalHost, lease: Result, facts: Facts) -> Plan:
    """Return the steps of CHECK for one container, without those for the network."""
    lease = in_effect(overlay, host, lease)
    return _of_container(request, overlay, _pair(request, overlay, host, lease, facts), lease)


def _result(request: Request, overlay: Overlay, pair: veth.Pair, mac: str, lease: Result) -> Result:
    """Return the bridge, both ends of the pair, and the container's addresses and routes."""
    own = lease._replace(
        interfaces=(Interface(overlay.bridge, mac), *veth.interfaces(request, pair)),
        ips=tuple(ip._replace(interface=_SANDBOX_INTERFACE) for ip in lease.ips),
        dns=lease.dns if overlay.config.dns is None else overlay.config.dns,
    )
    return appended(request, own)


def _pair(request: Request, overlay: Overlay, host: LocalHost, lease: Result, facts: Facts) -> veth.Pair:
    """Return the veth pair; in stretched subnets the sandbox end's MAC is derived from an IP address.

    IP addresses are unique across all hosts, unlike digests of container ids; and without ARP, peers program
    the MAC address before the container exists.
    """
    mac = overlay.config.mac
    # Its MAC address is set before the lease is known.
    link_exists = overlay.config.ipam.type == "dhcp" or overlay.config.acd
    if overlay.config.mode == "l2" and lease.ips and not (mac or link_exists):
        mac = ContainerMacs(overlay.vni).of(lease.ips[0].address.ip)
    return veth.identify(request, mac, host.inner_mtu, facts)


# ---------------------------------------------------------------------------------------------- one container


def _of_container(request: Request, overlay: Overlay, pair: veth.Pair, lease: Result) -> Plan:
    return (
        veth.add(request, pair),
        plan_parts.no_router_advertisements(pair.host_end),
        *_guard(request, overlay, pair, lease),
        AttachPort(pair.host_end, overlay.bridge, overlay.config.hairpin_mode, isolated=False),
        *_sandbox(request, overlay, lease),
        *proxied(overlay, tuple(ip.address.ip for ip in lease.ips if ip.address.version == IPV6)),
        AwaitUp(pair.host_end),
        *((Announce(SANDBOX, request.ifname),) if lease.ips else ()),
    )


def _guard(request: Request, overlay: Overlay, pair: veth.Pair, lease: Result) -> Iterator[Step]:
    """Yield the check of what enters by the port, before it is one, so that no packet bypasses it."""
    if overlay.guarded:
        yield EnsurePortSources(
            request.owner, pair.host_end, pair.mac, tuple(ip.address.ip for ip in lease.ips)
        )


def _sandbox(request: Request, overlay: Overlay, lease: Result) -> Iterator[Step]:
    link = request.ifname
    if any(ip.address.version == IPV6 for ip in lease.ips):
        yield from plan_parts.with_ipv6(link, keep_on_down=True)
    if lease.ips or overlay.config.acd:  # before the link is up, which addresses are not known to
        yield from plan_parts.announcing(link, detects=False, ours=True)
    for ip in lease.ips:
        # Without DAD too, the kernel makes an address usable in a work queue, which may take seconds.
        yield EnsureAddress(SANDBOX, link, ip.address, skip_dad=True)
    yield EnsureUp(SANDBOX, link)
    for route in lease.routes:
        yield plan_parts.route(link, route, lease.ips)


def delete(request: Request, overlay: Overlay | None, facts: Facts) -> Plan:
    """Return the steps of DEL; proxy entries stay behind if the config cannot be read."""
    inside = facts.sandbox.get(request.ifname)
    recorded = request.prev_result.ips if request.prev_result else ()
    found = [ip.address for ip in recorded] + list(inside.addresses if inside else ())
    addresses = tuple(
        dict.fromkeys(item.ip for item in found if item.version == IPV6 and not item.is_link_local)
    )
    has_proxies = overlay is not None and overlay.config.mode == "l3" and not overlay.lists_subnets
    return (
        *veth.delete(request, facts, foreign=False),
        *(
            (DelProxied(overlay.vxlan, addresses, overlay.bridge),)
            if overlay is not None and has_proxies and addresses
            else ()
        ),
        *_leaving(request),
    )


def collect(request: Request, facts: Facts) -> Plan:
    return (*veth.collect(request, facts), *_leaving(request))


def _leaving(request: Request) -> Iterator[Step]:
    """Yield the step by which the host leaves the network with its last container, unless it is to stay."""
    if get(request.conf, "keep") is not True:  # read by itself, as the peers need not be readable now
        yield DelIdleOverlay(request.network)
