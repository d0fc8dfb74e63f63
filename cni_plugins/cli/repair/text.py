"""Formats what `cnictl repair` prints, with pure functions."""

from collections import Counter
from collections.abc import Iterator

from cni_plugins.upkeep.attachment import Condition
from cni_plugins.upkeep.overlay_repair import OverlayOutcome
from cni_plugins.upkeep.repair import RepairOutcome, RepairReport

_QUIET = (Condition.IN_ORDER, Condition.FOREIGN)


def lines(report: RepairReport) -> Iterator[str]:
    """Yield a line for each network and attachment that is not in order, and one with the numbers."""
    for network in report.overlays:
        if network.is_at_fault or (network.seen and network.seen.differences):
            yield _network_line(network)
    for one in report.attachments:
        if one.condition not in _QUIET:
            yield attachment_line(one)
    yield _numbers(report)


def attachment_line(one: RepairOutcome) -> str:
    network, container, ifname = one.of.attachment
    said = "; ".join((*one.differences, *one.remaining))
    if one.condition == Condition.GONE:
        said = "no such container or interface any more, nothing was done"
    if one.condition == Condition.UNREPAIRED and one.differences:
        repaired, left = "; ".join(one.differences), "; ".join(one.remaining)
        said = f"{left}; repaired: {repaired}"
    return f"{network} {container} {ifname}: {one.condition}: {said}"


def _network_line(one: OverlayOutcome) -> str:
    if one.seen is None:
        return f"{one.network}: overlay at fault: {one.error}"
    return f"{one.network}: overlay {one.seen.state}: {'; '.join(one.seen.differences)}"


def _numbers(report: RepairReport) -> str:
    count = Counter(one.condition for one in report.attachments)
    each = ", ".join(f"{count[condition]} {condition}" for condition in Condition if count[condition])
    return f"{len(report.attachments)} attachments{': ' if each else ''}{each}"


def failure(report: RepairReport) -> str:
    """Return why the command fails; empty if all is in order, or was repaired."""
    count = Counter(one.condition for one in report.attachments)
    faulty = sum(1 for one in report.overlays if one.is_at_fault)
    parts = [
        f"{count[Condition.UNREPAIRED]} could not be repaired" if count[Condition.UNREPAIRED] else "",
        f"{count[Condition.DIFFERS]} differ, which cnictl repair repairs" if count[Condition.DIFFERS] else "",
    ]
    of_attachments = ", ".join(filter(None, parts))
    of_files = f"{len(report.faults)} cache files are broken" if report.faults else ""
    drifted = f"{faulty} overlays are not in sync" if faulty else ""
    whole = (f"attachments: {of_attachments}" if of_attachments else "", drifted, of_files)
    return "; ".join(filter(None, whole))
