"""Whoever comes last with an old list of peers does not undo a newer one, and all tables are of one list."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.errors import TryAgainLater
from cni_plugins.kernel import observe
from cni_plugins.kernel.session import locks
from cni_plugins.kernel.session.locks import NetworkLock
from cni_plugins.ownership import network_tag
from cni_plugins.upkeep import overlay as upkeep
from cni_plugins.upkeep.overlay import State
from tests.integration.conftest import Namespace
from tests.integration.vxlan.conftest import Underlay
from tests.integration.vxlan.test_plugin import vxlan

OLD, NEW = range(1, 41), range(21, 61)


def listed(numbers: range) -> list[dict[str, str]]:
    """Return this host and these others, far from its underlay's addresses in use."""
    others = [
        {"node": f"h{n}", "vtep": f"10.99.0.{n + 100}", "subnet": f"10.244.{n + 100}.0/24"} for n in numbers
    ]
    return [{"node": "me", "vtep": "10.99.0.1", "subnet": "10.244.1.0/24"}, *others]


class Peers:
    """The peers file, and what the tables of a host say."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "peers.json"
        self.swap(OLD)

    def swap(self, numbers: range) -> None:
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(listed(numbers)))
        new.rename(self.path)


@pytest.fixture
def peers(tmp_path: Path) -> Peers:
    return Peers(tmp_path)


def conf_of(underlay: Underlay, peers: Peers) -> dict[str, Any]:
    return vxlan(underlay, backend={"peersFile": str(peers.path)})


def tables(host: Namespace) -> dict[str, set[int]]:
    """Return the numbers of the peers in each table."""
    fdb = json.loads(host.run("bridge", "-json", "fdb", "show", "dev", "vx25"))
    neighbours = host.ip("neigh", "show", "dev", "vx25", "nud", "permanent")
    routes = host.ip("route", "show", "dev", "vx25", "proto", "217")
    shown = host.run(
        "nft", "-j", "list", "set", "inet", "cni_plugins", f"overlay_vteps4_{network_tag('net1')}"
    )
    (sources,) = (item["set"]["elem"] for item in json.loads(shown)["nftables"] if "set" in item)
    return {
        "fdb": {int(item["dst"].rsplit(".")[-1]) - 100 for item in fdb if "dst" in item},
        "neighbours": {int(item["dst"].split(".")[2]) - 100 for item in neighbours},
        "routes": {int(item["dst"].split(".")[2]) - 100 for item in routes},
        "sources": {int(address.rsplit(".")[-1]) - 100 for address in sources},
    }


def of(numbers: range) -> dict[str, set[int]]:
    return {name: set(numbers) for name in ("fdb", "neighbours", "routes", "sources")}


# ------------------------------------------------------------------------------------------ processes


class Child:
    """A process that does something in the host; it may stop once, after it has read the peers."""

    def __init__(self, underlay: Underlay, action: Callable[[], bool], *, waits: bool) -> None:
        self._has_read, in_child = os.pipe()
        child_waits, self._go = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                _pause_after_reading(in_child, child_waits if waits else None)
                with underlay.bed.inside():
                    code = int(not action())
            except BaseException as err:  # noqa: BLE001 (it ends here, whatever happens)
                sys.stderr.write(f"{err!r}\n")
            finally:
                os._exit(code)
        os.close(in_child)
        os.close(child_waits)

    def await_reading(self) -> None:
        assert os.read(self._has_read, 1) == b"r"

    def go(self) -> None:
        os.write(self._go, b"g")

    def end(self) -> None:
        _, status = os.waitpid(self.pid, 0)
        os.close(self._has_read)
        os.close(self._go)
        assert os.waitstatus_to_exitcode(status) == 0


def _pause_after_reading(told: int, waits: int | None) -> None:
    """Have the process tell when it has read peers and facts the first time, and then wait."""
    genuine, times = observe.observe, []

    def observed(session: Any, asks: Any) -> Any:
        facts = genuine(session, asks)
        if not times:
            times.append(1)
            os.write(told, b"r")
            if waits is not None:
                os.read(waits, 1)
        return facts

    observe.observe = observed


def adding(underlay: Underlay, conf: Any, number: int, *, waits: bool) -> Child:
    sandbox = underlay.bed.sandbox()

    def add() -> bool:
        code, answer = underlay.bed.call("ADD", conf, sandbox, container=f"n{number}")
        if code:
            sys.stderr.write(f"{answer}\n")
        return code == 0

    return Child(underlay, add, waits=waits)


@contextmanager
def locked(underlay: Underlay) -> Iterator[None]:
    """Keep others from looking at the network during the block."""
    with underlay.bed.inside():
        lock = NetworkLock("net1")
    lock.take()
    try:
        yield
    finally:
        lock.close()


# ------------------------------------------------------------------------------------------ tests


def test_delayed_adds_with_an_old_list_do_not_undo_a_newer_one(underlay: Underlay, peers: Peers) -> None:
    conf = conf_of(underlay, peers)
    delayed = [adding(underlay, conf, number, waits=True) for number in range(8)]
    for child in delayed:
        child.await_reading()
    peers.swap(NEW)
    sandbox = underlay.bed.sandbox()
    result = underlay.bed.add(conf, sandbox, container="newer")
    assert tables(underlay.bed.host) == of(NEW)
    for child in delayed:
        child.go()
    for child in delayed:
        child.end()
    assert tables(underlay.bed.host) == of(NEW)
    checked = {**conf, "prevResult": result}
    assert underlay.bed.call("CHECK", checked, sandbox, container="newer") == (0, None)


def test_a_list_swapped_under_parallel_adds(underlay: Underlay, peers: Peers) -> None:
    """Ten run while it is swapped; ten have read the old one by then, and five of these come last."""
    conf = conf_of(underlay, peers)
    delayed = [adding(underlay, conf, number, waits=True) for number in range(10)]
    for child in delayed:
        child.await_reading()
    others = [adding(underlay, conf, 10 + number, waits=False) for number in range(10)]
    others[0].end()
    peers.swap(range(11, 51))
    peers.swap(NEW)
    for child in delayed[:5]:
        child.go()
    for child in (*others[1:], *delayed[:5]):
        child.end()
    assert tables(underlay.bed.host) == of(NEW)
    for child in delayed[5:]:
        child.go()
    for child in delayed[5:]:
        child.end()
    assert tables(underlay.bed.host) == of(NEW)


def test_adds_that_wait_for_the_lock_read_what_was_swapped_meanwhile(
    underlay: Underlay, peers: Peers
) -> None:
    conf = conf_of(underlay, peers)
    underlay.bed.add(conf, underlay.bed.sandbox(), container="first")
    waiting = [adding(underlay, conf, number, waits=True) for number in range(4)]
    for child in waiting:
        child.await_reading()
    with locked(underlay):  # after the fork: a child would have the lock as well
        for child in waiting:
            child.go()
        assert tables(underlay.bed.host) == of(OLD)
        peers.swap(NEW)
    for child in waiting:
        child.end()
    assert tables(underlay.bed.host) == of(NEW)


@pytest.mark.parametrize("waits_for", ["sync", "ADD"])
def test_sync_and_add_do_not_undo_each_other(underlay: Underlay, peers: Peers, waits_for: str) -> None:
    conf = conf_of(underlay, peers)
    underlay.bed.add(conf, underlay.bed.sandbox(), container="first")
    peers.swap(range(11, 51))

    def synchronise() -> bool:
        return upkeep.sync("net1", conf).state in (State.REPAIRED, State.IN_SYNC)

    if waits_for == "ADD":
        delayed = Child(underlay, synchronise, waits=True)
        delayed.await_reading()  # under the lock
        peers.swap(NEW)
        other = adding(underlay, conf, 1, waits=False)
    else:
        delayed = adding(underlay, conf, 1, waits=True)
        delayed.await_reading()
        peers.swap(NEW)
        other = Child(underlay, synchronise, waits=False)
        other.end()
    delayed.go()
    delayed.end()
    if waits_for == "ADD":
        other.end()
    assert tables(underlay.bed.host) == of(NEW)


def test_adds_that_change_nothing_do_not_wait_for_each_other(underlay: Underlay, peers: Peers) -> None:
    conf = conf_of(underlay, peers)
    underlay.bed.add(conf, underlay.bed.sandbox(), container="first")
    with underlay.bed.inside():
        lock = NetworkLock("net1")
    lock.share()  # as another ADD does
    underlay.bed.add(conf, underlay.bed.sandbox(), container="second")
    lock.close()


def test_a_list_that_becomes_invalid_while_an_add_waits_changes_nothing(
    underlay: Underlay, peers: Peers
) -> None:
    conf = conf_of(underlay, peers)
    underlay.bed.add(conf, underlay.bed.sandbox(), container="first")
    sandbox = underlay.bed.sandbox()

    def refused() -> bool:
        code, error = underlay.bed.call("ADD", conf, sandbox, container="late")
        return code == 1 and error["code"] == 7 and "invalid peers" in error["msg"]

    child = Child(underlay, refused, waits=True)
    child.await_reading()
    peers.path.write_text(json.dumps([*listed(OLD), *listed(OLD)]))
    child.go()
    child.end()
    assert tables(underlay.bed.host) == of(OLD)
    assert [link["ifname"] for link in sandbox.ip("link")] == ["lo"]
    assert len(underlay.bed.leased()) == 1


# ---------------------------------------------------------------------------------- what is believed


def mark(underlay: Underlay) -> str:
    link = underlay.bed.host.link("vx25")
    assert link is not None
    return str(link["ifalias"])


def test_the_mark_is_that_of_the_list(underlay: Underlay, peers: Peers) -> None:
    conf = conf_of(underlay, peers)
    underlay.bed.add(conf, underlay.bed.sandbox(), container="c1")
    first = mark(underlay)
    assert " has: " in first
    underlay.bed.add(conf, underlay.bed.sandbox(), container="c2")
    assert mark(underlay) == first
    peers.swap(NEW)
    underlay.bed.add(conf, underlay.bed.sandbox(), container="c3")
    second = mark(underlay)
    peers.swap(OLD)
    underlay.bed.add(conf, underlay.bed.sandbox(), container="c4")
    assert mark(underlay) == first != second
    assert tables(underlay.bed.host) == of(OLD)


@pytest.mark.parametrize("shape", ["routed dual", "stretched dual", "flooding", "asking"])
@pytest.mark.parametrize(
    "commands",
    [
        "ip link del vx25",
        "ip link del vxbr25",
        "ip link del vx25; ip link del vxbr25",
        "ip link set vx25 down",
        "ip link set vx25 nomaster",
        "nft delete table inet cni_plugins",
        "nft flush ruleset; ip link del vxbr25",
    ],
)
def test_what_is_made_anew_is_never_taken_for_filled(underlay: Underlay, shape: str, commands: str) -> None:
    bed, sandbox = underlay.bed, underlay.bed.sandbox()
    conf = vxlan(underlay, shape)
    bed.add(conf, bed.sandbox(), container="first")
    bed.host.run("sh", "-c", commands)
    result = bed.add(conf, sandbox, container="second")
    assert bed.call("CHECK", {**conf, "prevResult": result}, sandbox, container="second") == (0, None)


def test_a_saved_ruleset_that_is_loaded_again_is_not_taken_for_the_present_one(
    underlay: Underlay, peers: Peers, tmp_path: Path
) -> None:
    bed, conf = underlay.bed, conf_of(underlay, peers)
    bed.add(conf, bed.sandbox(), container="c1")
    saved = tmp_path / "saved.nft"
    saved.write_text("flush ruleset\n" + bed.host.run("nft", "list", "ruleset"))
    peers.swap(NEW)
    bed.add(conf, bed.sandbox(), container="c2")
    bed.host.run("nft", "-f", str(saved))
    assert tables(bed.host)["sources"] == set(OLD)
    bed.add(conf, bed.sandbox(), container="c3")
    assert tables(bed.host) == of(NEW)


def test_a_change_that_was_killed_half_way_is_not_believed(
    underlay: Underlay, peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mark goes before the first change, so that a list that comes back is entered in full."""
    bed, conf = underlay.bed, conf_of(underlay, peers)
    bed.add(conf, bed.sandbox(), container="c1")
    peers.swap(NEW)
    sandbox = bed.sandbox()

    def die_late() -> bool:
        from cni_plugins.kernel.overlay import peers as peer_tables

        # Before and after the new entries are set.
        calls = iter((lambda: None, lambda: os._exit(0)))
        monkeypatch.setattr(peer_tables, "remove_all", lambda *_: next(calls)())
        bed.call("ADD", conf, sandbox, container="c2")
        return False

    child = Child(underlay, die_late, waits=False)
    child.end()
    assert " has: " not in mark(underlay)
    peers.swap(OLD)
    bed.add(conf, bed.sandbox(), container="c3")
    assert tables(bed.host) == of(OLD)


def test_one_who_waits_to_have_the_network_alone_is_not_overtaken(
    underlay: Underlay, monkeypatch: pytest.MonkeyPatch
) -> None:
    with underlay.bed.inside():
        shared, alone, late, elsewhere = (NetworkLock(name) for name in ("net1", "net1", "net1", "net2"))
    shared.share()
    late.share()
    late.release()
    child = os.fork()
    if child == 0:
        alone.take()
        os._exit(0)
    monkeypatch.setattr(locks, "_NETWORK_TIMEOUT", 0.05)
    elsewhere.take()
    with pytest.raises(TryAgainLater, match="another request is changing network net1"):
        _share_repeatedly(late)  # until the child waits
    shared.release()
    assert os.waitpid(child, 0)[1] == 0
    alone.close()
    late.share()


def _share_repeatedly(lock: NetworkLock) -> None:
    while True:
        lock.share()
        lock.release()
