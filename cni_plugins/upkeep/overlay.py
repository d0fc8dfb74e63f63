"""Inspects and repairs the host-wide part of an overlay.

The plans are those of ADD and CHECK without the steps for a container. For a network without containers on
this host nothing is created, unless that is requested, or its config has `keep`.
"""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import NamedTuple

from cni_plugins.contract.facts import Facts
from cni_plugins.kernel import apply, observe
from cni_plugins.kernel.firewall import forward_drops
from cni_plugins.kernel.overlay import peers as peer_tables
from cni_plugins.kernel.overlay import reach
from cni_plugins.kernel.overlay.peers import OverlayRoute
from cni_plugins.kernel.overlay.reach import Reach
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import network_tag, tag_of
from cni_plugins.protocol.fields import Conf, IPNetwork
from cni_plugins.protocol.request import Request
from cni_plugins.steps.links import AttachPort
from cni_plugins.steps.overlay import EnsurePeers
from cni_plugins.steps.step import Plan
from cni_plugins.vxlan import local_host
from cni_plugins.vxlan.config import Overlay, parse
from cni_plugins.vxlan.forwarded import flows
from cni_plugins.vxlan.host_plan import host_plan, require_no_clash
from cni_plugins.vxlan.identity import vxlan_name
from cni_plugins.vxlan.local_host import LocalHost
from cni_plugins.vxlan.peer_entries import peer_entries
from cni_plugins.vxlan.plugin import asks_of_host
from cni_plugins.vxlan.records import Record

NO_ROUTES: Mapping[IPNetwork, OverlayRoute] = {}


class State(StrEnum):
    """State of an overlay on this host."""

    IDLE = "idle"  # no container of this host is in it
    IN_SYNC = "in sync"
    DRIFTED = "drifted"
    REPAIRED = "repaired"
    CREATED = "created"


class View(NamedTuple):
    """A network as this host sees it.

    :param entries: the kernel entries that the peers require.
    :param differences: a sentence for every difference between kernel and plan.
    :param routes: the network's routes in the kernel, blackholes excluded.
    :param tables: what leads to the peers in the kernel, if that was looked up.
    :param blocked: a sentence for each filter of others that drops what is forwarded in the network.
    """

    overlay: Overlay
    host: LocalHost
    entries: EnsurePeers
    state: State
    differences: tuple[str, ...] = ()
    routes: Mapping[IPNetwork, OverlayRoute] = NO_ROUTES
    tables: Reach = reach.NOWHERE
    blocked: tuple[str, ...] = ()

    def routes_to(self, peer: Record) -> tuple[IPNetwork, ...]:
        """Return the destinations of the routes to a peer; in mode l2 there are none."""
        listed = {route.dst for route in self.entries.routes if route.link}
        return tuple(dst for dst in peer.subnets or self.overlay.config.within if dst in listed)


def view(network: str, conf: Conf, *, with_tables: bool = False, with_filters: bool = False) -> View:
    """Compare the host with the plan, without changes.

    :param with_tables: as of `view_in`.
    :param with_filters: with the filters of other programs that drop what is forwarded.
    :raises CniError: when the config or the peers are invalid.
    """
    with Session(None) as session:
        session.network_lock(network).share()
        seen = view_in(session, network, conf, with_tables=with_tables)
        if not with_filters or seen.state == State.IDLE:
            return seen
        return seen._replace(blocked=forward_drops.sentences(session, flows(seen.overlay)))


def view_in(session: Session, network: str, conf: Conf, *, with_tables: bool = False) -> View:
    """Compare the host with the plan in a session that the caller has.

    :param with_tables: with the tables that lead to the peers, to say how they are reached.
    :raises CniError: as `view`.
    """
    seen = _view(session, *_facts(session, network, conf))
    if not with_tables or seen.state == State.IDLE:
        return seen
    return seen._replace(tables=reach.look(session, seen.overlay.vxlan, seen.entries.at, (seen.host.link,)))


def routes(session: Session, network: str) -> dict[IPNetwork, OverlayRoute]:
    """Return the network's routes in the kernel, blackholes excluded."""
    return {route.dst: route for route in peer_tables.routes_of(session, network) if route.link}


def sync(network: str, conf: Conf, *, create: bool = False) -> View:
    """Repair the host-wide part if a container is in the network, or the host is to stay in it (`keep`).

    :param create: create it for a network without containers, too.
    :raises CniError: as `view`, and when the kernel refuses; then nothing is changed.
    """
    with Session(None) as session:
        lock = session.network_lock(network)
        lock.share()  # ADDs need not wait for the comparison
        *_, seen = _look(session, network, conf)
        if _is_done(seen, create=create):
            return seen
        session.unshare_host()
        lock.take()
        overlay, facts, seen = _look(session, network, conf)
        if _is_done(seen, create=create):
            return seen
        require_no_clash(overlay, facts)
        plan = _plan(overlay, facts)
        apply.forget(session, plan)
        apply.apply(session, plan)
        rest = _differences(session, overlay, facts)
        if rest:  # objects of others, which are left alone
            return seen._replace(state=State.DRIFTED, differences=rest)
        return seen._replace(state=State.CREATED if seen.state == State.IDLE else State.REPAIRED)


def _look(session: Session, network: str, conf: Conf) -> tuple[Overlay, Facts, View]:
    session.share_host()  # or a DEL of the last container could run between comparison and repair
    overlay, facts = _facts(session, network, conf)
    return overlay, facts, _view(session, overlay, facts)


def _is_done(seen: View, *, create: bool) -> bool:
    return seen.state == State.IN_SYNC or (seen.state == State.IDLE and not create)


def _facts(session: Session, network: str, conf: Conf) -> tuple[Overlay, Facts]:
    overlay = parse(Request(command="STATUS", network=network, conf=conf))
    asks = asks_of_host(overlay)._replace(host=(overlay.bridge, vxlan_name(overlay.vni)), owned=True)
    return overlay, observe.observe(session, asks)


def _view(session: Session, overlay: Overlay, facts: Facts) -> View:
    host = local_host.find(overlay, facts)
    seen = View(overlay, host, peer_entries(overlay, host, facts.routes_to), State.IDLE)
    former = tuple(_former_links(overlay, facts))
    if former:
        return seen._replace(state=State.DRIFTED, differences=former)
    is_in = overlay.config.keep or overlay.bridge in facts.host or any(_stray_ends(overlay, facts))
    if not is_in:
        return seen
    found = _differences(session, overlay, facts)
    return seen._replace(
        state=State.DRIFTED if found else State.IN_SYNC,
        differences=found,
        routes=routes(session, overlay.network),
    )


def _differences(session: Session, overlay: Overlay, facts: Facts) -> tuple[str, ...]:
    found = apply.compare(session, _plan(overlay, facts))
    return tuple(dict.fromkeys(phrase for text in found for phrase in text.split("; ")))


def _former_links(overlay: Overlay, facts: Facts) -> Iterator[str]:
    """Yield links of the network with another VNI; they stay until their last container is deleted."""
    for link in facts.addressed:
        if local_host.is_of(link, overlay.network) and link.name not in (
            overlay.bridge,
            vxlan_name(overlay.vni),
        ):
            yield f"link {link.name} is of the network's former VNI: delete its containers first"


def _plan(overlay: Overlay, facts: Facts) -> Plan:
    stray = _stray_ends(overlay, facts)
    ports = (AttachPort(name, overlay.bridge, overlay.config.hairpin_mode, isolated=False) for name in stray)
    return (*host_plan(overlay, facts), *ports)


def _stray_ends(overlay: Overlay, facts: Facts) -> Iterator[str]:
    """Yield host ends of the network's containers that are not bridge ports, as after a bridge was deleted.

    One with an address was created by another plugin, when the network's type was different.
    """
    routed = {link.name for link in facts.addressed if not all(it.is_link_local for it in link.addresses)}
    tag = f"{network_tag(overlay.network)}-"
    for link in facts.owned:
        is_stray = link.kind == "veth" and not link.master and link.name not in routed
        if is_stray and tag_of(link.alias).startswith(tag):
            yield link.name
