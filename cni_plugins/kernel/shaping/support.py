"""Finds out whether this kernel can limit bandwidth, and names the module that it lacks."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from cni_plugins.errors import KernelRefused
from cni_plugins.kernel.links import links
from cni_plugins.kernel.netlink import rtnetlink as wire
from cni_plugins.kernel.netlink.socket import NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, Refused
from cni_plugins.kernel.netlink.traffic_control import (
    CLSACT_HANDLE,
    CLSACT_INGRESS,
    INGRESS,
    ROOT,
    BucketSettings,
    filter_info,
    matching_all,
    qdisc,
    redirection,
    token_bucket,
)
from cni_plugins.kernel.session import netns
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import BUCKET_HANDLE, REDIRECT_IN_OWN, REDIRECT_PRIORITY
from cni_plugins.steps.step import HOST

_PROBE = "probe"
_CREATE = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL


@contextmanager
def needs(module: str) -> Iterator[None]:
    """Run a block that creates something.

    :raises KernelRefused: naming the module, if the kernel does not know what is to be created.
    """
    try:
        yield
    except Refused as err:
        if err.errno not in (errno.ENOENT, errno.EOPNOTSUPP):
            raise
        details = ", ".join(filter(None, (f"errno {err.errno}", err.hint)))
        raise KernelRefused(f"this kernel lacks the module {module}", details, err.errno) from err


def lacking(session: Session) -> str:
    """Return the module that the kernel lacks, empty if it has all.

    Each is tried in an empty network namespace, and loaded by that where it is installed.
    """
    with netns.throw_away(session.host), Session(None) as empty:
        try:
            with needs("ifb"):
                named = wire.text(wire.IFLA_IFNAME, _PROBE)
                links.send(empty, links.set_message(named, wire.kind_of_link("ifb"), asked=_CREATE))
            _try_on(empty, links.get(empty, HOST, _PROBE).ifindex)
        except KernelRefused as err:
            return err.msg.rpartition(" ")[2]
    return ""


def _try_on(empty: Session, index: int) -> None:
    for module, message in _messages(index):
        with needs(module):
            links.send(empty, message)


def _messages(index: int) -> Iterator[tuple[str, bytearray]]:
    """Yield a module with the message that needs it, and those before it."""
    bucket = token_bucket(BucketSettings(rate=1_000_000, limit=100_000, buffer=1_000_000))
    yield (
        "sch_tbf",
        wire.traffic_control(
            wire.RTM_NEWQDISC, _CREATE, bucket, index=index, handle=BUCKET_HANDLE, parent=ROOT
        ),
    )
    yield (
        "sch_ingress",
        wire.traffic_control(
            wire.RTM_NEWQDISC, _CREATE, qdisc("clsact"), index=index, handle=CLSACT_HANDLE, parent=INGRESS
        ),
    )
    for module, attrs in (
        ("cls_u32", matching_all(REDIRECT_IN_OWN)),
        ("act_mirred", redirection(REDIRECT_IN_OWN, index)),
    ):
        info = filter_info(REDIRECT_PRIORITY)
        message = wire.traffic_control(
            wire.RTM_NEWTFILTER, _CREATE, attrs, index=index, parent=CLSACT_INGRESS, info=info
        )
        yield module, message
