"""Validates config keys that several plugins have in common.

Only keys that mean the same in every plugin, of the reference or ours, belong here.
"""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, PlainValidator, model_validator

from cni_plugins.contract.model import ConfigModel, DnsField
from cni_plugins.errors import InvalidNetworkConfig
from cni_plugins.protocol.args import parse_args
from cni_plugins.protocol.fields import IPNetwork, get, parse_cidr, shown
from cni_plugins.protocol.ifnames import LONGEST_ALTNAME, LONGEST_NAME, ifname_fault
from cni_plugins.protocol.macs import parse_mac
from cni_plugins.protocol.request import Request

AUTO = "auto"
IPV4, IPV6 = 4, 6
_SMALLEST_MTU, _LARGEST_MTU = 68, 65535  # RFC 791; veth's own limit


def _link_name(value: object, longest: int = LONGEST_NAME) -> object:
    fault = ifname_fault(value, longest) if isinstance(value, str) else ""
    if fault:
        raise ValueError(f"link name {shown(value)} {fault}")
    return value


def _any_name(value: object) -> object:
    return value if value == "" else _link_name(value, LONGEST_ALTNAME)


def _is_mtu(value: object) -> bool:
    return type(value) is int and (value == 0 or _SMALLEST_MTU <= value <= _LARGEST_MTU)


def _plain_mtu(value: object) -> object:
    if _is_mtu(value):
        return value
    raise ValueError(f"invalid MTU {shown(value)} (must be 0, or {_SMALLEST_MTU} to {_LARGEST_MTU})")


def _mtu(value: object) -> object:
    if value == AUTO or _is_mtu(value):
        return value
    raise ValueError(
        f'invalid MTU {shown(value)} (must be 0, {_SMALLEST_MTU} to {_LARGEST_MTU}, or "{AUTO}")'
    )


def _dns(value: object) -> object:
    """Return None if nothing is set: the IPAM's DNS stays. Empty lists count as set, as in the reference."""
    if not isinstance(value, dict):
        return value
    lists = (get(value, key) is not None for key in ("nameservers", "search", "options"))
    return value if any(lists) or get(value, "domain") else None


def _masquerade(value: object) -> object:
    return {"v4": value, "v6": value} if isinstance(value, bool) else value


Mac = Annotated[str, PlainValidator(lambda value: parse_mac(value) if value != "" else "")]
Network = Annotated[IPNetwork, PlainValidator(lambda value: parse_cidr(value).network)]
LinkName = Annotated[str, BeforeValidator(_link_name)]
# Of an existing link, which may also be called by an alternative name (`ip link property add altname`).
OptionalAnyName = Annotated[str, BeforeValidator(_any_name)]
PlainMtu = Annotated[int, PlainValidator(_plain_mtu)]
Mtu = Annotated[int | str, PlainValidator(_mtu)]
OptionalDns = Annotated[DnsField | None, BeforeValidator(_dns)]
IpMasqBackend = Literal["", "iptables", "nftables"]


class IpMasq(ConfigModel):
    """`ipMasq` as an object; `true` and `false` stand for both families."""

    v4: bool = True
    v6: bool = True
    exclude: list[Network] = Field(default=[])
    random_fully: bool = False

    @property
    def is_on(self) -> bool:
        return self.v4 or self.v6

    def covers(self, version: int) -> bool:
        return self.v4 if version == IPV4 else self.v6


IpMasqField = Annotated[IpMasq, BeforeValidator(_masquerade)]
NO_MASQUERADE, _MASQUERADE_ALL = IpMasq(v4=False, v6=False), IpMasq()


class MasqueradeOptions(ConfigModel):
    """A second spelling of `ipMasq` as an object, beside which `ipMasq` is `true` or `false`.

    Runtimes that read a plugin's config themselves, such as podman, know the reference's types only.
    """

    ip_masq: IpMasqField = NO_MASQUERADE
    ip_masq_options: IpMasq | None = None

    @property
    def masquerade(self) -> IpMasq:
        """How to masquerade, whichever spelling says so."""
        return self.ip_masq_options if self.ip_masq_options and self.ip_masq.is_on else self.ip_masq

    @model_validator(mode="after")
    def _check_masquerade(self) -> Self:
        if self.ip_masq_options and self.ip_masq not in (NO_MASQUERADE, _MASQUERADE_ALL):
            raise ValueError("ipMasqOptions is set, and ipMasq is not true or false")
        return self


class OptionalAutoMtu(ConfigModel):
    """A second spelling of `"mtu": "auto"`, for the same reason."""

    mtu: Mtu = 0
    mtu_auto: bool = False

    @property
    def wanted_mtu(self) -> int | str:
        return AUTO if self.mtu_auto else self.mtu

    @model_validator(mode="after")
    def _check_mtu(self) -> Self:
        if self.mtu_auto and self.mtu not in (0, AUTO):
            raise ValueError(f"mtuAuto is true, and mtu is {self.mtu}")
        return self


class IpamSection(ConfigModel):
    """The part of `ipam` that a main plugin reads."""

    type: str = ""


class MacHolder(ConfigModel):
    """An object with the key `mac`: `runtimeConfig`, `args.cni`."""

    mac: Mac = ""


class ArgsSection(ConfigModel):
    """The `args` section, in which a runtime passes on values from its user."""

    cni: MacHolder = MacHolder()


def mac_in_effect(request: Request, runtime_config: MacHolder, args: ArgsSection, conf_mac: str = "") -> str:
    """Return the MAC address to use: runtimeConfig, then args.cni, then CNI_ARGS, then the config's own.

    :raises InvalidNetworkConfig: when CNI_ARGS has a MAC address that is not valid for a link.
    """
    from_args = parse_args(request.args).get("MAC", "")
    try:
        requested = runtime_config.mac or args.cni.mac or (parse_mac(from_args) if from_args else "")
    except ValueError as err:
        raise InvalidNetworkConfig(f"invalid network config: {err}", "CNI_ARGS: MAC") from err
    return requested or conf_mac
