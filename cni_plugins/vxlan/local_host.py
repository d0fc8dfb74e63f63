"""Determines what a host must know about itself in an overlay: underlay address, own record, inner MTU.

All of it follows from the config and from facts about the kernel.
"""

from collections.abc import Container, Iterator
from typing import NamedTuple

from cni_plugins.contract.facts import Facts, LinkFacts
from cni_plugins.errors import InvalidNetworkConfig
from cni_plugins.ownership import OVERLAY_ALIAS, is_overlay_alias
from cni_plugins.protocol.fields import IPAddress
from cni_plugins.vxlan.config import Overlay, Underlay
from cni_plugins.vxlan.identity import vtep_mac
from cni_plugins.vxlan.records import Record, holds

# Bytes of encapsulation (RFC 7348, 5): headers of IP (20 or 40), UDP (8) and VXLAN (8), and the inner
# Ethernet header (14).
OVERHEAD = {4: 50, 6: 70}
_SMALLEST_MTU = {4: 68, 6: 1280}  # RFC 791; RFC 8200, 5


class LocalHost(NamedTuple):
    """The host we run on, as a member of the overlay.

    :param link: the underlay link; `mtu` and `up` describe it.
    :param local: its address that carries the overlay.
    :param inner_mtu: MTU of containers, bridge and VXLAN link.
    :param arrives_by: the links by which packets for `local` arrive; none: any.
    """

    link: str
    local: IPAddress
    own: Record
    others: tuple[Record, ...]
    mtu: int
    inner_mtu: int
    up: bool = True
    arrives_by: tuple[str, ...] = ()

    @property
    def mac(self) -> str:
        return self.own.mac or vtep_mac(self.local)


class _Candidate(NamedTuple):
    address: IPAddress
    link: LinkFacts

    def __str__(self) -> str:
        return f"{self.address} ({self.link.name})"


def find(overlay: Overlay, facts: Facts) -> LocalHost:
    """Return this host as a member of the overlay.

    :raises InvalidNetworkConfig: when the config admits no underlay address, or more than one.
    """
    chosen = _choose(overlay, facts)
    own = _own_record(overlay, chosen)
    others = overlay.roster.known.without(own.vtep)
    return LocalHost(
        link=chosen.link.name,
        local=chosen.address,
        own=own,
        others=others,
        mtu=chosen.link.mtu,
        inner_mtu=_inner_mtu(overlay, chosen, own),
        up=chosen.link.up,
        arrives_by=_arrives_by(chosen.link),
    )


def _arrives_by(link: LinkFacts) -> tuple[str, ...]:
    """Return the link, and its VRF, by which the packet filter sees its packets enter; none for `lo`."""
    return () if link.loopback else tuple(filter(None, (link.name, link.master)))


# ---------------------------------------------------------------------------------------------- the underlay


def _choose(overlay: Overlay, facts: Facts) -> _Candidate:
    found = list(_candidates(overlay, facts))
    wanted = _requirement(overlay)
    if not found:
        raise InvalidNetworkConfig(f"no underlay: this host has no address {wanted}", _all_addresses(facts))
    if len({(candidate.address, candidate.link.name) for candidate in found}) > 1:
        listed = ", ".join(map(str, found))
        raise InvalidNetworkConfig(
            f"ambiguous underlay: {listed}", f"each is an address {wanted}; set underlay"
        )
    return found[0]


def _candidates(overlay: Overlay, facts: Facts) -> Iterator[_Candidate]:
    """Yield the host's addresses that the config admits; if the peers are known, only VTEPs of peers."""
    vteps = _vteps(overlay)
    family = _family(overlay)
    for link in facts.addressed:
        if link.alias.startswith(OVERLAY_ALIAS):
            continue
        # A listed VTEP may be any address; without a list, only one that source address selection could pick.
        for interface in link.main_addresses if vteps is None else link.addresses:
            address = interface.ip
            usable = not address.is_link_local and not address.is_loopback and family in (0, address.version)
            known = vteps is None or address in vteps
            if usable and known and _is_admitted(overlay, facts, link, address):
                yield _Candidate(address, link)


def _vteps(overlay: Overlay) -> Container[IPAddress] | None:
    known, own = overlay.roster.known, overlay.roster.own
    if overlay.roster.records is None:
        return None
    if not own:
        return known.by_vtep
    named = known.by_node.get(own)
    if named is None:
        raise InvalidNetworkConfig(
            f"there is no peer {own}", f"backend.self is {own}, peers are {_listed(known)}"
        )
    return (named.vtep,)


def _listed(records: tuple[Record, ...]) -> str:
    names = [record.node for record in records[:10]]
    return ", ".join(names) + (", …" if len(records) > len(names) else "")


def _family(overlay: Overlay) -> int:
    group = overlay.roster.group
    return group.version if group else 0


def _is_admitted(overlay: Overlay, facts: Facts, link: LinkFacts, address: IPAddress) -> bool:
    underlay, default = overlay.config.underlay, facts.default_route
    hop = facts.routes_to.get(underlay.can_reach) if underlay.can_reach else None
    return (
        (not underlay.interface or underlay.interface in (link.name, *link.altnames))
        and (not underlay.cidr or holds(underlay.cidr, address))
        and (not underlay.address or address == underlay.address)
        and (not underlay.can_reach or (hop is not None and hop.source == address))
        and (not _follows_default_route(overlay) or (default is not None and link.name == default.name))
    )


def _follows_default_route(overlay: Overlay) -> bool:
    return overlay.roster.records is None and overlay.config.underlay == Underlay()


def _requirement(overlay: Overlay) -> str:
    underlay, own = overlay.config.underlay, overlay.roster.own
    peers = (
        "" if overlay.roster.records is None else f" that is the VTEP of {f'peer {own}' if own else 'a peer'}"
    )
    if underlay.interface:
        return f"on {underlay.interface}{peers}"
    if underlay.cidr:
        return f"in {underlay.cidr}{peers}"
    if underlay.address:
        return f"{underlay.address}{peers}"
    if underlay.can_reach:
        return f"from which it reaches {underlay.can_reach}{peers}"
    return peers.removeprefix(" ") or "on the link of its default route"


def _all_addresses(facts: Facts) -> str:
    found = [
        f"{link.name} has {interface}"
        for link in facts.addressed
        if not link.alias.startswith(OVERLAY_ALIAS)
        for interface in link.addresses
    ]
    return ", ".join(found) or "it has no addresses"


# ------------------------------------------------------------------------------------------- the own record


def _own_record(overlay: Overlay, chosen: _Candidate) -> Record:
    """Return this host's record from the peer list, with the config's subnets or blocks if it has any."""
    roster = overlay.roster
    own = roster.known.by_vtep.get(chosen.address) or Record(str(chosen.address), chosen.address)
    if not roster.parts:
        return own
    return (
        own._replace(subnets=roster.parts)
        if overlay.config.mode == "l3"
        else own._replace(blocks=roster.parts)
    )


def _inner_mtu(overlay: Overlay, chosen: _Candidate, own: Record) -> int:
    overhead = OVERHEAD[chosen.address.version] if overlay.vxlan else 0
    largest = min(chosen.link.mtu, overlay.roster.known.smallest_mtu or chosen.link.mtu) - overhead
    wanted = overlay.config.mtu if isinstance(overlay.config.mtu, int) else 0
    if chosen.link.loopback and not (wanted or own.mtu):
        raise InvalidNetworkConfig(
            f"the MTU of {chosen.link.name} is not that of the path to the peers",
            f"it has {chosen.address}; set mtu, here or in this host's record",
        )
    smallest = max(_SMALLEST_MTU[network.version] for network in overlay.config.within)
    most = chosen.link.mtu - overhead
    if wanted > most:
        raise InvalidNetworkConfig(
            f"invalid MTU {wanted}: {chosen.link.name} leaves {most}",
            f"its MTU is {chosen.link.mtu}, encapsulation takes {overhead}",
        )
    inner = wanted or largest
    if inner < smallest:
        origin = f"mtu is {overlay.config.mtu}, {chosen.link.name} has {chosen.link.mtu}"
        raise InvalidNetworkConfig(f"invalid MTU {inner}: the overlay's addresses need {smallest}", origin)
    return inner


def is_of(link: LinkFacts, network: str) -> bool:
    """Say whether a link was created by this overlay network."""
    return is_overlay_alias(link.alias, network)


def clashes(overlay: Overlay, facts: Facts, names: frozenset[str]) -> str:
    """Return a sentence about a link with an address of the overlay that is not its own, empty if none."""
    for link in facts.addressed:
        if link.name in names:
            continue
        for interface in link.addresses:
            network = next((net for net in overlay.config.within if holds(net, interface.ip)), None)
            if network is not None:
                whose = " (left from its former VNI)" if is_of(link, overlay.network) else ""
                return f"link {link.name} has {interface}, an address of network {network}{whose}"
    return ""
