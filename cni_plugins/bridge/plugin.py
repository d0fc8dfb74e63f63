"""Declares the bridge plugin: the facts it needs, its plans, and STATUS."""

from cni_plugins.bridge.config import BridgeConfig, parse
from cni_plugins.bridge.gateways import OUTSIDE
from cni_plugins.bridge.plan import admit, decide
from cni_plugins.bridge.removal import collect, delete
from cni_plugins.contract.config_fields import AUTO
from cni_plugins.contract.facts import Asks, Facts
from cni_plugins.contract.plan_parts import asks_of_masquerade, require_port, require_rules
from cni_plugins.contract.plugin import Plugin, Probing, named_ipam
from cni_plugins.errors import NotAvailable
from cni_plugins.protocol.request import Request
from cni_plugins.steps.step import SANDBOX


def asks(request: Request, config: BridgeConfig | None) -> Asks:
    """Return the facts that each command needs; DEL and GC do without the config."""
    if request.command == "GC":
        return Asks(owned=True)
    if request.command == "DEL" or config is None:
        return Asks(host=(request.attachment.host_end,), sandbox=(request.ifname,))
    links = (config.bridge, config.gateway_link) if config.vlan else (config.bridge,)
    if request.command == "STATUS":
        rules = asks_of_masquerade(config.masquerade, config.ip_masq_backend)
        return rules._replace(
            host=links,
            vlan_filtering=config.uses_vlans,
            full=config.bridge,
            nf_tables=config.macspoofchk or config.internal or rules.nf_tables,
        )
    if request.command == "ADD":
        links = (*links, request.attachment.host_end)
    probing = config.bridge if request.command == "ADD" and config.acd else ""
    ways_out = OUTSIDE if request.command == "ADD" and config.is_gw else ()
    return Asks(
        host=links,
        sandbox=(request.ifname,),
        default_route=config.wanted_mtu == AUTO,
        routes_to=ways_out,
        uplink_of=probing,
    )


def probes(request: Request, config: BridgeConfig, facts: Facts) -> Probing | None:
    """Return where to probe if anybody may answer: without an uplink, the IPAM plugin knows all addresses."""
    wanted = config.acd and config.ipam.type and facts.has_uplink
    return Probing(SANDBOX, request.ifname) if wanted else None


def status(_request: Request, config: BridgeConfig, facts: Facts) -> None:
    """:raises NotAvailable: when the link `bridge` is not a bridge, or the kernel or host lacks a feature."""
    bridge = facts.host.get(config.bridge)
    if bridge is not None and bridge.kind != "bridge":
        raise NotAvailable(
            f'"{config.bridge}" already exists but is not a bridge', f"bridge is {config.bridge}"
        )
    if not facts.vlan_filtering:
        raise NotAvailable("this kernel's bridges cannot filter VLANs", "vlan or vlanTrunk is set")
    require_port(facts, config.bridge)
    require_rules(facts, "ipMasq, macspoofchk or internal is set")


PLUGIN = Plugin(
    name="bridge",
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
