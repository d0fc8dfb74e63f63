"""Serves a store in memory to other processes over a unix socket, for tests with several hosts."""

from __future__ import annotations

import contextlib
import pickle
import socket
import struct
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cni_plugins.registries.store import Change, Item, StoreFailed, Unreachable
from tests.memory_store import MemoryCluster

_LENGTH = struct.Struct("=I")


def _send(connection: socket.socket, value: Any) -> None:
    data = pickle.dumps(value)
    connection.sendall(_LENGTH.pack(len(data)) + data)


def _receive(connection: socket.socket) -> Any:
    def exactly(count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = connection.recv(count - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    return pickle.loads(exactly(_LENGTH.unpack(exactly(_LENGTH.size))[0]))


class StoreServer:
    """Gives other processes what `cluster` has."""

    def __init__(self, path: Path) -> None:
        self.cluster = MemoryCluster()
        self.path = path
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(64)
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        store = self.cluster.store()
        feed: Any = None
        with contextlib.suppress(EOFError, OSError), connection:
            while True:
                name, arguments = _receive(connection)
                try:
                    if name == "follow":
                        feed, answer = store.follow(*arguments), None
                    else:
                        answer = getattr(feed if name == "next" else store, name)(*arguments)
                except StoreFailed as err:
                    answer = err
                _send(connection, answer)

    def close(self) -> None:
        # The thread must be gone before the descriptor is: its number is that of the next server's listener.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()


class _Connection:
    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.connect(path)
        except OSError as err:
            raise Unreachable("no endpoint answers") from err

    def call(self, name: str, *arguments: Any) -> Any:
        try:
            _send(self._socket, (name, arguments))
            answer = _receive(self._socket)
        except (OSError, EOFError) as err:
            raise Unreachable("the connection ended") from err
        if isinstance(answer, StoreFailed):
            raise answer
        return answer

    def close(self) -> None:
        self._socket.close()


class RemoteStore:
    """What another process sees of it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._connection = _Connection(path)

    def read(self, key: str) -> Item | None:
        found: Item | None = self._connection.call("read", key)
        return found

    def children(self, key: str) -> dict[str, Item]:
        found: dict[str, Item] = self._connection.call("children", key)
        return found

    def commit(self, changes: Sequence[Change]) -> bool:
        return bool(self._connection.call("commit", changes))

    def hold(self, key: str, value: bytes, seconds: float) -> None:
        self._connection.call("hold", key, value, seconds)

    def follow(self, key: str) -> RemoteFeed:
        return RemoteFeed(self._path, key)

    def close(self) -> None:
        self._connection.close()


class RemoteFeed:
    def __init__(self, path: str, key: str) -> None:
        self._connection = _Connection(path)
        self._connection.call("follow", key)

    def next(self, timeout: float) -> Mapping[str, bytes] | None:
        found: Mapping[str, bytes] | None = self._connection.call("next", timeout)
        return found

    def close(self) -> None:
        self._connection.close()
