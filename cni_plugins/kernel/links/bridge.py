"""Manages Linux bridges, their ports, and the veth pairs that carry the gateway addresses of VLANs."""

import errno
import time
from collections.abc import Mapping

from cni_plugins.errors import CniError, KernelRefused, NameTaken, UnsupportedField
from cni_plugins.kernel.deed import REMOVES, Uncompared, deed
from cni_plugins.kernel.links import create, links, port_vlans, veth
from cni_plugins.kernel.links.link import IFF_UP, OPER_UP
from cni_plugins.kernel.netlink import rtnetlink as wire
from cni_plugins.kernel.netlink.socket import Refused
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import ALIAS_PREFIX, BRIDGE_ALIAS
from cni_plugins.steps.links import (
    AttachPort,
    AwaitUp,
    DelIdleBridge,
    EnsureBridge,
    EnsureGatewayPort,
    PortVlan,
    SetPortVlans,
    SetVlanFiltering,
)
from cni_plugins.steps.step import ABSENT, HOST, UNCHANGED

_NO_VLANS = "this kernel's bridges cannot filter VLANs"
_MOST_PORTS = 1023  # net/bridge/br_private.h: BR_PORT_BITS is 10, and port 0 is not given out
_AWAIT_UP = 5.0  # seconds, the total time that the reference waits
_FIRST_PAUSE = 0.0005


def _ensure(session: Session, step: EnsureBridge) -> str:
    """Create the bridge, or enable VLAN filtering on an existing one if required."""
    session.share_host()
    before = _find_or_create(session, step)
    if step.vlan_filtering:
        link = links.get(session, HOST, step.name)
        if link.vlan_filtering is None:
            _delete_if_new(session, step.name, before)
            raise UnsupportedField(_NO_VLANS, "vlan or vlanTrunk is set")
        if not link.vlan_filtering:
            _set_vlan_filtering(session, step.name, on=True)
            return "off"
    return before


def _find_or_create(session: Session, step: EnsureBridge) -> str:
    found = links.find(session, HOST, step.name)
    if found is None:
        filtering = (_filtering(on=True),) if step.vlan_filtering else ()
        try:
            create.add_named(
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
            if err.errno != errno.EEXIST:  # created by a concurrent ADD
                raise
            found = links.get(session, HOST, step.name)
        else:
            return ABSENT
    if found.kind != "bridge":
        raise NameTaken(
            f'"{step.name}" already exists but is not a bridge', f"its kind is {found.kind or 'a device'}"
        )
    return UNCHANGED


def _delete_if_new(session: Session, name: str, before: str) -> None:
    if before == ABSENT:
        _del_idle(session, name)


def _set_vlan_filtering(session: Session, name: str, *, on: bool) -> None:
    info = wire.kind_of_link("bridge", _filtering(on=on))
    links.on_index(
        session, HOST, name, lambda index: links.send(session, links.set_message(info, index=index))
    )


def _filtering(*, on: bool) -> bytes:
    return wire.octet(wire.IFLA_BR_VLAN_FILTERING, int(on))


def _del_idle(session: Session, name: str) -> None:
    """Remove a bridge that we created and that is unused, with its gateway ports.

    The lock is needed because another ADD may have created the bridge without having attached a port yet; if
    it cannot be acquired, the bridge is in use and stays.
    """
    if _idle_ports(session, name) is None:
        return
    with session.host_alone() as alone:
        ports = _idle_ports(session, name)
        if alone and ports is not None:
            for link in (*ports, name):
                links.delete(session, HOST, link)


def _has_attachments(session: Session, name: str) -> bool:
    """Say whether a bridge has ports that our ADDs attached."""
    bridge = links.find(session, HOST, name)
    ports = links.every(session, HOST, master=bridge.ifindex) if bridge else []
    return any(port.alias.startswith(ALIAS_PREFIX) for port in ports)


def _idle_ports(session: Session, name: str) -> list[str] | None:
    """Return the gateway ports of our bridge if it has no other ports, None if it must not be removed."""
    bridge = links.find(session, HOST, name)
    if bridge is None or bridge.alias != BRIDGE_ALIAS:
        return None
    ports = links.every(session, HOST, master=bridge.ifindex)
    return [port.name for port in ports] if all(port.alias == BRIDGE_ALIAS for port in ports) else None


def _ensure_gateway_port(session: Session, step: EnsureGatewayPort) -> str:
    """Create the veth pair for a VLAN's gateway address, and attach its other end to the bridge.

    An earlier or concurrent ADD, or the reference, may have created the pair and not yet attached it.
    """
    before = _find_or_create_pair(session, step)
    try:
        if _gateway_port_differs(session, step):
            _attach_gateway_port(session, step)
    except (OSError, CniError):
        if before == ABSENT:
            links.delete(session, HOST, step.name)
        raise
    return before


def _find_or_create_pair(session: Session, step: EnsureGatewayPort) -> str:
    if links.find(session, HOST, step.name) is not None:
        return UNCHANGED
    peer = (wire.text(wire.IFLA_IFNAME, step.name), wire.mac(wire.IFLA_ADDRESS, step.mac))
    try:
        veth.add_pair(session, (step.port, "", BRIDGE_ALIAS), peer, 0)
    except Refused as err:
        if err.errno == errno.EEXIST:  # created by a concurrent ADD
            return UNCHANGED
        raise
    return ABSENT


def _attach_gateway_port(session: Session, step: EnsureGatewayPort) -> None:
    port = links.find(session, HOST, index=links.get(session, HOST, step.name).peer)
    if port is None:
        raise NameTaken(f"{step.name} is not one end of a veth pair in the host", f"vlan is {step.vlan}")
    _attach(session, AttachPort(port.name, step.bridge, hairpin=False, isolated=False))
    port_vlans.set_vlans(session, _access(port.name, step.vlan))
    links.set_up(session, HOST, step.name, up=True)


def _gateway_port_differs(session: Session, step: EnsureGatewayPort) -> str:
    """Say how the pair differs; its port is found by index, as its name depends on who created it."""
    link = links.find(session, HOST, step.name)
    port = links.find(session, HOST, index=link.peer) if link else None
    bridge = links.find(session, HOST, step.bridge)
    if link is None or port is None or bridge is None or port.master != bridge.ifindex:
        return f"link {step.name} with a port in {step.bridge} is missing in the host"
    if not (link.up and port.up):
        return f"link {step.name} or its port {port.name} is down"
    return port_vlans.differs(session, _access(port.name, step.vlan))


def _access(port: str, vlan: int) -> SetPortVlans:
    return SetPortVlans(port, (PortVlan(vlan, vlan, access=True),), exclusive=True)


def _attach(session: Session, step: AttachPort) -> None:
    """Attach the host end to the bridge."""
    flags = {wire.IFLA_BRPORT_MODE: step.hairpin, wire.IFLA_BRPORT_ISOLATED: step.isolated}
    plug(session, step.link, step.bridge, flags)


def is_full(session: Session, name: str) -> bool:
    """Say whether a bridge has as many ports as it can have."""
    bridge = links.find(session, HOST, name)
    if bridge is None or bridge.kind != "bridge":
        return False
    return len(links.every(session, HOST, master=bridge.ifindex)) >= _MOST_PORTS


def has_uplink(session: Session, name: str) -> bool:
    """Say whether a bridge has a port that the suite did not make, so that others may be behind it."""
    found = links.find(session, HOST, name)
    ports = links.every(session, HOST, found.ifindex) if found is not None else ()
    return any(not port.alias.startswith((ALIAS_PREFIX, BRIDGE_ALIAS)) for port in ports)


def plug(session: Session, link: str, bridge: str, flags: Mapping[int, bool]) -> None:
    """Attach a link to a bridge: master first, then port flags and up, in one datagram."""
    octets = [wire.octet(kind, int(on)) for kind, on in flags.items()]
    info = wire.nest(
        wire.IFLA_LINKINFO,
        wire.text(wire.IFLA_INFO_SLAVE_KIND, "bridge"),
        wire.nest(wire.IFLA_INFO_SLAVE_DATA, *octets),
    )

    def join(master: int, port: int) -> None:
        links.send(
            session,
            links.set_message(wire.number(wire.IFLA_MASTER, master), index=port),
            links.set_message(info, index=port, flags=IFF_UP, mask=IFF_UP),
        )

    try:
        links.on_index(
            session,
            HOST,
            bridge,
            lambda master: links.on_index(session, HOST, link, lambda port: join(master, port)),
        )
    except Refused as err:
        if err.errno != errno.EXFULL:
            raise
        raise KernelRefused(
            f"bridge {bridge} has no port left for {link}",
            f"a bridge of Linux has at most {_MOST_PORTS} ports",
            errno.EXFULL,
        ) from err


def _await_up(session: Session, name: str) -> None:
    """:raises KernelRefused: if the link's operational state does not become up in time."""
    deadline, pause = time.monotonic() + _AWAIT_UP, _FIRST_PAUSE
    while not ((link := links.get(session, HOST, name)).operstate == OPER_UP and link.port_enabled):
        if time.monotonic() > deadline:
            raise KernelRefused(
                f"bridge port {name} is not up", f"operational state {link.operstate}, {_AWAIT_UP:.0f} s"
            )
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


# ---------------------------------------------------------------------------------------------- comparing


def _differs(session: Session, step: EnsureBridge) -> str:
    link = links.find(session, HOST, step.name)
    if link is None:
        return links.missing(HOST, step.name)
    if link.kind != "bridge":
        return f"link {step.name} is not a bridge"
    if step.mac and link.mac != step.mac:
        return f"bridge {step.name} has address {link.mac}, not {step.mac}"
    if step.vlan_filtering and not link.vlan_filtering:
        return f"bridge {step.name} does not filter VLANs"
    return ""


def _port_differs(session: Session, step: AttachPort) -> str:
    link, bridge = links.find(session, HOST, step.link), links.find(session, HOST, step.bridge)
    if link is None or bridge is None:
        return links.missing(HOST, step.link if link is None else step.bridge)
    if link.master != bridge.ifindex:
        return f"link {step.link} is not a port of {step.bridge}"
    for name, has, wants in (
        ("hairpin", link.hairpin, step.hairpin),
        ("isolated", link.isolated, step.isolated),
    ):
        if has != wants:
            return f"port {step.link} has {name} {'on' if has else 'off'}"
    return "" if link.up else f"port {step.link} is down"


def _operational_differs(session: Session, name: str) -> str:
    link = links.find(session, HOST, name)
    if link is None:
        return links.missing(HOST, name)
    return (
        ""
        if link.operstate == OPER_UP
        else f"link {name} is not operational (state {link.operstate} of RFC 2863)"
    )


DEEDS = (
    deed(EnsureBridge, _ensure, _differs, lambda session, step: _has_attachments(session, step.name))
    | deed(
        SetVlanFiltering,
        lambda session, step: _set_vlan_filtering(session, step.name, on=step.on),
        Uncompared("EnsureBridge compares it"),
    )
    | deed(DelIdleBridge, lambda session, step: _del_idle(session, step.name), REMOVES)
    | deed(AttachPort, _attach, _port_differs)
    | deed(EnsureGatewayPort, _ensure_gateway_port, _gateway_port_differs)
    | deed(
        AwaitUp,
        lambda session, step: _await_up(session, step.link),
        lambda session, step: _operational_differs(session, step.link),
    )
)
