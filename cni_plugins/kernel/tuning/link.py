"""Sets what a link in the sandbox receives, its transmit queue, and the MTU of its host end."""

from cni_plugins.errors import KernelRefused
from cni_plugins.kernel.deed import deed
from cni_plugins.kernel.links import in_sandboxes, links
from cni_plugins.kernel.links.link import IFF_ALLMULTI, IFF_PROMISC, Link
from cni_plugins.kernel.netlink import rtnetlink as wire
from cni_plugins.kernel.session.session import Session
from cni_plugins.steps.step import HOST, SANDBOX, UNCHANGED
from cni_plugins.steps.tuning import SetAllmulti, SetHostEndMtu, SetPromisc, SetTxQueueLen

_FLAGS = {SetPromisc: (IFF_PROMISC, "promiscuous"), SetAllmulti: (IFF_ALLMULTI, "all-multicast")}


def _set_flag(session: Session, step: SetPromisc | SetAllmulti) -> str:
    flag, _ = _FLAGS[type(step)]
    is_changed = links.set_flag(session, SANDBOX, step.link, flag, on=step.on)
    return ("off" if step.on else "on") if is_changed else UNCHANGED


def _flag_differs(session: Session, step: SetPromisc | SetAllmulti) -> str:
    flag, mode = _FLAGS[type(step)]
    link = links.find(session, SANDBOX, step.link)
    if link is None:
        return links.missing(SANDBOX, step.link)
    if bool(link.flags & flag) == step.on:
        return ""
    return f"link {step.link} is {'not ' if step.on else ''}in {mode} mode"


def _set_tx_queue_len(session: Session, step: SetTxQueueLen) -> str:
    link = links.get(session, SANDBOX, step.link)
    if link.tx_queue_len == step.length:
        return UNCHANGED
    length = wire.number(wire.IFLA_TXQLEN, step.length)
    links.send(session, links.set_message(length, index=link.ifindex), where=SANDBOX)
    return str(link.tx_queue_len)


def _is_tx_queue_len(session: Session, step: SetTxQueueLen) -> str:
    link = links.find(session, SANDBOX, step.link)
    if link is None:
        return links.missing(SANDBOX, step.link)
    if link.tx_queue_len == step.length:
        return ""
    return f"link {step.link} has a transmit queue of {link.tx_queue_len}, not {step.length}"


def host_end_of(session: Session, link: Link) -> Link | None:
    """Return the other end of a veth in the sandbox, if that is in the host.

    The index alone says little: other namespaces have links of the same index.
    """
    if link.kind != "veth" or link.peer_netns is None:
        return None
    if in_sandboxes.number_of(session, SANDBOX, session.host) != link.peer_netns:
        return None
    return links.find(session, HOST, index=link.peer)


def _set_host_end_mtu(session: Session, step: SetHostEndMtu) -> str:
    found = host_end_of(session, links.get(session, SANDBOX, step.link))
    if found is None or found.name != step.host_end:
        raise KernelRefused(
            f"link {step.host_end} is not the host end of {step.link}", f"CNI_NETNS is {session.path}"
        )
    if found.mtu == step.mtu:
        return UNCHANGED
    links.send(session, links.set_message(wire.number(wire.IFLA_MTU, step.mtu), index=found.ifindex))
    return str(found.mtu)


def _is_host_end_mtu(session: Session, step: SetHostEndMtu) -> str:
    found = links.find(session, HOST, step.host_end)
    if found is None:
        return links.missing(HOST, step.host_end)
    return "" if found.mtu == step.mtu else f"link {step.host_end} has mtu {found.mtu}, not {step.mtu}"


DEEDS = (
    deed(SetPromisc, _set_flag, _flag_differs)
    | deed(SetAllmulti, _set_flag, _flag_differs)
    | deed(SetTxQueueLen, _set_tx_queue_len, _is_tx_queue_len)
    | deed(SetHostEndMtu, _set_host_end_mtu, _is_host_end_mtu)
)
