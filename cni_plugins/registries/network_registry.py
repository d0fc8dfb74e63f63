"""Keeps what hosts publish of one network in a store: records, ownership, liveness.

    <prefix>/v1/<network>/canary               there once a host has joined: an empty list can be believed
    <prefix>/v1/<network>/nodes/<node>;<hash>  the host's record; the hash is that of the value
    <prefix>/v1/<network>/owners/<node>        {"host": …}: whose name it is
    <prefix>/v1/<network>/vteps/<address>      {"node": …, "host": …}: whose underlay address
    <prefix>/v1/<network>/parts/<cidr>         {"node": …, "host": …}: whose subnet or block
    <prefix>/v1/<network>/live/<node>          disappears when the host is away; nothing else depends on it

All but the last stay until they are released: a host that is away keeps its subnet. A host is known by a
random number of its own, so that two with the same node name find out.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from cni_plugins.registries.store import ABSENT, Change, Feed, Item, Store, key_part, text_of

VERSION = "v1"
_CANARY = b"cni-plugins"
_ATTEMPTS = 64  # of one transaction, while others write the same keys
_HASH = 8  # hexadecimal digits
_MOST_CHANGES = 60


class Refused(Exception):
    """The host cannot be in the network as it is configured; only an operator can change that."""


class TakenByOther(Refused):
    """Another host has the name, address or subnet; the message names it."""


class AllTaken(Refused):
    """Every candidate belongs to some host."""


class Member(NamedTuple):
    """Who we are.

    :param host: random number of this installation, as text; see above.
    """

    node: str
    host: str


_NOBODY = Member("?", "?")


class Part(NamedTuple):
    """A subnet or block, and whose it is."""

    cidr: str
    owner: Member


class NetworkRegistry:
    """One network in a store. Every method raises StoreFailed, too."""

    def __init__(self, store: Store, network: str) -> None:
        self._store = store
        self._base = f"{VERSION}/{key_part(network)}"

    # ------------------------------------------------------------------------------------------- reading

    def follow(self) -> Feed:
        """Follow the records; `records_of` reads what the feed returns."""
        return self._store.follow(self._key("nodes"))

    def records(self) -> dict[str, bytes]:
        """Return all records as they are now."""
        return records_of({name: it.value for name, it in self._store.children(self._key("nodes")).items()})

    def is_confirmed(self) -> bool:
        """Say whether the network's canary key is there, so that a short list is not one of an emptied store.

        :raises StoreFailed: also when the token may not read it.
        """
        return self._store.read(self._key("canary")) is not None

    def parts(self) -> list[Part]:
        """Return every subnet and block that has an owner."""
        found = self._store.children(self._key("parts"))
        return [Part(_cidr(name), _member(item)) for name, item in found.items()]

    def live(self) -> frozenset[str]:
        """Return the nodes that are there."""
        return frozenset(map(text_of, self._store.children(self._key("live"))))

    # ------------------------------------------------------------------------------------------- writing

    def join(self, me: Member, record: Mapping[str, Any]) -> None:
        """Publish this host's record, which has `vtep`; nothing is written if it is there already.

        :raises TakenByOther: when another host has this name or address.
        """
        text = json.dumps(record, sort_keys=True, separators=(",", ":")).encode()
        name = f"{key_part(me.node)};{hashlib.sha512(text).hexdigest()[:_HASH]}"
        vtep = str(record["vtep"])
        for _ in range(_ATTEMPTS):
            changes = [*self._guards(me, vtep)]
            nodes = self._store.children(self._key("nodes"))
            mine = {key: item for key, item in nodes.items() if node_of(key) == me.node}
            if name not in mine:
                changes.append(Change(self._key("nodes", name), text, ABSENT))
            changes += [
                Change(self._key("nodes", key), None, item.version)
                for key, item in mine.items()
                if key != name
            ]
            if not changes or self._store.commit(changes):
                return
        raise TakenByOther(f"the keys of node {me.node} keep changing")

    def enter(self, me: Member) -> None:
        """Take this host's node name, without a record: for one that has blocks and nothing else.

        :raises TakenByOther: when another host has the name.
        """
        for _ in range(_ATTEMPTS):
            changes = [*self._guards_of_name(me)]
            if not changes or self._store.commit(changes):
                return
        raise TakenByOther(f"the keys of node {me.node} keep changing")

    def require_free(self, me: Member, vtep: str) -> None:
        """Write nothing, and return if this host may have its name and address, or has them.

        :raises TakenByOther: when another host has one of them.
        """
        list(self._guards(me, vtep))

    def adopt(self, me: Member, vtep: str) -> None:
        """Take over what is this host's by its address alone; in this layout nothing is."""

    def _guards(self, me: Member, vtep: str) -> Iterable[Change]:
        """Yield the missing keys that say whose name and address these are; former addresses are removed."""
        yield from self._guards_of_name(me)
        vteps = self._store.children(self._key("vteps"))
        held = vteps.get(key_part(vtep))
        if held is None:
            yield Change(self._key("vteps", key_part(vtep)), _owner_text(me), ABSENT)
        elif _member(held) != me:
            raise TakenByOther(f"node {_member(held).node} has underlay address {vtep}")
        for name, item in vteps.items():
            if _member(item) == me and name != key_part(vtep):
                yield Change(self._key("vteps", name), None, item.version)

    def _guards_of_name(self, me: Member) -> Iterable[Change]:
        """Yield the missing keys that say whose name this is, and that a host has joined."""
        if self._store.read(self._key("canary")) is None:
            yield Change(self._key("canary"), _CANARY)
        owner = self._store.read(self._key("owners", key_part(me.node)))
        if owner is None:
            yield Change(self._key("owners", key_part(me.node)), _owner_text(me), ABSENT)
        elif _member(owner) == _NOBODY:
            raise TakenByOther(f"the key of node {me.node}'s owner has a value that no host has written")
        elif _member(owner).host != me.host:
            raise TakenByOther(
                f"another host is node {me.node} already: give this one another name (backend.node), "
                f"or, if it was reinstalled, run cnictl overlay release {me.node}"
            )

    def claim(self, me: Member, candidates: Iterable[str], wanted: int = 1) -> list[str]:
        """Return subnets or blocks of this host: those it has, and free candidates until there are `wanted`.

        :param candidates: CIDRs, the preferred one first.
        :raises AllTaken: when there are not enough.
        """
        remaining = iter(candidates)
        parts = {part.cidr: part.owner for part in self.parts()}
        mine = [cidr for cidr, owner in parts.items() if owner == me]
        while len(mine) < wanted:
            cidr = next((one for one in remaining if one not in parts), None)
            if cidr is None:
                raise AllTaken(f"node {me.node} needs {wanted}, and has {', '.join(mine) or 'none'}")
            if self.own(me, cidr) is None:
                mine.append(cidr)
        return mine

    def own(self, me: Member, cidr: str) -> Member | None:
        """Make this host the owner of a subnet or block; return another host that is."""
        key = self._key("parts", _name(cidr))
        for _ in range(_ATTEMPTS):
            if self._store.commit([Change(key, _owner_text(me), ABSENT)]):
                return None
            found = self._store.read(key)
            if found is not None:
                owner = _member(found)
                return None if owner == me else owner
        raise TakenByOther(f"{cidr} keeps changing its owner")

    def disown(self, me: Member, cidr: str) -> None:
        """Give a subnet or block back, if it is this host's."""
        key = self._key("parts", _name(cidr))
        found = self._store.read(key)
        if found is not None and _member(found) == me:
            self._store.commit([Change(key, None, found.version)])

    def release(self, node: str) -> bool:
        """Remove everything of a node, which may be another host; False: there was nothing."""
        changes = [
            Change(self._key("nodes", name), None)
            for name in self._store.children(self._key("nodes"))
            if node_of(name) == node
        ]
        for folder in ("vteps", "parts"):
            for name, item in self._store.children(self._key(folder)).items():
                if _member(item).node == node:
                    changes.append(Change(self._key(folder, name), None, item.version))
        keys = [
            self._key(folder, key_part(node)) for folder in ("live", "owners")
        ]  # until then the name is taken
        changes += [Change(key, None) for key in keys if self._store.read(key) is not None]
        for start in range(0, len(changes), _MOST_CHANGES):
            self._store.commit(changes[start : start + _MOST_CHANGES])
        return bool(changes)

    def show_life(self, me: Member, seconds: float) -> None:
        """Say that this host is there, for so long."""
        self._store.hold(self._key("live", key_part(me.node)), me.host.encode(), seconds)

    def _key(self, *parts: str) -> str:
        return "/".join((self._base, *parts))


def records_of(children: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the records by node."""
    return {node_of(name): value for name, value in children.items()}


def node_of(name: str) -> str:
    """Return the node of a record's key; the hash after its last `;` has none."""
    return text_of(name.rpartition(";")[0])


def _name(cidr: str) -> str:
    return cidr.replace("/", "-")


def _cidr(name: str) -> str:
    return "/".join(name.rsplit("-", 1))


def _owner_text(me: Member) -> bytes:
    return json.dumps({"host": me.host, "node": me.node}, sort_keys=True).encode()


def _member(item: Item) -> Member:
    """Return who a key says it belongs to; whoever it is, not us, if the value is not ours to read."""
    try:
        found = json.loads(item.value)
        node, host = found["node"], found["host"]
    except (ValueError, TypeError, KeyError):
        return _NOBODY
    return Member(node, host) if isinstance(node, str) and isinstance(host, str) else _NOBODY
