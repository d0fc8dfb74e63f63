"""Adds permanent neighbour entries, and sends unsolicited neighbour advertisements."""

import errno
import socket
import struct
from contextlib import suppress

from cni_plugins.kernel.deed import Uncompared, deed
from cni_plugins.kernel.links import links
from cni_plugins.kernel.netlink import rtnetlink as wire
from cni_plugins.kernel.netlink.attributes import attributes
from cni_plugins.kernel.netlink.socket import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_REPLACE,
    Answer,
    Refused,
    is_absent,
)
from cni_plugins.kernel.session.session import Session
from cni_plugins.protocol.fields import IPAddress
from cni_plugins.protocol.macs import link_local
from cni_plugins.steps.neighbours import Advertise, EnsureNeighbour
from cni_plugins.steps.step import HOST, SANDBOX

_NUD_STALE, _NTF_EXT_LEARNED = 0x04, 0x10  # linux/neighbour.h
# RFC 4861, 4.4 and 4.6.1: type, code, checksum (set by the kernel), flags, target; option, its length, MAC
_ADVERTISEMENT = struct.Struct("!BBHI16sBB6s")
_TYPE, _OVERRIDE, _TARGET_ADDRESS = 136, 1 << 29, 2
_ALL_NODES, _HOP_LIMIT = "ff02::1", 255


def _ensure(session: Session, step: EnsureNeighbour) -> None:
    _add(session, step, wire.NUD_PERMANENT)


def tell(session: Session, link: str, address: IPAddress, mac: str) -> None:
    """Tell the host who a neighbour is, so that it asks only that one, and all others only if it is silent.

    The entry is as if it were learned, but never collected as garbage: another plugin may change the
    neighbour's address later.
    """
    _add(session, EnsureNeighbour(HOST, link, address, mac), _NUD_STALE, _NTF_EXT_LEARNED)


def _add(session: Session, step: EnsureNeighbour, state: int, flags: int = 0) -> None:
    asked, family = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, wire.FAMILY[step.address.version]
    entry = (wire.ip(wire.NDA_DST, step.address), wire.mac(wire.NDA_LLADDR, step.mac))

    def add(index: int) -> None:
        message = wire.neighbour(
            wire.RTM_NEWNEIGH, asked, *entry, family=family, index=index, state=state, flags=flags
        )
        session.rtnl(step.where).call(message)

    links.on_index(session, step.where, step.link, add)


def delete(session: Session, link: str, address: IPAddress) -> None:
    """Remove a neighbour of a host link; it may be absent."""

    def remove(index: int) -> None:
        entry, family = wire.ip(wire.NDA_DST, address), wire.FAMILY[address.version]
        session.rtnl(HOST).call(
            wire.neighbour(wire.RTM_DELNEIGH, NLM_F_ACK, entry, family=family, index=index)
        )

    try:
        links.on_index(session, HOST, link, remove)
    except Refused as err:
        if err.errno != errno.ENOENT and not is_absent(err):
            raise


def _differs(session: Session, step: EnsureNeighbour) -> str:
    link = links.find(session, step.where, step.link)
    answer = None if link is None else _find(session, step, link.ifindex)
    text = f"neighbour {step.address} of {step.link} in the {step.where}"
    if answer is None:
        return "" if step.can_be_asked and link is not None else f"{text} is missing"
    mac = dict(attributes(answer.data, wire.BODY + wire.NDMSG.size)).get(wire.NDA_LLADDR, b"").hex(":")
    _, _, state, _, _ = wire.NDMSG.unpack_from(answer.data, wire.BODY)
    if mac != step.mac or state != wire.NUD_PERMANENT:
        return f"{text} is {mac or 'unknown'}, not {step.mac} (permanent)"
    return ""


def _find(session: Session, step: EnsureNeighbour, index: int) -> Answer | None:
    request = wire.neighbour(
        wire.RTM_GETNEIGH,
        0,
        wire.ip(wire.NDA_DST, step.address),
        family=wire.FAMILY[step.address.version],
        index=index,
    )
    try:
        return session.rtnl(step.where).ask(request)
    except Refused as err:
        if err.errno == errno.ENOENT:
            return None
        raise


def _advertise(session: Session, step: Advertise) -> None:
    """Send one unsolicited advertisement per address; nodes that miss it fall back on neighbour discovery."""
    mac = bytes.fromhex(step.mac.replace(":", ""))
    index = links.on_index(session, SANDBOX, step.link, lambda known: known)
    with suppress(OSError), _raw_socket(session) as raw:
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, _HOP_LIMIT)
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
        raw.bind((str(link_local(step.mac).ip), 0, 0, index))
        for address in step.addresses:
            message = _ADVERTISEMENT.pack(_TYPE, 0, 0, _OVERRIDE, address.packed, _TARGET_ADDRESS, 1, mac)
            raw.sendto(message, (_ALL_NODES, 0, 0, index))


def _raw_socket(session: Session) -> socket.socket:
    with session.inside(SANDBOX):
        return socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_ICMPV6)


DEEDS = deed(EnsureNeighbour, _ensure, _differs) | deed(
    Advertise, _advertise, Uncompared("an announcement leaves nothing behind")
)
