"""Answers what a plugin asks, and nothing more."""

import struct

from cni_plugins.contract.facts import Asks, Facts, LinkFacts
from cni_plugins.kernel import addresses, iptables, links, netns, nft_look, sysctl
from cni_plugins.kernel.messages import rtmsg
from cni_plugins.kernel.session import Session
from cni_plugins.kernel.wire import NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, Answer, Refused, encoded
from cni_plugins.spec.attachment import ALIAS_PREFIX
from cni_plugins.steps.places import HOST, SANDBOX, Place

_RTM_GETROUTE = 26
_TABLE_MAIN = 254
_PROBE = "probe"
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


def observe(session: Session, asks: Asks) -> Facts:
    """Return the facts; links that do not exist are absent from the mappings."""
    sandboxed = session.sandbox is not None
    return Facts(
        host=_links(session, HOST, asks.host),
        sandbox=_links(session, SANDBOX, asks.sandbox) if sandboxed else {},
        default_route=_default_route(session) if asks.default_route else None,
        owned=_owned(session) if asks.owned else (),
        has_sandbox=sandboxed,
        vlan_filtering=not asks.vlan_filtering or _can_filter_vlans(session),
        nf_tables=not asks.nf_tables or nft_look.usable(session),
        iptables=not asks.iptables or iptables.installed(),
        ipv6_in_sandbox=not asks.ipv6_in_sandbox or sysctl.has_ipv6(session, "lo"),
        host_seed=_host_seed(session),
    )


def _links(session: Session, where: Place, names: tuple[str, ...]) -> dict[str, LinkFacts]:
    found = ((name, links.find(session, where, name)) for name in names)
    return {name: _facts(session, where, link) for name, link in found if link is not None}


def _facts(session: Session, where: Place, link: links.Link, *, with_addresses: bool = True) -> LinkFacts:
    peer = links.find(session, HOST, index=link.peer) if link.kind == "veth" and where == SANDBOX else None
    master = links.find(session, HOST, index=peer.master) if peer and peer.master else None
    present = addresses.on_link(session, where, link.ifindex) if with_addresses else []
    return LinkFacts(
        name=link.name,
        ifindex=link.ifindex,
        kind=link.kind,
        mac=link.mac,
        mtu=link.mtu,
        up=link.up,
        alias=link.alias,
        peer=peer.name if peer else "",
        peer_alias=peer.alias if peer else "",
        peer_master=master.name if master else "",
        addresses=tuple(item.address for item in present),
    )


def _owned(session: Session) -> tuple[LinkFacts, ...]:
    ours = (link for link in links.every(session, HOST) if link.alias.startswith(ALIAS_PREFIX))
    return tuple(_facts(session, HOST, link, with_addresses=False) for link in ours)


def _default_route(session: Session) -> LinkFacts | None:
    """Return the link of the default route with the lowest metric, IPv4 before IPv6."""
    found = []
    for family in (4, 6):
        message = rtmsg()
        message["family"] = addresses.FAMILY[family]
        message["attrs"] = [("RTA_TABLE", _TABLE_MAIN)]
        answers = session.rtnl(HOST).dump(encoded(message, _RTM_GETROUTE, NLM_F_DUMP))
        found += [(family, *way) for answer in answers if (way := _default_way(answer))]
    for _, _, index in sorted(found):
        link = links.find(session, HOST, index=index)
        if link is not None:
            return _facts(session, HOST, link, with_addresses=False)
    return None


def _default_way(answer: Answer) -> tuple[int, int] | None:
    """Return (metric, link index) of a default route, None for any other."""
    dst_len, kind = struct.unpack_from("=B5xB", answer.data, 17)
    if dst_len or kind != 1:  # RTN_UNICAST
        return None
    route = rtmsg(answer.data)
    route.decode()
    hops = route.get_attr("RTA_MULTIPATH")
    index = hops[0]["oif"] if hops else route.get_attr("RTA_OIF")
    return (route.get_attr("RTA_PRIORITY") or 0, index) if index else None


def _can_filter_vlans(session: Session) -> bool:
    """Try it in a network namespace of its own: a kernel without it ignores the request, or refuses it."""
    with netns.throw_away(session.host), Session(None) as empty:
        info = [("IFLA_INFO_KIND", "bridge"), ("IFLA_INFO_DATA", {"attrs": [("IFLA_BR_VLAN_FILTERING", 1)]})]
        message = links.change([("IFLA_IFNAME", _PROBE), ("IFLA_LINKINFO", {"attrs": info})])
        try:
            empty.rtnl(HOST).call(encoded(message, links.RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL))
        except Refused:
            return False
        return links.get(empty, HOST, _PROBE).vlan_filtering is True


def _host_seed(session: Session) -> str:
    """Boot id and network namespace: what tells this host from any other, and this boot from the last."""
    with open(_BOOT_ID) as file:
        return f"{file.read().strip()}:{netns.identity(session.host)}"
