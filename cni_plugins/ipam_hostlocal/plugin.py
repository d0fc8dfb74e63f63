"""Implements the commands of host-local: addresses from ranges, with leases as files on this host.

DEL and GC do not read the ranges, so an address is freed even if the config has become invalid, and they do
not load pydantic.
"""

from collections.abc import Iterable

from cni_plugins.contract.ipam import IpamPlugin, require_families
from cni_plugins.errors import IoFailed, NotAvailable, PoolExhausted, StateDrifted
from cni_plugins.ipam_hostlocal import data_dir, resolv
from cni_plugins.ipam_hostlocal.allocate import AlreadyHeld, Choice, Pool, choose, next_free
from cni_plugins.ipam_hostlocal.leasefile import SEPARATOR, owner_of
from cni_plugins.ipam_hostlocal.leases import Leases
from cni_plugins.ipam_hostlocal.ranges import RangeSet, described
from cni_plugins.ipam_hostlocal.store import check_can_be_made, existing, opened
from cni_plugins.protocol.fields import IPAddress, parse_address
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import IPConfig, Result


def _reserve(request: Request) -> Result:
    from cni_plugins.ipam_hostlocal.config import parse

    config = parse(request)
    dns = resolv.read(config.resolv_conf)
    owner = owner_of(request.container_id, request.ifname)
    with opened(config.data_dir, request.network) as leases:
        chosen = _chosen(request, config.sets, config.requested, leases)
        leases.reserve(owner, [one.name for one in chosen], {one.number: one.name for one in chosen})
    return Result(ips=tuple(map(_ip, chosen)), routes=config.routes, dns=dns)


def _release(request: Request) -> None:
    with existing(data_dir.data_dir(request.conf), request.network) as leases:
        if leases is not None and not leases.release(owner_of(request.container_id, request.ifname)):
            leases.release(owner_of(request.container_id))


def _take_back(request: Request, lease: Result) -> None:
    """Free the addresses that one ADD reserved; those of an earlier ADD that succeeded stay."""
    with existing(data_dir.data_dir(request.conf), request.network) as leases:
        if leases is not None:
            names = [str(ip.address.ip) for ip in lease.ips]
            leases.give_back(owner_of(request.container_id, request.ifname), names)


def _check(request: Request) -> None:
    from cni_plugins.ipam_hostlocal.config import parse

    config = parse(request)
    with existing(config.data_dir, request.network) as leases:
        held = _held(request, leases) if leases else ()
        expected = _expected(request, config.sets)
        faults = [f"{one} is {_lease_state(leases, one)}" for one in expected if one not in held]
    if not held:
        raise StateDrifted(
            f"host-local: Failed to find address added by container {request.container_id}",
            "; ".join(faults) or f"no lease of {request.container_id} {request.ifname} in {config.data_dir}",
        )
    if expected:
        within = (one for one in held if _is_in(config.sets, one))
        faults += [f"{one} is leased and not in prevResult" for one in within if one not in expected]
    if faults:
        raise StateDrifted(
            f"host-local: leases of {request.container_id} differ from prevResult", "; ".join(faults)
        )


def _gc(request: Request) -> None:
    pairs = {owner_of(*pair) for pair in request.valid_attachments}
    ids = {container_id for container_id, _ in request.valid_attachments}
    with existing(data_dir.data_dir(request.conf), request.network) as leases:
        faults = (
            leases.collect(lambda owner: owner in (pairs if SEPARATOR in owner else ids)) if leases else []
        )
    if faults:
        error = IoFailed(f"GC of network {request.network}: {len(faults)} addresses could not be freed")
        for fault in faults:
            error.add_note(fault)
        raise error


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
            full = [number for number, ranges in enumerate(config.sets) if _is_full(number, ranges, leases)]
    except IoFailed as err:
        raise NotAvailable(f"host-local: {err.msg}", err.details) from err
    if full:
        listed = "; ".join(described(config.sets[number]) for number in full)
        numbers = ", ".join(map(str, full))
        raise NotAvailable(f"no IP addresses available in range set: {listed}", f"range set {numbers}")


IPAM = IpamPlugin(
    name="host-local",
    reserve=_reserve,
    release=_release,
    take_back=_take_back,
    check=_check,
    gc=_gc,
    status=_status,
)


def _chosen(
    request: Request, sets: tuple[RangeSet, ...], requested: tuple[IPAddress, ...], leases: Leases
) -> tuple[Choice, ...]:
    """Choose addresses; when none is free, remove files that a killed writer left, and choose again."""
    pool = _pool(leases, _held(request, leases))
    try:
        return choose(request.container_id, sets, requested, pool)
    except AlreadyHeld:
        raise
    except PoolExhausted as err:
        if not leases.empty_files():
            _note_invalid_files(err, leases)
            raise
    leases.discard_empty_files()
    try:
        return choose(request.container_id, sets, requested, pool._replace(taken=leases.taken()))
    except PoolExhausted as err:
        _note_invalid_files(err, leases)
        raise


def _note_invalid_files(err: PoolExhausted, leases: Leases) -> None:
    for found in leases.invalid_files():
        err.add_note(f"{found.name} {found.fault}")


def _is_full(number: int, ranges: RangeSet, leases: Leases) -> bool:
    if next_free(ranges, _pool(leases), number):
        return False
    free = leases.empty_files()
    return not free or next_free(ranges, _pool(leases, but=free), number) is None


def _pool(leases: Leases, held: Iterable[str] = (), but: Iterable[str] = ()) -> Pool:
    addresses = tuple(found for found in map(_address, held) if found)
    return Pool(leases.taken(but), lambda number: _address(leases.last_reserved(number)), addresses)


def _held(request: Request, leases: Leases) -> tuple[str, ...]:
    with_ifname = leases.held(owner_of(request.container_id, request.ifname))
    return with_ifname + leases.held(owner_of(request.container_id))


def _expected(request: Request, sets: tuple[RangeSet, ...]) -> list[str]:
    """Return the addresses of prevResult that belong to this interface and lie in this call's ranges."""
    result = request.prev_result
    if result is None:
        return []
    others = {n for n, interface in enumerate(result.interfaces) if interface.name != request.ifname}
    names = (str(ip.address.ip) for ip in result.ips if ip.interface not in others)
    return [name for name in names if _is_in(sets, name)]


def _is_in(sets: tuple[RangeSet, ...], name: str) -> bool:
    address = _address(name)
    return any(address in item for ranges in sets for item in ranges)


def _lease_state(leases: Leases | None, name: str) -> str:
    owner = leases.owner(name) if leases else ""
    return f"leased to {owner.replace(SEPARATOR, ' ')}" if owner else "not leased"


def _address(text: str) -> IPAddress | None:
    try:
        return parse_address(text)
    except ValueError:
        return None


def _ip(choice: Choice) -> IPConfig:
    return IPConfig(choice.range.interface(choice.address), _gateway(choice))


def _gateway(choice: Choice) -> IPAddress:
    return choice.range.interface(choice.range.gateway).ip
