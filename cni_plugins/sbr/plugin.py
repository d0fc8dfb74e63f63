"""The declaration of the sbr plugin, and the facts about the kernel that each command needs."""

from cni_plugins.contract.facts import Asks, Facts
from cni_plugins.contract.plugin import Plugin
from cni_plugins.errors import NotAvailable
from cni_plugins.protocol.request import Request
from cni_plugins.sbr.config import SbrConfig, parse
from cni_plugins.sbr.plan import admit, decide, delete
from cni_plugins.sbr.sources import own_result


def _asks(request: Request, config: SbrConfig | None) -> Asks:
    match request.command:
        case "ADD" if config and config.table is None:
            wanted = len(own_result(request).ips)
            return Asks(rules=True, routes_of=request.ifname, free_tables=wanted)
        case "DEL":
            return Asks(rules=True, sandbox=(request.ifname,))
        case "STATUS":
            return Asks(policy_routing=True)
        case _:
            return Asks(rules=True)


def _status(_request: Request, _config: SbrConfig, facts: Facts) -> None:
    """:raises NotAvailable: when the kernel has no rules for an IP version that it has."""
    if facts.without_rules:
        lacking = " and ".join(f"IPv{version}" for version in facts.without_rules)
        raise NotAvailable(
            f"this kernel has no policy routing for {lacking}",
            "it was built without CONFIG_IP_MULTIPLE_TABLES or CONFIG_IPV6_MULTIPLE_TABLES",
        )


PLUGIN = Plugin(
    "sbr",
    decide,
    parse=parse,
    asks=_asks,
    admit=admit,
    delete=delete,
    status=_status,
    is_chained=True,
)
