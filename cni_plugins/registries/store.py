"""Defines what a store must be able to do: keys with versions, transactions, liveness, and a feed of changes.

One file each implements it: etcd, consul, zookeeper. `network_registry` has the rest, the same for all.

Keys are relative to the prefix of the config, and consist of parts joined by slashes. A part has letters,
digits and `._-:;&` only; `key_part` makes one of any text.
"""

import string
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol
from urllib.parse import quote, unquote

_PLAIN = string.ascii_letters + string.digits + "._-:;&"
ABSENT = 0  # as an expected version: the key must not exist


class StoreFailed(Exception):
    """A store could not do what it was asked for; the message never contains a secret."""


class Unreachable(StoreFailed):
    """No endpoint answers, the cluster has no leader, or the connection ended; another try may succeed."""


class Denied(StoreFailed):
    """The store refuses the user, token or certificate, or access to a key."""


class Unusable(StoreFailed):
    """What answers is not the store, or one of a version or configuration that cannot be used."""


class Item(NamedTuple):
    """The value of a key, and its version, never 0, and another one after each change of value."""

    value: bytes
    version: int


class Change(NamedTuple):
    """One write of a transaction.

    A key has either a value, which is not empty, or keys below it: in ZooKeeper it could not be told apart.

    :param value: None deletes the key, which need not exist.
    :param expected: the version the key must have, ABSENT if it must not exist; None: any.
    """

    key: str
    value: bytes | None
    expected: int | None = None


class Feed(Protocol):
    """The keys directly below one key, followed without gaps."""

    def next(self, timeout: float) -> Mapping[str, bytes] | None:
        """Return all names and values, at first at once, later when something has changed.

        The mapping is the feed's own and valid until the next call. None: nothing changed for `timeout`
        seconds, and the store has proven during the last minute that it is there and has a leader.

        :raises StoreFailed: when that is not so. The feed is over then; another one begins with all.
        """
        ...

    def close(self) -> None: ...


class Store(Protocol):
    """A connection to a store; used by one thread, except that each feed may be used by one of its own.

    Every method raises StoreFailed.
    """

    def read(self, key: str) -> Item | None:
        """Return the item of a key, as the leader knows it."""
        ...

    def children(self, key: str) -> dict[str, Item]:
        """Return the items directly below a key, by the last part of their names."""
        ...

    def commit(self, changes: Sequence[Change]) -> bool:
        """Write all of at most 60 changes, or nothing; False: a version was not as expected.

        After Unreachable it is unknown whether the changes were made.
        """
        ...

    def hold(self, key: str, value: bytes, seconds: float) -> None:
        """Create a key that disappears after about `seconds`, unless this is called again."""
        ...

    def follow(self, key: str) -> Feed:
        """Follow the children of a key; the first `next` returns them all.

        Their names must change with their values, as those of records do: Consul and ZooKeeper tell of names.
        """
        ...

    def close(self) -> None: ...


def key_part(text: str) -> str:
    """Return a text as part of a key; other characters are percent-encoded."""
    return quote(text, safe=_PLAIN)


def text_of(part: str) -> str:
    return unquote(part)
