"""The benchmark runs to its end and tells a table; its figures are nobody's test."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "tests.bench.bench", *words)
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
def test_a_quick_run_fills_the_page(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    done = bench("--quick", "--only", "VERSION", "bridge", "leases 0", "--output", str(page))
    assert done.returncode == 0, done.stderr
    assert "| VERSION |" in done.stdout
    assert "| bridge + host-local ADD |" in page.read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
def test_a_second_run_rewrites_only_what_stands_between_the_markers(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text("# Mine\n\n<!-- bench:begin -->\nfigures of yesterday\n<!-- bench:end -->\n\nkept\n")
    assert bench("--quick", "--only", "VERSION", "--output", str(page)).returncode == 0
    text = page.read_text()
    assert text.startswith("# Mine\n")
    assert text.endswith("\nkept\n")
    assert "yesterday" not in text
