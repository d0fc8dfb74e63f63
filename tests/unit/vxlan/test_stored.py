"""The backends etcd, consul and zookeeper: what the keeper has written, and what STATUS makes of its age."""

import json
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.contract import snapshot
from cni_plugins.engine import lifecycle
from cni_plugins.errors import CniError, InvalidNetworkConfig, IoFailed, LimitedConnectivity, TryAgainLater
from cni_plugins.vxlan.backends import stored
from cni_plugins.vxlan.backends.registry import backend
from cni_plugins.vxlan.backends.roster import Roster
from cni_plugins.vxlan.config import parse
from cni_plugins.vxlan.plugin import PLUGIN, status
from cni_plugins.vxlan.records import Extent
from tests.unit.vxlan.hosts import BARE, PEERS, facts, link, request

EXTENT = Extent("l3", (ip_network("10.244.0.0/16"),), 0, 4789)
STORE = {"type": "etcd", "endpoints": ["https://192.0.2.9:2379"]}
NOW = 1_900_000_000.0
HERE = facts(link("eth0", "10.99.0.1/24"))


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(snapshot, "overlay_dir", lambda network: str(tmp_path / network))
    return tmp_path / "net1"


def write(directory: Path, peers: Any = None, own: str = "h1", **state: Any) -> None:
    """Write what the keeper writes."""
    snapshot.write(str(directory), "peers.json", {"self": own, "peers": PEERS if peers is None else peers})
    if state:
        snapshot.write(str(directory), "state.json", state)


def following(age: float) -> dict[str, Any]:
    return {"state": "following", "trouble": "", "since": NOW - age, "confirmed": NOW - age}


def roster(kind: str = "etcd") -> Roster:
    endpoint = "192.0.2.9:2181" if kind == "zookeeper" else "https://192.0.2.9:2379"
    return backend({"type": kind, "endpoints": [endpoint]}).roster("net1", EXTENT)


def asked() -> Any:
    given = request("STATUS")
    return given._replace(conf={**given.conf, "backend": STORE})


@pytest.mark.parametrize("kind", ["etcd", "consul", "zookeeper"])
def test_the_peers_are_those_of_the_snapshot(directory: Path, kind: str) -> None:
    write(directory)
    found = roster(kind)
    assert (found.own, found.path) == ("h1", f"{directory}/peers.json")
    assert [str(record.vtep) for record in found.records or ()] == BARE
    write(directory, PEERS[:2])
    assert [str(record.vtep) for record in roster(kind).records or ()] == BARE[:2]


def test_without_a_snapshot_one_may_try_again(directory: Path) -> None:
    with pytest.raises(TryAgainLater, match="the peers of network net1 are not known yet") as caught:
        roster()
    assert "backend etcd: cnictl agent, or cnictl overlay sync, writes" in caught.value.details
    directory.mkdir()
    (directory / "state.json").write_text(json.dumps({"state": "broken", "trouble": "no member answers"}))
    with pytest.raises(TryAgainLater, match="not known yet: no member answers"):
        roster()


def test_without_a_snapshot_status_is_50(directory: Path) -> None:
    with pytest.raises(CniError) as caught:
        lifecycle.status(PLUGIN, asked(), None)
    assert caught.value.code == 50
    assert str(directory) in caught.value.details


BAD: dict[str, tuple[Any, type[CniError], str]] = {
    "not JSON": (b"{", InvalidNetworkConfig, "invalid peers file: "),
    "a number": (b"5", InvalidNetworkConfig, "neither a list nor an object"),
    "no peers": (b'{"self": "h1"}', InvalidNetworkConfig, "peers: field required"),
    "none": (b'{"self": "h1", "peers": []}', InvalidNetworkConfig, "there are no peers, not even this host"),
    "others only": (
        json.dumps({"self": "h9", "peers": PEERS}).encode(),
        InvalidNetworkConfig,
        "invalid peers: this host, h9, is not among them",
    ),
    "a subnet outside": (
        json.dumps({"self": "h1", "peers": [{**PEERS[0], "subnet": "10.9.0.0/24"}]}).encode(),
        InvalidNetworkConfig,
        "subnet 10.9.0.0/24 is outside 10.244.0.0/16",
    ),
    "two with one subnet": (
        json.dumps(
            {"self": "h1", "peers": [*PEERS, {**PEERS[0], "node": "h4", "vtep": "10.99.0.4"}]}
        ).encode(),
        InvalidNetworkConfig,
        "overlaps",
    ),
    "self is a number": (b'{"self": 5, "peers": []}', InvalidNetworkConfig, "self: "),
    "too large": (b" " * ((4 << 20) + 1), IoFailed, "larger than"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_snapshot_is_one_error(directory: Path, name: str) -> None:
    content, kind, message = BAD[name]
    write(directory)
    roster()  # a good one that was kept does not stand in for it
    (directory / "peers.json").write_bytes(content)
    with pytest.raises(kind) as caught:
        roster()
    assert message in caught.value.msg
    assert str(directory) in f"{caught.value.msg} {caught.value.details}"


def test_a_snapshot_that_others_may_write_is_refused(directory: Path) -> None:
    write(directory)
    roster()
    (directory / "peers.json").chmod(0o666)
    with pytest.raises(IoFailed, match="users other than root can write the peers file"):
        roster()


STATES: dict[str, tuple[dict[str, Any], str]] = {
    "followed": (following(10), ""),
    "followed, a clock that was set back": (following(-7200), ""),
    "nobody follows": (
        following(600),
        "etcd is not followed: is cnictl agent running? The peers were last confirmed 10 min ago",
    ),
    "broken": (
        {**following(7300), "state": "broken", "trouble": "no member of https://192.0.2.9:2379 answers"},
        "etcd: no member of https://192.0.2.9:2379 answers; the peers were last confirmed 2 h ago",
    ),
    "broken just now": (
        {**following(3), "state": "broken", "trouble": "quorum is lost"},
        "etcd: quorum is lost; the peers were last confirmed 3 s ago",
    ),
    "held": (
        {**following(200000), "state": "held", "trouble": "the store lists 1 peer instead of 3"},
        "etcd: the store lists 1 peer instead of 3; the peers were last confirmed 2 d ago",
    ),
    "refused, without a word": (
        {"state": "refused", "since": 0, "confirmed": 0},
        "etcd: refused; the peers were never confirmed",
    ),
    "nonsense": ({"state": "asleep"}, "is cnictl agent running?"),
    "no state": ({}, "no keeper has written "),
}


@pytest.mark.parametrize("name", STATES)
def test_status_names_the_stores_trouble_and_the_age_of_the_snapshot(
    directory: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    state, message = STATES[name]
    monkeypatch.setattr(stored.time, "time", lambda: NOW)
    write(directory, **state)
    given = asked()
    overlay = parse(given)
    if not message:
        status(given, overlay, HERE)
        return
    with pytest.raises(LimitedConnectivity, match="the peers of network net1 may be out of date: ") as caught:
        status(given, overlay, HERE)
    assert caught.value.code == 51
    assert message in caught.value.msg


def test_a_static_list_is_never_in_doubt() -> None:
    given = request("STATUS")
    status(given, parse(given), HERE)
