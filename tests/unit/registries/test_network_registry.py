import pytest

from cni_plugins.registries.network_registry import (
    AllTaken,
    Member,
    NetworkRegistry,
    Part,
    TakenByOther,
    records_of,
)
from tests.memory_store import MemoryCluster

ME, OTHER = Member("h1", "a" * 32), Member("h2", "b" * 32)


@pytest.fixture
def cluster() -> MemoryCluster:
    return MemoryCluster()


@pytest.fixture
def blue(cluster: MemoryCluster) -> NetworkRegistry:
    return NetworkRegistry(cluster.store(), "blue")


def record(vtep: str = "192.0.2.1", **more: object) -> dict[str, object]:
    return {"node": "h1", "vtep": vtep, **more}


def test_a_host_that_joins_is_in_the_list_and_confirms_it(blue: NetworkRegistry) -> None:
    assert blue.records() == {}
    assert not blue.is_confirmed()
    blue.join(ME, record())
    assert blue.records() == {"h1": b'{"node":"h1","vtep":"192.0.2.1"}'}
    assert blue.is_confirmed()


def test_joining_again_writes_nothing(cluster: MemoryCluster, blue: NetworkRegistry) -> None:
    blue.join(ME, record())
    before = cluster.commits
    blue.join(ME, record())
    assert cluster.commits == before


def test_a_changed_record_replaces_the_old_one_and_its_address(
    cluster: MemoryCluster, blue: NetworkRegistry
) -> None:
    blue.join(ME, record())
    blue.join(ME, record("192.0.2.9"))
    assert list(blue.records()) == ["h1"]
    assert b"192.0.2.9" in blue.records()["h1"]
    blue.join(OTHER, {"node": "h2", "vtep": "192.0.2.1"})
    assert sorted(blue.records()) == ["h1", "h2"]


def test_two_hosts_with_one_name_or_address_find_out(blue: NetworkRegistry) -> None:
    blue.join(ME, record())
    with pytest.raises(TakenByOther, match="another host is node h1 already"):
        blue.join(Member("h1", "c" * 32), record("192.0.2.3"))
    with pytest.raises(TakenByOther, match="node h1 has underlay address 192.0.2.1"):
        blue.join(OTHER, {"node": "h2", "vtep": "192.0.2.1"})


def test_a_claim_keeps_what_the_host_has_and_takes_the_first_free_one(blue: NetworkRegistry) -> None:
    offered = [f"10.0.{n}.0/24" for n in range(3)]
    assert blue.claim(ME, offered) == ["10.0.0.0/24"]
    assert blue.claim(OTHER, offered) == ["10.0.1.0/24"]
    assert blue.claim(ME, offered) == ["10.0.0.0/24"]
    assert blue.claim(ME, offered, 2) == ["10.0.0.0/24", "10.0.2.0/24"]
    with pytest.raises(AllTaken, match="h2 needs 2, and has 10.0.1.0/24"):
        blue.claim(OTHER, offered, 2)


def test_a_claim_of_what_another_host_has_names_it(blue: NetworkRegistry) -> None:
    assert blue.own(ME, "fd00::/64") is None
    assert blue.own(OTHER, "fd00::/64") == ME
    blue.disown(OTHER, "fd00::/64")
    assert blue.parts() == [Part("fd00::/64", ME)]
    blue.disown(ME, "fd00::/64")
    assert blue.parts() == []


def test_release_removes_everything_of_a_node_and_nothing_else(
    cluster: MemoryCluster, blue: NetworkRegistry
) -> None:
    for me, vtep in ((ME, "192.0.2.1"), (OTHER, "192.0.2.2")):
        blue.join(me, {"node": me.node, "vtep": vtep})
        blue.claim(me, [f"10.0.{n}.0/24" for n in range(100)], 50)
        blue.show_life(me, 60)
    assert blue.release("h1")
    assert not [key for key in cluster.items if "h1" in key]
    assert blue.live() == {"h2"}
    assert {part.owner for part in blue.parts()} == {OTHER}
    assert not blue.release("h1")


def test_liveness_ends_by_itself_and_the_rest_stays(blue: NetworkRegistry) -> None:
    blue.join(ME, record())
    blue.show_life(ME, -1)
    assert blue.live() == frozenset()
    assert list(blue.records()) == ["h1"]


def test_values_of_strangers_are_nobody_s_and_not_ours(cluster: MemoryCluster, blue: NetworkRegistry) -> None:
    for value in (b"", b"[]", b"null", b'{"node": 1, "host": 2}', b"\xff"):
        cluster.put("v1/blue/parts/10.0.0.0-24", value)
        owner = blue.own(ME, "10.0.0.0/24")
        assert owner is not None
        assert owner.node == "?"


def test_any_node_name_survives_as_a_key(blue: NetworkRegistry) -> None:
    name = "a;b%2Fc é"
    blue.join(Member(name, "a"), {"node": name, "vtep": "192.0.2.1"})
    assert list(blue.records()) == [name]
    assert records_of({"h1;00": b"x"}) == {"h1": b"x"}
