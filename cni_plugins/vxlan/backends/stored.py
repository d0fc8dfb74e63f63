"""Implements the backends etcd, consul and zookeeper as plugins see them: a snapshot that the keeper writes.

No plugin talks to a store, so ADD, CHECK and DEL work while it is down. The snapshot has the format of a
peers file, and is checked like one.
"""

import os
import time

from cni_plugins.contract import snapshot
from cni_plugins.contract.registry_config import RegistrySection
from cni_plugins.errors import InvalidNetworkConfig, TryAgainLater
from cni_plugins.vxlan.backends import static
from cni_plugins.vxlan.backends.roster import Roster
from cni_plugins.vxlan.records import Extent

PATIENCE = 180.0  # seconds; the keeper confirms the snapshot several times in this while
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


class StoredBackend(RegistrySection):
    """The `backend` section."""

    def roster(self, network: str, extent: Extent) -> Roster:
        """Return the peers that the keeper has last seen.

        :raises TryAgainLater: when it has not seen any, with the reason if it knows one.
        :raises InvalidNetworkConfig: when the snapshot contradicts itself or the network's config.
        """
        directory = snapshot.overlay_dir(network)
        path = f"{directory}/peers.json"
        if not os.path.exists(path):
            raise _not_yet(network, directory, self.type)
        own, records = static.listed(path, extent)
        if own and own not in records.by_node:
            raise InvalidNetworkConfig(
                f"invalid peers: this host, {own}, is not among them", f"{path}, which the keeper has written"
            )
        return Roster(own=own, records=records, path=path)

    def doubt(self, network: str) -> str:
        """Return the store's trouble, or that nobody follows it, with the age of the snapshot."""
        directory = snapshot.overlay_dir(network)
        state = snapshot.read_state(directory)
        if state is None:
            return f"no keeper has written {directory}/state.json: is cnictl agent running?"
        age = max(time.time() - state.confirmed, 0.0)
        confirmed = f"last confirmed {_shown(age)} ago" if state.confirmed else "never confirmed"
        if state.state != "following":
            return f"{self.type}: {state.trouble or state.state}; the peers were {confirmed}"
        if age > PATIENCE:
            return f"{self.type} is not followed: is cnictl agent running? The peers were {confirmed}"
        return ""


def _shown(seconds: float) -> str:
    size, unit = next(((size, unit) for size, unit in _UNITS if seconds >= size), _UNITS[-1])
    return f"{int(seconds // size)} {unit}"


def _not_yet(network: str, directory: str, kind: str) -> TryAgainLater:
    state = snapshot.read_state(directory)
    if state is not None and state.trouble:
        return TryAgainLater(f"the peers of network {network} are not known yet: {state.trouble}", directory)
    return TryAgainLater(
        f"the peers of network {network} are not known yet",
        f"backend {kind}: cnictl agent, or cnictl overlay sync, writes {directory}/peers.json",
    )
