"""Reads, adds, removes and awaits IP addresses of links."""

import errno
import struct
import time
from collections.abc import Iterator
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface
from typing import NamedTuple

from cni_plugins.errors import KernelRefused
from cni_plugins.kernel.deed import REMOVES, Uncompared, deed
from cni_plugins.kernel.ip import sysctl
from cni_plugins.kernel.links import links
from cni_plugins.kernel.netlink import rtnetlink as wire
from cni_plugins.kernel.netlink.attributes import attributes, packed
from cni_plugins.kernel.netlink.rtnetlink import read_number
from cni_plugins.kernel.netlink.socket import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    Answer,
    Refused,
    is_absent,
)
from cni_plugins.kernel.session.session import Session
from cni_plugins.protocol.fields import IPInterface, IPNetwork
from cni_plugins.steps.ip import SCOPE_LINK, AwaitAddresses, DelAddress, EnsureAddress
from cni_plugins.steps.step import ABSENT, HOST, UNCHANGED, Place

# linux/if_addr.h
_IFA_F_NODAD, _IFA_F_OPTIMISTIC, _IFA_F_DADFAILED, _IFA_F_TENTATIVE = 0x02, 0x04, 0x08, 0x40
_IFA_F_SECONDARY, _IFA_F_DEPRECATED, _IFA_F_NOPREFIXROUTE = 0x01, 0x20, 0x200  # 0x01 on IPv6: temporary
_NEVER_PREFERRED = struct.pack(
    "=IIII", 0, 0xFFFFFFFF, 0, 0
)  # struct ifa_cacheinfo: preferred, valid for ever
_AWAIT_DAD = 5.0  # seconds, as long as the reference waits
_DAD_PAUSE = 0.02
_INTERFACE: dict[int, type[IPInterface]] = {wire.FAMILY[4]: IPv4Interface, wire.FAMILY[6]: IPv6Interface}
_LARGEST_POINT_TO_POINT = 31  # RFC 3021: /31 and /32 have no broadcast address


class Address(NamedTuple):
    """An address in the kernel; a main one is preferred, and neither secondary nor temporary."""

    address: IPInterface
    tentative: bool
    failed: bool
    main: bool


def on_link(session: Session, where: Place, index: int) -> list[Address]:
    """Return the addresses of one link, of both families; none when the link is gone meanwhile."""
    try:
        answers = session.rtnl(where).dump(wire.address(wire.RTM_GETADDR, NLM_F_DUMP, index=index))
    except Refused as err:
        if err.errno != errno.ENODEV:
            raise
        return []
    # Links may have addresses of other families too (MCTP, for example).
    return [_decoded(answer) for answer in answers if answer.data[wire.BODY] in _INTERFACE]


def by_link(session: Session, where: Place) -> dict[int, list[Address]]:
    """Return the addresses of all links that have any, by link index."""
    found: dict[int, list[Address]] = {}
    for answer in session.rtnl(where).dump(wire.address(wire.RTM_GETADDR, NLM_F_DUMP)):
        if answer.data[wire.BODY] in _INTERFACE:
            *_, index = wire.IFADDRMSG.unpack_from(answer.data, wire.BODY)
            found.setdefault(index, []).append(_decoded(answer))
    return found


def links_with_addresses(session: Session) -> list[int]:
    """Return the indexes of the host's links with addresses.

    Link-local IPv6 addresses do not count: the host end of every container has one.
    """
    dumped = session.rtnl(HOST).dump(wire.address(wire.RTM_GETADDR, NLM_F_DUMP))
    heads = (wire.IFADDRMSG.unpack_from(answer.data, wire.BODY) for answer in dumped)
    ignored = wire.FAMILY[6], SCOPE_LINK
    return sorted({index for family, _, _, scope, index in heads if (family, scope) != ignored})


def _decoded(answer: Answer) -> Address:
    family, length, flags, _, _ = wire.IFADDRMSG.unpack_from(answer.data, wire.BODY)
    found = dict(attributes(answer.data, wire.BODY + wire.IFADDRMSG.size))
    flags = read_number(found.get(wire.IFA_FLAGS)) or flags
    address = _INTERFACE[family]((found.get(wire.IFA_LOCAL) or found[wire.IFA_ADDRESS], length))
    return Address(
        address,
        tentative=bool(flags & _IFA_F_TENTATIVE),
        failed=bool(flags & _IFA_F_DADFAILED),
        main=not flags & (_IFA_F_SECONDARY | _IFA_F_DEPRECATED),
    )


def _ensure(session: Session, step: EnsureAddress) -> str:
    attrs = list(_optional_attributes(session, step))
    request_flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL

    def add(index: int) -> None:
        message = _message(wire.RTM_NEWADDR, request_flags, index, step.address, *attrs, scope=step.scope)
        session.rtnl(step.where).call(message)

    try:
        links.on_index(session, step.where, step.link, add)
    except Refused as err:
        if err.errno == errno.EEXIST:
            return UNCHANGED
        raise
    return ABSENT


def _optional_attributes(session: Session, step: EnsureAddress) -> Iterator[bytes]:
    network = step.address.network
    flags = 0 if step.prefix_route else _IFA_F_NOPREFIXROUTE
    if isinstance(network, IPv4Network):
        if network.prefixlen < _LARGEST_POINT_TO_POINT:
            yield wire.ip(wire.IFA_BROADCAST, network.broadcast_address)
    elif step.skip_dad or (step.optimistic and not _can_be_optimistic(session, step)):
        flags |= _IFA_F_NODAD
    elif step.optimistic:
        flags |= _IFA_F_OPTIMISTIC
    if flags:
        yield wire.number(wire.IFA_FLAGS, flags)
    if step.deprecated:
        yield packed(wire.IFA_CACHEINFO, _NEVER_PREFERRED)
    if step.metric:
        yield wire.number(wire.IFA_RT_PRIORITY, step.metric)


def _can_be_optimistic(session: Session, step: EnsureAddress) -> bool:
    """Say whether the kernel has optimistic DAD; without it, the address would be tentative at first."""
    return sysctl.exists(session, step.where, ("ipv6", "conf", step.link, "optimistic_dad"))


def _delete(session: Session, step: DelAddress) -> str:
    link = links.find(session, step.where, step.link)
    if link is None:
        return UNCHANGED
    try:
        session.rtnl(step.where).call(_message(wire.RTM_DELADDR, NLM_F_ACK, link.ifindex, step.address))
    except Refused as err:
        if is_absent(err):
            return UNCHANGED
        raise
    return ABSENT


def _message(
    kind: int, request_flags: int, index: int, address: IPInterface, *attrs: bytes, scope: int = 0
) -> bytearray:
    return wire.address(
        kind,
        request_flags,
        wire.ip(wire.IFA_LOCAL, address.ip),
        wire.ip(wire.IFA_ADDRESS, address.ip),
        *attrs,
        family=wire.FAMILY[address.version],
        length=address.network.prefixlen,
        index=index,
        scope=scope,
    )


def _differs(session: Session, step: EnsureAddress) -> str:
    link = links.find(session, step.where, step.link)
    present = [] if link is None else on_link(session, step.where, link.ifindex)
    found = next((item for item in present if item.address == step.address), None)
    if link is None or found is None:
        return f"address {step.address} is not on {step.link} in the {step.where}"
    if found.failed:
        return f"address {step.address} of {step.link} is a duplicate (DADFAILED)"
    network = step.address.network
    connected = step.prefix_route and network.num_addresses > 1 and link.up
    if connected and not _connects(session, step.where, link.ifindex, network):
        return f"route {network} out of {step.link} in the {step.where} is missing"
    return ""


def _connects(session: Session, where: Place, index: int, network: IPNetwork) -> bool:
    """Say whether a route to a network leads out of a link, such as the kernel adds for each address."""
    head = wire.RouteHead(wire.FAMILY[network.version])
    out = wire.number(wire.RTA_OIF, index)
    for answer in session.rtnl(where).dump(wire.route(wire.RTM_GETROUTE, NLM_F_DUMP, head, out)):
        attrs = dict(attributes(answer.data, wire.BODY + wire.RTMSG.size))
        length = wire.RouteHead(*wire.RTMSG.unpack_from(answer.data, wire.BODY)).dst_len
        found = (attrs.get(wire.RTA_DST), length, read_number(attrs.get(wire.RTA_OIF)))
        if found == (network.network_address.packed, network.prefixlen, index):
            return True
    return False


def _await(session: Session, step: AwaitAddresses) -> None:
    """:raises KernelRefused: if an address is found to be a duplicate, or DAD does not finish in time."""
    index = links.get(session, step.where, step.link).ifindex
    deadline = time.monotonic() + _AWAIT_DAD
    while waiting := [item for item in on_link(session, step.where, index) if item.tentative or item.failed]:
        failed = next((item for item in waiting if item.failed), None)
        if failed is not None:
            raise KernelRefused(
                f"link {step.link} has address {failed.address.ip} in DADFAILED state",
                "another host on the link uses the address (RFC 4862, 5.4)",
            )
        if time.monotonic() > deadline:
            raise KernelRefused(f"addresses of {step.link} are still tentative", f"after {_AWAIT_DAD:.0f} s")
        time.sleep(_DAD_PAUSE)


DEEDS = (
    deed(EnsureAddress, _ensure, _differs)
    | deed(DelAddress, _delete, REMOVES)
    | deed(AwaitAddresses, _await, Uncompared("EnsureAddress compares the addresses"))
)
