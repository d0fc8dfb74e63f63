"""The smallest main plugin: it makes nothing, and passes on what others made."""

from cni_plugins.contract.facts import Facts
from cni_plugins.contract.plugin import Decision, Plugin
from cni_plugins.protocol.request import Request
from cni_plugins.protocol.result import Result


def decide(request: Request, _config: None, _lease: Result, _facts: Facts) -> Decision:
    return Decision((), request.prev_result or Result())


PLUGIN = Plugin("noop", decide)
