"""Stores that stop, hang, lose their leader or their data: every call ends in time, and no feed is silent."""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from cni_plugins.registries.network_registry import Member as Host
from cni_plugins.registries.network_registry import NetworkRegistry
from cni_plugins.registries.open import open_store
from cni_plugins.registries.store import Change, Feed, Store, StoreFailed, Unreachable, Unusable
from tests.e2e.lab.follower import digest
from tests.e2e.lab.tools import REPOSITORY
from tests.namespaces import Namespace
from tests.servers.clusters import cluster_of, section_of
from tests.servers.etcd import Etcd
from tests.servers.member import Cluster, free_ports
from tests.store_contract import named

NOTICED = 60.0  # seconds: what the contract promises
CALL = 15.0  # the most that a call takes is 10 s, on a machine that does other things, too
BACK = 60.0
FOLDER = "v1/net/nodes"
kinds = pytest.mark.parametrize(
    "kind",
    [
        pytest.param("etcd", marks=pytest.mark.needs("server:etcd")),
        pytest.param("consul", marks=pytest.mark.needs("server:consul")),
        pytest.param("zookeeper", marks=pytest.mark.needs("server:zookeeper", "java")),
    ],
)


@contextlib.contextmanager
def running(kind: str, directory: Path, number: int = 1, **more: Any) -> Iterator[Cluster]:
    cluster = cluster_of(kind, directory, number, **more)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()


def fails_in_time(function: Callable[[], object], seconds: float) -> StoreFailed:
    begin = time.monotonic()
    while time.monotonic() < begin + seconds:
        try:
            function()
        except StoreFailed as failure:
            return failure
        time.sleep(0.01)
    raise AssertionError(f"for {seconds} s nothing was noticed")


def works_again(function: Callable[[], Any]) -> Any:
    end = time.monotonic() + BACK
    while True:
        try:
            return function()
        except StoreFailed:
            assert time.monotonic() < end, "the store has not been found again"
            time.sleep(0.2)


def write(store: Store, text: str) -> None:
    name, value = named(text)
    assert store.commit([Change(f"{FOLDER}/{name}", value)])


def follows(store: Store, *texts: str) -> Feed:
    """A new feed, which begins with all there is."""

    def begin() -> Feed:
        feed = store.follow(FOLDER)
        try:
            assert feed.next(10) == dict(map(named, texts))
        except BaseException:
            feed.close()
            raise
        return feed

    found: Feed = works_again(begin)
    return found


@kinds
def test_a_server_that_hangs_is_noticed_and_found_again(kind: str, tmp_path: Path) -> None:
    with running(kind, tmp_path) as cluster:
        store = open_store(section_of(cluster))
        write(store, "a")
        feed = follows(store, "a")
        cluster.members[0].stop()
        assert isinstance(fails_in_time(lambda: feed.next(1), NOTICED), Unreachable)
        for call in (lambda: store.read("x"), lambda: store.children(FOLDER), lambda: write(store, "b")):
            begin = time.monotonic()
            with pytest.raises(Unreachable):
                call()
            assert time.monotonic() - begin < CALL
        cluster.members[0].resume()
        works_again(lambda: write(store, "b"))
        follows(store, "a", "b").close()
        store.close()


@kinds
def test_a_host_whose_packets_are_dropped_notices(kind: str, tmp_path: Path) -> None:
    """Neither end of the connection is told, as when a firewall forgets it."""
    with contextlib.ExitStack() as stack:
        lab = Namespace()
        lab.run("ip", "link", "set", "lo", "up")
        stack.enter_context(lab.entered())
        cluster = stack.enter_context(running(kind, tmp_path))
        store = open_store(section_of(cluster))
        write(store, "a")
        feed = follows(store, "a")
        port = cluster.endpoints[0].rpartition(":")[2]
        lab.run("nft", "add table inet lab; add chain inet lab in { type filter hook input priority 0; }")
        for end in ("dport", "sport"):
            lab.run("nft", f"add rule inet lab in tcp {end} {port} drop")
        fails_in_time(lambda: feed.next(1), NOTICED)
        begin = time.monotonic()
        with pytest.raises(Unreachable):
            store.read("x")
        assert time.monotonic() - begin < CALL
        lab.run("nft", "delete", "table", "inet", "lab")
        works_again(lambda: write(store, "b"))
        follows(store, "a", "b").close()
        store.close()


@kinds
def test_a_restart_loses_nothing(kind: str, tmp_path: Path) -> None:
    with running(kind, tmp_path) as cluster:
        store = open_store(section_of(cluster))
        write(store, "a")
        feed = follows(store, "a")
        store.hold("v1/net/live/me", b"1", 30)
        cluster.restart()
        works_again(lambda: write(store, "b"))

        def next_of_any() -> bool:
            nonlocal feed
            try:
                return feed.next(5) == dict(map(named, ("a", "b")))
            except StoreFailed:
                feed.close()
                feed = store.follow(FOLDER)
                return False

        end = time.monotonic() + BACK
        while not next_of_any():
            assert time.monotonic() < end
        works_again(lambda: store.hold("v1/net/live/me", b"1", 30))
        assert {*store.children("v1/net/live")} == {"me"}
        feed.close()
        store.close()


@kinds
def test_a_wiped_store_says_that_it_knows_nobody(kind: str, tmp_path: Path) -> None:
    with running(kind, tmp_path) as cluster:
        store = open_store(section_of(cluster))
        network = NetworkRegistry(store, "net")
        network.join(Host("h1", "1"), {"vtep": "192.0.2.1"})
        network.show_life(Host("h1", "1"), 30)
        feed = network.follow()
        assert len(feed.next(10) or ()) == 1
        cluster.restart(wiped=True)
        with contextlib.suppress(StoreFailed):
            while feed.next(5) != {}:
                pass
        feed.close()
        assert works_again(network.records) == {}
        assert works_again(network.is_confirmed) is False
        feed = network.follow()
        assert works_again(lambda: feed.next(10)) == {}
        network.join(Host("h1", "1"), {"vtep": "192.0.2.1"})
        assert len(feed.next(10) or ()) == 1
        works_again(lambda: network.show_life(Host("h1", "1"), 30))
        assert network.live() == {"h1"}
        feed.close()
        store.close()


@kinds
def test_without_a_quorum_nothing_is_believed(kind: str, tmp_path: Path) -> None:
    with running(kind, tmp_path, 3) as cluster:
        store = open_store(section_of(cluster, endpoints=cluster.endpoints[:1]))
        write(store, "a")
        feed = follows(store, "a")
        for member in cluster.members[1:]:
            member.kill()
        assert isinstance(fails_in_time(lambda: feed.next(1), NOTICED), Unreachable)
        fails_in_time(lambda: store.read("x"), CALL)
        begin = time.monotonic()
        with pytest.raises(Unreachable):
            store.commit([Change(f"{FOLDER}/never", b"1")])
        assert time.monotonic() - begin < CALL
        for member in cluster.members[1:]:
            member.start()
        cluster.wait()
        works_again(lambda: write(store, "b"))
        assert {*map(named, "ab")} <= {(n, it.value) for n, it in store.children(FOLDER).items()}
        store.close()


@kinds
@pytest.mark.parametrize("fault", ["killed", "hangs"])
def test_one_of_three_may_be_away(kind: str, fault: str, tmp_path: Path) -> None:
    with running(kind, tmp_path, 3) as cluster:
        for member in cluster.members:
            store = open_store(section_of(cluster))
            write(store, "a")
            feed = follows(store, "a")
            member.kill() if fault == "killed" else member.stop()
            works_again(lambda store=store: store.read("x"))  # type: ignore[misc]
            works_again(lambda store=store: store.commit([Change("v1/other/x", b"1")]))  # type: ignore[misc]
            with contextlib.suppress(StoreFailed):
                feed.next(20)
            feed.close()
            follows(store, "a").close()
            member.start() if fault == "killed" else member.resume()
            cluster.wait()
            store.close()


@kinds
def test_a_follower_that_was_stopped_catches_up(kind: str, tmp_path: Path) -> None:
    """Of etcd, what it has missed is compacted meanwhile."""
    with running(kind, tmp_path) as cluster:
        store = open_store(section_of(cluster))
        write(store, "a")
        section = json.dumps({"type": kind, "endpoints": cluster.endpoints})
        log = tmp_path / "follower"
        with log.open("w") as output:
            words = [sys.executable, "-m", "tests.e2e.lab.follower", section, FOLDER]
            follower = subprocess.Popen(words, cwd=REPOSITORY, stdout=output)
        try:
            _wait_for(log, f"1 {digest(dict([named('a')]))}")
            follower.send_signal(signal.SIGSTOP)
            texts = [f"text {i} " * 40 for i in range(500)]
            for text in texts:
                write(store, text)
            store.commit([Change(f"{FOLDER}/{named('a')[0]}", None)])
            if isinstance(cluster, Etcd):
                cluster.compact()
            follower.send_signal(signal.SIGCONT)
            _wait_for(log, f"500 {digest(dict(map(named, texts)))}")
        finally:
            follower.kill()
            follower.wait()
        store.close()


@pytest.mark.needs("server:etcd")
def test_a_watch_of_etcd_from_a_compacted_revision_ends(tmp_path: Path) -> None:
    """A look at the store fails as often as it must for the watch to come too late."""
    with running("etcd", tmp_path) as cluster:
        assert isinstance(cluster, Etcd)
        with _Proxy(cluster.endpoints[0], before_watch=lambda: _write_and_compact(cluster)) as proxy:
            store = open_store(section_of(cluster, endpoints=[proxy.url]))
            write(store, "a")
            feed = store.follow(FOLDER)
            assert feed.next(10) == dict([named("a")])
            failure = fails_in_time(lambda: feed.next(1), 10)
            assert isinstance(failure, Unreachable)
            assert "compacted" in str(failure)
            feed.close()
            feed = store.follow(FOLDER)
            assert len(feed.next(10) or ()) == 11
            feed.close()
            store.close()


@pytest.mark.needs("server:etcd")
def test_a_full_etcd_says_so(tmp_path: Path) -> None:
    with running("etcd", tmp_path, flags=("--quota-backend-bytes", "500000")) as cluster:
        store = open_store(section_of(cluster))
        write(store, "a")
        numbers = itertools.count()
        failure = fails_in_time(
            lambda: store.commit([Change(f"v1/big/{next(numbers)}", b"x" * 50_000)]), NOTICED
        )
        assert "alarm NOSPACE" in str(failure)
        assert {*store.children(FOLDER)} == {named("a")[0]}
        feed = follows(store, "a")
        feed.close()
        store.close()


@pytest.mark.needs("server:etcd")
def test_an_etcd_without_a_gateway_is_named(tmp_path: Path) -> None:
    cluster = Etcd(tmp_path, flags=("--enable-grpc-gateway=false",))
    try:
        cluster.members[0].start()
        port = int(cluster.endpoints[0].rpartition(":")[2])
        end = time.monotonic() + 30
        while True:
            with socket.socket() as tried:
                if not tried.connect_ex(("127.0.0.1", port)):
                    break
            assert time.monotonic() < end
            time.sleep(0.05)
        with pytest.raises(Unusable, match="no JSON gateway"):
            open_store(section_of(cluster)).read("x")
    finally:
        cluster.close()


@pytest.mark.parametrize("kind", ["etcd", "consul"])
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "no JSON gateway|connection was closed"),
        (b"\0\0\x12\4\0\0\0\0\0", "no JSON gateway|connection was closed"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno\n", "no JSON gateway|no Consul"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>", "does not answer as|no Consul"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[1, 2, 3]", "does not answer as|no Consul"),
        (b"HTTP/1.1 307 Go\r\nLocation: http://192.0.2.1/\r\nContent-Length: 0\r\n\r\n", "redirects"),
    ],
    ids=["closes", "HTTP/2", "404", "HTML", "list", "redirects"],
)  # fmt: skip
def test_what_is_no_store_is_told(kind: str, answer: bytes, words: str) -> None:
    with _Server(lambda end: end.sendall(answer)) as server:
        section = {"type": kind, "endpoints": [server.url]}
        store = open_store(_section(section))
        with pytest.raises(StoreFailed, match=words):
            store.children(FOLDER)
        feed = store.follow(FOLDER)
        with pytest.raises(StoreFailed):
            feed.next(10)
        feed.close()
        store.close()


@pytest.mark.parametrize("kind", ["etcd", "consul", "zookeeper"])
def test_an_answer_that_never_ends_is_not_waited_for(kind: str) -> None:
    def drip(end: socket.socket) -> None:
        with contextlib.suppress(OSError):
            end.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" if kind != "zookeeper" else b"\0\0"
            )
            while True:
                end.sendall(b" ")
                time.sleep(0.5)

    with _Server(drip) as server:
        endpoint = server.url if kind != "zookeeper" else server.url.removeprefix("http://")
        store = open_store(_section({"type": kind, "endpoints": [endpoint]}))
        begin = time.monotonic()
        with pytest.raises(Unreachable):
            store.read("x")
        assert time.monotonic() - begin < CALL
        store.close()


def _section(keys: dict[str, Any]) -> Any:
    from cni_plugins.contract.registry_config import RegistrySection

    return RegistrySection(**keys)


def _wait_for(log: Path, line: str) -> None:
    """Wait until this is the last line."""
    end = time.monotonic() + BACK
    while log.read_text().splitlines()[-1:] != [line]:
        assert time.monotonic() < end, log.read_text()[-2000:]
        time.sleep(0.05)


def _write_and_compact(cluster: Etcd) -> None:
    for i in range(10):
        name, value = named(f"missed {i}")
        cluster.put(f"/cni-plugins/{FOLDER}/{name}", value)
    cluster.compact()


class _Server:
    """Answers every connection, after its first bytes, by a function in a thread."""

    def __init__(self, answer: Callable[[socket.socket], None]) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", free_ports(1)[0]))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                end, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(end,), daemon=True).start()

    def _serve(self, end: socket.socket) -> None:
        with end, contextlib.suppress(OSError):
            end.recv(65536)
            self._answer(end)


class _Proxy:
    """Passes bytes on to a server; before the first watch something happens."""

    def __init__(self, target: str, before_watch: Callable[[], None]) -> None:
        host, _, port = target.removeprefix("http://").partition(":")
        self._target, self._before = (host, int(port)), [before_watch]
        self._server = _Server(lambda _: None)
        self._server._serve = self._serve  # type: ignore[method-assign]
        self.url = self._server.url

    def __enter__(self) -> Self:
        self._server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.__exit__()

    def _serve(self, end: socket.socket) -> None:
        with end, socket.create_connection(self._target) as other, contextlib.suppress(OSError):
            threading.Thread(target=self._pass, args=(other, end), daemon=True).start()
            while data := end.recv(65536):
                if b"/v3/watch" in data and self._before:
                    self._before.pop()()
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
