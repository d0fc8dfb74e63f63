"""Makes the record that this host publishes: underlay address, MTU, and what it owns."""

from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Any, NamedTuple

from cni_plugins.contract.facts import Asks, Facts
from cni_plugins.errors import InvalidNetworkConfig
from cni_plugins.keeper.followed import Followed
from cni_plugins.kernel import observe
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import OVERLAY_ALIAS, is_overlay_alias, network_tag, tag_of
from cni_plugins.protocol.fields import IPAddress
from cni_plugins.registries.network_registry import Member
from cni_plugins.vxlan import local_host
from cni_plugins.vxlan.backends.roster import Roster
from cni_plugins.vxlan.config import Overlay
from cni_plugins.vxlan.plugin import asks_of_host

_LARGEST_MTU = 65535
# Any group of a family makes the search look for addresses of that family alone.
_GROUPS = (ip_address("224.0.0.1"), ip_address("ff02::1"))


class Underlay(NamedTuple):
    """The address by which other hosts reach this one, and the MTU of its link."""

    vtep: IPAddress
    mtu: int


def underlay(of: Followed, former: IPAddress | None) -> Underlay:
    """Return this host's underlay: as the config says, else of the default route.

    The former address is kept as long as the host has it, if there is more than one, or no route right now.

    :raises InvalidNetworkConfig: when there is none, or more than one.
    """
    overlay = Overlay(of.config, of.network, of.vni, Roster())
    with Session(None) as session:
        facts = observe.observe(session, asks_of_host(overlay))
    return choose(overlay, facts, former)


def choose(overlay: Overlay, facts: Facts, former: IPAddress | None) -> Underlay:
    """Do the same from facts.

    :raises InvalidNetworkConfig: as `underlay`.
    """
    try:
        return _found(overlay, facts)
    except InvalidNetworkConfig:
        for link in facts.addressed:
            is_ours = link.alias.startswith(OVERLAY_ALIAS)
            if not is_ours and any(former == address.ip for address in link.addresses):
                return Underlay(ip_address(str(former)), link.mtu)
        for group in _GROUPS:  # both families: IPv4 comes first
            try:
                return _found(overlay._replace(roster=Roster(group=group)), facts)
            except InvalidNetworkConfig:
                continue
        raise


def _found(overlay: Overlay, facts: Facts) -> Underlay:
    host = local_host.find(overlay, facts)
    return Underlay(host.local, host.mtu)


def document(
    me: Member, at: Underlay, parts: Sequence[str], of: Followed, former: Mapping[str, Any], epoch: str
) -> dict[str, Any]:
    """Return the record."""
    made: dict[str, Any] = {"v": 1, "node": me.node, "vtep": str(at.vtep), "host": me.host, "epoch": epoch}
    if parts:
        made["subnets" if of.config.mode == "l3" else "blocks"] = sorted(parts)
    if at.mtu <= _LARGEST_MTU:
        made["mtu"] = at.mtu
    if former.get("mac"):  # another than the derived one, as others know it
        made["mac"] = former["mac"]
    return made


def is_in_use(network: str) -> bool:
    """Say whether this host has a container or links of a network."""
    with Session(None) as session:
        facts = observe.observe(session, Asks(owned=True, addressed=True))
    tag = f"{network_tag(network)}-"
    return any(
        is_overlay_alias(link.alias, network) or tag_of(link.alias).startswith(tag)
        for link in (*facts.owned, *facts.addressed)
    )
