"""Collects the facts that a plugin asks for, and no others."""

import socket
from collections.abc import Iterator, Mapping
from functools import partial

from cni_plugins.contract.facts import (
    NO_ROUTES,
    NO_USERS,
    Asks,
    Facts,
    ForwardFilter,
    ForwardFilterAsks,
    LinkFacts,
    LinkUser,
    NextHop,
    RouteFacts,
    RuleFacts,
)
from cni_plugins.kernel.ip import addresses, sysctl
from cni_plugins.kernel.links import links
from cni_plugins.kernel.links.link import Link
from cni_plugins.kernel.session import netns
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import ALIAS_PREFIX
from cni_plugins.protocol.fields import IPAddress
from cni_plugins.steps.forwarded import Flow
from cni_plugins.steps.step import HOST, SANDBOX, Place

_BOOT_ID = "/proc/sys/kernel/random/boot_id"


def observe(session: Session, asks: Asks) -> Facts:
    """Return the facts; links that do not exist are absent from the mappings."""
    sandboxed = session.sandbox is not None
    if asks.free_tables:
        session.hold_sandbox()
    host = _found_in_host(session, asks.host)
    found = _found(session, SANDBOX, asks.sandbox) if sandboxed else {}
    sandbox = {
        name: _sandbox_facts(session, link, host, is_sure=name == asks.redirected)
        for name, link in found.items()
    }
    return Facts(
        host={name: _host_facts(session, link) for name, link in host.items()},
        sandbox=sandbox,
        default_route=_default_route_facts(session, asks),
        of_kinds=tuple(_of_kinds(session, asks.kinds)),
        macvlan_users=_macvlan_users(session) if asks.macvlan_users else NO_USERS,
        unsupported_kinds=_unsupported(session, asks),
        owned=_owned(session) if asks.owned else (),
        addressed=_addressed(session) if asks.addressed else (),
        routes_to=_routes_to(session, asks) if asks.routes_to else NO_ROUTES,
        udp_port_taken=bool(asks.udp_port) and _is_port_taken(session, asks),
        has_sandbox=sandboxed,
        vlan_filtering=not asks.vlan_filtering or _can_filter_vlans(session),
        is_full=bool(asks.full) and _is_full(session, asks.full),
        has_uplink=bool(asks.uplink_of) and _has_uplink(session, asks.uplink_of),
        nf_tables=not asks.nf_tables or _has_nf_tables(session),
        iptables=not asks.iptables or _has_iptables(),
        nft=not asks.nft or _has_nft(),
        lacks_port_maps=_lacks_port_maps(session) if asks.port_maps else "",
        lacks_for_shaping=_lacks_for_shaping(session) if asks.shaping else "",
        redirected_to=_redirected_to(session, sandbox.get(asks.redirected)),
        ipv6_in_sandbox=not asks.ipv6_in_sandbox or sysctl.has_ipv6(session, "lo"),
        rules=_rules(session) if asks.rules and sandboxed else (),
        routes=_routes_of(session, asks.routes_of) if asks.routes_of and sandboxed else None,
        free_tables=_free_tables(session, asks.free_tables) if asks.free_tables else (),
        without_rules=_without_rules(session) if asks.policy_routing else (),
        backup_dir_fault=_backup_dir_fault(asks.backup_dir) if asks.backup_dir else "",
        forward_filter=_forward_filter(session, asks.forward_filter)
        if asks.forward_filter
        else ForwardFilter(),
        dropped_by=_dropped_by(session, asks.forwarded) if asks.forwarded else (),
        filters_frames=not asks.filters_frames or _filters_frames(session),
        host_seed=_host_seed(session),
    )


def _found(session: Session, where: Place, names: tuple[str, ...]) -> dict[str, Link]:
    found = ((name, links.find(session, where, name)) for name in names)
    return {name: link for name, link in found if link is not None}


def _found_in_host(session: Session, names: tuple[str, ...]) -> dict[str, Link]:
    found = (
        (name, session.remembered(("link", name), partial(links.find, session, HOST, name))) for name in names
    )
    return {name: link for name, link in found if link is not None}


def _host_facts(session: Session, link: Link) -> LinkFacts:
    return session.remembered(("facts", link.name), partial(_facts, session, HOST, link))


def _facts(
    session: Session, where: Place, link: Link, known: list[addresses.Address] | None = None
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
        altnames=link.altnames,
    )


def _sandbox_facts(session: Session, link: Link, host: dict[str, Link], *, is_sure: bool) -> LinkFacts:
    """Return facts about a link in the sandbox; for a veth, about its other end as well.

    :param is_sure: only if that end is known to be in the host.
    """
    facts = _facts(session, SANDBOX, link)
    if link.kind != "veth":
        return facts
    facts = facts._replace(peer_index=link.peer)
    known = next((other for other in host.values() if other.ifindex == link.peer), None)
    peer = known or links.find(session, HOST, index=link.peer)
    if peer is None or (is_sure and not _is_other_end(session, peer, link)):
        return facts
    return facts._replace(
        peer=peer.name, peer_alias=peer.alias, peer_master=_name(peer.master), peer_mtu=peer.mtu
    )


def _is_other_end(session: Session, peer: Link, link: Link) -> bool:
    """Say whether a host link is a veth's other end: that may be elsewhere, and have the same index there."""
    from cni_plugins.kernel.links import in_sandboxes

    return peer.peer == link.ifindex and in_sandboxes.is_host(session, link.peer_netns)


def _name(index: int) -> str:
    """Return the name of a host link, empty if it does not exist (any more)."""
    try:
        return socket.if_indextoname(index) if index else ""
    except OSError:
        return ""


def _owned(session: Session) -> tuple[LinkFacts, ...]:
    ours = (link for link in links.every(session, HOST) if link.alias.startswith(ALIAS_PREFIX))
    return tuple(_facts(session, HOST, link, []) for link in ours)


def _addressed(session: Session) -> tuple[LinkFacts, ...]:
    """Return the links with addresses other than those that the kernel assigns itself."""
    found = (links.find(session, HOST, index=index) for index in addresses.links_with_addresses(session))
    present = (_facts(session, HOST, link) for link in found if link is not None)
    return tuple(
        facts
        for facts in present
        if not all(item.ip.is_link_local or item.ip.is_loopback for item in facts.addresses)
    )


def _routes_to(session: Session, asks: Asks) -> Mapping[IPAddress, NextHop]:
    from cni_plugins.kernel.ip import route_lookup

    return route_lookup.routes_to(session, asks.routes_to)


def _has_nf_tables(session: Session) -> bool:
    from cni_plugins.kernel.firewall import read

    return read.usable(session)


def _has_iptables() -> bool:
    from cni_plugins.kernel.firewall import iptables

    return iptables.installed()


def _has_nft() -> bool:
    from cni_plugins.kernel.firewall import port_rules

    return port_rules.installed()


def _lacks_port_maps(session: Session) -> str:
    from cni_plugins.kernel.firewall import port_maps

    return port_maps.lacking(session)


def _backup_dir_fault(path: str) -> str:
    from cni_plugins.kernel.tuning import backup_dir

    return backup_dir.fault_of(path)


def _lacks_for_shaping(session: Session) -> str:
    from cni_plugins.kernel.shaping import support

    return support.lacking(session)


def _redirected_to(session: Session, inside: LinkFacts | None) -> str:
    if inside is None or not inside.peer:
        return ""
    from cni_plugins.kernel.shaping import redirect

    return redirect.target_of(session, inside.peer_index)


def _forward_filter(session: Session, asks: ForwardFilterAsks) -> ForwardFilter:
    from cni_plugins.kernel.firewall import forward_facts

    return forward_facts.look(session, asks)


def _dropped_by(session: Session, flows: tuple[Flow, ...]) -> tuple[str, ...]:
    from cni_plugins.kernel.firewall import forward_drops

    return forward_drops.sentences(session, flows)


def _filters_frames(session: Session) -> bool:
    from cni_plugins.kernel.firewall import forward_facts

    return forward_facts.filters_frames(session)


def _unsupported(session: Session, asks: Asks) -> tuple[str, ...]:
    if not asks.unsupported_kinds:
        return ()
    from cni_plugins.kernel import capabilities

    return tuple(kind for kind in asks.unsupported_kinds if not capabilities.can_create(session, kind))


def _can_filter_vlans(session: Session) -> bool:
    from cni_plugins.kernel import capabilities

    return capabilities.can_filter_vlans(session)


def _is_full(session: Session, bridge: str) -> bool:
    from cni_plugins.kernel.links import bridge as bridges

    return bridges.is_full(session, bridge)


def _has_uplink(session: Session, bridge: str) -> bool:
    from cni_plugins.kernel.links import bridge as bridges

    return bridges.has_uplink(session, bridge)


def _is_port_taken(session: Session, asks: Asks) -> bool:
    from cni_plugins.kernel import capabilities

    return capabilities.is_port_taken(session, asks.udp_port)


def _of_kinds(session: Session, kinds: tuple[str, ...]) -> Iterator[LinkFacts]:
    present = addresses.by_link(session, HOST) if kinds else {}
    return (
        _facts(session, HOST, link, present.get(link.ifindex, []))
        for kind in kinds
        for link in links.of_kind(session, kind)
    )


def _macvlan_users(session: Session) -> Mapping[int, tuple[LinkUser, ...]]:
    from cni_plugins.kernel.macvlan import link as macvlans

    return macvlans.users(session)


def _default_route_facts(session: Session, asks: Asks) -> LinkFacts | None:
    if asks.sandbox_default_route:
        return _default_route(session, SANDBOX) if session.sandbox is not None else None
    return _default_route(session, HOST) if asks.default_route else None


def _default_route(session: Session, where: Place) -> LinkFacts | None:
    """Return the link of the default route with the lowest metric, IPv4 before IPv6."""
    from cni_plugins.kernel.ip import route_lookup

    for index in route_lookup.default_route_links(session, where):
        link = links.find(session, where, index=index)
        if link is not None:
            return _facts(session, where, link)
    return None


def _rules(session: Session) -> tuple[RuleFacts, ...]:
    from cni_plugins.kernel.ip import rules

    return rules.from_addresses(session, SANDBOX)


def _routes_of(session: Session, link: str) -> tuple[RouteFacts, ...] | None:
    from cni_plugins.kernel.ip import moved_routes

    return moved_routes.out_of(session, SANDBOX, link)


def _free_tables(session: Session, wanted: int) -> tuple[int, ...]:
    from cni_plugins.kernel.ip import rules

    return rules.free_tables(session, SANDBOX, wanted)


def _without_rules(session: Session) -> tuple[int, ...]:
    from cni_plugins.kernel import capabilities

    return capabilities.without_rules(session)


def _host_seed(session: Session) -> str:
    """Return boot id and network namespace: unique for this host, and different after every boot."""
    boot = session.remembered(_BOOT_ID, partial(sysctl.read_file, _BOOT_ID))
    return f"{boot}:{netns.identity(session.host)}"
