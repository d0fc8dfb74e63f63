"""Keeps keys in ZooKeeper, by kazoo.

A key is a node; nodes above it are made as needed, are empty, and stay. A value is never empty, which tells
them apart. kazoo reconnects for ever, tells that a session is lost when it is connected again, and keeps
what it is asked for until then; here a client that does not answer is thrown away, so nothing old is written
later.
"""

import contextlib
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from kazoo.client import KazooClient, TransactionRequest
from kazoo.exceptions import (
    AuthFailedError,
    BadVersionError,
    KazooException,
    NoAuthError,
    NodeExistsError,
    NoNodeError,
    RolledBackError,
    RuntimeInconsistency,
)
from kazoo.handlers.threading import KazooTimeoutError
from kazoo.security import OPEN_ACL_UNSAFE, make_digest_acl

from cni_plugins.contract.registry_config import RegistrySection
from cni_plugins.registries.feed import Delta, ThreadedFeed
from cni_plugins.registries.http import CALL, Tls, tls_of
from cni_plugins.registries.secrets import Secret
from cni_plugins.registries.store import ABSENT, Change, Denied, Item, StoreFailed, Unreachable, Unusable

_SESSION = 10.0  # seconds; the server ends a session without a sign of life, and kazoo the connection before
_CONNECT = 5.0
_ANSWER = 5.0  # one answer
_AT_ONCE = 200  # requests that wait for their answers
_PROOF = 15.0  # seconds between two looks at a quiet store
_ATTEMPTS = 64  # of a transaction, while others write the same nodes
_OTHERS_WERE_FASTER = (NodeExistsError, NoNodeError, BadVersionError)

_LATER = 0.02  # seconds; others are writing the same nodes


class ZooKeeperStore:
    """The store of a ZooKeeper ensemble; see registries/store.py."""

    def __init__(self, section: RegistrySection) -> None:
        self._section = section
        self._connection = _Connection(section, _SESSION)
        self._held: dict[str, _Held] = {}

    def read(self, key: str) -> Item | None:
        path = self._connection.path(key)
        _, found = self._connection.ask([("sync", path), ("get", path)])
        return _item(found)

    def children(self, key: str) -> dict[str, Item]:
        path = self._connection.path(key)
        _, names = self._connection.ask([("sync", path), ("get_children", path)])
        return {} if names is None else _items(self._connection, path, names)

    def commit(self, changes: Sequence[Change]) -> bool:
        for _ in range(_ATTEMPTS):
            nodes = self._look(changes)
            if not _is_as_expected(changes, nodes):
                return False
            if self._write(changes, nodes):
                return True
            time.sleep(random.uniform(0, _LATER))  # noqa: S311 (no secret)
        raise Unreachable(f"{self._connection.name}: the keys keep changing")

    def hold(self, key: str, value: bytes, seconds: float) -> None:
        held = self._held.get(key)
        if held is None or held.seconds != seconds:
            if held is not None:
                held.close()
            held = self._held[key] = _Held(self._section, key, seconds)
        held.renew(value)

    def follow(self, key: str) -> ThreadedFeed:
        return ThreadedFeed(_Watch(_Connection(self._section, _SESSION), key))

    def close(self) -> None:
        for held in self._held.values():
            held.close()
        self._connection.close()

    def __repr__(self) -> str:
        return f"ZooKeeperStore({self._connection.name})"

    def _look(self, changes: Sequence[Change]) -> "_Nodes":
        """Return the nodes of the keys, and those above them, which are made if they are missing."""
        paths = [self._connection.path(change.key) for change in changes]
        folders = list(dict.fromkeys(os.path.dirname(path) for path in paths))
        # The folders come first; see _Nodes.
        found = self._connection.ask([("sync", "/"), *(("exists", p) for p in (*folders, *paths))])[1:]
        stats = dict(zip((*folders, *paths), found, strict=True))
        missing = [folder for folder in folders if stats[folder] is None]
        if not missing:
            return _Nodes(stats, paths)
        for folder in missing:
            self._connection.make(folder)
        return self._look(changes)

    def _write(self, changes: Sequence[Change], nodes: "_Nodes") -> bool:
        """Carry out a transaction; False: something has changed since `nodes` were looked at."""
        request = self._connection.transaction()
        for change, path in zip(changes, nodes.paths, strict=True):
            _add(request, change, path, nodes)
        if not request.operations:
            return True
        for folder in {os.path.dirname(path) for path in nodes.paths}:
            is_emptied = any(
                change.value is None and os.path.dirname(path) == folder
                for change, path in zip(changes, nodes.paths, strict=True)
            )
            version = nodes.stats[folder].version
            if is_emptied:
                request.set_data(folder, b"", version=version)
            else:
                request.check(folder, version)
        return self._connection.commit(request)


class _Nodes(NamedTuple):
    """Nodes as they were before a transaction.

    The version of a node counts its writes, and starts anew when it is deleted and created. So whoever
    deletes one writes its folder, too, and a transaction requires the versions of both: then nothing was
    deleted in between. The item's version is the number of the transaction that wrote it, which is never
    used again.
    """

    stats: dict[str, Any]
    paths: list[str]


def _is_as_expected(changes: Sequence[Change], nodes: _Nodes) -> bool:
    for change, path in zip(changes, nodes.paths, strict=True):
        stat = nodes.stats[path]
        # An empty node is there because of what is below it.
        version = ABSENT if stat is None or not stat.data_length else stat.mzxid
        if change.expected is not None and change.expected != version:
            return False
    return True


def _add(request: TransactionRequest, change: Change, path: str, nodes: _Nodes) -> None:
    stat = nodes.stats[path]
    if change.value is not None and stat is None:
        request.create(path, change.value, acl=request.client.default_acl)
    elif change.value is not None:
        request.set_data(path, change.value, version=stat.version)
    elif stat is not None and stat.data_length:
        request.delete(path, version=stat.version)
    elif stat is None and change.expected == ABSENT:
        request.create(path, b"-", acl=request.client.default_acl)  # fails if there is one by now
        request.delete(path)


class _Connection:
    """A session, begun when it is needed, and again after it has failed."""

    def __init__(self, section: RegistrySection, seconds: float) -> None:
        self.name = "zookeeper " + ",".join(section.endpoints)
        self._section, self._seconds = section, seconds
        self._tls = tls_of(section, is_used=bool(section.ca_file or section.cert_file))
        self._password = Secret("passwordFile", section.password_file) if section.username else None
        self._lock = threading.Lock()
        self._client: KazooClient | None = None
        self._is_closed = False
        self._last = _LastWarning()

    def path(self, key: str) -> str:
        return f"{self._section.prefix}/{key}"

    def client(self) -> KazooClient:
        """Return a client that is connected.

        :raises StoreFailed: when there is none within 5 s.
        """
        with self._lock:
            if self._is_closed:
                raise Unreachable(f"{self.name}: the connection is closed")
            if self._client is None:
                self._client = self._started()
            client = self._client
        if not _wait_for(lambda: client.connected, _CONNECT):
            self.discard(client)
            raise self._unconnected()
        return client

    def ask(self, questions: Iterable[tuple[str, str]], **more: Any) -> list[Any]:  # noqa: ANN401
        """Return the answers to reading requests; None for a node that does not exist."""
        client = self.client()
        answers: list[Any] = []
        waiting = list(questions)
        end = time.monotonic() + CALL - _CONNECT
        while waiting:
            now, waiting = waiting[:_AT_ONCE], waiting[_AT_ONCE:]
            with self.judged(client):
                asked = [getattr(client, f"{verb}_async")(path, **more) for verb, path in now]
                answers += [_answer(each, end - time.monotonic()) for each in asked]
        return answers

    def make(self, path: str) -> None:
        """Make a node, and those above it."""
        client = self.client()
        with self.judged(client):
            client.ensure_path_async(path).get(timeout=_ANSWER)

    def transaction(self) -> TransactionRequest:
        return self.client().transaction()

    def commit(self, request: TransactionRequest) -> bool:
        """:returns: False: a node is not as the request says."""
        with self.judged(request.client):
            results = request.commit_async().get(timeout=_ANSWER)
            for result in results:
                if isinstance(result, RolledBackError | RuntimeInconsistency):
                    continue
                if isinstance(result, _OTHERS_WERE_FASTER):
                    return False
                if isinstance(result, Exception):
                    raise result
        return True

    def discard(self, client: KazooClient) -> None:
        """Use another client next time. Ending one takes seconds if its server does not answer."""
        with self._lock:
            if self._client is client:
                self._client = None
        threading.Thread(target=_end, args=(client,), name="kazoo end", daemon=True).start()

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            client = self._client
        if client is not None:
            self.discard(client)

    @contextlib.contextmanager
    def judged(self, client: KazooClient) -> Iterator[None]:
        """Turn kazoo's exceptions into ours; throw the client away after those that are not about nodes."""
        try:
            yield
        except NoAuthError:
            raise Denied(f"{self.name}: the ACL of a node refuses this user or host") from None
        except AuthFailedError:
            self.discard(client)
            raise Denied(f"{self.name} refuses the user or password") from None
        except KazooTimeoutError:
            self.discard(client)
            raise Unreachable(f"{self.name}: no answer in time") from None
        except (KazooException, OSError) as error:
            self.discard(client)
            raise Unreachable(f"{self.name}: {_words(error)}") from None

    def _unconnected(self) -> StoreFailed:
        """Return why there is no connection, as kazoo tells it to its log only."""
        words = self._last.text
        if "CERTIFICATE_VERIFY_FAILED" in words:
            return Unusable(f"{self.name}: its certificate is not accepted: {words}")
        if "alert" in words.lower():
            return Denied(f"{self.name} refuses this host's certificate, or its absence: {words}")
        return Unreachable(
            f"{self.name}: no member of the ensemble answers" + (f": {words}" if words else "")
        )

    def _started(self) -> KazooClient:
        auth, acl = [], OPEN_ACL_UNSAFE
        if self._password is not None:
            user, password = self._section.username, self._password.text()
            auth = [("digest", f"{user}:{password}")]
            acl = [make_digest_acl(user, password, all=True)]
        tls: Tls = self._tls
        client = KazooClient(
            hosts=",".join(self._section.endpoints),
            timeout=self._seconds,
            default_acl=acl,
            auth_data=auth,
            connection_retry={"max_tries": -1, "delay": 0.1, "backoff": 2, "max_delay": 2},
            logger=self._last.logger(),
            use_ssl=bool(tls.ca),
            ca=tls.ca or None,
            certfile=tls.cert or None,
            keyfile=tls.key or None,
            check_hostname=bool(tls.ca),
        )
        client.start_async()
        return client


class _LastWarning(logging.Handler):
    """Keeps what kazoo last warned of. Below that level it logs passwords, so that goes nowhere."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = ""

    def logger(self) -> logging.Logger:
        """Return a logger without parents, so that nobody else gets its records."""
        logger = logging.Logger("kazoo", logging.WARNING)  # noqa: LOG001
        logger.addHandler(self)
        self.text = ""
        return logger

    def emit(self, record: logging.LogRecord) -> None:
        # A transition that follows from it is no reason.
        if record.args and not record.getMessage().startswith("Transition"):
            self.text = " ".join(str(each) for each in record.args)


class _Held:
    """A node that exists as long as its own session, which ends unless it is renewed in time.

    kazoo's thread keeps the session alive by itself, so a timer ends it: otherwise a host whose keeper hangs
    would look alive.
    """

    def __init__(self, section: RegistrySection, key: str, seconds: float) -> None:
        self.seconds = seconds
        self._connection = _Connection(section, seconds)
        self._path = self._connection.path(key)
        self._timer: threading.Timer | None = None
        self._client: KazooClient | None = None

    def renew(self, value: bytes) -> None:
        if self._timer is not None:
            self._timer.cancel()
        client = self._client = self._connection.client()
        found = self._connection.ask([("get", self._path)])[0]
        session = client.client_id[0] if client.client_id else 0
        is_ours = found is not None and found[1].ephemeralOwner == session
        if found is not None and not is_ours:
            # Of an earlier session of this host, which has not expired yet.
            self._try(client, lambda: client.delete_async(self._path).get(timeout=_ANSWER))
        if not is_ours:
            self._connection.make(os.path.dirname(self._path))
            create = partial(client.create_async, self._path, value, ephemeral=True)
            self._try(client, lambda: create().get(timeout=_ANSWER))
        elif found[0] != value:
            self._try(client, lambda: client.set_async(self._path, value).get(timeout=_ANSWER))
        self._timer = threading.Timer(self.seconds, self._lapse)
        self._timer.daemon = True
        self._timer.start()

    def close(self) -> None:
        """Leave the node to the session, which the server ends, as after a crash."""
        if self._timer is not None:
            self._timer.cancel()
        self._connection.close()

    def _lapse(self) -> None:
        if self._client is not None:
            self._connection.discard(self._client)

    def _try(self, client: KazooClient, function: Callable[[], Any]) -> None:
        with self._connection.judged(client), contextlib.suppress(*_OTHERS_WERE_FASTER):
            function()


class _Watch:
    """Follows the nodes directly below one.

    ZooKeeper tells once that a list of names has changed, and not what. So the list is read again, with the
    next watch, and the values of new names; names change with their values. Every 15 s its version is
    compared with the leader's.
    """

    def __init__(self, connection: _Connection, key: str) -> None:
        self._connection, self._path = connection, connection.path(key)
        self._closed = threading.Event()
        self._changed = threading.Event()
        self._names: set[str] = set()
        self._generation = (0, 0)

    def run(self, publish: Callable[[Delta], None], prove: Callable[[], None]) -> None:
        client = self._connection.client()
        publish(self._changes())
        while not self._closed.is_set():
            self._changed.wait(_PROOF)
            if self._closed.is_set():
                return
            if self._connection.client() is not client:
                raise Unreachable(f"{self._connection.name}: the connection was lost")
            if self._changed.is_set() or self._look() != self._generation:
                changes = self._changes()
                if changes:
                    publish(changes)
            prove()

    def close(self) -> None:
        self._closed.set()
        self._changed.set()
        self._connection.close()

    def _changes(self) -> dict[str, bytes | None]:
        """Read names and new values, and watch for the next change."""
        self._changed.clear()
        self._connection.ask([("sync", self._path)])
        questions = [("get_children", self._path), ("exists", self._path)]
        found, stat = self._connection.ask(questions, watch=self._wake)
        names = set(found or ())
        self._generation = _generation(stat)
        new = _items(self._connection, self._path, names - self._names)
        values = {name: item.value for name, item in new.items()}
        changes: dict[str, bytes | None] = {**dict.fromkeys(self._names - names), **values}
        self._names = (self._names & names) | values.keys()
        return changes

    def _look(self) -> tuple[int, int]:
        _, stat = self._connection.ask([("sync", self._path), ("exists", self._path)])
        return _generation(stat)

    def _wake(self, _event: object) -> None:
        self._changed.set()


def _answer(asked: Any, seconds: float) -> Any:  # noqa: ANN401 (any of kazoo's)
    try:
        return asked.get(timeout=max(0.1, min(_ANSWER, seconds)))
    except NoNodeError:
        return None


def _items(connection: _Connection, path: str, names: Iterable[str]) -> dict[str, Item]:
    names = list(names)
    found = connection.ask(("get", f"{path}/{name}") for name in names)
    items = {name: _item(each) for name, each in zip(names, found, strict=True)}
    return {name: item for name, item in items.items() if item is not None}


def _item(found: tuple[bytes, Any] | None) -> Item | None:
    return Item(found[0], found[1].mzxid) if found is not None and found[0] else None


def _generation(stat: Any) -> tuple[int, int]:  # noqa: ANN401 (a ZnodeStat of kazoo, which has no types)
    """Return what differs when a child was created or deleted, or the node itself."""
    return (0, 0) if stat is None else (stat.czxid, stat.cversion)


def _words(error: Exception) -> str:
    """Return what kazoo's exception means: its class, as most have no text."""
    name = type(error).__name__.removesuffix("Error")
    return str(error) or "".join(f" {c.lower()}" if c.isupper() else c for c in name).strip()


def _wait_for(test: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not test():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def _end(client: KazooClient) -> None:
    with contextlib.suppress(Exception):
        client.stop()
        client.close()
