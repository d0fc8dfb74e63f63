"""Keeps whole networks in a store: their configs, and which hosts have containers on them.

    <prefix>/v1/networks/<name>               {"id", "conflist", "subnet": […], "vni", "port"}
    <prefix>/v1/networks-changes              written by every creation; see below
    <prefix>/v1/networks-removed/<name>       {"id"}: an operator has removed this network
    <prefix>/v1/networks-in-use/<name>/<node> ["container", …], as the host last reported

Two creations at once never choose the same subnet or VNI: each reads the key `networks-changes` before the
list, and writes it in the transaction that adds its network, which fails if another has done so meanwhile.

Hosts remove a network when its removal is recorded, not when it is missing: a store that was emptied, and a
token without rights, look as if all were.
"""

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from cni_plugins.protocol.fields import shown
from cni_plugins.registries.network_registry import VERSION
from cni_plugins.registries.store import ABSENT, Change, Feed, Item, Store, key_part, text_of

_NETWORKS = f"{VERSION}/networks"
_CHANGES = f"{VERSION}/networks-changes"
_REMOVED = f"{VERSION}/networks-removed"
_IN_USE = f"{VERSION}/networks-in-use"
_ATTEMPTS = 256
_LARGEST = 256 << 10  # bytes of a network
_MOST_USERS = 10_000  # listed for one host
RESERVED = frozenset(("networks", "networks-changes", "networks-removed", "networks-in-use"))
"""Names that no network can have: its keys would be among those above."""


class SharedNetwork(NamedTuple):
    """A network in a store. The config is as its creator wrote it: untrusted.

    :param number: of this creation; one with the same name that is created later has another.
    :param vni: 0 if it is no overlay.
    """

    name: str
    number: str
    conflist: Mapping[str, Any]
    subnets: tuple[str, ...] = ()
    vni: int = 0
    port: int = 0


class Listed(NamedTuple):
    """All networks of a store, by name.

    :param faults: a sentence for each that cannot be read, by its name.
    """

    networks: Mapping[str, SharedNetwork]
    faults: Mapping[str, str]


class AlreadyThere(Exception):
    """The store has a network of this name."""


class Contended(Exception):
    """Others kept changing the store during all attempts."""


class SharedNetworks:
    """The networks of one store. Every method raises StoreFailed, too."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def follow(self) -> Feed:
        """Follow the networks, to learn when to list them."""
        return self._store.follow(_NETWORKS)

    def list(self) -> Listed:
        networks: dict[str, SharedNetwork] = {}
        faults: dict[str, str] = {}
        for part, item in self._store.children(_NETWORKS).items():
            name = text_of(part)
            try:
                networks[name] = _network(name, item.value)
            except ValueError as err:
                word = name if name.isprintable() else shown(name)
                faults[name] = f"network {word} in the store: {err}"
        return Listed(networks, faults)

    def create(self, name: str, make: Callable[[Sequence[SharedNetwork]], SharedNetwork]) -> SharedNetwork:
        """Add a network.

        :param make: returns it, given all others; called again when one of them is new. Its exceptions pass.
        :raises AlreadyThere:
        :raises Contended:
        """
        for _ in range(_ATTEMPTS):
            changes = self._store.read(_CHANGES)
            listed = self.list()
            if name in listed.networks or name in listed.faults or name in RESERVED:
                raise AlreadyThere(name)
            network = make([*listed.networks.values()])._replace(number=secrets.token_hex(8))
            done = self._store.commit(
                [
                    Change(_CHANGES, network.number.encode(), changes.version if changes else ABSENT),
                    Change(f"{_NETWORKS}/{key_part(name)}", _text(network), ABSENT),
                ]
            )
            if done:
                return network
        raise Contended(name)

    def remove(self, network: SharedNetwork) -> bool:
        """Remove a network and record that; False: there is no such network any more."""
        key = f"{_NETWORKS}/{key_part(network.name)}"
        found = self._store.read(key)
        if found is None or not _is_it(found, network):
            return False
        mark = json.dumps({"id": network.number}).encode()
        return self._store.commit(
            [
                Change(f"{_REMOVED}/{key_part(network.name)}", mark),
                Change(key, None, found.version),
            ]
        )

    def removed(self) -> Mapping[str, str]:
        """Return the numbers of removed networks by name, of each name the last."""
        found = ((text_of(part), _loaded(it.value)) for part, it in self._store.children(_REMOVED).items())
        return {
            name: document["id"]
            for name, document in found
            if isinstance(document, dict) and isinstance(document.get("id"), str)
        }

    def users(self, name: str) -> Mapping[str, tuple[str, ...]]:
        """Return the containers that hosts have reported, by node."""
        found = self._store.children(f"{_IN_USE}/{key_part(name)}")
        return {text_of(part): _users(item.value) for part, item in found.items()}

    def report(self, name: str, node: str, containers: Sequence[str]) -> None:
        """Say which containers this host has on a network; nothing is written if that is there already."""
        key = f"{_IN_USE}/{key_part(name)}/{key_part(node)}"
        text = json.dumps(sorted(containers)[:_MOST_USERS]).encode() if containers else None
        found = self._store.read(key)
        if (found.value if found else None) != text:
            self._store.commit([Change(key, text)])


def _is_it(item: Item, network: SharedNetwork) -> bool:
    document = _loaded(item.value)
    return isinstance(document, dict) and document.get("id") == network.number


def _text(network: SharedNetwork) -> bytes:
    document: dict[str, Any] = {
        "id": network.number,
        "conflist": network.conflist,
        "subnet": [*network.subnets],
    }
    if network.vni:
        document |= {"vni": network.vni, "port": network.port}
    return json.dumps(document, sort_keys=True).encode()


def _loaded(value: bytes) -> Any:  # noqa: ANN401 (JSON is anything)
    try:
        return json.loads(value) if len(value) <= _LARGEST else None
    except (ValueError, RecursionError):
        return None


def _network(name: str, value: bytes) -> SharedNetwork:
    """:raises ValueError: when it does not have the form above."""
    document = _loaded(value)
    if not isinstance(document, dict):
        raise ValueError("not an object, or too large")  # noqa: TRY004 (one kind of error for all faults)
    number, conflist, subnets = (document.get(key) for key in ("id", "conflist", "subnet"))
    numbers = [document.get(key, 0) for key in ("vni", "port")]
    are_texts = isinstance(subnets, list) and all(isinstance(text, str) for text in subnets)
    if not isinstance(number, str) or not isinstance(conflist, dict) or not are_texts:
        raise ValueError("id, conflist or subnet is missing or of another type")
    if not all(type(each) is int for each in numbers):
        raise ValueError("vni or port is no number")
    return SharedNetwork(name, number, conflist, tuple(subnets or ()), *numbers)


def _users(value: bytes) -> tuple[str, ...]:
    """Return the containers; what cannot be read is somebody's too."""
    document = _loaded(value)
    if not isinstance(document, list) or not document:
        return ("?",)
    return tuple(str(item) for item in document[:_MOST_USERS])
