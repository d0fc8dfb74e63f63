"""Formats the text output of `cnictl network`, with pure functions."""

from collections.abc import Iterable, Iterator

from cni_plugins.cli.network.create import Created
from cni_plugins.cli.network.listing import Network
from cni_plugins.cli.text import table

_HEAD = ("NAME", "DRIVER", "SCOPE", "SUBNET", "CONTAINERS")


def created(network: Created) -> Iterator[str]:
    """Yield the new network's name, and what it got."""
    what = ", ".join(network.subnets) or "without a subnet"
    vni = f", VNI {network.vni}" if network.vni else ""
    where = str(network.file or "")
    if network.is_shared:
        where = f"the store, and {where}" if where else "the store"
    yield f"{network.name}: {what}{vni}, in {where}"


def listed(networks: Iterable[Network]) -> Iterator[str]:
    return table(_HEAD, [_row(one) for one in networks])


def _row(network: Network) -> tuple[str, ...]:
    view = network.view
    subnets = ", ".join(map(str, view.subnets)) if view else ""
    return (
        network.name,
        (view.driver if view else "") or "-",
        scope(network),
        subnets or "-",
        str(len(network.containers) + sum(map(len, network.elsewhere.values()))),
    )


def scope(network: Network) -> str:
    return "cluster" if network.is_shared else "local"
