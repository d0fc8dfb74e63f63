"""Fixtures of the side-by-side tests: the suites, or the reason why one cannot run here."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.differential import reference, suites
from tests.differential.suites import Suite

_HERE = Path(__file__).parent
_SECONDS_PER_TEST = 60


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Time only the tests themselves: what builds the reference before one of them has a limit of its own."""
    for item in items:
        if item.path.is_relative_to(_HERE) and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(_SECONDS_PER_TEST, func_only=True))


def _present(suite: Suite) -> Suite:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    if suite.absence is not None:
        pytest.skip(suite.absence)
    return suite


@pytest.fixture
def ours() -> Suite:
    """Our frozen programs."""
    return _present(suites.ours())


@pytest.fixture(params=["debian", "v1.9"])
def their(request: pytest.FixtureRequest) -> Suite:
    """Each reference in turn; no wider scope, so that the tests keep the order of their file."""
    if request.param == "debian":
        return _present(suites.debian())
    return _newest()


@pytest.fixture
def newest() -> Suite:
    """The newest reference alone."""
    return _newest()


def _newest() -> Suite:
    reason = reference.fetch()
    if reason is not None:
        pytest.skip(reason)
    return _present(suites.newest())
