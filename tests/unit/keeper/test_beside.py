"""What the keeper follows beside the peers of overlays, with a store whose answers take their time."""

import json
import time
from pathlib import Path

from cni_plugins.cli.network.conflist import conflist
from cni_plugins.cli.network.wish import Words, read
from cni_plugins.keeper.beside import Beside, Surroundings
from cni_plugins.keeper.files import Places
from cni_plugins.keeper.followed import directory_signature
from cni_plugins.keeper.report import Silent
from cni_plugins.registries.shared_networks import SharedNetwork, SharedNetworks
from tests.memory_store import MemoryCluster


def network(cluster: MemoryCluster, name: str, subnet: str) -> None:
    wish = read(Words(name, "bridge", (subnet,)))
    document = conflist(wish, wish.subnets, (), {})
    made = SharedNetwork(name, "", document, (subnet,))
    SharedNetworks(cluster.store()).create(name, lambda _: made)


class Heard(Silent):
    """:ivar warned: what the journal was told."""

    def __init__(self) -> None:
        self.warned: list[str] = []

    def warn(self, _pairs: object, text: str) -> None:
        self.warned.append(text)


def wait(path: Path, heard: Heard) -> None:
    end = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < end, heard.warned
        time.sleep(0.01)


def test_networks_of_a_store_come_at_once_and_without_trouble(tmp_path: Path) -> None:
    cluster, heard = MemoryCluster(), Heard()
    network(cluster, "first", "198.18.7.0/24")
    confs = tmp_path / "net.d"
    confs.mkdir()
    registry = tmp_path / "registry.json"
    registry.write_text(json.dumps({"type": "etcd", "endpoints": ["http://192.0.2.9:2379"], "node": "h1"}))
    places = Places(str(tmp_path / "run"), str(tmp_path / "kept"))
    around = Surroundings(lambda _: cluster.store(), heard, confs, places, registry, ())
    beside = Beside(around)
    beside.look(directory_signature(confs))
    try:
        wait(confs / "80-first.conflist", heard)
        network(cluster, "second", "198.18.8.0/24")
        wait(confs / "80-second.conflist", heard)
        assert heard.warned == []
    finally:
        registry.unlink()
        beside.look(directory_signature(confs))
