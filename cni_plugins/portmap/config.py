"""The config of portmap: the published ports of the runtime, and how packets to them are translated."""

import re
from typing import Annotated, Self

from pydantic import Field, PlainValidator, model_validator

from cni_plugins.contract.model import ConfigModel, empty, load
from cni_plugins.protocol.fields import IPAddress, parse_address, shown
from cni_plugins.protocol.request import Request
from cni_plugins.steps.port_mappings import PortMapping

IPTABLES, NFTABLES = "iptables", "nftables"
_PROTOCOLS = ("tcp", "udp", "sctp")
_LARGEST_PORT = 65535
_DEFAULT_BIT, _LARGEST_BIT = 13, 31
_CHAIN_NAME = re.compile(r"[A-Za-z0-9_.:][A-Za-z0-9_.:-]{0,27}\Z")  # XT_EXTENSION_MAXNAMELEN
_NFT_WORD = re.compile(r'[A-Za-z0-9_.:/,!=<>@%&|^*+{}()\[\]"-]{1,255}\Z')  # no end of a statement, no comment
_IPTABLES_WORD = re.compile(r"[^\x00-\x1f\x7f]{1,255}\Z")
_NOT_CONDITIONS = frozenset(
    ("-j", "--jump", "-g", "--goto", "-t", "--table", "-A", "-D", "-I", "-R", "-N", "-X", "-F", "-P", "-E")
)


def _backend(value: object) -> object:
    if value in ("", IPTABLES, NFTABLES):
        return value
    raise ValueError(f"unrecognized backend {shown(value)} (must be iptables or nftables)")


def _bit(value: object) -> object:
    if type(value) is int and 0 <= value <= _LARGEST_BIT:
        return value
    raise ValueError(f"MasqMarkBit must be between 0 and 31, got {shown(value)}")


def _chain(value: object) -> object:
    if isinstance(value, str) and (value == "" or _CHAIN_NAME.match(value)):
        return value
    raise ValueError(f"{shown(value)} is not the name of an iptables chain")


def _host_port(value: object) -> object:
    return _checked_port(value, "Invalid host port number")


def _container_port(value: object) -> object:
    return _checked_port(value, "Invalid container port number")


def _checked_port(value: object, message: str) -> object:
    if type(value) is int and 0 < value <= _LARGEST_PORT:
        return value
    raise ValueError(f"{message}: {shown(value)} (must be 1 to {_LARGEST_PORT})")


def _protocol(value: object) -> object:
    if value in _PROTOCOLS:
        return value
    raise ValueError(f"protocol {shown(value)} is not one of tcp, udp, sctp")


def _host_ip(value: object) -> object:
    if value == "":
        return None
    address = parse_address(value)
    if address.is_multicast:
        raise ValueError(f"{shown(value)} is a multicast address")
    return getattr(address, "ipv4_mapped", None) or address


def _host_ports(mappings: list["Mapping"]) -> None:
    """:raises ValueError: when a port of the host is to go to two places."""
    seen: set[tuple[int, str, int, str]] = set()
    for mapping in mappings:
        for version in mapping.versions:
            port = (version, mapping.protocol, mapping.host_port, str(mapping.own_ip or ""))
            if port in seen:
                raise ValueError(f"host {mapping.in_words()} is published twice")
            seen.add(port)


class Mapping(ConfigModel):
    """One entry of `portMappings`."""

    host_port: Annotated[int, PlainValidator(_host_port)]
    container_port: Annotated[int, PlainValidator(_container_port)]
    protocol: Annotated[str, PlainValidator(_protocol)]
    host_ip: Annotated[IPAddress | None, PlainValidator(_host_ip)] = Field(default=None, alias="hostIP")

    @property
    def versions(self) -> tuple[int, ...]:
        """The IP versions that the host address belongs to."""
        return (4, 6) if self.host_ip is None else (self.host_ip.version,)

    @property
    def own_ip(self) -> IPAddress | None:
        """The only address of the host that has the port; 0.0.0.0 and :: stand for all of their version."""
        return None if self.host_ip is None or self.host_ip.is_unspecified else self.host_ip

    def in_words(self) -> str:
        return str(self.as_step())

    def as_step(self) -> PortMapping:
        return PortMapping(self.protocol, self.host_port, self.container_port, self.own_ip)


class RuntimeConfig(ConfigModel):
    """What the runtime's user asked for."""

    port_mappings: list[Mapping] = Field(default_factory=empty)

    @model_validator(mode="after")
    def _check_ports(self) -> Self:
        _host_ports(self.port_mappings)
        return self


class PortmapConfig(ConfigModel):
    """All keys of portmap."""

    backend: Annotated[str, PlainValidator(_backend)] = ""
    snat: bool = True
    masq_all: bool = False
    mark_masq_bit: Annotated[int | None, PlainValidator(_bit)] = None
    external_set_mark_chain: Annotated[str, PlainValidator(_chain)] = ""
    conditions_v4: list[str] = Field(default_factory=empty)
    conditions_v6: list[str] = Field(default_factory=empty)
    runtime_config: RuntimeConfig = RuntimeConfig()

    @property
    def chosen_backend(self) -> str:
        """The backend of the config, or the one whose words it contains, else nftables."""
        if self.backend:
            return self.backend
        return IPTABLES if self._for_iptables() else NFTABLES

    @property
    def mark_bit(self) -> int:
        return _DEFAULT_BIT if self.mark_masq_bit is None else self.mark_masq_bit

    @property
    def needs_nft(self) -> bool:
        """Whether the program nft must translate conditions."""
        return self.chosen_backend == NFTABLES and bool(self._worded())

    def conditions(self, version: int) -> tuple[str, ...]:
        return tuple(self.conditions_v4 if version == 4 else self.conditions_v6)  # noqa: PLR2004

    def _worded(self) -> dict[str, list[str]]:
        """Return the lists of conditions that are not empty, by their keys."""
        listed = {"conditionsV4": self.conditions_v4, "conditionsV6": self.conditions_v6}
        return {key: words for key, words in listed.items() if words}

    def _for_iptables(self) -> list[str]:
        """Return the keys whose values only iptables understands."""
        keys = [key for key, words in self._worded().items() if words[0].startswith(("-", "!"))]
        return [*keys, "externalSetMarkChain"] if self.external_set_mark_chain else keys

    def _for_nftables(self) -> list[str]:
        return [key for key, words in self._worded().items() if not words[0].startswith(("-", "!"))]

    @model_validator(mode="after")
    def _check_mark(self) -> Self:
        if self.external_set_mark_chain and self.mark_masq_bit is not None:
            raise ValueError("Cannot specify externalSetMarkChain and markMasqBit")
        return self

    @model_validator(mode="after")
    def _check_backend(self) -> Self:
        other = self._for_nftables() if self.chosen_backend == IPTABLES else self._for_iptables()
        if other:
            foreign = NFTABLES if self.chosen_backend == IPTABLES else IPTABLES
            raise ValueError(
                f"{self.chosen_backend} backend was requested but configuration contains "
                f"{foreign}-specific options [{' '.join(other)}]"
            )
        return self

    @model_validator(mode="after")
    def _check_words(self) -> Self:
        through_nft = self.chosen_backend == NFTABLES
        for key, words in self._worded().items():
            for word in words:
                if not (_NFT_WORD if through_nft else _IPTABLES_WORD).match(word) or word in _NOT_CONDITIONS:
                    raise ValueError(f"{key}: {shown(word)} is not part of a condition")
        return self


def parse(request: Request) -> PortmapConfig:
    return load(PortmapConfig, request.conf)
