"""Creates a link with name and alias in one batch; on failure nothing is left."""

from cni_plugins.kernel.links import links
from cni_plugins.kernel.links.link import Link, decoded
from cni_plugins.kernel.netlink import rtnetlink as wire
from cni_plugins.kernel.netlink.attributes import packed
from cni_plugins.kernel.netlink.socket import NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, Refused
from cni_plugins.kernel.session.session import Session
from cni_plugins.steps.step import HOST


def add_named(session: Session, name: str, alias: str, *attrs: bytes) -> Link:
    """Create a link in the host, and return it as the kernel describes it."""
    named = wire.text(wire.IFLA_IFNAME, name)
    creation = links.set_message(named, *attrs, asked=NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL)
    # Without terminating NUL, for which the kernel has no space if the alias has the maximum of 255 bytes.
    set_alias = links.set_message(named, packed(wire.IFLA_IFALIAS, alias.encode()))
    try:
        (answer,) = session.rtnl(HOST).call(creation, set_alias, links.get_message(name, asked=NLM_F_ACK))
    except Refused as err:
        if err.position > 0:
            links.delete(session, HOST, name)
        raise
    link = decoded(answer)
    session.indexes[HOST, name] = link.ifindex
    return link
