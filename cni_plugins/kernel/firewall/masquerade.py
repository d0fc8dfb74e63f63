"""Masquerades in nf_tables, by rules over sets with the addresses of each network's attachments."""

from functools import lru_cache
from ipaddress import collapse_addresses, ip_network
from typing import cast

from cni_plugins.kernel.deed import deed
from cni_plugins.kernel.firewall import attachment_rules
from cni_plugins.kernel.firewall.attachment_rules import Item, Objects, Rule, Want
from cni_plugins.kernel.firewall.nft_table import Chain, Set
from cni_plugins.kernel.netlink import nf_tables as wire
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import digest, network_tag
from cni_plugins.protocol.fields import IPInterface, IPNetwork
from cni_plugins.steps.firewall import EnsureIptablesMasquerade, EnsureMasquerade

_CHAIN = Chain("masq_postrouting", "nat", 4, 100)  # linux/netfilter_ipv4.h: NF_IP_PRI_NAT_SRC
_NETWORKS = 64  # networks whose exclusions are cached
MULTICAST = {4: ip_network("224.0.0.0/4"), 6: ip_network("ff00::/8")}


def _ensure(session: Session, step: EnsureMasquerade) -> None:
    attachment_rules.ensure(session, *_wanted(step))


def _wanted(step: EnsureMasquerade) -> Want:
    return Want(_masquerade(step), step.owner, step.link)


def _differs(session: Session, step: EnsureMasquerade) -> str:
    gap = attachment_rules.missing(session, _masquerade(step), step.owner)
    return f"masquerade: {gap} is missing" if gap else ""


def exclusions(step: EnsureIptablesMasquerade, address: IPInterface) -> list[IPNetwork]:
    """Return the destinations that are not masqueraded: own subnet, multicast, and excluded ones."""
    return list(excluding((address.network, MULTICAST[address.version]), step.exclude))


@lru_cache(maxsize=_NETWORKS)
def excluding(first: tuple[IPNetwork, ...], chosen: tuple[IPNetwork, ...]) -> tuple[IPNetwork, ...]:
    """Return the networks of the first family in both lists, with those that others contain left out."""
    same = [net for net in chosen if net.version == first[0].version]
    return cast("tuple[IPNetwork, ...]", tuple(collapse_addresses([*first, *same])))


def _masquerade(step: EnsureMasquerade) -> Objects:
    """Return one set with its rule per IP version and list of exclusions: usually one per version."""
    rules: dict[str, Rule] = {}
    elements = []
    for address in step.addresses:
        rule = _masquerade_rule(step, address)
        name = rule.sets[0].name
        rules[name] = rule
        elements.append(Item(name, address.ip.packed))
    return Objects(wire.INET, tuple(rules.values()), tuple(elements))


def _masquerade_rule(step: EnsureMasquerade, address: IPInterface) -> Rule:
    """Return the rule of one set; its name contains a digest, so a changed config creates a new set."""
    version, network = address.version, step.owner.attachment.network
    exempt = [] if step.exempts_network else [address.network]
    excluded = excluding((*exempt, MULTICAST[version]), step.exclude)
    content = digest(f"{' '.join(map(str, excluded))} {step.random_fully}", 8)
    name = f"masq{version}_{network_tag(network)}_{content}"
    addresses = Set(name, wire.Layout.TYPE[version], wire.Layout.LENGTH[version], f"net: {network}")

    def expressions() -> bytes:
        return (
            wire.is_family(version)
            + wire.source_in(version, name)
            + (wire.destination_in(version, name, inverted=True) if step.exempts_network else b"")
            + b"".join(wire.destination_outside(item) for item in excluded)
            + wire.masquerade(random_fully=step.random_fully)
        )

    return Rule(_CHAIN, (addresses,), expressions)


DEEDS = deed(EnsureMasquerade, _ensure, _differs, restore=attachment_rules.restoring(_wanted))
