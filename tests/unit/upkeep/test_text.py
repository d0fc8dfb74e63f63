"""What `cnictl repair` prints, and its exit code's reason."""

from pathlib import Path
from typing import Any

import pytest

from cni_plugins.cli.repair.document import document
from cni_plugins.cli.repair.text import failure, lines
from cni_plugins.ownership import Attachment
from cni_plugins.upkeep.attachment import Condition
from cni_plugins.upkeep.caches import CachedAttachment
from cni_plugins.upkeep.overlay_repair import OverlayOutcome
from cni_plugins.upkeep.repair import RepairOutcome, RepairReport


def outcome(container: str, condition: Condition, *texts: str, left: tuple[str, ...] = ()) -> RepairOutcome:
    attachment = Attachment("net1", container, "eth0")
    cached = CachedAttachment(Path("/c") / container, (1, 1), attachment, "/n", b"{}", {})
    return RepairOutcome(cached, ("bridge",), condition, texts, left)


FAULT = OverlayOutcome("blue", None, "no peers")
CASES: dict[str, tuple[RepairReport, list[str], str]] = {
    "nothing": (RepairReport(), ["0 attachments"], ""),
    "in order": (
        RepairReport((outcome("c1", Condition.IN_ORDER), outcome("c2", Condition.FOREIGN))),
        ["2 attachments: 1 in order, 1 not ours"],
        "",
    ),
    "repaired": (
        RepairReport((outcome("c1", Condition.REPAIRED, "a", "b"),)),
        ["net1 c1 eth0: repaired: a; b", "1 attachments: 1 repaired"],
        "",
    ),
    "differs": (
        RepairReport((outcome("c1", Condition.DIFFERS, "a"),)),
        ["net1 c1 eth0: differs: a", "1 attachments: 1 differs"],
        "attachments: 1 differ, which cnictl repair repairs",
    ),
    "in part": (
        RepairReport((outcome("c1", Condition.UNREPAIRED, "a", left=("b",)),)),
        ["net1 c1 eth0: not repaired: b; repaired: a", "1 attachments: 1 not repaired"],
        "attachments: 1 could not be repaired",
    ),
    "gone": (
        RepairReport((outcome("c1", Condition.GONE),)),
        [
            "net1 c1 eth0: gone: no such container or interface any more, nothing was done",
            "1 attachments: 1 gone",
        ],
        "",
    ),
    "overlay": (
        RepairReport((), (FAULT,), ("/f: not JSON",)),
        ["blue: overlay at fault: no peers", "0 attachments"],
        "1 overlays are not in sync; 1 cache files are broken",
    ),
}


@pytest.mark.parametrize(("report", "printed", "reason"), CASES.values(), ids=CASES)
def test_a_report_is_printed(report: RepairReport, printed: list[str], reason: str) -> None:
    assert list(lines(report)) == printed
    assert failure(report) == reason


def test_programs_get_every_key() -> None:
    report = RepairReport((outcome("c1", Condition.UNREPAIRED, "a", left=("b",)),), (FAULT,), ("f",))
    wanted: dict[str, Any] = {
        "attachments": [
            {
                "network": "net1",
                "container": "c1",
                "ifname": "eth0",
                "file": "/c/c1",
                "plugins": ["bridge"],
                "state": "not repaired",
                "differences": ["a"],
                "unrepaired": ["b"],
            }
        ],
        "overlays": [{"network": "blue", "state": "at fault", "differences": [], "error": "no peers"}],
        "faults": ["f"],
    }
    assert document(report) == wanted
