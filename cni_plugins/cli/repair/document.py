"""Builds the JSON document of `cnictl repair --json`; docs/cnictl.md lists the keys."""

from typing import Any

from cni_plugins.upkeep.overlay_repair import OverlayOutcome
from cni_plugins.upkeep.repair import RepairOutcome, RepairReport


def document(report: RepairReport) -> dict[str, Any]:
    return {
        "attachments": [_attachment(one) for one in report.attachments],
        "overlays": [_overlay(one) for one in report.overlays],
        "faults": list(report.faults),
    }


def _attachment(one: RepairOutcome) -> dict[str, Any]:
    network, container, ifname = one.of.attachment
    return {
        "network": network,
        "container": container,
        "ifname": ifname,
        "file": str(one.of.file),
        "plugins": list(one.plugins),
        "state": str(one.condition),
        "differences": list(one.differences),
        "unrepaired": list(one.remaining),
    }


def _overlay(one: OverlayOutcome) -> dict[str, Any]:
    seen = one.seen
    return {
        "network": one.network,
        "state": "at fault" if seen is None else str(seen.state),
        "differences": [] if seen is None else list(seen.differences),
        "error": one.error or None,
    }
