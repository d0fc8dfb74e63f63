"""A host's place in an overlay: which of its addresses carries it, which record is its own, which MTU fits.

Everything a host must know of itself to take part, from what the config says and what the kernel has.
"""

from collections.abc import Iterator
from typing import NamedTuple

from cni_plugins.contract.facts import Facts, LinkFacts
from cni_plugins.errors import InvalidNetworkConfig
from cni_plugins.ownership import OVERLAY_ALIAS, is_overlay_alias
from cni_plugins.protocol.fields import IPAddress
from cni_plugins.vxlan.config import Overlay, Underlay
from cni_plugins.vxlan.identity import vtep_mac
from cni_plugins.vxlan.records import Record, holds

# What encapsulation takes of an MTU (RFC 7348, 5): the headers of IP (20 or 40), UDP (8) and VXLAN (8), and
# the inner Ethernet header (14).
OVERHEAD = {4: 50, 6: 70}
_SMALLEST_MTU = {4: 68, 6: 1280}  # RFC 791; RFC 8200, 5


class LocalHost(NamedTuple):
    """One host in the overlay: the one we are on.

    :param link: the underlay's, `mtu` its MTU, `up` whether it is.
    :param inner_mtu: of containers, bridge and VXLAN link.
    """

    link: str
    local: IPAddress
    own: Record
    others: tuple[Record, ...]
    mtu: int
    inner_mtu: int
    up: bool = True

    @property
    def mac(self) -> str:
        return self.own.mac or vtep_mac(self.local)


class _Candidate(NamedTuple):
    address: IPAddress
    link: LinkFacts

    def __str__(self) -> str:
        return f"{self.address} ({self.link.name})"


def find(overlay: Overlay, facts: Facts) -> LocalHost:
    """Return this host's place.

    :raises InvalidNetworkConfig: when the config leaves none, or more than one, to choose from.
    """
    chosen = _chosen(overlay, facts)
    records = overlay.roster.records
    own = _own(overlay, chosen)
    others = tuple(record for record in records or () if record.vtep != own.vtep)
    return LocalHost(
        link=chosen.link.name,
        local=chosen.address,
        own=own,
        others=others,
        mtu=chosen.link.mtu,
        inner_mtu=_inner_mtu(overlay, chosen, own, others),
        up=chosen.link.up,
    )


# ---------------------------------------------------------------------------------------------- the underlay


def _chosen(overlay: Overlay, facts: Facts) -> _Candidate:
    found = list(_candidates(overlay, facts))
    wished = _wish(overlay)
    if not found:
        raise InvalidNetworkConfig(f"no underlay: this host has no address {wished}", _present(facts))
    if len({(candidate.address, candidate.link.name) for candidate in found}) > 1:
        listed = ", ".join(map(str, found))
        raise InvalidNetworkConfig(
            f"ambiguous underlay: {listed}", f"each is an address {wished}; set underlay"
        )
    return found[0]


def _candidates(overlay: Overlay, facts: Facts) -> Iterator[_Candidate]:
    """Yield the host's addresses that the config admits; where the peers are known, only those of a peer."""
    vteps = _vteps(overlay)
    family = _family(overlay)
    for link in facts.addressed:
        if link.alias.startswith(OVERLAY_ALIAS):
            continue
        # A VTEP that is listed may be any address; without a list, one that the host would choose itself.
        for interface in link.main_addresses if vteps is None else link.addresses:
            address = interface.ip
            usable = not address.is_link_local and not address.is_loopback and family in (0, address.version)
            known = vteps is None or address in vteps
            if usable and known and _is_wished(overlay, facts, link, address):
                yield _Candidate(address, link)


def _vteps(overlay: Overlay) -> frozenset[IPAddress] | None:
    records, own = overlay.roster.records, overlay.roster.own
    if records is None:
        return None
    if not own:
        return frozenset(record.vtep for record in records)
    named = frozenset(record.vtep for record in records if record.node == own)
    if not named:
        raise InvalidNetworkConfig(
            f"there is no peer {own}", f"backend.self is {own}, peers are {_listed(records)}"
        )
    return named


def _listed(records: tuple[Record, ...]) -> str:
    names = [record.node for record in records[:10]]
    return ", ".join(names) + (", …" if len(records) > len(names) else "")


def _family(overlay: Overlay) -> int:
    group = overlay.roster.group
    return group.version if group else 0


def _is_wished(overlay: Overlay, facts: Facts, link: LinkFacts, address: IPAddress) -> bool:
    wish, default = overlay.config.underlay, facts.default_route
    hop = facts.routes_to.get(wish.can_reach) if wish.can_reach else None
    return (
        (not wish.interface or link.name == wish.interface)
        and (not wish.cidr or holds(wish.cidr, address))
        and (not wish.address or address == wish.address)
        and (not wish.can_reach or (hop is not None and hop.source == address))
        and (not _follows_default_route(overlay) or (default is not None and link.name == default.name))
    )


def _follows_default_route(overlay: Overlay) -> bool:
    return overlay.roster.records is None and overlay.config.underlay == Underlay()


def _wish(overlay: Overlay) -> str:
    wish, own = overlay.config.underlay, overlay.roster.own
    peers = (
        "" if overlay.roster.records is None else f" that is the VTEP of {f'peer {own}' if own else 'a peer'}"
    )
    if wish.interface:
        return f"on {wish.interface}{peers}"
    if wish.cidr:
        return f"in {wish.cidr}{peers}"
    if wish.address:
        return f"{wish.address}{peers}"
    if wish.can_reach:
        return f"from which it reaches {wish.can_reach}{peers}"
    return peers.removeprefix(" ") or "on the link of its default route"


def _present(facts: Facts) -> str:
    found = [f"{link.name} has {interface}" for link in facts.addressed for interface in link.addresses]
    return ", ".join(found) or "it has none at all"


# ------------------------------------------------------------------------------------------- the own record


def _own(overlay: Overlay, chosen: _Candidate) -> Record:
    """A record of the list has its place there; without list, the config says which part is this host's."""
    roster = overlay.roster
    listed = (record for record in roster.records or () if record.vtep == chosen.address)
    own = next(listed, Record(str(chosen.address), chosen.address))
    if not roster.parts:
        return own
    return (
        own._replace(subnets=roster.parts)
        if overlay.config.mode == "l3"
        else own._replace(blocks=roster.parts)
    )


def _inner_mtu(overlay: Overlay, chosen: _Candidate, own: Record, others: tuple[Record, ...]) -> int:
    overhead = OVERHEAD[chosen.address.version] if overlay.vxlan else 0
    largest = min([chosen.link.mtu, *(record.mtu for record in (own, *others) if record.mtu)]) - overhead
    wanted = overlay.config.mtu if isinstance(overlay.config.mtu, int) else 0
    if chosen.link.loopback and not (wanted or own.mtu):
        raise InvalidNetworkConfig(
            f"{chosen.link.name} does not tell the MTU of the way to the peers",
            f"{chosen.address} is on it; set mtu, here or in this host's record",
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
    """Say whether a link is one that an overlay network made for itself."""
    return is_overlay_alias(link.alias, network)


def clashes(overlay: Overlay, facts: Facts, names: frozenset[str]) -> str:
    """Say which link of the host has an address of the overlay's that is not the overlay's own link."""
    for link in facts.addressed:
        if link.name in names:
            continue
        for interface in link.addresses:
            network = next((net for net in overlay.config.within if holds(net, interface.ip)), None)
            if network is not None:
                whose = " (its own, of a former VNI)" if is_of(link, overlay.network) else ""
                return f"link {link.name} has {interface}, an address of network {network}{whose}"
    return ""
