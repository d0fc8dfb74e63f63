"""Implements the commands of static: returns the configured addresses; DEL and GC have nothing to do."""

from cni_plugins.contract.ipam import IpamPlugin, require_families
from cni_plugins.errors import InvalidNetworkConfig, StateDrifted
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import Result


def _reserve(request: Request) -> Result:
    from cni_plugins.ipam_static.config import parse

    config = parse(request)
    return Result(ips=config.ips, routes=config.routes, dns=config.dns)


def _release(request: Request) -> None:
    """Do nothing, as the plugin keeps no state."""


def _check(request: Request) -> None:
    from cni_plugins.ipam_static.config import parse

    config = parse(request)
    if request.prev_result is None:
        raise InvalidNetworkConfig("static: Required prevResult missing", "prevResult is absent")
    gateways = {ip.address.ip: ip.gateway for ip in config.ips if ip.gateway}
    for ip in request.prev_result.ips:
        expected = gateways.get(ip.address.ip)
        if expected and expected != ip.gateway:
            raise StateDrifted(
                f"static: Failed to match addr {ip.address.ip} on interface {request.ifname}",
                f"gateway is {ip.gateway} in prevResult and {expected} in the config",
            )


def _take_back(_request: Request, _lease: Result) -> None:
    """Do nothing, as the plugin keeps no state."""


def _gc(request: Request) -> None:
    """Do nothing, as the plugin keeps no state."""


def _status(request: Request) -> None:
    from cni_plugins.ipam_static.config import parse

    config = parse(request)
    require_families({ip.address.version for ip in config.ips}, "ipam.addresses")


IPAM = IpamPlugin(
    name="static",
    reserve=_reserve,
    release=_release,
    take_back=_take_back,
    check=_check,
    gc=_gc,
    status=_status,
)
