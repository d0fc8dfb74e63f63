"""Determines names and MAC addresses of an attachment: computed for ADD, read from prevResult for CHECK."""

from typing import NamedTuple

from cni_plugins.contract.facts import Facts
from cni_plugins.contract.plan_parts import require_ipv6_mtu
from cni_plugins.contract.prev_result import host_interfaces, own_interface
from cni_plugins.errors import InvalidNetworkConfig
from cni_plugins.macvlan.config import MacvlanConfig
from cni_plugins.macvlan.master import Master
from cni_plugins.ownership import host_link, mac_from
from cni_plugins.protocol.macs import link_local
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import Interface, IPConfig


class MacvlanIdentity(NamedTuple):
    """MAC addresses and names; `ours` is False if the reference may have created it: then less is checked.

    :param mac: MAC address of the link; in CHECK as a later plugin of the chain left it.
    :param first_mac: the one that ADD set; the link-local address is derived from it.
    :param wanted_mac: the one to set; empty if the link takes the master's (mode passthru).
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
    computed = request.attachment.mac("sandbox", facts.host_seed)
    first = config.mac or (master.mac if is_passthru else computed)
    if request.command == "CHECK":
        own, in_host = own_interface(request), host_interfaces(request)
        ours = bool(own.mtu) or name in in_host or own.mac == computed
        host_mac = in_host.get(name, Interface(name)).mac
        first = _first_mac(request, own.mac, first, facts)
        return MacvlanIdentity(own.mac, first, own.mac, own.mtu, name, host_mac, ours)
    wanted = config.mac if is_passthru else first
    host_mac = mac_from(f"{facts.host_seed}:{name}")
    return MacvlanIdentity(first, first, wanted, config.mtu or master.mtu, name, host_mac)


def _first_mac(request: Request, recorded: str, first: str, facts: Facts) -> str:
    """Return the MAC address of ADD, as far as CHECK can tell.

    It is not always told which one ADD was asked for: capabilities are arguments of each call. And the one
    in prevResult may be from a later plugin of the chain.
    """
    link = facts.sandbox.get(request.ifname)
    present = link.addresses if link else ()
    return next((mac for mac in (recorded, first) if mac and link_local(mac) in present), recorded)


def require_mtu(config: MacvlanConfig, master: Master, ips: tuple[IPConfig, ...]) -> None:
    """:raises InvalidNetworkConfig: when the MTU exceeds the master's, or is too small for IPv6."""
    if config.mtu > master.mtu:
        raise InvalidNetworkConfig(
            f"invalid MTU {config.mtu}, must be [0, master MTU({master.mtu})]",
            f"mtu is {config.mtu}, master is {master.name}",
        )
    require_ipv6_mtu(config.mtu or master.mtu, ips, f"mtu is {config.mtu}, master is {master.name}")
