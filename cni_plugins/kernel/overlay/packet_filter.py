"""Manages the packet filter of overlay networks, as nf_tables objects that belong to a network as a whole.

Each network has rules of its own, which contain its port, VNI and subnets: as there are few networks, only
the set of all their links is shared. Rules of a chain do not depend on their order. Further policy between
containers is not decided here.
"""

from collections.abc import Mapping
from ipaddress import ip_network

from cni_plugins.kernel.deed import deed
from cni_plugins.kernel.firewall import network_ruleset
from cni_plugins.kernel.firewall import read as look
from cni_plugins.kernel.firewall.masquerade import MULTICAST, excluding
from cni_plugins.kernel.firewall.network_ruleset import Holding, PlacedRule, Whole
from cni_plugins.kernel.firewall.nft_table import Chain, Set
from cni_plugins.kernel.netlink import nf_tables as wire
from cni_plugins.kernel.overlay import attachments, edition
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import OF_NETWORKS, network_tag
from cni_plugins.protocol.fields import IPNetwork
from cni_plugins.steps.overlay import EnsureOverlayRules, NetworkMasquerade
from cni_plugins.steps.step import UNCHANGED

# Hooks and priorities: linux/netfilter.h, linux/netfilter_ipv4.h (NF_IP_PRI_RAW, …_FILTER, …_NAT_SRC).
_RAW = Chain(f"{OF_NETWORKS}raw", "filter", 0, -300)
_RAW_OUT = Chain(f"{OF_NETWORKS}raw_out", "filter", 3, -300)
_INPUT = Chain(f"{OF_NETWORKS}input", "filter", 1, 0)
_FORWARD = Chain(f"{OF_NETWORKS}forward", "filter", 2, 0)
_POSTROUTING = Chain(f"{OF_NETWORKS}postrouting", "nat", 4, 100)
_BASE_CHAINS = (_RAW, _RAW_OUT, _INPUT, _FORWARD, _POSTROUTING)
_UNPRIVILEGED, _LAST_PORT = 1024, 65535
_LINKS = f"{OF_NETWORKS}links"
_ALL_LINKS = Set(
    _LINKS, wire.IFNAME, wire.IFNAME_LENGTH, "bridges and VXLAN links of overlays", host_order=True
)
_WITHOUT_SOURCE: Mapping[int, tuple[IPNetwork, ...]] = {
    4: (ip_network("0.0.0.0/32"),),
    6: (ip_network("::/128"), ip_network("fe80::/10")),
}


def _ensure(session: Session, step: EnsureOverlayRules) -> str:
    session.share_host()  # or a DEL of the network's last attachment could remove them during an ADD
    is_known = step.edition is not None and edition.is_applied(session, step.network, step.edition)
    try:
        network_ruleset.bring_in_line(session, _whole(step, knows_sources=is_known))
    except network_ruleset.SetIsGone:
        network_ruleset.bring_in_line(session, _whole(step))
    return UNCHANGED  # undone together with the links


def _differs(session: Session, step: EnsureOverlayRules) -> str:
    texts = [drift.text for drift in network_ruleset.drifts(session, _whole(step)) if drift.text]
    return f"packet filter of network {step.network}: {', '.join(texts)}" if texts else ""


def delete(session: Session, network: str) -> None:
    """Remove the network's objects, and those that become unused."""
    if look.has_netfilter(session):
        tag = network_tag(network)
        none = Holding(_ALL_LINKS, frozenset(), "link", shared=True)
        network_ruleset.bring_in_line(session, Whole(tag, network, _chains(tag), (none,)))


def _whole(step: EnsureOverlayRules, *, knows_sources: bool = False) -> Whole:
    """:param knows_sources: whether the set of sources is known to contain them."""
    tag, label = network_tag(step.network), f"net: {step.network}"
    links = frozenset(name.encode().ljust(16, b"\0") for name in (step.bridge, step.vxlan) if name)
    own = _ALL_LINKS._replace(name=f"{_LINKS}_{tag}", comment=label)
    holdings = [Holding(_ALL_LINKS, links, "link", shared=True), Holding(own, links, "own link")]
    rules = _isolation_rules(step, own.name)
    rules += _port_rules(step)
    rules += [_source_rule(step.bridge, network) for network in step.inside]
    rules += [rule for item in step.masquerades for rule in _masquerade_rules(step.port, item)]
    if step.vxlan and step.sources is not None:
        vteps = edition.source_set(step.network, step.version)
        item = Set(vteps, wire.Layout.TYPE[step.version], wire.Layout.LENGTH[step.version], label)
        keys = None if knows_sources else frozenset(source.packed for source in step.sources)
        holdings.append(Holding(item, keys, "source"))
        rules += _vtep_rules(step, vteps)
    return Whole(tag, step.network, _chains(tag), tuple(holdings), tuple(rules))


def _chains(tag: str) -> tuple[Chain, ...]:
    return (*_BASE_CHAINS, _vxlan_chain(tag))


def _vxlan_chain(tag: str) -> Chain:
    """Return the network's chain for packets to its VXLAN port that did not enter by the underlay's link."""
    return Chain(f"{OF_NETWORKS}vxlan_{tag}")


def _port_rules(step: EnsureOverlayRules) -> list[PlacedRule]:
    """Return rules for the VXLAN port, from whatever VTEP.

    With net.bridge.bridge-nf-call-iptables=1, bridged frames pass through here too, as if they had entered by
    the bridge: VXLAN packets from one container to another on the same host are then dropped as well.
    """
    to_port, elsewhere = wire.udp_to(step.port), _elsewhere(step)
    chain = _vxlan_chain(network_tag(step.network))
    rules = [
        PlacedRule(
            _RAW,
            f"no tracking of UDP to port {step.port}",
            to_port + wire.untrack() + elsewhere + wire.jump(chain.name),
        ),
        PlacedRule(_RAW_OUT, f"no tracking of UDP to port {step.port}", to_port + wire.untrack()),
        PlacedRule(
            chain,
            f"no UDP to port {step.port} from containers of overlays",
            wire.enters_by(_LINKS) + wire.drop(),
        ),
    ]
    if step.vxlan and elsewhere:
        what = f"VNI {step.vni} at port {step.port} from {' or '.join(step.underlay)} only"
        rules.append(
            PlacedRule(_INPUT, what, elsewhere + to_port + wire.vni_is(step.vni) + wire.drop()),
        )
        if step.sources is None:
            # Peers are not known, so that nothing tells their packets from those of a container.
            out = b"".join(map(wire.leaves_by_link, step.underlay[:1]))
            what = f"no UDP to port {step.port} is forwarded to {step.underlay[0]}"
            rules.append(PlacedRule(_FORWARD, what, out + to_port + elsewhere + wire.drop()))
    return rules


def _elsewhere(step: EnsureOverlayRules) -> bytes:
    """Return expressions that match packets from all links but the underlay's."""
    return b"".join(wire.enters_by_link(name, inverted=True) for name in step.underlay)


def _source_rule(bridge: str, network: IPNetwork) -> PlacedRule:
    """Return the rule against foreign sources; unspecified (DHCP, DAD) and link-local ones are accepted."""
    exempt = _WITHOUT_SOURCE[network.version]
    return PlacedRule(
        _RAW,
        f"containers send from {network} only",
        wire.enters_by_link(bridge)
        + wire.is_family(network.version)
        + b"".join(wire.source_outside(item) for item in (network, *exempt))
        + wire.drop(),
    )


def _vtep_rules(step: EnsureOverlayRules, vteps: str) -> list[PlacedRule]:
    """Return rules for VXLAN packets where the peers are known.

    Packets to a peer that come from a container are matched before fragments are put together, thus without
    the VNI; one peer's packets to another pass where the host is their router.
    """
    family = wire.is_family(step.version)
    from_stranger = wire.source_in(step.version, vteps, inverted=True)
    to_peer = family + wire.destination_in(step.version, vteps)
    to_vni = wire.udp_to(step.port) + wire.vni_is(step.vni) + family
    chain = _vxlan_chain(network_tag(step.network))
    rules = [
        PlacedRule(chain, "nothing to peers from others than peers", to_peer + from_stranger + wire.drop()),
        PlacedRule(
            chain, "nothing to peers with a forged source", to_peer + wire.has_no_route_back() + wire.drop()
        ),
    ]
    if not step.underlay:
        what = f"VNI {step.vni} at port {step.port} only by a link with a route to the source"
        rules.append(PlacedRule(_INPUT, what, to_vni + wire.has_no_route_back() + wire.drop()))
    if step.restricted:
        what = f"VNI {step.vni} at port {step.port} from known sources only"
        rules.append(PlacedRule(_INPUT, what, to_vni + from_stranger + wire.drop()))
    return rules


def _isolation_rules(step: EnsureOverlayRules, own: str) -> list[PlacedRule]:
    """Return rules that keep overlays apart; links come first, as most packets stay in the network."""
    links = [name for name in (step.bridge, step.vxlan) if name]
    leaves = b"".join(wire.leaves_by_link(name, inverted=True) for name in links)
    enters = b"".join(wire.enters_by_link(name, inverted=True) for name in links)
    into_other = leaves + wire.enters_by(own) + wire.leaves_by(_LINKS) + wire.drop()
    rules = [PlacedRule(_FORWARD, "nothing into other overlays", into_other)]
    for network in step.never_in_clear:
        there, local = wire.destination_within(network), wire.leaves_by_link("lo", inverted=True)
        what = f"nothing to {network} in clear"
        rules += [
            PlacedRule(_FORWARD, what, leaves + there + wire.drop()),
            PlacedRule(_RAW_OUT, what, there + leaves + local + wire.drop()),
        ]
    for network in step.in_clear:  # matched by address, as their packets use the underlay's link
        there = leaves + wire.source_within(network) + wire.leaves_by(_LINKS)
        back = enters + wire.destination_within(network) + wire.enters_by(_LINKS)
        rules += [
            PlacedRule(_FORWARD, f"nothing from {network} into other overlays", there + wire.drop()),
            PlacedRule(_FORWARD, f"nothing from other overlays to {network}", back + wire.drop()),
        ]
    return rules


def _masquerade_rules(reserved: int, item: NetworkMasquerade) -> list[PlacedRule]:
    """Return rules that masquerade; UDP never gets the VXLAN port, as the host needs the answers to it."""
    version = item.source.version
    excluded = excluding((MULTICAST[version],), item.exclude)
    matching = wire.source_within(item.source) + b"".join(map(wire.destination_outside, excluded))
    beside = ports_beside(reserved)
    with_ports = wire.masquerade(random_fully=item.random_fully, ports=beside)
    with_any = wire.masquerade(random_fully=item.random_fully)
    what = f"masquerade {item.source}"
    return [
        PlacedRule(_POSTROUTING, f"{what}, UDP", matching + wire.udp() + with_ports),
        PlacedRule(_POSTROUTING, f"{what}, not UDP", matching + wire.udp(inverted=True) + with_any),
    ]


def ports_beside(reserved: int) -> tuple[int, int]:
    """Return the first and last port of the larger range beside a reserved one, privileged ports excluded."""
    below, above = (_UNPRIVILEGED, reserved - 1), (max(reserved + 1, _UNPRIVILEGED), _LAST_PORT)
    return below if below[1] - below[0] > above[1] - above[0] else above


DEEDS = deed(
    EnsureOverlayRules, _ensure, _differs, lambda session, step: attachments.exist(session, step.network)
)
