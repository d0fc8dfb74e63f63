"""What the scenarios yield and the report prints."""

import statistics
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

# The tables, in the order of the page. The first three have the columns of columns.py, and so ratios.
CALL, CPU, PARALLEL, RESIDENT, ANATOMY = "call", "cpu", "parallel", "resident", "anatomy"


@dataclass
class Row:
    """One operation and, per column, every sample in the unit's scale."""

    operation: str
    unit: str = "ms"
    table: str = CALL
    samples: Mapping[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def median(self, label: str) -> float | None:
        """The middle of a column's samples."""
        return statistics.median(self.samples[label]) if self.samples.get(label) else None

    def fastest(self, labels: list[str]) -> float | None:
        """The smallest median among those columns."""
        return min((value for label in labels if (value := self.median(label)) is not None), default=None)
