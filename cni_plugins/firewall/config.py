"""Validates the firewall plugin's config: the keys of the reference (docs/firewall.md)."""

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator

from cni_plugins.contract.model import ConfigModel, load
from cni_plugins.protocol.fields import shown
from cni_plugins.protocol.request import Request

Backend = Literal["", "iptables", "nftables", "firewalld"]
OPEN, SAME_BRIDGE, ISOLATED = "open", "same-bridge", "isolated"
DEFAULT_ZONE, _DEFAULT_CHAIN = "trusted", "CNI-ADMIN"
_POLICIES = (OPEN, SAME_BRIDGE, ISOLATED)
# linux/netfilter/x_tables.h: XT_EXTENSION_MAXNAMELEN is 29 with the NUL. iptables takes - and ! for options.
_CHAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:\-]{0,27}\Z")
_TAKEN = frozenset(
    (
        *("INPUT", "FORWARD", "OUTPUT", "CNI-FORWARD", "CNI-ISOLATION-STAGE-1", "CNI-ISOLATION-STAGE-2"),
        *("ACCEPT", "DROP", "REJECT", "RETURN", "QUEUE"),
    )
)
_ZONE = re.compile(r"[A-Za-z0-9_\-]+(/[A-Za-z0-9_\-]+)?\Z")
_LONGEST_ZONE = 64


def _policy(value: object) -> object:
    if isinstance(value, str) and value and value not in _POLICIES:
        raise ValueError(f'unknown ingress policy: "{value[:80]}" (known are {", ".join(_POLICIES)})')
    return value or OPEN if isinstance(value, str) else value


def _admin_chain(value: object) -> object:
    if not isinstance(value, str):
        return value
    if value and not _CHAIN.match(value):
        raise ValueError(f"{shown(value)} cannot be a chain of iptables: 1 to 28 of A-Za-z0-9_.:-")
    if value in _TAKEN:
        raise ValueError(f"{shown(value)} is a chain or target of another purpose")
    return value or _DEFAULT_CHAIN


def _zone(value: object) -> object:
    if isinstance(value, str) and value and (len(value) > _LONGEST_ZONE or not _ZONE.match(value)):
        raise ValueError(f"{shown(value)} cannot be the name of a zone of firewalld")
    return value or DEFAULT_ZONE if isinstance(value, str) else value


class FirewallConfig(ConfigModel):
    """The network config; empty texts stand for the defaults, as in the reference."""

    backend: Backend = ""
    iptables_admin_chain_name: Annotated[str, BeforeValidator(_admin_chain)] = _DEFAULT_CHAIN
    firewalld_zone: Annotated[str, BeforeValidator(_zone)] = DEFAULT_ZONE
    ingress_policy: Annotated[str, BeforeValidator(_policy)] = OPEN

    @property
    def is_apart(self) -> bool:
        """Whether the container's bridge is kept apart from others."""
        return self.ingress_policy != OPEN

    @property
    def is_isolated(self) -> bool:
        """Whether the container is kept apart from others on its own bridge as well."""
        return self.ingress_policy == ISOLATED


def parse(request: Request) -> FirewallConfig:
    """:raises InvalidNetworkConfig: naming every fault."""
    return load(FirewallConfig, request.conf)
