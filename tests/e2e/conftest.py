"""
Fixtures of the end-to-end tier, and its rule about absent tools.

A test marked `needs("podman", …)` is skipped, the reason in sight, where something it drives is not
installed; where the environment says CI=true that skip, like any other in this tier, is a failure.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.e2e.lab import guest_bridge, guest_macvlan, image, killer, vm
from tests.e2e.lab.host import Host, raise_host
from tests.e2e.lab.tools import REPOSITORY, missing

HERE = Path(__file__).parent
SECONDS_PER_TEST = 600


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers of this tier."""
    config.addinivalue_line("markers", "needs(*tools): programs, `python:MODULE` or `kernel` the test drives")
    config.addinivalue_line("markers", "timeout(seconds): as pytest-timeout has it")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give whole runtimes and machines the time they take, whatever the time limit of the other tiers."""
    for item in items:
        if item.path.is_relative_to(HERE) and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SECONDS_PER_TEST))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, before any fixture is made, what cannot run here."""
    absent = missing(tuple(need for mark in item.iter_markers("needs") for need in mark.args))
    if absent:
        pytest.skip(f"not installed here: {', '.join(absent)} (.ci/install installs it)")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a skipped test of this tier has failed."""
    report = yield
    in_ci = os.environ.get("CI") == "true" and item.path.is_relative_to(HERE)
    if report.skipped and in_ci and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def dist() -> Path:
    """The directory of the executables under test: CNI_DIST, or what `make freeze` makes."""
    directory = Path(os.environ.get("CNI_DIST", REPOSITORY / "dist")).absolute()
    assert os.geteuid() == 0, "the end-to-end tier needs root"
    assert (directory / "bridge").exists(), (
        f"no executables in {directory}: run `make freeze`, or set CNI_DIST"
    )
    return directory


@pytest.fixture
def node(dist: Path) -> Iterator[Host]:
    """A plain simulated host with the executables in /opt/cni/bin."""
    with raise_host(dist) as host:
        yield host


@pytest.fixture(scope="session")
def busybox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An OCI archive of the busybox image `cnie.local/busybox:1`."""
    return image.write(tmp_path_factory.mktemp("image") / "busybox.tar")


@pytest.fixture(scope="session", name="killer")
def built_killer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A library that ends a process after so many changes of the kernel's state; tests of it need gcc."""
    return killer.build(tmp_path_factory.mktemp("killer"))


@pytest.fixture(scope="session")
def guest(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, vm.Steps]:
    """What the steps of each part have written in the one virtual machine."""
    parts = [guest_bridge.part(dist), guest_macvlan.part(dist)]
    guest = vm.Guest(parts, "/opt/cni/bin/cnictl agent --workers 4")
    return guest.run(tmp_path_factory.mktemp("vm"), timeout=550)
