"""Who an attachment is: its names and addresses, decided for ADD and recorded in prevResult for CHECK."""

from typing import NamedTuple

from cni_plugins.bridge.config import BridgeConfig
from cni_plugins.contract import veth
from cni_plugins.contract.facts import Facts
from cni_plugins.contract.recorded import host_macs
from cni_plugins.spec.attachment import mac_from
from cni_plugins.spec.request import Request


class Identity(NamedTuple):
    """The veth pair, and the MAC addresses of the bridge and of the link that bears gateway addresses."""

    pair: veth.Pair
    bridge_mac: str
    gateway_mac: str


def identify(request: Request, config: BridgeConfig, facts: Facts) -> Identity:
    """:raises InvalidNetworkConfig: when CHECK finds no such interface in prevResult."""
    # `auto` follows the bridge, or where that is yet to be made, the way out.
    mtu = veth.mtu(config.mtu, facts.host.get(config.bridge) or facts.default_route)
    pair = veth.identify(request, config.mac, mtu, facts)
    if request.command == "CHECK":
        recorded = host_macs(request)
        return Identity(pair, recorded.get(config.bridge, ""), recorded.get(config.gateway_link, ""))
    return Identity(pair, _host_mac(config.bridge, facts), _host_mac(config.gateway_link, facts))


def _host_mac(link: str, facts: Facts) -> str:
    """Two ADDs that both find no bridge must decide alike, two hosts on one segment must not."""
    existing = facts.host.get(link)
    return existing.mac if existing else mac_from(f"{facts.host_seed}:{link}")
