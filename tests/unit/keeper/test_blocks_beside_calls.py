"""Calls reserve while the keeper gives blocks back: no lease is ever in a block that is not this host's."""

import random
import threading
import time
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from cni_plugins.contract import snapshot
from cni_plugins.errors import CniError
from cni_plugins.ipam_cluster import plugin
from cni_plugins.ipam_cluster.plugin import IPAM
from cni_plugins.registries.network_registry import NetworkRegistry
from tests.memory_store import MemoryCluster
from tests.unit.keeper.cluster_hosts import NETWORK, ClusterHost

CALLS = 60


@pytest.mark.parametrize("seed", [1, 2])
def test_no_lease_is_left_in_a_block_that_was_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    cluster = MemoryCluster()
    one = ClusterHost(tmp_path, "a", blockLen=30)
    one.start(cluster.store())
    one.step()
    monkeypatch.setattr(snapshot, "blocks_dir", lambda *_: str(one.directory))
    monkeypatch.setattr(plugin, "_PATIENCE", 5.0)
    over, wrong, given = threading.Event(), list[str](), [0]

    def call(number: int) -> None:
        dice, held = random.Random(seed * 10 + number), list[str]()
        while not over.is_set():
            name = f"c{number}-{dice.random()}"
            try:
                lease = IPAM.reserve(one.request(name))
            except CniError as err:
                if err.code not in (11, 102):
                    wrong.append(f"{err.code} {err.msg}")
                continue
            given[0] += 1
            held.append(name)
            parts = [ip_network(part.cidr) for part in NetworkRegistry(cluster.store(), NETWORK).parts()]
            if not any(lease.ips[0].address.ip in part for part in parts):
                wrong.append(f"{lease.ips[0].address} is in no block of this host")
            while len(held) > dice.choice((0, 1, 6)):
                IPAM.release(one.request(held.pop(dice.randrange(len(held)))))

    threads = [threading.Thread(target=call, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    gained, lost = set[str](), set[str]()
    end = time.monotonic() + 45
    try:
        while (given[0] < CALLS or not lost) and time.monotonic() < end:
            before = set(one.written["blocks"])
            one.step()
            after = set(one.written["blocks"])
            gained |= after - before
            lost |= before - after
    finally:
        over.set()
        stop = threading.Event()
        keeping = threading.Thread(target=lambda: [one.step() for _ in iter(stop.is_set, True)])
        keeping.start()  # a call may wait for an answer
        for thread in threads:
            thread.join()
        stop.set()
        keeping.join()
    assert wrong == []
    assert given[0] >= CALLS
    assert gained
    assert lost, "no block was given back meanwhile"
    leases = [name for name in (one.data_dir / NETWORK).iterdir() if name.name[0].isdigit()]
    blocks = [ip_network(block) for block in one.written["blocks"]]
    assert all(any(ip_address(lease.name) in block for block in blocks) for lease in leases)
