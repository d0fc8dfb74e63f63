"""What every store must do (registries/store.py), as tests: of real servers, and of the double in memory."""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from cni_plugins.registries.network_registry import Member, NetworkRegistry, TakenByOther, records_of
from cni_plugins.registries.store import ABSENT, Change, Store, key_part, text_of

Opener = Callable[[], Store]
_folders = (f"v1/net{i}" for i in itertools.count())
BURST = 2000
SHORTEST_HOLD = 2.0


def named(text: str) -> tuple[str, bytes]:
    """A name that changes with its value, as the layout has them."""
    value = text.encode()
    return f"{key_part(text)};{hashlib.sha512(value).hexdigest()[:8]}", value


class StoreContract:
    """Subclasses have a fixture `opened`, which opens a connection, and say how short `hold` may be."""

    shortest_hold = SHORTEST_HOLD

    @pytest.fixture
    def folder(self) -> str:
        """A key that no other test uses."""
        return next(_folders)

    @pytest.fixture
    def store(self, opened: Opener) -> Iterator[Store]:
        store = opened()
        yield store
        store.close()

    def test_nothing_is_there_at_first(self, store: Store, folder: str) -> None:
        assert store.read(f"{folder}/a") is None
        assert store.children(folder) == {}

    def test_what_is_committed_is_read_by_others(self, store: Store, opened: Opener, folder: str) -> None:
        assert store.commit([Change(f"{folder}/a", b"1", ABSENT)])
        other = opened()
        found = other.read(f"{folder}/a")
        assert found is not None
        assert found.value == b"1"
        assert other.children(folder) == {"a": found}
        other.close()

    def test_nothing_is_committed_if_one_version_differs(self, store: Store, folder: str) -> None:
        store.commit([Change(f"{folder}/a", b"1")])
        before = store.children(folder)
        for expected in (ABSENT, before["a"].version + 1000):
            assert not store.commit(
                [Change(f"{folder}/b", b"2", ABSENT), Change(f"{folder}/a", b"3", expected)]
            )
            assert not store.commit([Change(f"{folder}/a", None, expected), Change(f"{folder}/b", b"2")])
        assert not store.commit([Change(f"{folder}/c", None, 7), Change(f"{folder}/b", b"2")])
        assert store.children(folder) == before

    def test_versions_change_with_every_value_and_are_never_those_of_before(
        self, store: Store, folder: str
    ) -> None:
        key, versions = f"{folder}/a", []
        for value in (b"1", b"2", b"1", None, b"1", None, b"1"):
            assert store.commit([Change(key, value)])
            found = store.read(key)
            assert (found is None) == (value is None)
            if found is not None:
                versions.append(found.version)
        assert ABSENT not in versions
        assert len({*versions}) == len(versions)
        for old in versions[:-1]:
            assert not store.commit([Change(key, b"2", old)])
            assert not store.commit([Change(key, None, old)])
        assert store.commit([Change(key, b"2", versions[-1])])

    def test_a_key_can_be_deleted_that_is_not_there(self, store: Store, folder: str) -> None:
        assert store.commit([Change(f"{folder}/a", None)])
        assert store.commit([Change(f"{folder}/a", None, ABSENT), Change(f"{folder}/b", b"1")])
        assert not store.commit([Change(f"{folder}/b", None, ABSENT)])
        assert {*store.children(folder)} == {"b"}

    def test_a_commit_has_sixty_changes(self, store: Store, folder: str) -> None:
        keys = [f"{folder}/{i}" for i in range(60)]
        assert store.commit([Change(key, b"1", ABSENT) for key in keys])
        found = store.children(folder)
        assert len(found) == 60
        deletions = [Change(key, None, found[key.rpartition("/")[2]].version) for key in keys]
        wrong = Change(keys[-1], None, found["59"].version + 1000)
        assert not store.commit([*deletions[:-1], wrong])
        assert len(store.children(folder)) == 60
        assert store.commit(deletions)
        assert store.children(folder) == {}

    def test_an_empty_commit_changes_nothing(self, store: Store) -> None:
        assert store.commit([])

    def test_children_are_those_directly_below(self, store: Store, folder: str) -> None:
        store.commit(
            [Change(f"{folder}/a", b"1"), Change(f"{folder}/sub/b", b"2"), Change(f"{folder}x/c", b"3")]
        )
        assert {*store.children(folder)} == {"a"}
        assert {*store.children(f"{folder}/sub")} == {"b"}

    @pytest.mark.parametrize("text", ["h1.example.net", "fd00::1", "10.0.0.0/24", "ä ?#%+&;'\"\\", "x" * 200])
    def test_names_come_back_as_they_were(self, store: Store, folder: str, text: str) -> None:
        value = bytes(range(256)) * 8
        assert store.commit([Change(f"{folder}/{key_part(text)}", value, ABSENT)])
        assert {text_of(name): item.value for name, item in store.children(folder).items()} == {text: value}
        found = store.read(f"{folder}/{key_part(text)}")
        assert found is not None
        assert found.value == value
        feed = store.follow(folder)
        assert {text_of(name) for name in feed.next(10) or ()} == {text}
        feed.close()

    def test_what_is_held_disappears_unless_it_is_held_again(
        self, store: Store, opened: Opener, folder: str
    ) -> None:
        other = opened()
        end = time.monotonic() + 1.5 * self.shortest_hold
        while time.monotonic() < end:
            store.hold(f"{folder}/me", b"1", self.shortest_hold)
            assert other.children(folder)["me"].value == b"1"
            time.sleep(self.shortest_hold / 4)
        store.hold(f"{folder}/me", b"2", self.shortest_hold)
        assert other.children(folder)["me"].value == b"2"
        self.wait_until(lambda: not other.children(folder), 3 * self.shortest_hold + 10)
        store.hold(f"{folder}/me", b"3", self.shortest_hold)
        assert other.children(folder)["me"].value == b"3"
        other.close()

    def test_what_is_held_is_held_again_after_somebody_has_deleted_it(
        self, store: Store, folder: str
    ) -> None:
        store.hold(f"{folder}/me", b"1", 30)
        store.commit([Change(f"{folder}/me", None)])
        store.hold(f"{folder}/me", b"1", 30)
        assert {*store.children(folder)} == {"me"}

    def test_a_new_process_of_a_host_takes_over_what_the_old_one_held(
        self, store: Store, opened: Opener, folder: str
    ) -> None:
        store.hold(f"{folder}/me", b"1", 30)
        new = opened()
        new.hold(f"{folder}/me", b"2", 30)
        assert new.children(folder)["me"].value == b"2"
        new.close()

    def test_a_feed_returns_all_at_first_and_then_what_changes(
        self, store: Store, opened: Opener, folder: str
    ) -> None:
        store.commit([Change(f"{folder}/{named('a')[0]}", b"a"), Change(f"{folder}/sub/x", b"1")])
        feed, writer = store.follow(folder), opened()
        assert feed.next(10) == {named("a")[0]: b"a"}
        assert feed.next(0.2) is None
        self.write(writer, folder, "b")
        assert feed.next(10) == dict([named("a"), named("b")])
        writer.commit([Change(f"{folder}/{named('a')[0]}", None), Change(f"{folder}/{named('c')[0]}", b"c")])
        assert feed.next(10) == dict([named("b"), named("c")])
        writer.commit([Change(f"{folder}/sub/y", b"1")])
        assert feed.next(0.2) is None
        for name in [*writer.children(folder)]:
            writer.commit([Change(f"{folder}/{name}", None)])
        self.wait_until(lambda: feed.next(1) == {}, 10)
        feed.close()
        writer.close()

    def test_a_feed_of_nothing_begins_with_nothing(self, store: Store, opened: Opener, folder: str) -> None:
        feed, writer = store.follow(folder), opened()
        assert feed.next(10) == {}
        self.write(writer, folder, "a")
        assert feed.next(10) == dict([named("a")])
        feed.close()
        writer.close()

    def test_a_burst_of_writes_leaves_no_gap(self, store: Store, opened: Opener, folder: str) -> None:
        """Records are replaced while others are made, so a feed that loses one change never gets there."""
        feed, writer = store.follow(folder), opened()
        assert feed.next(10) == {}
        expected = {}

        def write() -> None:
            for start in range(0, BURST, 20):
                changes = []
                for i in range(start, start + 20):
                    name, value = named(f"{i} as it is at last")
                    expected[name] = value
                    changes.append(Change(f"{folder}/{name}", value, ABSENT))
                early = [named(f"{i} as it was before")[0] for i in range(start, start + 20)]
                writer.commit([Change(f"{folder}/{name}", b"early") for name in early])
                writer.commit([*changes, *(Change(f"{folder}/{name}", None) for name in early)])

        thread = threading.Thread(target=write)
        thread.start()
        view: dict[str, bytes] = {}
        end = time.monotonic() + 120
        while time.monotonic() < end and (thread.is_alive() or view != expected):
            found = feed.next(1)
            view = view if found is None else dict(found)
        thread.join()
        assert view == expected
        assert len(view) == BURST
        assert {name: item.value for name, item in store.children(folder).items()} == expected
        feed.close()
        writer.close()

    def test_hosts_join_a_network_and_are_told_from_each_other(
        self, store: Store, opened: Opener, folder: str
    ) -> None:
        network = folder.rpartition("/")[2]
        registry, other = NetworkRegistry(store, network), NetworkRegistry(opened(), network)
        me, you = Member("h1", "a" * 32), Member("h2", "b" * 32)
        assert not registry.is_confirmed()
        feed = other.follow()
        assert feed.next(10) == {}
        registry.join(me, {"vtep": "192.0.2.1"})
        other.join(you, {"vtep": "192.0.2.2"})
        view: dict[str, bytes] = {}
        while {*view} != {"h1", "h2"}:
            view = records_of(feed.next(10) or {})
        registry.join(me, {"vtep": "192.0.2.3"})
        assert records_of(feed.next(10) or {})["h1"] == b'{"vtep":"192.0.2.3"}'
        with pytest.raises(TakenByOther, match="another host is node h1"):
            other.join(Member("h1", "c" * 32), {"vtep": "192.0.2.4"})
        with pytest.raises(TakenByOther, match="node h1 has underlay address"):
            other.join(you, {"vtep": "192.0.2.3"})
        assert registry.claim(me, ["10.0.0.0/24", "10.0.1.0/24"]) == ["10.0.0.0/24"]
        assert other.claim(you, ["10.0.0.0/24", "10.0.1.0/24"]) == ["10.0.1.0/24"]
        assert other.own(you, "10.0.0.0/24") == me
        registry.show_life(me, 30)
        assert other.live() == {"h1"}
        assert other.release("h1")
        assert {part.cidr for part in other.parts()} == {"10.0.1.0/24"}
        assert other.live() == frozenset()
        assert records_of(feed.next(10) or {}).keys() == {"h2"}
        feed.close()

    def write(self, store: Store, folder: str, *texts: str) -> None:
        for text in texts:
            name, value = named(text)
            assert store.commit([Change(f"{folder}/{name}", value)])

    def wait_until(self, test: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not test():
            assert time.monotonic() < end, "it did not come about"
            time.sleep(0.1)
