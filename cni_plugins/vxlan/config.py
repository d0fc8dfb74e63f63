"""Validates the vxlan plugin's config: each key by itself, all together, and against the peers' records."""

from collections.abc import Iterator, Mapping
from ipaddress import ip_network
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BeforeValidator, Field, PlainValidator, model_validator

from cni_plugins.contract.config_fields import (
    AUTO,
    IPV4,
    ArgsSection,
    IpamSection,
    Mac,
    MacHolder,
    MasqueradeOptions,
    Mtu,
    Network,
    OptionalAnyName,
    OptionalDns,
    mac_in_effect,
)
from cni_plugins.contract.model import Address, ClosedModel, empty, load
from cni_plugins.errors import InvalidNetworkConfig
from cni_plugins.protocol.fields import IPAddress, IPNetwork, get, shown
from cni_plugins.protocol.request import Request
from cni_plugins.vxlan.backends.registry import backend
from cni_plugins.vxlan.backends.roster import Roster
from cni_plugins.vxlan.identity import LARGEST_VNI, bridge_name, default_vni, vxlan_name
from cni_plugins.vxlan.records import Extent, Networks, one_or_more

DEFAULT_PORT = 4789  # IANA
_LARGEST_PORT = 65535
_SMALLEST_SUBNET = 4  # network, gateway, one container, broadcast
# In addresses; each takes three entries of the kernel on every other host, of 1 kB, and time to compare them.
_LARGEST_BLOCK, _MOST_ADDRESSES = 4096, 65536


def _vni(value: object) -> int:
    if type(value) is int and 1 <= value <= LARGEST_VNI:
        return value
    raise ValueError(f"invalid VNI {shown(value)} (must be 1 to {LARGEST_VNI})")


def _port(value: object) -> int:
    if type(value) is int and 1 <= value <= _LARGEST_PORT:
        return value
    raise ValueError(f"invalid UDP port {shown(value)} (must be 1 to {_LARGEST_PORT})")


class Underlay(ClosedModel):
    """The `underlay` section: selects the link and address that carry the overlay; at most one key is set."""

    interface: OptionalAnyName = ""
    cidr: Network | None = None
    can_reach: Address | None = None
    address: Address | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if sum(bool(value) for value in (self.interface, self.cidr, self.can_reach, self.address)) > 1:
            raise ValueError("more than one of interface, cidr, canReach, address")
        return self


class VxlanConfig(MasqueradeOptions):
    """The network config; `parse` fills in `vni` and `mac`."""

    mode: Literal["l3", "l2"] = "l3"
    vni: Annotated[int, PlainValidator(_vni)] = 0
    port: Annotated[int, PlainValidator(_port)] = DEFAULT_PORT
    underlay: Underlay = Underlay()
    mtu: Mtu = AUTO
    df: Literal["set", "inherit", "unset"] | None = None
    sysctls: bool = True
    keep: bool = False
    network: Networks = Field(default_factory=empty)
    subnet_len: Annotated[int, Field(ge=0, le=32)] = 0
    subnet: Networks = Field(default_factory=empty)
    block_len: Annotated[int, Field(ge=0, le=128)] = 0
    gateway: Annotated[list[Address], BeforeValidator(one_or_more)] = Field(default_factory=empty)
    direct_routing: Literal["off", "same-subnet", "always"] = "off"
    bum: Literal["none", "head-end", "multicast"] | None = None
    ip_masq_backend: Literal["", "nftables"] = ""
    restrict_sources: bool | None = None
    source_guard: bool | None = None
    is_default_gateway: bool = True
    hairpin_mode: bool = False
    acd: bool = False
    backend: dict[str, Any]
    ipam: IpamSection = IpamSection()
    dns: OptionalDns = None
    args: ArgsSection = ArgsSection()
    runtime_config: MacHolder = MacHolder()
    mac: Mac = Field(default="", alias="\0mac")

    @property
    def within(self) -> tuple[IPNetwork, ...]:
        """The address ranges of the whole network, IPv4 first."""
        return tuple(sorted(self.network if self.mode == "l3" else self.subnet, key=lambda net: net.version))

    @model_validator(mode="after")
    def _check(self) -> Self:
        needed, foreign = _NEEDED[self.mode], _FOREIGN[self.mode]
        if not self.within:
            raise ValueError(f"{needed} is missing: mode {self.mode} needs it")
        given = [
            field.alias for name, field in type(self).model_fields.items() if name in self.model_fields_set
        ]
        for key in foreign:
            if key in given:
                raise ValueError(f"{key} is a key of the other mode, and mode is {self.mode}")
        odd = next((net for net in self.within if any(map(net.overlaps, _FOR_NO_HOST[net.version]))), None)
        if odd is not None:
            raise ValueError(f"{needed} {odd} has addresses that no host can have")
        families = [network.version for network in self.within]
        if len(families) > len(set(families)):
            raise ValueError(f"{needed} has more than one network of a family")
        small = next((net for net in self.subnet if net.num_addresses < _SMALLEST_SUBNET), None)
        if small is not None:
            raise ValueError(f"subnet {small} is too small")
        self._check_gateways()
        return self

    def _check_gateways(self) -> None:
        listed = ", ".join(map(str, self.subnet))
        for gateway in self.gateway:
            ends = [end for net in self.subnet for end in (net.network_address, net.broadcast_address)]
            if gateway in ends or not any(gateway in net for net in self.subnet):
                raise ValueError(f"gateway {gateway} is not a host address of subnet {listed}")
        if len(self.gateway) > len({gateway.version for gateway in self.gateway}):
            raise ValueError("gateway has more than one address of a family")
        first, *others = self.within
        for network in others:
            twin = first.network_address + _distance(self.gateway_of(network), network)
            if twin in first and twin != self.gateway_of(first):
                raise ValueError(
                    f"gateway {self.gateway_of(network)} is paired with {twin}, which is not the gateway"
                )

    def gateway_of(self, network: IPNetwork) -> IPAddress:
        """Return a subnet's gateway: as configured, else at the offset of IPv4's, else the first address."""
        named = next((gateway for gateway in self.gateway if gateway in network), None)
        first = self.within[0]
        distance = next((_distance(gateway, first) for gateway in self.gateway if gateway in first), 1)
        return named or network.network_address + distance


def _distance(address: IPAddress, network: IPNetwork) -> int:
    return int(address) - int(network.network_address)


# RFC 1122, 3.2.1.3; RFC 4291, 2.4
_FOR_NO_HOST: Mapping[int, tuple[IPNetwork, ...]] = {
    4: tuple(map(ip_network, ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4"))),
    6: tuple(map(ip_network, ("::/127", "fe80::/10", "ff00::/8"))),
}
_NEEDED: Mapping[str, str] = {"l3": "network", "l2": "subnet"}
_FOREIGN: Mapping[str, tuple[str, ...]] = {
    "l3": ("subnet", "blockLen", "gateway", "bum", "acd"),
    "l2": ("network", "subnetLen", "directRouting"),
}


class Overlay(NamedTuple):
    """A network: its config and the peers its backend returned; nothing that depends on the kernel."""

    config: VxlanConfig
    network: str
    vni: int
    roster: Roster

    @property
    def vxlan(self) -> str:
        """The VXLAN link's name, empty when no packet is ever encapsulated."""
        return "" if self.config.direct_routing == "always" else vxlan_name(self.vni)

    @property
    def bridge(self) -> str:
        return bridge_name(self.vni)

    @property
    def programmed(self) -> bool:
        """Say whether every host knows all addresses of the others without ARP, ND or learning."""
        if self.config.mode == "l2":
            return self.bum == "none"
        return self.roster.records is not None and not self.roster.is_bare

    @property
    def lists_subnets(self) -> bool:
        """Say for mode l3 whether records have the peers' subnets; without reading them."""
        return get(self.config.backend, "subnet") is None

    @property
    def bum(self) -> str:
        """How broadcast, unknown-unicast and multicast frames are delivered in mode l2."""
        return self.config.bum or ("multicast" if self.roster.group else "none")

    @property
    def restricted(self) -> bool:
        chosen = self.config.restrict_sources
        return self.roster.records is not None if chosen is None else chosen

    @property
    def guarded(self) -> bool:
        """Whether a container may send from its own MAC address and IP addresses only.

        Where addresses are flooded or learned, containers may have others than this host knows.
        """
        chosen, config = self.config.source_guard, self.config
        known = (config.mode == "l3" or self.programmed) and config.restrict_sources is not False
        return known if chosen is None else chosen

    @property
    def df(self) -> Literal["set", "inherit", "unset"]:
        """DF bit of outer packets: unset without our sysctls, as forwarding then ignores the path MTU."""
        return self.config.df or ("unset" if self.config.mode == "l3" and not self.config.sysctls else "set")

    def gateway(self, network: IPNetwork) -> IPAddress:
        """Return the gateway of one of this host's subnets, or of the stretched subnet."""
        return self.config.gateway_of(network)


def parse(request: Request) -> Overlay:
    """Return the network with its peers, read from the backend now; DEL does without them.

    :raises InvalidNetworkConfig: naming every fault with its path.
    :raises IoFailed: when the peers cannot be read.
    :raises TryAgainLater: when the keeper has not written them yet.
    """
    config = load(VxlanConfig, request.conf)
    mac = mac_in_effect(request, config.runtime_config, config.args)
    vni = config.vni or default_vni(request.network)
    overlay = Overlay(config.model_copy(update={"mac": mac}), request.network, vni, Roster())
    return overlay if request.command == "DEL" else _with(overlay, _read(overlay))


def newest(_request: Request, overlay: Overlay) -> Overlay:
    """Return the same overlay, or, if the file that lists its peers has changed, one with the peers of now.

    :raises CniError: as `parse`.
    """
    if not overlay.roster.path:
        return overlay
    roster = _read(overlay)
    is_same = roster.records is overlay.roster.records and roster.own == overlay.roster.own
    return overlay if is_same else _with(overlay, roster)


def _read(overlay: Overlay) -> Roster:
    config = overlay.config
    length = config.subnet_len if config.mode == "l3" else config.block_len
    extent = Extent(config.mode, config.within, length, config.port)
    return backend(config.backend).roster(overlay.network, extent)


def _with(overlay: Overlay, roster: Roster) -> Overlay:
    found = overlay._replace(roster=roster)
    _require_possible(found)
    return found


def doubt(overlay: Overlay) -> str:
    """Return a sentence about why the peers may be out of date; empty if nothing says so."""
    return backend(overlay.config.backend).doubt(overlay.network)


def _require_possible(overlay: Overlay) -> None:
    """:raises InvalidNetworkConfig: when keys that are valid by themselves contradict each other."""
    config, roster = overlay.config, overlay.roster
    asked = (config.mode, config.within, config.bum, config.direct_routing, config.restrict_sources)
    key = ("contradictions", asked, config.mac, config.ipam.type, roster.parts, roster.group)
    found = roster.known.kept(key, lambda: list(_contradictions(overlay)))
    if found:
        raise InvalidNetworkConfig(f"invalid network config: {found[0]}", "; ".join(found))


def _contradictions(overlay: Overlay) -> Iterator[str]:
    config, roster = overlay.config, overlay.roster
    if config.mode == "l2":
        yield from _contradictions_of_l2(overlay)
        if overlay.bum == "none":
            if config.acd:
                yield "acd is true, but with bum none no probe reaches another host"
            yield from _contradictions_of_programmed_l2(overlay)
    elif config.direct_routing != "off" and not overlay.programmed:
        yield f"directRouting is {config.direct_routing}, but the peers' subnets are not known"
    if config.restrict_sources and roster.records is None:
        yield "restrictSources is true, but backend multicast does not know who may send"


def _contradictions_of_l2(overlay: Overlay) -> Iterator[str]:
    config, roster = overlay.config, overlay.roster
    if (overlay.bum == "multicast") != (roster.group is not None):
        kind = get(config.backend, "type")
        yield f"bum is {overlay.bum}, but backend {kind} has {'a' if roster.group else 'no'} multicast group"
    *ipv4, last = config.within
    if ipv4 and last.num_addresses < ipv4[0].num_addresses:
        yield f"subnet {last} is smaller than {ipv4[0]}, whose addresses are mapped into it"
    for part in parts_of_all(overlay):
        if part.version != config.within[0].version:
            yield f"block {part} is not in {config.within[0]}"


def _contradictions_of_programmed_l2(overlay: Overlay) -> Iterator[str]:
    if overlay.roster.is_bare:
        yield "bum is none, but no peer has a block: bum must be head-end"
    if overlay.config.mac:
        yield f"mac is {overlay.config.mac}, but with bum none it is derived from the container's IP address"
    if overlay.config.ipam.type == "dhcp":
        yield "ipam.type is dhcp, but with bum none a container's MAC address is derived from its IP address"
    for part in parts_of_all(overlay):
        if part.num_addresses > _LARGEST_BLOCK:
            yield f"block {part} has more than {_LARGEST_BLOCK} addresses"
    if len({int(part.network_address) >> 32 for part in parts_of_all(overlay) if part.version != IPV4}) > 1:
        yield "IPv6 blocks of more than one /96: their addresses would share MAC addresses"
    total = sum(part.num_addresses for part in parts_of_all(overlay))
    if total > _MOST_ADDRESSES:
        yield (
            f"the blocks have {total} addresses together, more than {_MOST_ADDRESSES}: with bum none every "
            "host has three entries for each; smaller blocks, bum head-end or mode l3 need fewer"
        )


def parts_of_all(overlay: Overlay) -> tuple[IPNetwork, ...]:
    """Return the known subnets or blocks of all hosts."""
    return (*overlay.roster.parts, *overlay.roster.known.parts)
