"""Finds the networks of this host and of the store, and removes them."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from cni_plugins.cli.failure import Failed
from cni_plugins.cli.network.place import Place
from cni_plugins.keeper import networks as keeper
from cni_plugins.registries.shared_networks import SharedNetwork, SharedNetworks
from cni_plugins.registries.store import Store
from cni_plugins.upkeep.networks import containers, files, leftovers
from cni_plugins.upkeep.networks.containers import Container
from cni_plugins.upkeep.networks.files import Directory, NetworkFile
from cni_plugins.upkeep.networks.registry_file import RegistryFile

Users = Mapping[str, tuple[str, ...]]


class Network(NamedTuple):
    """A network that this host or the store has; at least one of the two is not None.

    :param containers: of this host.
    :param elsewhere: the containers that other hosts have reported, by node.
    """

    name: str
    file: NetworkFile | None
    stored: SharedNetwork | None = None
    containers: tuple[Container, ...] = ()
    elsewhere: Users = MappingProxyType({})

    @property
    def is_shared(self) -> bool:
        return self.stored is not None or (self.file is not None and bool(self.file.follows))

    @property
    def view(self) -> NetworkFile | None:
        """The network as this host has it, or would have it."""
        return self.file or (shown_of(self.stored) if self.stored else None)


class Found(NamedTuple):
    """All networks.

    :param faults: a sentence for each file or network that cannot be read.
    """

    networks: tuple[Network, ...]
    faults: tuple[str, ...] = ()

    def find(self, name: str) -> Network:
        """:raises Failed: when there is no such network."""
        network = next((one for one in self.networks if one.name == name), None)
        if network is None:
            why = f" ({'; '.join(self.faults)})" if self.faults else ""
            raise Failed(f"there is no network {name}{why}")
        return network


def shown_of(network: SharedNetwork) -> NetworkFile | None:
    """Return a network of the store in the form of a file; None if its config is not a list of plugins."""
    plugins: Any = network.conflist.get("plugins")
    if not isinstance(plugins, list) or not all(isinstance(item, dict) for item in plugins):
        return None
    return NetworkFile(network.name, files.path_of(files.CONF_DIR, network.name), network.conflist)


def find(place: Place) -> Found:
    """Return the networks of this host, and those of the store that it names.

    A store that cannot be reached is a fault; what this host has is found nevertheless.

    :raises Failed: when this host's networks cannot be found.
    """
    faults: list[str] = []
    stored: Mapping[str, SharedNetwork] = {}
    elsewhere: Mapping[str, Users] = {}
    if place.registry is not None:
        try:
            with place.store() as (store, registry):
                listed = SharedNetworks(store).list()
                stored = listed.networks
                elsewhere = {name: _elsewhere(store, registry, name) for name in stored}
                faults += listed.faults.values()
        except Failed as err:
            faults.append(str(err))
    found, used = _here(place, stored)
    here = [_network(file, stored, used, elsewhere) for file in found.files if found.find(file.name) == file]
    others = [
        Network(name, None, one, used.get(name, ()), elsewhere.get(name, {}))
        for name, one in stored.items()
        if found.find(name) is None
    ]
    return Found((*here, *sorted(others)), (*found.faults, *faults))


def _here(
    place: Place, stored: Mapping[str, SharedNetwork]
) -> tuple[Directory, Mapping[str, tuple[Container, ...]]]:
    try:
        found = files.read(place.conf_dir)
        names = {*stored, *(file.name for file in found.files)}
        return found, containers.of_networks(sorted(names), place.cache_dirs)
    except OSError as err:
        raise Failed(f"{err.filename or place.conf_dir}: {err.strerror}") from err


def _network(
    file: NetworkFile,
    stored: Mapping[str, SharedNetwork],
    used: Mapping[str, tuple[Container, ...]],
    elsewhere: Mapping[str, Users],
) -> Network:
    name = file.name
    is_followed = bool(file.follows)  # a file of the operator's hides the network of the store
    others = elsewhere.get(name, {}) if is_followed else {}
    return Network(name, file, stored.get(name) if is_followed else None, used.get(name, ()), others)


def _elsewhere(store: Store, registry: RegistryFile, name: str) -> Users:
    return {node: users for node, users in SharedNetworks(store).users(name).items() if node != registry.node}


# ------------------------------------------------------------------------------------------------- removing


def remove(name: str, place: Place) -> Sequence[str]:
    """Remove a network that no container is on; return what could not be removed with it, and is told.

    :raises Failed: when there is none, containers are on it, or its file is not ours.
    """
    with files.changing(place.conf_dir):
        network = find(place).find(name)
        _require_unused(network)
        if network.file is not None and not network.is_shared:
            return _remove_file(network.file)
    if network.stored is None:
        raise Failed(
            f"network {name} is one of a store, which does not have it or cannot be reached: to keep it from"
            f" this host, leave it out of `networks` in the registry's file"
        )
    with place.store() as (store, registry):
        if not SharedNetworks(store).remove(network.stored):
            raise Failed(f"network {name} has just been changed in the store; try again")
        try:
            return keeper.round_on(store, registry, place.conf_dir, place.cache_dirs).told
        except OSError as err:
            raise Failed(f"{err.filename or place.conf_dir}: {err.strerror}") from err


def _require_unused(network: Network) -> None:
    """:raises Failed: naming the containers."""
    here = ", ".join(one.word for one in network.containers)
    others = [f"{', '.join(users)} on {node}" for node, users in sorted(network.elsewhere.items())]
    listed = "; ".join(filter(None, (here, *others)))
    if listed:
        raise Failed(f"network {network.name} is in use by {listed}")


def _remove_file(file: NetworkFile) -> Sequence[str]:
    if not file.is_ours:
        raise Failed(f"{file.path} was not written by cnictl network create: remove it by hand")
    try:
        file.path.unlink()
        return leftovers.remove(file)
    except OSError as err:
        raise Failed(f"{err.filename or file.path}: {err.strerror}") from err
