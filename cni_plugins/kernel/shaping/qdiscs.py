"""Looks up the qdisc at one place of a link."""

import errno

from cni_plugins.kernel.netlink import rtnetlink as wire
from cni_plugins.kernel.netlink.socket import NLM_F_ACK, NLM_F_ECHO, Refused
from cni_plugins.kernel.netlink.traffic_control import Qdisc, read_qdisc
from cni_plugins.kernel.session.session import Session
from cni_plugins.steps.step import HOST


def find(session: Session, index: int, parent: int) -> Qdisc | None:
    """Return the qdisc of a host link at a parent, None if there is none but the kernel's default one.

    The kernel does not describe the default one: it only acknowledges the request, or refuses it. It answers
    with a notification (qdisc_get_notify), which the caller gets on request.
    """
    asked = NLM_F_ACK | NLM_F_ECHO
    message = wire.traffic_control(wire.RTM_GETQDISC, asked, index=index, parent=parent)
    try:
        answers = session.rtnl(HOST).call(message)
    except Refused as err:
        if err.errno in (errno.EINVAL, errno.ENOENT):
            return None
        raise
    found = read_qdisc(answers[0]) if answers else None
    return found if found and found.handle else None
