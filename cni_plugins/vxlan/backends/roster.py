"""What a backend tells: the hosts of the overlay, or how they find each other.

A backend is a model of its config that answers with a roster. Whatever keeps the records (a file, a store,
an API), what becomes of them in the kernel is decided elsewhere, once for all backends.
"""

from typing import NamedTuple, Protocol

from cni_plugins.protocol.fields import IPAddress, IPNetwork
from cni_plugins.vxlan.records import Extent, Record


class Roster(NamedTuple):
    """The hosts, as far as they are known.

    :param own: the node name of this host's record; empty: the record with an address of this host.
    :param records: of all hosts, this one's too; None when nobody knows them and a group finds them.
    :param parts: this host's subnets or blocks, where its record does not say.
    :param group: the multicast group that reaches all hosts.
    """

    own: str = ""
    records: tuple[Record, ...] | None = None
    parts: tuple[IPNetwork, ...] = ()
    group: IPAddress | None = None
    ttl: int = 0

    @property
    def is_bare(self) -> bool:
        """Say whether peers are known by their addresses alone, so that the hosts must ask each other."""
        return not any(record.subnets or record.blocks for record in self.records or ())


class Backend(Protocol):
    """The part of the config under `backend`, for one type of it."""

    def roster(self, extent: Extent) -> Roster:
        """Read the roster as it is now.

        :raises InvalidNetworkConfig: when it contradicts itself or the network's config.
        :raises IoFailed: when it cannot be read.
        """
        ...
