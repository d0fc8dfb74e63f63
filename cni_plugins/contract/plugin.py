"""What a plugin that makes interfaces declares: pure functions, from request and facts to plan and result."""

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from cni_plugins.contract.facts import Asks, Facts
from cni_plugins.spec.request import Request
from cni_plugins.spec.result import Result
from cni_plugins.steps.plan import Plan

Config = TypeVar("Config")


def unchanged(request: Request, _config: object, _facts: Facts | None) -> Request:
    """Return what most IPAM plugins get: the main plugin's request."""
    return request


class Plugin(NamedTuple, Generic[Config]):
    """A main plugin.

    `parse` raises InvalidNetworkConfig. `asks` and `plan_del` get None for a config that does not parse,
    because DEL works with whatever is left. `admit` raises when the facts forbid an ADD whatever its
    addresses, before any is reserved; `plan_add` when they forbid the plan. The same plan serves CHECK, where
    the lease is read from prevResult. `status` raises NotAvailable. `ipam_type` is empty for an interface
    without addresses, and asked of broken configs too. `ipam_request` makes the request that the IPAM plugin
    gets; DEL and GC have no facts for it, and it must do without the config too.
    """

    name: str
    parse: Callable[[Request], Config]
    ipam_type: Callable[[Request], str]
    asks: Callable[[Request, Config | None], Asks]
    admit: Callable[[Request, Config, Facts], None]
    plan_add: Callable[[Request, Config, Result, Facts], Plan]
    plan_del: Callable[[Request, Config | None, Facts], Plan]
    plan_gc: Callable[[Request, Facts], Plan]
    result: Callable[[Request, Config, Result, Facts], Result]
    status: Callable[[Request, Config, Facts], None]
    ipam_request: Callable[[Request, Config | None, Facts | None], Request] = unchanged
