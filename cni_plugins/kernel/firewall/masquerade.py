"""Masquerades in nf_tables, by rules over sets with the addresses of each network's attachments."""

from functools import lru_cache
from ipaddress import collapse_addresses, ip_network
from typing import cast

from cni_plugins.kernel.deed import deed
from cni_plugins.kernel.firewall import attachment_rules
from cni_plugins.kernel.firewall.attachment_rules import Objects, Rule
from cni_plugins.kernel.firewall.nft_table import Chain, Set
from cni_plugins.kernel.netlink import nf_tables as wire
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import digest, network_tag
from cni_plugins.protocol.fields import IPInterface, IPNetwork
from cni_plugins.steps.firewall import EnsureIptablesMasquerade, EnsureMasquerade

_CHAIN = Chain("masq_postrouting", "nat", 4, 100)  # linux/netfilter_ipv4.h: NF_IP_PRI_NAT_SRC
_UNPRIVILEGED, _LAST_PORT = 1024, 65535
_NETWORKS = 64  # networks whose exclusions are cached
_MULTICAST = {4: ip_network("224.0.0.0/4"), 6: ip_network("ff00::/8")}


def _ensure(session: Session, step: EnsureMasquerade) -> None:
    attachment_rules.ensure(session, _masquerade(step), step.owner, step.link)


def _differs(session: Session, step: EnsureMasquerade) -> str:
    gap = attachment_rules.missing(session, _masquerade(step), step.owner)
    return f"masquerade: {gap} is missing" if gap else ""


def exclusions(step: EnsureIptablesMasquerade, address: IPInterface) -> list[IPNetwork]:
    """Return the destinations that are not masqueraded: own subnet, multicast, and excluded ones."""
    return list(_collapsed((address.network, _MULTICAST[address.version]), step.exclude))


@lru_cache(maxsize=_NETWORKS)
def _collapsed(first: tuple[IPNetwork, ...], chosen: tuple[IPNetwork, ...]) -> tuple[IPNetwork, ...]:
    same = [net for net in chosen if net.version == first[0].version]
    return cast("tuple[IPNetwork, ...]", tuple(collapse_addresses([*first, *same])))


def _masquerade(step: EnsureMasquerade) -> Objects:
    """Return one set with its rules per IP version and list of exclusions: usually one per version."""
    rules: dict[str, tuple[Rule, ...]] = {}
    elements = []
    for address in step.addresses:
        found = _masquerade_rules(step, address)
        name = found[0].sets[0].name
        rules[name] = found
        elements.append((name, address.ip.packed))
    every = tuple(rule for found in rules.values() for rule in found)
    return Objects(wire.INET, _CHAIN, every, tuple(elements))


def _masquerade_rules(step: EnsureMasquerade, address: IPInterface) -> tuple[Rule, ...]:
    """Return the rules of one set; its name contains their digest, so a changed config creates a new set."""
    version, network = address.version, step.owner.attachment.network
    exempt = [] if step.exempts_network else [address.network]
    excluded = _collapsed((*exempt, _MULTICAST[version]), step.exclude)
    port = f" {step.reserved_port}" if step.reserved_port else ""
    content = digest(f"{' '.join(map(str, excluded))} {step.random_fully}{port}", 8)
    name = f"masq{version}_{network_tag(network)}_{content}"
    of_network = f"net: {network}"
    addresses = Set(name, wire.Layout.TYPE[version], wire.Layout.LENGTH[version], of_network)

    def matching() -> bytes:
        return (
            wire.is_family(version)
            + wire.source_in(version, name)
            + (wire.destination_not_in(version, name) if step.exempts_network else b"")
            + b"".join(wire.destination_outside(item) for item in excluded)
        )

    def masquerading(ports: tuple[int, int] | None = None) -> bytes:
        return wire.masquerade(random_fully=step.random_fully, ports=ports)

    if not step.reserved_port:
        return (Rule((addresses,), lambda: matching() + masquerading()),)
    beside = ports_beside(step.reserved_port)
    return (
        Rule((addresses,), lambda: matching() + wire.udp() + masquerading(beside), "udp"),
        Rule((addresses,), lambda: matching() + wire.udp(inverted=True) + masquerading(), "other"),
    )


def ports_beside(reserved: int) -> tuple[int, int]:
    """Return the first and last port of the larger range beside a reserved one, privileged ports excluded."""
    below, above = (_UNPRIVILEGED, reserved - 1), (max(reserved + 1, _UNPRIVILEGED), _LAST_PORT)
    return below if below[1] - below[0] > above[1] - above[0] else above


DEEDS = deed(EnsureMasquerade, _ensure, _differs)
