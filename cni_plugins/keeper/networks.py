"""Follows the networks that a store has for many hosts: writes this host's file of each, and removes it.

A file is written once the host has room for the network, and removed when an operator has removed the network
from the store and no container of this host is on it. Only files that carry our mark are touched. What comes
from the store is validated like the input of an enemy: a network that does not pass is left out and told.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from cni_plugins.bridge.config import DEFAULT_BRIDGE
from cni_plugins.errors import CniError
from cni_plugins.ownership import BRIDGE_ALIAS
from cni_plugins.protocol.fields import Conf, shown
from cni_plugins.registries.network_registry import NetworkRegistry
from cni_plugins.registries.shared_networks import SharedNetwork, SharedNetworks
from cni_plugins.registries.store import Store
from cni_plugins.upkeep import caches
from cni_plugins.upkeep.networks import containers, files, leftovers, taken, validate
from cni_plugins.upkeep.networks.containers import Container
from cni_plugins.upkeep.networks.files import Directory, NetworkFile
from cni_plugins.upkeep.networks.registry_file import RegistryFile
from cni_plugins.upkeep.networks.taken import HostView
from cni_plugins.vxlan.identity import bridge_name, default_vni, vxlan_name

Containers = Mapping[str, tuple[Container, ...]]


class Write(NamedTuple):
    """The file of a network is to have this content; `former` is the one that it replaces."""

    network: SharedNetwork
    document: dict[str, Any]
    former: NetworkFile | None


class Remove(NamedTuple):
    """The file of a network is to go."""

    file: NetworkFile


class Tell(NamedTuple):
    """Nothing is done about a network, for this reason."""

    name: str
    text: str


Deed = Write | Remove | Tell


class Stored(NamedTuple):
    """What the store says.

    :param faults: a sentence for each network that cannot be read.
    :param removed: the numbers of networks that were removed.
    """

    networks: Mapping[str, SharedNetwork]
    faults: Mapping[str, str]
    removed: Mapping[str, str]


class Host(Protocol):
    """What `step` needs to know and do on this host; tests have others."""

    def files(self) -> Directory: ...

    def containers(self, names: tuple[str, ...]) -> Containers: ...

    def view(self, links: tuple[str, ...]) -> HostView: ...

    def write(self, deed: Write) -> Path: ...

    def remove(self, file: NetworkFile) -> tuple[str, ...]: ...


class Step(NamedTuple):
    """What one round did, and a sentence for each network about which it could not do what the store says."""

    written: tuple[Path, ...] = ()
    removed: tuple[Path, ...] = ()
    told: tuple[str, ...] = ()


# ------------------------------------------------------------------------------------------------ deciding


def decide(
    stored: Stored,
    found: Directory,
    used: Containers,
    registry: RegistryFile,
    look: Callable[[tuple[str, ...]], HostView],
) -> Iterator[Deed]:
    """Yield what is to be done.

    :param used: containers by the names of networks.
    :param look: called for a network that is new here, with the links that it would have.
    """
    for name, text in stored.faults.items():
        if registry.follows(name):
            yield Tell(name, text)
    for name, network in sorted(stored.networks.items()):
        if registry.follows(name):
            yield from _kept(network, found, used, registry, look)
    for file in found.files:
        if file.follows and file.name not in stored.faults:
            is_wanted = file.name in stored.networks and registry.follows(file.name)
            yield from () if is_wanted else _gone(file, stored, used, registry)


def _kept(
    network: SharedNetwork,
    found: Directory,
    used: Containers,
    registry: RegistryFile,
    look: Callable[[tuple[str, ...]], HostView],
) -> Iterator[Deed]:
    name, file = network.name, found.find(network.name)
    if file is not None and not file.follows:
        yield Tell(name, f"{file.path} has a network {name} of its own: that of the store is left out")
        return
    try:
        document = _document(network, registry)
    except CniError as err:
        word = shown(name) if validate.name_fault(name) else name
        yield Tell(name, f"network {word} of the store is left out: {validate.told(err)}")
        return
    if file is not None and file.document == document:
        return
    if file is not None and file.follows != network.number and used.get(name):
        yield Tell(
            name, f"network {name} was created anew, and waits for {_listed(used[name])} of the former"
        )
        return
    others = [other for other in found.files if other.name != name]
    fault = "" if _is_like(file, document) else _fault(document, others, look(_links(document)))
    if fault:
        yield Tell(name, f"network {name} of the store is left out: {fault}")
    else:
        yield Write(network, document, file)


def _is_like(file: NetworkFile | None, document: Conf) -> bool:
    """Say whether this host has had the same addresses and links before."""
    if file is None or file.follows != document[files.FOLLOWED]["id"]:
        return False
    return file.subnets == files.subnets_of(document) and _links(file.document) == _links(document)


def _document(network: SharedNetwork, registry: RegistryFile) -> dict[str, Any]:
    """:raises CniError: when the store's config is not one that this host accepts."""
    ready = validate.from_store(network.conflist, network.name, registry.backend)
    mark = {"type": registry.section.type, "prefix": registry.section.prefix, "id": network.number}
    return {**ready, files.FOLLOWED: mark}


def _gone(file: NetworkFile, stored: Stored, used: Containers, registry: RegistryFile) -> Iterator[Deed]:
    is_removed = stored.removed.get(file.name) == file.follows
    if not is_removed and registry.follows(file.name):
        yield Tell(
            file.name, f"network {file.name} is not in the store, and nobody removed it there: it is kept"
        )
    elif used.get(file.name):
        yield Tell(file.name, f"network {file.name} is removed, and waits for {_listed(used[file.name])}")
    else:
        yield Remove(file)


def _listed(users: tuple[Container, ...]) -> str:
    return ", ".join(one.word for one in users)


def _links(document: Conf) -> tuple[str, ...]:
    """Return the names of the links that a network has in the host, apart from those of its containers."""
    found: list[str] = []
    for plugin in document["plugins"]:
        match plugin.get("type"):
            case "bridge":
                found.append(plugin.get("bridge") or DEFAULT_BRIDGE)
            case "vxlan":
                vni = plugin.get("vni") or default_vni(document["name"])
                found += [bridge_name(vni), vxlan_name(vni)]
            case _:
                pass
    return tuple(found)


def _fault(document: Conf, others: list[NetworkFile], view: HostView) -> str:
    """Return why this host cannot have a network, empty if it can."""
    wanted = _links(document)
    rival = next((other for other in others if set(wanted) & set(_links(other.document))), None)
    if rival is not None:
        return f"network {rival.name} ({rival.path}) has the same link"
    driver = document["plugins"][0].get("type")
    foreign = next((one for one in view.links if one.name in wanted and one.alias != BRIDGE_ALIAS), None)
    if driver == "bridge" and foreign is not None:
        return f"link {foreign.name} of this host is another program's"
    listed = taken.of_files(others)
    known = listed if driver == "macvlan" else (*view.taken, *listed)  # macvlan is on the host's own wire
    own = taken.links_of(view, document["name"], wanted)
    for subnet in files.subnets_of(document):
        other = taken.clash(subnet, known, own)
        if other is not None:
            return f"{subnet} overlaps {other.by}"
    return ""


# -------------------------------------------------------------------------------------------- carrying out


def step(store: Store, registry: RegistryFile, host: Host) -> Step:
    """Do one round: write and remove files, and report to the store which networks are in use here.

    Call with `files.changing` held.

    :raises StoreFailed: when the store cannot be reached; nothing is changed then.
    :raises OSError:
    """
    shared = SharedNetworks(store)
    stored = Stored(*shared.list(), shared.removed())
    found = host.files()
    names = {*stored.networks, *(file.name for file in found.files if file.follows)}
    used = host.containers(tuple(sorted(names)))
    _report(shared, registry.node, found, used)
    written: list[Path] = []
    removed: list[Path] = []
    told: list[str] = []
    for deed in [*decide(stored, found, used, registry, host.view)]:
        match deed:
            case Tell(_, text):
                told.append(text)
            case Write(network):
                try:
                    written.append(host.write(deed))
                except OSError as err:
                    told.append(f"network {network.name} cannot be written: {err.strerror}")
            case Remove(file):
                told += host.remove(file)
                removed.append(file.path)
                if file.driver in ("macvlan", "vxlan") and stored.removed.get(file.name) == file.follows:
                    NetworkRegistry(store, file.name).release(registry.node)
    return Step(tuple(written), tuple(removed), tuple(told))


def _report(shared: SharedNetworks, node: str, found: Directory, used: Containers) -> None:
    for name, users in used.items():
        file = found.find(name)
        is_here = file is None or bool(file.follows)  # containers of another network with this name are not
        shared.report(name, node, [one.word for one in users] if is_here else [])


class ThisHost:
    """The host that the process runs on."""

    def __init__(
        self, conf_dir: Path = files.CONF_DIR, cache_dirs: tuple[Path, ...] = caches.DEFAULT
    ) -> None:
        self._conf_dir, self._cache_dirs = conf_dir, cache_dirs

    def files(self) -> Directory:
        return files.read(self._conf_dir)

    def containers(self, names: tuple[str, ...]) -> Containers:
        return containers.of_networks(names, self._cache_dirs)

    def view(self, links: tuple[str, ...]) -> HostView:
        return taken.look(links)

    def write(self, deed: Write) -> Path:
        path = deed.former.path if deed.former else files.path_of(self._conf_dir, deed.network.name)
        files.write(path, deed.document, replace=deed.former is not None)
        return path

    def remove(self, file: NetworkFile) -> tuple[str, ...]:
        file.path.unlink(missing_ok=True)
        return leftovers.remove(file)


def round_on(
    store: Store,
    registry: RegistryFile,
    conf_dir: Path = files.CONF_DIR,
    cache_dirs: tuple[Path, ...] = caches.DEFAULT,
) -> Step:
    """Do one round on this host, while no other process changes the directory. Raises as `step`."""
    with files.changing(conf_dir):
        return step(store, registry, ThisHost(conf_dir, cache_dirs))
