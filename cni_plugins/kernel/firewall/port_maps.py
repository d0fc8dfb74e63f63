"""Publishes ports by nf_tables maps: from protocol and port of the host to address and port of a container.

There is one rule for each map and hook, so a packet costs the same however many ports are published. The
rules for a single address of the host come first. Sources that the container could not answer by way of the
host are hidden: others of its own subnet, itself included, and the host's 127.0.0.1.
"""

import errno
from collections.abc import Iterator, Sequence
from ipaddress import ip_interface, ip_network

from cni_plugins.errors import CniError, NameTaken
from cni_plugins.kernel.deed import REMOVES, Uncompared, deed
from cni_plugins.kernel.firewall import (
    attachment_rules,
    conntrack,
    localnet,
    owner_index,
    port_rules,
    read,
    reference_ports,
    rule_removal,
)
from cni_plugins.kernel.firewall.attachment_rules import Item, Objects, Rule, Want
from cni_plugins.kernel.firewall.conntrack import Flows
from cni_plugins.kernel.firewall.nft_table import Chain, Set
from cni_plugins.kernel.firewall.read import Element
from cni_plugins.kernel.netlink import nf_tables as wire
from cni_plugins.kernel.netlink.socket import Refused
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import Attachment, Owner, digest, is_stale, names_of, network_tag
from cni_plugins.protocol.fields import IPAddress
from cni_plugins.steps.port_mappings import (
    DelPortMaps,
    DelStalePortMaps,
    EnsurePortMaps,
    ForgetUdpFlows,
    PortMapping,
    Publication,
)

_DSTNAT, _SRCNAT = -100, 100  # linux/netfilter_ipv4.h: NF_IP_PRI_NAT_DST, _SRC
_POSTROUTING = Chain("ports_postrouting", "nat", 4, _SRCNAT)
_AT_ADDRESS = (
    Chain("ports_at_prerouting", "nat", 0, _DSTNAT - 1),
    Chain("ports_at_output", "nat", 3, _DSTNAT - 1),
)
_ANYWHERE = (Chain("ports_prerouting", "nat", 0, _DSTNAT), Chain("ports_output", "nat", 3, _DSTNAT))
_LOCALHOST = ip_network("127.0.0.0/8")
PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}  # IPPROTO_…
_PREFIX = "ports"  # of the names of maps


def _ensure(session: Session, step: EnsurePortMaps) -> None:
    objects, held = _objects(step)

    def refusal(item: Item, comment: str) -> CniError | None:
        mapping = held.get((item.set_name, item.key))
        return mapping and NameTaken(
            f"host {mapping} is published by another container", f"its holder is {names_of(comment)}"
        )

    def elements() -> None:
        attachment_rules.ensure(session, objects, step.owner, step.link, refusal)

    port_rules.with_worded_rules(session, objects, elements)


def _restore(session: Session, steps: Sequence[EnsurePortMaps]) -> None:
    """Add what is missing of many attachments; where nft(8) must translate rules, of one after the other.

    UDP flows that began meanwhile would go on past the maps.
    """
    try:
        attachment_rules.restore(session, [Want(_objects(step)[0], step.owner, step.link) for step in steps])
    except port_rules.Worded:
        for step in steps:
            _ensure(session, step)
    conntrack.forget_udp(session, [flows for step in steps for flows in _flows_to(step.publications)])


def _differs(session: Session, step: EnsurePortMaps) -> str:
    gap = attachment_rules.missing(session, _objects(step)[0], step.owner)
    if not gap or reference_ports.publishes(session, step.owner.attachment, step.publications):
        return ""
    return f"published ports: {gap} is missing"


def lacking(session: Session) -> str:
    """Return what the kernel lacks for port maps, by making one and removing it in the same transaction."""
    target = Publication(ip_interface("192.0.2.1/24"), (PortMapping("tcp", 1, 1),), snat=True, masq_all=False)
    objects = _objects(EnsurePortMaps(Owner(Attachment("", "", "")), "", (target,)))[0]
    try:
        attachment_rules.rehearse(session, objects)
    except Refused as err:
        if err.errno in (errno.ENOENT, errno.EOPNOTSUPP):
            return "nat chains, maps and fib look-ups of nf_tables in family inet"
        return "nf_tables"
    except OSError:
        return "nf_tables"
    return ""


# ---------------------------------------------------------------------------------------------- describing

Held = dict[tuple[str, bytes], PortMapping]


def _objects(step: EnsurePortMaps) -> tuple[Objects, Held]:
    """Return the objects of an attachment, and for each element of a map what it publishes."""
    rules: dict[tuple[str, str], Rule] = {}
    items: list[Item] = []
    held: Held = {}
    for one in step.publications:
        for mapping in one.mappings:
            chosen, item = _mapped(step.owner, one, mapping)
            rules |= {rule.key: rule for rule in chosen}
            held[item.set_name, item.key] = mapping
            items.append(item)
        for rule in _source_rules(step.owner.attachment.network, one):
            rules[rule.key] = rule
            items.append(Item(rule.sets[0].name, one.target.ip.packed))
    return Objects(wire.INET, tuple(rules.values()), tuple(items)), held


def _mapped(owner: Owner, one: Publication, mapping: PortMapping) -> tuple[tuple[Rule, ...], Item]:
    """Return one mapping's rules, the same as those of others, and its element."""
    version = one.target.version
    port_map = _map_of(owner, one, with_address=mapping.host_ip is not None)
    data = one.target.ip.packed + _port(mapping.container_port)
    chains = _ANYWHERE if mapping.host_ip is None else _AT_ADDRESS

    def expressions() -> bytes:
        sent = wire.dnat_by_map(version, port_map.name, with_address=mapping.host_ip is not None)
        return wire.is_family(version) + wire.to_local_address() + sent

    if one.conditions:
        rules = tuple(
            port_rules.worded(chain, port_map, version, one.conditions, at=bool(mapping.host_ip))
            for chain in chains
        )
    else:
        rules = tuple(Rule(chain, (port_map,), expressions) for chain in chains)
    return rules, Item(port_map.name, _key(mapping), data)


def _map_of(owner: Owner, one: Publication, *, with_address: bool) -> Set:
    """Return the map for an IP version; networks with conditions have maps of their own."""
    version = one.target.version
    name = f"{_PREFIX}{version}{'_at' if with_address else ''}"
    comment = "host address, protocol and port of containers" if with_address else "protocol and port"
    if one.conditions:
        network = owner.attachment.network
        name = f"{name}_{network_tag(network)}_{digest(' '.join(one.conditions), 8)}"
        comment = f"net: {network}"
    types = [wire.Layout.TYPE[version]] if with_address else []
    key_type = 0
    for part in (*types, wire.PROTOCOL, wire.PORT):
        key_type = key_type << wire.CONCATENATION | part
    return Set(
        name,
        key_type,
        8 + (wire.Layout.LENGTH[version] if with_address else 0),
        comment,
        data_type=wire.Layout.TYPE[version] << wire.CONCATENATION | wire.PORT,
        data_length=wire.Layout.LENGTH[version] + 4,
    )


def _key(mapping: PortMapping) -> bytes:
    """Return the key in a map: each part is filled up to words of 4 bytes."""
    address = mapping.host_ip.packed if mapping.host_ip else b""
    return address + bytes([PROTOCOLS[mapping.protocol], 0, 0, 0]) + _port(mapping.host_port)


def _port(number: int) -> bytes:
    return number.to_bytes(2, "big") + bytes(2)


def _source_rules(network: str, one: Publication) -> Iterator[Rule]:
    """Yield the rules that hide sources of packets to the target, each over a set with its address."""
    version, subnet = one.target.version, one.target.network
    if one.masq_all:
        yield _hiding(network, version, "masq", wire.is_family(version))
    elif one.snat:
        yield _hiding(network, version, f"hairpin_{digest(str(subnet), 8)}", wire.source_within(subnet))
        if version == _LOCALHOST.version:
            yield _hiding(network, version, "localhost", wire.source_within(_LOCALHOST))


def _hiding(network: str, version: int, purpose: str, source: bytes) -> Rule:
    name = f"{_PREFIX}{version}_{network_tag(network)}_{purpose}"
    targets = Set(name, wire.Layout.TYPE[version], wire.Layout.LENGTH[version], f"net: {network}")

    def expressions() -> bytes:
        return (
            source
            + wire.destination_in(version, name)
            + wire.had_its_destination_changed()
            + wire.masquerade(random_fully=False)
        )

    return Rule(_POSTROUTING, (targets,), expressions)


# ---------------------------------------------------------------------------------------------- removing


def _delete(session: Session, step: DelPortMaps) -> None:
    if owner_index.exists(session, wire.INET):
        with localnet.given_back(session):
            removed = rule_removal.remove_owned(session, step.owner, (wire.INET,))
    else:
        removed = rule_removal.remove_owned(session, step.owner, (wire.INET,))
    localnet.give_back_forgotten(session, step.links)
    _forget(session, removed)


def _forget(session: Session, removed: list[Element]) -> None:
    """Forget UDP flows to ports that are published no more."""
    flows: list[Flows] = []
    for element in removed:
        if not element.data:
            continue
        address, protocol, port = _parts(element.key)
        if protocol == PROTOCOLS["udp"]:
            target = conntrack.address_of(element.data[:-4])
            flows.append(Flows(target.version, port, address, answered_by=target))
    conntrack.forget_udp(session, flows)


def _parts(key: bytes) -> tuple[IPAddress | None, int, int]:
    """Return address, protocol and port in a key of a map."""
    address = conntrack.address_of(key[:-8]) if len(key) > 8 else None  # noqa: PLR2004 (protocol and port)
    return address, key[-8], int.from_bytes(key[-4:-2], "big")


def _delete_stale(session: Session, step: DelStalePortMaps) -> None:
    removed: list[Element] = []

    def is_going(item: Element) -> bool:
        if not is_stale(item.comment, step.network, step.plugin, step.valid_tags):
            return False
        removed.append(item)
        return True

    with localnet.given_back(session):
        rule_removal.remove(session, lambda: is_going)
    localnet.give_back_forgotten(session, localnet.every_link(session))
    _forget(session, removed)


def _forget_before(session: Session, step: ForgetUdpFlows) -> None:
    conntrack.forget_udp(session, _flows_to(step.publications))


def _flows_to(publications: tuple[Publication, ...]) -> list[Flows]:
    return [
        Flows(one.target.version, mapping.host_port, mapping.host_ip)
        for one in publications
        for mapping in one.mappings
        if mapping.protocol == "udp"
    ]


DEEDS = (
    deed(EnsurePortMaps, _ensure, _differs, restore=_restore)
    | deed(DelPortMaps, read.where_there_are_rules(_delete), REMOVES)
    | deed(DelStalePortMaps, read.where_there_are_rules(_delete_stale), REMOVES)
    | deed(
        ForgetUdpFlows,
        _forget_before,
        Uncompared("flows that were made later are those of the mapping"),
    )
)
