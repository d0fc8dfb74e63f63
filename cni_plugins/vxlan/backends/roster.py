"""Defines the contract of backends: a config model that returns the hosts of an overlay as a roster.

A backend only reads records, from a file, a store or an API. The kernel entries for them are computed in
peer_entries, in the same way for all backends.
"""

from typing import NamedTuple, Protocol

from cni_plugins.protocol.fields import IPAddress, IPNetwork
from cni_plugins.vxlan.records import Extent, Record, Records, indexed


class Roster(NamedTuple):
    """The known hosts of an overlay.

    :param own: node name of this host's record; empty: the one whose VTEP is an address of this host.
    :param records: records of all hosts including this one; None if hosts are found by multicast.
    :param parts: this host's subnets or blocks, if its record does not list them.
    :param group: the multicast group that reaches all hosts.
    :param ttl: TTL of packets to the group, 0: the kernel's default.
    :param path: the file that lists the records, empty if the config itself does.
    """

    own: str = ""
    records: tuple[Record, ...] | None = None
    parts: tuple[IPNetwork, ...] = ()
    group: IPAddress | None = None
    ttl: int = 0
    path: str = ""

    @property
    def known(self) -> Records:
        """The records, none if hosts are found by multicast."""
        return indexed(self.records or ())

    @property
    def is_bare(self) -> bool:
        """Say whether only the VTEPs of peers are known, so hosts must resolve addresses by ARP and ND."""
        return self.known.is_bare


class Backend(Protocol):
    """The `backend` section of the config, for one backend type."""

    def roster(self, network: str, extent: Extent, /) -> Roster:
        """Read the roster as it is now.

        :raises InvalidNetworkConfig: when it contradicts itself or the network's config.
        :raises IoFailed: when it cannot be read.
        :raises TryAgainLater: when the keeper has not read the store yet.
        """
        ...

    def doubt(self, network: str, /) -> str:
        """Return a sentence about why the roster may be out of date; empty if nothing says so."""
        ...
