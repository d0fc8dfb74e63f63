"""Rules for all tiers: in CI a skip for lack of a tool is a failure; processes take slow files first."""

import os
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import settings

# Examples take their time on a loaded machine; hypothesis has no deadline itself where it recognises CI.
settings.register_profile("cni", deadline=None)
settings.load_profile("cni")

_LACKING = "not installed"
# By the time they take: a long file that starts last leaves the other core idle.
_SLOW_FIRST = (
    "differential/test_differential.py",
    "e2e/test_store_faults.py",
    "e2e/test_stores.py",
    "e2e/test_vlan_vm.py",
    "e2e/test_macvlan_vm.py",
    "e2e/test_kills.py",
    "e2e/test_agent_faults.py",
    "e2e/test_lab.py",
    "e2e/test_chain_kills.py",
    "e2e/test_chain_lists.py",
    "e2e/test_overlay_faults.py",
    "e2e/test_cnictl_overlay.py",
    "e2e/test_macvlan_runtimes.py",
    "differential/test_live_swap.py",
    "e2e/test_overlay_mtu.py",
    "e2e/test_ptp_runtimes.py",
    "e2e/test_chain_podman.py",
    "e2e/test_chain_containerd.py",
    "e2e/test_agent.py",
    "e2e/test_overlay_runtime.py",
    "differential/test_live_swap_others.py",
    "e2e/test_cnitool.py",
    "e2e/test_agent_upgrade.py",
    "e2e/test_hostile_runtime.py",
    "e2e/test_overlay_matrix.py",
    "e2e/test_overlay_input.py",
    "e2e/test_store_access.py",
    "e2e/test_bad_input.py",
    "integration/engine/test_refused_steps.py",
    "integration/ipam_hostlocal/test_kill.py",
    "integration/bandwidth/test_traffic.py",
    "integration/cli/test_interrupted.py",
    "integration/agent/test_metrics.py",
    "integration/vxlan/test_probe.py",
)
_TOGETHER = {"e2e/test_vlan_vm.py": "vm", "e2e/test_macvlan_vm.py": "vm"}
"""Files that share what one process has."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and _LACKING in str(report.longrepr):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: number for number, name in enumerate(_SLOW_FIRST)}
    items.sort(key=lambda item: rank.get(_file(item.nodeid), len(rank)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Share out files as they were collected; xdist's own `loadfile` takes those with most tests first."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Sharing(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _TOGETHER.get(_file(nodeid), _file(nodeid))

    config.option.loadscopereorder = False
    return Sharing(config, log)


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0].removeprefix("tests/")
