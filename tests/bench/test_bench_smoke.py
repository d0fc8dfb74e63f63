"""The benchmark runs to its end and tells a table; its figures are nobody's test."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench import columns, memory

REPOSITORY = Path(__file__).resolve().parents[2]

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "tests.bench.bench", *words)
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


@needs_root
def test_a_quick_run_fills_the_page(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    scenarios = ("VERSION", "bridge", "leases 0", "warm dual-stack ADD", "agent memory")
    done = bench("--quick", "--only", *scenarios, "--output", str(page))
    assert done.returncode == 0, done.stderr
    assert "| VERSION |" in done.stdout
    text = page.read_text()
    for cell in ("ours, cold", "ours, warm", "bridge + host-local ADD", "agent with two workers, PSS"):
        assert f"| {cell} |" in text
    assert "ip -batch" in text


def one_warm_call_and_one_cold(warm: columns.Kind) -> None:
    with warm.opened() as column:
        call = column.call("loopback", "ADD", {"cniVersion": "1.0.0", "name": "bench"})
        column.measure(call)
        column.measure(dataclasses.replace(call, env={**call.env, "CNI_PLUGINS_AGENT": ""}))


@needs_root
def test_a_call_that_the_agent_did_not_serve_is_noticed() -> None:
    (warm,) = (kind for kind in columns.present() if kind.is_warm)
    with pytest.raises(RuntimeError, match="served 1 of 2 calls"):
        one_warm_call_and_one_cold(warm)


def test_the_sampler_sees_what_runs_meanwhile() -> None:
    with memory.sampled() as peak:
        subprocess.run(["sleep", "0.5"], check=True)
    assert 0 < peak.megabytes < 20


@needs_root
def test_a_second_run_rewrites_only_what_stands_between_the_markers(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text("# Mine\n\n<!-- bench:begin -->\nfigures of yesterday\n<!-- bench:end -->\n\nkept\n")
    assert bench("--quick", "--only", "VERSION", "--output", str(page)).returncode == 0
    text = page.read_text()
    assert text.startswith("# Mine\n")
    assert text.endswith("\nkept\n")
    assert "yesterday" not in text
