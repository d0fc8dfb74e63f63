"""Parses and validates the host-local part of a network config, and refuses what can never work.

Range sets come, in this order, from runtimeConfig.ipRanges, the old-style keys of `ipam`, and ipam.ranges;
their position is the number in `last_reserved_ip.<n>`, so the order is the same as in the reference plugin.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pydantic import Field

from cni_plugins.contract.model import Cidr, ConfigModel, Gateway, RouteField, empty, load_ipam
from cni_plugins.errors import InvalidNetworkConfig
from cni_plugins.leases import data_dir
from cni_plugins.leases.ranges import Range, RangeSet, canonical, check_set, check_sets
from cni_plugins.leases.requested import ArgsWithIps, Requested, of_arguments
from cni_plugins.protocol.fields import IPAddress
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import Route
from cni_plugins.protocol.versions import LISTS, at_least


class Bounds(ConfigModel):
    range_start: Gateway = None
    range_end: Gateway = None
    gateway: Gateway = None


class RangeConf(Bounds):
    subnet: Cidr


class HostLocalIpam(Bounds):
    """The `ipam` object; its `subnet` key is the old form, from before range sets."""

    subnet: Cidr | None = None
    ranges: list[list[RangeConf]] = Field(default_factory=empty)
    routes: list[RouteField] = Field(default_factory=empty)
    resolv_conf: str = ""

    def old_style(self) -> list[tuple[str, list[RangeConf]]]:
        if self.subnet is None:
            return []
        # model_construct: these values have already been validated in the same way.
        conf = RangeConf.model_construct(
            subnet=self.subnet, range_start=self.range_start, range_end=self.range_end, gateway=self.gateway
        )
        return [("ipam", [conf])]


class RuntimeConf(ConfigModel):
    ip_ranges: list[list[RangeConf]] = Field(default_factory=empty)
    ips: list[Requested] = Field(default_factory=empty)


class HostLocalNetwork(ConfigModel):
    ipam: HostLocalIpam
    # Factories: pydantic copies a default that contains lists, which takes three times as long.
    runtime_config: RuntimeConf = Field(default_factory=RuntimeConf)
    args: ArgsWithIps = Field(default_factory=ArgsWithIps)


class HostLocal(NamedTuple):
    """The validated config of one call; `requested` contains no address twice."""

    data_dir: str
    sets: tuple[RangeSet, ...]
    requested: tuple[IPAddress, ...]
    routes: tuple[Route, ...]
    resolv_conf: str


def parse(request: Request) -> HostLocal:
    """Parse and validate the config of a request.

    :raises InvalidNetworkConfig: naming the key and the value.
    :raises BadEnvironment: for malformed CNI_ARGS.
    """
    conf = load_ipam(HostLocalNetwork, request.conf)
    return HostLocal(
        data_dir=data_dir.data_dir(request.conf),
        sets=_range_sets(conf, request.cni_version),
        requested=tuple(dict.fromkeys(_requested(conf, request.args))),
        routes=tuple(conf.ipam.routes),
        resolv_conf=conf.ipam.resolv_conf,
    )


def _requested(conf: HostLocalNetwork, args: str) -> Iterator[IPAddress]:
    yield from of_arguments(args)
    yield from conf.args.cni.ips
    yield from conf.runtime_config.ips


def _range_sets(conf: HostLocalNetwork, version: str) -> tuple[RangeSet, ...]:
    given = [
        *((f"runtimeConfig.ipRanges[{n}]", ranges) for n, ranges in enumerate(conf.runtime_config.ip_ranges)),
        *conf.ipam.old_style(),
        *((f"ipam.ranges[{n}]", ranges) for n, ranges in enumerate(conf.ipam.ranges)),
    ]
    if not given:
        raise InvalidNetworkConfig(
            "no IP ranges specified", "ipam.ranges and ipam.subnet are absent or empty"
        )
    sets = tuple(_range_set(number, where, ranges) for number, (where, ranges) in enumerate(given))
    _check_families(sets, version)
    try:
        check_sets(sets)
    except ValueError as err:
        raise InvalidNetworkConfig(
            str(err), f"range sets are {', '.join(where for where, _ in given)}"
        ) from err
    return sets


def _range_set(number: int, where: str, confs: Sequence[RangeConf]) -> RangeSet:
    ranges: list[Range] = []
    try:
        ranges += (canonical(conf.subnet, conf.range_start, conf.range_end, conf.gateway) for conf in confs)
        check_set(tuple(ranges))
    except ValueError as err:
        # Either one range is invalid, and `ranges` ends before it, or the set as a whole is.
        at = f"{where}[{len(ranges)}]" if where != "ipam" and len(ranges) < len(confs) else where
        raise InvalidNetworkConfig(
            f"invalid range set {number}: {err}", f"{at}: {_shown(confs, len(ranges))}"
        ) from err
    return tuple(ranges)


def _shown(confs: Sequence[RangeConf], number: int) -> str:
    blamed = confs[number : number + 1] or confs
    given = (conf.model_dump(by_alias=True, exclude_none=True) for conf in blamed)
    return "; ".join(", ".join(f"{key} {value}" for key, value in one.items()) for one in given) or "[]"


def _check_families(sets: tuple[RangeSet, ...], version: str) -> None:
    families = [ranges[0].version for ranges in sets]
    if len(families) > len(set(families)) and not at_least(version, LISTS):
        raise InvalidNetworkConfig(
            f"CNI version {version} does not support more than 1 address per family",
            f"{families.count(4)} IPv4 and {families.count(6)} IPv6 range sets",
        )
