"""Defines the steps that let containers' packets through the host's filters, and that keep bridges apart.

Each backend has a step of its own; all three keep a record of which attachment an address belongs to, as
neither iptables nor firewalld has room for an owner (kernel/firewall/forward_records.py).
"""

from cni_plugins.ownership import Owner
from cni_plugins.protocol.fields import IPAddress
from cni_plugins.steps.step import Removal, Step


class EnsureForwarding(Step):
    """The addresses are recorded in nf_tables, and the administrator's chain sees what is forwarded."""

    owner: Owner
    addresses: tuple[IPAddress, ...]

    may_be_half_done = True
    not_repaired_because = ""

    def inverse(self, before: str) -> Step:
        return DelForwarding(self.owner)

    def phrase(self) -> str:
        return f"forward packets of {_listed(self.addresses)} with nf_tables"


class EnsureIptablesForwarding(Step):
    """Chain FORWARD of iptables accepts packets from the addresses, and the answers to them.

    :param is_recorded: False: CHECK of an attachment that the reference made expects no record.
    """

    owner: Owner
    addresses: tuple[IPAddress, ...]
    admin_chain: str
    is_recorded: bool = True

    may_be_half_done = True
    not_repaired_because = ""

    def inverse(self, before: str) -> Step:
        return DelForwarding(self.owner)

    def phrase(self) -> str:
        return f"forward packets of {_listed(self.addresses)} with iptables"


class EnsureFirewalldSources(Step):
    """The addresses are sources of a zone of firewalld.

    :param bus: address of the D-Bus system bus, empty: the usual one.
    :param is_recorded: as above.
    """

    owner: Owner
    addresses: tuple[IPAddress, ...]
    zone: str
    bus: str = ""
    is_recorded: bool = True

    may_be_half_done = True
    not_repaired_because = ""

    def inverse(self, before: str) -> Step:
        return DelForwarding(self.owner, bus=self.bus)

    def phrase(self) -> str:
        return f"add {_listed(self.addresses)} to zone {self.zone} of firewalld"


class EnsureBridgesApart(Step):
    """Nothing is forwarded between these bridges and others that are kept apart.

    :param bridges: bridges, or other links through which the host reaches the container.
    :param member: the host end of the container.
    :param isolated: nothing is forwarded back into the bridge that it came from either.
    """

    owner: Owner
    bridges: tuple[str, ...]
    member: str
    isolated: bool

    may_be_half_done = True
    not_repaired_because = ""

    def inverse(self, before: str) -> Step:
        return DelForwarding(self.owner)

    def phrase(self) -> str:
        return f"keep {', '.join(self.bridges)} apart from other bridges"


class EnsureIptablesApart(Step):
    """The same in the reference's chains of iptables, which its containers are kept apart by."""

    owner: Owner
    bridges: tuple[str, ...]
    families: tuple[int, ...]
    isolated: bool

    may_be_half_done = True
    not_repaired_because = ""

    def inverse(self, before: str) -> Step:
        return DelForwarding(self.owner, links=self.bridges)

    def phrase(self) -> str:
        return f"keep {', '.join(self.bridges)} apart from other bridges with iptables"


class EnsurePortIsolated(Step):
    """A bridge exchanges frames of this port with the host only, not with other ports."""

    owner: Owner
    port: str

    may_be_half_done = True
    not_repaired_because = ""

    def inverse(self, before: str) -> Step:
        return DelForwarding(self.owner)

    def phrase(self) -> str:
        return f"isolate {self.port} from other ports of its bridge"


class DelForwarding(Removal):
    """Nothing of the above is left of the attachment, whichever backend made it.

    :param addresses: of an attachment that the reference made, which records no owner.
    :param zone: the zone of firewalld that such an attachment is in.
    :param links: the host's links in prevResult, of which the reference's chains of iptables may name one.
    """

    owner: Owner
    addresses: tuple[IPAddress, ...] = ()
    zone: str = ""
    bus: str = ""
    links: tuple[str, ...] = ()

    def phrase(self) -> str:
        return f"delete forwarding rules of {self.owner.attachment.ifname}"


class DelStaleForwarding(Removal):
    """GC: the same for all attachments of the network but those with these tags.

    :param plugin: as in `Owner`.
    """

    network: str
    plugin: str
    valid_tags: frozenset[str]
    bus: str = ""

    def phrase(self) -> str:
        return f"delete stale forwarding rules of network {self.network}"


def _listed(addresses: tuple[IPAddress, ...]) -> str:
    return ", ".join(map(str, addresses))
