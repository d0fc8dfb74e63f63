"""Implements the backends etcd, consul and zookeeper as plugins see them: a snapshot that the keeper writes.

No plugin talks to a store, so ADD, CHECK and DEL work while it is down. The snapshot has the format of a
peers file, and is checked like one.
"""

import os

from cni_plugins.contract import snapshot
from cni_plugins.contract.registry_config import RegistrySection
from cni_plugins.errors import TryAgainLater
from cni_plugins.vxlan.backends import static
from cni_plugins.vxlan.backends.roster import Roster
from cni_plugins.vxlan.records import Extent


class StoredBackend(RegistrySection):
    """The `backend` section."""

    def roster(self, network: str, extent: Extent) -> Roster:
        """Return the peers that the keeper has last seen.

        :raises TryAgainLater: when it has not seen any, with the reason if it knows one.
        """
        directory = snapshot.overlay_dir(network)
        path = f"{directory}/peers.json"
        if not os.path.exists(path):
            raise _not_yet(network, directory, self.type)
        found = static.read(path)
        static.require_sound(found.peers, extent, path)
        return Roster(own=found.own, records=tuple(model.record() for model in found.peers))


def _not_yet(network: str, directory: str, kind: str) -> TryAgainLater:
    state = snapshot.read_state(directory)
    if state is not None and state.trouble:
        return TryAgainLater(f"the peers of network {network} are not known yet: {state.trouble}", directory)
    return TryAgainLater(
        f"the peers of network {network} are not known yet",
        f"backend {kind}: cnictl agent, or cnictl overlay sync, writes {directory}/peers.json",
    )
