"""The declaration of portmap: what it looks up, and when it is not ready."""

from cni_plugins.contract.facts import Facts
from cni_plugins.contract.plugin import Plugin
from cni_plugins.errors import NotAvailable
from cni_plugins.portmap.config import PortmapConfig, parse
from cni_plugins.portmap.plan import asks, collect, decide, delete
from cni_plugins.protocol.request import Request


def _status(_request: Request, _config: PortmapConfig, facts: Facts) -> None:
    """:raises NotAvailable: when the chosen backend is not there."""
    if not facts.iptables:
        raise NotAvailable("iptables-restore is not installed", "the backend is iptables")
    if facts.lacks_port_maps:
        raise NotAvailable(f"this kernel has no {facts.lacks_port_maps}", "the backend is nftables")
    if not facts.nft:
        raise NotAvailable("nft is not installed", "conditionsV4 and conditionsV6 need it")


PLUGIN = Plugin(
    "portmap",
    decide,
    parse=parse,
    asks=asks,
    delete=delete,
    collect=collect,
    status=_status,
    is_chained=True,
)
