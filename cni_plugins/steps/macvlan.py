"""Defines the steps for macvlan links, and for the VLAN links and host links that several of them share."""

from collections.abc import Mapping
from typing import Final, Literal

from cni_plugins.ownership import Attachment
from cni_plugins.steps.links import DelLink
from cni_plugins.steps.step import OF_CONTAINER, SANDBOX, Place, Removal, Shared, Step

MacvlanMode = Literal["bridge", "vepa", "private", "passthru", "source"]
VlanProtocol = Literal["802.1q", "802.1ad"]

ETHERTYPES: Mapping[VlanProtocol, int] = {"802.1q": 0x8100, "802.1ad": 0x88A8}  # linux/if_ether.h
NO_MARK: Final = 0  # which no attachment has


class AddMacvlan(Step):
    """A macvlan link in the sandbox on a master in `where`; mtu 0: the master's.

    :param mac: empty in mode passthru, where the link has the master's address.
    :param bc_queue_len: length of the broadcast queue in frames; 0: the kernel's default.
    :param sources: mode source only: the source addresses that the link receives from.
    """

    where: Place
    master: str
    ifname: str
    attachment: Attachment
    mac: str
    mtu: int
    mode: MacvlanMode
    bc_queue_len: int = 0
    sources: tuple[str, ...] = ()
    has_alias: bool = True

    not_repaired_because = OF_CONTAINER

    def inverse(self, before: str) -> Step:
        return DelLink(SANDBOX, self.ifname)

    def inverse_unheard(self) -> Step:
        return DelAttached(self.attachment)

    def phrase(self) -> str:
        return f"create macvlan link {self.ifname} on {self.master}"


class DelAttached(Removal):
    """No macvlan link of the attachment is left in any network namespace that was one of our sandboxes."""

    attachment: Attachment

    ends_use = True

    def phrase(self) -> str:
        return f"delete macvlan link {self.attachment.ifname}"


class DelStaleAttached(Removal):
    """GC: no macvlan link of the network is left in any sandbox, but for the attachments with these tags."""

    network: str
    valid_tags: frozenset[str]

    ends_use = True

    def phrase(self) -> str:
        return f"delete stale macvlan links of network {self.network}"


class EnsureVlan(Shared):
    """A VLAN link (IEEE 802.1Q) of this name is up on the master; an existing one is left as it is."""

    name: str
    master: str
    vlan: int
    protocol: VlanProtocol

    def inverse(self, before: str) -> Step:
        return DelIdleVlans()

    def phrase(self) -> str:
        return f"create VLAN link {self.name} on {self.master}"


class DelIdleVlans(Removal):
    """The VLAN links that this suite created and that are unused are gone."""

    def phrase(self) -> str:
        return "delete idle VLAN links"


class EnsureHostLink(Shared):
    """The host has a macvlan link of its own on the master, in mode bridge, and it is up."""

    name: str
    master: str
    mac: str
    mtu: int
    network: str

    def inverse(self, before: str) -> Step:
        return DelHostAccess(self.network, NO_MARK)

    def phrase(self) -> str:
        return f"create the host's macvlan link {self.name} on {self.master}"


class DelHostAccess(Removal):
    """No route to the attachment leads out of the network's host links; one without routes is gone."""

    network: str
    mark: int

    def phrase(self) -> str:
        return f"delete host access of network {self.network}"


class DelStaleHostAccess(Removal):
    """GC: the same for every mark but these."""

    network: str
    valid_marks: frozenset[int]

    def phrase(self) -> str:
        return f"delete stale host access of network {self.network}"
