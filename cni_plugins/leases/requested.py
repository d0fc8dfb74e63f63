"""Reads the addresses that a runtime asks for: CNI_ARGS, args.cni.ips, the capability `ips`."""

from collections.abc import Iterator
from ipaddress import IPv6Address
from typing import Annotated

from pydantic import Field, PlainValidator

from cni_plugins.contract.model import ConfigModel, empty
from cni_plugins.errors import BadEnvironment
from cni_plugins.protocol.args import parse_args
from cni_plugins.protocol.fields import IPAddress, parse_address


def requested_address(value: object) -> IPAddress:
    """Parse an address and ignore its prefix length, if any: the range determines that.

    :raises ValueError: naming the value.
    """
    address = parse_address(value.partition("/")[0] if isinstance(value, str) else value)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


Requested = Annotated[IPAddress, PlainValidator(requested_address)]


class CniArgs(ConfigModel):
    ips: list[Requested] = Field(default_factory=empty)


class ArgsWithIps(ConfigModel):
    cni: CniArgs = Field(default_factory=CniArgs)


def of_arguments(args: str) -> Iterator[IPAddress]:
    """Yield the address in CNI_ARGS.

    :raises BadEnvironment: when it is none.
    """
    value = parse_args(args).get("IP")
    if value:
        try:
            yield requested_address(value)
        except ValueError as err:
            raise BadEnvironment(f"cannot understand ip: {err}", f"CNI_ARGS has IP={value}") from err
