"""The macvlan plugin's declaration: what it asks, plans, answers and reports."""

from cni_plugins.contract.facts import Asks, Facts, clash
from cni_plugins.contract.phrases import asks_of_masquerade, require_rules
from cni_plugins.contract.plugin import Plugin
from cni_plugins.errors import InvalidNetworkConfig, LimitedConnectivity, NotAvailable
from cni_plugins.macvlan.config import MacvlanConfig, parse
from cni_plugins.macvlan.identity import identify, require_mtu
from cni_plugins.macvlan.master import Master, names, resolve
from cni_plugins.macvlan.plan import add, admit, for_us, own_addresses
from cni_plugins.macvlan.removal import collect, delete
from cni_plugins.spec.request import Request
from cni_plugins.spec.result import DNS, Interface, IPConfig, Result


def ipam_type(request: Request) -> str:
    return request.ipam_type


def asks(request: Request, config: MacvlanConfig | None) -> Asks:
    """Return the questions of each command; DEL and GC need nothing of the config."""
    if request.command == "GC":
        return Asks()
    if request.command == "DEL" or config is None:
        return Asks(sandbox=(request.ifname, request.attachment.host_end))
    masters = names(request, config)
    inside, by_route = config.link_in_container, not masters
    asked = Asks(
        host=() if inside else masters,
        sandbox=(request.ifname, *masters) if inside else (request.ifname,),
        default_route=by_route and not inside,
        sandbox_default_route=by_route and inside,
        kinds=() if config.vlan is None and len(masters) < 2 else ("vlan",),  # noqa: PLR2004 (a dotted name)
    )
    if request.command != "STATUS":
        return asked
    makes = ("macvlan", "vlan") if asked.kinds else ("macvlan",)
    asked = asked._replace(sandbox=(), users=True, makes=makes)
    if not config.masquerades:
        return asked
    rules = asks_of_masquerade(config.ip_masq, config.ip_masq_backend)
    return asked._replace(nf_tables=rules.nf_tables, iptables=rules.iptables)


def result(request: Request, config: MacvlanConfig, lease: Result, facts: Facts) -> Result:
    """Return the link, and the host's own; what plugins before this one made stays in front."""
    master = resolve(request, config, facts)
    identity = identify(request, config, master, facts)
    before = request.prev_result or Result()
    place = len(before.interfaces)
    interfaces = [
        *before.interfaces,
        Interface(request.ifname, identity.mac, request.netns, mtu=identity.mtu),
    ]
    if config.host_access:
        interfaces.append(Interface(identity.host_link, identity.host_mac))
    ips, routes = own_addresses(request, config, lease)
    taken = () if config.ipam.type else for_us(request.prev_result)
    return before._replace(
        interfaces=tuple(interfaces),
        ips=(*(ip for ip in before.ips if ip not in taken), *(_at(ip, place) for ip in ips)),
        routes=(*before.routes, *lease.routes) if config.ipam.type else before.routes or routes,
        dns=_dns(config, lease, before),
    )


def _at(ip: IPConfig, place: int) -> IPConfig:
    return ip._replace(interface=place)


def _dns(config: MacvlanConfig, lease: Result, before: Result) -> DNS:
    if config.dns is not None:
        return config.dns
    return lease.dns if lease.dns != DNS() else before.dns


def status(request: Request, config: MacvlanConfig, facts: Facts) -> None:
    """:raises NotAvailable: when the master is missing, taken or unfit, or the kernel lacks something.

    :raises LimitedConnectivity: when the master is down.
    """
    for kind in facts.cannot_make:
        name = "VLAN links (802.1Q)" if kind == "vlan" else "macvlan links"
        raise NotAvailable(f"this kernel has no {name}", f"master is {config.master or 'not set'}")
    require_rules(facts)
    if config.link_in_container:
        return  # which sandbox that is, only ADD knows
    try:
        master = resolve(request, config, facts)
        require_mtu(config, master, ())
    except InvalidNetworkConfig as err:
        raise NotAvailable(err.msg, err.details) from err
    _require_working(config, master, facts)


def _require_working(config: MacvlanConfig, master: Master, facts: Facts) -> None:
    taken = clash(master.name, config.mode, facts.users.get(master.ifindex, ()))
    if taken:
        raise NotAvailable(taken, f"mode is {config.mode}")
    if not master.up:
        raise LimitedConnectivity(f"master {master.name} is down", "containers on it reach nobody")


PLUGIN = Plugin(
    name="macvlan",
    parse=parse,
    ipam_type=ipam_type,
    asks=asks,
    admit=admit,
    plan_add=add,
    plan_del=delete,
    plan_gc=collect,
    result=result,
    status=status,
)
