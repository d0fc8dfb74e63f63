"""Links that are made: with a name, an alias, and nothing of either when that fails."""

import errno

from cni_plugins.errors import NameTaken
from cni_plugins.kernel import links
from cni_plugins.kernel import rtnl_wire as wire
from cni_plugins.kernel.attributes import packed
from cni_plugins.kernel.link import Link, decoded
from cni_plugins.kernel.session import Session
from cni_plugins.kernel.wire import NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, Refused
from cni_plugins.steps.links import AddVeth
from cni_plugins.steps.places import HOST, SANDBOX


def add_veth(session: Session, step: AddVeth) -> None:
    """Make the pair; the sandbox end is born in the sandbox and never bears its name in the host."""
    sandbox_end = (
        wire.text(wire.IFLA_IFNAME, step.ifname),
        wire.mac(wire.IFLA_ADDRESS, step.mac),
        wire.number(wire.IFLA_NET_NS_FD, session.fd(SANDBOX)),
    )
    try:
        made = add_pair(session, (step.host_end, step.host_mac, step.alias), sandbox_end, step.mtu)
    except Refused as err:
        if err.errno == errno.EEXIST:
            raise NameTaken(
                f'container veth name ("{step.ifname}") peer provided ("{step.host_end}") already exists',
                f"CNI_IFNAME is {step.ifname}, CNI_NETNS is {session.path}",
            ) from err
        raise
    if made.peer:  # older kernels do not say
        session.indexes[SANDBOX, step.ifname] = made.peer


def add_pair(session: Session, own: tuple[str, str, str], peer: tuple[bytes, ...], mtu: int) -> Link:
    """Make a veth pair and give the host's end its alias in one datagram, so that no signal comes between.

    :param own: name, MAC (empty: the kernel's choice) and alias of the host's end.
    """
    name, mac, alias = own
    size = wire.number(wire.IFLA_MTU, mtu) if mtu else b""
    address = wire.mac(wire.IFLA_ADDRESS, mac) if mac else b""
    info = wire.kind_of_link("veth", wire.veth_peer(*peer, size))
    return add_named(session, name, alias, address, size, info)


def add_named(session: Session, name: str, alias: str, *attrs: bytes) -> Link:
    """Make a link with an alias, and return what became of it."""
    named = wire.text(wire.IFLA_IFNAME, name)
    made = links.change(named, *attrs, asked=NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL)
    # Without its NUL, for which the kernel has no room when the alias has all the 255 bytes it may have.
    marked = links.change(named, packed(wire.IFLA_IFALIAS, alias.encode()))
    try:
        (answer,) = session.rtnl(HOST).call(made, marked, links.question(name, asked=NLM_F_ACK))
    except Refused as err:
        if err.position > 0:
            links.delete(session, HOST, name)
        raise
    link = decoded(answer)
    session.indexes[HOST, name] = link.ifindex
    return link
