"""Declares the tuning plugin: the facts it needs, its plans, and STATUS."""

from cni_plugins.contract.facts import Asks, Facts
from cni_plugins.contract.plugin import Plugin
from cni_plugins.errors import CniError, NotAvailable
from cni_plugins.protocol.request import Request
from cni_plugins.tuning import allow_list, config
from cni_plugins.tuning.config import Tuning
from cni_plugins.tuning.plan import collect, decide, delete


def parse(request: Request) -> Tuning:
    """Return what is to be set, which the host's administrator must allow; DEL sets nothing.

    :raises CniError: for a fault of the config or of the list, or a sysctl that is not allowed.
    """
    tuning = config.parse(request)
    if request.command in ("ADD", "CHECK"):
        allow_list.require_allowed(tuning.names)
    return tuning


def asks(request: Request, tuning: Tuning | None) -> Asks:
    if tuning is None or request.command == "DEL":
        return Asks()
    if request.command == "STATUS":
        return Asks(backup_dir=tuning.data_dir)
    return Asks(sandbox=(request.ifname,) if tuning.mtu_both_ends else ())


def status(_request: Request, tuning: Tuning, facts: Facts) -> None:
    """:raises NotAvailable: when a sysctl is not allowed, or old values could not be recorded."""
    try:
        allow_list.require_allowed(tuning.names)
    except CniError as err:
        raise NotAvailable(err.msg, err.details) from err
    if facts.backup_dir_fault:
        raise NotAvailable(
            f"dataDir cannot be used: {facts.backup_dir_fault}", f"dataDir is {tuning.data_dir}"
        )


PLUGIN = Plugin(
    name="tuning",
    decide=decide,
    parse=parse,
    asks=asks,
    delete=delete,
    collect=collect,
    status=status,
    is_chained=True,
)
