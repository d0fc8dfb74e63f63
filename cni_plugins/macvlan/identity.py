"""Who an attachment is: decided for ADD and recorded in prevResult for CHECK."""

from typing import NamedTuple

from cni_plugins.contract.facts import Facts
from cni_plugins.contract.phrases import require_ipv6_mtu
from cni_plugins.contract.recorded import host_macs, own_interface
from cni_plugins.errors import InvalidNetworkConfig
from cni_plugins.macvlan.config import MacvlanConfig
from cni_plugins.macvlan.master import Master
from cni_plugins.macvlan.names import host_link
from cni_plugins.spec.attachment import mac_from
from cni_plugins.spec.request import Request
from cni_plugins.spec.result import IPConfig


class Identity(NamedTuple):
    """Addresses and names; `ours` is false where the reference may have made it: less of that is checked.

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
        ours = bool(own.mtu) or name in host_macs(request) or own.mac == request.attachment.mac("sandbox")
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
    require_ipv6_mtu(config.mtu or master.mtu, ips, f"mtu is {config.mtu}, master is {master.name}")
