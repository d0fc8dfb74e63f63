"""Networks in a store: many hosts create at once, and what others have written there."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from cni_plugins.registries.shared_networks import AlreadyThere, SharedNetwork, SharedNetworks
from tests.memory_store import MemoryCluster


@pytest.fixture
def cluster() -> MemoryCluster:
    return MemoryCluster()


def networks(cluster: MemoryCluster) -> SharedNetworks:
    return SharedNetworks(cluster.store())


def plain(name: str = "blue", *subnets: str, vni: int = 0) -> SharedNetwork:
    return SharedNetwork(name, "", {"name": name}, subnets, vni, 4789 if vni else 0)


def test_a_network_is_listed_as_it_was_created(cluster: MemoryCluster) -> None:
    made = networks(cluster).create("blue", lambda _: plain("blue", "10.1.0.0/16", vni=7))
    assert networks(cluster).list() == ({"blue": made}, {})
    assert made == plain("blue", "10.1.0.0/16", vni=7)._replace(number=made.number)
    assert len(made.number) == 16


def test_a_name_is_given_once(cluster: MemoryCluster) -> None:
    networks(cluster).create("blue", lambda _: plain())
    with pytest.raises(AlreadyThere):
        networks(cluster).create("blue", lambda _: plain())
    with pytest.raises(AlreadyThere):
        networks(cluster).create("networks", lambda _: plain())


def test_thirty_hosts_that_create_at_once_choose_thirty_subnets(cluster: MemoryCluster) -> None:
    def create(number: int) -> str:
        def make(others: list[SharedNetwork]) -> SharedNetwork:
            used = {subnet for other in others for subnet in other.subnets}
            return plain(
                f"n{number}", next(text for n in range(99) if (text := f"10.{n}.0.0/16") not in used)
            )

        return networks(cluster).create(f"n{number}", make).subnets[0]

    with ThreadPoolExecutor(30) as pool:
        found = [*pool.map(create, range(30))]
    assert sorted(found) == sorted(f"10.{n}.0.0/16" for n in range(30))


def test_a_removal_is_recorded(cluster: MemoryCluster) -> None:
    made = networks(cluster).create("blue", lambda _: plain())
    assert networks(cluster).removed() == {}
    assert networks(cluster).remove(made)
    assert networks(cluster).list().networks == {}
    assert networks(cluster).removed() == {"blue": made.number}
    assert not networks(cluster).remove(made)


def test_a_removal_leaves_a_successor_of_the_same_name(cluster: MemoryCluster) -> None:
    first = networks(cluster).create("blue", lambda _: plain())
    networks(cluster).remove(first)
    second = networks(cluster).create("blue", lambda _: plain())
    assert not networks(cluster).remove(first)
    assert networks(cluster).list().networks == {"blue": second}


def test_users_are_known_by_host_until_there_are_none(cluster: MemoryCluster) -> None:
    shared = networks(cluster)
    shared.report("blue", "h1", ["c2", "c1"])
    shared.report("blue", "h/2", ["c3"])
    assert shared.users("blue") == {"h1": ("c1", "c2"), "h/2": ("c3",)}
    shared.report("blue", "h1", [])
    assert shared.users("blue") == {"h/2": ("c3",)}


def test_a_report_is_written_only_when_it_has_changed(cluster: MemoryCluster) -> None:
    shared = networks(cluster)
    shared.report("blue", "h1", [])
    shared.report("blue", "h1", ["c1", "c2"])
    before = cluster.commits
    shared.report("blue", "h1", ["c2", "c1"])
    assert (before, cluster.commits) == (1, 1)


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (b"{", "not an object, or too large"),
        (b"[" * 100_000, "not an object, or too large"),
        (b" " * 300_000 + b"{}", "not an object, or too large"),
        (b"{}", "id, conflist or subnet is missing or of another type"),
        (json.dumps({"id": "1", "conflist": [], "subnet": []}).encode(), "id, conflist or subnet"),
        (json.dumps({"id": "1", "conflist": {}, "subnet": [1]}).encode(), "id, conflist or subnet"),
        (json.dumps({"id": "1", "conflist": {}, "subnet": [], "vni": "7"}).encode(), "vni or port is no"),
    ],
)
def test_what_cannot_be_read_is_told_and_hides_no_other(
    cluster: MemoryCluster, value: bytes, fault: str
) -> None:
    networks(cluster).create("blue", lambda _: plain())
    cluster.put("v1/networks/red", value)
    listed = networks(cluster).list()
    assert [*listed.networks] == ["blue"]
    assert listed.faults["red"].startswith(f"network red in the store: {fault}")


def test_a_report_that_cannot_be_read_counts_as_use(cluster: MemoryCluster) -> None:
    cluster.put("v1/networks-in-use/blue/h9", b"\xff")
    assert networks(cluster).users("blue") == {"h9": ("?",)}
