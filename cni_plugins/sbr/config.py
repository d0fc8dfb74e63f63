"""Validates the sbr plugin's config: every key of the reference (docs/sbr.md)."""

from typing import Annotated

from pydantic import Field, PlainValidator

from cni_plugins.contract.model import ConfigModel, load
from cni_plugins.protocol.fields import IPAddress, parse_address, shown
from cni_plugins.protocol.request import Request

_LARGEST_TABLE = 0xFFFFFFFF
_MOST_GATEWAYS = 2


def _table(value: object) -> object:
    if type(value) is int and 1 <= value <= _LARGEST_TABLE:
        return value
    raise ValueError(f"invalid table {shown(value)} (must be 1 to {_LARGEST_TABLE})")


def _gateways(value: object) -> list[IPAddress]:
    """Return the addresses, at most one of each IP version; messages are the reference's."""
    if not isinstance(value, list):
        raise ValueError(f"expected a list of addresses, got {shown(value)}")  # noqa: TRY004 (pydantic collects ValueErrors)
    if len(value) > _MOST_GATEWAYS:
        raise ValueError(
            f"gateways list cannot contain more than {_MOST_GATEWAYS} entries (one IPv4, one IPv6)"
        )
    found = [_gateway(item) for item in value]
    if len({address.version for address in found}) < len(found):
        first, second = found
        raise ValueError(
            f"gateways list contains multiple IPv{first.version} addresses: {first} and {second}"
        )
    return found


def _gateway(value: object) -> IPAddress:
    try:
        address = parse_address(value)
    except ValueError:
        raise ValueError(f"invalid static gateway IP address: {shown(value)}") from None
    if address.is_unspecified or address.is_multicast or address.is_loopback:
        raise ValueError(f"static gateway {address} is not the address of a neighbour")
    return address


class SbrConfig(ConfigModel):
    """The network config."""

    table: Annotated[int, PlainValidator(_table)] | None = None
    gateways: Annotated[list[IPAddress], PlainValidator(_gateways)] = Field(default=[])
    add_source_hints: bool = False

    def gateway(self, version: int) -> IPAddress | None:
        """Return the configured gateway of an IP version."""
        return next((address for address in self.gateways if address.version == version), None)


def parse(request: Request) -> SbrConfig:
    return load(SbrConfig, request.conf)
