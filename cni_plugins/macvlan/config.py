"""Validates the macvlan plugin's config: every key of the reference, and more (docs/macvlan.md)."""

from typing import Annotated, Self, get_args

from pydantic import BeforeValidator, Field, PlainValidator, model_validator

from cni_plugins.contract.config_fields import (
    ArgsSection,
    IpamSection,
    IpMasqBackend,
    Mac,
    MacHolder,
    MasqueradeOptions,
    OptionalAnyName,
    OptionalDns,
    PlainMtu,
    mac_in_effect,
)
from cni_plugins.contract.model import load
from cni_plugins.protocol.fields import shown
from cni_plugins.protocol.request import Request
from cni_plugins.steps.macvlan import MacvlanMode, VlanProtocol

_LARGEST_VLAN = 4094  # IEEE 802.1Q
_LARGEST_QUEUE = 0xFFFFFFFF  # IFLA_MACVLAN_BC_QUEUE_LEN has 32 bits


def _mode(value: object) -> object:
    if value == "":
        return "bridge"
    if isinstance(value, str) and value not in get_args(MacvlanMode):
        raise ValueError(f"unknown macvlan mode: {shown(value)} (must be {', '.join(get_args(MacvlanMode))})")
    return value


def vlan_id(value: object) -> int:
    """:raises ValueError: when it is not a valid VLAN id."""
    if type(value) is int and 1 <= value <= _LARGEST_VLAN:
        return value
    raise ValueError(f"invalid VLAN ID {shown(value)} (must be between 1 and {_LARGEST_VLAN})")


def _queue(value: object) -> int:
    if type(value) is int and 0 <= value <= _LARGEST_QUEUE:
        return value
    raise ValueError(f"invalid queue length {shown(value)} (must be between 0 and {_LARGEST_QUEUE})")


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


class MacvlanConfig(MasqueradeOptions):
    """The network config; `parse` sets `mac` from its four sources."""

    master: OptionalAnyName = ""
    mode: Annotated[MacvlanMode, BeforeValidator(_mode)] = "bridge"
    allowed_macs: list[Mac] = Field(default=[], alias="allowedMACs")
    mtu: PlainMtu = 0
    mac: Mac = ""
    link_in_container: bool = False
    bcqueuelen: Annotated[int, PlainValidator(_queue)] = 0
    vlan: Annotated[int, PlainValidator(vlan_id)] | None = None
    vlan_protocol: Annotated[VlanProtocol, BeforeValidator(_lower)] = "802.1q"
    host_access: bool = False
    is_gateway: bool = False
    ip_masq_backend: IpMasqBackend = ""
    enabledad: bool = False
    acd: bool = False
    ipam: IpamSection = IpamSection()
    dns: OptionalDns = None
    args: ArgsSection = ArgsSection()
    runtime_config: MacHolder = MacHolder()

    @property
    def routes_for_containers(self) -> bool:
        """Say whether the host is the containers' gateway; `isGateway` without `hostAccess` is ignored.

        The reference ignores the key: configs may have inherited it from a bridge's, while their gateway is a
        router on the wire.
        """
        return self.host_access and self.is_gateway

    @property
    def probes(self) -> bool:
        return self.acd and bool(self.ipam.type)

    @property
    def masquerades(self) -> bool:
        return self.routes_for_containers and self.masquerade.is_on

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.mode == "source") != bool(self.allowed_macs):
            raise ValueError("allowedMACs and mode source need each other: the list has the accepted senders")
        if self.acd and self.mode == "source":
            raise ValueError("acd is of no use in mode source, in which only allowedMACs are heard")
        if self.host_access and self.mode != "bridge":
            raise ValueError(
                f"hostAccess needs mode bridge, as in mode {self.mode} links on one master are isolated"
            )
        if self.link_in_container and (self.host_access or self.vlan is not None):
            key = "hostAccess" if self.host_access else "vlan"
            raise ValueError(f"{key} needs a master in the host, but linkInContainer is set")
        return self


def parse(request: Request) -> MacvlanConfig:
    """Return the config with the MAC address in effect.

    :raises InvalidNetworkConfig: naming every fault.
    """
    config = load(MacvlanConfig, request.conf)
    mac = mac_in_effect(request, config.runtime_config, config.args, config.mac)
    return config.model_copy(update={"mac": mac})
