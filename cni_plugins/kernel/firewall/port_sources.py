"""Checks what enters by the ports of containers whose MAC address and IP addresses are all known.

Unlike source_guard, which knows the MAC address alone, this also stops ARP and neighbour discovery that claim
the address of another. A packet with the right source costs one look-up, however many containers there are.
"""

from functools import cache

from cni_plugins.kernel.deed import deed
from cni_plugins.kernel.firewall import attachment_rules, rule_removal
from cni_plugins.kernel.firewall import read as look
from cni_plugins.kernel.firewall.attachment_rules import Item, Objects, Rule, Want
from cni_plugins.kernel.firewall.nft_table import Chain, Set
from cni_plugins.kernel.netlink import nf_tables as wire
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import HOST_END_PREFIX
from cni_plugins.protocol.macs import link_local
from cni_plugins.steps.overlay import EnsurePortSources

CHAIN = Chain("port_sources", "filter", 0, -300)  # linux/netfilter_bridge.h: NF_BR_PRI_NAT_DST_BRIDGED
_IPV4, _ARP, _IPV6 = 0x0800, 0x0806, 0x86DD  # linux/if_ether.h
_V6 = 6
_ROUTER_ADVERTISEMENT, _NEIGHBOUR_ADVERTISEMENT, _REDIRECT = 134, 136, 137  # RFC 4861, 4
_PORTS = Set(
    "checked_ports", wire.IFNAME, wire.IFNAME_LENGTH, "ports whose sources are checked", host_order=True
)
_SOURCES = {
    version: Set(
        f"port_sources{version}",
        wire.port_source_type(version),
        wire.port_source_length(version),
        "port, MAC and address that may enter by it",
    )
    for version in (4, 6)
}
_ADVERTISED = Set(
    "advertised6",
    wire.PORT_TARGET_TYPE,
    wire.port_source_length(6),
    "port, MAC and address that its neighbour advertisements may be about",
    typeof=wire.PORT_TARGET_TYPEOF,
)
_UNSPECIFIED = {version: bytes(length) for version, length in wire.Layout.LENGTH.items()}


def _ensure(session: Session, step: EnsurePortSources) -> None:
    want = _wanted(step)
    _forget_former(session, want)
    attachment_rules.ensure(session, *want)


def _forget_former(session: Session, want: Want) -> None:
    """Remove what an attachment of the same name has left, which may have had other addresses."""
    port = want.objects.elements[0]
    try:
        [found] = look.elements_at(session, wire.BRIDGE, port.set_name, [port.key])
    except OSError:  # no table for frames; what is wrong with it shows when it is made
        return
    if found is not None and want.owner.owns(found.comment):
        rule_removal.remove_owned(session, want.owner, (wire.BRIDGE,))


def _wanted(step: EnsurePortSources) -> Want:
    return Want(_objects(step), step.owner, step.port)


def _differs(session: Session, step: EnsurePortSources) -> str:
    gap = attachment_rules.missing(session, _objects(step), step.owner)
    return f"check of the sources at {step.port}: {gap} is missing" if gap else ""


def _objects(step: EnsurePortSources) -> Objects:
    known = [(address.version, address.packed) for address in (*step.addresses, link_local(step.mac).ip)]
    sources = dict.fromkeys(
        (_SOURCES[version].name, packed) for version, packed in (*_UNSPECIFIED.items(), *known)
    )
    targets = dict.fromkeys((_ADVERTISED.name, packed) for version, packed in known if version == _V6)
    elements = tuple(
        Item(name, wire.port_source(step.port, step.mac, packed)) for name, packed in (*sources, *targets)
    )
    port = Item(_PORTS.name, wire.link_name(step.port))
    return Objects(wire.BRIDGE, _rules(), (port, *elements), ordered=True)


@cache
def _rules() -> tuple[Rule, ...]:
    """Return the rules in their order: the first one decides, and most packets meet the first two only.

    What is in a fragment has no header to look at; the kernel takes no neighbour discovery from fragments
    (RFC 6980).
    """
    v4, v6 = _SOURCES[4].name, _SOURCES[6].name
    checked = wire.enters_by(_PORTS.name)
    ipv6 = wire.protocol_is(_IPV6)
    advertised = wire.icmpv6_type(_NEIGHBOUR_ADVERTISEMENT) + wire.port_target_not_in(_ADVERTISED.name)
    of_router = (_ROUTER_ADVERTISEMENT, _REDIRECT)
    listed = (
        ((_PORTS,), "others", wire.enters_by_other_than(HOST_END_PREFIX) + wire.accept()),
        ((_SOURCES[4],), "IPv4", wire.protocol_is(_IPV4) + wire.port_source_in(4, v4) + wire.accept()),
        (
            (_SOURCES[6],),
            "IPv6",
            ipv6 + wire.icmpv6(inverted=True) + wire.port_source_in(6, v6) + wire.accept(),
        ),
        ((_SOURCES[4],), "ARP", wire.protocol_is(_ARP) + wire.arp_sender_in(v4) + wire.accept()),
        *(
            ((_PORTS,), f"ICMPv6-{kind}", ipv6 + wire.icmpv6_type(kind) + checked + wire.drop())
            for kind in of_router
        ),
        ((_PORTS, _ADVERTISED), "ND", ipv6 + advertised + checked + wire.drop()),
        (
            (_SOURCES[6],),
            "ICMPv6",
            ipv6 + wire.icmpv6() + wire.port_source_in(6, v6) + wire.accept(),
        ),
        ((_PORTS,), "rest", checked + wire.drop()),
    )
    return tuple(_rule(sets, purpose, content) for sets, purpose, content in listed)


def _rule(sets: tuple[Set, ...], purpose: str, content: bytes) -> Rule:
    return Rule(CHAIN, sets, lambda: content, purpose=purpose)


DEEDS = deed(EnsurePortSources, _ensure, _differs, restore=attachment_rules.restoring(_wanted))
