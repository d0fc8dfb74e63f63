from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from cni_plugins.registries.feed import Delta, ThreadedFeed
from cni_plugins.registries.store import StoreFailed, Unreachable


class Script:
    """A follower that does what a test says, and then waits to be closed."""

    def __init__(self, *steps: Delta | StoreFailed | None) -> None:
        self._steps = steps
        self.closed = threading.Event()
        self.done = threading.Event()

    def run(self, publish: Callable[[Delta], None], prove: Callable[[], None]) -> None:
        for step in self._steps:
            if isinstance(step, StoreFailed):
                raise step
            prove() if step is None else publish(step)
        self.done.set()
        self.closed.wait()

    def close(self) -> None:
        self.closed.set()


def test_what_came_between_two_calls_is_one_view() -> None:
    script = Script({"a": b"1", "b": b"1"}, {"a": None, "c": b"1"}, {"b": b"2"})
    feed = ThreadedFeed(script)
    script.done.wait()
    assert feed.next(5) == {"b": b"2", "c": b"1"}
    assert feed.next(0.05) is None
    feed.close()


def test_an_empty_list_is_a_first_view_too() -> None:
    feed = ThreadedFeed(Script({}))
    assert feed.next(5) == {}
    assert feed.next(0.05) is None
    feed.close()


def test_a_change_that_changes_nothing_is_none() -> None:
    class Late(Script):
        def run(self, publish: Callable[[Delta], None], prove: Callable[[], None]) -> None:
            publish({"a": b"1"})
            read.wait()
            publish({"a": b"1", "gone": None})
            super().run(publish, prove)

    read = threading.Event()
    script = Late()
    feed = ThreadedFeed(script)
    assert feed.next(5) == {"a": b"1"}
    read.set()
    script.done.wait()
    assert feed.next(0.05) is None
    feed.close()


def test_what_was_published_before_a_failure_is_returned_first() -> None:
    script = Script({"a": b"1"}, Unreachable("gone"))
    feed = ThreadedFeed(script)
    script.closed.wait()
    assert feed.next(5) == {"a": b"1"}
    for _ in range(2):
        with pytest.raises(Unreachable, match="gone"):
            feed.next(5)


def test_a_store_that_proves_nothing_any_more_ends_the_feed() -> None:
    script = Script({"a": b"1"})
    feed = ThreadedFeed(script, silent=0.2)
    assert feed.next(5) == {"a": b"1"}
    begin = time.monotonic()
    with pytest.raises(Unreachable, match="has not answered for"):
        feed.next(30)
    assert time.monotonic() - begin < 10
    assert script.closed.is_set()


def test_no_first_view_is_a_failure_and_not_an_empty_list() -> None:
    feed = ThreadedFeed(Script())
    with pytest.raises(Unreachable, match="has not answered yet"):
        feed.next(0.05)
    feed.close()


def test_an_unforeseen_exception_ends_the_feed(monkeypatch: pytest.MonkeyPatch) -> None:
    printed: list[object] = []
    monkeypatch.setattr(threading, "excepthook", printed.append)

    class Broken(Script):
        def run(self, *_: object) -> None:
            raise ZeroDivisionError

    feed = ThreadedFeed(Broken())
    with pytest.raises(Unreachable, match="the feed has ended"):
        feed.next(5)
    for thread in threading.enumerate():
        if thread.name == "feed":
            thread.join(5)
    assert len(printed) == 1


def test_a_closed_feed_says_so_and_closes_its_connection() -> None:
    script = Script({"a": b"1"})
    feed = ThreadedFeed(script)
    assert feed.next(5) == {"a": b"1"}
    feed.close()
    assert script.closed.is_set()
    with pytest.raises(Unreachable, match="is closed"):
        feed.next(5)
