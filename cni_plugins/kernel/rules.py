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
_ETHER_ADDRESS = 9  # nft(8) data type
_CONCATENATION = 6  # bits by which nft(8) shifts each part's type
_NO_LINK = "-"
_SIOCGIFINDEX = 0x8933  # linux/sockios.h
_IFREQ = struct.Struct("16s24x")  # linux/if.h: the name, and room for the answer
_UNPRIVILEGED, _LAST_PORT = 1024, 65535
_NETWORKS = 64  # whose exclusions are remembered
_MULTICAST = {4: ip_network("224.0.0.0/4"), 6: ip_network("ff00::/8")}
_GUARDED = Set(
    "guarded", wire.IFNAME, wire.IFNAME_LENGTH, "links whose source addresses are checked", host_order=True
)
_PAIR = wire.IFNAME << _CONCATENATION | _ETHER_ADDRESS
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
    """Return a set for each address family and list of exclusions, with its rules; usually one each."""
    rules: dict[str, tuple[Rule, ...]] = {}
    elements = []
    for address in step.addresses:
        found = _masquerade_rules(step, address)
        name = found[0].sets[0].name
        rules[name] = found
        elements.append((name, address.ip.packed))
    every = tuple(rule for found in rules.values() for rule in found)
    return Objects(wire.INET, _MASQUERADE, every, tuple(elements))


def _masquerade_rules(step: EnsureMasquerade, address: IPInterface) -> tuple[Rule, ...]:
    """The set's name tells the rules' content, so a changed config makes new rules beside the old ones."""
    version = address.version
    spared = [] if step.spares_network else [address.network]
    excluded = _collapsed((*spared, _MULTICAST[version]), step.exclude)
    port = f" {step.spared_port}" if step.spared_port else ""
    content = digest(f"{' '.join(map(str, excluded))} {step.random_fully}{port}", 8)
    name = f"masq{version}_{network_tag(step.attachment.network)}_{content}"
    of_network = f"net: {step.attachment.network}"
    item = Set(name, wire.Layout.TYPE[version], wire.Layout.LENGTH[version], of_network)

    def matching() -> bytes:
        return (
            wire.is_family(version)
            + wire.source_in(version, name)
            + (wire.destination_not_in(version, name) if step.spares_network else b"")
            + b"".join(wire.destination_outside(network) for network in excluded)
        )

    def masquerading(ports: tuple[int, int] | None = None) -> bytes:
        return wire.masquerade(random_fully=step.random_fully, ports=ports)

    if not step.spared_port:
        return (Rule((item,), lambda: matching() + masquerading()),)
    beside = ports_beside(step.spared_port)
    return (
        Rule((item,), lambda: matching() + wire.udp() + masquerading(beside), "udp"),
        Rule((item,), lambda: matching() + wire.udp(inverted=True) + masquerading(), "other"),
    )


def ports_beside(spared: int) -> tuple[int, int]:
    """Return the first and last port of the wider side of one, of those that need no privilege."""
    below, above = (_UNPRIVILEGED, spared - 1), (max(spared + 1, _UNPRIVILEGED), _LAST_PORT)
    return below if below[1] - below[0] > above[1] - above[0] else above


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
    return wire.enters_by(_GUARDED.name) + wire.port_and_source_not_in(_ALLOWED.name) + wire.drop()
