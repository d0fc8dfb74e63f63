"""What the vxlan plugin decides: pure functions from request, network, lease and facts to a plan.

A host takes part in the overlay from its first container on (see membership); the rest is a veth pair into
the network's bridge.
"""

from collections.abc import Iterator

from cni_plugins.contract import phrases, veth
from cni_plugins.contract.facts import Facts
from cni_plugins.contract.keys import IPV6
from cni_plugins.spec.request import Request
from cni_plugins.spec.result import Interface, IPConfig, Result
from cni_plugins.steps.addresses import EnsureAddress
from cni_plugins.steps.links import Announce, AttachPort, AwaitUp, EnsureUp
from cni_plugins.steps.overlays import DelIdleOverlay, DelProxied
from cni_plugins.steps.places import SANDBOX
from cni_plugins.steps.plan import Plan, Step
from cni_plugins.steps.rules import EnsureMasquerade
from cni_plugins.vxlan.addressing import in_effect
from cni_plugins.vxlan.config import Overlay
from cni_plugins.vxlan.identity import ContainerMacs
from cni_plugins.vxlan.membership import bridge_mac, host_wide, members, proxied, require_no_clash
from cni_plugins.vxlan.site import Site, find

_SANDBOX_INTERFACE = 2  # its place in the result: after the bridge and the host end


def admit(request: Request, overlay: Overlay, facts: Facts) -> None:
    """:raises NameTaken: when names of the veth pair are in use, or the overlay's addresses are."""
    veth.admit(request, facts)
    require_no_clash(overlay, facts)


def add(request: Request, overlay: Overlay, lease: Result, facts: Facts) -> Plan:
    """Return the steps of ADD, host-wide switches last; CHECK compares the same steps with the kernel.

    :raises InvalidNetworkConfig: when this host has no place in the overlay, or the lease does not fit.
    """
    site = find(overlay, facts)
    lease = in_effect(overlay, site, lease)
    pair = _pair(request, overlay, site, lease, facts)
    return (
        *members(overlay, site, facts),
        veth.add(request, pair),
        phrases.no_router_advertisements(pair.host_end),
        AttachPort(pair.host_end, overlay.bridge, overlay.config.hairpin_mode, isolated=False),
        *_sandbox(request, lease),
        *proxied(overlay, tuple(ip.address.ip for ip in lease.ips if ip.address.version == IPV6)),
        *_masquerade(request, overlay, pair, lease.ips),
        AwaitUp(pair.host_end),
        *((Announce(SANDBOX, request.ifname),) if lease.ips else ()),
        *host_wide(overlay, site),
    )


def result(request: Request, overlay: Overlay, lease: Result, facts: Facts) -> Result:
    """Return the bridge, both ends of the pair, and the addresses and routes as the container has them."""
    site = find(overlay, facts)
    lease = in_effect(overlay, site, lease)
    pair = _pair(request, overlay, site, lease, facts)
    bridge = Interface(overlay.bridge, bridge_mac(overlay, site))
    return lease._replace(
        interfaces=(bridge, *veth.interfaces(request, pair)),
        ips=tuple(ip._replace(interface=_SANDBOX_INTERFACE) for ip in lease.ips),
        dns=lease.dns if overlay.config.dns is None else overlay.config.dns,
    )


def _pair(request: Request, overlay: Overlay, site: Site, lease: Result, facts: Facts) -> veth.Pair:
    """In stretched subnets a MAC address follows from an address of the network, as there is only one such.

    Container ids are not that unique, and where nobody asks, peers know it before the container is there.
    """
    mac = overlay.config.mac
    asks_first = overlay.config.ipam.type == "dhcp"  # of the link, which has its MAC address by then
    if overlay.config.mode == "l2" and lease.ips and not (mac or asks_first):
        mac = ContainerMacs(overlay.vni).of(lease.ips[0].address.ip)
    return veth.identify(request, mac, site.inner_mtu, facts)


# ---------------------------------------------------------------------------------------------- one container


def _sandbox(request: Request, lease: Result) -> Iterator[Step]:
    link = request.ifname
    if any(ip.address.version == IPV6 for ip in lease.ips):
        yield from phrases.with_ipv6(link, keep_on_down=True)
    if lease.ips:
        yield from phrases.announcing(link, detects=False, ours=True)
    for ip in lease.ips:
        yield EnsureAddress(SANDBOX, link, ip.address)
    yield EnsureUp(SANDBOX, link)
    for route in lease.routes:
        yield phrases.route(link, route, lease.ips)


def _masquerade(
    request: Request, overlay: Overlay, pair: veth.Pair, ips: tuple[IPConfig, ...]
) -> Iterator[Step]:
    ip_masq = overlay.config.ip_masq
    inside = ip_masq.model_copy(update={"exclude": [*overlay.config.within, *ip_masq.exclude]})
    for step in phrases.masquerade(request, inside, "", ips, pair.host_end):
        if isinstance(step, EnsureMasquerade):
            yield step._replace(spared_port=overlay.config.port)


def delete(request: Request, overlay: Overlay | None, facts: Facts) -> Plan:
    """Return the steps of DEL; what is proxied stays for a while when the config cannot be read."""
    inside = facts.sandbox.get(request.ifname)
    recorded = request.prev_result.ips if request.prev_result else ()
    found = [ip.address for ip in recorded] + list(inside.addresses if inside else ())
    addresses = tuple(
        dict.fromkeys(item.ip for item in found if item.version == IPV6 and not item.is_link_local)
    )
    asked = overlay is not None and overlay.config.mode == "l3" and not overlay.programmed
    return (
        *veth.delete(request, facts, foreign=False),
        *(
            (DelProxied(overlay.vxlan, addresses, overlay.bridge),)
            if overlay is not None and asked and addresses
            else ()
        ),
        DelIdleOverlay(request.network),
    )


def collect(request: Request, facts: Facts) -> Plan:
    return (*veth.collect(request, facts), DelIdleOverlay(request.network))
