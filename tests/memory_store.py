"""A store in memory with the contract of registries/store.py, for tests of what is built on it.

`MemoryCluster` is what several hosts share; `store()` is the connection of one. `down = True` makes all of
them fail, `secret` hides all keys without an error, as Consul does for a token without rights.
"""

import threading
import time
from collections.abc import Mapping, Sequence

from cni_plugins.registries.store import ABSENT, Change, Item, Unreachable


class MemoryCluster:
    def __init__(self) -> None:
        self.items: dict[str, Item] = {}
        self.expiry: dict[str, float] = {}
        self.changed = threading.Condition()
        self.down = False
        self.secret = False
        self.commits = 0
        self._version = 0

    def store(self) -> "MemoryStore":
        return MemoryStore(self)

    def put(self, key: str, value: bytes) -> None:
        """Write without asking, as an operator or an enemy."""
        with self.changed:
            self._write(key, value)
            self.changed.notify_all()

    def wipe(self) -> None:
        with self.changed:
            self.items.clear()
            self.changed.notify_all()

    def set_down(self, down: bool) -> None:
        with self.changed:
            self.down = down
            self.changed.notify_all()

    def _write(self, key: str, value: bytes | None) -> None:
        self._version += 1
        self.expiry.pop(key, None)
        if value is None:
            self.items.pop(key, None)
        else:
            self.items[key] = Item(value, self._version)

    def _visible(self) -> dict[str, Item]:
        """Return what there is. Called with the lock held."""
        if self.down:
            raise Unreachable("no endpoint answers")
        now = time.monotonic()
        for key in [key for key, end in self.expiry.items() if end < now]:
            self._write(key, None)
        return {} if self.secret else self.items


class MemoryStore:
    def __init__(self, cluster: MemoryCluster) -> None:
        self._cluster = cluster

    def read(self, key: str) -> Item | None:
        with self._cluster.changed:
            return self._cluster._visible().get(key)

    def children(self, key: str) -> dict[str, Item]:
        with self._cluster.changed:
            found = self._cluster._visible()
            below = {
                name.removeprefix(f"{key}/"): it for name, it in found.items() if name.startswith(f"{key}/")
            }
        return {name: item for name, item in below.items() if "/" not in name}

    def commit(self, changes: Sequence[Change]) -> bool:
        cluster = self._cluster
        assert len(changes) <= 60
        with cluster.changed:
            items = cluster._visible()
            for change in changes:
                found = items.get(change.key)
                version = found.version if found else ABSENT
                if change.expected is not None and change.expected != version:
                    return False
            for change in changes:
                cluster._write(change.key, change.value)
            cluster.commits += 1
            cluster.changed.notify_all()
        return True

    def hold(self, key: str, value: bytes, seconds: float) -> None:
        with self._cluster.changed:
            self._cluster._visible()
            self._cluster._write(key, value)
            self._cluster.expiry[key] = time.monotonic() + seconds
            self._cluster.changed.notify_all()

    def follow(self, key: str) -> "MemoryFeed":
        return MemoryFeed(self, self._cluster, key)

    def close(self) -> None:
        pass


class MemoryFeed:
    def __init__(self, store: MemoryStore, cluster: MemoryCluster, key: str) -> None:
        self._store, self._cluster, self._key = store, cluster, key
        self._last: dict[str, bytes] | None = None

    def next(self, timeout: float) -> Mapping[str, bytes] | None:
        end = time.monotonic() + timeout
        if self._last is None and timeout <= 0:
            # A server's answer takes its time.
            raise Unreachable("the store has not answered yet")
        while True:
            found = {name: item.value for name, item in self._store.children(self._key).items()}
            if found != self._last:
                self._last = found
                return found
            with self._cluster.changed:
                left = end - time.monotonic()
                if left <= 0:
                    return None
                self._cluster.changed.wait(min(left, 0.05))

    def close(self) -> None:
        pass
