"""Words for macvlan links, and for what several of them share: VLAN links and the host's own macvlan link."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from cni_plugins.spec.attachment import Attachment
from cni_plugins.spec.fields import IPAddress
from cni_plugins.steps.addresses import DelHostRoutes, EnsureHostRoutes, EnsureNeighbour
from cni_plugins.steps.places import Place

MacvlanMode = Literal["bridge", "vepa", "private", "passthru", "source"]
VlanProtocol = Literal["802.1q", "802.1ad"]

# VLAN links that we made bear it; only those are removed when idle.
VLAN_ALIAS = "cni-plugins VLAN"
# What the aliases of the host's own links begin with; the tag of the network follows.
HOST_LINK_ALIAS = "cni-plugins host access "
ETHERTYPES: Mapping[VlanProtocol, int] = {"802.1q": 0x8100, "802.1ad": 0x88A8}  # linux/if_ether.h


class Advertise(NamedTuple):
    """Neighbours are told the link-layer address of IPv6 addresses, whatever they knew (RFC 4861, 7.2.6).

    The kernel announces no optimistic address in a way that others would let go of a former owner's.
    """

    link: str
    mac: str
    addresses: tuple[IPAddress, ...]


class AddMacvlan(NamedTuple):
    """A macvlan link in the sandbox on a master in `where`; mtu 0: the master's.

    :param mac: empty in mode passthru, where the link has the master's address.
    :param bc_queue_len: frames that wait to be flooded; 0: the kernel's default.
    :param sources: mode source only: whose frames the link receives.
    """

    where: Place
    master: str
    ifname: str
    attachment: Attachment
    mac: str
    mtu: int
    mode: MacvlanMode
    bc_queue_len: int = 0
    sources: tuple[str, ...] = ()
    has_alias: bool = True


class DelAttached(NamedTuple):
    """No macvlan link of the attachment is left in any network namespace that was a sandbox of ours."""

    attachment: Attachment


class DelStaleAttached(NamedTuple):
    """GC: no macvlan link of the network is left in any sandbox, but for the attachments with these tags."""

    network: str
    valid_tags: frozenset[str]


class EnsureVlan(NamedTuple):
    """A VLAN link (IEEE 802.1Q) of this name is up on the master; one that is there is left as it is."""

    name: str
    master: str
    vlan: int
    protocol: VlanProtocol


class DelIdleVlans(NamedTuple):
    """The VLAN links that we made and nobody uses are gone."""


class EnsureHostLink(NamedTuple):
    """The host has a macvlan link of its own on the master, in mode bridge, and it is up."""

    name: str
    master: str
    mac: str
    mtu: int
    network: str


class DelHostAccess(NamedTuple):
    """No route to the attachment leads out of the network's host links; one without any route is gone."""

    network: str
    mark: int


class DelStaleHostAccess(NamedTuple):
    """GC: the same for every mark but these."""

    network: str
    valid_marks: frozenset[int]


MacvlanStep = (
    AddMacvlan
    | Advertise
    | DelAttached
    | DelStaleAttached
    | EnsureVlan
    | DelIdleVlans
    | EnsureHostLink
    | DelHostAccess
    | DelStaleHostAccess
    | EnsureNeighbour
    | EnsureHostRoutes
    | DelHostRoutes
)
