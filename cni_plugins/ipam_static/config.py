"""Parses and validates the static part of a network config; errors name the key and the value.

Addresses requested at run time (runtimeConfig.ips, or else args.cni.ips) replace those of the config; the
gateways of the config stay, and apply to every address in whose subnet they are.
"""

from collections.abc import Callable, Iterable
from typing import Annotated, NamedTuple, TypeVar

from pydantic import Field, PlainValidator

from cni_plugins.contract.model import Address, ConfigModel, DnsField, Gateway, RouteField, empty, load_ipam
from cni_plugins.errors import BadEnvironment, InvalidNetworkConfig
from cni_plugins.protocol.args import parse_args
from cni_plugins.protocol.fields import IPAddress, IPInterface, parse_address, parse_cidr, shown
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import DNS, IPConfig, Route
from cni_plugins.protocol.versions import LISTS, at_least

Parsed = TypeVar("Parsed")


def _cidr_of(field: str) -> Callable[[object], IPInterface]:
    def read(value: object) -> IPInterface:
        try:
            return parse_cidr(value)
        except ValueError as err:
            raise ValueError(
                f"the '{field}' field is expected to be in CIDR notation, got: {shown(value)}"
            ) from err

    return read


class AddressConf(ConfigModel):
    address: Annotated[IPInterface, PlainValidator(_cidr_of("address"))]
    gateway: Gateway = None


class StaticIpam(ConfigModel):
    """The `ipam` object; `gateways` is an extension, for addresses that are requested at run time."""

    addresses: list[AddressConf] = Field(default_factory=empty)
    gateways: list[Address] = Field(default_factory=empty)
    routes: list[RouteField] = Field(default_factory=empty)
    dns: DnsField = DNS()


class RuntimeIps(ConfigModel):
    ips: list[Annotated[IPInterface, PlainValidator(_cidr_of("ips"))]] = Field(default_factory=empty)


class StaticArgs(ConfigModel):
    cni: RuntimeIps = RuntimeIps()


class StaticNetwork(ConfigModel):
    ipam: StaticIpam
    runtime_config: RuntimeIps = RuntimeIps()
    args: StaticArgs = StaticArgs()


class Static(NamedTuple):
    """The validated config of one call."""

    ips: tuple[IPConfig, ...]
    routes: tuple[Route, ...]
    dns: DNS


def parse(request: Request) -> Static:
    """Parse and validate the config of a request.

    :raises InvalidNetworkConfig: naming the key and the value.
    :raises BadEnvironment: for malformed CNI_ARGS.
    """
    conf = load_ipam(StaticNetwork, request.conf)
    args = parse_args(request.args)
    gateways = _listed(args.get("GATEWAY", ""), parse_address, "invalid gateway address: {}")
    requested = _listed(
        args.get("IP", ""), parse_cidr, "the 'ip' field is expected to be in CIDR notation, got: '{}'"
    )
    ips = tuple(_with_gateway(ip, gateways, conf.ipam) for ip in _ips(conf, requested))
    _check_families(ips, request.cni_version)
    return Static(ips, tuple(conf.ipam.routes), conf.ipam.dns)


def _listed(text: str, read: Callable[[str], Parsed], message: str) -> list[Parsed]:
    found = []
    for item in text.split(",") if text else ():
        try:
            found.append(read(item.strip()))
        except ValueError as err:
            raise BadEnvironment(message.format(item), f"CNI_ARGS has {shown(text)}") from err
    return found


def _ips(conf: StaticNetwork, requested: list[IPInterface]) -> Iterable[IPConfig]:
    """Return every address once, with the gateway from the same object of the config."""
    replaced = conf.runtime_config.ips or conf.args.cni.ips
    if replaced:
        return [IPConfig(address) for address in dict.fromkeys(replaced)]
    configured = [IPConfig(item.address, item.gateway) for item in conf.ipam.addresses]
    found: dict[IPInterface, IPConfig] = {}
    for ip in (*configured, *map(IPConfig, requested)):
        found.setdefault(ip.address, ip)
    return found.values()


def _with_gateway(ip: IPConfig, gateways: list[IPAddress], ipam: StaticIpam) -> IPConfig:
    """Add the gateway: the one in CNI_ARGS, the one configured with the address, or any in its subnet."""
    beside = [item.gateway for item in ipam.addresses if item.gateway]
    inside = (gateway for gateway in gateways if gateway in ip.address.network)
    spare = (gateway for gateway in (*ipam.gateways, *beside) if gateway in ip.address.network)
    # The last one wins, as in the reference plugin.
    last = next(reversed([*inside]), None)
    return ip._replace(gateway=last or ip.gateway or next(spare, None))


def _check_families(ips: tuple[IPConfig, ...], version: str) -> None:
    families = [ip.address.version for ip in ips]
    if len(families) > len(set(families)) and not at_least(version, LISTS):
        raise InvalidNetworkConfig(
            f"CNI version {version} does not support more than 1 address per family",
            f"{families.count(4)} IPv4 and {families.count(6)} IPv6 addresses",
        )
