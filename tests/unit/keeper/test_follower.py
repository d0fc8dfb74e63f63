"""One network and a store in memory: what is claimed, published, believed, written and told."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.errors import InvalidNetworkConfig
from cni_plugins.keeper import followed
from cni_plugins.keeper.files import NetworkFiles, Places
from cni_plugins.keeper.follower import Follower, Surroundings, Timing
from cni_plugins.keeper.membership import Host
from cni_plugins.keeper.own_record import Underlay
from cni_plugins.registries.network_registry import Member, NetworkRegistry
from cni_plugins.registries.store import StoreFailed
from cni_plugins.upkeep.overlay_configs import Configured
from tests.memory_store import MemoryCluster, MemoryStore

PAUSE = 0.3
L3 = {"network": "10.0.0.0/16"}
L2 = {"mode": "l2", "subnet": "10.0.0.0/16"}


class Log:
    def __init__(self) -> None:
        self.lines: list[tuple[Mapping[str, str], str]] = []

    def note(self, pairs: Mapping[str, str], text: str) -> None:
        self.lines.append((pairs, text))

    warn = note


class Node:
    """A host with directories and an address of its own."""

    def __init__(self, cluster: MemoryCluster, base: Path, number: int, **keys: Any) -> None:
        self.name = str(keys.pop("node", f"h{number}"))
        self.host_number = f"{number:032x}"
        self.epoch = f"boot{number}"
        self.vtep = f"192.0.2.{number}"
        self.in_use = False
        self.opened = 0
        self.log = Log()
        self.news: list[str] = []
        self._cluster = cluster
        base = base / f"host{number}"
        self.places = Places(str(base / "run"), str(base / "kept"))
        self.files = NetworkFiles("blue", self.places)
        self.conf = {
            "name": "blue",
            "type": "vxlan",
            "backend": {"type": "etcd", "endpoints": ["http://192.0.2.1:2379"], **keys.pop("backend", {})},
            "ipam": {"dataDir": str(base / "leases")},
            **(keys or L3),
        }
        self.leases = base / "leases" / "blue"
        self.follower: Follower | None = None

    def make(self) -> Follower:
        one = followed.of(Configured("blue", "blue.conf", self.conf))
        assert one is not None
        assert one.section is not None
        return Follower(one, one.section, self.around())

    def around(self) -> Surroundings:
        return Surroundings(
            open_store=lambda _: self._open(),
            host=lambda _: Host(
                Member(self.name, self.host_number),
                self.epoch,
                lambda _of, _former: self.underlay(),
                lambda _network: self.in_use,
            ),
            tell=self.log,
            changed=self.news.append,
            places=self.places,
            timing=Timing(life=0.05, settle=0.5, relist=0.5, pause=PAUSE, blocks=0.05),
        )

    def _open(self) -> MemoryStore:
        self.opened += 1
        return self._cluster.store()

    def underlay(self) -> Underlay:
        if not self.vtep:
            raise InvalidNetworkConfig("no underlay: this host has no address")
        return Underlay(ip_address(self.vtep), 1500)

    def start(self) -> "Node":
        self.follower = self.make()
        self.follower.start()
        return self

    def stop(self) -> None:
        if self.follower is not None:
            self.follower.stop(10.0)

    @property
    def peers(self) -> dict[str, Any]:
        return {node: json.loads(text) for node, text in self.files.peers().items()}

    @property
    def state(self) -> str:
        return str(self.files.state().get("state"))

    @property
    def trouble(self) -> str:
        return str(self.files.state().get("trouble"))


Maker = Callable[..., Node]


@pytest.fixture
def cluster() -> MemoryCluster:
    return MemoryCluster()


@pytest.fixture
def node(cluster: MemoryCluster, tmp_path: Path) -> Iterator[Callable[..., Node]]:
    made: list[Node] = []

    def make(number: int, **keys: Any) -> Node:
        made.append(Node(cluster, tmp_path, number, **keys))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def wait(condition: Callable[[], Any], seconds: float = 40.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.01)


def stays(condition: Callable[[], Any], seconds: float = 0.8) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert condition()
        time.sleep(0.01)


def full(*nodes: Node) -> Callable[[], bool]:
    names = {one.name for one in nodes}
    return lambda: all(set(one.peers) == names and one.state == "following" for one in nodes)


# ------------------------------------------------------------------------------------------------ joining


def test_hosts_that_join_find_each_other_with_subnets_of_their_own(node: Maker) -> None:
    hosts = [node(number).start() for number in range(1, 6)]
    wait(full(*hosts))
    lists = [host.peers for host in hosts]
    assert all(one == lists[0] for one in lists)
    subnets = [record["subnets"][0] for record in lists[0].values()]
    assert len(set(subnets)) == 5
    assert all(subnet.startswith("10.0.") and subnet.endswith(".0/24") for subnet in subnets)
    assert lists[0]["h1"] == {"v": 1, "node": "h1", "vtep": "192.0.2.1", "subnets": [subnets[0]], "mtu": 1500}
    wait(lambda: all("blue" in host.news for host in hosts))


def test_a_snapshot_is_private_has_a_copy_and_names_this_host(node: Maker) -> None:
    host = node(1).start()
    wait(full(host))
    run, kept = Path(host.files.run), Path(host.files.kept)
    assert json.loads((run / "peers.json").read_text())["self"] == "h1"
    assert (run / "peers.json").read_text() == (kept / "peers.json").read_text()
    for path in (run / "peers.json", run / "state.json", kept / "self.json"):
        assert path.stat().st_mode & 0o777 == 0o600
    assert run.stat().st_mode & 0o777 == kept.stat().st_mode & 0o777 == 0o700


def test_dual_stack_claims_one_of_each_family(node: Maker) -> None:
    host = node(1, network=["fd00::/48", "10.0.0.0/16"]).start()
    wait(full(host))
    lengths = {subnet.split("/")[1] for subnet in host.peers["h1"]["subnets"]}
    assert lengths == {"24", "64"}


def test_a_restart_changes_nothing(cluster: MemoryCluster, node: Maker) -> None:
    host = node(1).start()
    wait(full(host))
    before = dict(cluster.items), (Path(host.files.run) / "peers.json").stat().st_ino
    host.stop()
    host.start()
    stays(lambda: host.state == "following")
    ours = {key: item for key, item in cluster.items.items() if "/live/" not in key}
    assert ours == {key: item for key, item in before[0].items() if "/live/" not in key}
    assert (Path(host.files.run) / "peers.json").stat().st_ino == before[1]


def test_subnets_that_records_list_without_owning_them_are_left_alone(
    cluster: MemoryCluster, node: Maker
) -> None:
    stranger = {"node": "x", "vtep": "192.0.2.99", "subnets": ["10.0.0.0/25"]}
    cluster.put("v1/blue/nodes/x;00", json.dumps(stranger).encode())
    hosts = [node(number, network="10.0.0.0/23", subnetLen=25) for number in (1, 2, 3)]
    for host in hosts:
        host.start()
    wait(lambda: all(set(host.peers) == {"h1", "h2", "h3", "x"} for host in hosts))
    assert sorted(one["subnets"][0] for one in hosts[0].peers.values()) == [
        "10.0.0.0/25",
        "10.0.0.128/25",
        "10.0.1.0/25",
        "10.0.1.128/25",
    ]


def test_without_a_free_subnet_a_host_is_refused(node: Maker) -> None:
    small = {"network": "10.0.0.0/24", "subnetLen": 25}
    hosts = [node(number, **small).start() for number in (1, 2)]
    wait(full(*hosts))
    late = node(3, **small).start()
    wait(lambda: late.state == "refused")
    assert "every subnet /25 of 10.0.0.0/24 has an owner" in late.trouble
    assert late.peers == {}
    wait(lambda: hosts[0].state == "following")


# ----------------------------------------------------------------------------------------- l2: blocks


def test_a_second_block_is_claimed_when_the_first_fills_up(node: Maker) -> None:
    host = node(1, **L2).start()
    wait(full(host))
    (block,) = host.peers["h1"]["blocks"]
    assert block.endswith("/28")
    host.leases.mkdir(parents=True)
    base = int(ip_address(block.split("/")[0]))
    for number in range(12):
        (host.leases / str(ip_address(base + number))).write_text("")
    wait(lambda: len(host.peers["h1"]["blocks"]) == 2)
    assert block in host.peers["h1"]["blocks"]


# -------------------------------------------------------------------------------------------- conflicts


def test_a_second_host_of_the_same_name_is_refused_and_the_first_goes_on(node: Maker) -> None:
    first = node(1).start()
    wait(full(first))
    twin = node(2, node="h1").start()
    wait(lambda: twin.state == "refused")
    assert "another host is node h1 already" in twin.trouble
    assert twin.peers == {}
    stays(lambda: first.peers["h1"]["vtep"] == "192.0.2.1" and first.state == "following")
    assert not [
        key
        for key in first._cluster.items
        if first._cluster.items[key].value.find(twin.host_number.encode()) >= 0
    ]


def test_a_host_with_the_address_of_another_is_refused_with_its_name(node: Maker) -> None:
    first = node(1).start()
    wait(full(first))
    other = node(2)
    other.vtep = first.vtep
    other.start()
    wait(lambda: other.state == "refused")
    assert "node h1 has underlay address 192.0.2.1" in other.trouble
    other.vtep = "192.0.2.2"
    assert other.follower is not None
    other.follower.look_again()
    wait(full(first, other))


def test_a_clone_of_a_host_is_told_and_does_not_fight(cluster: MemoryCluster, node: Maker) -> None:
    first = node(1).start()
    wait(full(first))
    clone = node(2, node="h1")
    clone.host_number = first.host_number
    clone.start()
    wait(lambda: "this host's number" in first.trouble and first.state == "refused")
    commits = cluster.commits
    stays(lambda: first.peers["h1"]["vtep"] == "192.0.2.1")
    assert cluster.commits <= commits + 1


def test_a_host_without_an_address_waits_for_one(node: Maker) -> None:
    host = node(1)
    host.vtep = ""
    host.start()
    wait(lambda: host.state == "refused")
    assert "no underlay" in host.trouble
    host.vtep = "192.0.2.1"
    assert host.follower is not None
    host.follower.look_again()
    wait(full(host))


def test_a_changed_address_is_published_and_known_everywhere(node: Maker) -> None:
    first, second = node(1).start(), node(2).start()
    wait(full(first, second))
    subnet = first.peers["h1"]["subnets"]
    first.vtep = "192.0.2.77"
    assert first.follower is not None
    first.follower.look_again()
    wait(lambda: second.peers["h1"]["vtep"] == "192.0.2.77" == first.peers["h1"]["vtep"])
    assert second.peers["h1"]["subnets"] == subnet


def test_connections_from_an_address_that_is_gone_are_not_used(node: Maker) -> None:
    host = node(1).start()
    wait(full(host))
    assert host.follower is not None
    host.follower.look_again()
    stays(lambda: host.opened == 1)
    host.vtep = "192.0.2.77"
    host.follower.look_again()
    wait(lambda: host.peers["h1"]["vtep"] == "192.0.2.77")
    assert host.opened == 2


# ------------------------------------------------------------------------------- what stores do


def test_a_store_that_is_away_changes_nothing_and_is_told(cluster: MemoryCluster, node: Maker) -> None:
    hosts = [node(number).start() for number in (1, 2, 3)]
    wait(full(*hosts))
    cluster.set_down(True)
    wait(lambda: all(host.state == "broken" for host in hosts))
    assert "etcd: no endpoint answers" in hosts[0].trouble
    assert set(hosts[0].peers) == {"h1", "h2", "h3"}
    cluster.set_down(False)
    wait(full(*hosts))


def test_a_start_without_a_store_uses_the_copy(cluster: MemoryCluster, node: Maker) -> None:
    first, second = node(1).start(), node(2).start()
    wait(full(first, second))
    first.stop()
    cluster.set_down(True)
    for name in ("peers.json", "state.json"):
        (Path(first.files.run) / name).unlink()
    first.news.clear()
    first.start()
    wait(lambda: set(first.peers) == {"h1", "h2"})
    assert first.news == ["blue"]
    wait(lambda: first.state == "broken")


def test_a_wiped_store_is_filled_again_and_no_peer_is_forgotten_meanwhile(
    cluster: MemoryCluster, node: Maker
) -> None:
    hosts = [node(number).start() for number in (1, 2, 3)]
    wait(full(*hosts))
    before = hosts[0].peers
    cluster.wipe()
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        assert all(host.peers == before for host in hosts)
        time.sleep(0.005)
    wait(full(*hosts))
    parts = NetworkRegistry(cluster.store(), "blue").parts()
    assert {part.cidr for part in parts} == {record["subnets"][0] for record in before.values()}


def test_a_subnet_that_was_lost_with_the_store_and_taken_is_refused_while_in_use(
    cluster: MemoryCluster, node: Maker
) -> None:
    host = node(1).start()
    wait(full(host))
    host.in_use = True
    (subnet,) = host.peers["h1"]["subnets"]
    host.stop()
    cluster.wipe()
    thief = NetworkRegistry(cluster.store(), "blue")
    thief.own(Member("h9", "9" * 32), subnet)
    host.start()
    wait(lambda: host.state == "refused")
    said = f"subnet {subnet}, in which this host has containers, is now that of node 'h9'"
    stays(
        lambda: host.state == "refused" and said in host.trouble
    )  # also when the emptied list has been seen
    assert host.peers["h1"]["subnets"] == [subnet]
    host.in_use = False
    wait(lambda: host.state == "following" and host.peers["h1"]["subnets"] != [subnet])


def test_a_list_that_shrinks_is_held_until_it_stays(cluster: MemoryCluster, node: Maker) -> None:
    host = node(1)
    for number in range(2, 12):
        record = {"node": f"h{number}", "vtep": f"192.0.2.{number}", "subnets": [f"10.0.{number}.0/24"]}
        cluster.put(f"v1/blue/nodes/h{number};0", json.dumps(record).encode())
    host.start()
    wait(lambda: len(host.peers) == 11)
    with cluster.changed:
        for number in range(2, 9):
            cluster._write(f"v1/blue/nodes/h{number};0", None)
        cluster.changed.notify_all()
    wait(lambda: host.state == "held")
    assert "7 of 11 hosts are not in the store any more" in host.trouble
    assert len(host.peers) == 11
    wait(lambda: len(host.peers) == 4 and host.state == "following")


def test_a_store_that_hides_everything_is_not_believed(cluster: MemoryCluster, node: Maker) -> None:
    host, others = node(1), [node(number) for number in (2, 3, 4)]
    for one in (host, *others):
        one.start()
    wait(full(host, *others))
    for one in others:
        one.stop()
    cluster.secret = True
    wait(lambda: host.state == "held")
    stays(lambda: len(host.peers) == 4, PAUSE * 4)
    cluster.secret = False
    wait(lambda: host.state == "following")
    assert len(host.peers) == 4


def test_hostile_records_are_named_and_hide_no_other(cluster: MemoryCluster, node: Maker) -> None:
    first, second = node(1).start(), node(2).start()
    wait(full(first, second))
    for number, value in enumerate(
        (b"{", b"\xff", b"[]", b"x" * 100_000, b'{"node":"e4","vtep":"192.0.2.1"}')
    ):
        cluster.put(f"v1/blue/nodes/e{number};00", value)
    cluster.put("v1/blue/nodes/noseparator", b"{}")
    wait(lambda: "and 3 more" in first.trouble)
    third = node(3).start()
    wait(lambda: all(set(host.peers) == {"h1", "h2", "h3"} for host in (first, second, third)))
    wait(lambda: first.state == "following")
    assert "record of node 'e0' is left out" in first.trouble


def test_our_record_is_restored_when_it_is_changed_or_removed(cluster: MemoryCluster, node: Maker) -> None:
    first, second = node(1).start(), node(2).start()
    wait(full(first, second))
    (key,) = [key for key in cluster.items if key.startswith("v1/blue/nodes/h1;")]
    with cluster.changed:
        cluster._write(key, None)
        cluster.changed.notify_all()
    wait(lambda: key in cluster.items)
    wait(full(first, second))


# --------------------------------------------------------------------------------------- life and release


def test_a_silent_node_is_told_and_keeps_its_entries(cluster: MemoryCluster, node: Maker) -> None:
    first, second = node(1).start(), node(2).start()
    wait(full(first, second))
    wait(lambda: first.files.state().get("silentCount") == 0)
    second.stop()
    time.sleep(0.1)
    with cluster.changed:
        cluster._write("v1/blue/live/h2", None)
    wait(lambda: first.files.state().get("silent") == ["h2"])
    assert set(first.peers) == {"h1", "h2"}


def test_a_node_that_is_silent_for_long_is_released(cluster: MemoryCluster, node: Maker) -> None:
    first = node(1, **L3, backend={"reclaimAfter": 1}).start()
    second, third = node(2).start(), node(3).start()
    wait(full(first, second, third))
    second.stop()
    time.sleep(0.1)
    with cluster.changed:
        cluster._write("v1/blue/live/h2", None)
    wait(lambda: set(first.peers) == {"h1", "h3"})
    assert not [key for key in cluster.items if "/h2" in key]
    assert [pairs["node"] for pairs, _ in first.log.lines if pairs.get("keeper") == "released"] == ["h2"]


# ---------------------------------------------------------------------------------------------- one round


def test_one_round_does_the_same(node: Maker) -> None:
    first, second = node(1), node(2)
    first.make().once()
    second.make().once()
    first.make().once()
    assert set(first.peers) == set(second.peers) == {"h1", "h2"}
    wait(lambda: first.state == "following")


def test_rounds_of_a_timer_hold_a_short_list_and_believe_it_later(
    cluster: MemoryCluster, node: Maker
) -> None:
    host = node(1)
    for number in range(2, 7):
        record = {"node": f"h{number}", "vtep": f"192.0.2.{number}", "subnets": [f"10.0.{number}.0/24"]}
        cluster.put(f"v1/blue/nodes/h{number};0", json.dumps(record).encode())
    host.make().once()
    assert len(host.peers) == 6
    for number in range(2, 7):
        cluster._write(f"v1/blue/nodes/h{number};0", None)
    host.make().once()
    assert host.state == "held"
    assert len(host.peers) == 6
    time.sleep(PAUSE)
    host.make().once()
    wait(lambda: host.state == "following")
    assert len(host.peers) == 1


def test_one_round_without_a_store_fails_and_says_so(cluster: MemoryCluster, node: Maker) -> None:
    cluster.set_down(True)
    host = node(1)
    with pytest.raises(StoreFailed, match="no endpoint answers"):
        host.make().once()
    assert host.state == "broken"
