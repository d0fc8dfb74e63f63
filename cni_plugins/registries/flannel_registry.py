"""Keeps what hosts publish of one network where flanneld does, so that its hosts and ours reach each other.

    <prefix>/config, subnets/…                 flannel's (flannel_layout.py)
    <prefix>/cni-plugins/v1/<network>/…        ours, where flanneld looks for nothing: owners, vteps, live

A host of ours holds its subnet by a key without lease, which flanneld calls a reservation: it does not expire
while the host is away. As for flanneld, a host is its public address: a subnet of flannel's with an address
of this host is this host's, from before it was converted. No other of flannel's is ever taken.
"""

import hashlib
import socket
from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network
from itertools import chain
from typing import Any

from cni_plugins.contract.model import load
from cni_plugins.protocol.fields import Conf
from cni_plugins.registries import flannel_layout as layout
from cni_plugins.registries.flannel_layout import Entry, FlannelConfig
from cni_plugins.registries.network_registry import (
    VERSION,
    Member,
    NetworkRegistry,
    Part,
    Refused,
    TakenByOther,
)
from cni_plugins.registries.store import ABSENT, Change, Feed, Item, Store, Unusable, key_part
from cni_plugins.vxlan.config import VxlanConfig

_SUBNETS = "subnets"
_ATTEMPTS = 64  # of one transaction, while others write the same keys
_HASH = 8  # hexadecimal digits
_NOBODY = Member("nobody, as flannel's config leaves it out", "")


class Mismatch(Refused):
    """The vxlan config and flannel's differ, so that their hosts would not reach each other."""


class FlannelRegistry(NetworkRegistry):
    """One flannel network in a store. Every method raises StoreFailed, too, and Mismatch.

    :param conf: the vxlan plugin's config, which must agree with flannel's; None: it is not compared.
    :ivar ignored: by key, why a subnet of the last list is no peer.
    """

    def __init__(self, store: Store, network: str, conf: Conf | None = None) -> None:
        super().__init__(store, network)
        self._base = f"cni-plugins/{VERSION}/{key_part(network)}"
        self._network = network
        self._ours = None if conf is None else load(VxlanConfig, conf)
        self.ignored: dict[str, str] = {}

    # ------------------------------------------------------------------------------------------- reading

    def config(self) -> FlannelConfig:
        """Return flannel's config.

        :raises Unusable: when there is none, or one that cannot be read.
        :raises Mismatch: when it differs from ours.
        """
        found = self._store.read("config")
        if found is None:
            raise Unusable("there is no flannel network: the key config is missing below the prefix")
        try:
            config = layout.parse_config(found.value)
        except ValueError as err:
            raise Unusable(f"flannel's key config cannot be used: {err}") from err
        differing = list(layout.differences(config, self._ours, self._network)) if self._ours else []
        if differing:
            raise Mismatch(f"the network's config is not flannel's: {'; '.join(differing)}")
        return config

    def follow(self) -> Feed:
        """Follow the records, in the form that NetworkRegistry's feed has."""
        vni = self.config().vni
        return _Translated(self._store.follow(_SUBNETS), lambda values: self._records(values, vni))

    def records(self) -> dict[str, bytes]:
        """Return all records as they are now."""
        return self._records(_values(self._store.children(_SUBNETS)), self.config().vni)

    def is_confirmed(self) -> bool:
        """Say whether flannel's config and our canary key are there."""
        return self._store.read("config") is not None and super().is_confirmed()

    def parts(self) -> list[Part]:
        """Return every subnet; owners that did not write it themselves, such as flannel, have no number."""
        return [Part(str(one.subnet), one.owner) for one, _ in self._entries()]

    def live(self) -> frozenset[str]:
        """Return the nodes that are there; of flannel's hosts only flanneld knows, so they count as such."""
        foreign = (entry.owner.node for entry, _ in self._entries() if not entry.host)
        return super().live() | frozenset(foreign)

    def _records(self, values: Mapping[str, bytes], vni: int) -> dict[str, bytes]:
        listed, broken = layout.entries(values)
        found, others = layout.records(listed, vni)
        self.ignored = broken | others
        return found

    def _entries(self) -> list[tuple[Entry, Item]]:
        """Return the subnets in use; one that cannot be read is nobody's whom we know."""
        children = self._store.children(_SUBNETS)
        return [(entry, children[entry.name]) for entry in layout.in_use(_values(children))]

    # ------------------------------------------------------------------------------------------- writing

    def join(self, me: Member, record: Mapping[str, Any]) -> None:
        """Publish this host's record, which has `vtep` and one subnet; nothing is written if it is there.

        :raises TakenByOther: when another host has this name, address or subnet.
        """
        config = self.config()
        address, subnet = _place(record)
        value = layout.lease_attrs(me, record, config.vni)
        for _ in range(_ATTEMPTS):
            changes = [*self._guards(me, str(address)), *self._publication(me, address, subnet, value)]
            if not changes or self._store.commit(changes):
                return
        raise TakenByOther(f"the keys of node {me.node} keep changing")

    def _publication(
        self, me: Member, address: IPv4Address, subnet: IPv4Network, value: bytes
    ) -> Iterable[Change]:
        """Yield what makes `value` the only subnet that flanneld sees of this host."""
        there = self._entries()
        others = [entry for entry, _ in there if not _is_of(entry, me) and not _is_former(entry, address)]
        _require_free(subnet, others)
        target = next((found for found in there if found[0].subnet == subnet), None)
        if target is None:
            yield Change(_key(layout.key_of(subnet)), value, ABSENT)
        elif target[1].value != value:
            _require_stopped(target[0])
            yield Change(_key(target[0].name), value, target[1].version)
        for entry, item in there:
            if entry.address == address and entry.subnet != subnet:
                _require_stopped(entry)
                yield Change(_key(entry.name), None, item.version)

    def adopt(self, me: Member, vtep: str) -> None:
        """Keep the subnet that flanneld had on this host, or that was exported for it.

        Nothing changes for other hosts, but the key has no lease any more.

        :raises Refused: when flannel is still there.
        """
        config = self.config()
        address = IPv4Address(vtep)
        for entry, item in self._entries():
            if _is_former(entry, address) and config.fits(entry.subnet) and entry.vni == config.vni:
                _require_stopped(entry)
                self._store.commit([Change(_key(entry.name), layout.taken_over(entry, me), item.version)])

    def claim(self, me: Member, candidates: Iterable[str], wanted: int = 1) -> list[str]:
        """Return subnets of this host: those it has, and free ones that flannel's config allows.

        :param candidates: CIDRs, the preferred one first; others follow if these are not enough.
        :raises AllTaken: when there are not enough.
        """
        others = map(str, self.config().subnets(me.node))
        return super().claim(me, chain(candidates, others), wanted)

    def own(self, me: Member, cidr: str) -> Member | None:
        """Make this host the owner of a subnet; return another host that is, or whose subnet overlaps."""
        try:
            wanted = IPv4Network(cidr)
        except ValueError:
            return _NOBODY
        if not self.config().fits(wanted):
            return _NOBODY
        for _ in range(_ATTEMPTS):
            found = next((one for one, _ in self._entries() if one.subnet.overlaps(wanted)), None)
            if found is not None:
                return None if _is_of(found, me) and found.subnet == wanted else found.owner
            if self._store.commit([Change(_key(layout.key_of(wanted)), layout.reservation(me), ABSENT)]):
                return None
        raise TakenByOther(f"{cidr} keeps changing its owner")

    def disown(self, me: Member, cidr: str) -> None:
        """Give a subnet back, if it is this host's."""
        for entry, item in self._entries():
            if str(entry.subnet) == cidr and _is_of(entry, me):
                self._store.commit([Change(_key(entry.name), None, item.version)])

    def release(self, node: str) -> bool:
        """Remove everything of a node, by its name or, of a flannel host, its public address.

        A flanneld that still runs there ends when its subnet is removed.
        """
        names = [(entry, item) for entry, item in self._entries() if entry.owner.node == node]
        for entry, item in names:
            self._store.commit([Change(_key(entry.name), None, item.version)])
        return super().release(node) or bool(names)

    def export(self, record: Mapping[str, Any], *, dry_run: bool = False) -> str:
        """Write the subnet of a host that does not do so itself; return what was done, empty: nothing.

        :raises TakenByOther: when another host has the subnet.
        """
        config = self.config()
        address, subnet = _place(record)
        node = Member(str(record.get("node") or address), "")
        value = layout.lease_attrs(node, record, config.vni)
        if not config.fits(subnet):
            raise Mismatch(f"subnet {subnet} of node {node.node} is none of flannel's {config.network}")
        for _ in range(_ATTEMPTS):
            there = self._entries()
            _require_free(subnet, [entry for entry, _ in there if entry.address != address])
            found = next((one for one in there if one[0].subnet == subnet), None)
            if found is not None and (found[0].host or found[1].value == value):
                return ""
            name, version = (
                (layout.key_of(subnet), ABSENT) if found is None else (found[0].name, found[1].version)
            )
            if dry_run or self._store.commit([Change(_key(name), value, version)]):
                return f"{'added' if found is None else 'replaced'} {_SUBNETS}/{name}"
        raise TakenByOther(f"{subnet} keeps changing its owner")


class _Translated:
    """A feed of flannel's subnets with the names and values of ours."""

    def __init__(self, feed: Feed, records: Callable[[Mapping[str, bytes]], dict[str, bytes]]) -> None:
        self._feed, self._records = feed, records
        self._last: dict[str, bytes] | None = None

    def next(self, timeout: float) -> Mapping[str, bytes] | None:
        """Return the records if one has changed; a change of anything else counts as none."""
        values = self._feed.next(timeout)
        if values is None:
            return None
        found = {
            f"{key_part(node)};{hashlib.sha512(record).hexdigest()[:_HASH]}": record
            for node, record in self._records(values).items()
        }
        if found == self._last:
            return None
        self._last = found
        return found

    def close(self) -> None:
        self._feed.close()


def _is_former(entry: Entry, address: IPv4Address) -> bool:
    """Say whether flanneld had this subnet on the host with an address, or it was exported for that host."""
    return not entry.host and entry.kind == layout.VXLAN and entry.address == address


def _require_stopped(entry: Entry) -> None:
    """:raises Refused: when this host would take what flannel still uses on it."""
    link = f"flannel.{entry.vni}"
    if not entry.node and _has_link(link):
        raise Refused(
            f"flannel is still here, with subnet {entry.subnet}: stop flanneld, and delete link {link}"
        )


def _has_link(name: str) -> bool:
    try:
        return bool(socket.if_nametoindex(name))
    except OSError:
        return False


def _values(children: Mapping[str, Item]) -> dict[str, bytes]:
    return {name: item.value for name, item in children.items()}


def _is_of(entry: Entry, me: Member) -> bool:
    return bool(entry.host) and entry.owner == me


def _place(record: Mapping[str, Any]) -> tuple[IPv4Address, IPv4Network]:
    """Return the underlay address and the subnet of a record.

    :raises Mismatch: when flannel could not have them.
    """
    listed: list[str] = []
    for key in ("subnet", "subnets"):
        value = record.get(key) or []
        listed += [str(value)] if isinstance(value, str) else map(str, value)
    try:
        [subnet] = map(IPv4Network, listed)
        return IPv4Address(str(record["vtep"])), subnet
    except ValueError:
        at = ", ".join(listed) or "no subnet"
        raise Mismatch(
            f"flannel's hosts have an underlay address and one subnet of IPv4; "
            f"this one has {record['vtep']}, {at}"
        ) from None


def _require_free(subnet: IPv4Network, others: Iterable[Entry]) -> None:
    """:raises TakenByOther: when one of them has addresses of this subnet."""
    for entry in others:
        if entry.subnet.overlaps(subnet):
            raise TakenByOther(f"node {entry.owner.node} ({entry.address}) has subnet {entry.subnet}")


def _key(name: str) -> str:
    return f"{_SUBNETS}/{name}"
