"""Creates VLAN links on a master, shared by all attachments that use them, and removes unused ones."""

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

_GROUP_BIT = 0x01  # IEEE 802: in the first octet
_LINGER = 0.5  # seconds that the end of a namespace may take
_PAUSE = 0.01


def _ensure(session: Session, step: EnsureVlan) -> str:
    """Create the link and set it up, or use the existing one.

    :raises NameTaken: if another link has this name.
    :raises UnsupportedField: if the kernel does not support VLAN links.
    :raises TryAgainLater: if the master is down, as a VLAN link cannot be up then.
    """
    session.share_host()
    before = ABSENT if links.find(session, HOST, step.name) is None and _create(session, step) else UNCHANGED
    fault = _differs(session, step, ignore_state=True)
    if fault:
        raise NameTaken(fault, f"vlan is {step.vlan}, master is {step.master}")
    try:
        links.set_up(session, HOST, step.name, up=True)
    except Refused as err:
        if before == ABSENT:
            links.delete(session, HOST, step.name)
        if err.errno == errno.ENETDOWN:
            raise _master_down_error(step) from err
        raise
    return before


def _master_down_error(step: EnsureVlan) -> TryAgainLater:
    return TryAgainLater(f"{step.master} is down", f"VLAN link {step.name} cannot be up without its master")


def _create(session: Session, step: EnsureVlan) -> bool:
    info = wire.kind_of_link(
        "vlan",
        packed(wire.IFLA_VLAN_ID, struct.pack("=H", step.vlan)),
        packed(wire.IFLA_VLAN_PROTOCOL, struct.pack("!H", ETHERTYPES[step.protocol])),
    )
    master = links.get(session, HOST, step.master)
    if not master.up:  # checked first: another ADD could find the link before it is removed again
        raise _master_down_error(step)
    try:
        create.add_named(session, step.name, VLAN_ALIAS, wire.number(wire.IFLA_LINK, master.ifindex), info)
    except Refused as err:
        if err.errno == errno.EOPNOTSUPP:
            raise UnsupportedField(
                "this kernel has no VLAN links (802.1Q)", f"vlan is {step.vlan}, master is {step.master}"
            ) from err
        if err.errno != errno.EEXIST or links.find(session, HOST, step.name) is None:
            raise
        return False  # created by a concurrent ADD
    return True


def _differs(session: Session, step: EnsureVlan, *, ignore_state: bool = False) -> str:
    """Say how the link differs from the VLAN link of the step."""
    link = links.find(session, HOST, step.name)
    master = links.find(session, HOST, step.master)
    if link is None or master is None:
        return f"link {step.master if master is None else step.name} is missing in the host"
    wanted = (step.vlan, ETHERTYPES[step.protocol])
    if link.kind != "vlan" or link.peer != master.ifindex or link.vlan != wanted:
        return f'"{step.name}" already exists but is not VLAN {step.vlan} ({step.protocol}) of {step.master}'
    return "" if link.up or ignore_state else f"link {step.name} in the host is down"


def _delete_idle(session: Session, _step: DelIdleVlans) -> None:
    """Remove every unused VLAN link that we created, while no ADD is about to use it.

    Remaining users may be about to end with their namespace; this waits for them once.
    """
    deadline = time.monotonic() + _LINGER
    # The newest first, as it may be on top of an older one.
    for link in sorted(links.of_kind(session, "vlan"), key=lambda link: link.ifindex, reverse=True):
        if link.alias != VLAN_ALIAS or _is_in_use_or_gone(session, link, deadline):
            continue
        with session.host_alone() as alone:
            # By index: meanwhile a new link may have the name.
            present = links.find(session, HOST, index=link.ifindex)
            if alone and present is not None and not _is_in_use(session, present):
                links.delete(session, HOST, present.name)


def _is_in_use_or_gone(session: Session, link: Link, deadline: float) -> bool:
    """Say whether the link is in use, or another DEL has just removed it."""
    try:
        return _is_in_use_until(session, link, deadline)
    except Refused as err:
        if is_absent(err) and links.find(session, HOST, index=link.ifindex) is None:
            return True
        raise


def _is_in_use_until(session: Session, link: Link, deadline: float) -> bool:
    """Say whether the link still has users at the deadline."""
    while _is_in_use(session, link):
        if _has_known_users(session, link) or time.monotonic() > deadline:
            return True
        time.sleep(_PAUSE)
    return False


def _is_in_use(session: Session, link: Link) -> bool:
    return _has_known_users(session, link) or _has_unknown_users(session, link)


def _has_known_users(session: Session, link: Link) -> bool:
    """Look for links on top of it, a master, and addresses that were assigned to it."""
    if link.master or macvlans.has_users_in_sandboxes(session, link.ifindex):
        return True
    if any(
        (other.peer, other.peer_netns) == (link.ifindex, None) and other.ifindex != link.ifindex
        for other in links.every(session, HOST)
    ):
        return True
    present = addresses.on_link(session, HOST, link.ifindex)
    return any(not _is_assigned_by_kernel(item.address) for item in present)


def _is_assigned_by_kernel(address: IPInterface) -> bool:
    """Say whether the kernel assigned the address itself."""
    return isinstance(address, IPv6Interface) and address.ip.is_link_local


def _has_unknown_users(session: Session, link: Link) -> bool:
    """Look for users in namespaces without netns id: the link receives frames for their MAC addresses."""
    found = links.find(session, HOST, index=link.ifindex)
    return found is not None and (found.promiscuity > 0 or bool(_foreign_addresses(session, found)))


def _foreign_addresses(session: Session, link: Link) -> list[bytes]:
    request = wire.neighbour(wire.RTM_GETNEIGH, NLM_F_DUMP, family=wire.AF_BRIDGE, index=link.ifindex)
    found = []
    for answer in session.rtnl(HOST).dump(request):
        _, index, _, _, _ = wire.NDMSG.unpack_from(answer.data, wire.BODY)
        mac = dict(attributes(answer.data, wire.BODY + wire.NDMSG.size)).get(wire.NDA_LLADDR, b"\1")
        if index == link.ifindex and not mac[0] & _GROUP_BIT and mac.hex(":") != link.mac:
            found.append(mac)
    return found


DEEDS = deed(EnsureVlan, _ensure, _differs) | deed(DelIdleVlans, _delete_idle, REMOVES)
