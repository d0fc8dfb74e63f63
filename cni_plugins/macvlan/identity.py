"""Who an attachment is: decided for ADD and recorded in prevResult for CHECK."""

from typing import NamedTuple

from cni_plugins.contract.facts import Facts
from cni_plugins.contract.keys import IPV6
from cni_plugins.contract.recorded import host_macs, own_interface
from cni_plugins.errors import InvalidNetworkConfig
from cni_plugins.macvlan.config import MacvlanConfig
from cni_plugins.macvlan.master import Master
from cni_plugins.macvlan.names import host_link
from cni_plugins.spec.attachment import mac_from
from cni_plugins.spec.request import Request
from cni_plugins.spec.result import IPConfig

_SMALLEST_IPV6_MTU = 1280  # RFC 8200, 5


class Identity(NamedTuple):
    """Addresses and names; `ours` is false for what the reference made: less of that is checked.

    :param wanted_mac: what the link is told to have; empty where it takes the master's (mode passthru).
    """

    mac: str
    wanted_mac: str
    mtu: int
    host_link: str
    host_mac: str
    ours: bool = True


def identify(request: Request, config: MacvlanConfig, master: Master, facts: Facts) -> Identity:
    name = host_link(request.network, master.name)
    if request.command == "CHECK":
        own = own_interface(request)
        ours = bool(own.mtu) or name in host_macs(request)
        return Identity(own.mac, own.mac, own.mtu, name, host_macs(request).get(name, ""), ours)
    taken = config.mode == "passthru"
    mac = config.mac or (master.mac if taken else request.attachment.mac("sandbox"))
    wanted = config.mac if taken else mac
    return Identity(mac, wanted, config.mtu or master.mtu, name, mac_from(f"{facts.host_seed}:{name}"))


def require_mtu(config: MacvlanConfig, master: Master, ips: tuple[IPConfig, ...]) -> None:
    """:raises InvalidNetworkConfig: when the link cannot have the MTU, or not together with its addresses."""
    if config.mtu > master.mtu:
        raise InvalidNetworkConfig(
            f"invalid MTU {config.mtu}, must be [0, master MTU({master.mtu})]",
            f"mtu is {config.mtu}, master is {master.name}",
        )
    mtu = config.mtu or master.mtu
    if mtu < _SMALLEST_IPV6_MTU and any(ip.address.version == IPV6 for ip in ips):
        raise InvalidNetworkConfig(
            f"invalid MTU {mtu}, IPv6 needs {_SMALLEST_IPV6_MTU}",
            f"mtu is {config.mtu}, master is {master.name}",
        )
