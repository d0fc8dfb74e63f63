"""Creates, compares and deletes ifb links (drivers/net/ifb.c)."""

import errno

from cni_plugins.errors import CniError, NameTaken, TryAgainLater
from cni_plugins.kernel.deed import REMOVES, deed
from cni_plugins.kernel.ip import sysctl
from cni_plugins.kernel.links import create, links
from cni_plugins.kernel.links.link import Link
from cni_plugins.kernel.netlink import rtnetlink as wire
from cni_plugins.kernel.netlink.socket import Refused
from cni_plugins.kernel.session.session import Session
from cni_plugins.kernel.shaping.support import needs
from cni_plugins.ownership import ifb_of, tag_of
from cni_plugins.steps.ip import WANTED, EnsureSysctl
from cni_plugins.steps.shaping import DOWN, DelIfb, EnsureIfb
from cni_plugins.steps.step import ABSENT, HOST, UNCHANGED

_KIND = "ifb"


def _ensure(session: Session, step: EnsureIfb) -> str:
    present = links.find(session, HOST, step.name)
    if present is None:
        _create(session, step)
        return ABSENT
    if not _is_of(present, step.alias):
        raise _refusal(present)
    if present.up:
        return UNCHANGED
    links.set_up(session, HOST, step.name, up=True)
    return DOWN


def _create(session: Session, step: EnsureIfb) -> None:
    """Create the link with its alias, and set it up without IPv6, for which the host would use it as well.

    It is created under the attachment's own name, which no other ADD takes, as name and alias cannot be given
    in one message: if the name is another's, that gets the alias.
    """
    name = ifb_of(tag_of(step.alias)) if step.alias else step.name
    other = links.find(session, HOST, name)
    if other is not None:
        raise _refusal(other)
    mtu, mac = wire.number(wire.IFLA_MTU, step.mtu), wire.mac(wire.IFLA_ADDRESS, step.mac)
    with needs("ifb"):
        create.add_named(session, name, step.alias, mac, mtu, wire.kind_of_link(_KIND))
    try:
        name = _rename(session, name, step.name)
        sysctl.ensure(session, EnsureSysctl(HOST, ("ipv6", "conf", name, "disable_ipv6"), "1", WANTED))
        links.set_up(session, HOST, name, up=True)
    except BaseException:
        links.delete(session, HOST, name)
        raise


def _rename(session: Session, name: str, wanted: str) -> str:
    """Rename a link, and return its new name."""
    if name == wanted:
        return name
    index = session.indexes.pop((HOST, name))
    try:
        links.send(session, links.set_message(wire.text(wire.IFLA_IFNAME, wanted), index=index))
    except Refused as err:
        if err.errno == errno.EEXIST:
            raise _refusal(links.get(session, HOST, wanted)) from err
        raise
    session.indexes[HOST, wanted] = index
    return wanted


def _refusal(present: Link) -> CniError:
    """Return the error for a link with the name of ours.

    That of another attachment was created since the name was chosen, for another interface of the container.
    """
    details = f"it is of kind {present.kind or 'none'}"
    if tag_of(present.alias):
        return TryAgainLater(f"link {present.name} was created meanwhile for another interface", details)
    return NameTaken(f"link {present.name} already exists", details)


def _is_of(link: Link, alias: str) -> bool:
    """Say whether it is an ifb link of the attachment with this alias; empty: one without an alias."""
    return link.kind == _KIND and (tag_of(link.alias) == tag_of(alias) if alias else not link.alias)


def _delete(session: Session, step: DelIfb) -> str:
    present = links.find(session, HOST, step.name)
    if present is None or not _is_of(present, step.alias):
        return UNCHANGED
    links.delete(session, HOST, step.name)
    return f"{present.mac} {present.mtu}"


def _differs(session: Session, step: EnsureIfb) -> str:
    link = links.find(session, HOST, step.name)
    if link is None:
        return links.missing(HOST, step.name)
    if link.kind != _KIND:
        return f"link {step.name} is not an ifb"
    if not link.up:
        return f"link {step.name} in the host is down"
    if step.alias and link.alias != step.alias:
        return f"link {step.name} has lost the alias by which GC recognises it"
    return links.mac_differs(link, step.mac)


DEEDS = deed(EnsureIfb, _ensure, _differs) | deed(DelIfb, _delete, REMOVES)
