"""Defines the steps for filter and translation rules; each rule belongs to one plugin of an attachment."""

from cni_plugins.ownership import Attachment, Owner
from cni_plugins.protocol.fields import IPInterface, IPNetwork
from cni_plugins.steps.step import Removal, Step


class EnsureMasquerade(Step):
    """Packets from these addresses leave with the host's, unless bound for their own subnet or `exclude`.

    :param link: the host link whose absence shows that the attachment is gone, if there is one.
    :param exempts_network: packets to these and the network's other addresses are exempt, instead of those to
        their own subnet.
    """

    owner: Owner
    addresses: tuple[IPInterface, ...]
    exclude: tuple[IPNetwork, ...]
    random_fully: bool
    link: str = ""
    exempts_network: bool = False

    may_be_half_done = True
    not_repaired_because = ""

    def inverse(self, before: str) -> Step:
        return DelOwnedRules(self.owner)

    def phrase(self) -> str:
        return f"masquerade {', '.join(map(str, self.addresses))}"


class EnsureIptablesMasquerade(Step):
    """The same through the iptables executables, with the reference's chain names."""

    attachment: Attachment
    addresses: tuple[IPInterface, ...]
    exclude: tuple[IPNetwork, ...]
    random_fully: bool

    may_be_half_done = True
    not_repaired_because = ""

    def inverse(self, before: str) -> Step:
        return DelIptablesMasquerade(self.attachment)

    def phrase(self) -> str:
        return f"masquerade {', '.join(map(str, self.addresses))} with iptables"


class DelIptablesMasquerade(Removal):
    """No iptables rule of the attachment is left."""

    attachment: Attachment

    def phrase(self) -> str:
        return f"delete iptables masquerading of {self.attachment.ifname}"


class EnsureSourceGuard(Step):
    """Frames that enter the host by `link` with any other source address are dropped.

    :param recorded_mac: CHECK accepts this one too, if given.
    """

    owner: Owner
    link: str
    mac: str
    recorded_mac: str = ""

    may_be_half_done = True
    not_repaired_because = ""

    def inverse(self, before: str) -> Step:
        return DelOwnedRules(self.owner)

    def phrase(self) -> str:
        return f"check source addresses on {self.link}"


class DelOwnedRules(Removal):
    """No nf_tables element of the owner is left, in any of the suite's tables."""

    owner: Owner

    def phrase(self) -> str:
        return f"delete nf_tables elements of {self.owner.attachment.ifname}"


class DelStaleRules(Removal):
    """GC: no nf_tables element of the network by the plugin is left, but for the attachments with these tags.

    :param plugin: as in `Owner`.
    """

    network: str
    plugin: str
    valid_tags: frozenset[str]

    def phrase(self) -> str:
        return f"delete stale nf_tables elements of network {self.network}"


class DelStaleIptables(Removal):
    """GC: the same for the iptables chains of the network.

    :param valid: container id and interface name of each valid attachment.
    """

    network: str
    valid: tuple[tuple[str, str], ...]

    def phrase(self) -> str:
        return f"delete stale iptables chains of network {self.network}"


class DelReferenceRules(Removal):
    """What the reference left for the attachment is gone: masquerade and source checks."""

    attachment: Attachment
    addresses: tuple[IPInterface, ...]

    def phrase(self) -> str:
        return f"delete the reference's rules of {self.attachment.ifname}"
