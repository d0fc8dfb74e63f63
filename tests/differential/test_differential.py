"""Every configuration through a reference and through ours: what differs must be in `intended.py`."""

import pytest

from tests.differential import cases, compare, intended, story, world
from tests.differential.cases import Case
from tests.differential.ledger import Ledger
from tests.differential.suites import Suite, debian, newest

ALL = cases.load()


@pytest.fixture(scope="module")
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture(scope="module")
def our_stories() -> dict[str, story.Story]:
    """Ours is run once per case, however many references it is compared with."""
    return {}


def skip_what_cannot_run(their: Suite, case: Case) -> None:
    if not their.speaks(case.version):
        pytest.skip(f"{their.label} does not speak {case.version}")
    lacking = world.lacks(case.needs)
    if lacking is not None:
        pytest.skip(lacking)


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_only_intended_things_differ(
    case: Case, their: Suite, ours: Suite, ledger: Ledger, our_stories: dict[str, story.Story]
) -> None:
    skip_what_cannot_run(their, case)
    if case.name not in our_stories:
        our_stories[case.name] = story.tell(ours, case)
    found = compare.differences(case.name, story.tell(their, case), our_stories[case.name])
    unlisted = ledger.unlisted(their.label, case.name, found)
    assert not unlisted, "\n" + "\n".join(str(difference) for difference in unlisted)


def test_no_intended_difference_is_stale(ledger: Ledger) -> None:
    runnable = {
        (suite.label, case.name)
        for suite in (debian(), newest())
        for case in ALL
        if suite.speaks(case.version) and world.lacks(case.needs) is None
    }
    if not runnable <= ledger.compared:
        pytest.skip(f"only a whole run can tell: {len(runnable - ledger.compared)} comparisons are missing")
    assert not ledger.stale(), "\n" + "\n".join(str(entry) for entry in ledger.stale())


def test_every_intended_difference_has_a_reason_and_is_listed_once() -> None:
    keys = [
        (entry.against, entry.cases, entry.where, entry.theirs, entry.ours) for entry in intended.DIFFERENCES
    ]
    assert len(set(keys)) == len(keys)
    assert all(len(entry.reason) > 20 for entry in intended.DIFFERENCES)
