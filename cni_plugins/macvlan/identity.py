"""Names and MAC addresses of an attachment: decided for ADD, read from prevResult for CHECK."""

from typing import NamedTuple

from cni_plugins.contract.facts import Facts
from cni_plugins.contract.plan_parts import require_ipv6_mtu
from cni_plugins.contract.prev_result import host_interfaces, own_interface
from cni_plugins.errors import InvalidNetworkConfig
from cni_plugins.macvlan.config import MacvlanConfig
from cni_plugins.macvlan.master import Master
from cni_plugins.ownership import host_link, mac_from
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import Interface, IPConfig


class MacvlanIdentity(NamedTuple):
    """Addresses and names; `ours` is False if the reference may have made it, and less of it is checked.

    :param mac: of the link; in CHECK as a later plugin of the chain left it.
    :param first_mac: the one that ADD gives it, from which its link-local address follows.
    :param wanted_mac: the one to set; empty where the link takes the master's (mode passthru).
    """

    mac: str
    first_mac: str
    wanted_mac: str
    mtu: int
    host_link: str
    host_mac: str
    ours: bool = True


def identify(request: Request, config: MacvlanConfig, master: Master, facts: Facts) -> MacvlanIdentity:
    name = host_link(request.network, master.name)
    is_passthru = config.mode == "passthru"
    first = config.mac or (master.mac if is_passthru else request.attachment.mac("sandbox"))
    if request.command == "CHECK":
        own, in_host = own_interface(request), host_interfaces(request)
        ours = bool(own.mtu) or name in in_host or own.mac == request.attachment.mac("sandbox")
        host_mac = in_host.get(name, Interface(name)).mac
        return MacvlanIdentity(own.mac, first, own.mac, own.mtu, name, host_mac, ours)
    wanted = config.mac if is_passthru else first
    host_mac = mac_from(f"{facts.host_seed}:{name}")
    return MacvlanIdentity(first, first, wanted, config.mtu or master.mtu, name, host_mac)


def require_mtu(config: MacvlanConfig, master: Master, ips: tuple[IPConfig, ...]) -> None:
    """:raises InvalidNetworkConfig: when the link cannot have the MTU, or not together with its addresses."""
    if config.mtu > master.mtu:
        raise InvalidNetworkConfig(
            f"invalid MTU {config.mtu}, must be [0, master MTU({master.mtu})]",
            f"mtu is {config.mtu}, master is {master.name}",
        )
    require_ipv6_mtu(config.mtu or master.mtu, ips, f"mtu is {config.mtu}, master is {master.name}")
