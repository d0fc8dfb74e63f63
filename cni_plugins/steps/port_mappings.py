"""Defines the steps for ports of containers that the host publishes."""

from typing import NamedTuple

from cni_plugins.ownership import Attachment, Owner
from cni_plugins.protocol.fields import IPAddress, IPInterface
from cni_plugins.steps.step import PASSING, Removal, Step


class PortMapping(NamedTuple):
    """A port of the host, and the one of the container that packets to it are sent on to.

    :param protocol: tcp, udp or sctp.
    :param host_ip: the only address of the host that has the port, None: all of them.
    """

    protocol: str
    host_port: int
    container_port: int
    host_ip: IPAddress | None = None

    def __str__(self) -> str:
        where = f"{self.host_ip} port" if self.host_ip else "port"
        return f"{where} {self.host_port}/{self.protocol}"


class Publication(NamedTuple):
    """Mappings to one address of a container, and what else is translated for them.

    :param target: with the length of its subnet, from which the container may be asked by way of the host.
    :param snat: hide the sources that could not be answered otherwise: the target's subnet, and 127.0.0.1.
    :param masq_all: hide all sources.
    :param conditions: further conditions of the rules, in the words of the backend.
    """

    target: IPInterface
    mappings: tuple[PortMapping, ...]
    snat: bool
    masq_all: bool
    conditions: tuple[str, ...] = ()


class SetMark(NamedTuple):
    """How iptables rules mark packets to be masqueraded: by a bit, or by another program's chain."""

    bit: int
    chain: str = ""


class EnsurePortMaps(Step):
    """Packets to these ports of the host go to the container, by nf_tables maps.

    :param link: the host link whose absence shows that the attachment is gone, if there is one.
    """

    owner: Owner
    link: str
    publications: tuple[Publication, ...]

    may_be_half_done = True
    not_repaired_because = ""

    def inverse(self, before: str) -> Step:
        return DelPortMaps(self.owner)

    def phrase(self) -> str:
        return f"publish {_listed(self.publications)}"


class DelPortMaps(Removal):
    """No port is published for the owner in nf_tables; settings that only its ports needed are as before.

    :param links: links of the host on the way to the container, as far as they are known.
    """

    owner: Owner
    links: tuple[str, ...] = ()

    def phrase(self) -> str:
        return f"delete published ports of {self.owner.attachment.ifname}"


class DelStalePortMaps(Removal):
    """GC: the same for the attachments of the network that do not have these tags.

    :param plugin: as in `Owner`.
    """

    network: str
    plugin: str
    valid_tags: frozenset[str]

    def phrase(self) -> str:
        return f"delete stale published ports of network {self.network}"


class EnsureLocalnet(Step):
    """The host reaches published ports at 127.0.0.1: packets with that source may leave by `out`.

    :param address: of the container.
    :param link: as in EnsurePortMaps.
    """

    owner: Owner
    out: str
    address: IPAddress
    link: str

    may_be_half_done = True
    not_repaired_because = ""

    def inverse(self, before: str) -> Step:
        return DelPortMaps(self.owner)

    def phrase(self) -> str:
        return f"let {self.out} carry packets from 127.0.0.1"


class ForgetUdpFlows(Step):
    """No conntrack entry sends packets to these UDP ports elsewhere: they were made before the mappings."""

    publications: tuple[Publication, ...]

    kept_because = "the next packet makes a new entry"
    not_repaired_because = PASSING

    def phrase(self) -> str:
        return f"forget UDP flows to {_listed(self.publications)}"


class EnsureIptablesPorts(Step):
    """The same as EnsurePortMaps through the iptables executables, with the reference's chain names."""

    attachment: Attachment
    link: str
    publications: tuple[Publication, ...]
    mark: SetMark

    may_be_half_done = True
    not_repaired_because = ""

    def inverse(self, before: str) -> Step:
        return DelIptablesPorts(self.attachment)

    def phrase(self) -> str:
        return f"publish {_listed(self.publications)} with iptables"


class DelIptablesPorts(Removal):
    """No iptables rule publishes a port for the attachment, whoever made it."""

    attachment: Attachment

    def phrase(self) -> str:
        return f"delete iptables rules for published ports of {self.attachment.ifname}"


class DelStaleIptablesPorts(Removal):
    """GC: the same for the network.

    :param valid: container id and interface name of each valid attachment.
    """

    network: str
    valid: tuple[tuple[str, str], ...]

    def phrase(self) -> str:
        return f"delete stale iptables rules for published ports of network {self.network}"


class DelReferencePorts(Removal):
    """The reference's nf_tables rules are gone that publish ports of the container at these addresses.

    :param addresses: empty: not known, then those at all of its addresses.
    """

    container_id: str
    addresses: tuple[IPAddress, ...]

    def phrase(self) -> str:
        return "delete the reference's rules for published ports"


def _listed(publications: tuple[Publication, ...]) -> str:
    return ", ".join(dict.fromkeys(str(item) for one in publications for item in one.mappings))
