"""The table in markdown, and its place in docs/benchmarks.md."""

import os
import platform
import re
import subprocess
from pathlib import Path

from tests.bench.columns import Column
from tests.bench.scenarios import Row

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
_FRAME = f"""# Benchmarks

How long a runtime waits for a plugin, ours beside the reference, on the same machine in the same
minutes. Every sample is a real process start with the configuration on a pipe; the columns take
turns, so that noise hits all alike; the figures are medians. A ratio below 1 means that ours is
faster.

To repeat: `make freeze && make bench` as root. Go and the Debian package
`containernetworking-plugins` give the reference columns; a suite that is missing is left out and
named. `make bench` rewrites what stands between the markers and nothing else.

{BEGIN}
{END}
"""


def section(columns: list[Column], rows: list[Row], missing: list[str]) -> str:
    """Everything that is generated."""
    parts = [machine(), *(f"Left out: {reason}." for reason in missing), table(columns, rows), sizes(columns)]
    return "\n\n".join(part for part in parts if part)


def table(columns: list[Column], rows: list[Row]) -> str:
    """Medians per column, then the ratio of each of ours to each reference."""
    pairs = [
        (mine, theirs)
        for mine in columns
        for theirs in columns
        if theirs.is_reference and not mine.is_reference
    ]
    heads = [
        "operation",
        *(column.label for column in columns),
        *(f"{mine.label} ÷ {theirs.label}" for mine, theirs in pairs),
    ]
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "--:|" * (len(heads) - 1)]
    for row in rows:
        medians = [_milliseconds(row.median(column.label)) for column in columns]
        ratios = [_ratio(row.median(mine.label), row.median(theirs.label)) for mine, theirs in pairs]
        lines.append("| " + " | ".join([row.operation, *medians, *ratios]) + " |")
    return "\n".join(lines)


def machine() -> str:
    """The shape of the machine, without its name."""
    kernel = re.match(r"[\d.]*\d", platform.release())
    tools = (_first_line("iptables", "--version"), _first_line("nft", "--version"))
    words = [
        f"{os.cpu_count()} CPUs",
        f"Linux {kernel.group() if kernel else 'unknown'} {platform.machine()}",
        f"Python {platform.python_version()} drives the clock",
        *(tool for tool in tools if tool),
    ]
    return "Machine: " + ", ".join(words) + "."


def sizes(columns: list[Column]) -> str:
    """What the programs weigh; hard links are counted once."""
    told = []
    for column in columns:
        files = {path.stat().st_ino: path.stat().st_size for path in _programs(column)}
        told.append(f"{column.label} {sum(files.values()) / 1e6:.1f} MB in {len(files)} file(s)")
    return "Size of bridge, host-local, static and loopback: " + "; ".join(told) + "." if told else ""


def write(path: Path, generated: str) -> None:
    """Put the section between the markers; make the page when there is none."""
    page = path.read_text() if path.is_file() else _FRAME
    if BEGIN not in page or END not in page:
        page = f"{page.rstrip()}\n\n{BEGIN}\n{END}\n"
    before, rest = page.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{before}{BEGIN}\n\n{generated}\n\n{END}{after}")


def _programs(column: Column) -> list[Path]:
    return [column.suite.program(name) for name in ("bridge", "host-local", "static", "loopback")]


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms" if value < 100 else f"{value:.0f} ms"


def _ratio(mine: float | None, theirs: float | None) -> str:
    return "-" if mine is None or not theirs else f"{mine / theirs:.2f}"


def _first_line(*words: str) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.partition("\n")[0].strip()
