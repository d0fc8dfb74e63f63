"""Networks of a store, as `cnictl network` creates, lists and removes them, on a host that follows it."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.cli.failure import Failed
from cni_plugins.cli.network import create as creating
from cni_plugins.cli.network import document, listing, text
from cni_plugins.cli.network.create import Created
from cni_plugins.cli.network.place import Place
from cni_plugins.cli.network.wish import Words, read
from cni_plugins.contract.registry_config import RegistrySection
from cni_plugins.keeper.networks import round_on
from cni_plugins.registries.shared_networks import SharedNetworks
from cni_plugins.registries.store import Denied, Store
from cni_plugins.upkeep.networks import registry_file, taken
from tests.caches import remember
from tests.memory_store import MemoryCluster

SECTION = {"type": "consul", "endpoints": ["http://192.0.2.9:8500"], "prefix": "/fleet"}


class Fleet:
    """A store, and hosts that share one kernel but have directories of their own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.cluster = MemoryCluster()

    def place(self, node: str = "h1", **registry: Any) -> Place:
        conf_dir, cache = self.directory / node / "net.d", self.directory / node / "cache"
        found = registry_file.parse({**SECTION, "node": node, **registry}, "registry.json")
        return Place(conf_dir, (cache,), found, lambda _: self.cluster.store())

    def create(self, name: str, *subnets: str, driver: str = "vxlan", **words: Any) -> Created:
        return creating.shared(read(Words(name, driver, subnets, **words)), self.place())

    def follow(self, node: str) -> list[str]:
        place = self.place(node)
        assert place.registry is not None
        round_on(self.cluster.store(), place.registry, place.conf_dir, place.cache_dirs)
        return sorted(path.name for path in place.conf_dir.glob("*"))


@pytest.fixture
def fleet(bed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    monkeypatch.setattr(taken, "RESOLVERS", ())
    with bed.host.entered():
        yield Fleet(tmp_path)


def attach(fleet: Fleet, node: str, name: str, bed: Any) -> Path:
    """Let a runtime remember a container whose sandbox exists."""
    result = {
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "eth0", "sandbox": bed.host.path, "mac": "02:00:00:00:00:01"}],
        "ips": [{"address": "10.128.1.2/24", "interface": 0}],
    }
    config = {"cniVersion": "1.0.0", "name": name, "plugins": [{"type": "vxlan"}]}
    return remember(fleet.directory / node / "cache", config, result, bed.host.path)


def test_a_network_is_on_its_creators_host_at_once_and_on_others_with_their_next_round(fleet: Fleet) -> None:
    made = fleet.create("blue", ipv6=True)
    assert made.subnets[0] == "10.128.0.0/16"
    assert made.subnets[1].startswith("fd")
    assert made.file == fleet.directory / "h1/net.d/80-blue.conflist"
    assert fleet.follow("h2") == ["80-blue.conflist"]
    plugin = json.loads((fleet.directory / "h2/net.d/80-blue.conflist").read_text())["plugins"][0]
    assert plugin["backend"] == {**SECTION, "node": "h2"}
    assert (plugin["network"], plugin["subnetLen"], plugin["vni"]) == ([*made.subnets], 24, made.vni)
    (line,) = text.created(made)
    assert line == f"blue: {', '.join(made.subnets)}, VNI {made.vni}, in the store, and {made.file}"


def test_creations_at_once_get_subnets_and_vnis_of_their_own(fleet: Fleet) -> None:
    wishes = [read(Words(f"n{number}", "vxlan", options=("mode=l2",))) for number in range(20)]
    seen = taken.look()  # one thread has the namespace; the store is what they race for

    def create(number: int) -> Any:
        def make(others: Any) -> Any:
            used = (*seen.taken, *creating._of_store(others))
            return creating._shared(wishes[number], others, used, SECTION)

        return SharedNetworks(fleet.cluster.store()).create(wishes[number].name, make)

    with ThreadPoolExecutor(20) as pool:
        found = [*pool.map(create, range(20))]
    assert len({network.subnets for network in found}) == 20
    assert len({network.vni for network in found}) == 20


def test_a_subnet_or_vni_of_another_network_is_refused(fleet: Fleet) -> None:
    made = fleet.create("blue", "10.1.0.0/16", options=("vni=77",))
    for name, subnet, options, message in (
        ("red", "10.1.5.0/24", (), "--subnet 10.1.5.0/24 overlaps network blue"),
        ("red", "10.2.0.0/16", ("vni=77",), "-o vni=77: network blue of the store has it"),
        ("blue", "10.2.0.0/16", (), "has a network blue already"),
    ):
        with pytest.raises(Failed) as caught:
            fleet.create(name, subnet, options=options)
        assert message in str(caught.value)
    assert made.vni == 77
    (fleet.directory / "h1/net.d/80-blue.conflist").unlink()
    with pytest.raises(Failed) as caught:
        fleet.create("blue", "10.2.0.0/16")
    assert str(caught.value) == "the store has a network blue already"


def test_a_host_that_does_not_follow_a_network_does_not_get_it(fleet: Fleet) -> None:
    place = fleet.place(networks=["web-*"])
    made = creating.shared(read(Words("blue", "vxlan")), place)
    assert (made.file, made.told) == (None, ())
    assert [*text.created(made)] == [f"blue: 10.128.0.0/16, VNI {made.vni}, in the store"]
    assert [*place.conf_dir.glob("*")] == []
    assert fleet.follow("h2") == ["80-blue.conflist"]


def test_a_network_is_kept_while_a_host_has_a_container_on_it(fleet: Fleet, bed: Any) -> None:
    fleet.create("blue")
    cached = attach(fleet, "h2", "blue", bed)
    fleet.follow("h2")
    with pytest.raises(Failed) as caught:
        listing.remove("blue", fleet.place())
    assert str(caught.value) == "network blue is in use by c1 (eth0) on h2"
    cached.unlink()
    assert fleet.follow("h2") == ["80-blue.conflist"]
    assert [*listing.remove("blue", fleet.place())] == []
    assert fleet.follow("h1") == []
    assert fleet.follow("h2") == []


def test_ls_and_inspect_know_this_host_and_the_others(fleet: Fleet, bed: Any) -> None:
    fleet.create("blue")
    for node in ("h1", "h2"):
        attach(fleet, node, "blue", bed)
        fleet.follow(node)
    place = fleet.place("h3")
    (network,) = listing.find(place).networks  # it has no file yet
    assert network.elsewhere == {"h1": ("c1 (eth0)",), "h2": ("c1 (eth0)",)}
    assert [*text.listed([network])][1].split() == ["blue", "vxlan", "cluster", "10.128.0.0/16", "2"]
    (shown,) = document.inspected([listing.find(fleet.place("h1")).find("blue")])
    assert [(one["id"], one["addresses"]) for one in shown["containers"]] == [("c1", ["10.128.1.2/24"])]
    assert shown["elsewhere"] == {"h2": ["c1 (eth0)"]}
    assert (shown["scope"], shown["driver"]) == ("cluster", "vxlan")


def test_a_bridge_of_the_store_is_the_same_on_every_host(fleet: Fleet) -> None:
    made = fleet.create("web", driver="bridge")
    assert (made.subnets, made.vni) == (("172.17.0.0/16",), 0)
    fleet.follow("h2")
    one, two = (
        json.loads((fleet.directory / f"{node}/net.d/80-web.conflist").read_text()) for node in ("h1", "h2")
    )
    assert one == two


def test_hosts_divide_the_addresses_of_a_wire_among_them(fleet: Fleet) -> None:
    fleet.create("lan", "10.1.0.0/24", driver="macvlan", options=("parent=eth0",))
    fleet.follow("h2")
    for node in ("h1", "h2"):
        (plugin,) = json.loads((fleet.directory / f"{node}/net.d/80-lan.conflist").read_text())["plugins"]
        assert (plugin["type"], plugin["master"]) == ("macvlan", "eth0")
        assert (plugin["ipam"]["type"], plugin["ipam"]["ranges"]) == (
            "cluster",
            [[{"subnet": "10.1.0.0/24"}]],
        )
        assert plugin["ipam"]["registry"]["endpoints"]  # this host's own way to the store
    stored = SharedNetworks(fleet.cluster.store()).list().networks["lan"].conflist
    assert stored["plugins"][0]["ipam"]["registry"] == {"type": "consul"}


@pytest.mark.parametrize(
    ("driver", "subnets", "options", "message"),
    [
        ("vxlan", (), ("peers=/etc/x",), "-o peers and a store"),
        ("vxlan", (), ("port=0",), "invalid UDP port 0"),
    ],
)
def test_what_a_fleet_cannot_have_is_refused_and_not_written(
    fleet: Fleet, driver: str, subnets: tuple[str, ...], options: tuple[str, ...], message: str
) -> None:
    with pytest.raises(Failed) as caught:
        fleet.create("blue", *subnets, driver=driver, options=options)
    assert message in str(caught.value)
    assert SharedNetworks(fleet.cluster.store()).list() == ({}, {})


def test_while_the_store_is_away_ls_shows_this_host_and_nothing_is_changed(fleet: Fleet) -> None:
    fleet.create("blue")
    fleet.cluster.set_down(True)
    found = listing.find(fleet.place())
    assert [one.name for one in found.networks] == ["blue"]
    assert found.faults == ("consul: no endpoint answers",)
    with pytest.raises(Failed) as caught:
        listing.remove("blue", fleet.place())
    assert "network blue is one of a store" in str(caught.value)
    with pytest.raises(Failed):
        fleet.create("red")
    assert (fleet.directory / "h1/net.d/80-blue.conflist").exists()


def test_a_store_that_cannot_be_opened_is_told_without_its_secrets(fleet: Fleet) -> None:
    def refuse(_section: RegistrySection) -> Store:
        raise Denied("the token may not write")

    place = fleet.place()._replace(open_store=refuse)
    with pytest.raises(Failed) as caught:
        creating.shared(read(Words("blue", "vxlan")), place)
    assert str(caught.value) == "consul: the token may not write"


def test_without_a_store_a_shared_network_cannot_be_removed(fleet: Fleet) -> None:
    fleet.create("blue")
    with pytest.raises(Failed) as caught:
        listing.remove("blue", fleet.place()._replace(registry=None))
    assert "network blue is one of a store" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not JSON"),
        ("[]", "not an object"),
        ('{"type": "etcd"}', "endpoints is missing"),
        ('{"type": "redis", "endpoints": ["http://192.0.2.1:1"]}', "type"),
        ('{"type": "etcd", "endpoints": ["http://192.0.2.1:1"], "networks": "blue"}', "networks"),
        ('{"type": "etcd", "endpoints": ["http://192.0.2.1:1"], "netwoks": []}', "unknown key"),
        ('{"type": "etcd", "endpoints": ["http://me:secret@192.0.2.1:1"]}', "must have the form"),
    ],
)
def test_a_registry_file_that_is_wrong_says_where(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "registry.json"
    path.write_text(content)
    with pytest.raises(creating.CniError) as caught:
        registry_file.read(path)
    assert str(path) in caught.value.msg
    assert message in f"{caught.value.msg} {caught.value.details}"


def test_keys_of_a_registry_file_have_any_case(tmp_path: Path) -> None:
    path = tmp_path / "registry.json"
    path.write_text('{"Type": "etcd", "Endpoints": ["http://192.0.2.1:1"], "Networks": ["a*"]}')
    found = registry_file.read(path)
    assert found.backend == {"type": "etcd", "Endpoints": ["http://192.0.2.1:1"]}
    assert (found.follows("ab"), found.follows("b")) == (True, False)
