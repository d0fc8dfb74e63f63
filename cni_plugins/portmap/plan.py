"""Decides which ports of the host lead to the container, and what must be translated for that."""

from collections.abc import Iterator

from cni_plugins.contract.facts import Asks, Facts
from cni_plugins.contract.plugin import Decision
from cni_plugins.contract.prev_result import host_interfaces, host_link, reachable_addresses, required
from cni_plugins.portmap.config import IPTABLES, PortmapConfig
from cni_plugins.protocol.fields import IPInterface
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import Result
from cni_plugins.steps.ip import EnsureSysctl
from cni_plugins.steps.port_mappings import (
    DelIptablesPorts,
    DelPortMaps,
    DelReferencePorts,
    DelStaleIptablesPorts,
    DelStalePortMaps,
    EnsureIptablesPorts,
    EnsureLocalnet,
    EnsurePortMaps,
    ForgetUdpFlows,
    Publication,
    SetMark,
)
from cni_plugins.steps.step import HOST, Plan, Step

_IPV4 = 4


def asks(request: Request, config: PortmapConfig | None) -> Asks:
    """Ask which link leads to the container, whose setting lets packets from 127.0.0.1 pass."""
    if config is None:
        return Asks()
    if request.command == "STATUS":
        through_iptables = config.chosen_backend == IPTABLES
        return Asks(iptables=through_iptables, nft=config.needs_nft, port_maps=not through_iptables)
    if request.command not in ("ADD", "CHECK"):
        return Asks()
    addresses = tuple(one.target.ip for one in publications(request, config) if _wants_localhost(one))
    return Asks(routes_to=addresses, nf_tables=bool(addresses))


def decide(request: Request, config: PortmapConfig, _lease: Result, facts: Facts) -> Decision:
    return Decision(tuple(_steps(request, config, facts)), required(request))


def _steps(request: Request, config: PortmapConfig, facts: Facts) -> Iterator[Step]:
    published = publications(request, config)
    if not published:
        return
    link = host_link(request)
    if config.chosen_backend == IPTABLES:
        mark = SetMark(config.mark_bit, config.external_set_mark_chain)
        yield EnsureIptablesPorts(request.attachment, link, published, mark)
    else:
        yield EnsurePortMaps(request.owner, link, published)
    for one in published:
        if _wants_localhost(one):
            yield from _localhost(request, one, facts, link)
    yield ForgetUdpFlows(published)


def publications(request: Request, config: PortmapConfig) -> tuple[Publication, ...]:
    """Return the mappings to each of the container's addresses: the first one of each IP version."""
    found = (_publication(config, address) for address in reachable_addresses(request))
    return tuple(one for one in found if one.mappings)


def _publication(config: PortmapConfig, address: IPInterface) -> Publication:
    version = address.version
    mappings = [item for item in config.runtime_config.port_mappings if version in item.versions]
    return Publication(
        target=address,
        mappings=tuple(item.as_step() for item in mappings),
        snat=config.snat,
        masq_all=config.snat and config.masq_all,
        conditions=config.conditions(version),
    )


def _wants_localhost(one: Publication) -> bool:
    return one.snat and one.target.version == _IPV4


def _localhost(request: Request, one: Publication, facts: Facts, link: str) -> Iterator[Step]:
    """Yield the step for 127.0.0.1, if the container is on a link of the host and not behind a router."""
    hop = facts.routes_to.get(one.target.ip)
    if hop is None or hop.gateway is not None:
        return
    if facts.nf_tables:
        yield EnsureLocalnet(request.owner, hop.link, one.target.ip, link)
    else:  # it stays, as with the reference: nothing would say when it is needed no more
        yield EnsureSysctl(HOST, ("ipv4", "conf", hop.link, "route_localnet"), "1")


def delete(request: Request, _config: PortmapConfig | None, _facts: Facts) -> Plan:
    ips = request.prev_result.ips if request.prev_result else ()
    return (
        DelPortMaps(request.owner, tuple(host_interfaces(request))),
        DelIptablesPorts(request.attachment),
        DelReferencePorts(request.container_id, tuple(ip.address.ip for ip in ips)),
    )


def collect(request: Request, _facts: Facts) -> Plan:
    return (
        DelStalePortMaps(request.network, request.plugin, request.valid_tags),
        DelStaleIptablesPorts(request.network, request.valid_attachments),
    )
