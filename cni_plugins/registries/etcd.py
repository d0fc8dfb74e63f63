"""Keeps keys in etcd, through its JSON gateway.

etcd3gw speaks to the gateway. Its Watcher is not used: it has no read timeout, takes "canceled" and errors of
the stream for nothing, and when its thread ends nobody learns of it. Here is a watch on its HTTP session.

int64 are strings in the gateway's JSON, and keys and values base64.
"""

import base64
import binascii
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import requests
from etcd3gw.lease import Lease

from cni_plugins.contract.registry_config import RegistrySection
from cni_plugins.registries.etcd_gateway import Gateway
from cni_plugins.registries.feed import Delta, ThreadedFeed
from cni_plugins.registries.store import Change, Denied, Item, StoreFailed, Unreachable, Unusable

_PAGE = 1000  # keys in one answer
_PROOF = 15.0  # seconds between two looks at a quiet store
_GRACE = 5.0  # seconds that an event may come later than an answer that shows what it tells
_LONGEST_LINE = 16 << 20  # of a watch


class EtcdStore:
    """The store of an etcd cluster; see registries/store.py."""

    def __init__(self, section: RegistrySection) -> None:
        self._section = section
        self._prefix = f"{section.prefix}/"
        self._gateway = Gateway(section)
        self._leases: dict[str, Lease] = {}

    def read(self, key: str) -> Item | None:
        found = self._gateway.call("kv/range", {"key": _text(self._prefix + key)})
        return next(map(_item, _kvs(found)), None)

    def children(self, key: str) -> dict[str, Item]:
        return _list(self._gateway, f"{self._prefix}{key}/").items

    def commit(self, changes: Sequence[Change]) -> bool:
        if not changes:
            return True
        found = self._gateway.call("kv/txn", self._transaction(changes), is_read=False)
        return bool(found.get("succeeded", False))

    def hold(self, key: str, value: bytes, seconds: float) -> None:
        lease = self._leases.get(key)
        if lease is None or not self._is_alive(lease):
            lease = self._granted(max(1, round(seconds)))
            self._leases[key] = lease
        body = {"key": _text(self._prefix + key)}
        found = _kvs(self._gateway.call("kv/range", body))
        if not found or _number(found[0], "lease") != lease.id or _bytes(found[0], "value") != value:
            put = {**body, "value": base64.b64encode(value).decode(), "lease": str(lease.id)}
            self._gateway.call("kv/put", put)  # twice does no harm

    def follow(self, key: str) -> ThreadedFeed:
        return ThreadedFeed(_Watch(self._section, f"{self._prefix}{key}/"))

    def close(self) -> None:
        self._gateway.close()

    def __repr__(self) -> str:
        return f"EtcdStore({self._gateway.endpoint})"

    def _transaction(self, changes: Sequence[Change]) -> dict[str, Any]:
        compare, success = [], []
        for change in changes:
            key = _text(self._prefix + change.key)
            if change.expected is not None:
                # The revision of a key that does not exist is 0.
                revision = str(change.expected)
                compare.append({"key": key, "target": "MOD", "result": "EQUAL", "mod_revision": revision})
            if change.value is None:
                success.append({"request_delete_range": {"key": key}})
            else:
                value = base64.b64encode(change.value).decode()
                success.append({"request_put": {"key": key, "value": value}})
        return {"compare": compare, "success": success}

    def _granted(self, seconds: int) -> Lease:
        return self._gateway.use(lambda client: client.lease(seconds))

    def _is_alive(self, lease: Lease) -> bool:
        """Renew a lease, through whatever endpoint is used now; False: it has expired."""
        return self._gateway.use(lambda client: Lease(lease.id, client).refresh()) > 0


class _Listing(NamedTuple):
    """What is below a prefix.

    :param revisions: by key, also of keys further below.
    """

    items: dict[str, Item]
    revisions: dict[bytes, int]
    revision: int


def _list(gateway: Gateway, prefix: str) -> _Listing:
    """Return what is directly below a prefix, all as of one revision."""
    end = _text(prefix[:-1] + "0")  # the character after the slash
    start, revision = prefix.encode(), 0
    items: dict[str, Item] = {}
    revisions: dict[bytes, int] = {}
    while True:
        body = {
            "key": base64.b64encode(start).decode(),
            "range_end": end,
            "limit": str(_PAGE),
            "sort_order": "ASCEND",
        }
        if revision:
            body["revision"] = str(revision)
        found = gateway.call("kv/range", body)
        kvs = _kvs(found)
        revision = revision or _revision(found)
        for kv in kvs:
            item, name = _item(kv), _name(kv, prefix)
            revisions[_bytes(kv, "key")] = item.version
            if name:
                items[name] = item
        if not found.get("more") or not kvs:
            return _Listing(items, revisions, revision)
        start = _bytes(kvs[-1], "key") + b"\0"


class _Watch:
    """Follows the keys directly below a prefix.

    The stream tells what changes. A second thread asks the cluster every 15 s for number and newest revision
    of the keys: that proves that there is a leader, and that the stream has missed nothing.
    """

    def __init__(self, section: RegistrySection, prefix: str) -> None:
        self._gateway, self._prefix = Gateway(section), prefix
        self._looks: Gateway | None = None
        self._held: dict[bytes, int] = {}  # revisions by key, also of keys further below
        self._revision = 0
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._trouble: StoreFailed | None = None

    def run(self, publish: Callable[[Delta], None], prove: Callable[[], None]) -> None:
        listing = _list(self._gateway, self._prefix)
        self._held, self._revision = listing.revisions, listing.revision
        publish({name: item.value for name, item in listing.items.items()})
        del listing
        with self._gateway.stream("watch", self._request()) as response:
            looks = self._looks = self._gateway.here()
            threading.Thread(target=self._prove, args=(looks, prove), name="feed proof", daemon=True).start()
            for message in self._messages(response):
                self._apply(message, publish)
        raise self._ended()

    def close(self) -> None:
        self._closed.set()
        self._gateway.shut()
        if self._looks is not None:
            self._looks.shut()

    def _ended(self) -> StoreFailed:
        return self._trouble or Unreachable(f"{self._gateway.endpoint}: the watch has ended")

    def _request(self) -> dict[str, Any]:
        return {
            "create_request": {
                "key": _text(self._prefix),
                "range_end": _text(self._prefix[:-1] + "0"),
                "start_revision": str(self._revision + 1),
                "progress_notify": True,
            }
        }

    def _messages(self, response: requests.Response) -> Iterator[dict[str, Any]]:
        """Yield the JSON objects of the stream, one a line, until it ends."""
        rest = b""
        try:
            for chunk in response.iter_content(chunk_size=None):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in filter(bytes.strip, lines):
                    message = json.loads(line)
                    yield message
                if len(rest) > _LONGEST_LINE:
                    raise Unusable(f"{self._gateway.endpoint} sends messages that are too long")
        except (requests.RequestException, OSError):
            raise self._ended() from None
        except (ValueError, AttributeError, TypeError):
            raise self._strange() from None

    def _apply(self, message: dict[str, Any], publish: Callable[[Delta], None]) -> None:
        result = _result(message, self._gateway)
        try:
            delta: dict[str, bytes | None] = {}
            with self._lock:
                for event in result.get("events", ()):
                    self._note(event, delta)
                self._revision = max(self._revision, _revision(result))
            if delta:
                publish(delta)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise self._strange() from None

    def _note(self, event: dict[str, Any], delta: dict[str, bytes | None]) -> None:
        kv = event["kv"]
        key, name = _bytes(kv, "key"), _name(kv, self._prefix)
        if event.get("type") == "DELETE":
            self._held.pop(key, None)
            value = None
        else:
            value, self._held[key] = _item(kv)
        if name:
            delta[name] = value

    def _strange(self) -> Unusable:
        return Unusable(f"{self._gateway.endpoint} sends no watch as etcd's JSON gateway does")

    def _prove(self, looks: Gateway, prove: Callable[[], None]) -> None:
        """Look at the store from time to time; end the stream when that shows something."""
        try:
            while not self._closed.wait(_PROOF):
                self._look(looks)
                prove()
        except StoreFailed as failure:
            self._trouble = failure
        finally:
            self._gateway.shut()
            looks.close()

    def _look(self, looks: Gateway) -> None:
        """:raises StoreFailed: when the store does not answer, or shows what the stream does not."""
        body = {
            "key": _text(self._prefix),
            "range_end": _text(self._prefix[:-1] + "0"),
            "keys_only": True,
            "sort_target": "MOD",
            "sort_order": "DESCEND",
            "limit": "1",
        }
        found = looks.call("kv/range", body)
        newest = max((_number(kv, "mod_revision") for kv in _kvs(found)), default=0)
        there, now = (_number(found, "count"), newest), _revision(found)
        end = time.monotonic() + _GRACE
        while not self._closed.wait(0.02):
            with self._lock:
                here = (len(self._held), max(self._held.values(), default=0))
                if here == there or self._revision > now:
                    return
            if time.monotonic() > end:
                raise Unreachable(f"{self._gateway.endpoint}: the watch misses what the store has")


def _result(message: dict[str, Any], gateway: Gateway) -> dict[str, Any]:
    """Return what a message of a watch consists of.

    :raises StoreFailed: when it says that the watch is over.
    """
    if not isinstance(message, dict):
        raise Unusable(f"{gateway.endpoint} sends no watch as etcd's JSON gateway does")
    error = message.get("error")
    if error is not None:
        words = error.get("message", "") if isinstance(error, dict) else error
        raise gateway.failure(f"the watch has ended: {words}")
    result = message.get("result", {})
    if not isinstance(result, dict):
        raise Unusable(f"{gateway.endpoint} sends no watch as etcd's JSON gateway does")
    compacted = _number(result, "compact_revision")
    if compacted:
        raise Unreachable(
            f"{gateway.endpoint}: the watch came too late, the store is compacted up to {compacted}"
        )
    if result.get("canceled"):
        reason = str(result.get("cancel_reason", ""))
        if "permission denied" in reason:
            raise Denied(f"{gateway.endpoint}: {reason}")
        raise gateway.failure(f"the watch was canceled: {reason}")
    return result


def _text(key: str) -> str:
    return base64.b64encode(key.encode()).decode()


def _bytes(kv: dict[str, Any], field: str) -> bytes:
    try:
        return base64.b64decode(kv.get(field, ""), validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise Unusable("the store answers with what is no base64") from None


def _name(kv: dict[str, Any], prefix: str) -> str:
    """Return the name of a key directly below the prefix; empty: it is not, or no name of ours."""
    name = _bytes(kv, "key").decode(errors="replace").removeprefix(prefix)
    return "" if "/" in name else name


def _kvs(answer: dict[str, Any]) -> list[dict[str, Any]]:
    found = answer.get("kvs", [])
    if not isinstance(found, list) or not all(isinstance(kv, dict) for kv in found):
        raise Unusable("the store answers with no list of keys")
    return found


def _item(kv: dict[str, Any]) -> Item:
    return Item(_bytes(kv, "value"), _number(kv, "mod_revision"))


def _number(answer: dict[str, Any], field: str) -> int:
    try:
        return int(answer.get(field, 0))
    except (TypeError, ValueError):
        raise Unusable(f"the store answers with a {field} that is no number") from None


def _revision(answer: dict[str, Any]) -> int:
    header = answer.get("header")
    return _number(header, "revision") if isinstance(header, dict) else 0
