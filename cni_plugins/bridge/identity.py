"""Who an attachment is: its names and addresses, decided for ADD and recorded in prevResult for CHECK."""

from typing import NamedTuple

from cni_plugins.bridge.config import AUTO, BridgeConfig
from cni_plugins.contract.facts import Facts
from cni_plugins.errors import InvalidNetworkConfig
from cni_plugins.spec.attachment import mac_from
from cni_plugins.spec.request import Request

_DEFAULT_MTU = 1500  # what the kernel gives a veth (ETH_DATA_LEN)


class Identity(NamedTuple):
    """Names and MAC addresses of the attachment: decided for ADD, read from prevResult for CHECK.

    `ours` is false for an attachment the reference made; then only what both make alike is checked.
    """

    host_end: str
    mac: str
    host_mac: str
    bridge_mac: str
    gateway_mac: str
    mtu: int
    ours: bool = True


def identify(request: Request, config: BridgeConfig, facts: Facts) -> Identity:
    attachment = request.attachment
    if request.command == "CHECK":
        return _recorded(request, config, facts)
    return Identity(
        host_end=attachment.host_end,
        mac=config.mac or attachment.mac("sandbox"),
        host_mac=attachment.mac("host"),
        bridge_mac=_host_mac(config.bridge, facts),
        gateway_mac=_host_mac(config.gateway_link, facts),
        mtu=mtu(config, facts),
    )


def _host_mac(link: str, facts: Facts) -> str:
    """Two ADDs that both find no bridge must decide alike, two hosts on one segment must not."""
    existing = facts.host.get(link)
    return existing.mac if existing else mac_from(f"{facts.host_seed}:{link}")


def mtu(config: BridgeConfig, facts: Facts) -> int:
    """Return the MTU to set, 0 for the kernel's default: `auto` follows the bridge, else the way out."""
    if isinstance(config.mtu, int):
        return config.mtu
    model = facts.host.get(config.bridge) or facts.default_route
    return model.mtu if config.mtu == AUTO and model else 0


def _recorded(request: Request, config: BridgeConfig, facts: Facts) -> Identity:
    """Read the attachment's identity from prevResult, where a later plugin of the chain may have changed it.

    :raises InvalidNetworkConfig: when prevResult is absent or does not know the interface.
    """
    if request.prev_result is None:
        raise InvalidNetworkConfig("required prevResult missing", "CHECK compares with the result of ADD")
    listed = request.prev_result.interfaces
    own = next((item for item in listed if item.name == request.ifname and item.sandbox), None)
    if own is None or own.sandbox != request.netns:
        raise InvalidNetworkConfig(
            f"prevResult has no interface {request.ifname} in {request.netns}",
            f"CNI_IFNAME is {request.ifname}, CNI_NETNS is {request.netns}",
        )
    in_host = {item.name: item.mac for item in listed if not item.sandbox}
    ours = request.attachment.host_end in in_host
    actual = facts.sandbox.get(request.ifname)
    host_end = request.attachment.host_end if ours or actual is None else actual.peer
    return Identity(
        host_end=host_end,
        mac=own.mac,
        host_mac=in_host.get(host_end, ""),
        bridge_mac=in_host.get(config.bridge, ""),
        gateway_mac=in_host.get(config.gateway_link, ""),
        mtu=own.mtu,
        ours=ours,
    )


def reported_mtu(identity: Identity) -> int:
    return identity.mtu or _DEFAULT_MTU
