"""Declares the loopback plugin, which sets `lo` of the sandbox up, whatever CNI_IFNAME is.

Its position in a list is free: it returns a prevResult unchanged. It has no keys of its own and ignores an
`ipam` section, which is for other plugins.
"""

from ipaddress import ip_interface

from cni_plugins.contract.facts import Asks, Facts
from cni_plugins.contract.plugin import Decision, Plugin
from cni_plugins.errors import KernelRefused
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import Interface, IPConfig, Result
from cni_plugins.steps.links import EnsureUp, SetDown
from cni_plugins.steps.step import SANDBOX, Plan

_LINK, _NO_MAC = "lo", "00:00:00:00:00:00"
# The kernel adds these addresses when `lo` is set up, as far as it supports the family.
_ADDRESSES = (ip_interface("127.0.0.1/8"), ip_interface("::1/128"))


def asks(request: Request, _config: None) -> Asks:
    return Asks(sandbox=(_LINK,), ipv6_in_sandbox=request.command == "ADD")


def decide(request: Request, _config: None, _lease: Result, facts: Facts) -> Decision:
    """:raises KernelRefused: when `lo` has an address that is not a loopback address."""
    link = facts.sandbox.get(_LINK)
    foreign = [item for item in link.addresses if not item.ip.is_loopback] if link else []
    if foreign:
        raise KernelRefused(
            f'loopback interface found with non-loopback address "{foreign[0]}"',
            f"link is {_LINK} in the sandbox",
        )
    return Decision((EnsureUp(SANDBOX, _LINK),), request.prev_result or _result(request, facts))


def _result(request: Request, facts: Facts) -> Result:
    addresses = _ADDRESSES if facts.ipv6_in_sandbox else _ADDRESSES[:1]
    return Result(
        interfaces=(Interface(_LINK, _NO_MAC, request.netns),),
        ips=tuple(IPConfig(address, interface=0) for address in addresses),
    )


def delete(_request: Request, _config: None, facts: Facts) -> Plan:
    return (SetDown(SANDBOX, _LINK),) if facts.has_sandbox else ()


PLUGIN = Plugin("loopback", decide, asks=asks, delete=delete)
