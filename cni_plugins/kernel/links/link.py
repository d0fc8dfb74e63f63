"""Decodes the rtnetlink message about one link."""

from ipaddress import ip_address
from typing import NamedTuple

from cni_plugins.kernel.netlink import rtnetlink as wire
from cni_plugins.kernel.netlink.attributes import attributes, read_text
from cni_plugins.kernel.netlink.rtnetlink import read_number
from cni_plugins.kernel.netlink.socket import Answer
from cni_plugins.protocol.fields import IPAddress

IFF_UP, IFF_LOOPBACK, IFF_PROMISC, IFF_ALLMULTI = 0x1, 0x8, 0x100, 0x200  # linux/if.h
_ARPHRD_ETHER = 1  # linux/if_arp.h
_BR_STATE_DISABLED = 0  # linux/if_bridge.h; in the other states the port forwards or takes part in STP
OPER_UP = 6  # IF_OPER_UP (RFC 2863), linux/if.h


class VxlanSettings(NamedTuple):
    """The settings of a VXLAN link.

    :param link: the index of the underlay's link, 0: any.
    :param df: VXLAN_DF_… of linux/if_link.h.
    :param group: destination of frames without an FDB entry: a multicast group, or one other host.
    :param ttl: 0: the kernel's default.
    :param external: whether VNI and destination come with each packet (collect metadata); `vni` is 0 then.
    """

    vni: int
    port: int
    link: int
    local: IPAddress | None
    df: int
    learning: bool
    group: IPAddress | None
    ttl: int
    external: bool

    @property
    def version(self) -> int:
        """Return the IP version of the underlay, which follows from the addresses; IPv4 is the default."""
        address = self.local or self.group
        return address.version if address else 4


class PortFlags(NamedTuple):
    """The flags of a bridge port that matter to an overlay."""

    learning: bool
    flood: bool
    mcast_flood: bool
    bcast_flood: bool
    neigh_suppress: bool


class Link(NamedTuple):
    """The attributes of a link that this package uses.

    :param peer: index of a veth's other end, or of the lower device of a macvlan or VLAN link.
    :param peer_netns: netns id of the namespace of that index; None: the link's own.
    :param hardware: ARPHRD_… of linux/if_arp.h.
    :param data: kind-specific data (IFLA_INFO_DATA), as attributes.
    :param port: data of a bridge port (IFLA_INFO_SLAVE_DATA), as attributes.
    :param properties: its alternative names (IFLA_PROP_LIST), as attributes.
    :param tx_queue_len: in packets.
    """

    name: str
    ifindex: int
    kind: str
    mac: str
    mtu: int
    flags: int
    operstate: int
    alias: str
    master: int
    peer: int
    peer_netns: int | None
    hardware: int
    promiscuity: int
    group: int
    data: bytes
    port: bytes
    properties: bytes = b""
    tx_queue_len: int = 0

    @property
    def altnames(self) -> tuple[str, ...]:
        listed = attributes(self.properties)
        return tuple(read_text(value) for kind, value in listed if kind == wire.IFLA_ALT_IFNAME)

    @property
    def up(self) -> bool:
        return bool(self.flags & IFF_UP)

    @property
    def vlan_filtering(self) -> bool | None:
        """None if the link is not a bridge, or cannot filter VLANs."""
        value = self._of_kind("bridge", wire.IFLA_BR_VLAN_FILTERING)
        return None if value is None else bool(read_number(value))

    @property
    def macvlan_mode(self) -> int:
        return read_number(self._of_kind("macvlan", wire.IFLA_MACVLAN_MODE))

    @property
    def macvlan_sources(self) -> list[str]:
        listed = attributes(self._of_kind("macvlan", wire.IFLA_MACVLAN_MACADDR_DATA) or b"")
        return [value.hex(":") for kind, value in listed if kind == wire.IFLA_MACVLAN_MACADDR]

    @property
    def vlan(self) -> tuple[int, int]:
        """VLAN id and EtherType of a VLAN link, (0, 0) for other links."""
        protocol = self._of_kind("vlan", wire.IFLA_VLAN_PROTOCOL) or b""
        return read_number(self._of_kind("vlan", wire.IFLA_VLAN_ID)), int.from_bytes(protocol, "big")

    @property
    def vxlan(self) -> VxlanSettings | None:
        """None if the link is not a VXLAN link."""
        if self.kind != "vxlan":
            return None
        found = dict(attributes(self.data))
        return VxlanSettings(
            vni=read_number(found.get(wire.IFLA_VXLAN_ID)),
            port=int.from_bytes(found.get(wire.IFLA_VXLAN_PORT, b""), "big"),
            link=read_number(found.get(wire.IFLA_VXLAN_LINK)),
            local=_address_of(found, wire.IFLA_VXLAN_LOCAL),
            df=read_number(found.get(wire.IFLA_VXLAN_DF)),
            learning=bool(read_number(found.get(wire.IFLA_VXLAN_LEARNING))),
            group=_address_of(found, wire.IFLA_VXLAN_GROUP),
            ttl=read_number(found.get(wire.IFLA_VXLAN_TTL)),
            external=bool(read_number(found.get(wire.IFLA_VXLAN_COLLECT_METADATA))),
        )

    @property
    def port_flags(self) -> PortFlags:
        """A kernel that does not report a flag behaves as if it were on, except for neigh_suppress."""
        return PortFlags(
            learning=bool(self._of_port(wire.IFLA_BRPORT_LEARNING, 1)),
            flood=bool(self._of_port(wire.IFLA_BRPORT_UNICAST_FLOOD, 1)),
            mcast_flood=bool(self._of_port(wire.IFLA_BRPORT_MCAST_FLOOD, 1)),
            bcast_flood=bool(self._of_port(wire.IFLA_BRPORT_BCAST_FLOOD, 1)),
            neigh_suppress=bool(self._of_port(wire.IFLA_BRPORT_NEIGH_SUPPRESS, 0)),
        )

    @property
    def loopback(self) -> bool:
        return bool(self.flags & IFF_LOOPBACK)

    @property
    def ethernet(self) -> bool:
        return self.hardware == _ARPHRD_ETHER

    @property
    def hairpin(self) -> bool:
        return bool(self._of_port(wire.IFLA_BRPORT_MODE, 0))

    @property
    def isolated(self) -> bool:
        return bool(self._of_port(wire.IFLA_BRPORT_ISOLATED, 0))

    @property
    def port_enabled(self) -> bool:
        """Whether the port is not disabled; true if the link is not a port."""
        return self._of_port(wire.IFLA_BRPORT_STATE, 1) != _BR_STATE_DISABLED

    def _of_kind(self, kind: str, attribute: int) -> bytes | None:
        return dict(attributes(self.data)).get(attribute) if self.kind == kind else None

    def _of_port(self, kind: int, default: int) -> int:
        value = dict(attributes(self.port)).get(kind)
        return default if value is None else read_number(value)


def _address_of(found: dict[int, bytes], kinds: dict[int, int]) -> IPAddress | None:
    """Return the IPv4 or IPv6 address, whichever is present; an all-zero address counts as absent."""
    value = next((found[kind] for kind in kinds.values() if any(found.get(kind, b""))), None)
    return None if value is None else ip_address(value)


def decoded(answer: Answer) -> Link:
    _, hardware, index, flags, _ = wire.IFINFOMSG.unpack_from(answer.data, wire.BODY)
    found = dict(attributes(answer.data, wire.BODY + wire.IFINFOMSG.size))
    info = dict(attributes(found.get(wire.IFLA_LINKINFO, b"")))
    kind = read_text(info.get(wire.IFLA_INFO_KIND, b""))
    in_bridge = read_text(info.get(wire.IFLA_INFO_SLAVE_KIND, b"")) == "bridge"
    return Link(
        name=read_text(found.get(wire.IFLA_IFNAME, b"")),
        ifindex=index,
        kind=kind,
        mac=found.get(wire.IFLA_ADDRESS, b"").hex(":"),
        mtu=read_number(found.get(wire.IFLA_MTU)),
        flags=flags,
        operstate=read_number(found.get(wire.IFLA_OPERSTATE)),
        alias=read_text(found.get(wire.IFLA_IFALIAS, b"")),
        master=read_number(found.get(wire.IFLA_MASTER)),
        peer=read_number(found.get(wire.IFLA_LINK)),
        peer_netns=read_number(netns) if (netns := found.get(wire.IFLA_LINK_NETNSID)) else None,
        hardware=hardware,
        promiscuity=read_number(found.get(wire.IFLA_PROMISCUITY)),
        group=read_number(found.get(wire.IFLA_GROUP)),
        data=info.get(wire.IFLA_INFO_DATA, b""),
        port=info.get(wire.IFLA_INFO_SLAVE_DATA, b"") if in_bridge else b"",
        properties=found.get(wire.IFLA_PROP_LIST, b""),
        tx_queue_len=read_number(found.get(wire.IFLA_TXQLEN)),
    )
