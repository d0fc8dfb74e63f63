"""Decides what stamp changes of the interface that an earlier plugin made."""

from collections.abc import Iterator

from cni_plugins.contract.facts import Facts
from cni_plugins.contract.plugin import Decision
from cni_plugins.contract.prev_result import host_end, own_interface, passed_on
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import Result
from cni_plugins.steps.firewall import DelOwnedRules, DelStaleRules, EnsureSourceGuard
from cni_plugins.steps.links import SetMac, SetMtu
from cni_plugins.steps.step import SANDBOX, Plan, Step
from tests.integration.chained.stamp.config import StampConfig


def decide(request: Request, config: StampConfig, _lease: Result, _facts: Facts) -> Decision:
    return Decision(tuple(_steps(request, config)), passed_on(request, mac=config.mac, mtu=config.mtu))


def _steps(request: Request, config: StampConfig) -> Iterator[Step]:
    outer = host_end(request)
    if config.guard and outer is not None:
        yield EnsureSourceGuard(request.owner, outer.name, config.mac or own_interface(request).mac)
    if config.mac:
        yield SetMac(SANDBOX, request.ifname, config.mac)
    if config.mtu:
        yield SetMtu(SANDBOX, request.ifname, config.mtu)


def delete(request: Request, _config: StampConfig | None, _facts: Facts) -> Plan:
    return (DelOwnedRules(request.owner),)


def collect(request: Request, _facts: Facts) -> Plan:
    return (DelStaleRules(request.network, request.plugin, request.valid_tags),)
