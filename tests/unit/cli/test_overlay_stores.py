"""What `cnictl overlay` and `cnictl agent status` say of stores."""

import time
from typing import Any

import pytest

from cni_plugins.cli.agent.text import lines
from cni_plugins.cli.failure import Failed
from cni_plugins.cli.overlay import stores
from cni_plugins.keeper import once, overview
from cni_plugins.registries.network_registry import Member, NetworkRegistry
from cni_plugins.upkeep.overlay_configs import Configured
from tests.memory_store import MemoryCluster

STORE = {"type": "etcd", "endpoints": ["http://192.0.2.1:2379"]}


def configured(name: str, backend: Any) -> Configured:
    return Configured(name, "file", {"name": name, "network": "10.0.0.0/16", "backend": backend})


BLUE, RED = configured("blue", STORE), configured("red", STORE)
STATIC = configured("static", {"type": "static", "peers": ["192.0.2.1"]})


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> MemoryCluster:
    made = MemoryCluster()
    original = once.release

    def release(*arguments: Any, **options: Any) -> once.Released:
        return original(*arguments, **options, open_store=lambda _: made.store())

    monkeypatch.setattr(once, "release", release)
    return made


def join(cluster: MemoryCluster, network: str, node: str, *, live: bool) -> None:
    registry, me = NetworkRegistry(cluster.store(), network), Member(node, node * 8)
    registry.join(me, {"node": node, "vtep": f"192.0.2.{node[1:]}"})
    registry.own(me, "10.0.1.0/24")
    if live:
        registry.show_life(me, 60)


def test_release_says_what_a_host_had(cluster: MemoryCluster) -> None:
    join(cluster, "blue", "h1", live=False)
    released = stores.release([BLUE, STATIC], "h1", force=False, named=False)
    assert list(stores.released_lines("h1", released)) == ["blue: released 'h1': its record, 10.0.1.0/24"]
    assert stores.released_document("h1", released) == [
        {"network": "blue", "node": "h1", "released": True, "addresses": ["10.0.1.0/24"], "error": None}
    ]
    assert not [key for key in cluster.items if "h1" in key or "parts" in key]


def test_a_live_host_is_released_only_by_force(cluster: MemoryCluster) -> None:
    join(cluster, "blue", "h1", live=True)
    (refused,) = stores.release([BLUE], "h1", force=False, named=True)
    assert refused.error == "node 'h1' is live: stop its agent first, or use --force"
    assert NetworkRegistry(cluster.store(), "blue").records()
    (done,) = stores.release([BLUE], "h1", force=True, named=True)
    assert not done.error


def test_a_host_need_not_be_in_every_network_unless_they_are_named(cluster: MemoryCluster) -> None:
    join(cluster, "blue", "h1", live=False)
    found = stores.release([BLUE, RED], "h1", force=False, named=False)
    assert [one.network for one in found] == ["blue"]
    join(cluster, "blue", "h1", live=False)
    found = stores.release([BLUE, RED], "h1", force=False, named=True)
    assert [one.error for one in found] == ["", "there is no node 'h1'"]
    found = stores.release([BLUE, RED], "h1", force=False, named=False)
    assert [one.error for one in found] == ["there is no node 'h1'"] * 2


def test_a_store_that_is_away_is_told(cluster: MemoryCluster) -> None:
    cluster.set_down(True)
    (found,) = stores.release([BLUE], "h1", force=False, named=True)
    assert found.error == "etcd: no endpoint answers"
    with pytest.raises(Failed, match="no such network has its peers in a store"):
        stores.release([STATIC], "h1", force=False, named=True)


STATE = {
    "network": "blue",
    "registry": "etcd",
    "node": "h1",
    "state": "held",
    "trouble": "3 of 4 hosts are gone",
    "since": 1.0,
    "confirmed": 0.0,
    "peers": 5,
    "silent": ["h2"],
    "silentCount": 3,
    "applied": 7,
}


def test_the_state_of_a_store_is_a_few_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "state_of", lambda _: STATE)
    assert list(stores.status_lines("blue")) == [
        "  store     etcd, node h1, held, 3 of 4 hosts are gone",
        "  confirmed never",
        "  silent    h2, and 2 more",
    ]
    assert stores.status_document("blue") == {
        "type": "etcd",
        "node": "h1",
        "state": "held",
        "trouble": "3 of 4 hosts are gone",
        "since": 1.0,
        "confirmed": None,
        "silent": ["h2"],
        "silent_count": 3,
        "changes_applied": 7,
    }
    monkeypatch.setattr(overview, "state_of", lambda network: {"network": network})
    assert list(stores.status_lines("blue")) == []
    assert stores.status_document("blue") is None


def test_the_agent_s_status_has_a_table_of_networks() -> None:
    document: dict[str, Any] = {
        "build": "b", "pid": 1, "uptime": 1, "served": 0, "refused": {}, "workers": [], "errors": []
    }  # fmt: skip
    plain = list(lines(document))
    assert not any("NETWORK" in line for line in plain)
    told = list(lines({**document, "keeper": [{**STATE, "confirmed": time.time() - 61}]}))
    assert "NETWORK  STORE  STATE  PEERS        CONFIRMED      TROUBLE" in told
    assert "blue     etcd   held   5, 3 silent  1 min 1 s ago  3 of 4 hosts are gone" in told
