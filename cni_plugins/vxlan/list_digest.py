"""Digests an overlay's list of peers, so that hosts which disagree are found by comparing a few digits."""

import json

from cni_plugins.ownership import digest
from cni_plugins.vxlan.config import Overlay
from cni_plugins.vxlan.identity import vtep_mac
from cni_plugins.vxlan.records import Record

_DIGITS = 12


def list_digest(overlay: Overlay) -> str:
    """Return a digest of what all hosts must have alike, empty if peers are not listed.

    The order of records, notations, and keys that have their default make no difference.
    """
    records = overlay.roster.records
    if records is None:
        return ""
    config = overlay.config
    shared = [config.mode, overlay.vni, config.port, sorted(map(str, config.within))]
    return digest(json.dumps([shared, sorted(map(_normalised, records))]), _DIGITS)


def _normalised(record: Record) -> list[object]:
    # A host's own address is the first of its first block.
    parts = [*sorted(map(str, record.subnets)), *map(str, record.blocks)]
    return [str(record.vtep), record.node, record.mac or vtep_mac(record.vtep), record.mtu, parts]
