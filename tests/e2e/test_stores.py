"""The contract of stores, with real servers: one member, and three."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from cni_plugins.registries.network_registry import NetworkRegistry
from cni_plugins.registries.open import open_store
from tests.e2e.lab.tools import REPOSITORY
from tests.servers.clusters import cluster_of, section_of
from tests.servers.member import Cluster
from tests.store_contract import Opener, StoreContract

_PROCESSES, _BLOCKS, _KILLS = 50, 64, 25


@pytest.fixture(scope="class", params=[1, 3], ids=["one member", "three"])
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    kind = request.cls.kind
    cluster = cluster_of(kind, tmp_path_factory.mktemp(kind), request.param)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()


class OfServer(StoreContract):
    kind = ""

    @pytest.fixture
    def opened(self, cluster: Cluster) -> Opener:
        return lambda: open_store(section_of(cluster))

    def test_fifty_processes_that_are_killed_share_blocks_and_lose_none(
        self, cluster: Cluster, folder: str
    ) -> None:
        network = folder.rpartition("/")[2]
        section = json.dumps({"type": self.kind, "endpoints": cluster.endpoints})
        numbers = [str(_PROCESSES), str(_BLOCKS), str(_KILLS)]
        done = subprocess.run(
            [sys.executable, "-m", "tests.e2e.lab.claimants", section, network, *numbers],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        outcome = json.loads(done.stdout)
        assert outcome["killed"] == _KILLS
        parts = NetworkRegistry(open_store(section_of(cluster)), network).parts()
        owned = {part.owner.node: part.cidr for part in parts}
        assert len(parts) == len(owned) == _PROCESSES, "a block was lost with a process"
        assert {node: [cidr] for node, cidr in owned.items()} == outcome["told"]


@pytest.mark.needs("server:etcd")
class TestEtcd(OfServer):
    kind = "etcd"


@pytest.mark.needs("server:consul")
class TestConsul(OfServer):
    kind = "consul"
    shortest_hold = 10.0


@pytest.mark.needs("server:zookeeper", "java")
class TestZooKeeper(OfServer):
    kind = "zookeeper"
