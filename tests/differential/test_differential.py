"""Every configuration through a reference and through ours: what differs must be in `intended.py`."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.differential import cases, compare, fixture, intended, suites
from tests.differential.cases import Case
from tests.differential.difference_list import DifferenceList
from tests.differential.suites import Suite, debian, newest
from tests.differential.trace_cache import TraceCache

ALL = cases.load()


@pytest.fixture(scope="module")
def difference_list() -> DifferenceList:
    return DifferenceList()


@pytest.fixture(scope="module")
def traces(request: pytest.FixtureRequest) -> Iterator[TraceCache]:
    """The traces of the comparisons that were asked for, each recorded once."""
    with TraceCache(wanted(request.session.items)) as made:
        yield made


def wanted(items: list[pytest.Item]) -> Iterator[tuple[Suite, Case]]:
    """Which traces these tests need, in their order."""
    own, known = suites.ours(), {"debian": debian(), "v1.9": newest()}
    if os.geteuid() != 0 or own.absence is not None:
        return
    for item in items:
        if item.path != Path(__file__) or "[" not in item.name:
            continue
        params = getattr(item, "callspec").params  # noqa: B009 (unknown to pytest's types)
        their, case = known[params["their"]], params["case"]
        if their.absence is None and reason_against(their, case) is None:
            yield from ((own, case), (their, case))


def reason_against(their: Suite, case: Case) -> str | None:
    """Why these two cannot be put together here, or None."""
    if not their.speaks(case.version):
        return f"{their.label} does not speak {case.version}"
    return fixture.lacks(case.needs)


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_only_intended_things_differ(
    case: Case, their: Suite, ours: Suite, difference_list: DifferenceList, traces: TraceCache
) -> None:
    reason = reason_against(their, case)
    if reason is not None:
        pytest.skip(reason)
    theirs, own = (traces.trace(suite, case).result() for suite in (their, ours))
    found = compare.differences(case.name, theirs, own)
    unlisted = difference_list.unlisted(their.label, case.name, found)
    assert not unlisted, "\n" + "\n".join(str(difference) for difference in unlisted)


def test_no_intended_difference_is_stale(difference_list: DifferenceList) -> None:
    runnable = {
        (suite.label, case.name)
        for suite in (debian(), newest())
        for case in ALL
        if suite.speaks(case.version) and fixture.lacks(case.needs) is None
    }
    if not runnable <= difference_list.compared:
        pytest.skip(
            f"only a whole run can tell: {len(runnable - difference_list.compared)} comparisons are missing"
        )
    assert not difference_list.stale(), "\n" + "\n".join(str(entry) for entry in difference_list.stale())


def test_every_intended_difference_has_a_reason_and_is_listed_once() -> None:
    keys = [
        (entry.against, entry.cases, entry.where, entry.theirs, entry.ours) for entry in intended.DIFFERENCES
    ]
    assert len(set(keys)) == len(keys)
    assert all(len(entry.reason) > 20 for entry in intended.DIFFERENCES)
