"""Words for links. `Ensure…` is idempotent, `Add…` fails if present, `Del…` succeeds if absent.

Steps are NamedTuples: immutable, matched by type, and ten times cheaper to
define at start-up than dataclasses.
"""

from typing import NamedTuple

from cni_plugins.steps.places import Place

# Bridges and gateway ports that we made bear it; only those are removed when idle.
BRIDGE_ALIAS = "cni-plugins bridge"


class EnsureBridge(NamedTuple):
    """A bridge of this name exists; `mac` and `mtu` (0: the kernel's default) only count when it is made.

    An existing bridge is left as it is, except that VLAN filtering is switched on where it is asked for.
    """

    name: str
    mac: str
    mtu: int
    vlan_filtering: bool


class SetVlanFiltering(NamedTuple):
    """VLAN filtering of an existing bridge is on or off."""

    name: str
    on: bool


class DelIdleBridge(NamedTuple):
    """The bridge is gone, if we made it and no port but its own gateway ports is left."""

    name: str


class EnsureUp(NamedTuple):
    """The link is administratively up."""

    where: Place
    link: str


class SetDown(NamedTuple):
    """The link is administratively down."""

    where: Place
    link: str


class EnsurePromisc(NamedTuple):
    """The host link receives frames for any address."""

    link: str
    on: bool


class PinMac(NamedTuple):
    """A bridge keeps its present address instead of following the lowest of its ports."""

    bridge: str


class AddVeth(NamedTuple):
    """A veth pair: `ifname` in the sandbox, `host_end` with the alias in the host; mtu 0: the default.

    The alias comes with the link, in one call, so that whatever happens next, GC knows whose it is.
    """

    ifname: str
    mac: str
    mtu: int
    host_end: str
    host_mac: str
    alias: str


class DelLink(NamedTuple):
    """No link of this name; deleting one end of a veth pair deletes both."""

    where: Place
    link: str


class AttachPort(NamedTuple):
    """The host link is an up port of the bridge with these flags."""

    link: str
    bridge: str
    hairpin: bool
    isolated: bool


class PortVlan(NamedTuple):
    """A range of VLAN ids (IEEE 802.1Q, 1 to 4094) on a port; `access` is PVID and untagged."""

    first: int
    last: int
    access: bool = False


class SetPortVlans(NamedTuple):
    """The port carries these VLANs, and no others where `exclusive`."""

    link: str
    vlans: tuple[PortVlan, ...]
    exclusive: bool


class EnsureGatewayPort(NamedTuple):
    """A veth pair in the host: `name` bears the VLAN's gateway address, `port` is its access port.

    One that is there already, under whatever port name, was made by an earlier ADD or by the reference.
    """

    name: str
    mac: str
    port: str
    bridge: str
    vlan: int


class AwaitUp(NamedTuple):
    """The host link's operational state (RFC 2863) is up, and its bridge has taken it into service."""

    link: str


class Announce(NamedTuple):
    """Neighbours are told the link's addresses, by gratuitous ARP and unsolicited advertisements (ND)."""

    where: Place
    link: str
