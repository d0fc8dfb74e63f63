"""Validates the config of the IPAM plugin cluster (docs/cluster-ipam.md)."""

from collections.abc import Iterator
from ipaddress import ip_network
from typing import Annotated, NamedTuple, Self

from pydantic import Field, PlainValidator, model_validator

from cni_plugins.contract.model import Cidr, ConfigModel, Gateway, RouteField, empty, load_ipam
from cni_plugins.contract.registry_config import RegistrySection
from cni_plugins.ipam_cluster.subnets import Subnet, make
from cni_plugins.leases.data_dir import data_dir
from cni_plugins.leases.requested import ArgsWithIps, Requested, of_arguments
from cni_plugins.protocol.fields import IPAddress, IPNetwork, shown
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import Route


def _excluded(value: object) -> IPNetwork:
    try:
        return ip_network(value, strict=True) if isinstance(value, str) else _refuse(value)
    except ValueError as err:
        raise ValueError(f"{shown(value)} is neither an address nor a network") from err


def _refuse(value: object) -> IPNetwork:
    raise ValueError(f"expected a string, got {shown(value)}")


class SubnetKeys(ConfigModel):
    """The keys of one subnet: of `ipam` itself, or of an entry of `ipam.ranges`."""

    subnet: Cidr | None = None
    gateway: Gateway = None
    range_start: Gateway = None
    range_end: Gateway = None
    exclude: list[Annotated[IPNetwork, PlainValidator(_excluded)]] = Field(default_factory=empty)
    block_len: Annotated[int, Field(ge=0, le=128)] = 0

    def made(self) -> Subnet:
        """:raises ValueError: when the values do not fit together."""
        if self.subnet is None:
            raise ValueError("subnet is missing")
        bounds = (self.range_start, self.range_end)
        return make(self.subnet, bounds, self.gateway, self.exclude, self.block_len)


class ClusterIpam(SubnetKeys):
    """The `ipam` object."""

    ranges: list[list[SubnetKeys]] = Field(default_factory=empty)
    routes: list[RouteField] = Field(default_factory=empty)
    resolv_conf: str = ""
    registry: RegistrySection

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.subnet is None) != bool(self.ranges):
            raise ValueError("one of subnet and ranges is needed, ranges for two families")
        found = self.subnets()
        if len(found) > len({one.version for one in found}):
            raise ValueError("more than one subnet of a family")
        return self

    def subnets(self) -> tuple[Subnet, ...]:
        """:raises ValueError: naming the range."""
        if not self.ranges:
            return (self.made(),)
        return tuple(_of_range(number, given) for number, given in enumerate(self.ranges))


def _of_range(number: int, given: list[SubnetKeys]) -> Subnet:
    if len(given) != 1:
        raise ValueError(f"ranges[{number}] must have one subnet, which hosts divide into blocks")
    try:
        return given[0].made()
    except ValueError as err:
        raise ValueError(f"ranges[{number}][0]: {err}") from err


class RuntimeIps(ConfigModel):
    ips: list[Requested] = Field(default_factory=empty)


class ClusterNetwork(ConfigModel):
    ipam: ClusterIpam
    runtime_config: RuntimeIps = Field(default_factory=RuntimeIps)
    args: ArgsWithIps = Field(default_factory=ArgsWithIps)


class Cluster(NamedTuple):
    """The validated config of one call; `requested` contains no address twice."""

    data_dir: str
    subnets: tuple[Subnet, ...]
    requested: tuple[IPAddress, ...]
    routes: tuple[Route, ...]
    resolv_conf: str
    registry: RegistrySection

    def subnet_of(self, address: IPAddress) -> Subnet | None:
        """Return the subnet of the network that contains an address."""
        return next((one for one in self.subnets if address in one.network), None)


def parse(request: Request) -> Cluster:
    """Parse and validate the config of a request.

    :raises InvalidNetworkConfig: naming the key and the value.
    :raises BadEnvironment: for malformed CNI_ARGS.
    """
    conf = load_ipam(ClusterNetwork, request.conf)
    return Cluster(
        data_dir=data_dir(request.conf),
        subnets=conf.ipam.subnets(),
        requested=tuple(dict.fromkeys(_requested(conf, request.args))),
        routes=tuple(conf.ipam.routes),
        resolv_conf=conf.ipam.resolv_conf,
        registry=conf.ipam.registry,
    )


def _requested(conf: ClusterNetwork, args: str) -> Iterator[IPAddress]:
    yield from of_arguments(args)
    yield from conf.args.cni.ips
    yield from conf.runtime_config.ips
