"""Two hosts that follow the networks of a store: their files, and those of others, which stay."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.cli.network.conflist import conflist
from cni_plugins.cli.network.wish import Words, read
from cni_plugins.keeper import networks as keeper
from cni_plugins.keeper.networks import Step, ThisHost
from cni_plugins.registries.network_registry import Member, NetworkRegistry
from cni_plugins.registries.shared_networks import SharedNetwork, SharedNetworks
from cni_plugins.registries.store import Unreachable
from cni_plugins.upkeep.networks import registry_file
from cni_plugins.upkeep.networks.containers import Container
from cni_plugins.upkeep.networks.files import NetworkFile
from cni_plugins.upkeep.networks.taken import HostView, Taken
from tests.memory_store import MemoryCluster

SECTION = {"type": "etcd", "endpoints": ["http://192.0.2.9:2379"]}


class FakeHost(ThisHost):
    """A host with files of its own, and a kernel and containers as the test says."""

    def __init__(self, directory: Path, node: str, cluster: MemoryCluster, **registry: Any) -> None:
        super().__init__(directory / node)
        self.directory = directory / node
        self.node = node
        self.cluster = cluster
        self.registry = registry_file.parse({**SECTION, "node": node, **registry}, "registry.json")
        self.users: dict[str, tuple[Container, ...]] = {}
        self.has = HostView()
        self.removed: list[str] = []

    def containers(self, names: tuple[str, ...]) -> Mapping[str, tuple[Container, ...]]:
        return {name: self.users.get(name, ()) for name in names}

    def view(self, _links: tuple[str, ...]) -> HostView:
        return self.has

    def remove(self, file: NetworkFile) -> tuple[str, ...]:
        file.path.unlink()
        self.removed.append(file.name)
        return ()

    def step(self) -> Step:
        return keeper.step(self.cluster.store(), self.registry, self)

    def names(self) -> list[str]:
        return sorted(path.name for path in self.directory.iterdir()) if self.directory.exists() else []

    def document(self, name: str) -> dict[str, Any]:
        return dict(json.loads((self.directory / f"80-{name}.conflist").read_text()))


@pytest.fixture
def cluster() -> MemoryCluster:
    return MemoryCluster()


@pytest.fixture
def hosts(tmp_path: Path, cluster: MemoryCluster) -> tuple[FakeHost, FakeHost]:
    return FakeHost(tmp_path, "h1", cluster), FakeHost(tmp_path, "h2", cluster)


def create(
    cluster: MemoryCluster,
    name: str = "blue",
    subnet: str = "10.1.0.0/16",
    driver: str = "vxlan",
    **words: Any,
) -> SharedNetwork:
    wish = read(Words(name, driver, (subnet,), **words))
    overlay = {"vni": 7, "backend": {"type": "etcd"}} if wish.driver == "vxlan" else {}
    document = conflist(wish, wish.subnets, (), overlay)
    return put(cluster, name, document, subnet)


def put(cluster: MemoryCluster, name: str, document: Mapping[str, Any], *subnets: str) -> SharedNetwork:
    return SharedNetworks(cluster.store()).create(name, lambda _: SharedNetwork(name, "", document, subnets))


def remove(cluster: MemoryCluster, network: SharedNetwork) -> None:
    assert SharedNetworks(cluster.store()).remove(network)


def test_every_host_writes_the_network_with_its_own_way_to_the_store(
    cluster: MemoryCluster, hosts: tuple[FakeHost, FakeHost]
) -> None:
    made = create(cluster)
    for host in hosts:
        done = host.step()
        assert done == Step((host.directory / "80-blue.conflist",), (), ())
        assert (host.directory / "80-blue.conflist").stat().st_mode & 0o777 == 0o644
        document = host.document("blue")
        assert document["plugins"][0]["backend"] == {**SECTION, "node": host.node}
        assert document["cni-plugins.registry"] == {
            "type": "etcd",
            "prefix": "/cni-plugins",
            "id": made.number,
        }
        assert host.names() == ["80-blue.conflist"]


def test_a_second_round_changes_nothing(cluster: MemoryCluster, hosts: tuple[FakeHost, FakeHost]) -> None:
    create(cluster)
    host, _ = hosts
    host.step()
    inode, commits = (host.directory / "80-blue.conflist").stat().st_ino, cluster.commits
    assert host.step() == Step()
    assert (host.directory / "80-blue.conflist").stat().st_ino == inode
    assert cluster.commits == commits


def test_a_removed_network_stays_while_a_container_of_the_host_is_on_it(
    cluster: MemoryCluster, hosts: tuple[FakeHost, FakeHost]
) -> None:
    made = create(cluster)
    used, idle = hosts
    for host in hosts:
        NetworkRegistry(cluster.store(), "blue").join(Member(host.node, host.node), {"vtep": host.node})
        host.step()
    used.users["blue"] = (Container("c1", "eth0"),)
    used.step()
    remove(cluster, made)
    assert idle.step().removed == (idle.directory / "80-blue.conflist",)
    assert used.step().told == ("network blue is removed, and waits for c1 (eth0)",)
    assert (used.names(), idle.names()) == (["80-blue.conflist"], [])
    assert [*NetworkRegistry(cluster.store(), "blue").records()] == ["h1"]
    used.users.clear()
    assert used.step().removed == (used.directory / "80-blue.conflist",)
    assert NetworkRegistry(cluster.store(), "blue").records() == {}


def test_hosts_report_their_containers(cluster: MemoryCluster, hosts: tuple[FakeHost, FakeHost]) -> None:
    create(cluster)
    for host in hosts:
        host.step()
        host.users["blue"] = (Container(f"c-{host.node}", "eth0"),)
        host.step()
    users = SharedNetworks(cluster.store()).users("blue")
    assert users == {"h1": ("c-h1 (eth0)",), "h2": ("c-h2 (eth0)",)}
    hosts[0].users.clear()
    hosts[0].step()
    assert [*SharedNetworks(cluster.store()).users("blue")] == ["h2"]


def test_a_store_that_was_emptied_removes_no_network(
    cluster: MemoryCluster, hosts: tuple[FakeHost, FakeHost]
) -> None:
    create(cluster)
    host, _ = hosts
    host.step()
    cluster.secret = True  # as Consul answers a token without rights
    told = ("network blue is not in the store, and nobody removed it there: it is kept",)
    assert host.step() == Step(told=told)
    cluster.secret = False
    cluster.wipe()
    assert host.step() == Step(told=told)
    assert host.names() == ["80-blue.conflist"]


def test_a_store_that_is_away_changes_nothing(
    cluster: MemoryCluster, hosts: tuple[FakeHost, FakeHost]
) -> None:
    made = create(cluster)
    host, _ = hosts
    host.step()
    remove(cluster, made)
    cluster.set_down(True)
    with pytest.raises(Unreachable):
        host.step()
    assert host.names() == ["80-blue.conflist"]


def test_a_network_of_the_operators_is_never_touched(
    cluster: MemoryCluster, hosts: tuple[FakeHost, FakeHost]
) -> None:
    host, _ = hosts
    host.directory.mkdir()
    own = host.directory / "10-own.conflist"
    own.write_text('{"cniVersion": "1.0.0", "name": "blue", "plugins": [{"type": "bridge"}]}')
    made = create(cluster)
    host.users["blue"] = (Container("c1", "eth0"),)
    assert host.step().told == (f"{own} has a network blue of its own: that of the store is left out",)
    assert SharedNetworks(cluster.store()).users("blue") == {}
    remove(cluster, made)
    assert host.step() == Step()
    assert host.names() == ["10-own.conflist"]


def test_a_file_that_is_in_the_way_stays(cluster: MemoryCluster, hosts: tuple[FakeHost, FakeHost]) -> None:
    host, _ = hosts
    host.directory.mkdir()
    (host.directory / "80-blue.conflist").write_text("mine")
    create(cluster)
    assert host.step().told == ("network blue cannot be written: File exists",)
    assert (host.directory / "80-blue.conflist").read_text() == "mine"
    assert host.names() == ["80-blue.conflist"]


def test_a_network_that_was_created_anew_waits_for_containers_of_the_former(
    cluster: MemoryCluster, hosts: tuple[FakeHost, FakeHost]
) -> None:
    host, _ = hosts
    first = create(cluster)
    host.step()
    host.users["blue"] = (Container("c1", "eth0"),)
    remove(cluster, first)
    create(cluster, subnet="10.2.0.0/16")
    assert host.step().told == ("network blue was created anew, and waits for c1 (eth0) of the former",)
    assert host.document("blue")["plugins"][0]["network"] == ["10.1.0.0/16"]
    host.users.clear()
    assert host.step().told == ()
    assert host.document("blue")["plugins"][0]["network"] == ["10.2.0.0/16"]


def test_a_host_follows_the_names_that_it_was_told(tmp_path: Path, cluster: MemoryCluster) -> None:
    some = FakeHost(tmp_path, "some", cluster, networks=["web-*", "db"])
    none = FakeHost(tmp_path, "none", cluster, networks=[])
    for number, name in enumerate(("web-1", "db", "dbx")):
        create(cluster, name, f"10.{number}.0.0/16", "ptp")
    assert none.step() == Step()
    some.step()
    assert some.names() == ["80-db.conflist", "80-web-1.conflist"]


def test_a_host_that_no_longer_follows_a_network_removes_it(tmp_path: Path, cluster: MemoryCluster) -> None:
    create(cluster)
    host = FakeHost(tmp_path, "h1", cluster)
    host.step()
    host.registry = host.registry._replace(patterns=("red",))
    assert host.step().removed == (host.directory / "80-blue.conflist",)


def test_a_new_way_to_the_store_is_written_while_containers_run(
    cluster: MemoryCluster, hosts: tuple[FakeHost, FakeHost]
) -> None:
    create(cluster)
    host, _ = hosts
    host.step()
    host.users["blue"] = (Container("c1", "eth0"),)
    host.has = HostView((Taken(read(Words("x", subnets=("10.1.0.0/16",))).subnets[0], "itself"),))
    backend = {**host.registry.backend, "endpoints": ["http://192.0.2.8:2379"]}
    host.registry = host.registry._replace(backend=backend)
    assert host.step().told == ()
    assert host.document("blue")["plugins"][0]["backend"]["endpoints"] == ["http://192.0.2.8:2379"]


def test_a_network_that_overlaps_the_hosts_own_is_left_out(
    cluster: MemoryCluster, hosts: tuple[FakeHost, FakeHost]
) -> None:
    host, other = hosts
    subnet = read(Words("x", subnets=("10.1.7.0/24",))).subnets[0]
    host.has = HostView((Taken(subnet, "route 10.1.7.0/24 out of link eth0", "eth0"),))
    create(cluster)
    told = "network blue of the store is left out: 10.1.0.0/16 overlaps route 10.1.7.0/24 out of link eth0"
    assert host.step().told == (told,)
    assert other.step().told == ()


def test_two_networks_never_share_a_bridge(cluster: MemoryCluster, hosts: tuple[FakeHost, FakeHost]) -> None:
    host, _ = hosts
    host.directory.mkdir()
    own = host.directory / "10-own.conflist"
    own.write_text('{"cniVersion": "1.0.0", "name": "own", "plugins": [{"type": "bridge"}]}')
    create(cluster, driver="bridge", options=("com.docker.network.bridge.name=cni0",))
    told = f"network blue of the store is left out: network own ({own}) has the same link"
    assert host.step().told == (told,)


GOOD = conflist(
    read(Words("evil", "ptp", ("10.3.0.0/24",))), read(Words("e", subnets=("10.3.0.0/24",))).subnets
)
PTP = GOOD["plugins"][0]


def listed(*plugins: Mapping[str, Any]) -> dict[str, Any]:
    return {**GOOD, "plugins": [*plugins]}


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({}, "the config is not of this network"),
        ({**GOOD, "name": "other"}, "the config is not of this network"),
        ({**GOOD, "cniVersion": "9"}, "incompatible CNI versions"),
        ({**GOOD, "cniVersion": None}, "cniVersion or cni-plugins.network is missing"),
        ({**GOOD, "args": {}}, "args is not taken from a store"),
        ({**GOOD, "CNIVersion": "1.0.0"}, "CNIVersion is not taken from a store"),
        ({**GOOD, "plugins": []}, "plugins is no list of plugins"),
        ({**GOOD, "plugins": [1]}, "plugins is no list of plugins"),
        (listed(*[PTP] * 9), "plugins is no list of plugins"),
        (listed({"type": "../../tmp/x"}), "plugin '../../tmp/x' is not taken from a store"),
        (listed({"type": "tuning", "dataDir": "/etc"}), "plugin 'tuning' is not taken from a store"),
        (listed({"type": ["ptp"]}), 'plugin ["ptp"] is not taken from a store'),
        (listed({**PTP, "Type": "tuning"}), "ptp: Type is not taken from a store"),
        (listed({**PTP, "runtimeConfig": {}}), "ptp: runtimeConfig is not taken from a store"),
        (listed({**PTP, "ipam": {**PTP["ipam"], "dataDir": "/etc"}}), "ptp: ipam.dataDir is not taken from"),
        (
            listed({**PTP, "ipam": {**PTP["ipam"], "RESOLVCONF": "/etc/shadow"}}),
            "ptp: ipam.RESOLVCONF is not",
        ),
        (listed({**PTP, "ipam": {"type": "../sh"}}), "ptp: ipam is not taken from a store"),
        (
            listed({**PTP, "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.3.0.0/31"}]]}}),
            "too small",
        ),
        (listed({**PTP, "mtu": "x"}), "invalid MTU"),
        (
            listed(
                {"type": "vxlan", "network": "10.3.0.0/16", "backend": {"type": "static", "peersFile": "/x"}}
            ),
            "vxlan: backend is not this host's",
        ),
        (
            listed({"type": "vxlan", "network": "10.3.0.0/16", "backend": {**SECTION, "type": "etcd"}}),
            "vxlan: backend is not this host's",
        ),
        (listed({**PTP, "ipam": {"type": "host-local", "ranges": [[{"subnet": "0.0.0.0/0"}]]}}), "overlaps"),
    ],
)
def test_a_hostile_network_is_left_out_and_told_while_others_are_written(
    cluster: MemoryCluster, hosts: tuple[FakeHost, FakeHost], document: dict[str, Any], reason: str
) -> None:
    host, _ = hosts
    host.has = HostView(
        (Taken(read(Words("x", subnets=("192.0.2.0/24",))).subnets[0], "address 192.0.2.1/24"),)
    )
    put(cluster, "evil", document)
    create(cluster)
    done = host.step()
    assert host.names() == ["80-blue.conflist"]
    (told,) = done.told
    assert told.startswith("network evil of the store is left out: ")
    assert reason in told


@pytest.mark.parametrize("name", ["../../x", "a/b", "a%2fb", "-x", ".x", "", "x" * 201, "x\n"])
def test_a_name_that_is_none_leads_to_no_file(
    cluster: MemoryCluster, hosts: tuple[FakeHost, FakeHost], tmp_path: Path, name: str
) -> None:
    host, _ = hosts
    put(cluster, name, {**GOOD, "name": name})
    (told,) = host.step().told
    assert "is left out: the config is not of this network" in told
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
