"""Determines names and MAC addresses of an attachment: computed for ADD, read from prevResult for CHECK."""

from typing import NamedTuple

from cni_plugins.bridge.config import BridgeConfig
from cni_plugins.contract import veth
from cni_plugins.contract.facts import Facts
from cni_plugins.contract.prev_result import host_interfaces
from cni_plugins.ownership import mac_from
from cni_plugins.protocol.request import Request


class BridgeIdentity(NamedTuple):
    """The veth pair and the MAC addresses of an attachment.

    :param bridge_mac: MAC address of the bridge.
    :param gateway_mac: MAC address of the link with the gateway addresses.
    :param guarded_mac: the source address that `macspoofchk` admits: the one that ADD sets, even if a later
        plugin of the chain changed the container's.
    """

    pair: veth.Pair
    bridge_mac: str
    gateway_mac: str
    guarded_mac: str


def identify(request: Request, config: BridgeConfig, facts: Facts) -> BridgeIdentity:
    """:raises InvalidNetworkConfig: when prevResult of CHECK does not list the interface."""
    # `auto` takes the MTU of the bridge, or if that does not exist yet, of the default route's link.
    mtu = veth.mtu(config.wanted_mtu, facts.host.get(config.bridge) or facts.default_route)
    pair = veth.identify(request, config.mac, mtu, facts)
    if request.command == "CHECK":
        recorded = {name: item.mac for name, item in host_interfaces(request).items()}
        own = recorded.get(config.bridge, ""), recorded.get(config.gateway_link, "")
    else:
        own = _host_mac(config.bridge, facts), _host_mac(config.gateway_link, facts)
    return BridgeIdentity(pair, *own, config.mac or request.attachment.mac("sandbox", facts.host_seed))


def _host_mac(link: str, facts: Facts) -> str:
    """Return a link's MAC address; a new one is equal in concurrent ADDs and differs between hosts."""
    existing = facts.host.get(link)
    return existing.mac if existing else mac_from(f"{facts.host_seed}:{link}")
