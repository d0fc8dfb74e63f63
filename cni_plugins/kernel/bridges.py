"""Bridges and their ports."""

import errno
import time
from collections.abc import Mapping

from cni_plugins.errors import CniError, KernelRefused, NameTaken, UnsupportedField
from cni_plugins.kernel import links, new_links, vlans
from cni_plugins.kernel import rtnl_wire as wire
from cni_plugins.kernel.link import IFF_UP, OPER_UP
from cni_plugins.kernel.session import Session
from cni_plugins.kernel.wire import Refused
from cni_plugins.spec.attachment import ALIAS_PREFIX
from cni_plugins.steps.links import (
    BRIDGE_ALIAS,
    AttachPort,
    EnsureBridge,
    EnsureGatewayPort,
    PortVlan,
    SetPortVlans,
)
from cni_plugins.steps.places import HOST
from cni_plugins.steps.plan import ABSENT, UNCHANGED

_NO_VLANS = "this kernel's bridges cannot filter VLANs"
_AWAIT_UP = 5.0  # seconds, as long as the reference waits in all
_FIRST_PAUSE = 0.0005


def ensure_bridge(session: Session, step: EnsureBridge) -> str:
    """Make the bridge, or switch VLAN filtering on where an existing one lacks it."""
    session.share_host()
    before = _made_or_found(session, step)
    if step.vlan_filtering:
        link = links.get(session, HOST, step.name)
        if link.vlan_filtering is None:
            _take_back_new(session, step.name, before)
            raise UnsupportedField(_NO_VLANS, "vlan or vlanTrunk is set")
        if not link.vlan_filtering:
            set_vlan_filtering(session, step.name, on=True)
            return "off"
    return before


def _made_or_found(session: Session, step: EnsureBridge) -> str:
    found = links.find(session, HOST, step.name)
    if found is None:
        filtering = (_filtering(on=True),) if step.vlan_filtering else ()
        try:
            new_links.add_named(
                session,
                step.name,
                BRIDGE_ALIAS,
                wire.mac(wire.IFLA_ADDRESS, step.mac),
                wire.kind_of_link("bridge", *filtering),
                wire.number(wire.IFLA_MTU, step.mtu) if step.mtu else b"",
            )
        except Refused as err:
            if err.errno == errno.EOPNOTSUPP and step.vlan_filtering:
                raise UnsupportedField(_NO_VLANS, "vlan or vlanTrunk is set") from err
            if err.errno != errno.EEXIST:  # another ADD was faster
                raise
            found = links.get(session, HOST, step.name)
        else:
            return ABSENT
    if found.kind != "bridge":
        raise NameTaken(
            f'"{step.name}" already exists but is not a bridge', f"its kind is {found.kind or 'a device'}"
        )
    return UNCHANGED


def _take_back_new(session: Session, name: str, before: str) -> None:
    if before == ABSENT:
        del_idle_bridge(session, name)


def set_vlan_filtering(session: Session, name: str, *, on: bool) -> None:
    info = wire.kind_of_link("bridge", _filtering(on=on))
    links.with_index(
        session, HOST, name, lambda index: links.modify(session, links.change(info, index=index))
    )


def _filtering(*, on: bool) -> bytes:
    return wire.octet(wire.IFLA_BR_VLAN_FILTERING, int(on))


def del_idle_bridge(session: Session, name: str) -> None:
    """Remove a bridge that we made and nobody uses, with its gateway ports.

    Nobody else may be between making the bridge and plugging into it, hence the lock; if that cannot be had,
    the bridge stays, as it is in use.
    """
    if _idle_ports(session, name) is None:
        return
    with session.host_alone() as alone:
        ports = _idle_ports(session, name)
        if alone and ports is not None:
            for link in (*ports, name):
                links.delete(session, HOST, link)


def has_attachments(session: Session, name: str) -> bool:
    """Say whether a bridge has ports that ADDs of ours plugged in."""
    bridge = links.find(session, HOST, name)
    ports = links.every(session, HOST, master=bridge.ifindex) if bridge else []
    return any(port.alias.startswith(ALIAS_PREFIX) for port in ports)


def _idle_ports(session: Session, name: str) -> list[str] | None:
    """Return the gateway ports of a bridge of ours that has no others, None when it is to be left alone."""
    bridge = links.find(session, HOST, name)
    if bridge is None or bridge.alias != BRIDGE_ALIAS:
        return None
    ports = links.every(session, HOST, master=bridge.ifindex)
    return [port.name for port in ports] if all(port.alias == BRIDGE_ALIAS for port in ports) else None


def ensure_gateway_port(session: Session, step: EnsureGatewayPort) -> str:
    """Make the pair whose one end bears a VLAN's gateway address, and plug the other into the bridge.

    An earlier or parallel ADD, or the reference, may have made it, and may not have come further than that.
    """
    before = _made_pair(session, step)
    try:
        if gateway_port_differs(session, step):
            _plug_gateway_port(session, step)
    except (OSError, CniError):
        if before == ABSENT:
            links.delete(session, HOST, step.name)
        raise
    return before


def _made_pair(session: Session, step: EnsureGatewayPort) -> str:
    if links.find(session, HOST, step.name) is not None:
        return UNCHANGED
    peer = (wire.text(wire.IFLA_IFNAME, step.name), wire.mac(wire.IFLA_ADDRESS, step.mac))
    try:
        new_links.add_pair(session, (step.port, "", BRIDGE_ALIAS), peer, 0)
    except Refused as err:
        if err.errno == errno.EEXIST:  # another ADD was faster
            return UNCHANGED
        raise
    return ABSENT


def _plug_gateway_port(session: Session, step: EnsureGatewayPort) -> None:
    port = links.find(session, HOST, index=links.get(session, HOST, step.name).peer)
    if port is None:
        raise NameTaken(f"{step.name} is not one end of a veth pair in the host", f"vlan is {step.vlan}")
    attach_port(session, AttachPort(port.name, step.bridge, hairpin=False, isolated=False))
    vlans.set_port_vlans(session, _access(port.name, step.vlan))
    links.set_up(session, HOST, step.name, up=True)


def gateway_port_differs(session: Session, step: EnsureGatewayPort) -> str:
    """Go from the link to its port by the pair itself, as the port's name is its maker's choice."""
    link = links.find(session, HOST, step.name)
    port = links.find(session, HOST, index=link.peer) if link else None
    bridge = links.find(session, HOST, step.bridge)
    if link is None or port is None or bridge is None or port.master != bridge.ifindex:
        return f"link {step.name} with a port in {step.bridge} is missing in the host"
    if not (link.up and port.up):
        return f"link {step.name} or its port {port.name} is down"
    return vlans.differs(session, _access(port.name, step.vlan))


def _access(port: str, vlan: int) -> SetPortVlans:
    return SetPortVlans(port, (PortVlan(vlan, vlan, access=True),), exclusive=True)


def attach_port(session: Session, step: AttachPort) -> None:
    """Put the host end into the bridge."""
    flags = {wire.IFLA_BRPORT_MODE: step.hairpin, wire.IFLA_BRPORT_ISOLATED: step.isolated}
    plug(session, step.link, step.bridge, flags)


def plug(session: Session, link: str, bridge: str, flags: Mapping[int, bool]) -> None:
    """Make a link a port: membership first, then port flags and up, in one datagram."""
    octets = [wire.octet(kind, int(on)) for kind, on in flags.items()]
    info = wire.nest(
        wire.IFLA_LINKINFO,
        wire.text(wire.IFLA_INFO_SLAVE_KIND, "bridge"),
        wire.nest(wire.IFLA_INFO_SLAVE_DATA, *octets),
    )

    def join(master: int, port: int) -> None:
        links.modify(
            session,
            links.change(wire.number(wire.IFLA_MASTER, master), index=port),
            links.change(info, index=port, flags=IFF_UP, mask=IFF_UP),
        )

    links.with_index(
        session,
        HOST,
        bridge,
        lambda master: links.with_index(session, HOST, link, lambda port: join(master, port)),
    )


def await_up(session: Session, name: str) -> None:
    """:raises KernelRefused: when the link's operational state does not become up in time."""
    deadline, pause = time.monotonic() + _AWAIT_UP, _FIRST_PAUSE
    while not ((link := links.get(session, HOST, name)).operstate == OPER_UP and link.port_enabled):
        if time.monotonic() > deadline:
            raise KernelRefused(
                f"bridge port {name} is not up", f"operational state {link.operstate}, {_AWAIT_UP:.0f} s"
            )
        time.sleep(pause)
        pause = min(pause * 2, 0.05)
