"""Creates and compares veth pairs between sandbox and host."""

import errno

from cni_plugins.errors import NameTaken
from cni_plugins.kernel.deed import REMOVES, deed
from cni_plugins.kernel.links import create, links
from cni_plugins.kernel.links.link import Link
from cni_plugins.kernel.netlink import rtnetlink as wire
from cni_plugins.kernel.netlink.socket import Refused
from cni_plugins.kernel.session.session import Session
from cni_plugins.steps.links import AddVeth, DelVeth
from cni_plugins.steps.step import HOST, SANDBOX


def _add(session: Session, step: AddVeth) -> None:
    """Create the pair; the sandbox end is created in the sandbox, so its name never appears in the host."""
    sandbox_end = (
        wire.text(wire.IFLA_IFNAME, step.ifname),
        wire.mac(wire.IFLA_ADDRESS, step.mac),
        wire.number(wire.IFLA_NET_NS_FD, session.fd(SANDBOX)),
    )
    try:
        link = add_pair(session, (step.host_end, step.host_mac, step.alias), sandbox_end, step.mtu)
    except Refused as err:
        if err.errno == errno.EEXIST:
            raise NameTaken(
                f'container veth name ("{step.ifname}") peer provided ("{step.host_end}") already exists',
                f"CNI_IFNAME is {step.ifname}, CNI_NETNS is {session.path}",
            ) from err
        raise
    if link.peer:  # older kernels do not report it
        session.indexes[SANDBOX, step.ifname] = link.peer


def add_pair(session: Session, own: tuple[str, str, str], peer: tuple[bytes, ...], mtu: int) -> Link:
    """Create a veth pair and set the alias of the host end in one datagram, so that no signal can intervene.

    :param own: name, MAC (empty: chosen by the kernel) and alias of the host end.
    """
    name, mac, alias = own
    size = wire.number(wire.IFLA_MTU, mtu) if mtu else b""
    address = wire.mac(wire.IFLA_ADDRESS, mac) if mac else b""
    info = wire.kind_of_link("veth", wire.veth_peer(*peer, size))
    return create.add_named(session, name, alias, address, size, info)


def _differs(session: Session, step: AddVeth) -> str:
    link = links.find(session, SANDBOX, step.ifname)
    if link is None:
        return links.missing(SANDBOX, step.ifname)
    if link.kind != "veth":
        return f"link {step.ifname} in the sandbox is not a veth"
    # Its MTU is not compared: the reference's tuning plugin changes this end only, and does not report it.
    return links.mac_differs(link, step.mac) or _host_end_differs(session, step, link)


def _host_end_differs(session: Session, step: AddVeth, link: Link) -> str:
    host_end = links.find(session, HOST, step.host_end)
    if host_end is None:
        return links.missing(HOST, step.host_end)
    if host_end.ifindex != link.peer:
        return f"link {step.host_end} is not the other end of {step.ifname}"
    if step.mtu and host_end.mtu != step.mtu:
        return f"link {step.host_end} has mtu {host_end.mtu}, not {step.mtu}"
    if step.alias and host_end.alias != step.alias:
        return f"link {step.host_end} has lost the alias by which GC recognises it"
    return links.mac_differs(host_end, step.host_mac)


def _delete(session: Session, step: DelVeth) -> None:
    inside = links.find(session, SANDBOX, step.ifname) if session.sandbox is not None else None
    is_veth = inside is not None and inside.kind == "veth" and inside.peer
    found = (
        links.find(session, HOST, step.host_end),
        links.find(session, HOST, index=inside.peer) if inside is not None and is_veth else None,
    )
    names = (link.name for link in found if link is not None and link.alias == step.alias)
    for name in dict.fromkeys(names):
        links.delete(session, HOST, name)


DEEDS = deed(AddVeth, _add, _differs) | deed(DelVeth, _delete, REMOVES)
