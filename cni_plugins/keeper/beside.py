"""Keeps what stores have beside the peers of overlays: blocks of addresses, and networks of many hosts."""

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from cni_plugins.contract.registry_config import RegistrySection
from cni_plugins.errors import CniError
from cni_plugins.keeper import blocks_configs, followed, identity, networks
from cni_plugins.keeper.blocks import BlockKeeper
from cni_plugins.keeper.blocks_configs import Followed
from cni_plugins.keeper.files import Places
from cni_plugins.keeper.followed import Signature
from cni_plugins.keeper.report import Tell
from cni_plugins.keeper.rounds import Rounds, Session
from cni_plugins.registries.network_registry import NetworkRegistry
from cni_plugins.registries.shared_networks import SharedNetworks
from cni_plugins.registries.store import Store, StoreFailed
from cni_plugins.upkeep import caches
from cni_plugins.upkeep.networks import registry_file

_DEMANDS = 0.1  # seconds between looks for calls that ask for a block or address
_NETWORKS = 5.0  # seconds between rounds of networks, if the store tells no change

Open = Callable[[RegistrySection], Store]


class Surroundings(NamedTuple):
    """What the process gives: see KeeperOptions.

    :param registry_file: names the store with networks for many hosts; there need not be one.
    """

    open_store: Open
    tell: Tell
    conf_dir: Path
    places: Places
    registry_file: Path = registry_file.DEFAULT
    cache_dirs: tuple[Path, ...] = caches.DEFAULT


class Beside:
    """Starts and stops the threads, as files say."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._blocks: dict[str, tuple[Followed, Rounds]] = {}
        self._networks: Rounds | None = None
        self._configs: Signature | None = None
        self._file: Signature | None = None
        self._faults: frozenset[str] = frozenset()

    def look(self, configs: Signature) -> None:
        """Follow what has come, and no longer what is gone or has changed; cheap if no file has changed.

        :param configs: of the directory of network configs.
        """
        if configs != self._configs:
            self._configs = configs
            self._look_at_configs()
        path = self._around.registry_file
        signature = followed.signature((str(path),))
        if signature != self._file:
            self._file = signature
            self._look_at_registry_file()

    def _look_at_configs(self) -> None:
        try:
            listed = blocks_configs.in_directory(self._around.conf_dir)
        except OSError:  # the directory is told of where overlays are looked for
            listed = blocks_configs.FoundNetworks()
        self._tell(listed.faults)
        wanted = {one.network: one for one in listed.networks}
        for network, (before, rounds) in list(self._blocks.items()):
            if wanted.get(network) != before:
                rounds.stop()
                del self._blocks[network]
        for network, one in wanted.items():
            if network not in self._blocks:
                rounds = self._rounds_of_blocks(one)
                self._blocks[network] = one, rounds
                rounds.start()

    def _rounds_of_blocks(self, one: Followed) -> Rounds:
        around = self._around

        def begin(store: Store) -> Session:
            me = identity.member(one.registry, around.places.kept)
            keeper = BlockKeeper(one, NetworkRegistry(store, one.network), me, around.places)
            return Session(lambda: _round_of_blocks(keeper), lambda ended: ended.wait(_DEMANDS))

        return Rounds(f"blocks {one.network}", lambda: around.open_store(one.registry), begin, around.tell)

    def _look_at_registry_file(self) -> None:
        if self._networks is not None:
            self._networks.stop()
            self._networks = None
        path = self._around.registry_file
        if not path.exists():
            return
        try:
            self._networks = self._rounds_of_networks(registry_file.read(path))
        except CniError as err:
            self._around.tell.warn({"keeper": "failed", "of": "networks"}, err.msg)
            return
        self._networks.start()

    def _rounds_of_networks(self, registry: registry_file.RegistryFile) -> Rounds:
        around = self._around

        def begin(store: Store) -> Session:
            feed = SharedNetworks(store).follow()

            def wait(_ended: threading.Event) -> None:
                # The first answer is what there is, which the first round may have read already.
                feed.next(_NETWORKS)

            return Session(
                lambda: networks.round_on(store, registry, around.conf_dir, around.cache_dirs).told,
                wait,
                feed.close,
            )

        return Rounds("networks", lambda: around.open_store(registry.section), begin, around.tell)

    def _tell(self, faults: Iterable[str]) -> None:
        found = frozenset(faults)
        for fault in sorted(found - self._faults):
            self._around.tell.warn({"keeper": "failed", "of": "blocks"}, fault)
        self._faults = found


def _round_of_blocks(keeper: BlockKeeper) -> Iterable[str] | None:
    """:raises StoreFailed: when the store does not answer, so that another connection is made."""
    done = keeper.tick()
    if done is None:
        return None
    if done.state == "broken":
        raise StoreFailed(done.trouble)
    return [done.trouble] if done.trouble else []
