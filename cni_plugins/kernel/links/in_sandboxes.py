"""The sandboxes that the host knows by number, and what is in them: no descriptor and no path is needed.

The kernel numbers namespaces for one another (`ip netns list-id`). A sandbox gets its number in the host when
a link is put into it that leaves nothing in the host, and loses it with its end.
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
from cni_plugins.steps.step import HOST, SANDBOX

_BODY = BODY + 4  # struct rtgenmsg and its padding
_NONE = -1


def make_known(session: Session) -> None:
    """Have the host number the sandbox, if it does not yet."""
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
    """Return the links of one kind in every sandbox, with the sandbox's number.

    The host may have a number for itself, and is no sandbox even so.
    """
    numbers = [
        _number(answer) for answer in session.rtnl(HOST).dump(wire.namespace(wire.RTM_GETNSID, NLM_F_DUMP))
    ]
    own, found = own_number(session), []
    for number in numbers:
        if number == own:
            continue
        with suppress(Refused):  # its end came between, or it is none that we may look into
            found += [(number, link) for link in links.of_kind(session, kind, number)]
    return found


def own_number(session: Session) -> int | None:
    """Return the number by which the host knows itself; without one, nothing elsewhere refers to it."""
    question = wire.namespace(wire.RTM_GETNSID, 0, wire.number(wire.NETNSA_FD, session.host))
    number = _number(session.rtnl(HOST).ask(question))
    return None if number == _NONE else number


def delete(session: Session, number: int, index: int) -> None:
    """Remove a link of a sandbox; it need not be there."""
    target = wire.signed(wire.IFLA_TARGET_NETNSID, number)
    try:
        session.rtnl(HOST).call(wire.link(wire.RTM_DELLINK, NLM_F_ACK, target, index=index))
    except Refused as err:
        if not (is_absent(err) or err.errno == errno.EINVAL):
            raise


def _number(answer: Answer) -> int:
    value = dict(attributes(answer.data, _BODY))[wire.NETNSA_NSID]
    return int.from_bytes(value, sys.byteorder, signed=True)
