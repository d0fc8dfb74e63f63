"""Plans ADD and CHECK of the macvlan plugin: pure functions from request, config, lease and facts."""

from collections.abc import Iterator

from cni_plugins.contract.config_fields import IPV4, IPV6
from cni_plugins.contract.facts import Facts, link_name_taken
from cni_plugins.contract.plan_parts import masquerade, route, with_ipv6
from cni_plugins.contract.plugin import Decision
from cni_plugins.errors import InvalidNetworkConfig, NameTaken, StateDrifted
from cni_plugins.macvlan.access import host_access
from cni_plugins.macvlan.config import MacvlanConfig
from cni_plugins.macvlan.identity import MacvlanIdentity, identify, require_mtu
from cni_plugins.macvlan.master import Master, resolve
from cni_plugins.macvlan.result import own_addresses, result
from cni_plugins.protocol.fields import IPInterface
from cni_plugins.protocol.macs import link_local
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import IPConfig, Result, Route
from cni_plugins.steps.ip import (
    IF_PRESENT,
    WANTED,
    AwaitAddresses,
    EnableForwarding,
    EnsureAddress,
    EnsureSysctl,
)
from cni_plugins.steps.links import Announce, EnsureUp
from cni_plugins.steps.macvlan import AddMacvlan
from cni_plugins.steps.neighbours import Advertise
from cni_plugins.steps.step import HOST, SANDBOX, Step


def admit(request: Request, config: MacvlanConfig, facts: Facts) -> None:
    """Refuse before addresses are reserved, as releasing them could release those of an existing attachment.

    :raises InvalidNetworkConfig: when there is no suitable master.
    :raises NameTaken: when the sandbox has an interface of that name, or the MAC address is in use.
    """
    master = resolve(request, config, facts)
    require_mtu(config, master, ())
    if request.ifname in facts.sandbox:
        raise link_name_taken(request.ifname, request.netns)
    _require_free_mac(config, master, facts)


def _require_free_mac(config: MacvlanConfig, master: Master, facts: Facts) -> None:
    """:raises NameTaken: when the MAC address that was asked for is in use on the master.

    The kernel refuses it only when the link is set up (macvlan_addr_busy, drivers/net/macvlan.c).
    """
    if not config.mac or config.mode == "passthru":
        return
    holder = next(
        (user.owner for user in facts.macvlan_users.get(master.ifindex, ()) if user.mac == config.mac),
        f"{master.name} itself" if config.mac == master.mac else "",
    )
    if holder:
        raise NameTaken(f"MAC address {config.mac} is in use by {holder}", f"master is {master.name}")


def decide(request: Request, config: MacvlanConfig, lease: Result, facts: Facts) -> Decision:
    """Return steps and result of ADD, host-wide sysctls last; CHECK compares the same steps with the kernel.

    :raises InvalidNetworkConfig: when the addresses do not fit the config.
    """
    master = _master(request, config, facts)
    identity = identify(request, config, master, facts)
    ips, routes = own_addresses(request, config, lease)
    require_mtu(config, master, ips)
    plan = (
        *([master.vlan] if master.vlan else []),
        _link(request, config, identity, master),
        # Before the sandbox has routes: a program that sends at once must not get past the rules.
        *_masquerade(request, config, identity, ips),
        *_sandbox(request.ifname, config, identity, ips, routes),
        *_access(request, config, identity, master, ips),
        *_forwarding(config, ips),
    )
    return Decision(plan, result(request, config, identity, lease._replace(ips=ips, routes=routes)))


def _master(request: Request, config: MacvlanConfig, facts: Facts) -> Master:
    """:raises StateDrifted: when CHECK finds that the master is gone or no longer suitable."""
    try:
        return resolve(request, config, facts)
    except InvalidNetworkConfig as err:
        if request.command == "CHECK":
            raise StateDrifted(err.msg, err.details) from err
        raise


def _link(request: Request, config: MacvlanConfig, identity: MacvlanIdentity, master: Master) -> AddMacvlan:
    return AddMacvlan(
        SANDBOX if config.link_in_container else HOST,
        master.name,
        request.ifname,
        request.attachment,
        identity.wanted_mac,
        config.mtu,
        config.mode,
        config.bcqueuelen,
        tuple(config.allowed_macs),
        has_alias=identity.ours,
    )


def _sandbox(
    link: str,
    config: MacvlanConfig,
    identity: MacvlanIdentity,
    ips: tuple[IPConfig, ...],
    routes: tuple[Route, ...],
) -> Iterator[Step]:
    """Yield the sandbox's steps: IPv4 addresses come before link up, which announces them."""
    yield from _source_mode_sysctls(link, config)
    if config.probes and not config.enabledad:
        # Nobody has the addresses; the kernel's own look would only keep them from being used.
        yield EnsureSysctl(SANDBOX, ("ipv6", "conf", link, "accept_dad"), "0", WANTED)
    if ips:
        yield from _announcement_sysctls(link, config, identity)
    yield from (EnsureAddress(SANDBOX, link, ip.address) for ip in ips if ip.address.version == IPV4)
    yield from _up(link, config, identity, [ip.address for ip in ips if ip.address.version == IPV6])
    yield from (route(link, item, ips) for item in routes)
    advertised = tuple(ip.address.ip for ip in ips if ip.address.version == IPV6)
    if advertised and identity.ours and not config.enabledad:
        yield Advertise(link, identity.mac, advertised)
    if config.probes and config.mode != "passthru" and any(ip.address.version == IPV4 for ip in ips):
        yield Announce(SANDBOX, link)  # the link was up before it had addresses


def _up(
    link: str, config: MacvlanConfig, identity: MacvlanIdentity, addresses: list[IPInterface]
) -> Iterator[Step]:
    """Yield the steps that set the link up and add its IPv6 addresses.

    Optimistic addresses (RFC 4429) must be added after it is up: for earlier ones the kernel creates no local
    route until DAD has finished (addrconf_dad_run, net/ipv6/addrconf.c).
    """
    if addresses:
        yield from with_ipv6(link, keep_on_down=identity.ours)
        if identity.ours and not config.enabledad:
            # Neighbour solicitations need a source that is not optimistic (RFC 4429, 3.2).
            yield EnsureAddress(SANDBOX, link, link_local(identity.first_mac), skip_dad=True)
    yield EnsureUp(SANDBOX, link)
    for address in addresses:
        yield _ipv6_address(link, config, address)
    if addresses and config.enabledad:
        yield AwaitAddresses(SANDBOX, link)


def _ipv6_address(link: str, config: MacvlanConfig, address: IPInterface) -> EnsureAddress:
    """Return the step for an address that is usable during DAD, which finds duplicates on the wire.

    Without DAD in modes that deliver a container's own frames when a switch reflects them: it would mistake
    its own announcement for a duplicate (macvlan_handle_frame, drivers/net/macvlan.c).
    """
    if config.enabledad:
        return EnsureAddress(SANDBOX, link, address)
    hears_itself = config.mode not in ("bridge", "vepa")
    return EnsureAddress(SANDBOX, link, address, skip_dad=hears_itself, optimistic=not hears_itself)


def _announcement_sysctls(link: str, config: MacvlanConfig, identity: MacvlanIdentity) -> Iterator[Step]:
    """Yield sysctls for announcements (RFC 5227; RFC 4861, 7.2.6) and optimistic DAD (RFC 4429)."""
    yield EnsureSysctl(SANDBOX, ("ipv4", "conf", link, "arp_notify"), "1", WANTED)
    if not identity.ours:
        return  # older releases of the reference do not set the others
    yield EnsureSysctl(SANDBOX, ("ipv6", "conf", link, "ndisc_notify"), "1", WANTED)
    if not config.enabledad:
        for key in ("optimistic_dad", "use_optimistic"):
            yield EnsureSysctl(SANDBOX, ("ipv6", "conf", link, key), "1", WANTED)


def _source_mode_sysctls(link: str, config: MacvlanConfig) -> Iterator[Step]:
    """Yield sysctls that turn forwarding off in mode source, which delivers frames for any destination.

    New network namespaces inherit the host's `ip_forward`; two such links on a reflecting switch would
    forward packets in a loop.
    """
    if config.mode == "source":
        for family in ("ipv4", "ipv6"):
            yield EnsureSysctl(SANDBOX, (family, "conf", link, "forwarding"), "0", IF_PRESENT)


def _masquerade(
    request: Request, config: MacvlanConfig, identity: MacvlanIdentity, ips: tuple[IPConfig, ...]
) -> Iterator[Step]:
    if config.masquerades and identity.ours:
        yield from masquerade(request, config.masquerade, config.ip_masq_backend, ips, "")


def _access(
    request: Request,
    config: MacvlanConfig,
    identity: MacvlanIdentity,
    master: Master,
    ips: tuple[IPConfig, ...],
) -> Iterator[Step]:
    if config.host_access and identity.ours:
        yield from host_access(request, identity, master, ips, is_gateway=config.is_gateway)


def _forwarding(config: MacvlanConfig, ips: tuple[IPConfig, ...]) -> Iterator[Step]:
    families = tuple(sorted({ip.address.version for ip in ips})) if config.routes_for_containers else ()
    if families:
        yield EnableForwarding(families)
