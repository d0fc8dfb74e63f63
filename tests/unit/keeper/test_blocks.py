"""Blocks are claimed, used and given back by hosts that share a store, whatever ends a round."""

import json
import random
from collections.abc import Iterator, Sequence
from ipaddress import ip_network
from itertools import combinations
from pathlib import Path

import pytest

from cni_plugins.contract.snapshot import read_state
from cni_plugins.keeper import blocks, blocks_configs
from cni_plugins.registries.network_registry import Member, NetworkRegistry
from cni_plugins.registries.store import Change, Unreachable
from tests.memory_store import MemoryCluster, MemoryStore
from tests.unit.keeper.cluster_hosts import NETWORK, REGISTRY, ClusterHost


@pytest.fixture
def cluster() -> MemoryCluster:
    return MemoryCluster()


def host(tmp_path: Path, cluster: MemoryCluster, node: str = "a", **ipam: object) -> ClusterHost:
    found = ClusterHost(tmp_path, node, **ipam)
    found.start(cluster.store())
    return found


def owners(cluster: MemoryCluster) -> dict[str, str]:
    return {part.cidr: part.owner.node for part in NetworkRegistry(cluster.store(), NETWORK).parts()}


def inside(cidr: str, wanted: int) -> list[str]:
    """Addresses of a block that can be given out in 192.0.2.0/24."""
    network = ip_network(cidr)
    usable = [one for one in network if str(one) not in ("192.0.2.0", "192.0.2.1", "192.0.2.255")]
    return [str(one) for one in usable[:wanted]]


def test_the_first_block_is_claimed_at_once_and_written_with_who_we_are(
    tmp_path: Path, cluster: MemoryCluster
) -> None:
    one = host(tmp_path, cluster)
    assert one.step().state == "following"
    assert one.written["self"] == "a"
    assert owners(cluster) == {one.written["blocks"][0]: "a"}
    state = read_state(str(one.directory))
    assert state is not None
    assert (state.state, state.trouble) == ("following", "")
    assert (one.directory / "blocks.json").stat().st_mode & 0o777 == 0o600
    assert one.directory.stat().st_mode & 0o777 == 0o700


def test_nothing_is_written_or_claimed_again_while_nothing_changes(
    tmp_path: Path, cluster: MemoryCluster
) -> None:
    one = host(tmp_path, cluster)
    one.step()
    before, commits = (one.directory / "blocks.json").stat().st_ino, cluster.commits
    one.step()
    assert ((one.directory / "blocks.json").stat().st_ino, cluster.commits) == (before, commits)


def test_a_second_block_is_claimed_when_three_quarters_are_leased(
    tmp_path: Path, cluster: MemoryCluster
) -> None:
    one = host(tmp_path, cluster, blockLen=28)
    one.step()
    first = one.written["blocks"][0]
    size = len(inside(first, 16))
    limit = -(-size * 3 // 4)
    for address in inside(first, limit - 1):
        one.lease(address)
    one.step()
    assert len(one.written["blocks"]) == 1
    one.lease(inside(first, limit)[-1])
    one.step()
    assert len(one.written["blocks"]) == 2
    one.step()
    assert len(one.written["blocks"]) == 2


def test_an_empty_block_is_given_back_while_another_is_empty_too(
    tmp_path: Path, cluster: MemoryCluster
) -> None:
    one = host(tmp_path, cluster, blockLen=28)
    one.step()
    names = inside(one.written["blocks"][0], 12)
    for address in names:
        one.lease(address)
    one.step()
    assert len(one.written["blocks"]) == 2
    for address in names:
        one.unlease(address)
    one.step()
    assert len(one.written["blocks"]) == 1
    assert owners(cluster) == {one.written["blocks"][0]: "a"}


def test_a_block_with_a_lease_is_not_given_back(tmp_path: Path, cluster: MemoryCluster) -> None:
    one = host(tmp_path, cluster, blockLen=28)
    one.step()
    block = one.written["blocks"][0]
    one.lease(inside(block, 1)[0])
    assert one.keeper is not None
    assert not one.keeper.give_back(ip_network(block))
    assert owners(cluster) == {block: "a"}


def test_hosts_get_different_blocks_until_none_is_left(tmp_path: Path, cluster: MemoryCluster) -> None:
    hosts = [host(tmp_path, cluster, f"n{number}", blockLen=26) for number in range(5)]
    rounds = [one.step() for one in hosts]
    assert sorted(len(one.written["blocks"]) for one in hosts) == [0, 1, 1, 1, 1]
    assert all(done.state == "following" for done in rounds)
    assert [one.written["exhausted"] for one in hosts if not one.written["blocks"]] == [["192.0.2.0/24"]]


def test_after_a_boot_calls_have_the_blocks_before_the_store_answers(
    tmp_path: Path, cluster: MemoryCluster
) -> None:
    one = host(tmp_path, cluster)
    one.step()
    written = one.written
    (one.directory / "blocks.json").unlink()
    (one.directory / "state.json").unlink()
    cluster.set_down(True)
    one.start(cluster.store())
    done = one.step()
    assert (done.state, done.trouble) == ("broken", "no endpoint answers")
    assert one.written == written
    state = read_state(str(one.directory))
    assert state is not None
    assert (state.state, state.confirmed) == ("broken", 0.0)


def test_a_store_that_is_away_changes_nothing_and_is_told(tmp_path: Path, cluster: MemoryCluster) -> None:
    one = host(tmp_path, cluster)
    one.step()
    written = one.written
    cluster.set_down(True)
    one.clock += 100
    assert one.step().state == "broken"
    state = read_state(str(one.directory))
    assert state is not None
    assert (state.since, state.confirmed) == (1100.0, 1000.0)
    assert one.written == written
    cluster.set_down(False)
    assert one.step().state == "following"


def test_an_emptied_store_gets_the_same_blocks_again(tmp_path: Path, cluster: MemoryCluster) -> None:
    hosts = [host(tmp_path, cluster, node) for node in "abc"]
    for one in hosts:
        one.step()
    before = owners(cluster)
    cluster.wipe()
    for one in hosts:
        one.step()
    assert owners(cluster) == before


def test_a_block_that_went_to_another_host_meanwhile_is_used_no_more_and_told(
    tmp_path: Path, cluster: MemoryCluster
) -> None:
    one = host(tmp_path, cluster)
    one.step()
    block = one.written["blocks"][0]
    one.lease(inside(block, 1)[0])
    cluster.wipe()
    NetworkRegistry(cluster.store(), NETWORK).own(Member("thief", "other"), block)
    done = one.step()
    assert done.state == "refused"
    assert f"{block} belongs to node thief now" in done.trouble
    assert block not in one.written["blocks"]
    assert "1 leases of this host are in blocks of node thief" in one.step().trouble


def test_a_token_that_sees_nothing_leaves_the_blocks_as_they_are(
    tmp_path: Path, cluster: MemoryCluster
) -> None:
    one = host(tmp_path, cluster)
    one.step()
    written = one.written
    cluster.secret = True
    assert one.step().state == "held"
    assert one.written["blocks"] == written["blocks"]
    cluster.secret = False
    assert one.step().state == "following"
    assert owners(cluster) == dict.fromkeys(written["blocks"], "a")


def test_a_host_with_the_name_of_another_claims_nothing(tmp_path: Path, cluster: MemoryCluster) -> None:
    host(tmp_path / "1", cluster).step()
    two = host(tmp_path / "2", cluster)
    done = two.step()
    assert done.state == "refused"
    assert "another host is node a already" in done.trouble
    assert not (two.directory / "blocks.json").exists()


def test_blocks_of_another_size_that_overlap_are_not_claimed(tmp_path: Path, cluster: MemoryCluster) -> None:
    hosts = [
        host(tmp_path, cluster, f"n{n}", blockLen=length) for n, length in enumerate((26, 28, 27, 29, 30))
    ]
    for _ in range(3):
        for one in hosts:
            one.step()
    _require_apart([ip_network(cidr) for cidr in owners(cluster)])


def test_a_block_claimed_at_the_same_time_as_one_across_it_is_given_back(
    tmp_path: Path, cluster: MemoryCluster
) -> None:
    class Late(MemoryStore):
        """Another host claims all that is there, unseen, before our first look back."""

        def commit(self, changes: Sequence[Change]) -> bool:
            done = super().commit(changes)
            if any("/parts/" in change.key for change in changes):
                NetworkRegistry(cluster.store(), NETWORK).own(Member("b", "other"), "192.0.2.0/25")
                NetworkRegistry(cluster.store(), NETWORK).own(Member("b", "other"), "192.0.2.128/25")
            return done

    one = ClusterHost(tmp_path, "a", blockLen=28)
    one.start(Late(cluster))
    one.step()
    assert one.written["blocks"] == []
    assert set(owners(cluster).values()) == {"b"}


def test_rounds_come_by_themselves_and_at_once_when_a_call_waits(
    tmp_path: Path, cluster: MemoryCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = host(tmp_path, cluster)
    assert one.keeper is not None
    first = one.keeper.tick()
    assert first is not None
    assert first.is_complete
    assert one.keeper.tick() is None
    (one.directory / "demand").mkdir(mode=0o700)
    (one.directory / "demand" / "more-4").touch()
    assert one.keeper.tick() is not None
    assert list((one.directory / "demand").iterdir()) == []
    monkeypatch.setattr(blocks, "_EVERY", 0.0)
    (one.directory / "demand" / "more-4").touch()
    assert one.keeper.tick() is not None
    assert one.keeper.tick() is not None


def test_a_store_that_is_away_is_not_asked_at_every_tick(tmp_path: Path, cluster: MemoryCluster) -> None:
    cluster.set_down(True)
    one = host(tmp_path, cluster)
    assert one.keeper is not None
    done = one.keeper.tick()
    assert done is not None
    assert not done.is_complete
    (one.directory / "demand").mkdir(mode=0o700)
    (one.directory / "demand" / "more-4").touch()
    assert one.keeper.tick() is None
    assert (one.directory / "demand" / "more-4").exists()


HOSTILE = ("nonsense", "192.0.2.0-33", "../x", "300.0.2.0-24", "192.0.2.77-24", "fe80::1%eth0-128")


@pytest.mark.parametrize("name", HOSTILE)
def test_keys_that_are_no_networks_are_ignored(tmp_path: Path, cluster: MemoryCluster, name: str) -> None:
    one = host(tmp_path, cluster)
    cluster.put(f"v1/{NETWORK}/parts/{name}", b"\xff not json")
    assert one.step().state == "following"
    assert len(one.written["blocks"]) == 1


def test_networks_of_a_node_are_found_in_its_configs(tmp_path: Path) -> None:
    good = {"type": "cluster", "subnet": "192.0.2.0/24", "registry": REGISTRY}
    files: dict[str, object] = {
        "10.conflist": {"name": "one", "plugins": [{"type": "bridge", "ipam": good}, {"type": "tuning"}]},
        "20.conf": {"name": "two", "type": "macvlan", "ipam": good},
        "30.conf": {"name": "three", "type": "macvlan", "ipam": {"type": "host-local"}},
        "40.conf": {"name": "four", "type": "macvlan", "ipam": {"type": "cluster", "subnet": "x"}},
        "60.conf": {"name": "one", "type": "macvlan", "ipam": {**good, "subnet": "192.0.2.0/25"}},
        "70.txt": "no config",
    }
    (tmp_path / "50.conf").write_text("no JSON")
    for name, text in files.items():
        (tmp_path / name).write_text(json.dumps(text))
    found = blocks_configs.in_directory(tmp_path)
    assert [one.network for one in found.networks] == ["one", "two"]
    assert [fault.split(": ")[0].split("/")[-1] for fault in found.faults] == [
        "40.conf",
        "50.conf",
        "60.conf",
    ]


# ------------------------------------------------------------------------------------------------- stress


class Killed(BaseException):
    pass


class Deadly(MemoryStore):
    """A store whose user is killed now and then, before or after what it asked for was done."""

    def __init__(self, cluster: MemoryCluster, dice: random.Random) -> None:
        super().__init__(cluster)
        self.dice, self.risk = dice, 0.15

    def commit(self, changes: Sequence[Change]) -> bool:
        fate = self.dice.random()
        if fate < self.risk / 2:
            raise Killed
        done = super().commit(changes)
        if fate < self.risk:
            raise Killed
        if fate < self.risk * 1.5:
            raise Unreachable("the answer was lost")
        return done


def _require_apart(networks: Sequence[object]) -> None:
    for one, two in combinations(networks, 2):
        assert not one.overlaps(two), (one, two)  # type: ignore[attr-defined]


def _lives(hosts: list[ClusterHost], stores: dict[str, Deadly], dice: random.Random) -> Iterator[ClusterHost]:
    """Step hosts in any order; a killed one starts anew from what is on its disk."""
    for _ in range(len(hosts) * 8):
        one = dice.choice(hosts)
        try:
            if one.keeper is None:
                one.start(stores[one.followed.registry.node])
            one.step()
        except Killed:
            one.keeper = None
        yield one


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_50_keepers_claim_from_64_blocks_while_they_are_killed(tmp_path: Path, seed: int) -> None:
    cluster, dice = MemoryCluster(), random.Random(seed)
    hosts = [ClusterHost(tmp_path, f"n{number}", subnet="192.0.2.0/24", blockLen=30) for number in range(50)]
    stores = {one.followed.registry.node: Deadly(cluster, dice) for one in hosts}
    leased: dict[str, str] = {}
    for one in _lives(hosts, stores, dice):
        node = one.followed.registry.node
        if not (one.directory / "blocks.json").exists():
            continue
        usable = [a for block in one.written["blocks"] for a in inside(block, 4)]
        free = [a for a in usable if a not in leased]
        mine = [a for a, holder in leased.items() if holder == node]
        if mine and dice.random() < 0.5:
            one.unlease(mine[0])
            del leased[mine[0]]
        elif free:
            one.lease(free[0])
            leased[free[0]] = node
        assert all(leased.get(a, node) == node for a in usable), "an address of another host"
        published = [
            ip_network(block)
            for other in hosts
            if (other.directory / "blocks.json").exists()
            for block in other.written["blocks"]
        ]
        _require_apart(published)
    for store in stores.values():
        store.risk = 0.0
    for _ in range(2):
        for one in hosts:
            if one.keeper is None:
                one.start(stores[one.followed.registry.node])
            one.step()
    written = {block: one.followed.registry.node for one in hosts for block in one.written["blocks"]}
    assert owners(cluster) == written, "a block that no host knows of"
    assert all(one.written["blocks"] for one in hosts) or len(written) == 64
