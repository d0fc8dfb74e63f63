"""Two traces side by side.

`python -m tests.differential.compare LEFT RIGHT [case …]` prints every difference between two suites,
intended or not; LEFT and RIGHT are `debian`, `v1.9` or `ours`.
"""

import fnmatch
import sys
from dataclasses import dataclass

from tests.differential import cases, fixture, suites
from tests.differential.trace import SEPARATOR, Trace
from tests.differential.trace_cache import TraceCache

ABSENT = "absent"


@dataclass(frozen=True)
class Difference:
    """One leaf on which two suites do not agree."""

    case: str
    path: str
    theirs: str
    ours: str

    def __str__(self) -> str:
        return f"{self.case} | {self.path} | {self.theirs} | {self.ours}"


def differences(name: str, theirs: Trace, ours: Trace) -> list[Difference]:
    """Every difference; a thing that one side lacks altogether is one difference, at its top."""
    found = [
        Difference(name, path, theirs.get(path, ABSENT), ours.get(path, ABSENT))
        for path in dict.fromkeys((*theirs, *ours))
        if theirs.get(path) != ours.get(path)
    ]
    return _folded(found, theirs, ours)


def _folded(found: list[Difference], theirs: Trace, ours: Trace) -> list[Difference]:
    """Leaves below a thing that only one side has become one difference."""
    folded: dict[str, Difference] = {}
    for difference in found:
        top = difference.path
        if ABSENT in (difference.theirs, difference.ours):
            other = theirs if difference.theirs == ABSENT else ours
            top = _top_of_absence(difference.path, other)
        if top == difference.path:
            folded[top] = difference
        else:
            here, gone = "present", ABSENT
            sides = (gone, here) if difference.theirs == ABSENT else (here, gone)
            folded[top] = Difference(difference.case, top, *sides)
    return list(folded.values())


def _top_of_absence(path: str, other: Trace) -> str:
    """The highest ancestor of which the other side knows nothing."""
    parts = path.split(SEPARATOR)
    for depth in range(2, len(parts)):
        top = SEPARATOR.join(parts[:depth])
        if not any(known == top or known.startswith(f"{top}{SEPARATOR}") for known in other):
            return top
    return path


def main(left: str, right: str, patterns: list[str]) -> None:
    """Print the table of differences."""
    known = {suite.label: suite for suite in (suites.debian(), suites.newest(), suites.ours())}
    sides = [known[label] for label in (left, right)]
    chosen = [
        case
        for case in cases.load()
        if (not patterns or any(fnmatch.fnmatch(case.name, pattern) for pattern in patterns))
        and all(suite.speaks(case.version) for suite in sides)
        and not fixture.lacks(case.needs)
    ]
    with TraceCache((suite, case) for case in chosen for suite in sides) as traces:
        for case in chosen:
            both = [traces.trace(suite, case).result() for suite in sides]
            for difference in differences(case.name, *both):
                sys.stdout.write(f"{difference}\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
