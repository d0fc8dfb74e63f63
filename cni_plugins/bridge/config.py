"""The bridge plugin's config: every key of the reference, and a few more (docs/bridge.md)."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, PlainValidator, model_validator

from cni_plugins.contract.model import ConfigModel, DnsField, load
from cni_plugins.errors import InvalidNetworkConfig
from cni_plugins.spec.args import parse_args
from cni_plugins.spec.fields import IPNetwork, get, parse_cidr, shown
from cni_plugins.spec.ifnames import ifname_fault
from cni_plugins.spec.macs import parse_mac
from cni_plugins.spec.request import Request

AUTO = "auto"
DEFAULT_BRIDGE = "cni0"
_SMALLEST_MTU, _LARGEST_MTU = 68, 65535  # RFC 791; veth's own limit
_LARGEST_VLAN = 4094  # IEEE 802.1Q

Mac = Annotated[str, PlainValidator(lambda value: parse_mac(value) if value != "" else "")]
Network = Annotated[IPNetwork, PlainValidator(lambda value: parse_cidr(value).network)]


def _link_name(value: object) -> object:
    fault = ifname_fault(value) if isinstance(value, str) else ""
    if fault:
        raise ValueError(f"link name {shown(value)} {fault}")
    return value


def _mtu(value: object) -> int | str:
    if value == AUTO:
        return AUTO
    if type(value) is int and (value == 0 or _SMALLEST_MTU <= value <= _LARGEST_MTU):
        return value
    raise ValueError(
        f'invalid MTU {shown(value)} (must be 0, {_SMALLEST_MTU} to {_LARGEST_MTU}, or "{AUTO}")'
    )


def _vlan(value: object) -> int:
    if type(value) is int and 0 <= value <= _LARGEST_VLAN:
        return value
    raise ValueError(f"invalid VLAN ID {shown(value)} (must be between 0 and {_LARGEST_VLAN})")


def _dns(value: object) -> object:
    """As in the reference, a list counts even when empty, a domain does not: then the IPAM's DNS stays."""
    if not isinstance(value, dict):
        return value
    lists = (get(value, key) is not None for key in ("nameservers", "search", "options"))
    return value if any(lists) or get(value, "domain") else None


def _masquerade(value: object) -> object:
    return {"v4": value, "v6": value} if isinstance(value, bool) else value


class IpMasq(ConfigModel):
    """`ipMasq` as an object; `true` and `false` stand for both families."""

    v4: bool = True
    v6: bool = True
    exclude: list[Network] = Field(default=[])
    random_fully: bool = False


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


class Ipam(ConfigModel):
    """The part of `ipam` this plugin looks at."""

    type: str = ""


class _Mac(ConfigModel):
    mac: Mac = ""


class _Args(ConfigModel):
    cni: _Mac = _Mac()


class BridgeConfig(ConfigModel):
    """The network config; `mac` is filled from its three sources by `parse`."""

    bridge: Annotated[str, BeforeValidator(_link_name)] = DEFAULT_BRIDGE
    is_gateway: bool = False
    is_default_gateway: bool = False
    force_address: bool = False
    ip_masq: Annotated[IpMasq, BeforeValidator(_masquerade)] = IpMasq(v4=False, v6=False)
    ip_masq_backend: Literal["", "iptables", "nftables"] = ""
    mtu: Annotated[int | str, PlainValidator(_mtu)] = 0
    hairpin_mode: bool = False
    promisc_mode: bool = False
    vlan: Annotated[int, PlainValidator(_vlan)] = 0
    vlan_trunk: list[Trunk] | None = None
    preserve_default_vlan: bool = False
    macspoofchk: bool = False
    enabledad: bool = False
    disable_container_interface: bool = False
    port_isolation: bool = False
    remove_idle_bridge: bool = False
    ipam: Ipam = Ipam()
    dns: Annotated[DnsField | None, BeforeValidator(_dns)] = None
    args: _Args = _Args()
    runtime_config: _Mac = _Mac()
    mac: Mac = Field(default="", alias="\0mac")

    @property
    def is_gw(self) -> bool:
        return self.is_gateway or self.is_default_gateway

    @property
    def uses_vlans(self) -> bool:
        return bool(self.vlan) or self.vlan_trunk is not None

    @property
    def gateway_link(self) -> str:
        """The link that bears gateway addresses: the bridge, or with a VLAN a port of it."""
        return f"{self.bridge}.{self.vlan}" if self.vlan else self.bridge

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.hairpin_mode and self.promisc_mode:
            raise ValueError("cannot set hairpin mode and promiscuous mode at the same time")
        if self.disable_container_interface and self.ipam.type:
            raise ValueError("cannot use IPAM when DisableContainerInterface flag is set")
        if self.is_gw and ifname_fault(self.gateway_link):
            raise ValueError(f"link name {shown(self.gateway_link)} {ifname_fault(self.gateway_link)}")
        return self


def parse(request: Request) -> BridgeConfig:
    """Return the config with the MAC address in effect: CNI_ARGS, then args.cni, then runtimeConfig.

    :raises InvalidNetworkConfig: naming every fault.
    """
    config = load(BridgeConfig, request.conf)
    from_args = parse_args(request.args).get("MAC", "")
    try:
        mac = config.runtime_config.mac or config.args.cni.mac or (parse_mac(from_args) if from_args else "")
    except ValueError as err:
        raise InvalidNetworkConfig(f"invalid network config: {err}", "CNI_ARGS: MAC") from err
    return config.model_copy(update={"mac": mac})
