"""Sifts records that come from a store: what cannot be used is left out and named, the others stay.

Whoever may write to the store may be wrong or hostile. One bad record must never hide the others, and one
that is new must never displace this host, or a host that is known already.
"""

import json
from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from cni_plugins.contract.model import load
from cni_plugins.errors import CniError
from cni_plugins.protocol import json_text
from cni_plugins.protocol.fields import IPNetwork, shown
from cni_plugins.vxlan.identity import vtep_mac
from cni_plugins.vxlan.records import MOST_PEERS, Extent, Record, RecordModel, faults

_LARGEST = 16 << 10  # bytes of one record
# Keys of a record in a snapshot: `host` and `epoch` are for keepers, and others for later releases.
_KEPT = ("v", "node", "vtep", "port", "mac", "subnet", "subnets", "block", "blocks", "mtu")


class Sound(NamedTuple):
    """A record that can be used.

    :param text: its JSON in a snapshot.
    """

    record: Record
    text: str


class Sifted(NamedTuple):
    """:param faults: a sentence for each record that was left out."""

    records: dict[str, Sound]
    faults: tuple[str, ...] = ()


class Sieve:
    """Remembers what each record led to, as of ten thousand few change at once."""

    def __init__(self, extent: Extent) -> None:
        self._extent = extent
        self._known: dict[str, tuple[bytes, Sound | str]] = {}

    def sift(self, found: Mapping[str, bytes], own: Sound, before: Mapping[str, str]) -> Sifted:
        """Return the records that can be used together.

        :param own: this host's, which takes the place of a listed one.
        :param before: the texts that the last snapshot has, by node.
        """
        node = own.record.node
        read = {name: self._read(name, value) for name, value in found.items() if name != node}
        self._known = {name: self._known[name] for name in read}
        sound = {name: one for name, one in read.items() if isinstance(one, Sound)}
        problems = [f"{problem}" for problem in read.values() if isinstance(problem, str)]
        order = sorted(sound, key=lambda name: (before.get(name) != sound[name].text, name))
        together = _Together(own.record, self._extent)
        kept = {node: own}
        for name in order:
            conflict = together.conflict(sound[name].record)
            if not conflict and len(kept) >= MOST_PEERS:
                conflict = f"there are more than {MOST_PEERS} peers"
            if conflict:
                problems.append(f"record of node {shown(name)} is left out: {conflict}")
                continue
            together.add(sound[name].record)
            kept[name] = sound[name]
        return Sifted({name: kept[name] for name in sorted(kept)}, tuple(sorted(problems)))

    def _read(self, node: str, value: bytes) -> Sound | str:
        known = self._known.get(node)
        if known is None or known[0] != value:
            known = self._known[node] = (value, _checked(node, value, self._extent))
        return known[1]


def _checked(node: str, value: bytes, extent: Extent) -> Sound | str:
    subject = f"record of node {shown(node)} is left out"
    try:
        return sound(node, _object(value), extent)
    except ValueError as err:
        return f"{subject}: {err}"
    except CniError as err:
        return f"{subject}: {err.details or err.msg}"


def sound(node: str, document: Mapping[str, object], extent: Extent) -> Sound:
    """Return a record that fits the network.

    :raises ValueError: when it does not.
    :raises CniError: when it is not valid.
    """
    kept = {key: document[key] for key in _KEPT if key in document}
    model = load(RecordModel, kept)
    record = model.record()
    if record.node != node:
        raise ValueError(f"it says that it is of node {shown(record.node)}")
    fault = next(faults([model], extent), "")
    if fault:
        raise ValueError(fault)
    return Sound(record, json.dumps(kept, separators=(",", ":"), sort_keys=True))


def _object(value: bytes) -> dict[str, object]:
    if len(value) > _LARGEST:
        raise ValueError(f"it has {len(value)} bytes")
    found = json_text.load(value)
    if not isinstance(found, dict):
        raise ValueError("it is not an object")  # noqa: TRY004 (one kind of error for what a store returns)
    return found


class _Together:
    """The records accepted so far, of which no two may have the same VTEP, MAC address, or addresses."""

    def __init__(self, own: Record, extent: Extent) -> None:
        self._extent = extent
        self._own = own
        self._has_parts = bool(extent.parts(own))
        self._vteps: dict[object, str] = {}
        self._macs: dict[str, str] = {}
        self._parts: list[tuple[int, int, int, str]] = []
        self.add(own)

    def add(self, record: Record) -> None:
        self._vteps[record.vtep] = record.node
        self._macs[record.mac or vtep_mac(record.vtep)] = record.node
        for part in self._extent.parts(record):
            insort(self._parts, (*_bounds(part), record.node))

    def conflict(self, record: Record) -> str:
        """Return a sentence if a record cannot be used beside the others, empty if it can."""
        return next(self._conflicts(record), "")

    def _conflicts(self, record: Record) -> Iterator[str]:
        if record.vtep.version != self._own.vtep.version:
            yield f"vtep {record.vtep} is not of the family of {self._own.vtep}"
        if record.vtep in self._vteps:
            yield f"vtep {record.vtep} is that of {self._whose(self._vteps[record.vtep])}"
        mac = record.mac or vtep_mac(record.vtep)
        if mac in self._macs:
            yield f"mac {mac} is that of {self._whose(self._macs[mac])}"
        parts, word = self._extent.parts(record), self._extent.word
        if bool(parts) != self._has_parts:
            yield f"it has {'a' if parts else 'no'} {word}, and the others have {'none' if parts else 'one'}"
        for number, part in enumerate(parts):
            other = self._holder(part)
            if other:
                yield f"{word} {part} overlaps that of {self._whose(other)}"
            if any(part.version == more.version and part.overlaps(more) for more in parts[:number]):
                yield f"{word} {part} overlaps another of it"

    def _whose(self, node: str) -> str:
        return "this host" if node == self._own.node else f"node {shown(node)}"

    def _holder(self, part: IPNetwork) -> str:
        """Return a node that has addresses of a subnet or block: accepted ones do not overlap each other."""
        version, first, last = _bounds(part)
        at = bisect_left(self._parts, (version, first, last, ""))
        for place in (at - 1, at):
            if 0 <= place < len(self._parts):
                of, low, high, node = self._parts[place]
                if of == version and low <= last and first <= high:
                    return node
        return ""


def _bounds(part: IPNetwork) -> tuple[int, int, int]:
    return part.version, int(part.network_address), int(part.broadcast_address)
