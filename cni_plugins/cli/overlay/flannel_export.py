"""Writes the records of a static list of peers into flannel's etcd."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from cni_plugins.cli.failure import Failed
from cni_plugins.errors import CniError
from cni_plugins.protocol.request import Request
from cni_plugins.registries.flannel_registry import FlannelRegistry
from cni_plugins.registries.network_registry import Refused
from cni_plugins.registries.store import Store
from cni_plugins.upkeep.overlay_configs import Configured
from cni_plugins.vxlan.config import parse
from cni_plugins.vxlan.records import Record


class Outcome(NamedTuple):
    text: str
    is_fault: bool = False


def records(configured: Configured, nodes: Sequence[str]) -> list[Record]:
    """Return the records of these nodes, or all.

    :raises Failed: when the list cannot be read, or has no such node.
    """
    try:
        overlay = parse(Request(command="STATUS", network=configured.network, conf=configured.conf))
    except CniError as err:
        raise Failed(f"{configured.file}: {err.msg}") from err
    listed = {record.node: record for record in overlay.roster.records or ()}
    unknown = next((node for node in nodes if node not in listed), None)
    if unknown is not None:
        raise Failed(
            f"network {configured.network} has no node {unknown}, only {', '.join(listed) or 'none'}"
        )
    return [listed[node] for node in dict.fromkeys(nodes or listed)]


def export(
    store: Store, configured: Configured, listed: Sequence[Record], *, dry_run: bool
) -> Iterator[Outcome]:
    """Write the records, and yield what became of each.

    :raises StoreFailed:
    :raises Refused: when the network's config is not flannel's.
    """
    registry = FlannelRegistry(store, configured.network, configured.conf)
    registry.config()
    for record in listed:
        where = f"{record.node} ({record.vtep})"
        subnets = [str(subnet) for subnet in record.subnets]
        fields = {"node": record.node, "vtep": str(record.vtep), "subnets": subnets, "mac": record.mac}
        try:
            done = registry.export(fields, dry_run=dry_run)
        except Refused as err:
            yield Outcome(f"{where}: {err}", is_fault=True)
            continue
        yield Outcome(f"{where}: {_words(done, dry_run=dry_run)}")


def _words(done: str, *, dry_run: bool) -> str:
    if not done:
        return "is there"
    return f"would be {done}" if dry_run else done
