"""Answers what a plugin asks, and nothing more."""

import socket
import struct
from collections.abc import Iterator, Mapping

from cni_plugins.contract.facts import NO_USERS, NO_WAYS, Asks, Facts, LinkFacts, LinkUser, Way
from cni_plugins.kernel import addresses, iptables, links, netns, nft_look, sysctl
from cni_plugins.kernel import rtnl_wire as wire
from cni_plugins.kernel.attributes import attributes, packed
from cni_plugins.kernel.link import Link
from cni_plugins.kernel.rtnl_wire import read_number
from cni_plugins.kernel.session import Session
from cni_plugins.kernel.wire import NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, Answer, Refused
from cni_plugins.spec.attachment import ALIAS_PREFIX
from cni_plugins.spec.fields import IPAddress
from cni_plugins.steps.places import HOST, SANDBOX, Place

_TABLE_MAIN = 254
_RTN_UNICAST = 1
_PROBE = "probe"
_VXLAN_PORT = 4789  # RFC 7348, 5
# What a link of a kind cannot be made without.
_SMALLEST = {
    "vlan": (packed(wire.IFLA_VLAN_ID, struct.pack("=H", 1)),),
    "macvlan": (),
    "vxlan": (wire.number(wire.IFLA_VXLAN_ID, 1), wire.port(wire.IFLA_VXLAN_PORT, _VXLAN_PORT)),
}
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


def observe(session: Session, asks: Asks) -> Facts:
    """Return the facts; links that do not exist are absent from the mappings."""
    sandboxed = session.sandbox is not None
    host = _found(session, HOST, asks.host)
    sandbox = _found(session, SANDBOX, asks.sandbox) if sandboxed else {}
    return Facts(
        host={name: _facts(session, HOST, link) for name, link in host.items()},
        sandbox={name: _inside(session, link, host) for name, link in sandbox.items()},
        default_route=_way_out(session, asks),
        of_kinds=tuple(_of_kinds(session, asks.kinds)),
        users=_users(session) if asks.users else NO_USERS,
        cannot_make=tuple(kind for kind in asks.makes if not _can_make(session, kind)),
        owned=_owned(session) if asks.owned else (),
        addressed=_addressed(session) if asks.addressed else (),
        ways=_ways(session, asks) if asks.ways else NO_WAYS,
        udp_port_taken=bool(asks.udp_port) and _port_taken(session, asks),
        has_sandbox=sandboxed,
        vlan_filtering=not asks.vlan_filtering or _can_filter_vlans(session),
        nf_tables=not asks.nf_tables or nft_look.usable(session),
        iptables=not asks.iptables or iptables.installed(),
        ipv6_in_sandbox=not asks.ipv6_in_sandbox or sysctl.has_ipv6(session, "lo"),
        host_seed=_host_seed(session),
    )


def _found(session: Session, where: Place, names: tuple[str, ...]) -> dict[str, Link]:
    found = ((name, links.find(session, where, name)) for name in names)
    return {name: link for name, link in found if link is not None}


def _facts(
    session: Session, where: Place, link: Link, known: list[addresses.Present] | None = None
) -> LinkFacts:
    present = addresses.on_link(session, where, link.ifindex) if known is None else known
    return LinkFacts(
        name=link.name,
        ifindex=link.ifindex,
        kind=link.kind,
        mac=link.mac,
        mtu=link.mtu,
        up=link.up,
        alias=link.alias,
        addresses=tuple(item.address for item in present),
        main_addresses=tuple(item.address for item in present if item.main),
        master=_name(link.master) if where == HOST else "",
        lower=link.peer if link.peer_netns is None else 0,
        vlan=link.vlan,
        vxlan=(vxlan.vni, vxlan.port) if (vxlan := link.vxlan) else (0, 0),
        loopback=link.loopback,
        ethernet=link.ethernet,
    )


def _inside(session: Session, link: Link, host: dict[str, Link]) -> LinkFacts:
    """Return facts of a link of the sandbox: of a veth, the other end's too."""
    facts = _facts(session, SANDBOX, link)
    if link.kind != "veth":
        return facts
    seen = next((other for other in host.values() if other.ifindex == link.peer), None)
    peer = seen or links.find(session, HOST, index=link.peer)
    if peer is None:
        return facts
    return facts._replace(peer=peer.name, peer_alias=peer.alias, peer_master=_name(peer.master))


def _name(index: int) -> str:
    """Return the name of a host link, empty when there is none (any more)."""
    try:
        return socket.if_indextoname(index) if index else ""
    except OSError:
        return ""


def _owned(session: Session) -> tuple[LinkFacts, ...]:
    ours = (link for link in links.every(session, HOST) if link.alias.startswith(ALIAS_PREFIX))
    return tuple(_facts(session, HOST, link, []) for link in ours)


def _addressed(session: Session) -> tuple[LinkFacts, ...]:
    """Return the links with addresses other than those that the kernel gives by itself."""
    from cni_plugins.kernel import underlay

    found = (links.find(session, HOST, index=index) for index in underlay.addressed(session))
    told = (_facts(session, HOST, link) for link in found if link is not None)
    return tuple(
        facts
        for facts in told
        if not all(item.ip.is_link_local or item.ip.is_loopback for item in facts.addresses)
    )


def _ways(session: Session, asks: Asks) -> Mapping[IPAddress, Way]:
    from cni_plugins.kernel import underlay

    return underlay.ways(session, asks.ways)


def _port_taken(session: Session, asks: Asks) -> bool:
    from cni_plugins.kernel import underlay

    return underlay.port_taken(session, asks.udp_port)


def _of_kinds(session: Session, kinds: tuple[str, ...]) -> Iterator[LinkFacts]:
    present = addresses.by_link(session, HOST) if kinds else {}
    return (
        _facts(session, HOST, link, present.get(link.ifindex, []))
        for kind in kinds
        for link in links.of_kind(session, kind)
    )


def _users(session: Session) -> Mapping[int, tuple[LinkUser, ...]]:
    from cni_plugins.kernel import macvlans

    return macvlans.users(session)


def _way_out(session: Session, asks: Asks) -> LinkFacts | None:
    if asks.sandbox_default_route:
        return _default_route(session, SANDBOX) if session.sandbox is not None else None
    return _default_route(session, HOST) if asks.default_route else None


def _default_route(session: Session, where: Place) -> LinkFacts | None:
    """Return the link of the default route with the lowest metric, IPv4 before IPv6."""
    found = []
    for family in (4, 6):
        head, table = wire.RouteHead(wire.FAMILY[family]), wire.number(wire.RTA_TABLE, _TABLE_MAIN)
        answers = session.rtnl(where).dump(wire.route(wire.RTM_GETROUTE, NLM_F_DUMP, head, table))
        found += [(family, *way) for answer in answers if (way := _default_way(answer))]
    for _, _, index in sorted(found):
        link = links.find(session, where, index=index)
        if link is not None:
            return _facts(session, where, link)
    return None


def _default_way(answer: Answer) -> tuple[int, int] | None:
    """Return (metric, link index) of a default route, None for any other."""
    head = wire.RouteHead(*wire.RTMSG.unpack_from(answer.data, wire.BODY))
    if head.dst_len or head.kind != _RTN_UNICAST:
        return None
    found = dict(attributes(answer.data, wire.BODY + wire.RTMSG.size))
    hops = found.get(wire.RTA_MULTIPATH)
    index = wire.RTNEXTHOP.unpack_from(hops)[3] if hops else read_number(found.get(wire.RTA_OIF))
    return (read_number(found.get(wire.RTA_PRIORITY)), index) if index else None


def _can_filter_vlans(session: Session) -> bool:
    """Try it in a network namespace of its own: a kernel without it ignores the request, or refuses it."""
    with netns.throw_away(session.host), Session(None) as empty:
        info = wire.kind_of_link("bridge", wire.octet(wire.IFLA_BR_VLAN_FILTERING, 1))
        asked = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
        try:
            links.modify(empty, links.change(wire.text(wire.IFLA_IFNAME, _PROBE), info, asked=asked))
        except Refused:
            return False
        return links.get(empty, HOST, _PROBE).vlan_filtering is True


def _can_make(session: Session, kind: str) -> bool:
    """Try it on a veth pair, in a network namespace of its own."""
    asked = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
    with netns.throw_away(session.host), Session(None) as empty:
        pair = wire.kind_of_link("veth", wire.veth_peer(wire.text(wire.IFLA_IFNAME, f"{_PROBE}1")))
        try:
            links.modify(empty, links.change(wire.text(wire.IFLA_IFNAME, _PROBE), pair, asked=asked))
            lower = wire.number(wire.IFLA_LINK, links.get(empty, HOST, _PROBE).ifindex)
            named = wire.text(wire.IFLA_IFNAME, f"{_PROBE}2")
            info = wire.kind_of_link(kind, *_SMALLEST[kind])
            links.modify(empty, links.change(named, lower, info, asked=asked))
        except Refused:
            return False
    return True


def _host_seed(session: Session) -> str:
    """Boot id and network namespace: what tells this host from any other, and this boot from the last."""
    return f"{sysctl.read_file(_BOOT_ID)}:{netns.identity(session.host)}"
