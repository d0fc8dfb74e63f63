"""Manages an overlay's bridge and the VXLAN link as its port, and removes all objects of an idle network.

Never touches a link that has the alias of another network, or none of ours.
"""

import errno

from cni_plugins.errors import NameTaken
from cni_plugins.kernel.deed import REMOVES, deed
from cni_plugins.kernel.links import bridge as bridges
from cni_plugins.kernel.links import create, links
from cni_plugins.kernel.links.link import Link, PortFlags
from cni_plugins.kernel.netlink import rtnetlink as wire
from cni_plugins.kernel.netlink.socket import Refused
from cni_plugins.kernel.overlay import attachments, packet_filter, peers, vxlan
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import overlay_alias
from cni_plugins.steps.overlay import AttachVxlan, DelIdleOverlay, EnsureOverlayBridge
from cni_plugins.steps.step import ABSENT, HOST, UNCHANGED

_KINDS = (  # in the order of PortFlags
    wire.IFLA_BRPORT_LEARNING,
    wire.IFLA_BRPORT_UNICAST_FLOOD,
    wire.IFLA_BRPORT_MCAST_FLOOD,
    wire.IFLA_BRPORT_BCAST_FLOOD,
    wire.IFLA_BRPORT_NEIGH_SUPPRESS,
)


def _ensure(session: Session, step: EnsureOverlayBridge) -> str:
    """Create the bridge, or correct the one that an earlier ADD created.

    :raises NameTaken: if another link has this name.
    """
    session.share_host()
    found = vxlan.settled(session, step.name)
    before = ABSENT if found is None and _create(session, step) else UNCHANGED
    try:
        _correct(session, step)
    except Refused:
        if before == ABSENT:
            links.delete(session, HOST, step.name)
        raise
    return before


def _create(session: Session, step: EnsureOverlayBridge) -> bool:
    """Create the bridge without its MTU; return False if a concurrent ADD has created it.

    A bridge takes the smallest MTU of its ports until its own is set for the first time (br_mtu_auto_adjust).
    """
    address = wire.mac(wire.IFLA_ADDRESS, step.mac)
    try:
        create.add_named(
            session, step.name, overlay_alias(step.network), address, wire.kind_of_link("bridge")
        )
    except Refused as err:
        if err.errno != errno.EEXIST:
            raise
        return False
    return True


def _correct(session: Session, step: EnsureOverlayBridge) -> None:
    link = vxlan.settled(session, step.name) or links.get(session, HOST, step.name)
    fault = _foreign_link(link, step)
    if fault:
        raise NameTaken(fault, f"its kind is {link.kind or 'a device'}, its alias {link.alias!r}")
    changes = [wire.mac(wire.IFLA_ADDRESS, step.mac)] if link.mac != step.mac else []
    mtu = _mtu_for_ports(session, step, link)
    changes += [wire.number(wire.IFLA_MTU, mtu)] if link.mtu != mtu else []
    if changes:
        links.send(session, links.set_message(*changes, index=link.ifindex))


def _mtu_for_ports(session: Session, step: EnsureOverlayBridge, link: Link) -> int:
    """Return the MTU, reduced to what every port accepts: a port with a smaller one drops frames silently."""
    if link.mtu == step.mtu:
        return step.mtu
    ports = links.every(session, HOST, master=link.ifindex)
    return min([step.mtu, *(port.mtu for port in ports if port.kind != "vxlan")])


def _foreign_link(link: Link, step: EnsureOverlayBridge) -> str:
    if link.kind != "bridge":
        return f'"{step.name}" already exists but is not a bridge'
    if not vxlan.is_of(link, step.network):
        return f'"{step.name}" already exists but is not the bridge of network {step.network}'
    return ""


def _differs(session: Session, step: EnsureOverlayBridge) -> str:
    link = links.find(session, HOST, step.name)
    if link is None:
        return f"link {step.name} is missing in the host"
    faults = [
        f"bridge {step.name} has {what} {value}, not {wanted}"
        for what, value, wanted in (
            ("address", link.mac, step.mac),
            ("mtu", link.mtu, _mtu_for_ports(session, step, link)),
        )
        if value != wanted
    ]
    return _foreign_link(link, step) or "; ".join(faults)


def _attach(session: Session, step: AttachVxlan) -> str:
    bridges.plug(session, step.link, step.bridge, dict(zip(_KINDS, _wanted(step), strict=True)))
    return UNCHANGED  # undone together with the links


def _wanted(step: AttachVxlan) -> PortFlags:
    on = not step.programmed
    return PortFlags(learning=on, flood=on, mcast_flood=on, bcast_flood=on, neigh_suppress=True)


def _attach_differs(session: Session, step: AttachVxlan) -> str:
    link, bridge = links.find(session, HOST, step.link), links.find(session, HOST, step.bridge)
    if link is None or bridge is None:
        return f"link {step.link if link is None else step.bridge} is missing in the host"
    if link.master != bridge.ifindex:
        return f"link {step.link} is not a port of {step.bridge}"
    faults = [
        f"port {step.link} has {name} {'on' if has else 'off'}"
        for name, has, wanted in zip(PortFlags._fields, link.port_flags, _wanted(step), strict=True)
        if has != wanted
    ]
    return "; ".join(faults if link.up else [*faults, f"port {step.link} is down"])


def _delete_idle(session: Session, step: DelIdleOverlay) -> None:
    """Remove all objects of the network in the host, while no ADD is about to use them.

    Routes and rules are removed even without links, which may have been deleted separately.
    """
    if attachments.exist(session, step.network):
        return
    with session.host_alone() as alone:
        present = attachments.network_links(session, step.network)
        if not alone or present.in_use:
            return
        for name in (*present.vxlans, *present.bridges):
            links.delete(session, HOST, name)
        _delete_entries(session, step.network)


def _delete_entries(session: Session, network: str) -> None:
    peers.delete_routes(session, network)
    packet_filter.delete(session, network)


DEEDS = (
    deed(
        EnsureOverlayBridge,
        _ensure,
        _differs,
        lambda session, step: attachments.exist(session, step.network),
    )
    | deed(AttachVxlan, _attach, _attach_differs)
    | deed(DelIdleOverlay, _delete_idle, REMOVES)
)
