"""Validates the bandwidth plugin's config: limits of the network, and those of the container."""

from typing import Annotated, NamedTuple, Self

from pydantic import PlainValidator, model_validator

from cni_plugins.contract.model import ConfigModel, load
from cni_plugins.protocol.fields import shown
from cni_plugins.protocol.request import Request

_BITS = 8  # in a byte
_LARGEST = 2**64 - 1
_BURST_BYTES = 2**32 - 1  # the kernel's field


def _number(value: object) -> object:
    if type(value) is int and 0 <= value <= _LARGEST:
        return value
    raise ValueError(f"{shown(value)} is not a whole number from 0 to {_LARGEST}")


Bits = Annotated[int, PlainValidator(_number)]


class Limit(NamedTuple):
    """A limit for one direction, in bits per second and bits; 0: none."""

    rate: int
    burst: int

    @property
    def is_set(self) -> bool:
        return bool(self.rate or self.burst)

    @property
    def in_bytes(self) -> tuple[int, int]:
        return self.rate // _BITS, self.burst // _BITS


def _require(way: str, limit: Limit) -> None:
    """:raises ValueError: when no bucket can be made of the limit."""
    given = f"{way}Rate is {limit.rate}, {way}Burst is {limit.burst}"
    if limit.rate and not limit.burst:
        raise ValueError(f"if rate is set, burst must also be set: {given}")
    if limit.burst and not limit.rate:
        raise ValueError(f"if burst is set, rate must also be set: {given}")
    if limit.burst // _BITS >= _BURST_BYTES:
        raise ValueError(f"burst cannot be more than 4GB: {given}")
    if limit.rate and limit.rate < _BITS:
        raise ValueError(f"rate cannot be less than 8 bit/s: {given}")


class Limits(ConfigModel):
    """Limits for both directions: *ingress* is what the container receives, *egress* what it sends."""

    ingress_rate: Bits = 0
    ingress_burst: Bits = 0
    egress_rate: Bits = 0
    egress_burst: Bits = 0

    @property
    def ingress(self) -> Limit:
        return Limit(self.ingress_rate, self.ingress_burst)

    @property
    def egress(self) -> Limit:
        return Limit(self.egress_rate, self.egress_burst)

    @model_validator(mode="after")
    def _check(self) -> Self:
        _require("ingress", self.ingress)
        _require("egress", self.egress)
        return self


class RuntimeConfig(ConfigModel):
    """What the runtime passes on for one container."""

    bandwidth: Limits = Limits()


class Capabilities(ConfigModel):
    """What the runtime may pass on."""

    bandwidth: bool = False


class BandwidthConfig(Limits):
    """The network config; the limits of the container replace those of the network, each direction alone."""

    runtime_config: RuntimeConfig = RuntimeConfig()
    capabilities: Capabilities = Capabilities()

    @property
    def of_container(self) -> Limits:
        return self.runtime_config.bandwidth

    @property
    def received(self) -> Limit:
        """The limit in effect for what the container receives. Runtimes send 0 for what they do not limit."""
        return self.of_container.ingress if self.of_container.ingress.is_set else self.ingress

    @property
    def sent(self) -> Limit:
        """The limit in effect for what the container sends."""
        return self.of_container.egress if self.of_container.egress.is_set else self.egress


def parse(request: Request) -> BandwidthConfig:
    """:raises InvalidNetworkConfig: naming every fault."""
    return load(BandwidthConfig, request.conf)
