"""Validates the bridge plugin's config: every key of the reference, and a few more (docs/bridge.md)."""

from typing import Annotated, Self

from pydantic import Field, PlainValidator, model_validator

from cni_plugins.contract.config_fields import (
    ArgsSection,
    IpamSection,
    IpMasqBackend,
    LinkName,
    Mac,
    MacHolder,
    MasqueradeOptions,
    OptionalAutoMtu,
    OptionalDns,
    mac_in_effect,
)
from cni_plugins.contract.model import ConfigModel, load
from cni_plugins.protocol.fields import shown
from cni_plugins.protocol.ifnames import ifname_fault
from cni_plugins.protocol.request import Request

DEFAULT_BRIDGE = "cni0"
_LARGEST_VLAN = 4094  # IEEE 802.1Q


def _vlan(value: object) -> int:
    if type(value) is int and 0 <= value <= _LARGEST_VLAN:
        return value
    raise ValueError(f"invalid VLAN ID {shown(value)} (must be between 0 and {_LARGEST_VLAN})")


class Trunk(ConfigModel):
    """One entry of `vlanTrunk`: an id, a range, or both."""

    id: int | None = None
    min_id: int | None = Field(default=None, alias="minID")
    max_id: int | None = Field(default=None, alias="maxID")

    @model_validator(mode="after")
    def _check(self) -> Self:
        for value, name in ((self.min_id, "minID"), (self.max_id, "maxID"), (self.id, "id")):
            if value is not None and not 1 <= value <= _LARGEST_VLAN:
                raise ValueError(f"incorrect trunk {name} parameter")
        if (self.min_id is None) != (self.max_id is None):
            gap = "minID" if self.min_id is None else "maxID"
            raise ValueError(f"minID and maxID should be configured simultaneously, {gap} is missing")
        if self.min_id is not None and self.max_id is not None and self.min_id > self.max_id:
            raise ValueError("minID is greater than maxID in trunk parameter")
        return self


class BridgeConfig(MasqueradeOptions, OptionalAutoMtu):
    """The network config; `parse` sets `mac` from its three sources."""

    bridge: LinkName = DEFAULT_BRIDGE
    is_gateway: bool = False
    is_default_gateway: bool = False
    force_address: bool = False
    ip_masq_backend: IpMasqBackend = ""
    hairpin_mode: bool = False
    promisc_mode: bool = False
    vlan: Annotated[int, PlainValidator(_vlan)] = 0
    vlan_trunk: list[Trunk] | None = None
    preserve_default_vlan: bool = False
    macspoofchk: bool = False
    enabledad: bool = False
    acd: bool = False
    disable_container_interface: bool = False
    port_isolation: bool = False
    remove_idle_bridge: bool = False
    internal: bool = False
    ipam: IpamSection = IpamSection()
    dns: OptionalDns = None
    args: ArgsSection = ArgsSection()
    runtime_config: MacHolder = MacHolder()
    mac: Mac = Field(default="", alias="\0mac")

    @property
    def is_gw(self) -> bool:
        return self.is_gateway or self.is_default_gateway

    @property
    def uses_vlans(self) -> bool:
        return bool(self.vlan) or self.vlan_trunk is not None

    @property
    def gateway_link(self) -> str:
        """The link that has the gateway addresses: the bridge, or with a VLAN a port of it."""
        return f"{self.bridge}.{self.vlan}" if self.vlan else self.bridge

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.hairpin_mode and self.promisc_mode:
            raise ValueError("cannot set hairpin mode and promiscuous mode at the same time")
        if self.disable_container_interface and self.ipam.type:
            raise ValueError("cannot use IPAM when DisableContainerInterface flag is set")
        if self.internal and (self.is_gw or self.masquerade.is_on):
            raise ValueError("internal is true, so there can be no gateway on this host, and no ipMasq")
        if self.is_gw and ifname_fault(self.gateway_link):
            raise ValueError(f"link name {shown(self.gateway_link)} {ifname_fault(self.gateway_link)}")
        return self


def parse(request: Request) -> BridgeConfig:
    """Return the config with the MAC address in effect.

    :raises InvalidNetworkConfig: naming every fault.
    """
    config = load(BridgeConfig, request.conf)
    return config.model_copy(update={"mac": mac_in_effect(request, config.runtime_config, config.args)})
