"""One rule for every tier: where the environment says CI=true, a skip for lack of a tool is a failure."""

import os
from collections.abc import Generator

import pytest

_LACKING = "not installed"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and _LACKING in str(report.longrepr):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report
