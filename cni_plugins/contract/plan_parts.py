"""Builds parts of plans that several plugins share: pure functions from values to steps."""

from collections.abc import Iterable, Iterator

from cni_plugins.contract.config_fields import IPV4, IPV6, IpMasq
from cni_plugins.contract.facts import Asks, Facts
from cni_plugins.errors import InvalidNetworkConfig, NotAvailable
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import IPConfig, Route
from cni_plugins.steps.firewall import EnsureIptablesMasquerade, EnsureMasquerade
from cni_plugins.steps.ip import IF_PRESENT, SCOPE_LINK, WANTED, AddRoute, EnsureSysctl
from cni_plugins.steps.step import HOST, SANDBOX, Step

_SMALLEST_IPV6_MTU = 1280  # RFC 8200, 5


def with_ipv6(link: str, *, keep_on_down: bool) -> Iterator[Step]:
    """Yield sysctls that allow IPv6 addresses on a link of the sandbox, and keep them while it is down."""
    for name in ("lo", link):
        yield EnsureSysctl(SANDBOX, ("ipv6", "conf", name, "disable_ipv6"), "0")
    if keep_on_down:
        yield EnsureSysctl(SANDBOX, ("ipv6", "conf", link, "keep_addr_on_down"), "1", WANTED)


def announcing(link: str, *, detects: bool, ours: bool) -> Iterator[Step]:
    """Yield sysctls for duplicate address detection, and for announcements (RFC 5227; RFC 4861, 7.2.6).

    :param detects: whether DAD is on.
    :param ours: False: no ND announcements, which older releases of the reference do not make.
    """
    if detects:
        yield EnsureSysctl(SANDBOX, ("ipv6", "conf", link, "enhanced_dad"), "1", WANTED)
    dad = "1" if detects else "0"
    yield EnsureSysctl(SANDBOX, ("ipv6", "conf", link, "accept_dad"), dad, WANTED)
    yield EnsureSysctl(SANDBOX, ("ipv4", "conf", link, "arp_notify"), "1", WANTED)
    if ours:
        yield EnsureSysctl(SANDBOX, ("ipv6", "conf", link, "ndisc_notify"), "1", WANTED)


def require_ipv6_mtu(mtu: int, ips: tuple[IPConfig, ...], origin: str) -> None:
    """:raises InvalidNetworkConfig: when a link has IPv6 addresses and an MTU too small for them.

    :param mtu: 0: the default, which is large enough.
    :param origin: where the MTU comes from, for the error.
    """
    if 0 < mtu < _SMALLEST_IPV6_MTU and any(ip.address.version == IPV6 for ip in ips):
        raise InvalidNetworkConfig(f"invalid MTU {mtu}, IPv6 needs {_SMALLEST_IPV6_MTU}", origin)


def no_router_advertisements(link: str) -> EnsureSysctl:
    """Return the sysctl that keeps containers behind a host link from becoming the host's router."""
    return EnsureSysctl(HOST, ("ipv6", "conf", link, "accept_ra"), "0", IF_PRESENT)


def forwarding_on(link: str, families: Iterable[int]) -> Iterator[Step]:
    """Yield sysctls without which a host link forwards nothing for its containers.

    The settings of the whole host say nothing about a new link: `conf/default` may differ from them.
    """
    if IPV4 in families:
        yield EnsureSysctl(HOST, ("ipv4", "conf", link, "forwarding"), "1", IF_PRESENT)
    if IPV6 in families:
        yield EnsureSysctl(HOST, ("ipv6", "conf", link, "disable_ipv6"), "0", IF_PRESENT)


def route(link: str, given: Route, ips: tuple[IPConfig, ...]) -> AddRoute:
    """Return the step for a route; a missing gateway is the first of its family, unless its scope is link."""
    family = [ip for ip in ips if ip.address.version == given.dst.version]
    gateway = given.gw
    if gateway is None and (given.scope or 0) < SCOPE_LINK:
        gateway = next((ip.gateway for ip in family if ip.gateway), None)
    reachable = (
        gateway is None
        or (gateway.version == IPV6 and gateway.is_link_local)
        or any(gateway in ip.address.network for ip in family)
    )
    return AddRoute(
        SANDBOX,
        link,
        given.dst,
        gateway,
        given.mtu,
        given.advmss,
        given.priority,
        given.table,
        given.scope,
        onlink=not reachable,
    )


def asks_of_masquerade(ip_masq: IpMasq, backend: str) -> Asks:
    """Return the facts that STATUS needs for masquerading."""
    through_iptables = backend == "iptables"
    return Asks(nf_tables=ip_masq.is_on and not through_iptables, iptables=ip_masq.is_on and through_iptables)


def require_rules(facts: Facts, keys: str = "ipMasq is set") -> None:
    """:raises NotAvailable: when the kernel lacks nf_tables, or the host iptables."""
    if not facts.nf_tables:
        raise NotAvailable("this kernel has no nf_tables", keys)
    if not facts.iptables:
        raise NotAvailable("iptables-restore is not installed", "ipMasqBackend is iptables")


def require_port(facts: Facts, bridge: str) -> None:
    """:raises NotAvailable: when no further container can be attached to the bridge."""
    if facts.is_full:
        raise NotAvailable(f"bridge {bridge} has no port left", "a bridge of Linux has at most 1023 ports")


def masquerade(
    request: Request, ip_masq: IpMasq, backend: str, ips: tuple[IPConfig, ...], link: str
) -> Iterator[Step]:
    """Yield the step that masquerades the addresses of the configured families.

    :param link: the host link whose absence shows that the attachment is gone, if there is one.
    """
    chosen = tuple(ip.address for ip in ips if ip_masq.covers(ip.address.version))
    if not chosen:
        return
    exclude, random = tuple(ip_masq.exclude), ip_masq.random_fully
    if backend == "iptables":
        yield EnsureIptablesMasquerade(request.attachment, chosen, exclude, random)
    else:
        yield EnsureMasquerade(request.owner, chosen, exclude, random, link)
