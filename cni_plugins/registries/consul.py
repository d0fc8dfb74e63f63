"""Keeps keys in Consul.

py-consul knows the API. Where it leaves out what we need, its HTTP client is used directly: its transactions
have neither token nor datacenter, its answers no X-Consul-KnownLeader, its sessions no NodeChecks.

A list that the token may not read looks like an empty one (404). So whoever gets an empty list reads a key
that must be there; see NetworkRegistry.is_confirmed.
"""

import base64
import binascii
import json
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

import consul
import requests
from consul.base import Response

from cni_plugins.contract.registry_config import RegistrySection
from cni_plugins.registries.feed import Delta, ThreadedFeed
from cni_plugins.registries.http import (
    CALL,
    READ,
    WHOLE,
    BoundedSession,
    Endpoint,
    NotSent,
    TooSlow,
    endpoints_of,
    failure_of,
    tls_of,
)
from cni_plugins.registries.secrets import Secret, redact
from cni_plugins.registries.store import ABSENT, Change, Denied, Item, StoreFailed, Unreachable, Unusable

_WAIT = 10  # seconds that a query waits for a change; Consul adds up to a sixteenth
_FEW = 8  # new names whose values are read one by one
_MOST_OPERATIONS = 64  # of a transaction
_LEAST_TTL, _MOST_TTL = 10, 86400  # seconds, of a session
_OK, _FORBIDDEN, _NOT_FOUND, _CONFLICT, _ERROR = 200, 403, 404, 409, 500
# What the operations of a transaction say when another host was faster.
_NOT_AS_EXPECTED = ("index is stale", "exist", "current modify index")
_AWAY = ("No cluster leader", "no leader", "leadership lost", "rpc error", "not ready", "timed out")


class ConsulStore:
    """The store of a Consul datacenter; see registries/store.py."""

    def __init__(self, section: RegistrySection) -> None:
        self._section = section
        self._prefix = f"{section.prefix.strip('/')}/"
        self._agent = _Agent(section)
        self._sessions: dict[str, str] = {}

    def read(self, key: str) -> Item | None:
        answer = self._agent.get(self._prefix + key)
        return None if answer.code == _NOT_FOUND else _item(_entries(answer)[0])

    def children(self, key: str) -> dict[str, Item]:
        folder = f"{self._prefix}{key}/"
        return _items(self._agent.get(folder, recurse="1"), folder)

    def commit(self, changes: Sequence[Change]) -> bool:
        if not changes:
            return True
        operations = self._operations(changes)
        if operations is None:
            return False
        body = json.dumps([{"KV": operation} for operation in operations])
        answer = self._agent.put("/v1/txn", body, allowed=(_OK, _CONFLICT))
        if answer.code == _OK:
            return True
        self._require_conflict(answer)
        return False

    def hold(self, key: str, value: bytes, seconds: float) -> None:
        session = self._sessions.get(key)
        if session is None or not self._renew(session):
            session = self._sessions[key] = self._session(seconds)
        answer = self._agent.get(self._prefix + key)
        entry = None if answer.code == _NOT_FOUND else _entries(answer)[0]
        if entry is not None and entry.get("Session") == session and _item(entry).value == value:
            return
        path = _path(self._prefix + key)
        if not _is_true(self._agent.put(path, value, acquire=session)):
            # An earlier process of this host had a session, which has not expired yet.
            self._agent.delete(path)
            if not _is_true(self._agent.put(path, value, acquire=session)):
                raise Unreachable(f"{self._agent.endpoint}: {key} keeps being held by another session")

    def follow(self, key: str) -> ThreadedFeed:
        return ThreadedFeed(_Query(self._section, f"{self._prefix}{key}/"))

    def close(self) -> None:
        self._agent.close()

    def __repr__(self) -> str:
        return f"ConsulStore({self._agent.endpoint})"

    def _operations(self, changes: Sequence[Change]) -> list[dict[str, Any]] | None:
        """Return what a transaction consists of; None: a version is not as expected.

        "delete-cas" is content if there is no such key, so "check-index" comes before it. Where these would
        be too many for one transaction, it is looked whether the keys are there, and one that another host
        deletes in between counts as deleted by us.
        """
        operations = [self._operation(change) for change in changes]
        for change in changes:
            if change.value is not None or not change.expected:
                continue
            if len(operations) < _MOST_OPERATIONS:
                key, index = self._prefix + change.key, change.expected
                operations.insert(0, {"Verb": "check-index", "Key": key, "Index": index})
            elif self.read(change.key) is None:
                return None
        return operations

    def _operation(self, change: Change) -> dict[str, Any]:
        operation: dict[str, Any] = {"Key": self._prefix + change.key}
        if change.value is None:
            verbs = {None: "delete", ABSENT: "check-not-exists"}
            operation["Verb"] = verbs.get(change.expected, "delete-cas")
        else:
            operation["Verb"] = "set" if change.expected is None else "cas"  # index 0: if it does not exist
            operation["Value"] = base64.b64encode(change.value).decode()
        if operation["Verb"] in ("cas", "delete-cas"):
            operation["Index"] = change.expected
        return operation

    def _require_conflict(self, answer: Response) -> None:
        """:raises StoreFailed: when a transaction was refused, and not because of what other hosts wrote."""
        errors = _json(answer).get("Errors") or []
        for error in errors:
            words = str(error.get("What", "")) if isinstance(error, dict) else str(error)
            if not any(each in words for each in _NOT_AS_EXPECTED):
                raise self._agent.failure(_FORBIDDEN if "denied" in words else answer.code, words)

    def _session(self, seconds: float) -> str:
        # Consul waits up to twice as long.
        ttl = min(max(_LEAST_TTL, round(seconds / 2)), _MOST_TTL)
        wanted = {"Behavior": "delete", "LockDelay": "0s", "NodeChecks": [], "Checks": [], "TTL": f"{ttl}s"}
        found = _json(self._agent.put("/v1/session/create", json.dumps(wanted))).get("ID")
        if not isinstance(found, str):
            raise Unusable(f"{self._agent.endpoint} does not answer as Consul does")
        return found

    def _renew(self, session: str) -> bool:
        answer = self._agent.put(f"/v1/session/renew/{quote(session)}", "", allowed=(_OK, _NOT_FOUND))
        return bool(answer.code == _OK)


class _Agent:
    """Requests to any endpoint, of one thread; another one may shut it."""

    def __init__(self, section: RegistrySection) -> None:
        self._endpoints = endpoints_of(section)
        tls = tls_of(section, is_used=any(each.scheme == "https" for each in self._endpoints))
        self._session = BoundedSession(tls)
        self._token = Secret("tokenFile", section.token_file) if section.token_file else None
        self._datacenter = section.datacenter
        self._clients = [self._client(each) for each in self._endpoints]
        self._current = 0

    @property
    def endpoint(self) -> Endpoint:
        return self._endpoints[self._current]

    def get(self, key: str, *, waits: float = 0, **parameters: str) -> Response:
        """Read a key, or with `recurse` or `keys` what is below it.

        :raises Unreachable: also when the server knows no leader: what it answers may be old.
        """
        answer = self._use(
            lambda client, headers: client.http.get(
                _whole, _path(key), params=self._parameters(parameters), headers=headers
            ),
            allowed=(_OK, _NOT_FOUND),
            waits=waits,
        )
        if "X-Consul-Index" not in answer.headers:
            raise Unusable(f"{self.endpoint}: this is no Consul: X-Consul-Index is missing")
        if answer.headers.get("X-Consul-KnownLeader", "true") != "true":
            raise Unreachable(f"{self.endpoint}: No cluster leader")
        return answer

    def put(
        self, path: str, data: str | bytes, *, allowed: tuple[int, ...] = (_OK,), **parameters: str
    ) -> Response:
        return self._use(
            lambda client, headers: client.http.put(
                _whole, path, params=self._parameters(parameters), data=data, headers=headers
            ),
            allowed=allowed,
            is_read=False,
        )

    def delete(self, path: str) -> Response:
        return self._use(
            lambda client, headers: client.http.delete(
                _whole, path, params=self._parameters({}), headers=headers
            ),
        )

    def shut(self) -> None:
        self._session.shut()

    def close(self) -> None:
        self._session.close()

    def failure(self, code: int, words: str) -> StoreFailed:
        """Return what an answer with an error means."""
        text = f"{self.endpoint}: {redact(words, [self._token.known() if self._token else ''])[:500]}"
        if code in (401, _FORBIDDEN) or "ACL not found" in words or "Permission denied" in words:
            return Denied(text)
        if code >= _ERROR or any(each in words for each in _AWAY):
            return Unreachable(text)
        if code == _NOT_FOUND:
            return Unusable(f"{text}: this is no Consul")
        return StoreFailed(f"{text} ({code})")

    def _client(self, endpoint: Endpoint) -> consul.Consul:
        host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
        client = consul.Consul(
            host=host,
            port=endpoint.port,
            scheme=endpoint.scheme,
            verify=self._session.verify,
            cert=self._session.cert,
            connections_timeout=READ,
        )
        client.http.session = self._session
        return client

    def _parameters(self, wanted: dict[str, str]) -> list[tuple[str, str]]:
        dc = {"dc": self._datacenter} if self._datacenter else {}
        return [*{**wanted, **dc}.items()]

    def _use(
        self,
        function: Callable[[consul.Consul, dict[str, str]], Response],
        *,
        allowed: tuple[int, ...] = (_OK,),
        is_read: bool = True,
        waits: float = 0,
    ) -> Response:
        """Ask the endpoint that answered last, then the others.

        :param waits: seconds that the server may wait by itself.
        """
        end = time.monotonic() + CALL + waits
        for left in reversed(range(len(self._clients))):
            try:
                return self._once(function, allowed, min(WHOLE + waits, end - time.monotonic()))
            except Denied:
                raise
            except StoreFailed as failure:
                self._current = (self._current + 1) % len(self._clients)
                may_repeat = is_read or isinstance(failure, NotSent | Unusable)
                if waits or not may_repeat or not left or time.monotonic() > end - 1:
                    raise
        raise AssertionError("there is an endpoint")

    def _once(
        self,
        function: Callable[[consul.Consul, dict[str, str]], Response],
        allowed: tuple[int, ...],
        seconds: float,
    ) -> Response:
        headers = {"X-Consul-Token": self._token.text()} if self._token else {}
        try:
            with self._session.limit(max(1.0, seconds)):
                answer = function(self._clients[self._current], headers)
        except TooSlow:
            raise Unreachable(f"{self.endpoint}: no answer in time") from None
        except (requests.RequestException, OSError) as error:
            raise failure_of(error, self.endpoint) from None
        if answer.code not in allowed:
            raise self.failure(answer.code, answer.body)
        return answer


class _Query:
    """Follows the keys directly below a prefix by queries that wait for a change.

    The query returns names only. Values are read of names that are new: names change with their values.
    """

    def __init__(self, section: RegistrySection, folder: str) -> None:
        self._agent, self._folder = _Agent(section), folder
        self._closed = threading.Event()
        self._names: set[str] = set()

    def run(self, publish: Callable[[Delta], None], prove: Callable[[], None]) -> None:
        listing = self._ask(0)
        publish(self._changes(listing, is_first=True))
        while not self._closed.is_set():
            before = listing.revision
            listing = self._ask(before)
            prove()
            changes = self._changes(listing, is_first=listing.revision < before)
            if changes:
                publish(changes)

    def close(self) -> None:
        self._closed.set()
        self._agent.shut()

    def _ask(self, before: int) -> "_Names":
        wait = {"index": str(before), "wait": f"{_WAIT}s"} if before else {}
        answer = self._agent.get(
            self._folder, keys="", separator="/", waits=_WAIT * 17 / 16 if before else 0, **wait
        )
        index = _index(answer)
        # An index that goes back is of another history: the next query must not wait for it.
        return _Names(_names(answer, self._folder), index if index >= before else 0)

    def _changes(self, listing: "_Names", *, is_first: bool) -> dict[str, bytes | None]:
        changes: dict[str, bytes | None] = dict.fromkeys(self._names - listing.names)
        new = listing.names if is_first else listing.names - self._names
        found = self._values(new)
        changes.update(found)
        # A name without a value is gone by now, and the next answer says so.
        self._names = (self._names & listing.names) | found.keys()
        return changes

    def _values(self, names: set[str]) -> dict[str, bytes]:
        if len(names) > _FEW:
            everything = _items(self._agent.get(self._folder, recurse="1"), self._folder)
            return {name: item.value for name, item in everything.items() if name in names}
        values = {}
        for name in names:
            answer = self._agent.get(self._folder + name)
            if answer.code == _OK:
                values[name] = _item(_entries(answer)[0]).value
        return values


class _Names(NamedTuple):
    names: set[str]
    revision: int


def _whole(response: Response) -> Response:
    """Let py-consul return status and headers, too."""
    return response


def _path(key: str) -> str:
    return f"/v1/kv/{key}"  # which py-consul quotes


def _json(answer: Response) -> dict[str, Any]:
    try:
        found = json.loads(answer.body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Unusable("what answers is no Consul")
    return found


def _entries(answer: Response) -> list[dict[str, Any]]:
    if answer.code == _NOT_FOUND:
        return []
    try:
        found = json.loads(answer.body)
    except ValueError:
        found = None
    if not isinstance(found, list) or not found or not all(isinstance(each, dict) for each in found):
        raise Unusable("what answers is no Consul")
    return found


def _names(answer: Response, folder: str) -> set[str]:
    try:
        found = [] if answer.code == _NOT_FOUND else json.loads(answer.body)
        names = {name.removeprefix(folder) for name in found}
    except (ValueError, TypeError, AttributeError):
        raise Unusable("what answers is no Consul") from None
    return {name for name in names if name and "/" not in name}


def _items(answer: Response, folder: str) -> dict[str, Item]:
    items = {str(entry.get("Key", "")).removeprefix(folder): entry for entry in _entries(answer)}
    return {name: _item(entry) for name, entry in items.items() if name and "/" not in name}


def _item(entry: dict[str, Any]) -> Item:
    try:
        return Item(base64.b64decode(entry.get("Value") or "", validate=True), int(entry["ModifyIndex"]))
    except (binascii.Error, KeyError, TypeError, ValueError):
        raise Unusable("what answers is no Consul") from None


def _index(answer: Response) -> int:
    try:
        return max(1, int(answer.headers["X-Consul-Index"]))
    except (KeyError, ValueError):
        raise Unusable("what answers is no Consul: X-Consul-Index is missing") from None


def _is_true(answer: Response) -> bool:
    return bool(answer.body.strip() == "true")
