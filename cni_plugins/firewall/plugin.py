"""Declares the firewall plugin: the facts it needs, its plans, and STATUS."""

from cni_plugins.contract.facts import Asks, Facts, ForwardFilterAsks
from cni_plugins.contract.plugin import Plugin
from cni_plugins.errors import LimitedConnectivity, NotAvailable, UnsupportedField
from cni_plugins.firewall.backends import FIREWALLD, IPTABLES, chosen, lack
from cni_plugins.firewall.config import FirewallConfig, parse
from cni_plugins.firewall.container import addresses, outer_link
from cni_plugins.firewall.plan import bus, collect, decide, delete
from cni_plugins.protocol.request import Request

_BOTH = (4, 6)
_CHAIN_OF_IPTABLES = "FORWARD of table filter"


def asks(request: Request, config: FirewallConfig | None) -> Asks:
    """Return the facts that each command needs; DEL and GC need none."""
    if config is None or request.command in ("DEL", "GC"):
        return Asks()
    own, is_status = addresses(request), request.command == "STATUS"
    filters = ForwardFilterAsks(
        backend=config.backend,
        families=_BOTH if is_status else tuple(sorted({address.version for address in own})),
        addresses=own,
        owner=request.owner if request.command == "CHECK" else None,
        apart=config.is_apart,
        isolated=config.is_isolated,
        status=is_status,
        bus=bus(request),
    )
    if is_status or not config.is_apart:
        return Asks(forward_filter=filters)
    host = (outer_link(request, config.ingress_policy),)
    return Asks(host=host, routes_to=own, forward_filter=filters)


def admit(request: Request, config: FirewallConfig, facts: Facts) -> None:
    """:raises UnsupportedField: when the kernel lacks what the config needs."""
    missing = lack(config, chosen(request, config, facts), facts)
    if missing:
        raise UnsupportedField(missing.what, missing.key)


def status(request: Request, config: FirewallConfig, facts: Facts) -> None:
    """Report what would make an ADD fail, or drop every packet of containers.

    :raises NotAvailable: when the backend is not usable.
    :raises LimitedConnectivity: when another program's chain lets nothing through.
    """
    backend, found = chosen(request, config, facts), facts.forward_filter
    missing = lack(config, backend, facts)
    if missing:
        raise NotAvailable(missing.what, missing.key)
    key = f"backend is {config.backend}" if config.backend else "backend is not set"
    if backend == IPTABLES and _BOTH[0] not in found.iptables:
        raise NotAvailable("iptables-restore is not installed", key)
    if backend == FIREWALLD:
        _require_zone(config, facts, key)
    if found.closed_chain and not (backend == IPTABLES and found.closed_chain == _CHAIN_OF_IPTABLES):
        raise LimitedConnectivity(
            f"chain {found.closed_chain} of nf_tables drops every packet that is forwarded",
            "its policy is drop, and it has no rules",
        )


def _require_zone(config: FirewallConfig, facts: Facts, key: str) -> None:
    found = facts.forward_filter
    if not found.firewalld:
        raise NotAvailable("firewalld does not run", key)
    if config.firewalld_zone not in found.zones:
        raise NotAvailable(
            f"firewalld has no zone {config.firewalld_zone}", f"firewalldZone is {config.firewalld_zone}"
        )


PLUGIN = Plugin(
    "firewall",
    decide,
    parse=parse,
    asks=asks,
    admit=admit,
    delete=delete,
    collect=collect,
    status=status,
    is_chained=True,
)
