"""Manages the packet filter of overlay networks, as nf_tables objects that belong to a network as a whole.

Each network has rules of its own, which contain its port, VNI and subnets: as there are few networks, only
the set of all their links is shared. All rules drop or do not track, so their order does not matter. Further
policy between containers is not decided here.
"""

from collections.abc import Mapping
from ipaddress import ip_network

from cni_plugins.kernel.deed import deed
from cni_plugins.kernel.firewall import network_ruleset
from cni_plugins.kernel.firewall import read as look
from cni_plugins.kernel.firewall.network_ruleset import Holding, PlacedRule, Whole
from cni_plugins.kernel.firewall.nft_table import Chain, Set
from cni_plugins.kernel.netlink import nf_tables as wire
from cni_plugins.kernel.overlay import attachments
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import OF_NETWORKS, network_tag
from cni_plugins.protocol.fields import IPNetwork
from cni_plugins.steps.overlay import EnsureOverlayRules
from cni_plugins.steps.step import UNCHANGED

# Hooks and priorities: linux/netfilter.h, linux/netfilter_ipv4.h (NF_IP_PRI_RAW, NF_IP_PRI_FILTER).
_RAW = Chain(f"{OF_NETWORKS}raw", "filter", 0, -300)
_RAW_OUT = Chain(f"{OF_NETWORKS}raw_out", "filter", 3, -300)
_INPUT = Chain(f"{OF_NETWORKS}input", "filter", 1, 0)
_FORWARD = Chain(f"{OF_NETWORKS}forward", "filter", 2, 0)
_CHAINS = (_RAW, _RAW_OUT, _INPUT, _FORWARD)
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
    network_ruleset.bring_in_line(session, _whole(step))
    return UNCHANGED  # undone together with the links


def _differs(session: Session, step: EnsureOverlayRules) -> str:
    texts = [drift.text for drift in network_ruleset.drifts(session, _whole(step)) if drift.text]
    return f"packet filter of network {step.network}: {', '.join(texts)}" if texts else ""


def delete(session: Session, network: str) -> None:
    """Remove the network's objects, and those that become unused."""
    if look.has_netfilter(session):
        none = Holding(_ALL_LINKS, frozenset(), "link", shared=True)
        network_ruleset.bring_in_line(session, Whole(network_tag(network), network, _CHAINS, (none,)))


def _whole(step: EnsureOverlayRules) -> Whole:
    tag, label = network_tag(step.network), f"net: {step.network}"
    links = frozenset(name.encode().ljust(16, b"\0") for name in (step.bridge, step.vxlan) if name)
    own = _ALL_LINKS._replace(name=f"{_LINKS}_{tag}", comment=label)
    holdings = [Holding(_ALL_LINKS, links, "link", shared=True), Holding(own, links, "own link")]
    rules = _isolation_rules(step, own.name)
    rules += _port_rules(step.port)
    rules += [_source_rule(step.bridge, network) for network in step.inside]
    if step.vxlan and step.sources is not None:
        vteps = f"{OF_NETWORKS}vteps{step.version}_{tag}"
        item = Set(vteps, wire.Layout.TYPE[step.version], wire.Layout.LENGTH[step.version], label)
        holdings.append(Holding(item, frozenset(source.packed for source in step.sources), "source"))
        rules.append(_vtep_rule(step, vteps))
    return Whole(tag, step.network, _CHAINS, tuple(holdings), tuple(rules))


def _port_rules(port: int) -> list[PlacedRule]:
    """Return rules for the VXLAN port: packets to it that enter by an overlay's link come from containers.

    With net.bridge.bridge-nf-call-iptables=1, bridged frames pass through here too, as if they had entered by
    the bridge: VXLAN packets from one container to another on the same host are then dropped as well.
    """
    no_track = wire.udp_to(port) + wire.untrack()
    forged = wire.enters_by(_LINKS) + wire.udp_to(port) + wire.drop()
    return [
        PlacedRule(_RAW, f"no UDP to port {port} from containers", forged),
        PlacedRule(_RAW, f"no tracking of UDP to port {port}", no_track),
        PlacedRule(_RAW_OUT, f"no tracking of UDP to port {port}", no_track),
    ]


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


def _vtep_rule(step: EnsureOverlayRules, vteps: str) -> PlacedRule:
    return PlacedRule(
        _INPUT,
        f"VNI {step.vni} at port {step.port} from known sources only",
        wire.is_family(step.version)
        + wire.udp_to(step.port)
        + wire.vni_is(step.vni)
        + wire.source_in(step.version, vteps, inverted=True)
        + wire.drop(),
    )


def _isolation_rules(step: EnsureOverlayRules, own: str) -> list[PlacedRule]:
    into_other = wire.leaves_by(_LINKS) + wire.leaves_by(own, inverted=True)
    crossing = wire.enters_by(own) + into_other + wire.drop()
    rules = [PlacedRule(_FORWARD, "nothing into other overlays", crossing)]
    return rules + [rule for network in step.in_clear for rule in _underlay_rules(network, own, into_other)]


def _underlay_rules(network: IPNetwork, own: str, into_other: bytes) -> list[PlacedRule]:
    """Return rules for packets without encapsulation, matched by address as they use the underlay's link."""
    from_other = wire.enters_by(_LINKS) + wire.enters_by(own, inverted=True)
    there = wire.destination_within(network)
    return [
        PlacedRule(
            _FORWARD,
            f"nothing from {network} into other overlays",
            wire.source_within(network) + into_other + wire.drop(),
        ),
        PlacedRule(_FORWARD, f"nothing from other overlays to {network}", from_other + there + wire.drop()),
    ]


DEEDS = deed(
    EnsureOverlayRules, _ensure, _differs, lambda session, step: attachments.exist(session, step.network)
)
