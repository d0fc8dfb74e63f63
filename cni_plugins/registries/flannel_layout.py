"""Reads and writes what flanneld keeps in etcd, with pure functions.

    <prefix>/config                    the network
    <prefix>/subnets/10.5.52.0-24      a host's LeaseAttrs; dual stack: 10.5.52.0-24&fd00:0:0:34::-64

flanneld's JSON decoder ignores keys it does not know, so a host of ours adds its name and number to its
LeaseAttrs. flanneld identifies a host by its public address alone.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Address, IPv4Network, ip_network
from typing import Any, NamedTuple

from cni_plugins.ownership import digest
from cni_plugins.protocol import json_text
from cni_plugins.protocol.fields import Conf, IPNetwork, get, shown, typed
from cni_plugins.protocol.macs import parse_mac
from cni_plugins.registries.network_registry import Member
from cni_plugins.vxlan.config import VxlanConfig
from cni_plugins.vxlan.identity import default_vni, vtep_mac

VXLAN, HOST_GATEWAY = "vxlan", "host-gw"
RESERVED = "cni-plugins"  # BackendType of a subnet whose host has no record yet; flanneld ignores it
_OURS = "CniPlugins"  # key of LeaseAttrs
_MORE = {"epoch": str, "mtu": int}  # of a record of ours, for which flannel has no place
_NOWHERE = IPv4Address(0)
_DEFAULT_VNI, _KERNEL_PORT = 1, 8472  # flanneld's; the kernel's when it is told none
_SUBNET = re.compile(r"(\d+\.\d+\.\d+\.\d+)-(\d+)(&[a-f\d:]+-\d+)?")
_LONGEST_USUAL, _USUAL_LENGTH = 22, 24
_LARGEST_VNI = (1 << 24) - 1
_LARGEST_PORT = 65535


class FlannelConfig(NamedTuple):
    """The key `config`, with flanneld's defaults.

    :param first, last: SubnetMin and SubnetMax: the network addresses of the first and last subnet.
    :param mtu: that of the underlay, 0: the link's.
    """

    network: IPv4Network
    length: int
    first: IPv4Address
    last: IPv4Address
    backend: str
    vni: int
    port: int
    mtu: int = 0
    direct_routing: bool = False

    def fits(self, subnet: IPNetwork) -> bool:
        """Say whether flanneld could have chosen this subnet."""
        inside = subnet.version == self.network.version and subnet.prefixlen == self.length
        return inside and int(self.first) <= int(subnet.network_address) <= int(self.last)

    def subnets(self, start: str) -> Iterator[IPv4Network]:
        """Yield all subnets, from one that depends on the text, so that hosts seldom want the same."""
        size = 1 << (32 - self.length)
        count = (int(self.last) - int(self.first)) // size + 1
        offset = int(digest(start, 8), 16)
        for number in range(count):
            at = int(self.first) + (offset + number) % count * size
            yield IPv4Network((at, self.length))


class Entry(NamedTuple):
    """One key below `subnets`.

    :param name: the last part of the key.
    :param node: name of a host of ours, empty: flannel's.
    :param host: random number of a host that keeps the key itself; empty: flannel's, or exported for it.
    :param more: what else its record has.
    """

    name: str
    subnet: IPv4Network
    address: IPv4Address
    kind: str
    vni: int = 0
    mac: str = ""
    node: str = ""
    host: str = ""
    more: tuple[tuple[str, str | int], ...] = ()

    @property
    def owner(self) -> Member:
        return Member(self.node or str(self.address), self.host)


# --------------------------------------------------------------------------------------------------- config


def parse_config(text: bytes) -> FlannelConfig:
    """Return flannel's config.

    :raises ValueError: when it is none, or one without IPv4.
    """
    conf = _object(text)
    if get(conf, "EnableIPv4") is False:
        raise ValueError("EnableIPv4 is false; only IPv4 networks can be shared with flannel")
    network = ip_network(typed(conf, "Network", str, ""), strict=False)
    if not isinstance(network, IPv4Network):
        raise ValueError(f"Network {network} is not of IPv4")  # noqa: TRY004 (a value, not an argument)
    length = typed(conf, "SubnetLen", int, "") or (
        _USUAL_LENGTH if network.prefixlen <= _LONGEST_USUAL else network.prefixlen + 2
    )
    if not network.prefixlen < length <= 30:  # noqa: PLR2004 (as flanneld has it)
        raise ValueError(f"SubnetLen {length} does not fit Network {network}")
    size = 1 << (32 - length)
    first = _address(conf, "SubnetMin") or network.network_address + size
    last = _address(conf, "SubnetMax") or network.broadcast_address + 1 - size
    if first not in network or last not in network or first > last or int(first) % size:
        raise ValueError(f"SubnetMin {first} and SubnetMax {last} do not fit Network {network}")
    backend = typed(conf, "Backend", dict, "")
    return FlannelConfig(
        network,
        length,
        first,
        last,
        typed(backend, "Type", str, "Backend.") or "udp",
        _number(backend, "VNI", _LARGEST_VNI) or _DEFAULT_VNI,
        _number(backend, "Port", _LARGEST_PORT) or _KERNEL_PORT,
        _number(backend, "MTU", _LARGEST_PORT),
        typed(backend, "DirectRouting", bool, "Backend."),
    )


def differences(flannel: FlannelConfig, ours: VxlanConfig, network: str) -> Iterator[str]:
    """Yield what a host with this vxlan config would do differently from flannel's hosts."""
    if flannel.backend != VXLAN:
        yield f"flannel's Backend.Type is {flannel.backend}, not {VXLAN}"
    if ours.mode != "l3":
        yield f"mode is {ours.mode}, flannel's is l3"
    elif list(ours.network) != [flannel.network]:
        yield f"network is {', '.join(map(str, ours.network))}, flannel's Network {flannel.network}"
    vni = ours.vni or default_vni(network)
    if vni != flannel.vni:
        yield f"vni is {vni}, flannel's {flannel.vni}"
    if ours.port != flannel.port:
        yield f"port is {ours.port}, flannel's {flannel.port}"
    is_usual = flannel.length == _USUAL_LENGTH and flannel.network.prefixlen <= _LONGEST_USUAL
    if ours.subnet_len != flannel.length and (ours.subnet_len or not is_usual):
        yield f"subnetLen is {ours.subnet_len or 'missing'}, flannel's {flannel.length}"


# ------------------------------------------------------------------------------------------------- entries


def key_of(subnet: IPNetwork) -> str:
    return str(subnet).replace("/", "-")


def entries(children: Mapping[str, bytes]) -> tuple[list[Entry], dict[str, str]]:
    """Return the subnets in use, and by key why the others are not read."""
    found, ignored = [], {}
    for name, value in sorted(children.items()):
        try:
            found.append(_entry(name, value))
        except ValueError as err:
            ignored[name] = str(err)
    return found, ignored


def in_use(children: Mapping[str, bytes]) -> list[Entry]:
    """Return the subnets that nobody else may take, also those of which no more can be read."""
    found, broken = entries(children)
    parsed = ((name, _subnet(name)) for name in broken)
    return found + [Entry(name, net, _NOWHERE, "") for name, net in parsed if net is not None]


def records(listed: Iterable[Entry], vni: int) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return our records of the hosts by node, and by key why others are left out."""
    found: dict[str, bytes] = {}
    ignored: dict[str, str] = {}
    addresses: dict[IPv4Address, str] = {}
    # Names of ours first: none of flannel's is to displace them.
    for entry in sorted(listed, key=lambda one: (not one.host, not one.node)):
        names = (entry.owner.node, str(entry.address), f"flannel-{entry.address}")
        node = next((name for name in names if name not in found), "")
        why = _not_ours_to_reach(entry, vni) or ("" if node else "its name is in use")
        if not why:
            first = addresses.setdefault(entry.address, entry.name)
            why = "" if first == entry.name else f"{entry.address} has subnet {first}, too"
        if why:
            ignored[entry.name] = why
        else:
            found[node] = _record(entry, node)
    return found, ignored


def lease_attrs(me: Member, record: Mapping[str, Any], vni: int) -> bytes:
    """Return the value of a host's subnet.

    :param me: `host` is empty if somebody else writes it for the host.
    """
    address = str(record["vtep"])
    mac = str(record.get("mac") or vtep_mac(IPv4Address(address)))
    more = {key: record[key] for key in _MORE if key in record}
    return _text(address, VXLAN, {"VNI": vni, "VtepMAC": mac}, me, more)


def reservation(me: Member) -> bytes:
    """Return the value of a subnet that a host has claimed before it has a record."""
    return _text(str(_NOWHERE), RESERVED, {}, me)


def taken_over(entry: Entry, me: Member) -> bytes:
    """Return the value by which a host of ours takes its former subnet; others see no difference."""
    return lease_attrs(me, {"vtep": entry.address, "mac": entry.mac}, entry.vni)


def _text(
    address: str, kind: str, data: Mapping[str, Any], me: Member, more: Mapping[str, Any] | None = None
) -> bytes:
    ours = {"node": me.node, **({"host": me.host} if me.host else {}), **(more or {})}
    document = {
        "PublicIP": address,
        "PublicIPv6": None,
        "BackendType": kind,
        "BackendData": data,
        _OURS: ours,
    }
    return json.dumps(document, separators=(",", ":")).encode()


def _record(entry: Entry, node: str) -> bytes:
    record = {"node": node, "subnet": str(entry.subnet), "vtep": str(entry.address), **dict(entry.more)}
    if entry.mac != vtep_mac(entry.address):
        record["mac"] = entry.mac
    if entry.host:
        record["host"] = entry.host
    return json.dumps(record, sort_keys=True, separators=(",", ":")).encode()


def _not_ours_to_reach(entry: Entry, vni: int) -> str:
    if entry.kind == RESERVED:
        return f"reserved by {entry.owner.node}, which has not joined yet"
    if entry.kind != VXLAN:
        return f"{entry.address} has backend {shown(entry.kind)}, not {VXLAN}"
    if entry.vni != vni:
        return f"{entry.address} has VNI {entry.vni}, not {vni}"
    return "" if entry.mac else f"{entry.address} has no VtepMAC"


def _entry(name: str, value: bytes) -> Entry:
    """:raises ValueError: when flanneld could not read it either, or it has no IPv4 subnet."""
    subnet = _subnet(name)
    if subnet is None:
        raise ValueError(f"{shown(name)} is not a subnet of IPv4")
    attrs = _object(value)
    address = _address(attrs, "PublicIP")
    if address is None:
        raise ValueError("PublicIP is missing")
    data, ours = typed(attrs, "BackendData", dict, ""), typed(attrs, _OURS, dict, "")
    mac = typed(data, "VtepMAC", str, "BackendData.")
    return Entry(
        name,
        subnet,
        address,
        typed(attrs, "BackendType", str, ""),
        _number(data, "VNI", _LARGEST_VNI),
        parse_mac(mac) if mac else "",
        typed(ours, "node", str, f"{_OURS}."),
        typed(ours, "host", str, f"{_OURS}."),
        tuple((key, typed(ours, key, kind, f"{_OURS}.")) for key, kind in _MORE.items() if key in ours),
    )


def _subnet(name: str) -> IPv4Network | None:
    match = _SUBNET.fullmatch(name)
    try:
        return IPv4Network(f"{match[1]}/{match[2]}") if match else None
    except ValueError:
        return None


def _object(text: bytes) -> Conf:
    document = json_text.load(text)
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 (a value, not an argument)
    return document


def _address(conf: Conf, key: str) -> IPv4Address | None:
    text = typed(conf, key, str, "")
    return IPv4Address(text) if text else None


def _number(conf: Conf, key: str, largest: int) -> int:
    number: int = typed(conf, key, int, "")
    if not 0 <= number <= largest:
        raise ValueError(f"{key} {number} is not 0 to {largest}")
    return number
