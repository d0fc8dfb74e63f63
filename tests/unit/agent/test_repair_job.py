"""What the process that repairs tells the one that watches."""

import json
from pathlib import Path

from cni_plugins.agent.repair import job
from cni_plugins.agent.repair.job import Event, JobResult
from cni_plugins.ownership import Attachment
from cni_plugins.upkeep.attachment import Condition
from cni_plugins.upkeep.caches import CachedAttachment
from cni_plugins.upkeep.overlay_repair import OverlayOutcome
from cni_plugins.upkeep.repair import RepairOutcome, RepairReport

CACHED = CachedAttachment(Path("/c"), (1, 1), Attachment("net1", "c1", "eth0"), "/n", b"{}", {})


def test_what_was_repaired_and_what_not_is_told_of_each_attachment() -> None:
    outcome = RepairOutcome(CACHED, ("bridge", "portmap"), Condition.UNREPAIRED, ("a", "b"), ("c",))
    quiet = RepairOutcome(CACHED, ("bridge",), Condition.IN_ORDER)
    overlay = OverlayOutcome("blue", None, "no peers")
    result = job.told(RepairReport((outcome, quiet), (overlay,), ("f",)), 0.5)
    names = ("net1", "c1", "eth0", "bridge,portmap")
    assert result == JobResult(
        0.5,
        (Event(*names, ("a", "b")),),
        (Event(*names, ("c",)), Event("blue", "", "", "vxlan", ("no peers",))),
        ("f",),
    )
    assert job._result(json.dumps(result).encode()) == result
