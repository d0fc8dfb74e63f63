"""Creates the VXLAN link (RFC 7348) of a network, reuses it for attachments, recreates it if it differs.

Never touches a link that does not belong to the network, whatever its name.
"""

import errno
import time
from collections.abc import Iterator

from cni_plugins.errors import KernelRefused, NameTaken, UnsupportedField
from cni_plugins.kernel import capabilities
from cni_plugins.kernel.deed import deed
from cni_plugins.kernel.ip import sysctl
from cni_plugins.kernel.links import create, links
from cni_plugins.kernel.links.link import Link, VxlanSettings
from cni_plugins.kernel.netlink import rtnetlink as wire
from cni_plugins.kernel.netlink.socket import Refused
from cni_plugins.kernel.overlay import attachments
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import is_overlay_alias, overlay_alias
from cni_plugins.steps.ip import IF_PRESENT, EnsureSysctl
from cni_plugins.steps.overlay import EnsureVxlan
from cni_plugins.steps.step import ABSENT, HOST, UNCHANGED

_AWAIT_ALIAS = 0.2  # seconds
_PAUSE = 0.001
_DF = {"unset": 0, "set": 1, "inherit": 2}  # linux/if_link.h: enum ifla_vxlan_df


def is_of(link: Link, network: str) -> bool:
    return is_overlay_alias(link.alias, network)


def settled(session: Session, name: str) -> Link | None:
    """Return a link; wait briefly for its alias, as a new link is visible for a moment without it."""
    deadline = time.monotonic() + _AWAIT_ALIAS
    while (link := links.find(session, HOST, name)) and not link.alias and time.monotonic() < deadline:
        time.sleep(_PAUSE)
    return link


def _ensure(session: Session, step: EnsureVxlan) -> str:
    """Create the link and set it up, or use the one that an earlier ADD created.

    A link with other settings is recreated: most of them cannot be changed.

    :raises NameTaken: if the name, the VNI at this port, or the port is in use by others.
    :raises KernelRefused: if the MTU is too large for the underlay's link.
    """
    session.share_host()
    # Checked first, or a working link would be removed for one that cannot be created.
    lower = links.get(session, HOST, step.link)
    found = _agreeing(session, step, lower)
    created = None if found else _create(session, step, lower)
    link = found or created or _created_by_other(session, step, lower)
    try:
        if not link.up:  # also if another ADD has created it, and is about to do the same
            sysctl.ensure(session, _no_link_local(step))
        _correct_mtu(session, step, link, lower)
        _set_up(session, step, link)
    except (OSError, KernelRefused, NameTaken):
        if created:
            links.delete(session, HOST, step.name)
        raise
    return ABSENT if created else UNCHANGED


def _no_link_local(step: EnsureVxlan) -> EnsureSysctl:
    """Return the setting by which the kernel assigns no link-local address when the link comes up.

    That would be tentative at first. Where one is needed the plan has it.
    """
    return EnsureSysctl(HOST, ("ipv6", "conf", step.name, "addr_gen_mode"), "1", IF_PRESENT)


def _agreeing(session: Session, step: EnsureVxlan, lower: Link) -> Link | None:
    """Return the link if it exists; delete it if it has other settings.

    It cannot always be ensured that no other ADD is about to use it. That ADD then fails midway, and the
    entries that it has added to the link are added again here.
    """
    found = settled(session, step.name)
    if found is None or not _faults(session, _own(step, found), lower, step):
        return found
    _require_possible(session, step, found)
    with session.host_alone():
        found = settled(session, step.name)
        if found is not None and _faults(session, _own(step, found), lower, step):
            links.delete(session, HOST, step.name)
            found = None
    session.share_host()
    return found


def _require_possible(session: Session, step: EnsureVxlan, found: Link) -> None:
    """:raises NameTaken: if the new port, or the VNI there, is taken; the present, working link is kept."""
    if found.vxlan is None or found.vxlan.port == step.port:
        return
    if any((it.vni, it.port) == (step.vni, step.port) for _, it in _other_links(session, step)):
        raise _vni_taken(session, step)
    if capabilities.is_port_taken(session, step.port):
        raise NameTaken(f"UDP port {step.port} is in use by another socket", _error_details(step))


def _created_by_other(session: Session, step: EnsureVxlan, lower: Link) -> Link:
    """:raises NameTaken: if another link has this name meanwhile."""
    link = _own(step, settled(session, step.name) or links.get(session, HOST, step.name))
    faults = _faults(session, link, lower, step)
    if faults:
        raise NameTaken("; ".join(faults), _error_details(step))
    return link


def _own(step: EnsureVxlan, link: Link) -> Link:
    """:raises NameTaken: if the link does not belong to the network."""
    if link.kind == "vxlan" and is_of(link, step.network):
        return link
    what = f"the VXLAN link of network {step.network}" if link.kind == "vxlan" else "a VXLAN link"
    raise NameTaken(
        f'"{step.name}" already exists but is not {what}',
        f"its kind is {link.kind or 'a device'}, its alias {link.alias!r}",
    )


def _create(session: Session, step: EnsureVxlan, lower: Link) -> Link | None:
    """Create the link; return None if a concurrent ADD has created it."""
    try:
        return create.add_named(
            session,
            step.name,
            overlay_alias(step.network),
            wire.mac(wire.IFLA_ADDRESS, step.mac),
            wire.number(wire.IFLA_MTU, step.mtu),
            wire.kind_of_link("vxlan", *_settings(step, lower)),
        )
    except Refused as err:
        if err.errno == errno.EOPNOTSUPP:
            raise UnsupportedField("this kernel has no VXLAN links", _error_details(step)) from err
        if err.errno != errno.EEXIST:
            raise
        if settled(session, step.name) is None:
            raise _vni_taken(session, step) from err
        return None


def _settings(step: EnsureVxlan, lower: Link) -> Iterator[bytes]:
    yield wire.number(wire.IFLA_VXLAN_ID, step.vni)
    yield wire.number(wire.IFLA_VXLAN_LINK, lower.ifindex)
    yield wire.ip(wire.IFLA_VXLAN_LOCAL[step.local.version], step.local)
    if step.group is not None:
        yield wire.ip(wire.IFLA_VXLAN_GROUP[step.group.version], step.group)
    yield wire.octet(wire.IFLA_VXLAN_TTL, step.ttl)
    yield wire.octet(wire.IFLA_VXLAN_LEARNING, int(step.learning))
    yield wire.port(wire.IFLA_VXLAN_PORT, step.port)
    yield wire.octet(wire.IFLA_VXLAN_DF, _DF[step.df])


def _correct_mtu(session: Session, step: EnsureVxlan, link: Link, lower: Link) -> None:
    """Set the MTU if it differs; also on a new link, for which the kernel silently reduces it."""
    if link.mtu == step.mtu:
        return
    mtu = wire.number(wire.IFLA_MTU, step.mtu)
    try:
        links.send(session, links.set_message(mtu, index=link.ifindex))
    except Refused as err:
        if err.errno != errno.EINVAL:
            raise
        raise KernelRefused(
            f"VXLAN link {step.name} cannot have mtu {step.mtu}, as {lower.name} has {lower.mtu}",
            f"errno {err.errno}, network is {step.network}",
            err.errno,
        ) from err


def _set_up(session: Session, step: EnsureVxlan, link: Link) -> None:
    """:raises NameTaken: if the UDP port is in use by a socket that the link cannot share."""
    if link.up:
        return
    try:
        links.set_up(session, HOST, step.name, up=True)
    except Refused as err:
        if err.errno != errno.EADDRINUSE:
            raise
        others = [link.name for link, it in _other_links(session, step) if link.up and it.port == step.port]
        whose = f"VXLAN link {others[0]}, which does not share it" if others else "another socket"
        raise NameTaken(f"UDP port {step.port} is in use by {whose}", _error_details(step)) from err


def _vni_taken(session: Session, step: EnsureVxlan) -> NameTaken:
    """Return the error for a VNI that is taken: the kernel allows it once per port and network namespace.

    A link that was moved to another namespace, as Docker does, still counts in the one it was created in.
    """
    wanted = (step.vni, step.port)
    holders = [f"link {link.name}" for link, it in _other_links(session, step) if (it.vni, it.port) == wanted]
    whose = holders[0] if holders else "a link that was moved to another network namespace"
    return NameTaken(f"VNI {step.vni} at UDP port {step.port} is taken by {whose}", _error_details(step))


def _other_links(session: Session, step: EnsureVxlan) -> Iterator[tuple[Link, VxlanSettings]]:
    """Yield the other VXLAN links whose sockets are in the host and of the same IP version."""
    for link in links.of_kind(session, "vxlan"):
        it = link.vxlan
        if it is None or link.name == step.name or link.peer_netns is not None:
            continue
        if it.external or it.version == step.local.version:
            yield link, it


def _error_details(step: EnsureVxlan) -> str:
    return f"network is {step.network}, VXLAN link {step.name}"


def _differs(session: Session, step: EnsureVxlan) -> str:
    """Return all differences of the link."""
    link, lower = links.find(session, HOST, step.name), links.find(session, HOST, step.link)
    if link is None or lower is None:
        return f"link {step.name if link is None else step.link} is missing in the host"
    try:
        faults = _faults(session, _own(step, link), lower, step)
    except NameTaken as err:
        return err.msg
    return "; ".join([*faults, *_difference(step, "mtu", link.mtu, step.mtu)])


def _faults(session: Session, link: Link, lower: Link, step: EnsureVxlan) -> list[str]:
    """Return the differences one by one, except for settings that can be changed in place."""
    has = link.vxlan
    if has is None:
        return [f"link {step.name} is not a VXLAN link"]
    compared: tuple[tuple[str, object, object], ...] = (
        ("VNI", has.vni, step.vni),
        ("UDP port", has.port, step.port),
        ("underlay link", _name(session, has.link, lower), lower.name),
        ("source address", has.local, step.local),
        ("address", link.mac, step.mac),
        ("df", _df(has.df), step.df),
        ("learning", has.learning, step.learning),
        ("group", has.group, step.group),
        ("ttl", has.ttl, step.ttl),
    )
    return [fault for item in compared for fault in _difference(step, *item)]


def _difference(step: EnsureVxlan, what: str, value: object, wanted: object) -> Iterator[str]:
    if value != wanted:
        yield f"VXLAN link {step.name} has {what} {_shown(value)}, not {_shown(wanted)}"


def _name(session: Session, index: int, lower: Link) -> str:
    """Return the name of the link's underlay, empty if it has none."""
    if index == lower.ifindex:
        return lower.name
    other = links.find(session, HOST, index=index) if index else None
    return other.name if other else ""


def _df(value: int) -> str:
    return next((name for name, number in _DF.items() if number == value), str(value))


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value in (None, "") else str(value)


DEEDS = deed(EnsureVxlan, _ensure, _differs, lambda session, step: attachments.exist(session, step.network))
