"""Defines the steps for links: `Ensure…` is idempotent, `Add…` fails if present, `Del…` not if absent."""

from typing import NamedTuple

from cni_plugins.steps.step import ABSENT, HOST, OF_CONTAINER, PASSING, Place, Removal, Shared, Step, place


class EnsureBridge(Shared):
    """A bridge of this name exists; `mac` and `mtu` (0: the kernel's default) only count when it is created.

    An existing bridge is left as it is, except that VLAN filtering is switched on if it is requested.
    """

    name: str
    mac: str
    mtu: int
    vlan_filtering: bool

    def inverse(self, before: str) -> Step:
        return DelIdleBridge(self.name) if before == ABSENT else SetVlanFiltering(self.name, on=False)

    def inverse_unheard(self) -> Step:
        return DelIdleBridge(self.name)

    def phrase(self) -> str:
        return f"create bridge {self.name}"


class SetVlanFiltering(Shared):
    """VLAN filtering of an existing bridge is on or off."""

    name: str
    on: bool

    def inverse(self, before: str) -> Step:
        return SetVlanFiltering(self.name, on=not self.on)

    def phrase(self) -> str:
        return f"switch VLAN filtering of bridge {self.name} {'on' if self.on else 'off'}"


class DelIdleBridge(Removal):
    """The bridge is gone, if this suite created it and no port but its own gateway ports is left."""

    name: str

    def phrase(self) -> str:
        return f"delete idle bridge {self.name}"


class EnsureUp(Step):
    """The link is administratively up."""

    where: Place
    link: str

    def inverse(self, before: str) -> Step:
        return SetDown(self.where, self.link)

    @property
    def is_shared(self) -> bool:
        return self.where == HOST

    def phrase(self) -> str:
        return f"set link {self.link} up {place(self.where)}"


class SetDown(Removal):
    """The link is administratively down."""

    where: Place
    link: str

    def phrase(self) -> str:
        return f"set link {self.link} down {place(self.where)}"


class SetMac(Step):
    """The link has this MAC address."""

    where: Place
    link: str
    mac: str

    def inverse(self, before: str) -> Step:
        return SetMac(self.where, self.link, before)

    def phrase(self) -> str:
        return f"set the MAC address of {self.link} to {self.mac} {place(self.where)}"


class SetMtu(Step):
    """The link has this MTU, in bytes."""

    where: Place
    link: str
    mtu: int

    def inverse(self, before: str) -> Step:
        return SetMtu(self.where, self.link, int(before))

    def phrase(self) -> str:
        return f"set the MTU of {self.link} to {self.mtu} {place(self.where)}"


class EnsurePromisc(Shared):
    """The host link receives frames for any address, or only for its own."""

    link: str
    on: bool

    def inverse(self, before: str) -> Step:
        return EnsurePromisc(self.link, on=not self.on)

    def phrase(self) -> str:
        return f"switch promiscuous mode of {self.link} {'on' if self.on else 'off'}"


class PinMac(Step):
    """A bridge keeps its present address instead of following the lowest of its ports."""

    bridge: str

    kept_because = "the address stays what it was"
    not_repaired_because = ""

    def phrase(self) -> str:
        return f"pin the MAC address of bridge {self.bridge}"


class AddVeth(Step):
    """A veth pair: `ifname` in the sandbox, `host_end` with the alias in the host; mtu 0: the default.

    The alias is set in the same call that creates the link, so that GC always knows the owner.
    """

    ifname: str
    mac: str
    mtu: int
    host_end: str
    host_mac: str
    alias: str

    not_repaired_because = OF_CONTAINER

    def inverse(self, before: str) -> Step:
        return DelVeth(self.ifname, self.host_end, self.alias)

    def inverse_unheard(self) -> Step:
        return self.inverse(ABSENT)

    def phrase(self) -> str:
        return f"create veth pair {self.ifname} and {self.host_end}"


class DelVeth(Removal):
    """No veth pair with this alias in the host is left, even if one of its ends was renamed meanwhile."""

    ifname: str
    host_end: str
    alias: str

    ends_use = True

    def phrase(self) -> str:
        return f"delete veth pair {self.ifname} and {self.host_end}"


class DelLink(Removal):
    """No link of this name; deleting one end of a veth pair deletes both."""

    where: Place
    link: str

    ends_use = True

    def phrase(self) -> str:
        return f"delete link {self.link} {place(self.where)}"


class AttachPort(Step):
    """The host link is an up port of the bridge with these flags."""

    link: str
    bridge: str
    hairpin: bool
    isolated: bool

    kept_because = "goes with the link"
    not_repaired_because = ""

    def phrase(self) -> str:
        return f"attach {self.link} to bridge {self.bridge}"


class PortVlan(NamedTuple):
    """A range of VLAN ids (IEEE 802.1Q, 1 to 4094) on a port; `access` is PVID and untagged."""

    first: int
    last: int
    access: bool = False


class SetPortVlans(Step):
    """The port carries these VLANs, and no others if `exclusive`."""

    link: str
    vlans: tuple[PortVlan, ...]
    exclusive: bool

    kept_because = "goes with the link"
    not_repaired_because = ""

    def phrase(self) -> str:
        return f"set the VLANs of bridge port {self.link}"


class EnsureGatewayPort(Shared):
    """A veth pair in the host: `name` has the VLAN's gateway address, `port` is its access port.

    An existing one, whatever its port's name, was created by an earlier ADD or by the reference.
    """

    name: str
    mac: str
    port: str
    bridge: str
    vlan: int

    def inverse(self, before: str) -> Step:
        return DelLink(HOST, self.name)

    def phrase(self) -> str:
        return f"create gateway port {self.name} of bridge {self.bridge}"


class AwaitUp(Step):
    """The host link's operational state (RFC 2863) is up, and its bridge has enabled the port."""

    link: str

    kept_because = "waiting cannot be undone"
    not_repaired_because = PASSING

    def phrase(self) -> str:
        return f"wait until {self.link} is up"


class Announce(Step):
    """Neighbours are told the link's addresses, by gratuitous ARP and unsolicited advertisements (ND)."""

    where: Place
    link: str

    kept_because = "an announcement cannot be undone"
    not_repaired_because = PASSING

    def phrase(self) -> str:
        return f"announce the addresses of {self.link} {place(self.where)}"
