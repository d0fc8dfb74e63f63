"""Words for packet filter and translation rules; every one belongs to an attachment."""

from typing import NamedTuple

from cni_plugins.spec.attachment import Attachment
from cni_plugins.spec.fields import IPInterface, IPNetwork


class EnsureMasquerade(NamedTuple):
    """Packets from these addresses leave as the host's, unless bound for their own subnet or `exclude`.

    :param link: the host link whose absence shows that the attachment is gone, if there is one.
    :param spares_network: bound for these and the network's other addresses, instead of for their own subnet.
    :param spared_port: a UDP port that none of them leaves from, as the host has another use for the answers.
    """

    attachment: Attachment
    addresses: tuple[IPInterface, ...]
    exclude: tuple[IPNetwork, ...]
    random_fully: bool
    link: str = ""
    spares_network: bool = False
    spared_port: int = 0


class EnsureIptablesMasquerade(NamedTuple):
    """The same through the iptables executables, with the reference's chain names."""

    attachment: Attachment
    addresses: tuple[IPInterface, ...]
    exclude: tuple[IPNetwork, ...]
    random_fully: bool


class DelIptablesMasquerade(NamedTuple):
    """No iptables rule of the attachment is left."""

    attachment: Attachment


class EnsureSourceGuard(NamedTuple):
    """Frames that enter the host by `link` with any other source address are dropped."""

    attachment: Attachment
    link: str
    mac: str


class DelOwnedRules(NamedTuple):
    """No nf_tables element of the attachment is left, in any of our tables."""

    attachment: Attachment


class DelStaleRules(NamedTuple):
    """GC: no nf_tables element of the network is left, but for the attachments with these tags."""

    network: str
    valid_tags: frozenset[str]


class DelStaleIptables(NamedTuple):
    """GC: the same for the iptables chains of these attachments' network."""

    network: str
    valid: tuple[tuple[str, str], ...]


class DelReferenceRules(NamedTuple):
    """What the reference left for the attachment is gone: masquerade and source checks."""

    attachment: Attachment
    addresses: tuple[IPInterface, ...]


RuleRemoval = DelIptablesMasquerade | DelOwnedRules | DelStaleRules | DelStaleIptables | DelReferenceRules
