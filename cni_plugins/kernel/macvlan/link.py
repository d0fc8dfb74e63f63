"""Macvlan links: made in a sandbox, found there again, and told who else is on their master."""

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
    """Make the link in the sandbox, where it gets its name last: the host may have a link of that name too.

    Until it has its alias it is in a group whose number tells the network, for GC after a kill in between.

    :raises TryAgainLater: when the master is held in mode passthru, or wanted in it and in use.
    """
    in_sandboxes.make_known(session)  # or nobody could find it without the sandbox's path
    born = step.attachment.host_end
    try:
        links.on_index(session, step.where, step.master, lambda master: _make(session, step, born, master))
    except Refused as err:
        raise _reason(session, step, err) or err from err
    _settle(session, step, born)
    session.unshare_host()  # whatever it is on has a user now


def _make(session: Session, step: AddMacvlan, born: str, master: int) -> None:
    asked = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
    message = links.set_message(
        wire.text(wire.IFLA_IFNAME, born),
        wire.number(wire.IFLA_LINK, master),
        wire.number(wire.IFLA_NET_NS_FD, session.fd(SANDBOX)),
        wire.number(wire.IFLA_GROUP, nursery(step.attachment.network)),
        wire.mac(wire.IFLA_ADDRESS, step.mac) if step.mac else b"",
        wire.number(wire.IFLA_MTU, step.mtu) if step.mtu else b"",
        _kind(step),
        asked=asked,
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


def _settle(session: Session, step: AddMacvlan, born: str) -> None:
    """Give the link its name and alias, and in mode passthru its address, which it does not take before."""
    index = links.get(session, SANDBOX, born).ifindex
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
    session.indexes.pop((SANDBOX, born), None)
    session.indexes[SANDBOX, step.ifname] = index


def _reason(session: Session, step: AddMacvlan, err: Refused) -> CniError | None:
    """Return what the kernel's number means here (macvlan_common_newlink, drivers/net/macvlan.c)."""
    master = f"master is {step.master}"
    if err.errno == errno.EOPNOTSUPP:
        return UnsupportedField("this kernel has no macvlan links", master)
    if err.errno == errno.EBUSY:
        return KernelRefused(f"{step.master} cannot carry macvlan links: it is a port of something", master)
    if err.errno != errno.EINVAL:
        return None
    known = users(session) if step.where == HOST else {}
    text = clash(step.master, step.mode, known.get(links.get(session, step.where, step.master).ifindex, ()))
    if not text and step.mode == "passthru":
        text = f"master {step.master} is in use, and mode passthru needs it alone"
    elif not text:  # by a link in a sandbox that has no number, as those of the reference
        text = f"master {step.master} takes no more links, as when one in mode passthru holds it"
    return TryAgainLater(text, f"{master}, mode is {step.mode}")


def users(session: Session) -> dict[int, tuple[LinkUser, ...]]:
    """Return the macvlan links, wherever they are, by the index of the host's link that they are on."""
    found: dict[int, tuple[LinkUser, ...]] = {}
    here = [link for link in links.of_kind(session, "macvlan") if link.peer_netns is None]
    for link in here + _away(session):
        user = LinkUser(_mode(link), owner_of(link.alias) or f"link {link.name}")
        found[link.peer] = (*found.get(link.peer, ()), user)
    return found


def _away(session: Session) -> list[Link]:
    """Return the macvlan links in sandboxes that are on links of the host."""
    there = in_sandboxes.links_in_sandboxes(session, "macvlan")
    # Asked last: what refers to the host makes it number itself.
    own = in_sandboxes.own_number(session) if there else None
    return [link for _, link in there if own is not None and link.peer_netns == own]


def has_links(session: Session, network: str, master: int) -> bool:
    """Say whether links of a network in sandboxes are on a link of the host."""
    start = network_tag(network)
    return any(link.peer == master and tag_of(link.alias).startswith(start) for link in _away(session))


def has_users_in_sandboxes(session: Session, index: int) -> bool:
    return any(link.peer == index for link in _away(session))


def _delete_attached(session: Session, step: DelAttached) -> None:
    tag, born = step.attachment.tag, (nursery(step.attachment.network), step.attachment.host_end)

    def is_going(link: Link) -> bool:
        return tag_of(link.alias) == tag or (not link.alias and (link.group, link.name) == born)

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
    """Compare what the step made with what there is; the mtu belongs to whoever changed it last."""
    link, master = links.find(session, SANDBOX, step.ifname), links.find(session, step.where, step.master)
    if link is None or master is None:
        missing, where = (step.ifname, SANDBOX) if link is None else (step.master, step.where)
        return f"link {missing} is missing in the {where}"
    if link.kind != "macvlan":
        return f"link {step.ifname} in the sandbox is not a macvlan link"
    # A macvlan link on another is on what that is on (macvlan_common_newlink).
    lower = master.peer if master.kind == "macvlan" else master.ifindex
    faults = (
        (link.peer != lower, f"is not on {step.master}"),
        (link.macvlan_mode != MODES[step.mode], f"is in mode {_mode(link)}, not {step.mode}"),
        (step.mac and link.mac != step.mac, f"has address {link.mac}, not {step.mac}"),
        (
            step.has_alias and link.alias != step.attachment.alias,
            "has lost the alias by which GC knows it",
        ),
        (
            set(step.sources) != set(link.macvlan_sources),
            f"receives from {', '.join(link.macvlan_sources) or 'nobody'}, not {', '.join(step.sources)}",
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
