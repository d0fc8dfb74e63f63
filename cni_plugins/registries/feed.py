"""Follows the children of a key in a thread, and hands what changed to the thread that asks for it."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from cni_plugins.registries.store import StoreFailed, Unreachable

_SILENT = 60.0  # seconds without proof that the store is there; then the feed ends
Delta = Mapping[str, bytes | None]  # None: the name is gone


class Follower(Protocol):
    """What a store does to follow a key. It has a connection of its own."""

    def run(self, publish: Callable[[Delta], None], prove: Callable[[], None]) -> None:
        """Publish all children, then what changes, until `close` is called.

        :param prove: called whenever the store has shown that it is there and has a leader.
        :raises StoreFailed: when it does not any more.
        """
        ...

    def close(self) -> None:
        """End `run`, from another thread."""
        ...


class ThreadedFeed:
    """A feed whose store is followed in a thread of its own.

    What changed between two calls of `next` is merged, so a slow reader costs no more than all names once.
    """

    def __init__(self, follower: Follower, silent: float = _SILENT) -> None:
        self._follower = follower
        self._silent = silent
        self._news = threading.Condition()
        self._view: dict[str, bytes] = {}
        self._pending: dict[str, bytes | None] | None = None
        self._failure: StoreFailed | None = None
        self._proven = time.monotonic()
        self._is_first = True
        threading.Thread(target=self._run, name="feed", daemon=True).start()

    def next(self, timeout: float) -> Mapping[str, bytes] | None:
        end = time.monotonic() + timeout
        with self._news:
            while not self._apply():
                if self._failure is not None:
                    raise self._failure
                now = time.monotonic()
                if now - self._proven > self._silent:
                    self._failure = Unreachable(f"the store has not answered for {self._silent:.0f} s")
                    self._follower.close()
                elif now >= end and not self._is_first:
                    return None
                elif now >= end:
                    raise Unreachable("the store has not answered yet")
                else:
                    self._news.wait(min(end, self._proven + self._silent + 0.1) - now)
            return self._view

    def close(self) -> None:
        with self._news:
            self._failure = self._failure or Unreachable("the feed is closed")
        self._follower.close()

    def _apply(self) -> bool:
        """Merge what has come into the view; False: nothing differs. Called with the lock held."""
        if self._pending is None:
            return False
        differs = self._is_first
        for name, value in self._pending.items():
            if self._view.get(name) != value:
                differs = True
                if value is None:
                    del self._view[name]
                else:
                    self._view[name] = value
        self._pending, self._is_first = None, False
        return differs

    def _publish(self, delta: Delta) -> None:
        with self._news:
            self._pending = {**(self._pending or {}), **delta} if self._pending else dict(delta)
            self._proven = time.monotonic()
            self._news.notify_all()

    def _prove(self) -> None:
        with self._news:
            self._proven = time.monotonic()

    def _run(self) -> None:
        failure: StoreFailed = Unreachable("the feed has ended")  # after an unforeseen exception, too
        try:
            self._follower.run(self._publish, self._prove)
        except StoreFailed as error:
            failure = error
        finally:
            self._follower.close()
            with self._news:
                self._failure = self._failure or failure
                self._news.notify_all()
