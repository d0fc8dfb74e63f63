"""Reads what leads to an overlay's peers in the kernel: forwarding entries, neighbours, MTUs of links."""

from collections.abc import Mapping
from ipaddress import ip_address
from typing import NamedTuple

from cni_plugins.kernel.links import links
from cni_plugins.kernel.overlay import tables
from cni_plugins.kernel.session.session import Session
from cni_plugins.protocol.fields import IPAddress
from cni_plugins.steps.step import HOST

_MAC = 6  # bytes
_ADDRESSES = (4, 16)  # bytes


class Reach(NamedTuple):
    """The tables of an overlay's links.

    :param to: of the VXLAN link: the VTEPs to which it sends frames for each MAC address.
    :param behind: MAC addresses that the bridge finds behind the VXLAN link.
    :param neighbours: the MAC address of each permanent neighbour.
    :param mtus: of the links, by their names.
    """

    to: Mapping[str, frozenset[IPAddress]]
    behind: frozenset[str]
    neighbours: Mapping[IPAddress, str]
    mtus: Mapping[str, int]


NOWHERE = Reach({}, frozenset(), {}, {})


def look(session: Session, vxlan: str, at: str, others: tuple[str, ...] = ()) -> Reach:
    """Return the tables; what does not exist has no entries.

    :param vxlan: the VXLAN link, empty if there is none.
    :param at: the link whose neighbours the peers are.
    :param others: further links of which to return the MTU.
    """
    names = dict.fromkeys(filter(None, (vxlan, at, *others)))
    looked_up = ((name, links.find(session, HOST, name)) for name in names)
    found = {name: link for name, link in looked_up if link is not None}
    to: dict[str, frozenset[IPAddress]] = {}
    behind: frozenset[str] = frozenset()
    if vxlan in found:
        own, port = tables.forwarding(session, found[vxlan])
        for key, (value, _) in own.present.items():
            mac, target = key[:_MAC], key[_MAC:] or value
            if len(target) in _ADDRESSES:
                name = mac.hex(":")
                to[name] = to.get(name, frozenset()) | {ip_address(target)}
        behind = frozenset(key[:_MAC].hex(":") for key in port.present)
    there = tables.neighbours(session, found[at]).present if at in found else {}
    return Reach(
        to,
        behind,
        {ip_address(key): value.hex(":") for key, (value, _) in there.items()},
        {name: link.mtu for name, link in found.items()},
    )
