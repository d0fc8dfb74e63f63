"""Packs and reads the attributes of traffic control: token buckets, and filters that redirect packets.

The filter is of kind u32, which every kernel with traffic control has; matchall does the same and is missing
in some.
"""

import struct
import sys
from typing import NamedTuple

from cni_plugins.kernel.netlink import rtnetlink as wire
from cni_plugins.kernel.netlink.attributes import attributes, packed, read_text
from cni_plugins.kernel.netlink.socket import Answer

# linux/pkt_sched.h; the parents of qdiscs and filters. A qdisc of kind ingress takes the filters of CLSACT_…
# INGRESS too.
ROOT, INGRESS = 0xFFFFFFFF, 0xFFFFFFF1
CLSACT_HANDLE, CLSACT_INGRESS, CLSACT_EGRESS = 0xFFFF0000, 0xFFFFFFF2, 0xFFFFFFF3
_LINKLAYER_ETHERNET = 1
_TCA_TBF_PARMS, _TCA_TBF_RATE64, _TCA_TBF_BURST = 1, 4, 6
# linux/rtnetlink.h, linux/pkt_cls.h, linux/tc_act/tc_mirred.h, linux/if_ether.h
_TCA_KIND, _TCA_OPTIONS = 1, 2
_TCA_U32_CLASSID, _TCA_U32_SEL, _TCA_U32_ACT = 1, 5, 7
_TC_U32_TERMINAL = 1
_TCA_ACT_KIND, _TCA_ACT_OPTIONS = 1, 2
_TCA_MIRRED_PARMS, _TCA_EGRESS_REDIR, _TC_ACT_STOLEN = 2, 1, 4
_ETH_P_ALL = b"\0\3"

_MOST = 0xFFFFFFFF
_RATE = struct.Struct("=BBHhHI")  # tc_ratespec: cell_log, linklayer, overhead, cell_align, mpu, rate
_TBF = struct.Struct(f"={_RATE.size}s{_RATE.size}sIII")  # tc_tbf_qopt: rate, peakrate, limit, buffer, mtu
_RATE64 = struct.Struct("=Q")
# tc_u32_sel with one tc_u32_key: flags, offshift, nkeys; mask, value. The rest are offsets.
_SELECTOR = struct.Struct("=BBB13xII8x")
_MIRRED = struct.Struct("=IIiiiiI")  # tc_mirred: index, capab, action, refcnt, bindcnt, eaction, ifindex


class BucketSettings(NamedTuple):
    """A token bucket as the kernel has it: bytes per second, bytes of its queue, burst in ticks of 64 ns."""

    rate: int
    limit: int
    buffer: int


class Qdisc(NamedTuple):
    """A qdisc of a link; `bucket` is None unless it is a token bucket."""

    kind: str
    handle: int
    bucket: BucketSettings | None


class Redirection(NamedTuple):
    """A filter that redirects all packets to the egress of a link, whose index is 0 if that link is gone.

    :param class_id: a number that has no effect on redirected packets.
    """

    handle: int
    info: int
    class_id: int
    target: int

    @property
    def priority(self) -> int:
        return self.info >> 16


def qdisc(kind: str, *options: bytes) -> bytes:
    """Return the attributes of a qdisc or filter."""
    named = wire.text(_TCA_KIND, kind)
    return named + wire.nest(_TCA_OPTIONS, *options) if options else named


def token_bucket(settings: BucketSettings, burst: int = 0) -> bytes:
    """Return the attributes of a token bucket.

    :param burst: in bytes; replaces `buffer`, 0: it does not.
    """
    rate = _RATE.pack(0, _LINKLAYER_ETHERNET, 0, 0, 0, min(settings.rate, _MOST))
    parms = packed(_TCA_TBF_PARMS, _TBF.pack(rate, bytes(_RATE.size), settings.limit, settings.buffer, 0))
    wide = packed(_TCA_TBF_RATE64, _RATE64.pack(settings.rate)) if settings.rate > _MOST else b""
    exact = wire.number(_TCA_TBF_BURST, burst) if burst else b""
    return qdisc("tbf", parms, wide, exact)


def read_qdisc(answer: Answer) -> Qdisc:
    _, _, handle, _, _ = wire.TCMSG.unpack_from(answer.data, wire.BODY)
    found = _attributes(answer)
    kind = read_text(found.get(_TCA_KIND, b""))
    return Qdisc(kind, handle, _bucket(found.get(_TCA_OPTIONS, b"")) if kind == "tbf" else None)


def _bucket(options: bytes) -> BucketSettings | None:
    found = dict(attributes(options))
    parms = found.get(_TCA_TBF_PARMS, b"")
    if len(parms) < _TBF.size:
        return None
    rate, _, limit, buffer, _ = _TBF.unpack_from(parms)
    wide = wire.read_number(found.get(_TCA_TBF_RATE64))
    return BucketSettings(max(wide, _RATE.unpack(rate)[5]), limit, buffer)


def filter_info(priority: int) -> int:
    """Return priority and protocol (all, in network order) as the message header has them."""
    return priority << 16 | int.from_bytes(_ETH_P_ALL, sys.byteorder)


def redirection(class_id: int, target: int) -> bytes:
    """Return the attributes of a filter that redirects all packets to the link with this index."""
    mirred = _MIRRED.pack(0, 0, _TC_ACT_STOLEN, 0, 0, _TCA_EGRESS_REDIR, target)
    options = wire.nest(_TCA_ACT_OPTIONS, packed(_TCA_MIRRED_PARMS, mirred))
    action = wire.nest(1, wire.text(_TCA_ACT_KIND, "mirred"), options)  # the first action
    return matching_all(class_id, wire.nest(_TCA_U32_ACT, action))


def matching_all(class_id: int, *more: bytes) -> bytes:
    """Return the attributes of a filter that matches all packets."""
    selector = packed(_TCA_U32_SEL, _SELECTOR.pack(_TC_U32_TERMINAL, 0, 1, 0, 0))
    return qdisc("u32", wire.number(_TCA_U32_CLASSID, class_id), selector, *more)


def read_redirection(answer: Answer) -> Redirection | None:
    """Return the redirection that a message about a filter describes, None if it describes anything else."""
    _, _, handle, _, info = wire.TCMSG.unpack_from(answer.data, wire.BODY)
    found = _attributes(answer)
    if read_text(found.get(_TCA_KIND, b"")) != "u32":
        return None
    options = dict(attributes(found.get(_TCA_OPTIONS, b"")))
    target = _target(options.get(_TCA_U32_ACT, b""))
    if target is None or not _matches_all(options.get(_TCA_U32_SEL, b"")):
        return None
    return Redirection(handle, info, wire.read_number(options.get(_TCA_U32_CLASSID)), target)


def _matches_all(selector: bytes) -> bool:
    if len(selector) < _SELECTOR.size:
        return False
    _, _, keys, mask, _ = _SELECTOR.unpack_from(selector)
    return bool(keys == 1 and mask == 0)


def _target(actions: bytes) -> int | None:
    """Return the index that the first action redirects to, None if it does something else."""
    listed = attributes(actions)
    action = dict(attributes(listed[0][1])) if listed else {}
    if read_text(action.get(_TCA_ACT_KIND, b"")) != "mirred":
        return None
    mirred = dict(attributes(action.get(_TCA_ACT_OPTIONS, b""))).get(_TCA_MIRRED_PARMS, b"")
    if len(mirred) < _MIRRED.size:
        return None
    *_, kind, index = _MIRRED.unpack_from(mirred)
    return int(index) if kind == _TCA_EGRESS_REDIR else None


def _attributes(answer: Answer) -> dict[int, bytes]:
    return dict(attributes(answer.data, wire.BODY + wire.TCMSG.size))
