"""Declares the ptp plugin: the facts it needs, its plans, and STATUS."""

from cni_plugins.contract.config_fields import AUTO
from cni_plugins.contract.facts import Asks, Facts
from cni_plugins.contract.plan_parts import asks_of_masquerade, require_rules
from cni_plugins.contract.plugin import Plugin, named_ipam
from cni_plugins.protocol.request import Request
from cni_plugins.ptp.config import PtpConfig, parse
from cni_plugins.ptp.plan import admit, collect, decide, delete


def asks(request: Request, config: PtpConfig | None) -> Asks:
    """Return the facts that each command needs; DEL and GC do without the config."""
    if request.command == "GC":
        return Asks(owned=True)
    if request.command == "DEL" or config is None:
        return Asks(host=(request.attachment.host_end,), sandbox=(request.ifname,))
    if request.command == "STATUS":
        return asks_of_masquerade(config.masquerade, config.ip_masq_backend)
    return Asks(
        host=(request.attachment.host_end,),
        sandbox=(request.ifname,),
        default_route=request.command == "ADD" and config.wanted_mtu == AUTO,
    )


def status(_request: Request, _config: PtpConfig, facts: Facts) -> None:
    """:raises NotAvailable: when kernel or host lack what masquerading needs."""
    require_rules(facts)


PLUGIN = Plugin(
    name="ptp",
    decide=decide,
    parse=parse,
    ipam_type=named_ipam,
    asks=asks,
    admit=admit,
    delete=delete,
    collect=collect,
    status=status,
)
