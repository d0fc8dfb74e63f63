"""Looks up what decides how the firewall plugin lets packets through: firewalld, iptables, nf_tables."""

import shlex
import struct

from cni_plugins.contract.facts import ForwardFilter, ForwardFilterAsks
from cni_plugins.kernel.firewall import (
    firewalld,
    forward_records,
    iptables,
    iptables_forward,
    nft_table,
    port_isolation,
    read,
)
from cni_plugins.kernel.firewall.forward_records import FIREWALLD
from cni_plugins.kernel.firewall.forward_rules import FORWARD as FORWARD_HOOK
from cni_plugins.kernel.firewall.iptables_forward import APART, FORWARD, TABLE
from cni_plugins.kernel.firewall.verdicts import DROP, refuses_all
from cni_plugins.kernel.ip import sysctl
from cni_plugins.kernel.netlink import nf_tables as wire
from cni_plugins.kernel.netlink.attributes import attributes, read_text
from cni_plugins.kernel.netlink.socket import NLM_F_CREATE, Refused
from cni_plugins.kernel.session import netns
from cni_plugins.kernel.session.session import Session
from cni_plugins.ownership import NFT_TABLE
from cni_plugins.steps.step import HOST

_IP_FAMILIES = (wire.INET, *wire.Layout.PROTO.values())
_REFUSING = ("DROP", "REJECT")
_FAMILY_AT = 16  # in a message: after the netlink header comes struct nfgenmsg
_BR_NETFILTER = ("bridge", "bridge-nf-call-iptables")


def look(session: Session, asks: ForwardFilterAsks) -> ForwardFilter:
    """Return the facts; what the configured backend makes irrelevant is not looked up."""
    nf_tables = forward_records.usable(session)
    recorded = forward_records.backend_of(session, asks.owner, asks.addresses) if asks.owner else ""
    traced = bool(asks.owner) and not (recorded or asks.backend)
    in_iptables = traced and iptables_forward.has_rules(session, asks.addresses)
    choosing = not (asks.backend or recorded or in_iptables)
    runs = (choosing or (asks.status and asks.backend == FIREWALLD)) and firewalld.runs(asks.bus)
    drops = (
        choosing and not runs and any(_drops(session, item, nf_tables=nf_tables) for item in asks.families)
    )
    return ForwardFilter(
        nf_tables=nf_tables,
        firewalld=runs,
        zones=firewalld.zones(asks.bus) or () if asks.status and runs else (),
        iptables=_installed(asks) if drops or asks.status or not nf_tables else asks.families,
        forward_drops=drops,
        recorded=recorded,
        in_iptables=in_iptables,
        filters_frames=not asks.isolated or (nf_tables and filters_frames(session)),
        br_netfilter=asks.isolated and sysctl.value(session, HOST, _BR_NETFILTER) == "1",
        apart_in_iptables=iptables_forward.families_with(session, APART) if asks.apart else (),
        closed_chain=_closed_chain(session) if asks.status and nf_tables else "",
    )


def _installed(asks: ForwardFilterAsks) -> tuple[int, ...]:
    return tuple(filter(iptables.installed, asks.families))


def _drops(session: Session, family: int, *, nf_tables: bool) -> bool:
    """Say whether chain FORWARD of iptables drops what no rule accepts, by policy or last rule."""
    if iptables.has_old_table(family, TABLE) and iptables.installed(family):
        return _listed_as_dropping(iptables.lines(family, TABLE))
    number = wire.Layout.PROTO[family]
    chain = read.hook(session, number, FORWARD, TABLE) if nf_tables else None
    if chain is None or not chain.kind:
        return False
    rules = read.raw_rules(session, number, TABLE, FORWARD)
    return chain.policy == DROP or any(map(refuses_all, rules[-1:]))


def _listed_as_dropping(lines: list[str]) -> bool:
    last = next((line for line in reversed(lines) if line.startswith(f"-A {FORWARD} ")), "")
    words = shlex.split(last)[2:]
    if words[:3] == ["-m", "comment", "--comment"]:
        words = words[4:]
    return f"-P {FORWARD} DROP" in lines or words[:2] in [["-j", target] for target in _REFUSING]


def filters_frames(session: Session) -> bool:
    """Say whether nf_tables of this kernel can filter frames between ports of bridges."""
    if read.has_chain(session, wire.BRIDGE, NFT_TABLE, port_isolation.CHAIN.name):
        return True
    with netns.throw_away(session.host), Session(None) as empty:
        new = nft_table.in_table(wire.NEWTABLE, wire.BRIDGE, NLM_F_CREATE)
        try:
            empty.nft().transact(wire.batch([new, nft_table.new_chain(wire.BRIDGE, port_isolation.CHAIN)]))
        except Refused:
            return False
    return True


def _closed_chain(session: Session) -> str:
    """Return a chain that drops everything that is forwarded, as it has a policy and no rule; or nothing."""
    for data in read.dump(session, wire.GETCHAIN, 0):
        item = wire.fields(data)
        hook = dict(attributes(item.get(4, b"")))
        is_closed = item.get(5) == struct.pack(">I", DROP) and item.get(6) == bytes(4)
        if data[_FAMILY_AT] in _IP_FAMILIES and is_closed and hook.get(1) == struct.pack(">I", FORWARD_HOOK):
            return f"{read_text(item[3])} of table {read_text(item[1])}"
    return ""
