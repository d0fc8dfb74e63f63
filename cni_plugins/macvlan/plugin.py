"""Declares the macvlan plugin: the facts it needs, its plans, and STATUS."""

from cni_plugins.contract.facts import Asks, Facts, clash
from cni_plugins.contract.plan_parts import asks_of_masquerade, require_rules
from cni_plugins.contract.plugin import Plugin, Probing, named_ipam
from cni_plugins.errors import InvalidNetworkConfig, NotAvailable
from cni_plugins.macvlan.config import MacvlanConfig, parse
from cni_plugins.macvlan.identity import require_mtu
from cni_plugins.macvlan.master import Master, names, resolve
from cni_plugins.macvlan.plan import admit, decide
from cni_plugins.macvlan.removal import collect, delete
from cni_plugins.protocol.request import Request
from cni_plugins.steps.step import SANDBOX


def asks(request: Request, config: MacvlanConfig | None) -> Asks:
    """Return the facts that each command needs; DEL and GC do without the config."""
    if request.command == "GC":
        return Asks()
    if request.command == "DEL" or config is None:
        return Asks(sandbox=(request.ifname, request.attachment.host_end))
    masters = names(request, config)
    inside, by_route = config.link_in_container, not masters
    common = Asks(
        host=() if inside else masters,
        sandbox=(request.ifname, *masters) if inside else (request.ifname,),
        default_route=by_route and not inside,
        sandbox_default_route=by_route and inside,
        kinds=() if config.vlan is None and len(masters) < 2 else ("vlan",),  # noqa: PLR2004 (a dotted name)
    )
    if request.command != "STATUS":
        # A MAC address that was asked for may be another link's already; computed ones never are.
        is_asked = request.command == "ADD" and bool(config.mac) and not inside
        return common._replace(macvlan_users=is_asked)
    kinds = ("macvlan", "vlan") if common.kinds else ("macvlan",)
    own = common._replace(sandbox=(), macvlan_users=True, unsupported_kinds=kinds)
    if not config.masquerades:
        return own
    rules = asks_of_masquerade(config.masquerade, config.ip_masq_backend)
    return own._replace(nf_tables=rules.nf_tables, iptables=rules.iptables)


def status(request: Request, config: MacvlanConfig, facts: Facts) -> None:
    """:raises NotAvailable: when the master is missing, in use or unsuitable, or a feature is missing."""
    for kind in facts.unsupported_kinds:
        name = "VLAN links (802.1Q)" if kind == "vlan" else "macvlan links"
        raise NotAvailable(f"this kernel has no {name}", f"master is {config.master or 'not set'}")
    require_rules(facts)
    if config.link_in_container:
        return  # the master is in a sandbox, and STATUS has none
    try:
        master = resolve(request, config, facts)
        require_mtu(config, master, ())
    except InvalidNetworkConfig as err:
        raise NotAvailable(err.msg, err.details) from err
    _require_working(config, master, facts)


def _require_working(config: MacvlanConfig, master: Master, facts: Facts) -> None:
    taken = clash(master.name, config.mode, facts.macvlan_users.get(master.ifindex, ()))
    if taken:
        raise NotAvailable(taken, f"mode is {config.mode}")
    # Without a VLAN an ADD succeeds, and the container has connectivity as soon as the master is up.
    if not master.up and config.vlan is not None:
        raise NotAvailable(f"master {master.name} is down", "a VLAN link cannot be up without its master")


def probes(request: Request, config: MacvlanConfig, _facts: Facts) -> Probing | None:
    return Probing(SANDBOX, request.ifname) if config.probes else None


PLUGIN = Plugin(
    name="macvlan",
    decide=decide,
    parse=parse,
    ipam_type=named_ipam,
    asks=asks,
    admit=admit,
    delete=delete,
    collect=collect,
    status=status,
    probes=probes,
)
