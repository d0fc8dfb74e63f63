"""What prevResult says of the request's own interface, whatever kind of link that is."""

from cni_plugins.errors import InvalidNetworkConfig
from cni_plugins.spec.request import Request
from cni_plugins.spec.result import Interface


def own_interface(request: Request) -> Interface:
    """Return the interface as ADD or a later plugin of the chain left it.

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
    return own


def host_macs(request: Request) -> dict[str, str]:
    """Return the MAC addresses of the host's links in prevResult, by their names."""
    listed = request.prev_result.interfaces if request.prev_result else ()
    return {item.name: item.mac for item in listed if not item.sandbox}
