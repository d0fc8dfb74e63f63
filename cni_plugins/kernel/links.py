"""Links over rtnetlink: what is there, and the verbs that change it."""

import errno
import time
from typing import Any, NamedTuple

from cni_plugins.errors import KernelRefused, NameTaken, UnsupportedField
from cni_plugins.kernel.messages import ifinfmsg
from cni_plugins.kernel.session import Session
from cni_plugins.kernel.wire import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    Answer,
    Refused,
    encoded,
    is_absent,
)
from cni_plugins.steps.links import BRIDGE_ALIAS, AddVeth, AttachPort, EnsureBridge, EnsureGatewayPort
from cni_plugins.steps.places import HOST, SANDBOX, Place
from cni_plugins.steps.plan import ABSENT, UNCHANGED

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19  # linux/rtnetlink.h
IFF_UP, IFF_PROMISC = 0x1, 0x100  # linux/if.h
_BR_STATE_FORWARDING = 3  # linux/if_bridge.h
OPER_UP = 6  # RFC 2863 as linux/if.h numbers it
_SKIP_STATS = 1 << 3  # RTEXT_FILTER_SKIP_STATS: counters are most of a link message
_NO_VLANS = "this kernel's bridges cannot filter VLANs"
_AWAIT_UP = 5.0  # seconds, as long as the reference waits in all
_FIRST_PAUSE = 0.0005


class Link(NamedTuple):
    """The attributes of a link that anything here needs."""

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
    vlan_filtering: bool | None
    hairpin: bool
    isolated: bool
    forwarding: bool

    @property
    def up(self) -> bool:
        return bool(self.flags & IFF_UP)


# ---------------------------------------------------------------------------------------------- looking


def find(session: Session, where: Place, name: str = "", index: int = 0) -> Link | None:
    """Return the link of this name or index, or None."""
    message = ifinfmsg()
    message["index"] = index
    message["attrs"] = [("IFLA_EXT_MASK", _SKIP_STATS)] + ([("IFLA_IFNAME", name)] if name else [])
    try:
        (answer,) = session.rtnl(where).call(encoded(message, RTM_GETLINK, NLM_F_ACK))
    except Refused as err:
        if is_absent(err):
            return None
        raise
    return _decoded(answer)


def get(session: Session, where: Place, name: str) -> Link:
    """:raises KernelRefused: when there is none."""
    found = find(session, where, name)
    if found is None:
        raise KernelRefused(f"link {name} not found", f"in the {where}", errno.ENODEV)
    return found


def every(session: Session, where: Place, master: int = 0) -> list[Link]:
    """Return all links, or all ports of one master."""
    message = ifinfmsg()
    message["attrs"] = [("IFLA_EXT_MASK", _SKIP_STATS)] + ([("IFLA_MASTER", master)] if master else [])
    return [
        _decoded(answer) for answer in session.rtnl(where).dump(encoded(message, RTM_GETLINK, NLM_F_DUMP))
    ]


def _decoded(answer: Answer) -> Link:
    message = ifinfmsg(answer.data)
    message.decode()
    info = message.get_attr("IFLA_LINKINFO")
    data = info.get_attr("IFLA_INFO_DATA") if info else None
    in_bridge = bool(info) and info.get_attr("IFLA_INFO_SLAVE_KIND") == "bridge"
    port = info.get_attr("IFLA_INFO_SLAVE_DATA") if info and in_bridge else None
    kind = (info.get_attr("IFLA_INFO_KIND") if info else "") or ""
    filtering = data.get_attr("IFLA_BR_VLAN_FILTERING") if kind == "bridge" and data else None
    return Link(
        name=message.get_attr("IFLA_IFNAME"),
        ifindex=message["index"],
        kind=kind,
        mac=message.get_attr("IFLA_ADDRESS") or "",
        mtu=message.get_attr("IFLA_MTU") or 0,
        flags=message["flags"],
        operstate=_number(message.get_attr("IFLA_OPERSTATE")),
        alias=message.get_attr("IFLA_IFALIAS") or "",
        master=message.get_attr("IFLA_MASTER") or 0,
        peer=message.get_attr("IFLA_LINK") or 0,
        vlan_filtering=None if filtering is None else bool(filtering),
        hairpin=port is not None and bool(port.get_attr("IFLA_BRPORT_MODE")),
        forwarding=port is None or port.get_attr("IFLA_BRPORT_STATE") == _BR_STATE_FORWARDING,
        isolated=port is not None and bool(port.get_attr("IFLA_BRPORT_ISOLATED")),
    )


def _number(operstate: str | int | None) -> int:
    """pyroute2 spells the one state out that matters here."""
    return OPER_UP if operstate == "UP" else operstate if isinstance(operstate, int) else 0


# ---------------------------------------------------------------------------------------------- changing


def change(attrs: list[tuple[str, Any]], index: int = 0, *, flags: int = 0, mask: int = 0) -> ifinfmsg:
    message = ifinfmsg()
    message["index"] = index
    message["flags"] = flags
    message["change"] = mask
    message["attrs"] = attrs
    return message


def _set(session: Session, *messages: ifinfmsg, where: Place = HOST) -> None:
    session.rtnl(where).call(*(encoded(message, RTM_NEWLINK, NLM_F_ACK) for message in messages))


def delete(session: Session, where: Place, name: str) -> None:
    found = find(session, where, name)
    if found is None:
        return
    try:
        session.rtnl(where).call(encoded(change([], found.ifindex), RTM_DELLINK, NLM_F_ACK))
    except Refused as err:
        if not is_absent(err):
            raise


def set_up(session: Session, where: Place, name: str, *, up: bool) -> str:
    link = get(session, where, name)
    if link.up == up:
        return UNCHANGED
    _set(session, change([], link.ifindex, flags=IFF_UP if up else 0, mask=IFF_UP), where=where)
    return "down" if up else "up"


def set_promisc(session: Session, name: str, *, on: bool) -> str:
    link = get(session, HOST, name)
    if bool(link.flags & IFF_PROMISC) == on:
        return UNCHANGED
    _set(session, change([], link.ifindex, flags=IFF_PROMISC if on else 0, mask=IFF_PROMISC))
    return "off" if on else "on"


def pin_mac(session: Session, name: str) -> None:
    link = get(session, HOST, name)
    _set(session, change([("IFLA_ADDRESS", link.mac)], link.ifindex))


# ---------------------------------------------------------------------------------------------- bridges


def ensure_bridge(session: Session, step: EnsureBridge) -> str:
    """Make the bridge, or switch VLAN filtering on where an existing one lacks it."""
    session.share_host()
    before = _made_or_found(session, step)
    if step.vlan_filtering:
        link = get(session, HOST, step.name)
        if link.vlan_filtering is None:
            _take_back_new(session, step.name, before)
            raise UnsupportedField(_NO_VLANS, "vlan or vlanTrunk is set")
        if not link.vlan_filtering:
            set_vlan_filtering(session, step.name, on=True)
            return "off"
    return before


def _made_or_found(session: Session, step: EnsureBridge) -> str:
    found = find(session, HOST, step.name)
    if found is None:
        data = [("IFLA_BR_VLAN_FILTERING", 1)] if step.vlan_filtering else []
        attrs: list[tuple[str, Any]] = [
            ("IFLA_IFNAME", step.name),
            ("IFLA_ADDRESS", step.mac),
            ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "bridge"), ("IFLA_INFO_DATA", {"attrs": data})]}),
        ]
        try:
            size = [("IFLA_MTU", step.mtu)] if step.mtu else []
            _add_named(session, attrs + size, step.name, BRIDGE_ALIAS)
        except Refused as err:
            if err.errno == errno.EOPNOTSUPP and step.vlan_filtering:
                raise UnsupportedField(_NO_VLANS, "vlan or vlanTrunk is set") from err
            if err.errno != errno.EEXIST:  # another ADD was faster
                raise
            found = get(session, HOST, step.name)
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
    info = [
        ("IFLA_INFO_KIND", "bridge"),
        ("IFLA_INFO_DATA", {"attrs": [("IFLA_BR_VLAN_FILTERING", int(on))]}),
    ]
    _set(session, change([("IFLA_LINKINFO", {"attrs": info})], get(session, HOST, name).ifindex))


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
                delete(session, HOST, link)


def _idle_ports(session: Session, name: str) -> list[str] | None:
    """Return the gateway ports of a bridge of ours that has no others, None when it is to be left alone."""
    bridge = find(session, HOST, name)
    if bridge is None or bridge.alias != BRIDGE_ALIAS:
        return None
    ports = every(session, HOST, master=bridge.ifindex)
    return [port.name for port in ports] if all(port.alias == BRIDGE_ALIAS for port in ports) else None


# ---------------------------------------------------------------------------------------------- veth


def add_veth(session: Session, step: AddVeth) -> None:
    """Make the pair; the sandbox end is born in the sandbox and never bears its name in the host."""
    sandbox_end = [
        ("IFLA_IFNAME", step.ifname),
        ("IFLA_ADDRESS", step.mac),
        ("IFLA_NET_NS_FD", session.fd(SANDBOX)),
    ]
    try:
        _add_pair(session, (step.host_end, step.host_mac, step.alias), sandbox_end, step.mtu)
    except Refused as err:
        if err.errno == errno.EEXIST:
            raise NameTaken(
                f'container veth name ("{step.ifname}") peer provided ("{step.host_end}") already exists',
                f"CNI_IFNAME is {step.ifname}, CNI_NETNS is {session.path}",
            ) from err
        raise


def ensure_gateway_port(session: Session, step: EnsureGatewayPort) -> str:
    """Make the pair whose one end bears a VLAN's gateway address, and plug the other into the bridge."""
    if find(session, HOST, step.name) is not None:
        return UNCHANGED
    try:
        _add_pair(
            session,
            (step.port, "", BRIDGE_ALIAS),
            [("IFLA_IFNAME", step.name), ("IFLA_ADDRESS", step.mac)],
            0,
        )
    except Refused as err:
        if err.errno == errno.EEXIST:  # another ADD was faster
            return UNCHANGED
        raise
    try:
        attach_port(session, AttachPort(step.port, step.bridge, hairpin=False, isolated=False))
        set_up(session, HOST, step.name, up=True)
    except OSError:
        delete(session, HOST, step.name)
        raise
    return ABSENT


def _add_pair(session: Session, own: tuple[str, str, str], peer: list[tuple[str, Any]], mtu: int) -> None:
    """Make a veth pair and give the host's end its alias in one datagram, so that no signal comes between.

    :param own: name, MAC (empty: the kernel's choice) and alias of the host's end.
    """
    name, mac, alias = own
    size = [("IFLA_MTU", mtu)] if mtu else []
    data = {"attrs": [("VETH_INFO_PEER", {"attrs": peer + size})]}
    info = {"attrs": [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", data)]}
    address = [("IFLA_ADDRESS", mac)] if mac else []
    _add_named(session, [("IFLA_IFNAME", name), *address, *size, ("IFLA_LINKINFO", info)], name, alias)


def _add_named(session: Session, attrs: list[tuple[str, Any]], name: str, alias: str) -> None:
    session.rtnl(HOST).call(
        encoded(change(attrs), RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL),
        encoded(change([("IFLA_IFNAME", name), ("IFLA_IFALIAS", alias)]), RTM_NEWLINK, NLM_F_ACK),
    )


def attach_port(session: Session, step: AttachPort) -> None:
    """Put the host end into the bridge: membership first, then port flags and up, in one datagram."""
    bridge, link = get(session, HOST, step.bridge), get(session, HOST, step.link)
    flags = [("IFLA_BRPORT_MODE", int(step.hairpin)), ("IFLA_BRPORT_ISOLATED", int(step.isolated))]
    info = [("IFLA_INFO_SLAVE_KIND", "bridge"), ("IFLA_INFO_SLAVE_DATA", {"attrs": flags})]
    _set(
        session,
        change([("IFLA_MASTER", bridge.ifindex)], link.ifindex),
        change([("IFLA_LINKINFO", {"attrs": info})], link.ifindex, flags=IFF_UP, mask=IFF_UP),
    )


def announce(session: Session, where: Place, name: str) -> None:
    """Set the link's address to itself: that makes the kernel announce all its IP addresses.

    It does so where arp_notify and ndisc_notify are set (inetdev_event and ndisc_netdev_event on
    NETDEV_CHANGEADDR).
    """
    link = get(session, where, name)
    _set(session, change([("IFLA_ADDRESS", link.mac)], link.ifindex), where=where)


def await_up(session: Session, name: str) -> None:
    """:raises KernelRefused: when the link's operational state does not become up in time."""
    deadline, pause = time.monotonic() + _AWAIT_UP, _FIRST_PAUSE
    while not ((link := get(session, HOST, name)).operstate == OPER_UP and link.forwarding):
        if time.monotonic() > deadline:
            raise KernelRefused(
                f"bridge port {name} is not up", f"operational state {link.operstate} of RFC 2863"
            )
        time.sleep(pause)
        pause = min(pause * 2, 0.05)
