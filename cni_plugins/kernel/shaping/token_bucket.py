"""Sets, compares and removes token buckets, which are root qdiscs of kind tbf (net/sched/sch_tbf.c)."""

from typing import NamedTuple

from cni_plugins.errors import NameTaken
from cni_plugins.kernel.deed import deed
from cni_plugins.kernel.links import links
from cni_plugins.kernel.links.link import Link
from cni_plugins.kernel.netlink import rtnetlink as wire
from cni_plugins.kernel.netlink.socket import NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, Refused, is_absent
from cni_plugins.kernel.netlink.traffic_control import (
    ROOT,
    BucketSettings,
    Qdisc,
    token_bucket,
)
from cni_plugins.kernel.session.session import Session
from cni_plugins.kernel.shaping import qdiscs
from cni_plugins.kernel.shaping.support import needs
from cni_plugins.ownership import BUCKET_HANDLE, REFERENCE_BUCKET_HANDLE
from cni_plugins.steps.shaping import Bucket, SetBucket
from cni_plugins.steps.step import ABSENT, HOST, UNCHANGED

_MOST = 0xFFFFFFFF  # of the kernel's fields
_NS, _TICK = 10**9, 64  # nanoseconds in a second, and in a tick (PSCHED_SHIFT, net/pkt_sched.h)
_FRAME = 22  # bytes that a frame has beside its payload: an Ethernet header, and tags of two VLANs


class Wanted(NamedTuple):
    """What a bucket is to be in the kernel.

    :param burst: in bytes, where `buffer` is too coarse or too long for the kernel; 0: as `buffer` says.
    :param is_raised: the burst is more than the config says, as no packet would pass otherwise.
    """

    settings: BucketSettings
    burst: int
    is_raised: bool


def wanted(bucket: Bucket, mtu: int) -> Wanted:
    """Return the settings of a bucket on a link with this MTU.

    The kernel drops packets that are larger than the burst, so it has at least the size of one. A burst that
    the kernel's field cannot hold, 274 s at this rate, is reduced to that.
    """
    if bucket.limit:
        settings = BucketSettings(bucket.rate, bucket.limit, bucket.buffer)
        return Wanted(settings, _exact(settings, bucket.burst, mtu), is_raised=False)
    size = max(mtu + _FRAME, min(bucket.burst, bucket.rate * _MOST * _TICK // _NS))
    rate, limit, buffer = as_reference(bucket.rate, size)
    settings = BucketSettings(rate, min(limit, _MOST), min(buffer, _MOST))
    burst = _exact(settings, size, mtu)
    if burst:
        settings = settings._replace(buffer=_time(rate, burst) // _TICK & _MOST)
    return Wanted(settings, burst, is_raised=size > bucket.burst)


def as_reference(rate: int, burst: int) -> BucketSettings:
    """Return settings as the reference computes them, in floats and whole microseconds: its CHECK compares.

    Packets wait 25 ms at most. In the reference, numbers of more than 32 bits lose the upper ones.
    """
    microseconds = int(burst * 1e6 / rate)
    return BucketSettings(rate, int(rate * 25_000.0 / 1e6) + burst, int(microseconds * 15.625))


def _exact(settings: BucketSettings, burst: int, mtu: int) -> int:
    """Return the burst if the kernel must be told it in bytes, as it would drop large packets, else 0.

    It computes the size of the largest packet from `buffer`, of which 4.3 s count.
    """
    largest = min(settings.buffer * _TICK, _MOST) * settings.rate // _NS
    return burst if largest < mtu + _FRAME else 0


def _time(rate: int, size: int) -> int:
    """Return the time that bytes take in nanoseconds, rounded as by psched_ratecfg_precompute."""
    factor, shift = _NS, 0
    while not (factor // rate & 1 << 31 or factor & 1 << 63):
        factor, shift = factor << 1, shift + 1
    return size * (factor // rate) >> shift


# ---------------------------------------------------------------------------------------------- kernel


def _set(session: Session, step: SetBucket) -> str:
    if step.bucket is None:
        return _remove(session, step.link)
    link = links.get(session, HOST, step.link)
    present = qdiscs.find(session, link.ifindex, ROOT)
    _require_own(step.link, present)
    settings, burst, _ = wanted(step.bucket, link.mtu)
    if present and present.bucket == settings:
        return UNCHANGED
    # An existing one is changed in place, with what is queued in it.
    handle = present.handle if present else BUCKET_HANDLE
    asked = NLM_F_ACK | NLM_F_CREATE | (NLM_F_REPLACE if present else 0)
    body = token_bucket(settings, burst)
    with needs("sch_tbf"):
        session.rtnl(HOST).call(
            wire.traffic_control(
                wire.RTM_NEWQDISC, asked, body, index=link.ifindex, handle=handle, parent=ROOT
            )
        )
    return _as_text(present)


def _require_own(name: str, present: Qdisc | None) -> None:
    """:raises NameTaken: if the link has a root qdisc that is not of this suite or the reference."""
    if present is None or _is_own(present):
        return
    raise NameTaken(
        f"link {name} has another root qdisc: {present.kind} {present.handle >> 16:x}:",
        "it is not replaced by a rate limit; delete it with tc(8)",
    )


def _is_own(present: Qdisc) -> bool:
    return present.bucket is not None and present.handle in (BUCKET_HANDLE, REFERENCE_BUCKET_HANDLE)


def _as_text(present: Qdisc | None) -> str:
    """Return a bucket such that SetBucket restores it; its queue is as long as 25 ms and the burst."""
    if present is None or present.bucket is None:
        return ABSENT
    rate, limit, buffer = present.bucket
    return Bucket(rate, max(0, limit - int(rate * 25_000.0 / 1e6)), buffer, limit).text


def _remove(session: Session, name: str) -> str:
    """Remove our token bucket; one of the reference goes with the link."""
    link = links.find(session, HOST, name)
    present = qdiscs.find(session, link.ifindex, ROOT) if link else None
    if link is None or present is None or present.handle != BUCKET_HANDLE or not present.bucket:
        return UNCHANGED
    try:
        session.rtnl(HOST).call(
            wire.traffic_control(
                wire.RTM_DELQDISC, NLM_F_ACK, index=link.ifindex, handle=BUCKET_HANDLE, parent=ROOT
            )
        )
    except Refused as err:
        if not is_absent(err):
            raise
    return _as_text(present)


def _differs(session: Session, step: SetBucket) -> str:
    link = links.find(session, HOST, step.link)
    if link is None:
        return links.missing(HOST, step.link)
    present = qdiscs.find(session, link.ifindex, ROOT)
    if step.bucket is None:
        is_there = present is not None and present.handle == BUCKET_HANDLE
        return f"link {step.link} has a rate limit that it should not have" if is_there else ""
    if present is None or not _is_own(present):
        kind = f"qdisc {present.kind}" if present else "no rate limit"
        return f"link {step.link} has {kind}, not a limit of {8 * step.bucket.rate} bit/s"
    return _bucket_differs(present, step.bucket, link)


def _bucket_differs(present: Qdisc, bucket: Bucket, link: Link) -> str:
    found, settings = present.bucket, wanted(bucket, link.mtu).settings
    if found is None or found == settings or _is_acceptable(present.handle, found, bucket, link.mtu):
        return ""
    if found.rate != settings.rate:
        return f"link {link.name} has a limit of {8 * found.rate} bit/s, not {8 * settings.rate}"
    return (
        f"the rate limit of link {link.name} has a burst of {found.buffer} ticks and a queue of "
        f"{found.limit} bytes, not {settings.buffer} and {settings.limit}"
    )


def _is_acceptable(handle: int, found: BucketSettings, bucket: Bucket, mtu: int) -> bool:
    """Say whether the reference, or we at another MTU, set the bucket for these limits.

    Numbers that the reference cut off are not compared. A raised burst may be longer: it was set for a larger
    MTU.
    """
    if handle == REFERENCE_BUCKET_HANDLE:
        theirs = as_reference(bucket.rate, bucket.burst)
        is_cut = max(theirs.limit, theirs.buffer) > _MOST
        return found == theirs or (is_cut and found.rate == bucket.rate)
    settings, _, is_raised = wanted(bucket, mtu)
    is_alike = is_raised and found.rate == bucket.rate
    return is_alike and found.buffer >= settings.buffer and found.limit >= settings.limit


DEEDS = deed(SetBucket, _set, _differs)
