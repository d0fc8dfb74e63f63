"""Manages the host's own macvlan links, through which it and containers on the same master communicate."""

import errno
from collections.abc import Callable

from cni_plugins.errors import NameTaken
from cni_plugins.kernel.deed import REMOVES, deed
from cni_plugins.kernel.ip import host_routes
from cni_plugins.kernel.links import create, links
from cni_plugins.kernel.links.link import Link
from cni_plugins.kernel.macvlan import link as macvlans
from cni_plugins.kernel.netlink import rtnetlink as wire
from cni_plugins.kernel.netlink.socket import Refused
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import host_link_alias, is_host_link_alias
from cni_plugins.steps.macvlan import DelHostAccess, DelStaleHostAccess, EnsureHostLink
from cni_plugins.steps.step import ABSENT, HOST, UNCHANGED


def _ensure(session: Session, step: EnsureHostLink) -> str:
    """Create the link, or use the one that an earlier ADD created.

    :raises NameTaken: if another link has this name.
    """
    session.share_host()
    if links.find(session, HOST, step.name) is None and _create(session, step):
        return ABSENT
    fault = _differs(session, step)
    if fault:
        raise NameTaken(fault, f"hostAccess is true, master is {step.master}")
    if links.get(session, HOST, step.name).mtu != step.mtu:  # the mtu of the master was changed
        mtu = wire.number(wire.IFLA_MTU, step.mtu)
        links.on_index(
            session, HOST, step.name, lambda index: links.send(session, links.set_message(mtu, index=index))
        )
    return UNCHANGED


def _create(session: Session, step: EnsureHostLink) -> bool:
    mode = wire.number(wire.IFLA_MACVLAN_MODE, macvlans.MODES["bridge"])
    master = links.get(session, HOST, step.master).ifindex
    try:
        create.add_named(
            session,
            step.name,
            host_link_alias(step.network),
            wire.number(wire.IFLA_LINK, master),
            wire.mac(wire.IFLA_ADDRESS, step.mac),
            wire.number(wire.IFLA_MTU, step.mtu),
            wire.kind_of_link("macvlan", mode),
        )
    except Refused as err:
        if err.errno != errno.EEXIST or links.find(session, HOST, step.name) is None:
            raise
        return False  # created by a concurrent ADD
    return True


def _differs(session: Session, step: EnsureHostLink) -> str:
    link, master = links.find(session, HOST, step.name), links.find(session, HOST, step.master)
    if link is None or master is None:
        return f"link {step.master if master is None else step.name} is missing in the host"
    if not _is_of(link, step.network):
        return f'"{step.name}" already exists but is not the host\'s link of network {step.network}'
    if link.peer != master.ifindex or link.macvlan_mode != macvlans.MODES["bridge"]:
        return f"link {step.name} is not on {step.master} in mode bridge"
    return f"link {step.name} has address {link.mac}, not {step.mac}" if link.mac != step.mac else ""


def _delete(session: Session, step: DelHostAccess) -> None:
    _delete_where(session, step.network, lambda mark: mark == step.mark)


def _delete_stale(session: Session, step: DelStaleHostAccess) -> None:
    _delete_where(session, step.network, lambda mark: mark not in step.valid_marks)


def _delete_where(session: Session, network: str, is_going: Callable[[int], bool]) -> None:
    """Remove routes, and then each link without users, while no ADD is about to use it."""
    for link in links.of_kind(session, "macvlan"):
        if not _is_of(link, network):
            continue
        host_routes.delete_where(session, link.name, is_going)
        if _has_attachments(session, link.name, network):
            continue
        with session.host_alone() as alone:
            if alone and not _has_attachments(session, link.name, network):
                links.delete(session, HOST, link.name)


def _has_attachments(session: Session, name: str, network: str) -> bool:
    """Say whether routes lead out of the link, or the network has links on the same master.

    Routes alone are not sufficient: the kernel removes them itself when their source address is removed.
    """
    link = links.find(session, HOST, name)
    if link is None:
        return False
    return bool(host_routes.marked(session, name)) or macvlans.has_links(session, network, link.peer)


def _is_of(link: Link, network: str) -> bool:
    return link.kind == "macvlan" and is_host_link_alias(link.alias, network)


DEEDS = (
    deed(
        EnsureHostLink,
        _ensure,
        _differs,
        lambda session, step: _has_attachments(session, step.name, step.network),
    )
    | deed(DelHostAccess, _delete, REMOVES)
    | deed(DelStaleHostAccess, _delete_stale, REMOVES)
)
