"""The ptp plugin's declaration: what it asks, plans, answers and reports."""

from cni_plugins.contract.facts import Asks, Facts
from cni_plugins.contract.keys import AUTO
from cni_plugins.contract.plugin import Plugin
from cni_plugins.errors import NotAvailable
from cni_plugins.ptp.config import PtpConfig, parse
from cni_plugins.ptp.plan import add, admit, collect, delete, result
from cni_plugins.spec.request import Request


def ipam_type(request: Request) -> str:
    return request.ipam_type


def asks(request: Request, config: PtpConfig | None) -> Asks:
    """Return the questions of each command; DEL and GC need nothing of the config."""
    if request.command == "GC":
        return Asks(owned=True)
    if request.command == "DEL" or config is None:
        return Asks(host=(request.attachment.host_end,), sandbox=(request.ifname,))
    if request.command == "STATUS":
        through_iptables = config.ip_masq_backend == "iptables"
        return Asks(
            nf_tables=config.ip_masq.is_on and not through_iptables,
            iptables=config.ip_masq.is_on and through_iptables,
        )
    if request.command == "CHECK":
        return Asks(sandbox=(request.ifname,))
    return Asks(
        host=(request.attachment.host_end,), sandbox=(request.ifname,), default_route=config.mtu == AUTO
    )


def status(_request: Request, _config: PtpConfig, facts: Facts) -> None:
    """:raises NotAvailable: when the kernel or host lacks what the config needs."""
    if not facts.nf_tables:
        raise NotAvailable("this kernel has no nf_tables", "ipMasq is set")
    if not facts.iptables:
        raise NotAvailable("iptables-restore is not installed", "ipMasqBackend is iptables")


PLUGIN = Plugin(
    name="ptp",
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
