"""VLANs of bridge ports: the messages of `bridge vlan`."""

import struct
from typing import Any

from cni_plugins.kernel import links
from cni_plugins.kernel.messages import ifinfmsg
from cni_plugins.kernel.session import Session
from cni_plugins.kernel.wire import NLM_F_ACK, NLM_F_DUMP, Refused, attributes, encoded, is_absent
from cni_plugins.steps.links import PortVlan, SetPortVlans
from cni_plugins.steps.places import HOST

_AF_BRIDGE = 7
_FILTER_VLANS = 1 << 1  # RTEXT_FILTER_BRVLAN: one entry for every id, no ranges
_PVID, _UNTAGGED, _RANGE_BEGIN, _RANGE_END = 0x2, 0x4, 0x8, 0x10  # linux/if_bridge.h
_IFLA_AF_SPEC, _VLAN_INFO = 26, 2
_IFINFOMSG = 32  # bytes before the attributes of a link message, netlink header included


def set_port_vlans(session: Session, step: SetPortVlans) -> None:
    """Give the port its VLANs; exclusive ones replace the default VLAN that every new port gets."""
    index = links.get(session, HOST, step.link).ifindex
    rtnl = session.rtnl(HOST)
    if not differs(session, step):
        return
    if step.exclusive:
        _delete(session, index, [vid for vid, _ in _present(session, index)])
    entries = [entry for vlan in step.vlans for entry in _entries(vlan)]
    rtnl.call(encoded(_message(index, entries), links.RTM_SETLINK, NLM_F_ACK))


def _delete(session: Session, index: int, ids: list[int]) -> None:
    message = _message(index, [_entry(0, vid) for vid in ids])
    try:
        session.rtnl(HOST).call(encoded(message, links.RTM_DELLINK, NLM_F_ACK))
    except Refused as err:
        if not is_absent(err):  # another ADD was faster
            raise


def differs(session: Session, step: SetPortVlans) -> str:
    """Say which VLANs of the port are not as the step wants them."""
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
    """Return (VLAN id, flags) of a port."""
    message = ifinfmsg()
    message["family"] = _AF_BRIDGE
    message["attrs"] = [("IFLA_EXT_MASK", _FILTER_VLANS)]
    found = []
    for answer in session.rtnl(HOST).dump(encoded(message, links.RTM_GETLINK, NLM_F_DUMP)):
        (this,) = struct.unpack_from("=i", answer.data, 20)
        if this == index:
            found += [
                _info(value) for spec in _specs(answer.data) for kind, value in spec if kind == _VLAN_INFO
            ]
    return found


def _specs(data: bytes) -> list[list[tuple[int, bytes]]]:
    return [list(attributes(value)) for kind, value in attributes(data, _IFINFOMSG) if kind == _IFLA_AF_SPEC]


def _info(value: bytes) -> tuple[int, int]:
    flags, vid = struct.unpack_from("=HH", value)
    return vid, flags & (_PVID | _UNTAGGED)


def _entries(vlan: PortVlan) -> list[tuple[str, dict[str, int]]]:
    flags = _PVID | _UNTAGGED if vlan.access else 0
    if vlan.first == vlan.last:
        return [_entry(flags, vlan.first)]
    return [_entry(flags | _RANGE_BEGIN, vlan.first), _entry(flags | _RANGE_END, vlan.last)]


def _entry(flags: int, vid: int) -> tuple[str, dict[str, int]]:
    return ("IFLA_BRIDGE_VLAN_INFO", {"flags": flags, "vid": vid})


def _message(index: int, entries: list[tuple[str, Any]]) -> ifinfmsg:
    message = ifinfmsg()
    message["family"] = _AF_BRIDGE
    message["index"] = index
    message["attrs"] = [("IFLA_AF_SPEC", {"attrs": entries})]
    return message
