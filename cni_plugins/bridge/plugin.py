"""The bridge plugin's declaration: what it asks, plans, answers and reports."""

from cni_plugins.bridge.config import BridgeConfig, parse
from cni_plugins.bridge.gateways import gateways, routes
from cni_plugins.bridge.identity import identify
from cni_plugins.bridge.plan import add, admit
from cni_plugins.bridge.removal import collect, delete
from cni_plugins.contract import veth
from cni_plugins.contract.facts import Asks, Facts
from cni_plugins.contract.keys import AUTO
from cni_plugins.contract.phrases import asks_of_masquerade, require_rules
from cni_plugins.contract.plugin import Plugin
from cni_plugins.errors import NotAvailable
from cni_plugins.spec.request import Request
from cni_plugins.spec.result import Interface, Result

_SANDBOX_INTERFACE = 2  # its place in the result: after the bridge and the host end


def ipam_type(request: Request) -> str:
    return request.ipam_type


def asks(request: Request, config: BridgeConfig | None) -> Asks:
    """Return the questions of each command; DEL and GC need nothing of the config."""
    if request.command == "GC":
        return Asks(owned=True)
    if request.command == "DEL" or config is None:
        return Asks(host=(request.attachment.host_end,), sandbox=(request.ifname,))
    links = (config.bridge, config.gateway_link) if config.vlan else (config.bridge,)
    if request.command == "STATUS":
        rules = asks_of_masquerade(config.ip_masq, config.ip_masq_backend)
        return rules._replace(
            host=links, vlan_filtering=config.uses_vlans, nf_tables=config.macspoofchk or rules.nf_tables
        )
    if request.command == "ADD":
        links = (*links, request.attachment.host_end)
    return Asks(host=links, sandbox=(request.ifname,), default_route=config.mtu == AUTO)


def result(request: Request, config: BridgeConfig, lease: Result, facts: Facts) -> Result:
    """Return the bridge, both ends of the pair, and with a VLAN the link that bears the gateway address."""
    identity = identify(request, config, facts)
    ips = gateways(config, lease.ips)
    interfaces = [Interface(config.bridge, identity.bridge_mac), *veth.interfaces(request, identity.pair)]
    if config.vlan and config.is_gw and ips:
        interfaces.append(Interface(config.gateway_link, identity.gateway_mac))
    return lease._replace(
        interfaces=tuple(interfaces),
        ips=tuple(ip._replace(interface=_SANDBOX_INTERFACE) for ip in ips),
        routes=routes(config, ips, lease.routes),
        dns=lease.dns if config.dns is None else config.dns,
    )


def status(_request: Request, config: BridgeConfig, facts: Facts) -> None:
    """:raises NotAvailable: when the name is taken, or the kernel or host lacks what the config needs."""
    bridge = facts.host.get(config.bridge)
    if bridge is not None and bridge.kind != "bridge":
        raise NotAvailable(
            f'"{config.bridge}" already exists but is not a bridge', f"bridge is {config.bridge}"
        )
    if not facts.vlan_filtering:
        raise NotAvailable("this kernel's bridges cannot filter VLANs", "vlan or vlanTrunk is set")
    require_rules(facts, "ipMasq or macspoofchk is set")


PLUGIN = Plugin(
    name="bridge",
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
