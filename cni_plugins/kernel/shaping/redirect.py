"""Redirects what enters the host by a link to an ifb link: one filter in the link's clsact or ingress qdisc.

The qdisc may be another program's, and others may add filters to ours. Theirs come first, as the kernel skips
all filters of the link for packets that come back from an ifb link (ifb_ri_tasklet, drivers/net/ifb.c).
"""

import socket

from cni_plugins.kernel.deed import deed
from cni_plugins.kernel.links import links
from cni_plugins.kernel.netlink import rtnetlink as wire
from cni_plugins.kernel.netlink.socket import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    Answer,
    Refused,
    is_absent,
)
from cni_plugins.kernel.netlink.traffic_control import (
    CLSACT_EGRESS,
    CLSACT_HANDLE,
    CLSACT_INGRESS,
    INGRESS,
    Redirection,
    filter_info,
    qdisc,
    read_redirection,
    redirection,
)
from cni_plugins.kernel.session.session import Session
from cni_plugins.kernel.shaping import qdiscs
from cni_plugins.kernel.shaping.support import needs
from cni_plugins.ownership import (
    REDIRECT_IN_ANOTHERS,
    REDIRECT_IN_OWN,
    REDIRECT_PRIORITY,
    REFERENCE_IFB_PREFIX,
    REFERENCE_REDIRECT_CLASS,
    REFERENCE_REDIRECT_PRIORITY,
)
from cni_plugins.steps.shaping import SetRedirect
from cni_plugins.steps.step import ABSENT, HOST, UNCHANGED

_CLSACT = "clsact"
_CREATE = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
_OURS = {(REDIRECT_PRIORITY, REDIRECT_IN_OWN), (REDIRECT_PRIORITY, REDIRECT_IN_ANOTHERS)}


def target_of(session: Session, index: int) -> str:
    """Return the name of the link that we, or the reference, redirect packets of a host link to."""
    return next((_name(found.target) for found in _redirections(session, index)), "")


def _redirections(session: Session, index: int) -> list[Redirection]:
    """Return the filters of a link that we or the reference made."""
    found = map(read_redirection, _filters(session, index, CLSACT_INGRESS))
    return [item for item in found if item is not None and _is_own(item)]


def _is_own(found: Redirection) -> bool:
    """Say whether we made the filter, or the reference: to a link of its name, or one that is gone."""
    marks = found.priority, found.class_id
    if marks != (REFERENCE_REDIRECT_PRIORITY, REFERENCE_REDIRECT_CLASS):
        return marks in _OURS
    name = _name(found.target)
    return not name or name.startswith(REFERENCE_IFB_PREFIX)


def _name(index: int) -> str:
    try:
        return socket.if_indextoname(index) if index else ""
    except OSError:
        return ""


def _filters(session: Session, index: int, parent: int) -> list[Answer]:
    return session.rtnl(HOST).dump(
        wire.traffic_control(wire.RTM_GETTFILTER, NLM_F_DUMP, index=index, parent=parent)
    )


def _qdisc_kind(session: Session, index: int) -> str:
    """Return the kind of a link's qdisc for incoming packets, clsact or ingress; empty if it has none."""
    found = qdiscs.find(session, index, INGRESS)
    return found.kind if found else ""


# ---------------------------------------------------------------------------------------------- changing


def _set(session: Session, step: SetRedirect) -> str:
    if not step.ifb:
        return _end(session, step.link)
    index, target = (links.get(session, HOST, name).ifindex for name in (step.link, step.ifb))
    present = _redirections(session, index)
    if [item.target for item in present] == [target]:
        return UNCHANGED
    _add(session, index, target, present)
    for item in present:
        _delete_filter(session, index, item)
    return next((_name(item.target) for item in present), ABSENT)


def _add(session: Session, index: int, target: int, present: list[Redirection]) -> None:
    """Add the filter, and the qdisc if there is none, in one datagram, so that no signal can intervene."""
    is_new = not _qdisc_kind(session, index)
    is_ours = is_new or any(item.class_id == REDIRECT_IN_OWN for item in present)
    attrs = redirection(REDIRECT_IN_OWN if is_ours else REDIRECT_IN_ANOTHERS, target)
    info = filter_info(REDIRECT_PRIORITY)
    new_filter = wire.traffic_control(
        wire.RTM_NEWTFILTER, _CREATE, attrs, index=index, parent=CLSACT_INGRESS, info=info
    )
    try:
        with needs("cls_u32, act_mirred or sch_ingress"):
            session.rtnl(HOST).call(*([_new_qdisc(index)] if is_new else []), new_filter)
    except BaseException:
        for item in _redirections(session, index):
            if item not in present:
                _delete_filter(session, index, item)
        if is_new:
            _delete_idle_qdisc(session, index)
        raise


def _new_qdisc(index: int) -> bytearray:
    """Return the message that creates a clsact qdisc, which other programs can use for both directions."""
    return wire.traffic_control(
        wire.RTM_NEWQDISC, _CREATE, qdisc(_CLSACT), index=index, handle=CLSACT_HANDLE, parent=INGRESS
    )


def _end(session: Session, name: str) -> str:
    """Remove our filters and the reference's, and the qdisc if we made it and it has no other filter."""
    link = links.find(session, HOST, name)
    present = _redirections(session, link.ifindex) if link else []
    if link is None or not present:
        return UNCHANGED
    for item in present:
        _delete_filter(session, link.ifindex, item)
    if any(item.class_id == REDIRECT_IN_OWN for item in present):
        _delete_idle_qdisc(session, link.ifindex)
    return next((_name(item.target) for item in present), ABSENT)


def _delete_filter(session: Session, index: int, item: Redirection) -> None:
    message = wire.traffic_control(
        wire.RTM_DELTFILTER,
        NLM_F_ACK,
        qdisc("u32"),
        index=index,
        handle=item.handle,
        parent=CLSACT_INGRESS,
        info=item.info,
    )
    _call_if_present(session, message)


def _delete_idle_qdisc(session: Session, index: int) -> None:
    if _qdisc_kind(session, index) != _CLSACT:
        return
    if any(_filters(session, index, parent) for parent in (CLSACT_INGRESS, CLSACT_EGRESS)):
        return
    message = wire.traffic_control(
        wire.RTM_DELQDISC, NLM_F_ACK, index=index, handle=CLSACT_HANDLE, parent=INGRESS
    )
    _call_if_present(session, message)


def _call_if_present(session: Session, message: bytearray) -> None:
    try:
        session.rtnl(HOST).call(message)
    except Refused as err:
        if not is_absent(err):
            raise


# ---------------------------------------------------------------------------------------------- comparing


def _differs(session: Session, step: SetRedirect) -> str:
    link = links.find(session, HOST, step.link)
    if link is None:
        return links.missing(HOST, step.link)
    kind = _qdisc_kind(session, link.ifindex)
    found = [_name(item.target) for item in _redirections(session, link.ifindex)] if kind else []
    if found == ([step.ifb] if step.ifb else []):
        return ""
    if not kind:
        return f"link {step.link} has no clsact or ingress qdisc"
    leads = f"redirected to {found[0] or 'a link that is gone'}" if found else "not redirected"
    return f"what enters by link {step.link} is {leads}, not to {step.ifb or 'any link'}"


DEEDS = deed(SetRedirect, _set, _differs)
