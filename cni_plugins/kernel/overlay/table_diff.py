"""Computes the difference between a table and its wanted content, as messages or text, and sends messages.

Sends many messages per datagram, of which only the last is acknowledged.
"""

import struct
from collections.abc import Callable, Iterator
from functools import partial
from typing import Generic, NamedTuple, TypeVar

from cni_plugins.errors import KernelRefused
from cni_plugins.kernel.netlink.socket import NLM_F_ACK, Refused, is_absent
from cni_plugins.kernel.overlay.tables import Found, Table
from cni_plugins.kernel.session.session import Session
from cni_plugins.steps.step import HOST

# Messages per datagram: even if all are refused, the answers fit into the default receive buffer.
_CHUNK = 128
_FLAGS = struct.Struct("=H")
_FLAGS_AT = 6  # in struct nlmsghdr

V = TypeVar("V")
Named = tuple[bytearray, Callable[[], str]]  # a message, and a description of its entry


class Difference(NamedTuple, Generic[V]):
    """The difference between a table and its wanted content."""

    table: Table[V]
    put: list[tuple[bytes, V]]
    gone: list[tuple[bytes, Found[V]]]

    @property
    def is_any(self) -> bool:
        return bool(self.put or self.gone or self.table.clashing)

    def first(self) -> list[Named]:
        """Return removals of entries that prevent others from being set."""
        present, in_place = self.table.present, self.table.in_place
        both = [(key, present[key], wanted) for key, wanted in self.put if key in present]
        outdated = [(key, found) for key, found, wanted in both if not in_place(found.value, wanted)]
        return [self._removal(*item) for item in (*self.table.clashing, *outdated)]

    def sets(self) -> list[Named]:
        table = self.table
        return [(table.put(key, value), partial(table.named, key, value)) for key, value in self.put]

    def removals(self) -> list[Named]:
        return [self._removal(*item) for item in self.gone]

    def _removal(self, key: bytes, found: Found[V]) -> Named:
        return self.table.remove(found.data), partial(self.table.named, key, found.value)

    def phrases(self) -> Iterator[str]:
        named, present = self.table.named, self.table.present
        for key, wanted in self.put:
            found = present.get(key)
            state = "is missing" if found is None else self.table.told(found.value, wanted)
            yield f"{named(key, wanted)} {state}"
        for key, stale in (*self.gone, *self.table.clashing):
            yield f"{named(key, stale.value)} is stale"


def compared(
    table: Table[V], wanted: dict[bytes, V], will_do: Callable[[bytes, V, V], bool] = lambda *_: False
) -> Difference[V]:
    """Return the difference between a table and the wanted entries.

    :param will_do: whether an entry may stay although its value differs from the wanted one.
    """
    present = table.present
    put = []
    for key, value in wanted.items():
        found = present.get(key)
        if found is None or (found.value != value and not will_do(key, found.value, value)):
            put.append((key, value))
    return Difference(table, put, [item for item in present.items() if item[0] not in wanted])


def set_all(session: Session, changes: list[Named]) -> None:
    """Set entries.

    :raises KernelRefused: naming the first entry that was refused.
    """
    for start in range(0, len(changes), _CHUNK):
        chunk = changes[start : start + _CHUNK]
        try:
            _send(session, chunk)
        except Refused as err:
            raise _refusal("set", chunk[err.position], err) from err


def remove_all(session: Session, changes: list[Named]) -> None:
    """Remove entries; they may be absent.

    :raises KernelRefused: naming the first entry that was refused.
    """
    for start in range(0, len(changes), _CHUNK):
        chunk = changes[start : start + _CHUNK]
        while chunk:
            try:
                _send(session, chunk)
            except Refused as err:
                if not is_absent(err):
                    raise _refusal("removed", chunk[err.position], err) from err
                # Only the first refusal is known, so all messages after it are sent again.
                chunk = chunk[err.position + 1 :]
            else:
                break


def _send(session: Session, chunk: list[Named]) -> None:
    """Send messages in one datagram; the last requests an acknowledgement, others only report refusals."""
    messages = [message for message, _ in chunk]
    (flags,) = _FLAGS.unpack_from(messages[-1], _FLAGS_AT)
    _FLAGS.pack_into(messages[-1], _FLAGS_AT, flags | NLM_F_ACK)
    session.rtnl(HOST).call(*messages)


def _refusal(verb: str, change: Named, err: Refused) -> KernelRefused:
    text = f"{change[1]()} could not be {verb}: {err.strerror}"
    return KernelRefused(text, f"errno {err.errno}" + (f", {err.hint}" if err.hint else ""), err.errno or 0)
