"""The tables in markdown, and their place in docs/benchmarks.md."""

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from tests.bench import budgets, resident
from tests.bench.columns import Kind
from tests.bench.rows import ANATOMY, CALL, CPU, PARALLEL, RESIDENT, Row

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
_FRAME = f"# Benchmarks\n\n{BEGIN}\n{END}\n"
_TABLES = {
    "One call: wall-clock time": CALL,
    "One call: CPU time": CPU,
    "Many calls at once": PARALLEL,
    "Parts of a warm ADD": ANATOMY,
    "Memory of the agent": RESIDENT,
}
_NAMES = ("bridge", "host-local", "static", "loopback", "macvlan", "ptp")
_COMPARED = (CALL, CPU, PARALLEL)


def section(kinds: list[Kind], rows: list[Row], missing: list[str]) -> str:
    """Everything that is generated."""
    parts = [machine(), *(f"Left out: {reason}." for reason in missing)]
    for heading, of in _TABLES.items():
        chosen = [row for row in rows if row.table == of]
        if chosen:
            parts += [f"### {heading}", compared(kinds, chosen) if of in _COMPARED else plain(chosen)]
    parts += [judged(kinds, rows), f"### Size on disk\n\n{sizes(kinds)}"]
    return "\n\n".join(part for part in parts if part)


class Head(Protocol):
    """What a table asks of a column: its label, and whether others are compared with it."""

    @property
    def label(self) -> str: ...

    @property
    def is_reference(self) -> bool: ...


def compared(kinds: Sequence[Head], rows: Sequence[Row]) -> str:
    """Medians per column, then the ratio of each of ours to the faster reference of the row."""
    mine = [kind.label for kind in kinds if not kind.is_reference]
    references = _references(kinds)
    ratios = mine if references else []
    heads = [
        "operation",
        *(kind.label for kind in kinds),
        *(f"{label} ÷ reference" for label in ratios),
    ]
    lines = [
        [
            row.operation,
            *(_amount(row.median(kind.label), row.unit) for kind in kinds),
            *(_ratio(row.median(label), row.fastest(references)) for label in ratios),
        ]
        for row in rows
    ]
    return table(heads, lines)


def plain(rows: list[Row]) -> str:
    """Medians only; rows of the same operation become one."""
    rows = [row for row in rows if row.samples]
    labels = list(dict.fromkeys(label for row in rows for label in row.samples))
    cells: dict[str, dict[str, str]] = {}
    for row in rows:
        found = {label: _amount(row.median(label), row.unit) for label in row.samples}
        cells.setdefault(row.operation, {}).update(found)
    lines = [[operation, *(found.get(label, "-") for label in labels)] for operation, found in cells.items()]
    return table(["", *labels], lines)


def judged(kinds: list[Kind], rows: list[Row]) -> str:
    """The budgets whose figures were measured."""
    found = [budget.verdict(rows, _references(kinds)) for budget in budgets.ALL]
    lines = [
        [verdict.what, verdict.limit, verdict.found, "yes" if verdict.is_kept else "**no**"]
        for verdict in found
        if verdict
    ]
    return "### Budgets\n\n" + table(["quantity", "at most", "measured", "kept"], lines) if lines else ""


def machine() -> str:
    """The shape of the machine, without its name."""
    kernel = re.match(r"[\d.]*\d", platform.release())
    tools = (_first_line("iptables", "--version"), _first_line("nft", "--version"))
    words = [
        f"{os.cpu_count()} CPUs",
        f"Linux {kernel.group() if kernel else 'unknown'} {platform.machine()}",
        f"Python {platform.python_version()} as timer",
        *(tool for tool in tools if tool),
    ]
    return "Machine: " + ", ".join(words) + "."


def sizes(kinds: list[Kind]) -> str:
    """What the programs weigh; hard links are counted once."""
    told = {kind.suite.label: _size(kind) for kind in kinds}
    extra = next((_cnictl(kind) for kind in kinds if kind.is_warm), "")
    return f"{', '.join(_NAMES)}: {'; '.join(told.values())}.{extra}" if told else ""


def _size(kind: Kind) -> str:
    files = {path.stat().st_ino: path.stat().st_size for path in _programs(kind)}
    label = kind.label if kind.is_reference else "ours"
    return f"{label} {sum(files.values()) / 1e6:.1f} MB in {_counted(len(files), 'file')}"


def _cnictl(kind: Kind) -> str:
    return f" {resident.PROGRAM}: {kind.suite.program(resident.PROGRAM).stat().st_size / 1e6:.1f} MB."


def write(path: Path, generated: str) -> None:
    """Put the section between the markers; make the page when there is none."""
    page = path.read_text() if path.is_file() else _FRAME
    if BEGIN not in page or END not in page:
        page = f"{page.rstrip()}\n\n{BEGIN}\n{END}\n"
    before, rest = page.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{before}{BEGIN}\n\n{generated}\n\n{END}{after}")


def _programs(kind: Kind) -> list[Path]:
    return [kind.suite.program(name) for name in _NAMES]


def _references(kinds: Sequence[Head]) -> list[str]:
    return [kind.label for kind in kinds if kind.is_reference]


def table(heads: list[str], lines: list[list[str]]) -> str:
    rule = "|---|" + "--:|" * (len(heads) - 1)
    return "\n".join([f"| {' | '.join(heads)} |", rule, *(f"| {' | '.join(line)} |" for line in lines)])


def _amount(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.1f} {unit}" if value < 100 else f"{value:.0f} {unit}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _ratio(mine: float | None, theirs: float | None) -> str:
    return "-" if mine is None or not theirs else f"{mine / theirs:.2f}"


def _first_line(*words: str) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.partition("\n")[0].strip()
