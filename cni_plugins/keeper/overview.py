"""Reads what keepers have told of all networks, for the agent's status, for metrics and for `cnictl`."""

from typing import Any

from cni_plugins.keeper.files import USUAL, NetworkFiles, Places, networks_with_files

_MOST = 1000  # networks
_KEYS = {
    "registry": str,
    "node": str,
    "state": str,
    "trouble": str,
    "since": (int, float),
    "confirmed": (int, float),
    "peers": int,
    "applied": int,
    "silent": list,
    "silentCount": int,
}


def states(places: Places = USUAL) -> list[dict[str, Any]]:
    """Return the state of each network in a store that this host has been told of."""
    found = (state_of(network, places) for network in networks_with_files(places)[:_MOST])
    return [one for one in found if "state" in one]


def state_of(network: str, places: Places = USUAL) -> dict[str, Any]:
    """Return what is known of one network; without a keeper, nothing but its name."""
    state = NetworkFiles(network, places).state()
    known = {key: state[key] for key, kind in _KEYS.items() if isinstance(state.get(key), kind)}  # type: ignore[arg-type]
    return {"network": network, **known}
