"""Writes an overlay's peers into the kernel's tables: reads them, compares, and changes only the difference.

Keeps no state between calls, and never waits for a peer. The list of peers is decided elsewhere.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from ipaddress import ip_address, ip_network
from typing import NamedTuple

from cni_plugins.kernel.deed import REMOVES, Whole, deed
from cni_plugins.kernel.ip import route_lookup
from cni_plugins.kernel.links import links
from cni_plugins.kernel.links.link import Link
from cni_plugins.kernel.netlink import rtnetlink as wire
from cni_plugins.kernel.overlay import attachments, edition, tables
from cni_plugins.kernel.overlay import routes as route_table
from cni_plugins.kernel.overlay.routes import BLACKHOLE, UNICAST, RouteValue, measured
from cni_plugins.kernel.overlay.table_diff import Difference, Named, compared, remove_all, set_all
from cni_plugins.kernel.overlay.tables import packed_mac
from cni_plugins.kernel.session.session import Session
from cni_plugins.protocol.fields import IPAddress, IPNetwork
from cni_plugins.steps.overlay import DelProxied, EnsurePeers, EnsureProxied, PeerRoute
from cni_plugins.steps.step import ABSENT, HOST, UNCHANGED

_SHOWN = 20  # differences in one message


class OverlayRoute(NamedTuple):
    """An existing route of an overlay; `link` is empty for a blackhole route.

    :param mtu: 0: the mtu of the link.
    """

    dst: IPNetwork
    link: str
    via: IPAddress | None
    mtu: int
    measured: bool


class _Differences(NamedTuple):
    """:param entries: of the VXLAN link, its bridge, and the neighbours, in this order."""

    entries: list[Difference[bytes]]
    routes: Difference[RouteValue]


# --------------------------------------------------------------------------------------- tables as a whole


def _ensure(session: Session, step: EnsurePeers) -> str:
    """Make the tables match the step exactly, without interrupting traffic to peers that stay.

    :raises KernelRefused: naming the entry that was refused.
    """
    if _is_known(session, step):
        return UNCHANGED
    entries, routes = _differences(session, step)
    remove_all(session, [*_all(item.first() for item in entries), *routes.first()])
    # The target of a neighbour or route is added before it, and removed after it.
    set_all(session, [*_all(item.sets() for item in entries), *routes.sets()])
    remove_all(session, [*routes.removals(), *_all(item.removals() for item in reversed(entries))])
    if step.edition is not None:
        edition.note(session, step.network, step.edition)
    return UNCHANGED  # undone together with the links


def _is_known(session: Session, step: EnsurePeers) -> bool:
    return step.edition is not None and edition.is_applied(session, step.network, step.edition)


def _holds(session: Session, step: EnsurePeers) -> bool:
    if step.edition is not None:
        return edition.is_undisturbed(session, step.network, step.edition)
    if any(links.find(session, HOST, name) is None for name in _link_names(step)):
        return False
    entries, routes = _differences(session, step)
    return not (routes.is_any or any(item.is_any for item in entries))


def _forget(session: Session, step: EnsurePeers) -> None:
    if step.edition is not None:
        edition.forget(session, step.network, step.edition)


def _all(changes: Iterable[list[Named]]) -> list[Named]:
    return [change for some in changes for change in some]


def _differs(session: Session, step: EnsurePeers) -> str:
    absent = [name for name in sorted(_link_names(step)) if links.find(session, HOST, name) is None]
    if absent:
        return "; ".join(f"link {name} is missing in the host" for name in absent)
    entries, routes = _differences(session, step)
    phrases = [*(phrase for item in entries for phrase in item.phrases()), *routes.phrases()]
    phrases = phrases or list(_shadowed_routes(session, step))
    more = [f"and {len(phrases) - _SHOWN} more"] if len(phrases) > _SHOWN else []
    return "; ".join(phrases[:_SHOWN] + more)


def _shadowed_routes(session: Session, step: EnsurePeers) -> Iterator[str]:
    """Yield a sentence for each route that exists but is not used, as a foreign route takes precedence."""
    probes = {route.dst.network_address + 1: route for route in step.routes if route.via is not None}
    used = route_lookup.routes_to(session, tuple(probes))
    for address, route in probes.items():
        hop = used.get(address)
        if hop is None or (hop.link, hop.gateway) != (route.link, route.via):
            effect = f"leave by {hop.link}" if hop else "are dropped"
            yield f"packets to {route.dst} {effect}, not {route.link}: another route comes first"


def _link_names(step: EnsurePeers) -> set[str]:
    return {step.vxlan, step.at, *(route.link for route in step.routes)} - {""}


def _differences(session: Session, step: EnsurePeers) -> _Differences:
    found = {name: links.get(session, HOST, name) for name in _link_names(step)}
    entries = []
    if step.vxlan:
        own, behind = tables.forwarding(session, found[step.vxlan])
        entries.append(
            compared(own, dict(tables.fdb_item(packed_mac(mac), to.packed) for mac, to in step.fdb))
        )
        entries.append(compared(behind, {packed_mac(mac): b"" for mac in step.behind}))
    if step.at:
        listed = {address.packed: packed_mac(mac) for address, mac in step.neighbours}
        entries.append(compared(tables.neighbours(session, found[step.at]), listed))
    mtus = {link.ifindex: link.mtu for link in found.values()}
    routes = dict(_route(route, found) for route in step.routes)
    present = route_table.routes(session, step.network)
    return _Differences(entries, compared(present, routes, partial(_is_smaller, mtus)))


def _route(route: PeerRoute, found: dict[str, Link]) -> tuple[bytes, RouteValue]:
    key = route_table.key_of(route.dst)
    if not route.link:
        return key, RouteValue(BLACKHOLE, 0)
    via = route.via.packed if route.via is not None else b""
    src = route.src.packed if route.src is not None else b""
    onlink = route.onlink and bool(via)
    return key, RouteValue(
        UNICAST, found[route.link].ifindex, via, route_table.capped(route.mtu), onlink, src
    )


def _is_smaller(mtus: dict[int, int], key: bytes, found: RouteValue, wanted: RouteValue) -> bool:
    """Say whether a route differs from the wanted one only by a smaller, measured mtu."""
    if not route_table.is_measured(found, route_table.version_of(key)):
        return False
    limit = wanted.mtu or mtus.get(wanted.out, 0)
    return found.mtu <= limit and found._replace(mtu=wanted.mtu, advmss=0) == wanted


# ------------------------------------------------------------------------------------------------- routes


def delete_routes(session: Session, network: str) -> None:
    table = route_table.routes(session, network)
    remove_all(session, Difference(table, [], [*table.present.items(), *table.clashing]).removals())


def routes_of(session: Session, network: str) -> list[OverlayRoute]:
    """Return the existing routes of a network's overlay."""
    present = route_table.routes(session, network).present
    found = _links_out(session, [route for route, _ in present.values()])
    return [
        OverlayRoute(
            ip_network(route_table.shown(key)),
            found[route.out].name if route.out in found else "",
            ip_address(route.via) if route.via else None,
            route.mtu,
            route_table.is_measured(route, route_table.version_of(key)),
        )
        for key, (route, _) in present.items()
    ]


def set_measured(session: Session, network: str, mtus: Mapping[IPNetwork, int]) -> None:
    """Set measured mtus on routes of a network; missing and blackhole routes are left alone.

    No route gets a larger mtu than without measurement: its current one or, if that was measured too, the mtu
    of its link, which `_ensure` reduces to the wanted one.
    """
    table = route_table.routes(session, network)
    found = _links_out(session, [route for route, _ in table.present.values()])
    put = []
    for dst, mtu in mtus.items():
        current = table.present.get(route_table.key_of(dst))
        if current is not None and current.value.out in found:
            route = current.value
            changed = _with_mtu(route, route_table.capped(mtu), dst.version, found[route.out].mtu)
            put += [(route_table.key_of(dst), changed)] if changed != route else []
    set_all(session, Difference(table, put, []).sets())


def _links_out(session: Session, present: list[RouteValue]) -> dict[int, Link]:
    """Return the outgoing links of routes, by index."""
    indexes = {route.out for route in present} - {0}
    found = {index: links.find(session, HOST, index=index) for index in indexes}
    return {index: link for index, link in found.items() if link}


def _with_mtu(found: RouteValue, mtu: int, version: int, of_link: int) -> RouteValue:
    unmeasured = of_link if not found.mtu or route_table.is_measured(found, version) else found.mtu
    if mtu < unmeasured:
        return found._replace(mtu=mtu, advmss=measured(mtu, version))
    return found._replace(mtu=found.mtu and unmeasured, advmss=0)


# -------------------------------------------------------------------------------------- proxy neighbours


def _ensure_proxied(session: Session, step: EnsureProxied) -> str:
    """Add proxy neighbours; return UNCHANGED if all exist already, as they may be another attachment's."""
    listed, kept = {address.packed for address in step.addresses}, _kept(session, step)
    wanted = listed | kept
    for name in filter(None, (step.link, step.kept_at)):
        index = links.get(session, HOST, name).ifindex
        set_all(session, _proxies(wire.RTM_NEWNEIGH, name, index, wanted))
    return UNCHANGED if listed <= kept else ABSENT


def _del_proxied(session: Session, step: DelProxied) -> None:
    """Remove the proxy neighbours; those of a link that is gone are removed already."""
    going = {address.packed for address in step.addresses}
    for name in filter(None, (step.link, step.kept_at)):
        link = links.find(session, HOST, name)
        if link is not None:
            remove_all(session, _proxies(wire.RTM_DELNEIGH, name, link.ifindex, going))


def _proxies(kind: int, link: str, index: int, addresses: set[bytes]) -> list[Named]:
    return [
        (tables.proxy(kind, index, ip_address(packed)), partial(_proxied, link, ip_address(packed)))
        for packed in sorted(addresses)
    ]


def _proxied_differs(session: Session, step: EnsureProxied) -> str:
    wanted = {address.packed for address in step.addresses} | _kept(session, step)
    missing = sorted(wanted - _present(session, step.link))
    return "; ".join(f"{_proxied(step.link, ip_address(packed))} is missing" for packed in missing)


def _kept(session: Session, step: EnsureProxied) -> set[bytes]:
    return _present(session, step.kept_at) if step.kept_at else set()


def _present(session: Session, name: str) -> set[bytes]:
    link = links.find(session, HOST, name)
    return tables.proxied(session, link.ifindex) if link else set()


def _proxied(link: str, address: IPAddress) -> str:
    return f"proxy neighbour {address} on {link}"


DEEDS = (
    deed(
        EnsurePeers,
        _ensure,
        _differs,
        lambda session, step: attachments.exist(session, step.network),
        whole=Whole(_holds, _forget),
    )
    | deed(EnsureProxied, _ensure_proxied, _proxied_differs)
    | deed(DelProxied, _del_proxied, REMOVES)
)
