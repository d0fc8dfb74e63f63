"""The host's own macvlan links, through which it and its containers on the same master reach each other."""

import errno
from collections.abc import Callable

from cni_plugins.errors import NameTaken
from cni_plugins.kernel import host_routes, links, macvlans, new_links
from cni_plugins.kernel import rtnl_wire as wire
from cni_plugins.kernel.link import Link
from cni_plugins.kernel.session import Session
from cni_plugins.kernel.wire import Refused
from cni_plugins.spec.attachment import network_tag
from cni_plugins.steps.macvlans import HOST_LINK_ALIAS, DelHostAccess, DelStaleHostAccess, EnsureHostLink
from cni_plugins.steps.places import HOST
from cni_plugins.steps.plan import ABSENT, UNCHANGED


def ensure(session: Session, step: EnsureHostLink) -> str:
    """Make the link, or take the one an earlier ADD made.

    :raises NameTaken: when a link of this name is something else.
    """
    session.share_host()
    if links.find(session, HOST, step.name) is None and _make(session, step):
        return ABSENT
    fault = differs(session, step)
    if fault:
        raise NameTaken(fault, f"hostAccess is true, master is {step.master}")
    if links.get(session, HOST, step.name).mtu != step.mtu:  # the master's was changed
        mtu = wire.number(wire.IFLA_MTU, step.mtu)
        links.with_index(
            session, HOST, step.name, lambda index: links.modify(session, links.change(mtu, index=index))
        )
    return UNCHANGED


def _make(session: Session, step: EnsureHostLink) -> bool:
    mode = wire.number(wire.IFLA_MACVLAN_MODE, macvlans.MODES["bridge"])
    master = links.get(session, HOST, step.master).ifindex
    try:
        new_links.add_named(
            session,
            step.name,
            f"{HOST_LINK_ALIAS}{network_tag(step.network)} net: {step.network}"[:255],
            wire.number(wire.IFLA_LINK, master),
            wire.mac(wire.IFLA_ADDRESS, step.mac),
            wire.number(wire.IFLA_MTU, step.mtu),
            wire.kind_of_link("macvlan", mode),
        )
    except Refused as err:
        if err.errno != errno.EEXIST or links.find(session, HOST, step.name) is None:
            raise
        return False  # another ADD was faster
    return True


def differs(session: Session, step: EnsureHostLink) -> str:
    link, master = links.find(session, HOST, step.name), links.find(session, HOST, step.master)
    if link is None or master is None:
        return f"link {step.master if master is None else step.name} is missing in the host"
    if not _is_of(link, step.network):
        return f'"{step.name}" already exists but is not the host\'s link of network {step.network}'
    if link.peer != master.ifindex or link.macvlan_mode != macvlans.MODES["bridge"]:
        return f"link {step.name} is not on {step.master} in mode bridge"
    return f"link {step.name} has address {link.mac}, not {step.mac}" if link.mac != step.mac else ""


def delete(session: Session, step: DelHostAccess) -> None:
    _delete_where(session, step.network, lambda mark: mark == step.mark)


def delete_stale(session: Session, step: DelStaleHostAccess) -> None:
    _delete_where(session, step.network, lambda mark: mark not in step.valid_marks)


def _delete_where(session: Session, network: str, is_going: Callable[[int], bool]) -> None:
    """Remove routes, and then each link that nobody is reached by, while no ADD is about to use one."""
    for link in links.of_kind(session, "macvlan"):
        if not _is_of(link, network):
            continue
        host_routes.delete_where(session, link.name, is_going)
        if has_attachments(session, link.name, network):
            continue
        with session.host_alone() as alone:
            if alone and not has_attachments(session, link.name, network):
                links.delete(session, HOST, link.name)


def has_attachments(session: Session, name: str, network: str) -> bool:
    """Say whether routes lead out of the link, or the network has links on the same master.

    The kernel takes routes away itself, when the address they bear as source is gone.
    """
    link = links.find(session, HOST, name)
    if link is None:
        return False
    return bool(host_routes.marked(session, name)) or macvlans.has_links(session, network, link.peer)


def _is_of(link: Link, network: str) -> bool:
    return link.kind == "macvlan" and link.alias.startswith(f"{HOST_LINK_ALIAS}{network_tag(network)} ")
