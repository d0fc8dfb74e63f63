"""Links over rtnetlink: what is there, and the verbs that change it."""

import errno
from collections.abc import Callable
from contextlib import closing
from typing import TypeVar

from cni_plugins.errors import KernelRefused
from cni_plugins.kernel import rtnl_wire as wire
from cni_plugins.kernel.link import IFF_PROMISC, IFF_UP, Link, decoded
from cni_plugins.kernel.session import Session
from cni_plugins.kernel.wire import (
    NLM_F_ACK,
    NLM_F_DUMP,
    Answer,
    Refused,
    is_absent,
)
from cni_plugins.steps.places import HOST, Place
from cni_plugins.steps.plan import UNCHANGED

_SKIP_STATS = 1 << 3  # RTEXT_FILTER_SKIP_STATS: counters are most of a link message
_BRIEF = wire.number(wire.IFLA_EXT_MASK, _SKIP_STATS)

T = TypeVar("T")


# ---------------------------------------------------------------------------------------------- looking


def find(session: Session, where: Place, name: str = "", index: int = 0) -> Link | None:
    """Return the link of this name or index, or None."""
    answer = _asked(session, where, name, index)
    if answer is None:
        return None
    found = decoded(answer)
    session.indexes[where, name or found.name] = found.ifindex
    return found


def _asked(session: Session, where: Place, name: str, index: int = 0) -> Answer | None:
    try:
        return session.rtnl(where).ask(question(name, index))
    except Refused as err:
        if is_absent(err):
            return None
        raise


def question(name: str = "", index: int = 0, asked: int = 0) -> bytearray:
    named = wire.text(wire.IFLA_IFNAME, name) if name else b""
    return wire.link(wire.RTM_GETLINK, asked, _BRIEF, named, index=index)


def get(session: Session, where: Place, name: str) -> Link:
    """:raises KernelRefused: when there is none."""
    found = find(session, where, name)
    if found is None:
        raise _no_link(where, name)
    return found


def _no_link(where: Place, name: str) -> KernelRefused:
    return KernelRefused(f"link {name} not found", f"in the {where}", errno.ENODEV)


def _index_and_flags(session: Session, where: Place, name: str) -> tuple[int, int]:
    """Return what takes no reading of attributes.

    :raises KernelRefused: when there is none.
    """
    answer = _asked(session, where, name)
    if answer is None:
        raise _no_link(where, name)
    _, _, index, flags, _ = wire.IFINFOMSG.unpack_from(answer.data, wire.BODY)
    return index, flags


def with_index(session: Session, where: Place, name: str, deed: Callable[[int], T]) -> T:
    """Do something with the index of a link, as it was when last seen, or else as it is now.

    :raises KernelRefused: when there is no such link.
    """
    known = session.indexes.get((where, name))
    if known is not None:
        try:
            return deed(known)
        except Refused as err:
            # What the kernel says of an index nobody has any more, the latter of a master's.
            if err.errno not in (errno.ENODEV, errno.EINVAL) or get(session, where, name).ifindex == known:
                raise
    return deed(get(session, where, name).ifindex)


def every(session: Session, where: Place, master: int = 0) -> list[Link]:
    """Return all links, or all ports of one master."""
    chosen = wire.number(wire.IFLA_MASTER, master) if master else b""
    return [decoded(answer) for answer in _dump(session, where, chosen)]


def of_kind(session: Session, kind: str, netns: int | None = None) -> list[Link]:
    """Return the links of one kind in the host, or in the namespace that the host knows by this number."""
    chosen = wire.nest(wire.IFLA_LINKINFO, wire.text(wire.IFLA_INFO_KIND, kind))
    target = b"" if netns is None else wire.signed(wire.IFLA_TARGET_NETNSID, netns)
    answers = _dump(session, HOST, chosen, target)
    if netns is not None:  # kernels before 4.15 know nothing of it and answer with the host's links
        answers = [answer for answer in answers if target in answer.data]
    # A kernel that has no such links (yet) answers with all there are.
    return [link for link in map(decoded, answers) if link.kind == kind]


def _dump(session: Session, where: Place, *chosen: bytes) -> list[Answer]:
    return session.rtnl(where).dump(wire.link(wire.RTM_GETLINK, NLM_F_DUMP, _BRIEF, *chosen))


# ---------------------------------------------------------------------------------------------- changing


def change(*attrs: bytes, index: int = 0, flags: int = 0, mask: int = 0, asked: int = NLM_F_ACK) -> bytearray:
    """Return a message that changes a link, or with NLM_F_CREATE makes one."""
    return wire.link(wire.RTM_NEWLINK, asked, *attrs, index=index, flags=flags, mask=mask)


def modify(session: Session, *messages: bytearray, where: Place = HOST) -> None:
    session.rtnl(where).call(*messages)


def delete(session: Session, where: Place, name: str) -> None:
    """Remove a link; it need not be there."""
    session.indexes.pop((where, name), None)
    answer = _asked(session, where, name)
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
    """Return when the link is gone, which is long before the kernel comes back from removing it.

    It has then taken the link out of every table and announced that; the 20 ms after are for the grace
    periods of RCU until the memory is freed (netdev_run_todo, net/core/dev.c), and concern nobody.
    """
    # By index: the thread may come late, when the name is another link's already.
    message = wire.link(wire.RTM_DELLINK, NLM_F_ACK, index=index)
    with closing(session.link_listener(where)) as listener:
        listener.call_aside(message, lambda item: _announces_end(item, index))
    # Announced from the middle of it: who is answered next has waited for the end (rtnl_lock).
    if _asked(session, where, "", index) is not None:  # the answer was lost among many announcements
        session.rtnl(where).call(message)


def _announces_end(answer: Answer, index: int) -> bool:
    if answer.kind != wire.RTM_DELLINK:
        return False
    family, _, gone, _, _ = wire.IFINFOMSG.unpack_from(answer.data, wire.BODY)
    return (family, gone) == (0, index)  # AF_BRIDGE: a port left its bridge


def set_up(session: Session, where: Place, name: str, *, up: bool) -> str:
    changed = _set_flag(session, where, name, IFF_UP, on=up)
    return ("down" if up else "up") if changed else UNCHANGED


def set_promisc(session: Session, name: str, *, on: bool) -> str:
    changed = _set_flag(session, HOST, name, IFF_PROMISC, on=on)
    return ("off" if on else "on") if changed else UNCHANGED


def _set_flag(session: Session, where: Place, name: str, flag: int, *, on: bool) -> bool:
    """Set or clear a flag; say whether it was otherwise. A link that is gone has none."""
    if not on and find(session, where, name) is None:
        return False
    index, flags = _index_and_flags(session, where, name)
    if bool(flags & flag) == on:
        return False
    modify(session, change(index=index, flags=flag if on else 0, mask=flag), where=where)
    return True


def repeat_mac(session: Session, where: Place, name: str) -> None:
    """Set the link's MAC address to what it is.

    A bridge then keeps it instead of following its ports (br_set_mac_address), and the kernel announces all
    the link's IP addresses where arp_notify and ndisc_notify are set (inetdev_event and ndisc_netdev_event on
    NETDEV_CHANGEADDR).
    """
    link = get(session, where, name)
    modify(session, change(wire.mac(wire.IFLA_ADDRESS, link.mac), index=link.ifindex), where=where)
