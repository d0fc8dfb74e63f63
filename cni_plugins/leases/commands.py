"""Carries out what the commands of all IPAM plugins with leases have in common.

Nothing here reads the ranges, so an address is freed even if the config has become invalid.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from cni_plugins.errors import IoFailed, PoolExhausted, StateDrifted
from cni_plugins.leases.allocate import AlreadyHeld, Choice, Pool, choose, next_free
from cni_plugins.leases.data_dir import data_dir
from cni_plugins.leases.leasefile import SEPARATOR, owner_of
from cni_plugins.leases.leases import Leases
from cni_plugins.leases.ranges import RangeSet
from cni_plugins.leases.store import existing
from cni_plugins.protocol.fields import IPAddress, parse_address
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import IPConfig, Result


def release(request: Request) -> None:
    with existing(data_dir(request.conf), request.network) as leases:
        if leases is not None and not leases.release(owner_of(request.container_id, request.ifname)):
            leases.release(owner_of(request.container_id))


def take_back(request: Request, lease: Result) -> None:
    """Free the addresses that one ADD reserved; those of an earlier ADD that succeeded stay."""
    with existing(data_dir(request.conf), request.network) as leases:
        if leases is not None:
            names = [str(ip.address.ip) for ip in lease.ips]
            leases.give_back(owner_of(request.container_id, request.ifname), names)


def collect(request: Request) -> None:
    """Free the addresses of all but the valid attachments.

    :raises IoFailed: naming those that could not be freed.
    """
    pairs = {owner_of(*pair) for pair in request.valid_attachments}
    ids = {container_id for container_id, _ in request.valid_attachments}
    with existing(data_dir(request.conf), request.network) as leases:
        faults = (
            leases.collect(lambda owner: owner in (pairs if SEPARATOR in owner else ids)) if leases else []
        )
    if faults:
        error = IoFailed(f"GC of network {request.network}: {len(faults)} addresses could not be freed")
        for fault in faults:
            error.add_note(fault)
        raise error


# ----------------------------------------------------------------------------------------------- CHECK


class Checked(NamedTuple):
    """What one attachment holds, and what its CHECK expects.

    :param expected: the addresses of prevResult that belong to this interface and are of this network.
    """

    held: tuple[str, ...]
    expected: tuple[str, ...]
    faults: tuple[str, ...]


def compare(request: Request, directory: str, is_ours: Callable[[str], bool]) -> Checked:
    """Compare the leases of an attachment with prevResult.

    :param is_ours: whether an address is one that the config gives out.
    """
    with existing(directory, request.network) as leases:
        names = held(request, leases) if leases else ()
        expected = tuple(filter(is_ours, _recorded(request)))
        faults = [f"{one} is {_lease_state(leases, one)}" for one in expected if one not in names]
    if expected:
        within = filter(is_ours, names)
        faults += [f"{one} is leased and not in prevResult" for one in within if one not in expected]
    return Checked(names, expected, tuple(faults))


def require_no_fault(plugin: str, request: Request, directory: str, checked: Checked) -> None:
    """:raises StateDrifted: when the leases differ from prevResult."""
    if not checked.held:
        raise StateDrifted(
            f"{plugin}: Failed to find address added by container {request.container_id}",
            "; ".join(checked.faults)
            or f"no lease of {request.container_id} {request.ifname} in {directory}",
        )
    if checked.faults:
        raise StateDrifted(
            f"{plugin}: leases of {request.container_id} differ from prevResult", "; ".join(checked.faults)
        )


def _recorded(request: Request) -> list[str]:
    """Return the addresses of prevResult that belong to this interface."""
    result = request.prev_result
    if result is None:
        return []
    others = {n for n, interface in enumerate(result.interfaces) if interface.name != request.ifname}
    return [str(ip.address.ip) for ip in result.ips if ip.interface not in others]


def _lease_state(leases: Leases | None, name: str) -> str:
    owner = leases.owner(name) if leases else ""
    return f"leased to {owner.replace(SEPARATOR, ' ')}" if owner else "not leased"


# ------------------------------------------------------------------------------------------- allocation


def allocate(
    request: Request, sets: Sequence[RangeSet], requested: Sequence[IPAddress], leases: Leases
) -> tuple[Choice, ...]:
    """Choose one address of every range set, and reserve them.

    :raises PoolExhausted: see `choose`.
    """
    chosen = _chosen(request, sets, requested, leases)
    owner = owner_of(request.container_id, request.ifname)
    leases.reserve(owner, [one.name for one in chosen], {one.number: one.name for one in chosen})
    return chosen


def _chosen(
    request: Request, sets: Sequence[RangeSet], requested: Sequence[IPAddress], leases: Leases
) -> tuple[Choice, ...]:
    """Choose addresses; when none is free, remove files that a killed writer left, and choose again."""
    pool = _pool(leases, held(request, leases))
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


def is_full(number: int, ranges: RangeSet, leases: Leases) -> bool:
    """Say whether an ADD would find no free address in a range set."""
    if next_free(ranges, _pool(leases), number):
        return False
    free = leases.empty_files()
    return not free or next_free(ranges, _pool(leases, but=free), number) is None


def _pool(leases: Leases, names: Iterable[str] = (), but: Iterable[str] = ()) -> Pool:
    addresses = tuple(found for found in map(address, names) if found)
    return Pool(leases.taken(but), lambda number: address(leases.last_reserved(number)), addresses)


def held(request: Request, leases: Leases) -> tuple[str, ...]:
    """Return the addresses that an attachment holds."""
    with_ifname = leases.held(owner_of(request.container_id, request.ifname))
    return with_ifname + leases.held(owner_of(request.container_id))


def address(text: str) -> IPAddress | None:
    try:
        return parse_address(text)
    except ValueError:
        return None


def ip_config(choice: Choice) -> IPConfig:
    """Return a chosen address with the gateway of its range."""
    return IPConfig(choice.range.interface(choice.address), choice.range.interface(choice.range.gateway).ip)
