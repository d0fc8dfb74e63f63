"""Passes on what a feed returns to the thread that acts on it; the newest list replaces one not yet read."""

import threading
from collections.abc import Callable, Mapping
from typing import NamedTuple

from cni_plugins.registries.store import Feed, StoreFailed

_WAIT = 20.0  # seconds that a feed waits for a change


class Letter(NamedTuple):
    """What has arrived.

    :param found: a list.
    :param is_alive: whether the store has proven that it is there.
    :param failure: why the feed has ended.
    """

    found: Mapping[str, bytes] | None = None
    is_alive: bool = False
    failure: Exception | None = None


class Mailbox:
    """What a feed has returned since the last look."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._letter = Letter()
        self._is_awake = False
        self._is_closed = False
        self._feed: Feed | None = None

    def pump(self, follow: Callable[[], Feed]) -> None:
        """Follow in a thread until the feed or this box is closed."""
        feed = self._feed = follow()
        threading.Thread(target=self._pump, args=(feed,), daemon=True).start()

    def _pump(self, feed: Feed) -> None:
        failure: Exception
        try:
            while not self._is_closed:
                found = feed.next(_WAIT)
                copy = None if found is None else dict(found)
                with self._changed:
                    kept = self._letter.found if copy is None else copy
                    self._letter = Letter(kept, is_alive=True)
                    self._changed.notify_all()
            return
        except StoreFailed as err:
            failure = err
        except Exception as err:  # noqa: BLE001 (as if the store had failed: the other thread says so)
            failure = StoreFailed(f"internal error: {err} ({type(err).__name__})")
        with self._changed:
            self._letter = self._letter._replace(failure=failure)
            self._changed.notify_all()

    def wait(self, seconds: float) -> Letter:
        """Return what has arrived, after so many seconds at the latest."""
        with self._changed:
            if self._letter == Letter() and not self._is_awake:
                self._changed.wait(seconds)
            letter, self._letter, self._is_awake = self._letter, Letter(), False
        return letter

    def wake(self) -> None:
        """Let `wait` return."""
        with self._changed:
            self._is_awake = True
            self._changed.notify_all()

    def close(self) -> None:
        self._is_closed = True
        if self._feed is not None:
            self._feed.close()
