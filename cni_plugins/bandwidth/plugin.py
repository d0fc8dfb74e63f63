"""Declares the bandwidth plugin: the facts it needs, its plans, and STATUS."""

from cni_plugins.bandwidth.config import BandwidthConfig, parse
from cni_plugins.bandwidth.plan import collect, decide, delete
from cni_plugins.contract.facts import Asks, Facts
from cni_plugins.contract.plugin import Plugin
from cni_plugins.errors import NotAvailable
from cni_plugins.protocol.request import Request


def asks(request: Request, _config: BandwidthConfig | None) -> Asks:
    """Return the facts that each command needs."""
    if request.command == "GC":
        return Asks(owned=True)
    if request.command == "STATUS":
        return Asks(shaping=True)
    names = (request.attachment.reference_ifb, request.attachment.ifb)
    return Asks(host=names, sandbox=(request.ifname,), redirected=request.ifname)


def status(_request: Request, config: BandwidthConfig, facts: Facts) -> None:
    """:raises NotAvailable: when the kernel cannot limit what the config, or a runtime, may limit."""
    may_limit = config.ingress.is_set or config.egress.is_set or config.capabilities.bandwidth
    if may_limit and facts.lacks_for_shaping:
        raise NotAvailable(
            f"this kernel lacks the module {facts.lacks_for_shaping}, which limits of bandwidth need",
            "load or install it, or remove the plugin bandwidth from the network",
        )


PLUGIN = Plugin(
    name="bandwidth",
    decide=decide,
    parse=parse,
    asks=asks,
    delete=delete,
    collect=collect,
    status=status,
    is_chained=True,
)
