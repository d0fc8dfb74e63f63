"""What `cnictl ipam` does with hosts that share a store in memory, and prints of it."""

from pathlib import Path

import pytest

from cni_plugins.cli.ipam import text
from cni_plugins.keeper import blocks_once
from cni_plugins.registries.store import Store
from tests.memory_store import MemoryCluster
from tests.unit.keeper.cluster_hosts import NETWORK, ClusterHost


@pytest.fixture
def cluster() -> MemoryCluster:
    return MemoryCluster()


def synced(root: Path, cluster: MemoryCluster, node: str) -> ClusterHost:
    one = ClusterHost(root, node)
    assert blocks_once.sync(one.followed, lambda _: cluster.store(), one.places) == ""
    return one


def rows(one: ClusterHost, cluster: MemoryCluster, *, local: bool = False) -> list[str]:
    opener = lambda _: cluster.store()  # noqa: E731
    seen = blocks_once.overview(one.followed, local=local, open_store=opener, places=one.places)
    assert seen.error == ""
    return [" ".join(line.split()) for line in text.lines([seen])][1:]


def test_all_hosts_are_shown_this_one_with_its_use(tmp_path: Path, cluster: MemoryCluster) -> None:
    one, two = synced(tmp_path, cluster, "a"), synced(tmp_path, cluster, "b")
    own, other = one.written["blocks"][0], two.written["blocks"][0]
    one.lease(own.rpartition(".")[0] + "." + str(int(own.rpartition(".")[2].split("/")[0]) + 3))
    size = 13 if own == "192.0.2.0/28" else 15 if own == "192.0.2.240/28" else 16
    size += own == "192.0.2.0/28"
    assert set(rows(one, cluster)) == {
        "BLOCK NODE LEASED OF AGENT",
        f"* {own} a 1 {size} live",
        f"{other} b - 16 live",
    }
    assert rows(one, cluster, local=True)[1:] == [f"* {own} a 1 {size} live"]


def test_without_the_store_this_host_is_shown_and_the_fault_told(
    tmp_path: Path, cluster: MemoryCluster
) -> None:
    one = synced(tmp_path, cluster, "a")
    cluster.set_down(True)
    opener = lambda _: cluster.store()  # noqa: E731
    seen = blocks_once.overview(one.followed, local=False, open_store=opener, places=one.places)
    assert [owned.node for owned in seen.owned] == ["a"]
    assert list(text.faults([seen])) == [f"network {NETWORK}: no endpoint answers"]
    assert blocks_once.sync(one.followed, opener, one.places) == "no endpoint answers"
    (shown,) = text.document([seen])
    assert shown["owned"][0]["self"] is True


def test_a_node_is_released_unless_it_is_live(tmp_path: Path, cluster: MemoryCluster) -> None:
    one, two = synced(tmp_path, cluster, "a"), synced(tmp_path, cluster, "b")

    def release(what: str, *, force: bool = False) -> blocks_once.Released:
        return blocks_once.release(
            one.followed, what, force=force, open_store=lambda _: cluster.store(), places=one.places
        )

    assert "node b is live" in release("b").error
    assert "there is no node x" in release("x").error
    assert "which is live" in release(two.written["blocks"][0]).error
    del cluster.items[f"v1/{NETWORK}/live/b"]
    assert release("b") == blocks_once.Released(NETWORK, tuple(two.written["blocks"]))
    assert not any(b'"b"' in item.value for item in cluster.items.values())
    three = synced(tmp_path, cluster, "c")
    block = three.written["blocks"][0]
    assert release(block, force=True).parts == (block,)
    assert "belongs to no host" in release(block).error


def test_an_own_block_is_released_unless_it_is_leased(tmp_path: Path, cluster: MemoryCluster) -> None:
    one = synced(tmp_path, cluster, "a")
    block = one.written["blocks"][0]
    address = block.split("/")[0].rpartition(".")
    one.lease(f"{address[0]}.{int(address[2]) + 3}")

    def opener(_: object) -> Store:
        return cluster.store()

    done = blocks_once.release(one.followed, block, force=True, open_store=opener, places=one.places)
    assert done.error == f"{block} has leases on this host"
    one.unlease(f"{address[0]}.{int(address[2]) + 3}")
    done = blocks_once.release(one.followed, block, force=False, open_store=opener, places=one.places)
    assert done.parts == (block,)
    assert one.written["blocks"] == []
