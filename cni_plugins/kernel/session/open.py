"""Opens the session of a request, with the sandbox it names; a DEL may have a sandbox that is gone."""

from cni_plugins.errors import InvalidNetns
from cni_plugins.kernel.session import netns
from cni_plugins.kernel.session.session import Residence, Session
from cni_plugins.protocol.request import Request


def open_session(request: Request, residence: Residence | None) -> Session:
    """Open the session and its sandbox, before anything is changed.

    :raises InvalidNetns: for ADD and CHECK if CNI_NETNS is not a network namespace; for any command if it is
        the plugin's own.
    """
    if request.command in ("GC", "STATUS") or not request.netns:
        return Session(None, residence=residence)
    try:
        fd = netns.open_sandbox(request.netns)
    except InvalidNetns:
        if request.command != "DEL":
            raise
        return Session(None, residence=residence)
    if not _may_be_own(request):
        netns.refuse_own(fd, request.netns)
    return Session(fd, request.netns, residence)


def _may_be_own(request: Request) -> bool:
    return request.environment.get("CNI_NETNS_OVERRIDE", "").lower() in ("1", "true")
