"""Facts about the kernel that a plugin may ask for before it decides."""

from collections.abc import Mapping
from typing import NamedTuple

from cni_plugins.errors import NameTaken
from cni_plugins.protocol.fields import IPAddress, IPInterface


class Asks(NamedTuple):
    """What to look up; nothing else is.

    :param host: names of links in the host.
    :param sandbox: names of links in the sandbox; a sandbox that is gone answers nothing.
    :param default_route: the link of the host's default route.
    :param sandbox_default_route: the link of the sandbox's.
    :param kinds: every host link of these kinds.
    :param macvlan_users: the macvlan links on links of the host, in whatever namespace they are.
    :param unsupported_kinds: those of these kinds of link that the kernel cannot create.
    :param owned: every host link with the suite's alias, whatever its network.
    :param addressed: every host link with addresses other than link-local and loopback ones.
    :param routes_to: how the host would send to these addresses.
    :param udp_port: whether a socket holds this port that our VXLAN links cannot share, 0: not asked.
    :param vlan_filtering: whether bridges of this kernel can filter VLANs.
    :param nf_tables: whether this kernel has nf_tables.
    :param ipv6_in_sandbox: whether the sandbox's `lo` may bear IPv6 addresses.
    :param iptables: whether the iptables executables are installed.
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
    nf_tables: bool = False
    iptables: bool = False
    ipv6_in_sandbox: bool = False


class LinkFacts(NamedTuple):
    """One link as it is; `peer…` is about a veth's other end, where that is in the host.

    :param main_addresses: those that are neither secondary nor temporary, and preferred.
    :param master: the name of the bridge or other link that it is a port of.
    :param lower: the index of the link that it is on, where both are in one namespace.
    :param vlan: the id and EtherType of a VLAN link, (0, 0) of any other.
    :param vxlan: the VNI and UDP port of a VXLAN link, (0, 0) of any other.
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
    addresses: tuple[IPInterface, ...] = ()
    main_addresses: tuple[IPInterface, ...] = ()
    master: str = ""
    lower: int = 0
    vlan: tuple[int, int] = (0, 0)
    vxlan: tuple[int, int] = (0, 0)
    loopback: bool = False
    ethernet: bool = True


class NextHop(NamedTuple):
    """How packets to an address leave the host: by which link, through which gateway, from which address."""

    link: str
    gateway: IPAddress | None
    source: IPAddress | None


class LinkUser(NamedTuple):
    """A macvlan link on a master, and its owner in words."""

    mode: str
    owner: str


NO_LINKS: Mapping[str, LinkFacts] = {}
NO_USERS: Mapping[int, tuple[LinkUser, ...]] = {}
NO_ROUTES: Mapping[IPAddress, NextHop] = {}


def link_name_taken(ifname: str, netns: str) -> NameTaken:
    """Return the error for a sandbox that has a link of this name."""
    return NameTaken(
        f'container link name ("{ifname}") already exists', f"CNI_IFNAME is {ifname}, CNI_NETNS is {netns}"
    )


def clash(master: str, mode: str, there: tuple[LinkUser, ...]) -> str:
    """Say why a macvlan link of this mode cannot join those on a master; empty when it can."""
    holder = next((user.owner for user in there if user.mode == "passthru"), "")
    if holder:
        return f"master {master} is held in mode passthru by {holder}"
    if there and mode == "passthru":
        return f"master {master} is in use by {there[0].owner}, and mode passthru needs it alone"
    return ""


class Facts(NamedTuple):
    """What was found.

    :param host_seed: differs between hosts and between boots; for addresses that must not repeat.
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
    nf_tables: bool = True
    iptables: bool = True
    ipv6_in_sandbox: bool = True
    host_seed: str = ""
