"""Ours beside the reference, as root.

`python -m tests.bench.bench [--quick] [--only NAME …] [--output FILE]`
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench import columns, report, scenarios
from tests.bench.scenarios import Row, Scenario

PAGE = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"
QUICK_ROUNDS = 2


def main(words: list[str]) -> int:
    """Measure, print, write."""
    wanted = _arguments(words)
    if os.geteuid() != 0:
        sys.stderr.write("bench: network namespaces need root\n")
        return 1
    with columns.available() as present:
        rows = [
            row for scenario in _chosen(wanted) for row in _measured(scenario, present, quick=wanted.quick)
        ]
        text = report.section(present, rows, columns.absences())
    sys.stdout.write(f"{text}\n")
    if wanted.output:
        report.write(Path(wanted.output), text)
    return 0


def _arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="two rounds of the short scenarios, no page written"
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[one.name for one in scenarios.ALL])
    parser.add_argument(
        "--output", metavar="FILE", help="the page to rewrite; default: docs/benchmarks.md, whole runs only"
    )
    wanted = parser.parse_args(words)
    if wanted.output is None and not wanted.quick and not wanted.only:
        wanted.output = str(PAGE)
    return wanted


def _chosen(wanted: argparse.Namespace) -> list[Scenario]:
    if wanted.only:
        return [one for one in scenarios.ALL if one.name in wanted.only]
    return [one for one in scenarios.ALL if not (wanted.quick and one.name in scenarios.QUICK_LEAVES_OUT)]


def _measured(scenario: Scenario, present: list[columns.Column], *, quick: bool) -> list[Row]:
    sys.stderr.write(f"bench: {scenario.name}\n")
    return scenario.measure(present, QUICK_ROUNDS if quick else scenario.rounds)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
