"""Reads and sets the VLANs of bridge ports, as `bridge vlan` does."""

import struct

from cni_plugins.kernel.deed import deed
from cni_plugins.kernel.links import links
from cni_plugins.kernel.netlink import rtnetlink as wire
from cni_plugins.kernel.netlink.attributes import attributes, packed
from cni_plugins.kernel.netlink.socket import NLM_F_ACK, NLM_F_DUMP, Refused, is_absent
from cni_plugins.kernel.session.session import Session
from cni_plugins.steps.links import PortVlan, SetPortVlans
from cni_plugins.steps.step import HOST

_FILTER_VLANS = 1 << 1  # RTEXT_FILTER_BRVLAN: one entry per id, no ranges
_PVID, _UNTAGGED, _RANGE_BEGIN, _RANGE_END = 0x2, 0x4, 0x8, 0x10  # linux/if_bridge.h


def set_vlans(session: Session, step: SetPortVlans) -> None:
    """Set the VLANs of the port; exclusive ones replace the default VLAN that every new port has."""
    index = links.get(session, HOST, step.link).ifindex
    rtnl = session.rtnl(HOST)
    if not differs(session, step):
        return
    if step.exclusive:
        _delete(session, index, [vid for vid, _ in _present(session, index)])
    entries = [entry for vlan in step.vlans for entry in _entries(vlan)]
    rtnl.call(_message(wire.RTM_SETLINK, index, entries))


def _delete(session: Session, index: int, ids: list[int]) -> None:
    message = _message(wire.RTM_DELLINK, index, [_entry(0, vid) for vid in ids])
    try:
        session.rtnl(HOST).call(message)
    except Refused as err:
        if not is_absent(err):  # removed by a concurrent ADD
            raise


def differs(session: Session, step: SetPortVlans) -> str:
    """Say which VLANs of the port differ from those of the step."""
    present = set(_present(session, links.get(session, HOST, step.link).ifindex))
    wanted = {
        (vid, _PVID | _UNTAGGED if vlan.access else 0)
        for vlan in step.vlans
        for vid in range(vlan.first, vlan.last + 1)
    }
    missing, extra = wanted - present, present - wanted if step.exclusive else set()
    if not missing and not extra:
        return ""
    return f"VLANs of port {step.link}: missing {sorted(missing)}, unexpected {sorted(extra)} (id, flags)"


def _present(session: Session, index: int) -> list[tuple[int, int]]:
    """Return (VLAN id, flags) of each VLAN of a port."""
    chosen = wire.number(wire.IFLA_EXT_MASK, _FILTER_VLANS)
    request = wire.link(wire.RTM_GETLINK, NLM_F_DUMP, chosen, family=wire.AF_BRIDGE)
    found = []
    for answer in session.rtnl(HOST).dump(request):
        _, _, this, _, _ = wire.IFINFOMSG.unpack_from(answer.data, wire.BODY)
        if this == index:
            found += [
                _info(value)
                for spec in _specs(answer.data)
                for kind, value in spec
                if kind == wire.IFLA_BRIDGE_VLAN_INFO
            ]
    return found


def _specs(data: bytes) -> list[list[tuple[int, bytes]]]:
    offset = wire.BODY + wire.IFINFOMSG.size
    return [attributes(value) for kind, value in attributes(data, offset) if kind == wire.IFLA_AF_SPEC]


def _info(value: bytes) -> tuple[int, int]:
    flags, vid = struct.unpack_from("=HH", value)
    return vid, flags & (_PVID | _UNTAGGED)


def _entries(vlan: PortVlan) -> list[bytes]:
    flags = _PVID | _UNTAGGED if vlan.access else 0
    if vlan.first == vlan.last:
        return [_entry(flags, vlan.first)]
    return [_entry(flags | _RANGE_BEGIN, vlan.first), _entry(flags | _RANGE_END, vlan.last)]


def _entry(flags: int, vid: int) -> bytes:
    return packed(wire.IFLA_BRIDGE_VLAN_INFO, struct.pack("=HH", flags, vid))


def _message(kind: int, index: int, entries: list[bytes]) -> bytearray:
    spec = wire.nest(wire.IFLA_AF_SPEC, *entries)
    return wire.link(kind, NLM_F_ACK, spec, family=wire.AF_BRIDGE, index=index)


DEEDS = deed(SetPortVlans, set_vlans, differs)
