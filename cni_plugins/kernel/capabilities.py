"""Finds out what this kernel supports, by trying it in an empty network namespace."""

import errno
import socket
import struct
from ipaddress import IPv4Address, IPv6Address

from cni_plugins.kernel.ip import rules, sysctl
from cni_plugins.kernel.links import links
from cni_plugins.kernel.links.link import IFF_UP
from cni_plugins.kernel.netlink import rtnetlink as wire
from cni_plugins.kernel.netlink.attributes import packed
from cni_plugins.kernel.netlink.socket import NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, Refused
from cni_plugins.kernel.session import netns
from cni_plugins.kernel.session.session import Session
from cni_plugins.protocol.fields import IPAddress
from cni_plugins.steps.step import HOST

_PROBE, _HOST = "probe", 0  # name of a link, and netns id of the host, both in the empty namespace
_CREATE = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
_VXLAN_PORT = 4789  # RFC 7348, 5
_LAST_VNI = 0xFFFFFF
_LOOPBACK: dict[int, IPAddress] = {4: IPv4Address("127.0.0.1"), 6: IPv6Address("::1")}
# The attributes without which a link of a kind cannot be created.
_SMALLEST = {
    "vlan": (packed(wire.IFLA_VLAN_ID, struct.pack("=H", 1)),),
    "macvlan": (),
    "vxlan": (wire.number(wire.IFLA_VXLAN_ID, 1), wire.port(wire.IFLA_VXLAN_PORT, _VXLAN_PORT)),
}


def can_filter_vlans(session: Session) -> bool:
    """Say whether bridges can filter VLANs; a kernel without support ignores or refuses the request."""
    with netns.throw_away(session.host), Session(None) as empty:
        info = wire.kind_of_link("bridge", wire.octet(wire.IFLA_BR_VLAN_FILTERING, 1))
        try:
            links.send(empty, links.set_message(wire.text(wire.IFLA_IFNAME, _PROBE), info, asked=_CREATE))
        except Refused:
            return False
        return links.get(empty, HOST, _PROBE).vlan_filtering is True


def can_create(session: Session, kind: str) -> bool:
    """Say whether links of a kind can be created, with a veth link as their master."""
    with netns.throw_away(session.host), Session(None) as empty:
        pair = wire.kind_of_link("veth", wire.veth_peer(wire.text(wire.IFLA_IFNAME, f"{_PROBE}1")))
        try:
            links.send(empty, links.set_message(wire.text(wire.IFLA_IFNAME, _PROBE), pair, asked=_CREATE))
            lower = wire.number(wire.IFLA_LINK, links.get(empty, HOST, _PROBE).ifindex)
            named = wire.text(wire.IFLA_IFNAME, f"{_PROBE}2")
            info = wire.kind_of_link(kind, *_SMALLEST[kind])
            links.send(empty, links.set_message(named, lower, info, asked=_CREATE))
        except Refused:
            return False
    return True


def without_rules(session: Session) -> tuple[int, ...]:
    """Return the IP versions, of those that the kernel has, for which it has no policy routing."""
    with netns.throw_away(session.host), Session(None) as empty:
        settings = {version: (f"ipv{version}", "conf", "all", "forwarding") for version in (4, 6)}
        present = [version for version, key in settings.items() if sysctl.exists(empty, HOST, key)]
        return tuple(version for version in present if not rules.can_add(empty, HOST, _LOOPBACK[version]))


def is_port_taken(session: Session, port: int) -> bool:
    """Say whether the UDP port is in use by a socket that VXLAN links cannot share.

    The socket may belong to a VXLAN link that was moved to another namespace, as Docker does; only creating
    another link shows whether it can be shared.
    """
    return any(
        not _can_bind(family, port) and not _can_share(session, version, port)
        for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6))
    )


def _can_share(session: Session, version: int, port: int) -> bool:
    """Create a VXLAN link in a new network namespace whose socket is in the host; say whether that works."""
    info = wire.kind_of_link(
        "vxlan",
        wire.number(wire.IFLA_VXLAN_ID, _LAST_VNI),
        wire.ip(wire.IFLA_VXLAN_LOCAL[version], _LOOPBACK[version]),
        wire.port(wire.IFLA_VXLAN_PORT, port),
    )
    named, sends_in_host = wire.text(wire.IFLA_IFNAME, _PROBE), wire.signed(wire.IFLA_LINK_NETNSID, _HOST)
    new_link = links.set_message(named, sends_in_host, info, asked=_CREATE)
    with netns.throw_away(session.host), Session(None) as empty:
        netns_id = wire.number(wire.NETNSA_FD, session.host), wire.signed(wire.NETNSA_NSID, _HOST)
        links.send(empty, wire.namespace(wire.RTM_NEWNSID, NLM_F_ACK, *netns_id))
        try:
            links.send(empty, new_link, links.set_message(named, flags=IFF_UP, mask=IFF_UP))
        except Refused as err:
            return err.errno == errno.EEXIST  # another link has this VNI at the port, so the port is shared
        finally:
            links.delete(empty, HOST, _PROBE)  # the namespace ends later, and would hold the port until then
    return True


def _can_bind(family: socket.AddressFamily, port: int) -> bool:
    """Say whether the port can be bound; without IPv6 in the kernel, no socket can hold its port."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind(("", port))
    except OSError as err:
        return err.errno != errno.EADDRINUSE
    return True
