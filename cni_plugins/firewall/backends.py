"""Chooses the backend, and says what a host lacks for it."""

from typing import NamedTuple

from cni_plugins.contract.facts import Facts
from cni_plugins.contract.prev_result import host_interfaces
from cni_plugins.firewall.config import FirewallConfig
from cni_plugins.protocol.request import Request

NFTABLES, IPTABLES, FIREWALLD = "nftables", "iptables", "firewalld"


class Lack(NamedTuple):
    """What the host or its kernel lacks, and which key needs it."""

    what: str
    key: str


def chosen(request: Request, config: FirewallConfig, facts: Facts) -> str:
    """Return the backend: the configured one, or that which this host's packets need.

    CHECK judges an attachment by the backend that ADD chose, as config and host may have changed since.
    """
    found = facts.forward_filter
    if request.command == "CHECK" and found.recorded:
        return found.recorded
    if config.backend:
        return config.backend
    if found.firewalld and not found.in_iptables:
        return FIREWALLD
    needs_iptables = found.forward_drops or not found.nf_tables
    return IPTABLES if found.in_iptables or (needs_iptables and found.iptables) else NFTABLES


def is_by_reference(request: Request, facts: Facts) -> bool:
    """Say whether CHECK is of an attachment that the reference made: nothing is recorded, no link is ours."""
    is_check = request.command == "CHECK" and not facts.forward_filter.recorded
    return is_check and request.attachment.host_end not in host_interfaces(request)


def lack(config: FirewallConfig, backend: str, facts: Facts) -> Lack | None:
    """Return what is missing for the configured keys, None if nothing is."""
    found = facts.forward_filter
    key = f"backend is {config.backend}" if config.backend else "backend is not set"
    policy = f"ingressPolicy is {config.ingress_policy}"
    if backend == NFTABLES and not found.nf_tables:
        return Lack("this kernel has no nf_tables", key)
    if config.is_apart and backend != IPTABLES and not found.nf_tables:
        return Lack("this kernel has no nf_tables", policy)
    if config.is_isolated and not found.filters_frames and not found.br_netfilter:
        return Lack(
            "this kernel's nf_tables cannot filter frames of bridges, and br_netfilter is off", policy
        )
    return None
