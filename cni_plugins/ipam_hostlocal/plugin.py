"""Implements the commands of host-local: addresses from ranges, with leases as files on this host.

DEL and GC do not read the ranges, so an address is freed even if the config has become invalid, and they do
not load pydantic.
"""

from cni_plugins.contract.ipam import IpamPlugin, require_families
from cni_plugins.errors import IoFailed, NotAvailable
from cni_plugins.leases import commands, resolv
from cni_plugins.leases.ranges import RangeSet, described
from cni_plugins.leases.store import check_can_be_made, existing, opened
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import Result


def _reserve(request: Request) -> Result:
    from cni_plugins.ipam_hostlocal.config import parse

    config = parse(request)
    dns = resolv.read(config.resolv_conf)
    with opened(config.data_dir, request.network) as leases:
        chosen = commands.allocate(request, config.sets, config.requested, leases)
    return Result(ips=tuple(map(commands.ip_config, chosen)), routes=config.routes, dns=dns)


def _check(request: Request) -> None:
    from cni_plugins.ipam_hostlocal.config import parse

    config = parse(request)
    checked = commands.compare(request, config.data_dir, lambda name: _is_in(config.sets, name))
    commands.require_no_fault("host-local", request, config.data_dir, checked)


def _status(request: Request) -> None:
    from cni_plugins.ipam_hostlocal.config import parse

    config = parse(request)
    require_families({item.version for ranges in config.sets for item in ranges}, "ipam.ranges")
    try:
        resolv.read(config.resolv_conf)
        with existing(config.data_dir, request.network, complete=True) as leases:
            if leases is None:  # nothing is reserved yet, and STATUS creates no directories
                check_can_be_made(config.data_dir)
                return
            leases.check_writable()
            full = [
                number
                for number, ranges in enumerate(config.sets)
                if commands.is_full(number, ranges, leases)
            ]
    except IoFailed as err:
        raise NotAvailable(f"host-local: {err.msg}", err.details) from err
    if full:
        listed = "; ".join(described(config.sets[number]) for number in full)
        numbers = ", ".join(map(str, full))
        raise NotAvailable(f"no IP addresses available in range set: {listed}", f"range set {numbers}")


IPAM = IpamPlugin(
    name="host-local",
    reserve=_reserve,
    release=commands.release,
    take_back=commands.take_back,
    check=_check,
    gc=commands.collect,
    status=_status,
)


def _is_in(sets: tuple[RangeSet, ...], name: str) -> bool:
    address = commands.address(name)
    return any(address in item for ranges in sets for item in ranges)
