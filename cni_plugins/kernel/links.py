"""Links over rtnetlink: what is there, and the verbs that change it."""

import errno
from typing import Any, NamedTuple

from cni_plugins.errors import KernelRefused, NameTaken
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
from cni_plugins.steps.links import AddVeth
from cni_plugins.steps.places import HOST, SANDBOX, Place
from cni_plugins.steps.plan import UNCHANGED

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19  # linux/rtnetlink.h
IFF_UP, IFF_PROMISC = 0x1, 0x100  # linux/if.h
_BR_STATE_DISABLED = 0  # linux/if_bridge.h; the others are forwarding, or the spanning tree at work
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
    port_enabled: bool

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
        port_enabled=port is None or port.get_attr("IFLA_BRPORT_STATE") != _BR_STATE_DISABLED,
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


def modify(session: Session, *messages: ifinfmsg, where: Place = HOST) -> None:
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
    modify(session, change([], link.ifindex, flags=IFF_UP if up else 0, mask=IFF_UP), where=where)
    return "down" if up else "up"


def set_promisc(session: Session, name: str, *, on: bool) -> str:
    link = get(session, HOST, name)
    if bool(link.flags & IFF_PROMISC) == on:
        return UNCHANGED
    modify(session, change([], link.ifindex, flags=IFF_PROMISC if on else 0, mask=IFF_PROMISC))
    return "off" if on else "on"


# ---------------------------------------------------------------------------------------------- veth


def add_veth(session: Session, step: AddVeth) -> None:
    """Make the pair; the sandbox end is born in the sandbox and never bears its name in the host."""
    sandbox_end = [
        ("IFLA_IFNAME", step.ifname),
        ("IFLA_ADDRESS", step.mac),
        ("IFLA_NET_NS_FD", session.fd(SANDBOX)),
    ]
    try:
        add_pair(session, (step.host_end, step.host_mac, step.alias), sandbox_end, step.mtu)
    except Refused as err:
        if err.errno == errno.EEXIST:
            raise NameTaken(
                f'container veth name ("{step.ifname}") peer provided ("{step.host_end}") already exists',
                f"CNI_IFNAME is {step.ifname}, CNI_NETNS is {session.path}",
            ) from err
        raise


def add_pair(session: Session, own: tuple[str, str, str], peer: list[tuple[str, Any]], mtu: int) -> None:
    """Make a veth pair and give the host's end its alias in one datagram, so that no signal comes between.

    :param own: name, MAC (empty: the kernel's choice) and alias of the host's end.
    """
    name, mac, alias = own
    size = [("IFLA_MTU", mtu)] if mtu else []
    data = {"attrs": [("VETH_INFO_PEER", {"attrs": peer + size})]}
    info = {"attrs": [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", data)]}
    address = [("IFLA_ADDRESS", mac)] if mac else []
    add_named(session, [("IFLA_IFNAME", name), *address, *size, ("IFLA_LINKINFO", info)], name, alias)


def add_named(session: Session, attrs: list[tuple[str, Any]], name: str, alias: str) -> None:
    made = encoded(change(attrs), RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL)
    marked = encoded(change([("IFLA_IFNAME", name), ("IFLA_IFALIAS", alias)]), RTM_NEWLINK, NLM_F_ACK)
    try:
        session.rtnl(HOST).call(made, marked)
    except Refused as err:
        if err.position == 1:
            delete(session, HOST, name)
        raise


def repeat_mac(session: Session, where: Place, name: str) -> None:
    """Set the link's MAC address to what it is.

    A bridge then keeps it instead of following its ports (br_set_mac_address), and the kernel announces all
    the link's IP addresses where arp_notify and ndisc_notify are set (inetdev_event and ndisc_netdev_event on
    NETDEV_CHANGEADDR).
    """
    link = get(session, where, name)
    modify(session, change([("IFLA_ADDRESS", link.mac)], link.ifindex), where=where)
