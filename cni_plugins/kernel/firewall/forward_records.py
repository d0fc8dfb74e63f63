"""Records which attachment an address belongs to, and which backend lets its packets through.

A rule of iptables and a source of firewalld have no room for an owner that the reference's DEL would still
recognise. So each backend has a set of addresses in our nf_tables table, whose elements name the owner: DEL
finds its addresses there, also without prevResult, and knows whether an address has a new owner by now. No
host link is recorded with it: its absence must not make another's DEL remove a record before the rules. The
rules of these sets are in a chain that nothing jumps to; that of the nftables backend is in forward_rules.
"""

from collections.abc import Callable, Iterable
from ipaddress import ip_address

from cni_plugins.kernel.firewall import attachment_rules, owner_index, read
from cni_plugins.kernel.firewall.attachment_rules import Item, Objects, Rule
from cni_plugins.kernel.firewall.nft_table import Chain, Set
from cni_plugins.kernel.firewall.read import Element
from cni_plugins.kernel.netlink import nf_tables as wire
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import Owner, record_set
from cni_plugins.protocol.fields import IPAddress

NFTABLES, IPTABLES, FIREWALLD = "nftables", "iptables", "firewalld"
BACKENDS = (NFTABLES, IPTABLES, FIREWALLD)
VERSIONS = (4, 6)
_CHAIN = Chain("firewall_records")


def usable(session: Session) -> bool:
    """Say whether this kernel can keep records; without nf_tables, none are kept."""
    return read.has_netfilter(session) and read.usable(session)


def ensure(session: Session, backend: str, addresses: tuple[IPAddress, ...], owner: Owner) -> None:
    """Record the addresses; one that another attachment had belongs to this one from now on."""
    if addresses and usable(session):
        attachment_rules.ensure(session, _records(backend, addresses), owner)


def addresses_set(backend: str, version: int) -> Set:
    name = record_set(backend, version)
    comment = f"addresses that {backend} lets through"
    return Set(name, wire.Layout.TYPE[version], wire.Layout.LENGTH[version], comment)


def elements(backend: str, addresses: Iterable[IPAddress]) -> tuple[Item, ...]:
    return tuple(Item(record_set(backend, item.version), item.packed) for item in addresses)


def _records(backend: str, addresses: tuple[IPAddress, ...]) -> Objects:
    versions = sorted({address.version for address in addresses})
    rules = tuple(Rule(_CHAIN, (addresses_set(backend, item),), _of(backend, item)) for item in versions)
    return Objects(wire.INET, rules, elements(backend, addresses))


def _of(backend: str, version: int) -> Callable[[], bytes]:
    return lambda: wire.is_family(version) + wire.source_in(version, record_set(backend, version))


def holder(session: Session, backend: str, address: IPAddress) -> str:
    """Return the comment of the record of an address, empty if there is none."""
    found = element_at(session, record_set(backend, address.version), address.packed)
    return found.comment if found else ""


def element_at(session: Session, set_name: str, key: bytes) -> Element | None:
    """Return an element of a set, without reading the others."""
    return read.elements_at(session, wire.INET, set_name, [key])[0]


def differ(
    session: Session, backend: str, addresses: Iterable[IPAddress], owner: Owner, *, expected: bool
) -> str:
    """Say which address is recorded for another attachment or, where one is expected, for none."""
    for address in addresses if usable(session) else ():
        comment = holder(session, backend, address)
        if comment and not owner.owns(comment):
            return f"firewall: address {address} belongs to another attachment"
        if expected and not comment:
            return f"firewall: the element of set {record_set(backend, address.version)} is missing"
    return ""


def backend_of(session: Session, owner: Owner, addresses: Iterable[IPAddress]) -> str:
    """Return the backend by which an attachment's addresses are recorded, empty if none is."""
    for address in addresses if usable(session) else ():
        for backend in BACKENDS:
            if owner.owns(holder(session, backend, address)):
                return backend
    return ""


def selected(session: Session, backend: str, is_selected: Callable[[str], bool]) -> list[IPAddress]:
    """Return the recorded addresses of one backend whose comment is selected; reads all records."""
    return [
        ip_address(item.key)
        for version in VERSIONS
        for item in read.elements(session, wire.INET, record_set(backend, version))
        if is_selected(item.comment)
    ]


def owned(session: Session, owner: Owner) -> dict[str, list[IPAddress]]:
    """Return an attachment's addresses by backend, without reading others where there is an index."""
    entries = owner_index.entries(session, wire.INET, owner.holder)
    if not all(entry.key for entry in entries) or not owner_index.exists(session, wire.INET):
        return {backend: selected(session, backend, owner.owns) for backend in BACKENDS}
    found = owner_index.present(session, wire.INET, entries, owner.holder)
    names = {record_set(backend, version): backend for backend in BACKENDS for version in VERSIONS}
    result: dict[str, list[IPAddress]] = {backend: [] for backend in BACKENDS}
    for item in found:
        if item.set_name in names:
            result[names[item.set_name]].append(ip_address(item.key))
    return result
