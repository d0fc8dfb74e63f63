"""VLAN links on a master: made once for all attachments that use them, and removed with the last."""

import errno
import struct
import time
from ipaddress import IPv6Interface

from cni_plugins.errors import NameTaken, TryAgainLater, UnsupportedField
from cni_plugins.kernel.deed import REMOVES, deed
from cni_plugins.kernel.ip import addresses
from cni_plugins.kernel.links import create, links
from cni_plugins.kernel.links.link import Link
from cni_plugins.kernel.macvlan import link as macvlans
from cni_plugins.kernel.netlink import rtnetlink as wire
from cni_plugins.kernel.netlink.attributes import attributes, packed
from cni_plugins.kernel.netlink.socket import NLM_F_DUMP, Refused, is_absent
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import VLAN_ALIAS
from cni_plugins.protocol.fields import IPInterface
from cni_plugins.steps.macvlan import ETHERTYPES, DelIdleVlans, EnsureVlan
from cni_plugins.steps.step import ABSENT, HOST, UNCHANGED

_GROUP_BIT = 0x01  # IEEE 802: of the first octet
_LINGER = 0.5  # seconds that a namespace may take to end
_PAUSE = 0.01


def _ensure(session: Session, step: EnsureVlan) -> str:
    """Make the link and set it up, or take the one that is there.

    :raises NameTaken: when a link of this name is something else.
    :raises UnsupportedField: when the kernel has no VLAN links.
    :raises TryAgainLater: when the master is down, as a VLAN link cannot be up then.
    """
    session.share_host()
    before = ABSENT if links.find(session, HOST, step.name) is None and _make(session, step) else UNCHANGED
    fault = _differs(session, step, whatever_state=True)
    if fault:
        raise NameTaken(fault, f"vlan is {step.vlan}, master is {step.master}")
    try:
        links.set_up(session, HOST, step.name, up=True)
    except Refused as err:
        if before == ABSENT:
            links.delete(session, HOST, step.name)
        if err.errno == errno.ENETDOWN:
            raise _down(step) from err
        raise
    return before


def _down(step: EnsureVlan) -> TryAgainLater:
    return TryAgainLater(f"{step.master} is down", f"VLAN link {step.name} cannot be up then")


def _make(session: Session, step: EnsureVlan) -> bool:
    info = wire.kind_of_link(
        "vlan",
        packed(wire.IFLA_VLAN_ID, struct.pack("=H", step.vlan)),
        packed(wire.IFLA_VLAN_PROTOCOL, struct.pack("!H", ETHERTYPES[step.protocol])),
    )
    master = links.get(session, HOST, step.master)
    if not master.up:  # or another ADD could find the link before it is taken back
        raise _down(step)
    try:
        create.add_named(session, step.name, VLAN_ALIAS, wire.number(wire.IFLA_LINK, master.ifindex), info)
    except Refused as err:
        if err.errno == errno.EOPNOTSUPP:
            raise UnsupportedField(
                "this kernel has no VLAN links (802.1Q)", f"vlan is {step.vlan}, master is {step.master}"
            ) from err
        if err.errno != errno.EEXIST or links.find(session, HOST, step.name) is None:
            raise
        return False  # another ADD was faster
    return True


def _differs(session: Session, step: EnsureVlan, *, whatever_state: bool = False) -> str:
    """Say how the link is not the VLAN link it should be."""
    link = links.find(session, HOST, step.name)
    master = links.find(session, HOST, step.master)
    if link is None or master is None:
        return f"link {step.master if master is None else step.name} is missing in the host"
    wanted = (step.vlan, ETHERTYPES[step.protocol])
    if link.kind != "vlan" or link.peer != master.ifindex or link.vlan != wanted:
        return f'"{step.name}" already exists but is not VLAN {step.vlan} ({step.protocol}) of {step.master}'
    return "" if link.up or whatever_state else f"link {step.name} in the host is down"


def _delete_idle(session: Session, _step: DelIdleVlans) -> None:
    """Remove every VLAN link that we made and nobody uses, while no ADD is about to use one.

    There may be users that are about to end with their namespace; they are waited for once.
    """
    deadline = time.monotonic() + _LINGER
    # From the latest on, as it may be on an earlier one.
    for link in sorted(links.of_kind(session, "vlan"), key=lambda link: link.ifindex, reverse=True):
        if link.alias != VLAN_ALIAS or _needs_nothing(session, link, deadline):
            continue
        with session.host_alone() as alone:
            # By now the name may be a new link's, of which the index says nothing.
            present = links.find(session, HOST, index=link.ifindex)
            if alone and present is not None and not _is_in_use(session, present):
                links.delete(session, HOST, present.name)


def _needs_nothing(session: Session, link: Link, deadline: float) -> bool:
    """Say whether there is nothing to do about the link: it is in use, or another DEL has just removed it."""
    try:
        return _is_in_use_until(session, link, deadline)
    except Refused as err:
        if is_absent(err) and links.find(session, HOST, index=link.ifindex) is None:
            return True
        raise


def _is_in_use_until(session: Session, link: Link, deadline: float) -> bool:
    """Say whether there are users that do not end by then."""
    while _is_in_use(session, link):
        if _has_known_users(session, link) or time.monotonic() > deadline:
            return True
        time.sleep(_PAUSE)
    return False


def _is_in_use(session: Session, link: Link) -> bool:
    return _has_known_users(session, link) or _has_others(session, link)


def _has_known_users(session: Session, link: Link) -> bool:
    """Look for links on it or a bridge above it, and addresses that somebody gave it."""
    if link.master or macvlans.has_users_in_sandboxes(session, link.ifindex):
        return True
    if any(
        (other.peer, other.peer_netns) == (link.ifindex, None) and other.ifindex != link.ifindex
        for other in links.every(session, HOST)
    ):
        return True
    present = addresses.on_link(session, HOST, link.ifindex)
    return any(not _is_the_kernels(item.address) for item in present)


def _is_the_kernels(address: IPInterface) -> bool:
    """Say whether the link has the address by itself."""
    return isinstance(address, IPv6Interface) and address.ip.is_link_local


def _has_others(session: Session, link: Link) -> bool:
    """Look for users in namespaces we do not know: they have the link receive frames for their addresses."""
    found = links.find(session, HOST, index=link.ifindex)
    return found is not None and (found.promiscuity > 0 or bool(_foreign_addresses(session, found)))


def _foreign_addresses(session: Session, link: Link) -> list[bytes]:
    question = wire.neighbour(wire.RTM_GETNEIGH, NLM_F_DUMP, family=wire.AF_BRIDGE, index=link.ifindex)
    found = []
    for answer in session.rtnl(HOST).dump(question):
        _, index, _, _, _ = wire.NDMSG.unpack_from(answer.data, wire.BODY)
        mac = dict(attributes(answer.data, wire.BODY + wire.NDMSG.size)).get(wire.NDA_LLADDR, b"\1")
        if index == link.ifindex and not mac[0] & _GROUP_BIT and mac.hex(":") != link.mac:
            found.append(mac)
    return found


DEEDS = deed(EnsureVlan, _ensure, _differs) | deed(DelIdleVlans, _delete_idle, REMOVES)
