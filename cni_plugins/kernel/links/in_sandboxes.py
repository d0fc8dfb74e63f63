"""Finds and deletes links in sandboxes by the netns ids of the host, without a path or descriptor.

The kernel assigns netns ids per namespace (`ip netns list-id`). A sandbox gets an id in the host when a link
is created in it that has no end in the host, and loses the id when it is destroyed.
"""

import errno
import sys
from contextlib import suppress

from cni_plugins.kernel.links import links
from cni_plugins.kernel.links.link import Link
from cni_plugins.kernel.netlink import rtnetlink as wire
from cni_plugins.kernel.netlink.attributes import attributes
from cni_plugins.kernel.netlink.rtnetlink import BODY
from cni_plugins.kernel.netlink.socket import NLM_F_ACK, NLM_F_DUMP, Answer, Refused, is_absent
from cni_plugins.kernel.session.session import Session
from cni_plugins.steps.step import HOST, SANDBOX, Place

_BODY = BODY + 4  # struct rtgenmsg and its padding
_NONE = -1


def make_known(session: Session) -> None:
    """Assign a netns id to the sandbox in the host, unless it has one."""
    sandbox, any_number = (
        wire.number(wire.NETNSA_FD, session.fd(SANDBOX)),
        wire.signed(wire.NETNSA_NSID, _NONE),
    )
    try:
        session.rtnl(HOST).call(wire.namespace(wire.RTM_NEWNSID, NLM_F_ACK, sandbox, any_number))
    except Refused as err:
        if err.errno != errno.EEXIST:
            raise


def links_in_sandboxes(session: Session, kind: str) -> list[tuple[int, Link]]:
    """Return the links of one kind in every sandbox, with the netns id of the sandbox.

    The host may have an id for itself, which is skipped.
    """
    numbers = [
        _number(answer) for answer in session.rtnl(HOST).dump(wire.namespace(wire.RTM_GETNSID, NLM_F_DUMP))
    ]
    own, found = own_number(session), []
    for number in numbers:
        if number == own:
            continue
        with suppress(Refused):  # it was destroyed meanwhile, or we may not access it
            found += [(number, link) for link in links.of_kind(session, kind, number)]
    return found


def own_number(session: Session) -> int | None:
    """Return the host's netns id for itself; without one, no link in another namespace refers to the host."""
    return number_of(session, HOST, session.host)


def number_of(session: Session, where: Place, fd: int) -> int | None:
    """Return the netns id that a place has for an open namespace, None if it has none."""
    request = wire.namespace(wire.RTM_GETNSID, 0, wire.number(wire.NETNSA_FD, fd))
    number = _number(session.rtnl(where).ask(request))
    return None if number == _NONE else number


def is_host(session: Session, number: int | None) -> bool:
    """Say whether a netns id in the sandbox is that of the host; None is the sandbox itself."""
    request = wire.namespace(wire.RTM_GETNSID, 0, wire.number(wire.NETNSA_FD, session.host))
    return number is not None and _number(session.rtnl(SANDBOX).ask(request)) == number


def delete(session: Session, number: int, index: int) -> None:
    """Remove a link in a sandbox; it may be absent."""
    target = wire.signed(wire.IFLA_TARGET_NETNSID, number)
    try:
        session.rtnl(HOST).call(wire.link(wire.RTM_DELLINK, NLM_F_ACK, target, index=index))
    except Refused as err:
        if not (is_absent(err) or err.errno == errno.EINVAL):
            raise


def _number(answer: Answer) -> int:
    value = dict(attributes(answer.data, _BODY))[wire.NETNSA_NSID]
    return int.from_bytes(value, sys.byteorder, signed=True)
