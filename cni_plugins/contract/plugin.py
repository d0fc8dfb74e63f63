"""Declares a plugin: pure functions from request and facts to a plan and a result.

A *main* plugin makes an interface, a *chained* one changes what plugins before it in the list made. Both have
the same life (engine/lifecycle.py); docs/development.md tells how to write either.
"""

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

from cni_plugins.contract.facts import Asks, Facts
from cni_plugins.protocol.fields import IPAddress
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import Result
from cni_plugins.steps.step import Place, Plan

Config = TypeVar("Config")


class Decision(NamedTuple):
    """What a plugin decides for ADD and CHECK: the steps, and the result that ADD prints.

    :param lasting: steps before those of `plan` that stay although the ADD fails later.
    """

    plan: Plan
    result: Result
    lasting: Plan = ()

    @property
    def whole(self) -> Plan:
        return (*self.lasting, *self.plan)


def _no_config(_request: Request) -> Any:  # noqa: ANN401 (None, for a plugin without keys of its own)
    return None


def _no_ipam(_request: Request) -> str:
    return ""


def named_ipam(request: Request) -> str:
    """Return the type of the config's `ipam` section."""
    return request.ipam_type


def _no_facts(_request: Request, _config: object) -> Asks:
    return Asks()


def _always(_request: Request, _config: object, _facts: Facts) -> None:
    pass


def _nothing_to_delete(_request: Request, _config: object, _facts: Facts) -> Plan:
    return ()


def _nothing_to_collect(_request: Request, _facts: Facts) -> Plan:
    return ()


class Probing(NamedTuple):
    """The link on which to ask whether anybody has an address.

    :param sources: addresses of the link to ask from, where frames from no address are not forwarded.
    """

    where: Place
    link: str
    sources: tuple[IPAddress, ...] = ()


def _no_probing(_request: Request, _config: object, _facts: Facts) -> Probing | None:
    return None


def _unchanged(request: Request, _config: object, _facts: Facts | None) -> Request:
    return request


def _own_only(_request: Request, _config: object) -> str:
    return ""


def _same(_request: Request, config: Config) -> Config:
    return config


class Plugin(NamedTuple, Generic[Config]):
    """A plugin that makes or changes interfaces. Only `name` and `decide` are required.

    :param name: the name of its executable.
    :param decide: plan and result of ADD; CHECK compares the plan with the kernel. The lease is the IPAM
        plugin's answer, in CHECK the interface's part of prevResult. Raises a CniError when the facts forbid
        the plan.
    :param parse: returns the validated config; raises InvalidNetworkConfig. None if the plugin has no keys.
    :param ipam_type: the IPAM plugin to call, empty for none; called with broken configs too.
    :param asks: the facts to look up; the config is None for GC, and for a DEL whose config does not parse.
    :param admit: raises when the facts forbid an ADD whatever its addresses, before any is reserved.
    :param delete: the plan of DEL, which works with whatever is left; the config is None if it does not
        parse.
    :param collect: the plan of GC.
    :param status: raises NotAvailable when an ADD would fail now.
    :param ipam_request: the request that the IPAM plugin gets. DEL and GC have no facts for it, and it must
        do without the config as well.
    :param probes: where ADD asks, before it configures an address, whether anybody has it; None: it does
        not. The container's link is made first then, as for an IPAM plugin that needs it.
    :param shares: the network that steps of `decide` are about as a whole, so that ADDs of it must agree on
        what to make of it; empty: there are none.
    :param newest: returns the same config, or, if what it was read from has changed, another. Asked under the
        lock of `shares`, so that no older ADD undoes what a newer one did.
    :param is_chained: ADD and CHECK need a prevResult, and the rules it makes are its own: see
        ownership.Owner.
    """

    name: str
    decide: Callable[[Request, Config, Result, Facts], Decision]
    parse: Callable[[Request], Config] = _no_config
    ipam_type: Callable[[Request], str] = _no_ipam
    asks: Callable[[Request, Config | None], Asks] = _no_facts
    admit: Callable[[Request, Config, Facts], None] = _always
    delete: Callable[[Request, Config | None, Facts], Plan] = _nothing_to_delete
    collect: Callable[[Request, Facts], Plan] = _nothing_to_collect
    status: Callable[[Request, Config, Facts], None] = _always
    ipam_request: Callable[[Request, Config | None, Facts | None], Request] = _unchanged
    probes: Callable[[Request, Config, Facts], Probing | None] = _no_probing
    shares: Callable[[Request, Config], str] = _own_only
    newest: Callable[[Request, Config], Config] = _same
    is_chained: bool = False
