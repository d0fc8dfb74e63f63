"""Masquerading and source checks as nf_tables objects of an attachment."""

import fcntl
import socket
import struct
from collections.abc import Callable
from functools import cache, lru_cache, partial
from ipaddress import collapse_addresses, ip_network
from typing import cast

from cni_plugins.kernel import nft
from cni_plugins.kernel import nft_wire as wire
from cni_plugins.kernel.nft import Chain, Objects, Rule, Set
from cni_plugins.kernel.nft_look import Element
from cni_plugins.kernel.session import Session
from cni_plugins.spec.attachment import Attachment, digest, network_tag
from cni_plugins.spec.fields import IPInterface, IPNetwork
from cni_plugins.steps.rules import (
    DelOwnedRules,
    DelStaleRules,
    EnsureIptablesMasquerade,
    EnsureMasquerade,
    EnsureSourceGuard,
)

# Hooks and priorities: linux/netfilter_ipv4.h (NF_IP_PRI_NAT_SRC), linux/netfilter_bridge.h
# (NF_BR_PRI_NAT_DST_BRIDGED).
_MASQUERADE = Chain("masq_postrouting", "nat", 4, 100)
_SOURCE_GUARD = Chain("source_guard", "filter", 0, -300)
_IPV4_ADDRESS, _IPV6_ADDRESS, _ETHER_ADDRESS, _IFNAME = 7, 8, 9, 41  # nft(8) data types
_CONCATENATION = 6  # bits by which nft(8) shifts each part's type
_NO_LINK = "-"
_SIOCGIFINDEX = 0x8933  # linux/sockios.h
_IFREQ = struct.Struct("16s24x")  # linux/if.h: the name, and room for the answer
_NETWORKS = 64  # whose exclusions are remembered
_MULTICAST = {4: ip_network("224.0.0.0/4"), 6: ip_network("ff00::/8")}
_GUARDED = Set("guarded", _IFNAME, 16, "links whose source addresses are checked", host_order=True)
_PAIR = _IFNAME << _CONCATENATION | _ETHER_ADDRESS
_ALLOWED = Set("allowed", _PAIR, 24, "link and source address that may enter by it")


def ensure_masquerade(session: Session, step: EnsureMasquerade) -> None:
    nft.ensure(session, _masquerade(step), _comment(step.attachment, step.link))


def masquerade_differs(session: Session, step: EnsureMasquerade) -> str:
    gap = nft.missing(session, _masquerade(step), step.attachment.tag)
    return f"masquerade: {gap} is missing" if gap else ""


def ensure_source_guard(session: Session, step: EnsureSourceGuard) -> None:
    nft.ensure(session, _source_guard(step), _comment(step.attachment, step.link))


def source_guard_differs(session: Session, step: EnsureSourceGuard) -> str:
    gap = nft.missing(session, _source_guard(step), step.attachment.tag)
    return f"source address check of {step.link}: {gap} is missing" if gap else ""


def delete_owned(session: Session, step: DelOwnedRules) -> None:
    """Remove the attachment's elements, and those of this network whose link went without a DEL of ours."""
    tag, network = step.attachment.tag, network_tag(step.attachment.network)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asking:

        def look() -> Callable[[Element], bool]:
            gone = cache(partial(_is_gone, asking))  # a link has an element for each of its addresses
            return lambda item: _owned_by(item, tag) or (_owned_by(item, network) and gone(_link_of(item)))

        nft.remove(session, look)


def delete_stale(session: Session, step: DelStaleRules) -> None:
    nft.remove(session, lambda: stale(step.network, step.valid_tags))


def stale(network: str, valid_tags: frozenset[str]) -> Callable[[Element], bool]:
    """Return the predicate "of this network, and of no valid attachment"."""
    start = network_tag(network)
    return lambda item: item.comment.startswith(start) and item.comment.split(" ", 1)[0] not in valid_tags


def exclusions(step: EnsureIptablesMasquerade, address: IPInterface) -> list[IPNetwork]:
    """Return where an address goes unchanged: its own subnet, multicast, and what the config excludes."""
    return list(_collapsed((address.network, _MULTICAST[address.version]), step.exclude))


@lru_cache(maxsize=_NETWORKS)
def _collapsed(first: tuple[IPNetwork, ...], chosen: tuple[IPNetwork, ...]) -> tuple[IPNetwork, ...]:
    same = [net for net in chosen if net.version == first[0].version]
    return cast("tuple[IPNetwork, ...]", tuple(collapse_addresses([*first, *same])))


def _owned_by(element: Element, start: str) -> bool:
    return element.comment.startswith(start)


def _comment(attachment: Attachment, link: str) -> str:
    """The link comes right after the tag: an element whose link is gone can be told by it."""
    tag, rest = attachment.comment.split(" ", 1)
    return f"{tag} {link or _NO_LINK} {rest}"


def _link_of(element: Element) -> str:
    return (element.comment.split(" ", 2)[1:] or [_NO_LINK])[0]


def _is_gone(asking: socket.socket, link: str) -> bool:
    """Ask as socket.if_nametoindex() does, but without a new socket for each of many links."""
    if link == _NO_LINK:
        return False
    try:
        fcntl.ioctl(asking, _SIOCGIFINDEX, _IFREQ.pack(link.encode()))
    except OSError:
        return True
    return False


def _masquerade(step: EnsureMasquerade) -> Objects:
    """Return one rule and set for each address family and list of exclusions; usually one for each family."""
    rules: dict[str, Rule] = {}
    elements = []
    for address in step.addresses:
        rule = _masquerade_rule(step, address)
        name = rule.sets[0].name
        rules[name] = rule
        elements.append((name, address.ip.packed))
    return Objects(wire.INET, _MASQUERADE, tuple(rules.values()), tuple(elements))


def _masquerade_rule(step: EnsureMasquerade, address: IPInterface) -> Rule:
    """The set's name tells the rule's content, so a changed config makes a new rule beside the old one."""
    version = address.version
    spared = [] if step.spares_network else [address.network]
    excluded = _collapsed((*spared, _MULTICAST[version]), step.exclude)
    content = digest(f"{' '.join(map(str, excluded))} {step.random_fully}", 8)
    name = f"masq{version}_{network_tag(step.attachment.network)}_{content}"
    key_type = _IPV4_ADDRESS if version == 4 else _IPV6_ADDRESS  # noqa: PLR2004 (the version)
    return Rule(
        sets=(Set(name, key_type, wire.Layout.LENGTH[version], f"net: {step.attachment.network}"),),
        expressions=lambda: (
            wire.is_family(version)
            + wire.source_in(version, name)
            + (wire.destination_not_in(version, name) if step.spares_network else b"")
            + b"".join(wire.destination_outside(network) for network in excluded)
            + wire.masquerade(random_fully=step.random_fully)
        ),
    )


def _source_guard(step: EnsureSourceGuard) -> Objects:
    link = step.link.encode().ljust(16, b"\0")
    mac = bytes.fromhex(step.mac.replace(":", "")).ljust(8, b"\0")
    return Objects(
        family=wire.BRIDGE,
        chain=_SOURCE_GUARD,
        rules=(Rule((_GUARDED, _ALLOWED), _guarding),),
        elements=((_GUARDED.name, link), (_ALLOWED.name, link + mac)),
    )


def _guarding() -> bytes:
    return wire.port_in(_GUARDED.name) + wire.port_and_source_not_in(_ALLOWED.name) + wire.drop()
