"""Defines the steps for overlay networks: VXLAN links (RFC 7348), their bridges, and the entries for peers.

What they make belongs to a network, not to one attachment: links have the network's alias, routes the suite's
protocol number and the network's mark as metric, rules the network's tag. It is deleted with the network's
last attachment.
"""

from typing import Literal, NamedTuple

from cni_plugins.ownership import Owner
from cni_plugins.protocol.fields import IPAddress, IPInterface, IPNetwork
from cni_plugins.steps.firewall import DelOwnedRules
from cni_plugins.steps.step import Removal, Shared, Step

# The address whose entries in a VXLAN link's table receive all frames without an entry of their own.
FLOOD = "00:00:00:00:00:00"

Df = Literal["set", "inherit", "unset"]


class EnsureVxlan(Shared):
    """The host has a VXLAN link of this name with exactly these settings; one that differs is created anew.

    :param port: UDP port, local and of all peers.
    :param link: the underlay's link.
    :param local: the source address of the packets it sends.
    :param df: whether routers may fragment these packets: never, as the inner packet says, or always.
    :param learning: source addresses of received frames create entries; permanent entries need it off.
    :param group: a multicast group for all frames without an entry, sent and received through `link`.
    :param ttl: of the packets it sends; 0: the kernel's default.
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

    def inverse(self, before: str) -> Step:
        return DelIdleOverlay(self.network)

    def phrase(self) -> str:
        return f"create VXLAN link {self.name} with VNI {self.vni} and port {self.port}"


class EnsureOverlayBridge(Shared):
    """The host has a bridge of this name, of the network, with this MAC address and MTU."""

    name: str
    network: str
    mac: str
    mtu: int

    def inverse(self, before: str) -> Step:
        return DelIdleOverlay(self.network)

    def phrase(self) -> str:
        return f"create bridge {self.name} of network {self.network}"


class AttachVxlan(Shared):
    """The VXLAN link is an up port of the bridge, which answers ARP and ND for neighbours it knows.

    :param programmed: the bridge learns no addresses from the port, and floods no frames to it.
    """

    link: str
    bridge: str
    programmed: bool

    kept_because = "goes with the link"

    def phrase(self) -> str:
        return f"attach {self.link} to bridge {self.bridge}"


class PeerRoute(NamedTuple):
    """A route of an overlay; `link` empty: packets to `dst` that match no other route are dropped.

    :param mtu: 0: that of the link. A smaller measured one (`cnictl overlay probe`) is kept.
    """

    dst: IPNetwork
    link: str = ""
    via: IPAddress | None = None
    mtu: int = 0
    onlink: bool = False
    src: IPAddress | None = None


class Filled(NamedTuple):
    """A link with tables, which the kernel empties with its address, or when one of `addresses` goes."""

    name: str
    mac: str
    addresses: tuple[IPInterface, ...] = ()


class Edition(NamedTuple):
    """One state of a network's tables as a whole, by which they are recognised without being read.

    :param content: digest of all entries, routes and sources.
    :param links: the VXLAN link and the bridge; the first one bears the mark.
    :param version: IP version of the set of sources in the packet filter; 0: there is none.
    :param bridged: whether the VXLAN link is a port of the bridge.
    """

    content: str
    links: tuple[Filled, Filled]
    version: int = 0
    bridged: bool = False


class EnsurePeers(Shared):
    """The tables of the network's links, and its routes, contain exactly these entries.

    Entries that the kernel learned are left alone; permanent entries, and routes with the suite's protocol
    number and the network's mark, are deleted if they are not listed.

    :param vxlan: the VXLAN link, empty if nothing is encapsulated.
    :param fdb: of the VXLAN link: for each MAC address the VTEP; the address FLOOD may have several.
    :param behind: MAC addresses that the bridge finds behind the VXLAN link.
    :param at: the link whose neighbours these are.
    :param edition: None: the tables are read to find out whether they contain this.
    """

    network: str
    vxlan: str
    fdb: tuple[tuple[str, IPAddress], ...] = ()
    behind: tuple[str, ...] = ()
    at: str = ""
    neighbours: tuple[tuple[IPAddress, str], ...] = ()
    routes: tuple[PeerRoute, ...] = ()
    edition: Edition | None = None

    may_be_half_done = True

    def inverse(self, before: str) -> Step:
        return DelIdleOverlay(self.network)

    def phrase(self) -> str:
        return f"set the peer entries of network {self.network}"


class EnsureProxied(Step):
    """The host answers neighbour solicitations for these addresses on the link (IPv6 has no proxy ARP).

    :param kept_at: a link that keeps the same list, without answering: its addresses are added to the
        request.
    """

    link: str
    addresses: tuple[IPAddress, ...]
    kept_at: str = ""

    not_repaired_because = ""

    def inverse(self, before: str) -> Step:
        return DelProxied(self.link, self.addresses, self.kept_at)

    def phrase(self) -> str:
        return f"answer neighbour solicitations on {self.link}"


class DelProxied(Removal):
    """The host does not answer for these addresses, and does not remember them."""

    link: str
    addresses: tuple[IPAddress, ...]
    kept_at: str = ""

    def phrase(self) -> str:
        return f"stop answering neighbour solicitations on {self.link}"


class NetworkMasquerade(NamedTuple):
    """Packets of containers that leave the network get the host's address.

    :param source: all addresses of one family that containers of this host can have.
    :param exclude: destinations whose packets keep their source; the network itself is one.
    """

    source: IPNetwork
    exclude: tuple[IPNetwork, ...]
    random_fully: bool


class EnsureOverlayRules(Shared):
    """The packet filter isolates the network, and masquerades what leaves it, in nf_tables.

    Packets to the VXLAN port are not tracked. Those with the network's VNI are accepted from the underlay's
    link alone, and if `restricted` from `sources` alone; none is forwarded from a container to a peer.
    Nothing is forwarded between this network and another overlay.

    :param version: the underlay's IP version.
    :param vxlan: the network's VXLAN link, empty if nothing is encapsulated.
    :param sources: the VTEPs of the peers; None: not known.
    :param underlay: the links by which VXLAN packets arrive; none: those by which the host routes to their
        source, as with a VTEP on `lo`.
    :param restricted: whether others than `sources`, if these are known, may not send.
    :param in_clear: networks whose packets may arrive without encapsulation.
    :param never_in_clear: networks whose packets leave by the network's links or not at all.
    :param inside: of each family, the network of all source addresses of containers; none: any address.
    :param edition: as that of EnsurePeers, for `sources`; rules are always read.
    """

    network: str
    vni: int
    port: int
    version: int
    bridge: str
    vxlan: str
    sources: tuple[IPAddress, ...] | None
    underlay: tuple[str, ...] = ()
    restricted: bool = True
    in_clear: tuple[IPNetwork, ...] = ()
    never_in_clear: tuple[IPNetwork, ...] = ()
    inside: tuple[IPNetwork, ...] = ()
    masquerades: tuple[NetworkMasquerade, ...] = ()
    edition: Edition | None = None

    may_be_half_done = True

    def inverse(self, before: str) -> Step:
        return DelIdleOverlay(self.network)

    def phrase(self) -> str:
        return f"set the packet filter of network {self.network}"


class EnsurePortSources(Step):
    """What enters by a container's port has its MAC address and one of its addresses, or is dropped.

    IPv4, IPv6, ARP and neighbour advertisements are checked; other protocols, router advertisements and
    redirects do not pass.

    :param addresses: of the container; those without an address (DHCP, duplicate address detection) and its
        link-local one are accepted too.
    """

    owner: Owner
    port: str
    mac: str
    addresses: tuple[IPAddress, ...]

    may_be_half_done = True
    not_repaired_because = ""

    def inverse(self, before: str) -> Step:
        return DelOwnedRules(self.owner)

    def phrase(self) -> str:
        return f"check the sources of what enters by {self.port}"


class DelIdleOverlay(Removal):
    """The network's links, routes and rules are gone, if no attachment is left at its bridge."""

    network: str

    def phrase(self) -> str:
        return f"delete idle overlay {self.network}"
