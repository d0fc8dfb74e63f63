"""The loopback plugin: `lo` of the sandbox is up, whatever interface name the runtime says.

Its place in a chain may be anywhere: a prevResult is passed on unchanged. It has no config of its own.
"""

from ipaddress import ip_interface

from cni_plugins.contract.facts import Asks, Facts
from cni_plugins.contract.plugin import Plugin
from cni_plugins.errors import KernelRefused
from cni_plugins.spec.request import Request
from cni_plugins.spec.result import Interface, IPConfig, Result
from cni_plugins.steps.links import EnsureUp, SetDown
from cni_plugins.steps.places import SANDBOX
from cni_plugins.steps.plan import Plan

_LINK = "lo"
_NO_MAC = "00:00:00:00:00:00"
# What the kernel gives `lo` as it comes up; an address counts where the kernel has its family.
_ADDRESSES = (ip_interface("127.0.0.1/8"), ip_interface("::1/128"))


def parse(_request: Request) -> None:
    """There is nothing to parse."""


def asks(request: Request, _config: None) -> Asks:
    return Asks(sandbox=(_LINK,), ipv6_in_sandbox=request.command == "ADD")


def admit(_request: Request, _config: None, _facts: Facts) -> None:
    """Bringing `lo` up twice does no harm."""


def add(_request: Request, _config: None, _lease: Result, facts: Facts) -> Plan:
    """:raises KernelRefused: when `lo` bears an address of the outside world."""
    link = facts.sandbox.get(_LINK)
    foreign = [item for item in link.addresses if not item.ip.is_loopback] if link else []
    if foreign:
        raise KernelRefused(
            f'loopback interface found with non-loopback address "{foreign[0]}"',
            f"link is {_LINK} in the sandbox",
        )
    return (EnsureUp(SANDBOX, _LINK),)


def delete(_request: Request, _config: None, facts: Facts) -> Plan:
    return (SetDown(SANDBOX, _LINK),) if facts.has_sandbox else ()


def collect(_request: Request, _facts: Facts) -> Plan:
    """Nothing is made in the host, so nothing can be left there."""
    return ()


def result(request: Request, _config: None, _lease: Result, facts: Facts) -> Result:
    if request.prev_result is not None:
        return request.prev_result
    addresses = _ADDRESSES if facts.ipv6_in_sandbox else _ADDRESSES[:1]
    return Result(
        interfaces=(Interface(_LINK, _NO_MAC, request.netns),),
        ips=tuple(IPConfig(address, interface=0) for address in addresses),
    )


def status(_request: Request, _config: None, _facts: Facts) -> None:
    """Every kernel has a loopback link."""


def ipam_type(_request: Request) -> str:
    """Addresses of `lo` are the kernel's; an `ipam` section of the network is for other plugins."""
    return ""


PLUGIN = Plugin(
    name="loopback",
    parse=parse,
    ipam_type=ipam_type,
    asks=asks,
    admit=admit,
    plan_add=add,
    plan_del=delete,
    plan_gc=collect,
    result=result,
    status=status,
)
