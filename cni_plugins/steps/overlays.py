"""Words for overlay networks: VXLAN links (RFC 7348), their bridges, and what the kernel is told of peers.

What they make belongs to a network, not to one attachment: links bear the network's alias, routes our
protocol number and the network's mark as metric, rules the network's tag. It goes with the network's last
attachment.
"""

from typing import Literal, NamedTuple

from cni_plugins.spec.attachment import ALIAS_LIMIT, network_tag
from cni_plugins.spec.fields import IPAddress, IPNetwork

# What the aliases of an overlay's links begin with; the tag of the network follows, and its name.
OVERLAY_ALIAS = "cni-plugins overlay "
FLOOD = "00:00:00:00:00:00"  # whose entries in a VXLAN link's table get all frames that no other entry is for

Df = Literal["set", "inherit", "unset"]


def overlay_alias(network: str) -> str:
    """Return the alias of a network's links; the network is known by the tag in it alone."""
    return f"{_beginning(network)}net: {network}"[:ALIAS_LIMIT]


def is_overlay_alias(alias: str, network: str) -> bool:
    return alias.startswith(_beginning(network))


def _beginning(network: str) -> str:
    return f"{OVERLAY_ALIAS}{network_tag(network)} "


class EnsureVxlan(NamedTuple):
    """The host has a VXLAN link of this name with exactly these settings; one that differs is made anew.

    :param port: UDP port, local and of all peers.
    :param link: the underlay's link.
    :param local: the source address of what it sends.
    :param df: whether what it sends may be fragmented on the way: not, as the inner packet says, or always.
    :param learning: source addresses of frames make entries; entries that are there for good need it off.
    :param group: a multicast group that gets all frames no entry is for, sent and received through `link`.
    :param ttl: of what it sends; 0: the kernel's default.
    """

    name: str
    vni: int
    port: int
    network: str
    link: str
    local: IPAddress
    mac: str
    mtu: int
    df: Df
    learning: bool = False
    group: IPAddress | None = None
    ttl: int = 0


class EnsureOverlayBridge(NamedTuple):
    """The host has a bridge of this name, of the network, with this MAC address and MTU."""

    name: str
    network: str
    mac: str
    mtu: int


class AttachVxlan(NamedTuple):
    """The VXLAN link is an up port of the bridge, which answers ARP and ND for neighbours it knows.

    :param programmed: nothing is learned from the port, and nothing flooded to it.
    """

    link: str
    bridge: str
    programmed: bool


class PeerRoute(NamedTuple):
    """A route of an overlay; `link` empty: packets to `dst` that no other route takes are dropped.

    :param mtu: 0: that of the link. A smaller one that was measured (`cnictl overlay probe`) stays.
    """

    dst: IPNetwork
    link: str = ""
    via: IPAddress | None = None
    mtu: int = 0
    onlink: bool = False
    src: IPAddress | None = None


class EnsurePeers(NamedTuple):
    """The tables of the network's links, and its routes, hold exactly this.

    Learned entries of the kernel are nobody's business; entries there for good, and routes of our protocol
    that bear the network's mark, go when they are not listed.

    :param vxlan: the VXLAN link, empty where nothing is encapsulated.
    :param fdb: of the VXLAN link: for each MAC address the VTEP; the address FLOOD may have several.
    :param behind: MAC addresses that the bridge finds behind the VXLAN link.
    :param at: the link whose neighbours these are.
    """

    network: str
    vxlan: str
    fdb: tuple[tuple[str, IPAddress], ...] = ()
    behind: tuple[str, ...] = ()
    at: str = ""
    neighbours: tuple[tuple[IPAddress, str], ...] = ()
    routes: tuple[PeerRoute, ...] = ()


class EnsureProxied(NamedTuple):
    """The host answers neighbour solicitations for these addresses on the link (IPv6 has no proxy ARP).

    :param kept_at: a link that keeps the same list, without answering: what it has is wanted, too.
    """

    link: str
    addresses: tuple[IPAddress, ...]
    kept_at: str = ""


class DelProxied(NamedTuple):
    """It does not, nor is it kept in mind."""

    link: str
    addresses: tuple[IPAddress, ...]
    kept_at: str = ""


class EnsureOverlayRules(NamedTuple):
    """The packet filter keeps the network to itself, in nf_tables.

    Packets of the VXLAN port are not tracked, none comes from a container, and, where `sources` are known,
    those of the network's VNI only from these. Nothing is forwarded between this network and another overlay.

    :param version: of IP that the underlay is of.
    :param vxlan: the network's VXLAN link, empty where nothing is encapsulated.
    :param sources: the VTEPs that may send; None: any.
    :param in_clear: networks whose packets may arrive without encapsulation.
    :param inside: of each family, where all that a container sends is from; none: from anywhere.
    """

    network: str
    vni: int
    port: int
    version: int
    bridge: str
    vxlan: str
    sources: tuple[IPAddress, ...] | None
    in_clear: tuple[IPNetwork, ...] = ()
    inside: tuple[IPNetwork, ...] = ()


class DelIdleOverlay(NamedTuple):
    """The network's links, routes and rules are gone, if no attachment is left at its bridge."""

    network: str


OverlayStep = (
    EnsureVxlan
    | EnsureOverlayBridge
    | AttachVxlan
    | EnsurePeers
    | EnsureProxied
    | DelProxied
    | EnsureOverlayRules
    | DelIdleOverlay
)
