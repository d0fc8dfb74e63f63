"""Defines the facts about the kernel that a plugin can request before it decides."""

from collections.abc import Mapping
from typing import NamedTuple

from cni_plugins.errors import NameTaken
from cni_plugins.ownership import Owner
from cni_plugins.protocol.fields import IPAddress, IPInterface
from cni_plugins.steps.forwarded import Flow


class ForwardFilterAsks(NamedTuple):
    """What to look up about the filters that packets of containers pass.

    :param backend: the configured one, empty: to be chosen.
    :param families: IP versions of the container, in STATUS both.
    :param owner: look up which backend ADD has chosen for this attachment's addresses.
    :param apart: whether its bridge is kept apart from others, and `isolated`: whether its port is as well.
    :param status: look up what STATUS reports.
    :param bus: address of the D-Bus system bus, empty: the usual one.
    """

    backend: str
    families: tuple[int, ...]
    addresses: tuple[IPAddress, ...] = ()
    owner: Owner | None = None
    apart: bool = False
    isolated: bool = False
    status: bool = False
    bus: str = ""


class ForwardFilter(NamedTuple):
    """The filters that packets of containers pass.

    :param firewalld: whether firewalld runs, and `zones`: the names of its zones.
    :param iptables: the IP versions of which the iptables executables are installed, if that matters.
    :param forward_drops: whether chain FORWARD of iptables drops what no rule accepts.
    :param recorded: the backend that ADD has chosen, empty if nothing is recorded of the attachment.
    :param in_iptables: whether, then, iptables has the rules that the reference makes for it.
    :param filters_frames: whether nf_tables can filter frames between ports of bridges.
    :param br_netfilter: whether IP packets between such ports pass the filters of IP packets.
    :param apart_in_iptables: the IP versions in which the reference's chains that keep bridges apart exist.
    :param closed_chain: a chain of nf_tables that drops every packet that is forwarded.
    """

    nf_tables: bool = True
    firewalld: bool = False
    zones: tuple[str, ...] = ()
    iptables: tuple[int, ...] = (4, 6)
    forward_drops: bool = False
    recorded: str = ""
    in_iptables: bool = False
    filters_frames: bool = True
    br_netfilter: bool = False
    apart_in_iptables: tuple[int, ...] = ()
    closed_chain: str = ""


class Asks(NamedTuple):
    """The facts to look up.

    :param host: names of links in the host.
    :param sandbox: names of links in the sandbox; if that is gone, none is found.
    :param default_route: the link of the host's default route.
    :param sandbox_default_route: the link of the sandbox's default route.
    :param kinds: all host links of these kinds.
    :param macvlan_users: the macvlan links on links of the host, in any namespace.
    :param unsupported_kinds: the kinds, of these, that the kernel cannot create.
    :param owned: all host links with the suite's alias, of any network.
    :param addressed: all host links with addresses other than link-local and loopback ones.
    :param routes_to: the next hops to these addresses.
    :param udp_port: whether a socket that our VXLAN links cannot share uses this port, 0: not looked up.
    :param vlan_filtering: whether bridges of this kernel can filter VLANs.
    :param full: the name of a bridge, of which to tell whether it has a port left.
    :param uplink_of: the name of a bridge, of which to tell whether it has a port that is not ours.
    :param nf_tables: whether this kernel has nf_tables.
    :param ipv6_in_sandbox: whether the sandbox's `lo` can have IPv6 addresses.
    :param iptables: whether the iptables executables are installed.
    :param nft: whether the program `nft` is installed.
    :param port_maps: what the kernel lacks to publish ports by maps.
    :param rules: the sandbox's rules that choose a routing table by the source address alone.
    :param routes_of: a link of the sandbox, of which to list the routes of the main table.
    :param free_tables: how many routing tables of the sandbox without routes and rules to find. Requests that
        ask for any wait for each other until the session ends.
    :param policy_routing: whether this kernel has rules for routing, of each IP version that it has.
    :param backup_dir: what keeps backups of settings from being written to this directory.
    :param shaping: which module the kernel lacks for limits of bandwidth.
    :param redirected: one of the links in `sandbox`, of which to tell where the host redirects its packets;
        its other end is only found if it is certainly in the host.
    :param forward_filter: the filters that packets of containers pass.
    :param filters_frames: whether nf_tables can filter the frames of bridges.
    :param forwarded: packets that no filter may drop.
    """

    host: tuple[str, ...] = ()
    sandbox: tuple[str, ...] = ()
    default_route: bool = False
    sandbox_default_route: bool = False
    kinds: tuple[str, ...] = ()
    macvlan_users: bool = False
    unsupported_kinds: tuple[str, ...] = ()
    owned: bool = False
    addressed: bool = False
    routes_to: tuple[IPAddress, ...] = ()
    udp_port: int = 0
    vlan_filtering: bool = False
    full: str = ""
    uplink_of: str = ""
    nf_tables: bool = False
    iptables: bool = False
    nft: bool = False
    port_maps: bool = False
    ipv6_in_sandbox: bool = False
    rules: bool = False
    routes_of: str = ""
    free_tables: int = 0
    policy_routing: bool = False
    backup_dir: str = ""
    shaping: bool = False
    redirected: str = ""
    forward_filter: ForwardFilterAsks | None = None
    filters_frames: bool = False
    forwarded: tuple[Flow, ...] = ()


class LinkFacts(NamedTuple):
    """One link as found; `peer…` describes a veth's other end, if that is in the host.

    :param peer_index: index of that end, wherever it is.
    :param altnames: other names of the link.
    :param main_addresses: the preferred addresses that are neither secondary nor temporary.
    :param master: name of the bridge or other link that it is a port of.
    :param lower: index of its lower device, if that is in the same namespace.
    :param vlan: id and EtherType of a VLAN link, (0, 0) for any other.
    :param vxlan: VNI and UDP port of a VXLAN link, (0, 0) for any other.
    """

    name: str
    ifindex: int
    kind: str
    mac: str
    mtu: int
    up: bool
    alias: str = ""
    peer: str = ""
    peer_alias: str = ""
    peer_master: str = ""
    peer_index: int = 0
    peer_mtu: int = 0
    addresses: tuple[IPInterface, ...] = ()
    main_addresses: tuple[IPInterface, ...] = ()
    master: str = ""
    lower: int = 0
    vlan: tuple[int, int] = (0, 0)
    vxlan: tuple[int, int] = (0, 0)
    loopback: bool = False
    ethernet: bool = True
    altnames: tuple[str, ...] = ()


class NextHop(NamedTuple):
    """How packets to an address leave the host: link, gateway and source address."""

    link: str
    gateway: IPAddress | None
    source: IPAddress | None


class LinkUser(NamedTuple):
    """A macvlan link on a master: its mode, its owner as text for errors, and its MAC address."""

    mode: str
    owner: str
    mac: str = ""


class RuleFacts(NamedTuple):
    """A rule that routes all packets from one address by a table.

    :param mark: 0: it has none. No rule is listed here with a mark that would make it select packets.
    """

    address: IPAddress
    table: int
    priority: int
    mark: int = 0


class RouteFacts(NamedTuple):
    """A route of the main table.

    :param gateways: of all its next hops; none: its destinations are on the link.
    :param source: the source address of packets that have none yet.
    :param is_learned: the kernel has it from a router advertisement, and adds it again with the next.
    :param message: the whole route, as steps take it.
    """

    dst: IPInterface
    gateways: tuple[IPAddress, ...] = ()
    source: IPAddress | None = None
    metric: int = 0
    scope: int = 0
    is_learned: bool = False
    message: bytes = b""


NO_LINKS: Mapping[str, LinkFacts] = {}
NO_USERS: Mapping[int, tuple[LinkUser, ...]] = {}
NO_ROUTES: Mapping[IPAddress, NextHop] = {}


def link_name_taken(ifname: str, netns: str) -> NameTaken:
    """Return the error for a sandbox that has a link of this name."""
    return NameTaken(
        f'container link name ("{ifname}") already exists', f"CNI_IFNAME is {ifname}, CNI_NETNS is {netns}"
    )


def clash(master: str, mode: str, there: tuple[LinkUser, ...]) -> str:
    """Return why a macvlan link of this mode cannot be added to a master; empty when it can."""
    holder = next((user.owner for user in there if user.mode == "passthru"), "")
    if holder:
        return f"master {master} is held in mode passthru by {holder}"
    if there and mode == "passthru":
        return f"master {master} is in use by {there[0].owner}, and mode passthru needs it alone"
    return ""


class Facts(NamedTuple):
    """The facts found.

    :param routes: None if there is no such link.
    :param without_rules: the IP versions of the kernel for which it has no policy routing.
    :param redirected_to: the link that packets from the sandbox are redirected to, empty if there is none.
    :param dropped_by: a sentence for each filter that drops packets which are to be forwarded.
    :param host_seed: text that differs between hosts and boots, to derive unique addresses from.
    """

    host: Mapping[str, LinkFacts] = NO_LINKS
    sandbox: Mapping[str, LinkFacts] = NO_LINKS
    default_route: LinkFacts | None = None
    of_kinds: tuple[LinkFacts, ...] = ()
    macvlan_users: Mapping[int, tuple[LinkUser, ...]] = NO_USERS
    unsupported_kinds: tuple[str, ...] = ()
    owned: tuple[LinkFacts, ...] = ()
    addressed: tuple[LinkFacts, ...] = ()
    routes_to: Mapping[IPAddress, NextHop] = NO_ROUTES
    udp_port_taken: bool = False
    has_sandbox: bool = False
    vlan_filtering: bool = True
    is_full: bool = False
    has_uplink: bool = False
    nf_tables: bool = True
    iptables: bool = True
    nft: bool = True
    lacks_port_maps: str = ""
    ipv6_in_sandbox: bool = True
    rules: tuple[RuleFacts, ...] = ()
    routes: tuple[RouteFacts, ...] | None = None
    free_tables: tuple[int, ...] = ()
    without_rules: tuple[int, ...] = ()
    backup_dir_fault: str = ""
    lacks_for_shaping: str = ""
    redirected_to: str = ""
    forward_filter: ForwardFilter = ForwardFilter()
    filters_frames: bool = True
    dropped_by: tuple[str, ...] = ()
    host_seed: str = ""
