"""Parses peer records, which hosts of an overlay publish about themselves, and checks them together.

A record lists no containers. The addresses it lists belong to the host permanently, so peers need no update
when a container is added or deleted.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from ipaddress import ip_address
from itertools import pairwise
from typing import Annotated, NamedTuple, Self, TypeVar, cast

from pydantic import BeforeValidator, Field, PlainValidator, model_validator

from cni_plugins.contract.config_fields import Mac
from cni_plugins.contract.model import Address, ClosedModel, empty
from cni_plugins.protocol.fields import IPAddress, IPNetwork, parse_cidr, shown
from cni_plugins.vxlan.identity import vtep_mac

MOST_PEERS = 10_000
_SMALLEST_MTU, _LARGEST_MTU = 576, 65535  # RFC 791, 3.2: every host accepts 576 bytes
LONGEST_NAME = 253  # RFC 1035, 2.3.4
_BROADCAST = ip_address("255.255.255.255")
_MOST_KEPT = 16  # results for each list of records

T = TypeVar("T")


class Record(NamedTuple):
    """One host.

    :param subnets: mode l3: at most one of each family; empty if peers are found by ARP and ND.
    :param blocks: mode l2: parts of the stretched subnet whose addresses only this host assigns.
    :param mac: MAC address of its VXLAN link, empty: derived from the VTEP address.
    :param mtu: MTU of its underlay link, 0: not published.
    """

    node: str
    vtep: IPAddress
    subnets: tuple[IPNetwork, ...] = ()
    blocks: tuple[IPNetwork, ...] = ()
    mac: str = ""
    mtu: int = 0


class Records(tuple[Record, ...]):  # noqa: SLOT001 (what is computed of it is kept in its dictionary)
    """The records of all hosts, with what is computed of them once: a worker keeps a list while it is in use.

    :ivar memo: what was computed of the list with a host's own values; see `kept`.
    """

    memo: dict[object, object]

    @cached_property
    def by_vtep(self) -> Mapping[IPAddress, Record]:
        return {record.vtep: record for record in reversed(self)}

    @cached_property
    def by_node(self) -> Mapping[str, Record]:
        return {record.node: record for record in reversed(self)}

    @cached_property
    def is_bare(self) -> bool:
        """Whether only VTEPs are listed."""
        return not any(record.subnets or record.blocks for record in self)

    @cached_property
    def parts(self) -> tuple[IPNetwork, ...]:
        """The subnets and blocks of all hosts."""
        return tuple(part for record in self for part in (*record.subnets, *record.blocks))

    @cached_property
    def smallest_mtu(self) -> int:
        """0: no record has an MTU."""
        return min((record.mtu for record in self if record.mtu), default=0)

    def without(self, vtep: IPAddress) -> tuple[Record, ...]:
        return self.kept(("without", vtep), lambda: tuple(record for record in self if record.vtep != vtep))

    def kept(self, key: object, compute: Callable[[], T]) -> T:
        """Return what was computed under this key, which contains all that the computation depends on."""
        memo: dict[object, object] = self.__dict__.setdefault("memo", {})
        if key not in memo:
            if len(memo) >= _MOST_KEPT:
                del memo[next(iter(memo))]
            memo[key] = compute()
        return cast("T", memo[key])


def indexed(records: Iterable[Record]) -> Records:
    return records if isinstance(records, Records) else Records(records)


def _as_record(value: object) -> object:
    return {"vtep": value} if isinstance(value, str) else value


def one_or_more(value: object) -> object:
    """Return a list unchanged, any other value as a list of one item."""
    return value if isinstance(value, list) else [value]


def _whole_network(value: object) -> IPNetwork:
    interface = parse_cidr(value)
    if interface.ip != interface.network.network_address:
        raise ValueError(f"{shown(value)} is an address; the network is {interface.network}")
    return interface.network


Network = Annotated[IPNetwork, PlainValidator(_whole_network)]
Networks = Annotated[list[Network], BeforeValidator(one_or_more)]


class RecordModel(ClosedModel):
    """A record in JSON: an object, or just the VTEP address as a string."""

    v: int = 1
    node: str = Field(default="", max_length=LONGEST_NAME)
    vtep: Address
    port: int = 0
    mac: Mac = ""
    subnet: Networks = Field(default_factory=empty)
    subnets: Networks = Field(default_factory=empty)
    block: Networks = Field(default_factory=empty)
    blocks: Networks = Field(default_factory=empty)
    mtu: int = 0
    epoch: str = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.v != 1:
            raise ValueError(f"v is {self.v}; this build reads records of version 1")
        if self.mtu and not _SMALLEST_MTU <= self.mtu <= _LARGEST_MTU:
            raise ValueError(f"mtu is {self.mtu} (must be {_SMALLEST_MTU} to {_LARGEST_MTU})")
        vtep = self.vtep
        if vtep.is_multicast or vtep.is_unspecified or vtep.is_loopback or vtep == _BROADCAST:
            raise ValueError(f"vtep {self.vtep} is not a host address")
        if vtep.is_link_local:
            raise ValueError(f"vtep {self.vtep} is a link-local address")
        if not self.node.isprintable():
            raise ValueError(f"node {shown(self.node)} has unprintable characters")
        return self

    def record(self) -> Record:
        return Record(
            node=self.node or str(self.vtep),
            vtep=self.vtep,
            subnets=(*self.subnet, *self.subnets),
            blocks=(*self.block, *self.blocks),
            mac=self.mac,
            mtu=self.mtu,
        )


RecordField = Annotated[RecordModel, BeforeValidator(_as_record)]
RecordList = Annotated[list[RecordField], Field(max_length=MOST_PEERS)]


class Extent(NamedTuple):
    """Limits that the network's config sets for all records.

    :param within: the networks that contain all subnets or blocks.
    :param length: prefix length of every block or IPv4 subnet, 0: any.
    """

    mode: str
    within: tuple[IPNetwork, ...]
    length: int
    port: int

    @property
    def word(self) -> str:
        return "subnet" if self.mode == "l3" else "block"

    def parts(self, record: Record) -> tuple[IPNetwork, ...]:
        return record.subnets if self.mode == "l3" else record.blocks


def faults(models: Iterable[RecordModel], extent: Extent) -> Iterator[str]:
    """Yield a sentence for every conflict of the records with the network or with each other."""
    listed = [(model, model.record()) for model in models]
    records = [record for _, record in listed]
    for model, record in listed:
        if model.port not in (0, extent.port):
            yield f"peer {record.node}: port is {model.port}, the network's is {extent.port}"
        yield from _faults_of(record, extent)
    yield from _shared(((record.node, record) for record in records), "node")
    yield from _shared(((record.vtep, record) for record in records), "vtep")
    # The FDB maps each MAC address to one VTEP: one of two hosts would get the packets of both.
    yield from _shared(((record.mac or vtep_mac(record.vtep), record) for record in records), "mac")
    families = {record.vtep.version: record.node for record in records}
    if len(families) > 1:
        yield f"peers {families[4]} and {families[6]}: IPv4 and IPv6 vteps cannot be mixed"
    holders = [record for record in records if extent.parts(record)]
    if holders and len(holders) < len(records):
        bare = next(record.node for record in records if not extent.parts(record))
        yield f"peer {bare} has no {extent.word}, but {holders[0].node} has one"
    yield from _overlaps(records, extent)


def _faults_of(record: Record, extent: Extent) -> Iterator[str]:
    foreign = record.blocks if extent.mode == "l3" else record.subnets
    if foreign:
        other = "blocks" if extent.mode == "l3" else "subnets"
        yield f"peer {record.node}: {other} {foreign[0]} in mode {extent.mode}"
    for part in extent.parts(record):
        yield from _faults_of_part(record.node, part, extent)
    families = [part.version for part in record.subnets]
    twice = next((version for version in (4, 6) if families.count(version) > 1), 0)
    if twice:
        yield f"peer {record.node}: more than one IPv{twice} subnet"
    for network in extent.within:
        if holds(network, record.vtep):
            yield f"peer {record.node}: vtep {record.vtep} is an address of the overlay itself ({network})"


def _faults_of_part(node: str, part: IPNetwork, extent: Extent) -> Iterator[str]:
    subject = f"peer {node}: {extent.word} {part}"
    if not any(is_within(part, network) for network in extent.within):
        yield f"{subject} is outside {', '.join(map(str, extent.within)) or 'every network'}"
    elif (part.version == 4 or extent.mode == "l2") and extent.length not in (0, part.prefixlen):  # noqa: PLR2004 (the version)
        yield f"{subject} must have prefix length /{extent.length}"
    if part.num_addresses < 4 and extent.mode == "l3":  # noqa: PLR2004 (network, gateway, one container)
        yield f"{subject} is too small"


def is_within(part: IPNetwork, network: IPNetwork) -> bool:
    same = part.version == network.version
    return same and part.prefixlen >= network.prefixlen and part.network_address in network


def holds(network: IPNetwork, address: IPAddress) -> bool:
    return network.version == address.version and address in network


def _shared(keyed: Iterable[tuple[object, Record]], word: str) -> Iterator[str]:
    seen: dict[object, Record] = {}
    for key, record in keyed:
        other = seen.setdefault(key, record)
        if other is not record:
            yield f"peers {other.node} and {record.node} both have {word} {shown(str(key))}"


def _overlaps(records: list[Record], extent: Extent) -> Iterator[str]:
    """Yield overlaps between neighbours in order of first addresses; that finds one if there is any."""
    bounds = [(_bounds(part), part, record) for record in records for part in extent.parts(record)]
    bounds.sort(key=lambda item: item[0])
    for (first, part, record), (second, other, holder) in pairwise(bounds):
        if first[0] == second[0] and second[1] <= first[2]:
            yield (
                f"{extent.word} {other} of peer {holder.node} overlaps {part} of peer {record.node}"
                if holder is not record
                else f"peer {record.node}: {extent.word}s {part} and {other} overlap"
            )


def _bounds(part: IPNetwork) -> tuple[int, int, int]:
    return part.version, int(part.network_address), int(part.broadcast_address)
