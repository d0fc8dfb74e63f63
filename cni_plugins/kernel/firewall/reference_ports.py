"""Finds and removes the nf_tables rules by which the reference publishes ports.

They name the container in their comment, and neither network nor interface; so of a container's rules those
are an attachment's that contain its address.
"""

from collections.abc import Iterator

from cni_plugins.kernel.deed import REMOVES, deed
from cni_plugins.kernel.firewall import iptables_ports, read
from cni_plugins.kernel.netlink import nf_tables as wire
from cni_plugins.kernel.netlink.nf_tables import attr, message
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import Attachment
from cni_plugins.steps.port_mappings import DelReferencePorts, Publication

_TABLE = "cni_hostport"
_CHAINS = ("hostports", "hostip_hostports", "masquerading")


def publishes(session: Session, attachment: Attachment, publications: tuple[Publication, ...]) -> bool:
    """Say whether the reference publishes all these ports, by either of its backends."""
    contents = [content for *_, content in _rules(session, attachment.container_id)]
    if contents and all(_has_each(contents, one) for one in publications):
        return True
    return iptables_ports.publishes(session, attachment, publications)


def published(session: Session, attachment: Attachment) -> bool:
    """Say whether the reference published any port of the container."""
    has_rules = any(True for _ in _rules(session, attachment.container_id))
    return has_rules or iptables_ports.is_foreign(session, attachment)


def _has_each(contents: list[bytes], one: Publication) -> bool:
    """Say whether there is a rule for each mapping, by address and ports in its expressions."""
    address = one.target.ip.packed
    wanted = [(address, _packed(it.host_port), _packed(it.container_port)) for it in one.mappings]
    return all(any(all(part in content for part in parts) for content in contents) for parts in wanted)


def _packed(port: int) -> bytes:
    return port.to_bytes(2, "big")


def _delete(session: Session, step: DelReferencePorts) -> None:
    addresses = [address.packed for address in step.addresses]
    messages = [
        message(wire.DELRULE, family, 0, attr(1, _TABLE), attr(2, chain), attr(3, handle))
        for family, chain, handle, content in _rules(session, step.container_id)
        if not addresses or any(address in content for address in addresses)
    ]
    if messages:
        session.nft().transact(wire.batch(messages))


def _rules(session: Session, container_id: str) -> Iterator[tuple[int, str, bytes, bytes]]:
    """Yield family, chain, handle and expressions of a container's rules."""
    for family in wire.Layout.PROTO.values():
        for chain in _CHAINS:
            if not read.has_chain(session, family, _TABLE, chain):
                continue
            for handle, comment, content in read.rules_with_content(session, family, chain, _TABLE):
                if comment == container_id:
                    yield family, chain, handle, content


DEEDS = deed(DelReferencePorts, read.where_there_are_rules(_delete), REMOVES)
