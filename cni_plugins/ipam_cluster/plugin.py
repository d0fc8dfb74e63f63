"""Implements the commands of cluster: addresses from the blocks that the keeper has claimed for this host.

No command talks to the store. Leases are those of host-local, in the same directory; DEL and GC read nothing
else, and load no pydantic.
"""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cni_plugins.contract import snapshot
from cni_plugins.contract.ipam import IpamPlugin, require_families
from cni_plugins.errors import (
    InvalidNetworkConfig,
    IoFailed,
    LimitedConnectivity,
    NotAvailable,
    PoolExhausted,
    TryAgainLater,
)
from cni_plugins.ipam_cluster import blocks_file
from cni_plugins.ipam_cluster.blocks_file import Blocks
from cni_plugins.leases import commands, resolv
from cni_plugins.leases.allocate import AlreadyHeld, Choice
from cni_plugins.leases.leases import Leases
from cni_plugins.leases.ranges import Range, RangeSet
from cni_plugins.leases.store import check_can_be_made, existing, opened
from cni_plugins.protocol.fields import IPAddress
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import Result

if TYPE_CHECKING:  # DEL and GC do without pydantic
    from cni_plugins.ipam_cluster.config import Cluster
    from cni_plugins.ipam_cluster.subnets import Subnet

_PATIENCE = 2.0  # seconds that an ADD waits for the keeper
_OLD = 600.0  # seconds after which a snapshot that nobody confirms is reported


class _Full(Exception):
    """All addresses of this host's blocks are leased, in these subnets."""

    def __init__(self, subnets: "Sequence[Subnet]", blocks: Blocks) -> None:
        super().__init__()
        self.subnets = subnets
        self.blocks = blocks

    def error(self) -> PoolExhausted | TryAgainLater:
        listed = ", ".join(str(subnet.network) for subnet in self.subnets)
        own = f"blocks of this host: {', '.join(map(str, self.blocks.blocks)) or 'none'}"
        if any(subnet.network in self.blocks.exhausted for subnet in self.subnets):
            return PoolExhausted(f"no IP address left in {listed}: every block belongs to a host", own)
        return TryAgainLater(f"all addresses of this host's blocks in {listed} are leased", own)


def _reserve(request: Request) -> Result:
    from cni_plugins.ipam_cluster.config import parse

    config = parse(request)
    dns = resolv.read(config.resolv_conf)
    _require_can_be_asked(config)
    directory = snapshot.blocks_dir(request.network)
    _claim(config, request.network, directory)
    try:
        chosen = _allocate(request, config, directory)
    except _Full as err:
        error = err.error()
        if isinstance(error, PoolExhausted):
            raise error from None
        asked = [blocks_file.more(subnet.version) for subnet in err.subnets]
        if not blocks_file.demand_and_wait(directory, asked, _PATIENCE):
            raise _with_trouble(error, directory) from None
        chosen = _allocate_at_last(request, config, directory)
    return Result(ips=tuple(map(commands.ip_config, chosen)), routes=config.routes, dns=dns)


def _allocate_at_last(request: Request, config: "Cluster", directory: str) -> tuple[Choice, ...]:
    try:
        return _allocate(request, config, directory)
    except _Full as err:
        raise _with_trouble(err.error(), directory) from None


def _allocate(request: Request, config: "Cluster", directory: str) -> tuple[Choice, ...]:
    """Choose and reserve addresses.

    :raises _Full: when the keeper could help.
    """
    with opened(config.data_dir, request.network) as leases:
        # Read while the lock is held: the keeper gives blocks back under the same one.
        blocks = _blocks(request.network, directory)
        sets = tuple(
            _ranges(subnet, config, blocks, commands.held(request, leases)) for subnet in config.subnets
        )
        try:
            return commands.allocate(request, sets, config.requested, leases)
        except AlreadyHeld:
            raise
        except PoolExhausted:
            full = _full(config, sets, leases)
            if not full:
                raise
    raise _Full(full, blocks)


def _full(config: "Cluster", sets: Sequence[RangeSet], leases: Leases) -> "list[Subnet]":
    asked = {address.version for address in config.requested}
    return [
        subnet
        for number, subnet in enumerate(config.subnets)
        if subnet.version not in asked and commands.is_full(number, sets[number], leases)
    ]


def _ranges(subnet: "Subnet", config: "Cluster", blocks: Blocks, held: Sequence[str]) -> RangeSet:
    """Return what this host gives out of a subnet: its blocks, and addresses that were asked for.

    Those that the attachment holds already are among them, so that it gets no second one.
    """
    found: list[Range] = []
    for block in blocks.blocks:
        found += subnet.ranges(block, blocks.taken)
    own = (one for name in held if (one := commands.address(name)) is not None)
    for address in (*(one for one in config.requested if blocks.has(one)), *own):
        if subnet.gives_out(address) and not any(address in item for item in found):
            found.append(subnet.only(address))
    return tuple(found)


# --------------------------------------------------------------------------------------- fixed addresses


def _require_can_be_asked(config: "Cluster") -> None:
    """Refuse requested addresses that no host gives out.

    :raises InvalidNetworkConfig: for a gateway.
    :raises PoolExhausted: for any other.
    """
    for address in config.requested:
        subnet = config.subnet_of(address)
        if subnet is not None and int(address) == subnet.bounds.gateway:
            raise InvalidNetworkConfig(
                f"requested ip {address} is subnet's gateway", f"subnet {subnet.network}"
            )
        if subnet is None or not subnet.gives_out(address):
            listed = ", ".join(f"{one.network} ({one.bounds})" for one in config.subnets)
            raise PoolExhausted(
                f"requested IP address {address} is not given out by this network",
                f"subnets and their bounds: {listed}, and exclude",
            )


def _claim(config: "Cluster", network: str, directory: str) -> None:
    """Have the keeper claim requested addresses that are in no block of this host.

    :raises PoolExhausted: when another host has one.
    :raises TryAgainLater: when nobody answers.
    """
    blocks = _blocks(network, directory)
    wanted = [address for address in config.requested if not blocks.has(address)]
    for address in wanted:
        if address in blocks.taken:
            raise _others(address, blocks.taken[address])
    if not wanted:
        return
    answered = blocks_file.demand_and_wait(directory, map(blocks_file.fixed, wanted), _PATIENCE)
    blocks = _blocks(network, directory)
    for address in wanted:
        if blocks.has(address):
            continue
        if answered and address in blocks.refused:
            raise _others(address, blocks.refused[address][0])
        error = TryAgainLater(
            f"requested IP address {address} is not claimed for this host yet",
            f"cnictl agent claims it, and has not done so within {_PATIENCE:.0f} s",
        )
        raise _with_trouble(error, directory)


def _others(address: IPAddress, node: str) -> PoolExhausted:
    return PoolExhausted(
        f"requested IP address {address} belongs to host {node}",
        "addresses are claimed for one host at a time",
    )


# ------------------------------------------------------------------------------------------- the snapshot


def _blocks(network: str, directory: str) -> Blocks:
    """:raises TryAgainLater: when the keeper has not written any yet, with the reason if it knows one."""
    found = blocks_file.read(directory)
    if found is None:
        error = TryAgainLater(
            f"the blocks of network {network} are not known yet",
            f"cnictl agent, or cnictl ipam sync, writes {directory}/{blocks_file.NAME}",
        )
        raise _with_trouble(error, directory)
    return found


def _with_trouble(error: PoolExhausted | TryAgainLater, directory: str) -> PoolExhausted | TryAgainLater:
    state = snapshot.read_state(directory)
    if state is not None and state.trouble:
        error.add_note(f"the keeper says: {state.trouble}")
    return error


# --------------------------------------------------------------------------------------- CHECK and STATUS


def _check(request: Request) -> None:
    from cni_plugins.ipam_cluster.config import parse

    config = parse(request)

    def is_ours(name: str) -> bool:
        address = commands.address(name)
        return address is not None and config.subnet_of(address) is not None

    checked = commands.compare(request, config.data_dir, is_ours)
    blocks = blocks_file.read(snapshot.blocks_dir(request.network))
    if blocks is not None:
        found = (name for name in checked.expected if (one := commands.address(name)) and not blocks.has(one))
        strange = tuple(f"{name} is in no block of this host" for name in found)
        checked = checked._replace(faults=(*checked.faults, *strange))
    commands.require_no_fault("cluster", request, config.data_dir, checked)


def _status(request: Request) -> None:
    """Report what would make an ADD fail, then what the keeper has trouble with.

    :raises NotAvailable: without blocks, free addresses, or a directory for leases.
    :raises LimitedConnectivity: when only news from the store are missing.
    """
    from cni_plugins.ipam_cluster.config import parse

    config = parse(request)
    require_families({subnet.version for subnet in config.subnets}, "ipam.subnet")
    directory = snapshot.blocks_dir(request.network)
    try:
        resolv.read(config.resolv_conf)
        blocks = _blocks(request.network, directory)
        full = _full_now(request, config, blocks)
    except (IoFailed, TryAgainLater) as err:
        raise NotAvailable(f"cluster: {err.msg}", err.full_details()) from err
    if full is not None:
        error = full.error()
        raise NotAvailable(error.msg, error.details)
    _require_news(request.network, directory)


def _full_now(request: Request, config: "Cluster", blocks: Blocks) -> _Full | None:
    sets = [_ranges(subnet, config, blocks, ()) for subnet in config.subnets]
    with existing(config.data_dir, request.network, complete=True) as leases:
        if leases is None:  # nothing is reserved yet, and STATUS creates no directories
            check_can_be_made(config.data_dir)
            full = [subnet for number, subnet in enumerate(config.subnets) if not sets[number]]
        else:
            leases.check_writable()
            full = _full(config._replace(requested=()), sets, leases)
    return _Full(full, blocks) if full else None


def _require_news(network: str, directory: str) -> None:
    state = snapshot.read_state(directory)
    age = None if state is None or not state.confirmed else max(0.0, time.time() - state.confirmed)
    told = "never confirmed" if age is None else f"last confirmed {age:.0f} s ago"
    if state is not None and state.state != "following":
        trouble = state.trouble or f"the keeper is in state {state.state}"
        raise LimitedConnectivity(f"blocks of network {network}: {trouble}", f"{told}; {directory}")
    if age is None or age > _OLD:
        raise LimitedConnectivity(
            f"blocks of network {network} are not kept up to date",
            f"{told}; cnictl agent, or cnictl ipam sync by a timer, does that",
        )


IPAM = IpamPlugin(
    name="cluster",
    reserve=_reserve,
    release=commands.release,
    take_back=commands.take_back,
    check=_check,
    gc=commands.collect,
    status=_status,
)
