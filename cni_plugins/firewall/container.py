"""Reads from prevResult what packets of the container are recognised by: its addresses, links and bridges."""

from typing import NamedTuple

from cni_plugins.contract.facts import Facts
from cni_plugins.contract.prev_result import host_end, host_interfaces
from cni_plugins.errors import InvalidNetworkConfig, StateDrifted
from cni_plugins.protocol.fields import IPAddress
from cni_plugins.protocol.ifnames import ifname_fault
from cni_plugins.protocol.request import Request

_ON_THE_WIRE = ("macvlan", "macvtap", "ipvlan", "ipvtap")  # their packets are not forwarded by the host
# nft(8) prints comments in quotation marks, and their words are separated by spaces.
_UNUSUAL = frozenset("\"\\{}#;$'`% ")


class Place(NamedTuple):
    """Where a container is attached to the host.

    :param bridges: the links by which its packets enter and leave the host: a bridge, a gateway's link of a
        VLAN, or its own host end, where that is no port.
    :param port: its host end.
    :param is_port: whether that is a port of a bridge.
    """

    bridges: tuple[str, ...]
    port: str
    is_port: bool


def addresses(request: Request) -> tuple[IPAddress, ...]:
    """Return the container's addresses, without those of other interfaces; none without prevResult."""
    result = request.prev_result
    if result is None:
        return ()
    listed = result.interfaces
    own = {n for n, item in enumerate(listed) if item.name == request.ifname and item.sandbox}
    return tuple(
        dict.fromkeys(
            ip.address.ip
            for ip in result.ips
            if ip.interface is None or ip.interface in own or ip.interface >= len(listed)
        )
    )


def host_links(request: Request) -> tuple[str, ...]:
    """Return the names of the host's links in prevResult, without those that no link can have."""
    return tuple(name for name in host_interfaces(request) if is_usual(name))


def is_usual(name: str) -> bool:
    return name.isascii() and not ifname_fault(name) and _UNUSUAL.isdisjoint(name)


def outer_link(request: Request, policy: str) -> str:
    """Return the name of the host end.

    :raises InvalidNetworkConfig: when prevResult lists none: the container is not attached to the host.
    """
    outer = host_end(request)
    if outer is None:
        raise InvalidNetworkConfig(
            f'interface needs to be set for ingress policy "{policy}", '
            'make sure to chain "firewall" plugin with "bridge"',
            f"prevResult lists no link of the host before {request.ifname}",
        )
    if not is_usual(outer.name):
        raise InvalidNetworkConfig("prevResult lists a link that cannot be named in a rule", repr(outer.name))
    return outer.name


def place(request: Request, policy: str, facts: Facts) -> Place:
    """Return where the container is attached.

    :raises InvalidNetworkConfig: when the host does not forward its packets; in CHECK StateDrifted, when the
        link is gone.
    """
    name = outer_link(request, policy)
    link = facts.host.get(name)
    if link is None:
        kind = StateDrifted if request.command == "CHECK" else InvalidNetworkConfig
        raise kind(f"link {name} not found", "prevResult lists it as a link of the host")
    if link.kind in _ON_THE_WIRE:
        raise InvalidNetworkConfig(
            f'ingress policy "{policy}" needs a container whose packets the host forwards',
            f"{name} is a {link.kind} link",
        )
    known = {link.master or name, *host_links(request)}
    ways = {hop.link for hop in facts.routes_to.values()} & known
    return Place(tuple(sorted(ways)) or (link.master or name,), name, bool(link.master))
