"""Does for `cnictl ipam` what the keeper of blocks does, once: a round, a look at all hosts, a release."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from cni_plugins.contract import snapshot
from cni_plugins.contract.registry_config import RegistrySection
from cni_plugins.contract.snapshot import KeeperState
from cni_plugins.errors import CniError
from cni_plugins.ipam_cluster import blocks_file
from cni_plugins.ipam_cluster.blocks_file import Blocks
from cni_plugins.ipam_cluster.subnets import parsed
from cni_plugins.keeper import identity
from cni_plugins.keeper.block_holdings import Use, use
from cni_plugins.keeper.blocks import BlockKeeper, leased
from cni_plugins.keeper.blocks_configs import Followed
from cni_plugins.keeper.files import USUAL, Places
from cni_plugins.protocol.fields import IPNetwork
from cni_plugins.registries.network_registry import NetworkRegistry, Part
from cni_plugins.registries.open import open_store
from cni_plugins.registries.store import Store, StoreFailed

Opener = Callable[[RegistrySection], Store]


class Owned(NamedTuple):
    """A block or single address, its owner, and how many addresses are leased, if that is this host."""

    cidr: str
    node: str
    is_self: bool
    size: int = 0
    leased: int | None = None
    is_live: bool | None = None


class Overview(NamedTuple):
    """What is known of a network.

    :param error: why the store could not be read, empty if it was or was not to be.
    """

    followed: Followed
    state: KeeperState | None
    owned: tuple[Owned, ...]
    error: str = ""


def sync(followed: Followed, open_store: Opener = open_store, places: Places = USUAL) -> str:
    """Do one round; return what is wrong, empty if nothing is."""
    try:
        store = open_store(followed.registry)
        try:
            me = identity.member(followed.registry, places.kept)
            done = BlockKeeper(followed, NetworkRegistry(store, followed.network), me, places).step()
        finally:
            store.close()
    except StoreFailed as err:
        return str(err)
    except OSError as err:
        return f"{err.filename or followed.network}: {err.strerror or err}"
    return done.trouble


def overview(
    followed: Followed, *, local: bool, open_store: Opener = open_store, places: Places = USUAL
) -> Overview:
    """Return the blocks of this host as calls see them, and those of all hosts as the store has them.

    :param local: do without the store.
    """
    directory = snapshot.blocks_dir(followed.network, places.run)
    state = snapshot.read_state(directory)
    try:
        written = blocks_file.read(directory)
    except CniError as err:
        return Overview(followed, state, (), err.msg)
    own = {one.cidr: one for one in _own(followed, written)} if written is not None else {}
    if local:
        return Overview(followed, state, tuple(own.values()))
    try:
        found = {one.cidr: one for one in _all(followed, open_store, written)}
    except StoreFailed as err:
        return Overview(followed, state, tuple(own.values()), str(err))
    merged = {**found, **own}
    return Overview(followed, state, tuple(sorted(merged.values(), key=_order)))


def _own(followed: Followed, written: Blocks) -> Iterator[Owned]:
    names = leased(followed)
    for block in written.blocks:
        for subnet in followed.subnets:
            if subnet.version == block.version:
                counted = use(subnet, [block], written.taken, names)
                yield _of_self(str(block), written, counted)
    for address in written.addresses:
        cidr = f"{address}/{address.max_prefixlen}"
        yield _of_self(cidr, written, Use(1, int(address in names)))


def _of_self(cidr: str, written: Blocks, counted: Use) -> Owned:
    return Owned(cidr, written.node, is_self=True, size=counted.size, leased=counted.leased, is_live=True)


def _all(followed: Followed, open_store: Opener, written: Blocks | None) -> Iterator[Owned]:
    store = open_store(followed.registry)
    try:
        registry = NetworkRegistry(store, followed.network)
        parts, live = registry.parts(), registry.live()
    finally:
        store.close()
    own = written.node if written is not None else None
    for part in parts:
        node = part.owner.node
        yield Owned(part.cidr, node, node == own, _size(part.cidr), is_live=node in live)


def _size(cidr: str) -> int:
    network = parsed(cidr)
    return 0 if network is None else network.num_addresses


def _order(one: Owned) -> tuple[int, int]:
    network = parsed(one.cidr)
    return (9, 0) if network is None else (network.version, int(network.network_address))


class Released(NamedTuple):
    """What was released in a network.

    :param error: why it was not.
    """

    network: str
    parts: tuple[str, ...] = ()
    error: str = ""


def release(
    followed: Followed, what: str, *, force: bool, open_store: Opener = open_store, places: Places = USUAL
) -> Released:
    """Release all that a node has, or one block or address, so that other hosts may claim it.

    :param what: the name of a node, or a CIDR or address.
    :param force: also if its host is live; with leases of this host it is never done.
    """
    network = parsed(what)
    try:
        store = open_store(followed.registry)
        try:
            registry = NetworkRegistry(store, followed.network)
            if network is None:
                return _release_node(followed, registry, what, force=force)
            return _release_part(followed, registry, network, force=force, places=places)
        finally:
            store.close()
    except (StoreFailed, CniError) as err:
        return Released(followed.network, error=str(err))
    except OSError as err:
        return Released(followed.network, error=f"{err.filename or what}: {err.strerror or err}")


def _release_node(followed: Followed, registry: NetworkRegistry, node: str, *, force: bool) -> Released:
    if not force and node in registry.live():
        return Released(followed.network, error=f"node {node} is live: stop its agent first, or use --force")
    parts = tuple(part.cidr for part in registry.parts() if part.owner.node == node)
    if not registry.release(node):
        return Released(followed.network, error=f"there is no node {node}")
    return Released(followed.network, parts)


def _release_part(
    followed: Followed, registry: NetworkRegistry, network: IPNetwork, *, force: bool, places: Places
) -> Released:
    part = next((one for one in registry.parts() if parsed(one.cidr) == network), None)
    if part is None:
        return Released(followed.network, error=f"{network} belongs to no host")
    me = identity.member(followed.registry, places.kept)
    if part.owner == me:
        if not BlockKeeper(followed, registry, me, places).give_back(network):
            return Released(followed.network, error=f"{network} has leases on this host")
        return Released(followed.network, (part.cidr,))
    return _release_of_other(followed, registry, part, force=force)


def _release_of_other(followed: Followed, registry: NetworkRegistry, part: Part, *, force: bool) -> Released:
    node = part.owner.node
    if not force and node in registry.live():
        return Released(
            followed.network, error=f"{part.cidr} belongs to node {node}, which is live: use --force"
        )
    registry.disown(part.owner, part.cidr)
    return Released(followed.network, (part.cidr,))
