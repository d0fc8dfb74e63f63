"""Checks differences against the intended ones: each must be intended, and each entry must have been met."""

import fnmatch
from collections import Counter
from dataclasses import dataclass, field

from tests.differential import intended
from tests.differential.compare import Difference
from tests.differential.intention import Intended


def matches(entry: Intended, difference: Difference, reference: str) -> bool:
    """Whether the entry speaks of this difference."""
    return (
        fnmatch.fnmatchcase(reference, entry.against)
        and any(fnmatch.fnmatchcase(difference.case, pattern) for pattern in entry.cases)
        and fnmatch.fnmatchcase(difference.path, entry.where)
        and fnmatch.fnmatchcase(difference.theirs, entry.theirs)
        and fnmatch.fnmatchcase(difference.ours, entry.ours)
    )


@dataclass
class DifferenceList:
    """The comparisons of one test session and the intended differences met in them."""

    met: Counter[Intended] = field(default_factory=Counter)
    compared: set[tuple[str, str]] = field(default_factory=set)

    def unlisted(self, reference: str, case: str, found: list[Difference]) -> list[Difference]:
        """Return the differences that are not intended; the others are noted as met."""
        self.compared.add((reference, case))
        return [difference for difference in found if not self._note(reference, difference)]

    def _note(self, reference: str, difference: Difference) -> bool:
        entries = [entry for entry in intended.DIFFERENCES if matches(entry, difference, reference)]
        self.met.update(entries)
        return bool(entries)

    def stale(self) -> list[Intended]:
        """Return the entries that no difference matches any more."""
        return [entry for entry in intended.DIFFERENCES if not self.met[entry]]
