"""Isolates ports of bridges: frames of an isolated container are exchanged with the host only.

Unlike rules for IP packets this needs no br_netfilter, and is in force for every protocol; ARP and neighbour
discovery towards the host are not forwarded and pass. Bridges are not told (IFLA_BRPORT_ISOLATED), as that
setting is the bridge plugin's.
"""

from collections.abc import Callable

from cni_plugins.kernel.deed import deed
from cni_plugins.kernel.firewall import attachment_rules
from cni_plugins.kernel.firewall.attachment_rules import Item, Objects, Rule
from cni_plugins.kernel.firewall.nft_table import Chain, Set
from cni_plugins.kernel.netlink import nf_tables as wire
from cni_plugins.kernel.session.session import Session
from cni_plugins.steps.forwarding_filter import EnsurePortIsolated

# linux/netfilter.h: NF_INET_FORWARD is NF_BR_FORWARD too; linux/netfilter_bridge.h: NF_BR_PRI_FILTER_BRIDGED
CHAIN = Chain("firewall_ports", "filter", 2, -200)
_SENDING, _RECEIVING = (
    Set(
        f"isolated_{word}",
        wire.IFNAME,
        wire.IFNAME_LENGTH,
        f"ports that {text} no other port",
        host_order=True,
    )
    for word, text in (("senders", "send to"), ("receivers", "receive from"))
)


def _ensure(session: Session, step: EnsurePortIsolated) -> None:
    attachment_rules.ensure(session, _isolation(step.port), step.owner)


def _differs(session: Session, step: EnsurePortIsolated) -> str:
    gap = attachment_rules.missing(session, _isolation(step.port), step.owner)
    return f"isolation of {step.port}: {gap} is missing" if gap else ""


def _isolation(port: str) -> Objects:
    key = wire.link_name(port)
    rules = (
        Rule(CHAIN, (_SENDING,), _dropping(wire.enters_by)),
        Rule(CHAIN, (_RECEIVING,), _dropping(wire.leaves_by)),
    )
    return Objects(wire.BRIDGE, rules, (Item(_SENDING.name, key), Item(_RECEIVING.name, key)))


def _dropping(matches: Callable[[str], bytes]) -> Callable[[], bytes]:
    name = (_SENDING if matches is wire.enters_by else _RECEIVING).name
    return lambda: matches(name) + wire.drop()


DEEDS = deed(EnsurePortIsolated, _ensure, _differs)
