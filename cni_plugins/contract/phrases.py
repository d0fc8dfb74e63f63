"""Parts of a plan that several plugins share: pure, from values to steps."""

from collections.abc import Iterator

from cni_plugins.contract.keys import IPV4, IPV6, IpMasq
from cni_plugins.spec.request import Request
from cni_plugins.spec.result import IPConfig, Route
from cni_plugins.steps.addresses import AddRoute
from cni_plugins.steps.places import HOST, SANDBOX
from cni_plugins.steps.plan import Step
from cni_plugins.steps.rules import EnsureIptablesMasquerade, EnsureMasquerade
from cni_plugins.steps.settings import EnsureSysctl

SCOPE_LINK = 253  # linux/rtnetlink.h: RT_SCOPE_LINK, and above it only the host itself


def with_ipv6(link: str, *, keep_on_down: bool) -> Iterator[Step]:
    """Let a link of the sandbox bear IPv6 addresses, and keep them when it is down for a while."""
    for name in ("lo", link):
        yield EnsureSysctl(SANDBOX, ("ipv6", "conf", name, "disable_ipv6"), "0")
    if keep_on_down:
        yield EnsureSysctl(SANDBOX, ("ipv6", "conf", link, "keep_addr_on_down"), "1")


def no_router_advertisements(link: str) -> EnsureSysctl:
    """A link of the host that leads to containers: none of them may become the host's router."""
    return EnsureSysctl(HOST, ("ipv6", "conf", link, "accept_ra"), "0", optional=True)


def route(link: str, route: Route, ips: tuple[IPConfig, ...]) -> AddRoute:
    """A route without gateway takes the first one of its family, unless its scope says it needs none."""
    family = [ip for ip in ips if ip.address.version == route.dst.version]
    gateway = route.gw
    if gateway is None and (route.scope or 0) < SCOPE_LINK:
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


def masquerade(
    request: Request, ip_masq: IpMasq, backend: str, ips: tuple[IPConfig, ...], link: str
) -> Iterator[Step]:
    """Masquerade the addresses of the families that are asked for.

    :param link: the host link whose absence shows that the attachment is gone, if there is one.
    """
    families = {IPV4: ip_masq.v4, IPV6: ip_masq.v6}
    chosen = tuple(ip.address for ip in ips if families[ip.address.version])
    if not chosen:
        return
    exclude, random = tuple(ip_masq.exclude), ip_masq.random_fully
    if backend == "iptables":
        yield EnsureIptablesMasquerade(request.attachment, chosen, exclude, random)
    else:
        yield EnsureMasquerade(request.attachment, chosen, exclude, random, link)
