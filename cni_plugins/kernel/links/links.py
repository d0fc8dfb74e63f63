"""Finds, changes and deletes links of any kind."""

import errno
from collections.abc import Callable
from contextlib import closing
from typing import TypeVar

from cni_plugins.errors import KernelRefused
from cni_plugins.kernel.deed import REMOVES, Uncompared, deed
from cni_plugins.kernel.links.link import IFF_PROMISC, IFF_UP, Link, decoded
from cni_plugins.kernel.netlink import rtnetlink as wire
from cni_plugins.kernel.netlink.socket import NLM_F_ACK, NLM_F_DUMP, Answer, Refused, is_absent
from cni_plugins.kernel.session.session import Session
from cni_plugins.protocol.ifnames import LONGEST_NAME
from cni_plugins.steps.links import (
    Announce,
    DelLink,
    EnsurePromisc,
    EnsureUp,
    PinMac,
    SetDown,
    SetMac,
    SetMtu,
)
from cni_plugins.steps.step import HOST, UNCHANGED, Place

_SKIP_STATS = 1 << 3  # RTEXT_FILTER_SKIP_STATS: counters are most of a link message
_BRIEF = wire.number(wire.IFLA_EXT_MASK, _SKIP_STATS)

T = TypeVar("T")


# ---------------------------------------------------------------------------------------------- looking


def find(session: Session, where: Place, name: str = "", index: int = 0) -> Link | None:
    """Return the link of this name or index, or None."""
    answer = _find_answer(session, where, name, index)
    if answer is None:
        return None
    found = decoded(answer)
    session.indexes[where, name or found.name] = found.ifindex
    return found


def _find_answer(session: Session, where: Place, name: str, index: int = 0) -> Answer | None:
    try:
        return session.rtnl(where).ask(get_message(name, index))
    except Refused as err:
        if is_absent(err):
            return None
        raise


def get_message(name: str = "", index: int = 0, asked: int = 0) -> bytearray:
    is_long = len(name.encode(errors="surrogateescape")) > LONGEST_NAME
    named = wire.text(wire.IFLA_ALT_IFNAME if is_long else wire.IFLA_IFNAME, name) if name else b""
    return wire.link(wire.RTM_GETLINK, asked, _BRIEF, named, index=index)


def get(session: Session, where: Place, name: str) -> Link:
    """:raises KernelRefused: if there is no such link."""
    found = find(session, where, name)
    if found is None:
        raise _no_link(where, name)
    return found


def _no_link(where: Place, name: str) -> KernelRefused:
    return KernelRefused(f"link {name} not found", f"in the {where}", errno.ENODEV)


def _index_and_flags(session: Session, where: Place, name: str) -> tuple[int, int]:
    """Return index and flags, without decoding the attributes.

    :raises KernelRefused: if there is no such link.
    """
    answer = _find_answer(session, where, name)
    if answer is None:
        raise _no_link(where, name)
    _, _, index, flags, _ = wire.IFINFOMSG.unpack_from(answer.data, wire.BODY)
    return index, flags


def on_index(session: Session, where: Place, name: str, deed: Callable[[int], T]) -> T:
    """Call a function with the index of a link: the one last seen or, if that is outdated, the current one.

    :raises KernelRefused: if there is no such link.
    """
    known = session.indexes.get((where, name))
    if known is not None:
        try:
            return deed(known)
        except Refused as err:
            # The errors for an index that no link has any more; EINVAL is for that of a master.
            if err.errno not in (errno.ENODEV, errno.EINVAL) or get(session, where, name).ifindex == known:
                raise
    return deed(get(session, where, name).ifindex)


def every(session: Session, where: Place, master: int = 0) -> list[Link]:
    """Return all links, or all ports of one master."""
    chosen = wire.number(wire.IFLA_MASTER, master) if master else b""
    return [decoded(answer) for answer in _dump(session, where, chosen)]


def of_kind(session: Session, kind: str, netns: int | None = None) -> list[Link]:
    """Return the links of one kind in the host, or in the namespace with this netns id in the host."""
    chosen = wire.nest(wire.IFLA_LINKINFO, wire.text(wire.IFLA_INFO_KIND, kind))
    target = b"" if netns is None else wire.signed(wire.IFLA_TARGET_NETNSID, netns)
    answers = _dump(session, HOST, chosen, target)
    if netns is not None:  # kernels before 4.15 ignore the netns id and return the host's links
        answers = [answer for answer in answers if target in answer.data]
    # A kernel without this kind (its module is not loaded) ignores the filter and returns all links.
    return [link for link in map(decoded, answers) if link.kind == kind]


def _dump(session: Session, where: Place, *chosen: bytes) -> list[Answer]:
    return session.rtnl(where).dump(wire.link(wire.RTM_GETLINK, NLM_F_DUMP, _BRIEF, *chosen))


# ---------------------------------------------------------------------------------------------- changing


def set_message(
    *attrs: bytes, index: int = 0, flags: int = 0, mask: int = 0, asked: int = NLM_F_ACK
) -> bytearray:
    """Return a message that changes a link, or with NLM_F_CREATE creates one."""
    return wire.link(wire.RTM_NEWLINK, asked, *attrs, index=index, flags=flags, mask=mask)


def send(session: Session, *messages: bytearray, where: Place = HOST) -> None:
    session.rtnl(where).call(*messages)


def delete(session: Session, where: Place, name: str) -> None:
    """Remove a link; it may be absent."""
    session.indexes.pop((where, name), None)
    answer = _find_answer(session, where, name)
    if answer is None:
        return
    _, _, index, _, _ = wire.IFINFOMSG.unpack_from(answer.data, wire.BODY)
    try:
        if session.may_leave_threads():
            _delete_aside(session, where, index)
        else:
            session.rtnl(where).call(wire.link(wire.RTM_DELLINK, NLM_F_ACK, index=index))
    except Refused as err:
        if not is_absent(err):
            raise


def _delete_aside(session: Session, where: Place, index: int) -> None:
    """Remove a link; return when it is gone, which is long before the system call returns.

    The kernel has then removed the link from every table and sent a notification; the 20 ms that follow are
    RCU grace periods until the memory is freed (netdev_run_todo, net/core/dev.c), and have no visible effect.
    """
    # By index: the thread may run late, when another link already has the name.
    message = wire.link(wire.RTM_DELLINK, NLM_F_ACK, index=index)
    with closing(session.link_listener(where)) as listener:
        listener.call_aside(message, lambda item: _is_removal_of(item, index))
    # The notification comes in the middle of the removal: the next request waits for its end (rtnl_lock).
    if _find_answer(session, where, "", index) is not None:  # the notification was lost among many others
        session.rtnl(where).call(message)


def _is_removal_of(answer: Answer, index: int) -> bool:
    if answer.kind != wire.RTM_DELLINK:
        return False
    family, _, gone, _, _ = wire.IFINFOMSG.unpack_from(answer.data, wire.BODY)
    return (family, gone) == (0, index)  # AF_BRIDGE: a port left its bridge


def set_up(session: Session, where: Place, name: str, *, up: bool) -> str:
    """Set a link up or down; return its previous state."""
    changed = set_flag(session, where, name, IFF_UP, on=up)
    return ("down" if up else "up") if changed else UNCHANGED


def _set_promisc(session: Session, step: EnsurePromisc) -> str:
    changed = set_flag(session, HOST, step.link, IFF_PROMISC, on=step.on)
    return ("off" if step.on else "on") if changed else UNCHANGED


def set_flag(session: Session, where: Place, name: str, flag: int, *, on: bool) -> bool:
    """Set or clear a flag; say whether it changed. On a link that is gone, every flag is clear."""
    if not on and find(session, where, name) is None:
        return False
    index, flags = _index_and_flags(session, where, name)
    if bool(flags & flag) == on:
        return False
    send(session, set_message(index=index, flags=flag if on else 0, mask=flag), where=where)
    return True


def repeat_mac(session: Session, where: Place, name: str) -> None:
    """Set the link's MAC address to its current value.

    A bridge then keeps it instead of following its ports (br_set_mac_address), and the kernel announces all
    IP addresses of the link if arp_notify and ndisc_notify are set (inetdev_event and ndisc_netdev_event on
    NETDEV_CHANGEADDR).
    """
    link = get(session, where, name)
    send(session, set_message(wire.mac(wire.IFLA_ADDRESS, link.mac), index=link.ifindex), where=where)


def _set_mac(session: Session, step: SetMac) -> str:
    link = get(session, step.where, step.link)
    if link.mac == step.mac:
        return UNCHANGED
    send(session, set_message(wire.mac(wire.IFLA_ADDRESS, step.mac), index=link.ifindex), where=step.where)
    return link.mac


def _set_mtu(session: Session, step: SetMtu) -> str:
    link = get(session, step.where, step.link)
    if link.mtu == step.mtu:
        return UNCHANGED
    send(session, set_message(wire.number(wire.IFLA_MTU, step.mtu), index=link.ifindex), where=step.where)
    return str(link.mtu)


# ---------------------------------------------------------------------------------------------- comparing


def missing(where: Place, name: str) -> str:
    """Return the error text for a link that is absent."""
    return f"link {name} is missing in the {where}"


def mac_differs(link: Link, mac: str) -> str:
    """Say how a link's MAC address differs; an empty one is not compared."""
    return f"link {link.name} has address {link.mac}, not {mac}" if mac and link.mac != mac else ""


def _up_differs(session: Session, step: EnsureUp) -> str:
    link = find(session, step.where, step.link)
    if link is None:
        return missing(step.where, step.link)
    return "" if link.up else f"link {step.link} in the {step.where} is down"


def _promisc_differs(session: Session, step: EnsurePromisc) -> str:
    link = find(session, HOST, step.link)
    if link is None:
        return missing(HOST, step.link)
    if bool(link.flags & IFF_PROMISC) == step.on:
        return ""
    return f"link {step.link} is {'not ' if step.on else ''}in promiscuous mode"


def _is_mac(session: Session, step: SetMac) -> str:
    link = find(session, step.where, step.link)
    return missing(step.where, step.link) if link is None else mac_differs(link, step.mac)


def _is_mtu(session: Session, step: SetMtu) -> str:
    link = find(session, step.where, step.link)
    if link is None:
        return missing(step.where, step.link)
    return "" if link.mtu == step.mtu else f"link {step.link} has mtu {link.mtu}, not {step.mtu}"


DEEDS = (
    deed(EnsureUp, lambda session, step: set_up(session, step.where, step.link, up=True), _up_differs)
    | deed(SetDown, lambda session, step: set_up(session, step.where, step.link, up=False), REMOVES)
    | deed(EnsurePromisc, _set_promisc, _promisc_differs)
    | deed(SetMac, _set_mac, _is_mac)
    | deed(SetMtu, _set_mtu, _is_mtu)
    | deed(
        PinMac,
        lambda session, step: repeat_mac(session, HOST, step.bridge),
        Uncompared("EnsureBridge compares the address"),
    )
    | deed(DelLink, lambda session, step: delete(session, step.where, step.link), REMOVES)
    | deed(
        Announce,
        lambda session, step: repeat_mac(session, step.where, step.link),
        Uncompared("an announcement leaves nothing behind"),
    )
)
