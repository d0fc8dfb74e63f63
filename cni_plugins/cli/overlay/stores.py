"""What `cnictl overlay` does with the stores of networks, and says of them."""

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from cni_plugins.cli.failure import Failed
from cni_plugins.errors import CniError
from cni_plugins.keeper import followed, once, overview
from cni_plugins.keeper.followed import Followed
from cni_plugins.keeper.once import Released
from cni_plugins.protocol.fields import shown
from cni_plugins.upkeep.overlay_configs import Configured


def read_all(networks: Iterable[Configured]) -> list[str]:
    """Do one round with the store of each network that has one; return what is wrong."""
    found = ((one.network, once.round_of(one)) for one in _in_stores(networks))
    return [f"network {network}: {trouble}" for network, trouble in found if trouble]


def release(networks: Iterable[Configured], node: str, *, force: bool, named: bool) -> list[Released]:
    """Release a node in each network that is in a store.

    :param named: whether the networks were named: then it is an error if a node is not in one of them.
    :raises Failed: when no network is in a store.
    """
    in_stores = list(_in_stores(networks))
    if not in_stores:
        raise Failed("no such network has its peers in a store")
    found = [once.release(one, node, force=force) for one in in_stores]
    if not named and any(not one.error for one in found):
        return [one for one in found if one.error != once.no_node(node)]
    return found


def _in_stores(networks: Iterable[Configured]) -> Iterator[Followed]:
    """Yield the networks in stores; what is wrong with a config is told elsewhere."""
    for one in networks:
        try:
            network = followed.of(one)
        except CniError:
            continue
        if network is not None and network.section is not None:
            yield network


def released_lines(node: str, released: Sequence[Released]) -> Iterator[str]:
    for one in released:
        if not one.error:
            parts = ", ".join(one.parts) or "no subnet or block"
            record = "its record" if one.had_record else "no record"
            yield f"{one.network}: released {shown(node)}: {record}, {parts}"


def released_document(node: str, released: Sequence[Released]) -> list[dict[str, Any]]:
    return [
        {
            "network": one.network,
            "node": node,
            "released": not one.error,
            "addresses": list(one.parts),
            "error": one.error or None,
        }
        for one in released
    ]


def status_lines(network: str) -> Iterator[str]:
    """Yield what the keeper, or a round of `sync`, has told of a network; nothing if it is in no store."""
    state = overview.state_of(network)
    if "state" not in state:
        return
    trouble = f", {state['trouble']}" if state.get("trouble") else ""
    where = f"{state.get('registry', '-')}, node {state.get('node', '-')}"
    yield f"  store     {where}, {state['state']}{trouble}"
    yield f"  confirmed {_age(state.get('confirmed', 0.0))}"
    silent = state.get("silentCount", 0)
    if silent:
        named = [str(node) for node in state.get("silent", [])]
        more = [f"and {silent - len(named)} more"] if silent > len(named) else []
        yield f"  silent    {', '.join([*named, *more])}"


def _age(when: float) -> str:
    return f"{max(0.0, time.time() - when):.0f} s ago" if when else "never"


def status_document(network: str) -> dict[str, Any] | None:
    """Return the same as JSON, None if the network is in no store."""
    state = overview.state_of(network)
    if "state" not in state:
        return None
    return {
        "type": state.get("registry"),
        "node": state.get("node"),
        "state": state["state"],
        "trouble": state.get("trouble", ""),
        "since": state.get("since"),
        "confirmed": state.get("confirmed") or None,
        "silent": state.get("silent", []),
        "silent_count": state.get("silentCount", 0),
        "changes_applied": state.get("applied", 0),
    }
