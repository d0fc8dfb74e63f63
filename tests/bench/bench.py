"""Ours beside the reference, as root.

`python -m tests.bench.bench [--quick] [--only NAME …] [--output FILE]`
"""

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench import columns, report, scenarios
from tests.bench.columns import Kind
from tests.bench.rows import Row
from tests.bench.scenarios import Scenario, Solo

PAGE = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"


def main(words: list[str]) -> int:
    """Measure, print, write."""
    wanted = _arguments(words)
    if os.geteuid() != 0:
        sys.stderr.write("bench: network namespaces need root\n")
        return 1
    kinds = columns.present()
    text = report.section(kinds, _rows(kinds, _chosen(wanted)), columns.absences())
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


def _chosen(wanted: argparse.Namespace) -> list[tuple[Scenario | Solo, int]]:
    """The scenarios and their rounds."""
    chosen = [one for one in scenarios.ALL if not wanted.only or one.name in wanted.only]
    pairs = [(one, one.quick_rounds if wanted.quick else one.rounds) for one in chosen]
    return [(one, rounds) for one, rounds in pairs if rounds]


def _rows(kinds: list[Kind], chosen: list[tuple[Scenario | Solo, int]]) -> list[Row]:
    rows: list[Row] = []
    with columns.opened(kinds) as side_by_side:
        for scenario, rounds in chosen:
            if isinstance(scenario, Scenario):
                with _told(scenario.name):
                    rows += scenario.measure(side_by_side, rounds)
                    for column in side_by_side:
                        column.confirm()
    for solo, rounds in chosen:
        if isinstance(solo, Solo):
            with _told(solo.name):
                rows += solo.measure(kinds, rounds)
    return rows


@contextlib.contextmanager
def _told(name: str) -> Iterator[None]:
    begun = time.monotonic()
    yield
    sys.stderr.write(f"bench: {name}, {time.monotonic() - begun:.1f} s\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
