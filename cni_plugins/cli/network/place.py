"""Defines where the commands of `cnictl network` work: directories of this host, and a store."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from cni_plugins.cli.failure import Failed
from cni_plugins.contract.registry_config import RegistrySection
from cni_plugins.errors import CniError
from cni_plugins.registries.store import Store, StoreFailed
from cni_plugins.upkeep import caches
from cni_plugins.upkeep.networks import files, registry_file
from cni_plugins.upkeep.networks.registry_file import RegistryFile
from cni_plugins.upkeep.networks.validate import told


def _open(section: RegistrySection) -> Store:
    from cni_plugins.registries.open import open_store

    store: Store = open_store(section)
    return store


class Place(NamedTuple):
    """Where a command works.

    :param registry: None: this host only.
    :param open_store: tests have another.
    """

    conf_dir: Path = files.CONF_DIR
    cache_dirs: tuple[Path, ...] = caches.DEFAULT
    registry: RegistryFile | None = None
    open_store: Callable[[RegistrySection], Store] = _open

    @contextmanager
    def store(self) -> Iterator[tuple[Store, RegistryFile]]:
        """Connect to the store.

        :raises Failed: when none is named, it cannot be reached, or it fails during the block.
        """
        if self.registry is None:
            raise Failed(f"no store is known: name its file with --registry, or make {registry_file.DEFAULT}")
        try:
            store = self.open_store(self.registry.section)
            try:
                yield store, self.registry
            finally:
                store.close()
        except StoreFailed as err:
            raise Failed(f"{self.registry.section.type}: {err}") from err


def registry(path: Path | None) -> RegistryFile | None:
    """Return the store that a file names: this one, or the host's if there is one.

    :raises Failed: when the file cannot be read or is not valid.
    """
    if path is None and not registry_file.DEFAULT.exists():
        return None
    try:
        return registry_file.read(path or registry_file.DEFAULT)
    except CniError as err:
        raise Failed(told(err)) from err
