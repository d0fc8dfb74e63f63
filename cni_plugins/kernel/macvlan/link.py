"""Creates macvlan links in sandboxes, finds and deletes them there, and lists the users of a master."""

import errno
from collections.abc import Callable

from cni_plugins.contract.facts import LinkUser, clash, link_name_taken
from cni_plugins.errors import CniError, KernelRefused, TryAgainLater, UnsupportedField
from cni_plugins.kernel.deed import REMOVES, deed
from cni_plugins.kernel.links import in_sandboxes, links
from cni_plugins.kernel.links.link import Link
from cni_plugins.kernel.netlink import rtnetlink as wire
from cni_plugins.kernel.netlink.attributes import packed
from cni_plugins.kernel.netlink.socket import NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, Refused
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import network_tag, nursery, owner_of, tag_of
from cni_plugins.steps.macvlan import AddMacvlan, DelAttached, DelStaleAttached
from cni_plugins.steps.step import HOST, SANDBOX

# linux/if_link.h
MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8, "source": 16}
_MODE_NAMES = {number: name for name, number in MODES.items()}
_SET_SOURCES = 3  # MACVLAN_MACADDR_SET


def _add(session: Session, step: AddMacvlan) -> None:
    """Create the link in the sandbox under a temporary name: the host may have a link of the final name too.

    Until the link has its alias it is in a link group derived from the network, by which GC finds it if the
    process is killed in between.

    :raises TryAgainLater: if a link in mode passthru holds the master, or needs it while it is in use.
    """
    in_sandboxes.make_known(session)  # or it could not be found without the sandbox's path
    temporary_name = step.attachment.host_end
    try:
        links.on_index(
            session, step.where, step.master, lambda master: _create(session, step, temporary_name, master)
        )
    except Refused as err:
        raise _translated(session, step, err) or err from err
    _set_name_and_alias(session, step, temporary_name)
    session.unshare_host()  # the master is in use now, so it will not be removed


def _create(session: Session, step: AddMacvlan, temporary_name: str, master: int) -> None:
    message = links.set_message(
        wire.text(wire.IFLA_IFNAME, temporary_name),
        wire.number(wire.IFLA_LINK, master),
        wire.number(wire.IFLA_NET_NS_FD, session.fd(SANDBOX)),
        wire.number(wire.IFLA_GROUP, nursery(step.attachment.network)),
        wire.mac(wire.IFLA_ADDRESS, step.mac) if step.mac else b"",
        wire.number(wire.IFLA_MTU, step.mtu) if step.mtu else b"",
        _kind(step),
        asked=NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
    )
    links.send(session, message, where=step.where)


def _kind(step: AddMacvlan) -> bytes:
    data = [wire.number(wire.IFLA_MACVLAN_MODE, MODES[step.mode])]
    if step.bc_queue_len:
        data.append(wire.number(wire.IFLA_MACVLAN_BC_QUEUE_LEN, step.bc_queue_len))
    if step.sources:
        listed = [wire.mac(wire.IFLA_MACVLAN_MACADDR, source) for source in step.sources]
        data.append(wire.number(wire.IFLA_MACVLAN_MACADDR_MODE, _SET_SOURCES))
        data.append(wire.nest(wire.IFLA_MACVLAN_MACADDR_DATA, *listed))
    return wire.kind_of_link("macvlan", *data)


def _set_name_and_alias(session: Session, step: AddMacvlan, temporary_name: str) -> None:
    """Set name and alias of the link; in mode passthru also the MAC address, which it ignores before."""
    index = links.get(session, SANDBOX, temporary_name).ifindex
    alias = step.attachment.alias.encode()
    changes = [
        links.set_message(packed(wire.IFLA_IFALIAS, alias), wire.number(wire.IFLA_GROUP, 0), index=index),
        links.set_message(wire.text(wire.IFLA_IFNAME, step.ifname), index=index),
    ]
    if step.mode == "passthru" and step.mac:
        changes.append(links.set_message(wire.mac(wire.IFLA_ADDRESS, step.mac), index=index))
    try:
        links.send(session, *changes, where=SANDBOX)
    except Refused as err:
        session.rtnl(SANDBOX).call(wire.link(wire.RTM_DELLINK, NLM_F_ACK, index=index))
        if err.errno == errno.EEXIST:
            raise link_name_taken(step.ifname, session.path) from err
        raise
    session.indexes.pop((SANDBOX, temporary_name), None)
    session.indexes[SANDBOX, step.ifname] = index


def _translated(session: Session, step: AddMacvlan, err: Refused) -> CniError | None:
    """Translate the kernel's errno (macvlan_common_newlink, drivers/net/macvlan.c)."""
    master = f"master is {step.master}"
    if err.errno == errno.EOPNOTSUPP:
        return UnsupportedField("this kernel has no macvlan links", master)
    if err.errno == errno.EBUSY:
        return KernelRefused(f"{step.master} cannot carry macvlan links: it is a port itself", master)
    if err.errno != errno.EINVAL:
        return None
    known = users(session) if step.where == HOST else {}
    text = clash(step.master, step.mode, known.get(links.get(session, step.where, step.master).ifindex, ()))
    if not text and step.mode == "passthru":
        text = f"master {step.master} is in use, and mode passthru needs it alone"
    elif not text:  # used by a link in a sandbox without netns id, such as the reference's
        text = f"master {step.master} takes no more links, as when one in mode passthru holds it"
    return TryAgainLater(text, f"{master}, mode is {step.mode}")


def users(session: Session) -> dict[int, tuple[LinkUser, ...]]:
    """Return the macvlan links of all namespaces, by the index of their lower device in the host."""
    found: dict[int, tuple[LinkUser, ...]] = {}
    in_host = [link for link in links.of_kind(session, "macvlan") if link.peer_netns is None]
    for link in in_host + _sandbox_links(session):
        user = LinkUser(_mode(link), owner_of(link.alias) or f"link {link.name}", link.mac)
        found[link.peer] = (*found.get(link.peer, ()), user)
    return found


def _sandbox_links(session: Session) -> list[Link]:
    """Return the macvlan links in sandboxes whose lower device is in the host."""
    found = in_sandboxes.links_in_sandboxes(session, "macvlan")
    # Looked up last: the host gets an id for itself when a dump first refers to it.
    own = in_sandboxes.own_number(session) if found else None
    return [link for _, link in found if own is not None and link.peer_netns == own]


def has_links(session: Session, network: str, master: int) -> bool:
    """Say whether a network has links in sandboxes on this lower device of the host."""
    start = network_tag(network)
    present = _sandbox_links(session)
    return any(link.peer == master and tag_of(link.alias).startswith(start) for link in present)


def has_users_in_sandboxes(session: Session, index: int) -> bool:
    return any(link.peer == index for link in _sandbox_links(session))


def _delete_attached(session: Session, step: DelAttached) -> None:
    tag = step.attachment.tag
    unfinished = (nursery(step.attachment.network), step.attachment.host_end)

    def is_going(link: Link) -> bool:
        return tag_of(link.alias) == tag or (not link.alias and (link.group, link.name) == unfinished)

    _delete_where(session, is_going)


def _delete_stale(session: Session, step: DelStaleAttached) -> None:
    start, group = network_tag(step.network), nursery(step.network)

    def is_going(link: Link) -> bool:
        tag = tag_of(link.alias)
        if tag:
            return tag.startswith(start) and tag not in step.valid_tags
        return not link.alias and link.group == group

    _delete_where(session, is_going)


def _delete_where(session: Session, is_going: Callable[[Link], bool]) -> None:
    for number, link in in_sandboxes.links_in_sandboxes(session, "macvlan"):
        if is_going(link):
            in_sandboxes.delete(session, number, link.ifindex)


def _differs(session: Session, step: AddMacvlan) -> str:
    """Say how the link differs from the step; the mtu is not compared, as other plugins may change it."""
    link, master = links.find(session, SANDBOX, step.ifname), links.find(session, step.where, step.master)
    if link is None or master is None:
        missing, where = (step.ifname, SANDBOX) if link is None else (step.master, step.where)
        return f"link {missing} is missing in the {where}"
    if link.kind != "macvlan":
        return f"link {step.ifname} in the sandbox is not a macvlan link"
    # A macvlan created on a macvlan attaches to the lower device (macvlan_common_newlink).
    lower = master.peer if master.kind == "macvlan" else master.ifindex
    faults = (
        (link.peer != lower, f"is not on {step.master}"),
        (link.macvlan_mode != MODES[step.mode], f"is in mode {_mode(link)}, not {step.mode}"),
        (step.mac and link.mac != step.mac, f"has address {link.mac}, not {step.mac}"),
        (
            step.has_alias and link.alias != step.attachment.alias,
            "has lost the alias by which GC recognises it",
        ),
        (
            set(step.sources) != set(link.macvlan_sources),
            f"receives from {', '.join(link.macvlan_sources) or 'no source'}, not {', '.join(step.sources)}",
        ),
    )
    return next((f"link {step.ifname} {text}" for fault, text in faults if fault), "")


def _mode(link: Link) -> str:
    return _MODE_NAMES.get(link.macvlan_mode, str(link.macvlan_mode))


DEEDS = (
    deed(AddMacvlan, _add, _differs)
    | deed(DelAttached, _delete_attached, REMOVES)
    | deed(DelStaleAttached, _delete_stale, REMOVES)
)
