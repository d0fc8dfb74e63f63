"""The benchmark runs to its end and tells a table; its figures are nobody's test."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench import chain_lives, columns, memory, node
from tests.differential import reference

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


def chain(*words: str) -> list[dict[str, str]]:
    """Return the rows of all tables that a short run prints, by their heads."""
    command = (sys.executable, "-m", "tests.bench.chain", "--rounds", "1", *words)
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, str]] = []
    for table in done.stdout.strip().split("\n\n"):
        heads, _, *lines = ([cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines())
        rows += [dict(zip(heads, line, strict=True)) for line in lines]
    return rows


def ratios(row: dict[str, str]) -> list[float]:
    return [float(cell) for head, cell in row.items() if "÷" in head]


@pytest.fixture(scope="module")
def references() -> None:
    reason = reference.fetch((*reference.PROGRAMS, *chain_lives.CHAINED))
    if len(node.references()) < 2:
        pytest.skip(reason or "both references are needed")


@needs_root
@pytest.mark.timeout(180)
@pytest.mark.usefixtures("references")
def test_chained_plugins_are_measured_beside_the_reference() -> None:
    rows = {row.pop("operation"): row for row in chain("--containers", "0", "--only", "portmap", "sbr")}
    assert set(rows) == {
        *(
            f"portmap{backend} {command}"
            for backend in ("", ", iptables")
            for command in ("ADD", "CHECK", "DEL")
        ),
        *(f"sbr {command}" for command in ("ADD", "CHECK", "DEL")),
    }
    for row in rows.values():
        assert len(ratios(row)) == 3
        assert all(ratio > 0 for ratio in ratios(row))


@needs_root
@pytest.mark.timeout(180)
def test_calls_beside_other_containers_have_rows_of_their_own() -> None:
    rows = chain("--containers", "1", "--only", "firewall")
    assert {"firewall ADD", "firewall ADD, beside 1 others"} <= {row.get("operation") for row in rows}
    growth = [row for row in rows if "operation" not in row]
    assert len(growth) == 6
    assert all(float(row["agent"]) > 0 for row in growth)


@needs_root
@pytest.mark.timeout(180)
@pytest.mark.usefixtures("references")
def test_packets_and_repairs_are_measured() -> None:
    packets = chain("--ports", "2", "--only", "packets")
    assert [row["operation"].split()[0] for row in packets] == ["no", "1", "2", "past"]
    assert all(ratio > 0 for row in packets for ratio in ratios(row))
    repairs = chain("--containers", "2", "--only", "repair")
    assert len(repairs) == 4
    assert all(float(row["2 containers"].removesuffix(" ms")) > 0 for row in repairs)
