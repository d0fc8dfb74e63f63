"""What a node without an agent waits for: the first call, those that find a lingering process, and bursts
from nothing.

`python -m tests.bench.first_calls` prints the tables of docs/benchmarks.md, "First calls". The node
is a pid, network and mount namespace of its own, as lingering exists only where the first process is. Columns
alternate call by call; ratios are to the faster reference of the row.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from tests.bench import node, report, resident, timing
from tests.bench.node import Column
from tests.bench.rows import Row
from tests.differential import suites

INSIDE = "--inside"
RANGES = [[{"subnet": "10.201.0.0/16"}]]
DUAL = [*RANGES, [{"subnet": "fd00:201::/64"}]]
TICK = 1 / os.sysconf("SC_CLK_TCK")


def _conf(kind: str, ranges: Any = RANGES, **keys: Any) -> dict[str, Any]:
    ipam = {"type": "host-local", "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}]}
    return {"cniVersion": "1.0.0", "name": "bench", "type": kind, "ipam": ipam, **keys}


BRIDGE = _conf("bridge", bridge="bench0", isGateway=True)
CONFS = {
    "bridge": BRIDGE,
    "bridge, ipMasq": {**BRIDGE, "ipMasq": True},
    "bridge, dual-stack ipMasq": _conf("bridge", DUAL, bridge="bench0", isGateway=True, ipMasq=True),
    "macvlan": _conf("macvlan", master="up0"),
    "ptp": _conf("ptp"),
}


def _left() -> list[Path]:
    found = []
    for comm in Path("/proc").glob("[0-9]*/comm"):
        with suppress(OSError):
            if comm.read_text().strip() == "cni-lingering":
                found.append(comm.parent)
    return found


def _end_left() -> None:
    for root in _left():
        with suppress(ProcessLookupError):
            os.kill(int(root.name), 15)
    while _left():
        time.sleep(0.01)
        with suppress(ChildProcessError):  # this is the first process, whose children all orphans become
            os.waitpid(-1, os.WNOHANG)


def _cpu_of_left() -> float:
    total = 0.0
    for root in _left():
        fields = (root / "stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) * TICK
    return total


def _memory_of_left() -> float:
    lines = [line for root in _left() for line in (root / "smaps_rollup").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def single_calls(columns: list[Column], rounds: int) -> list[Row]:
    """Wall-clock times of single calls."""
    rows: dict[str, Row] = {}

    def call(column: Column, name: str, kind: str, conf: Mapping[str, Any]) -> bytes:
        done = node.measure(column.call(kind, conf, "box", conf.get("type", "bridge")))
        rows.setdefault(name, Row(name)).samples[column.label].append(done.wall * 1e3)
        return done.stdout

    for number in range(rounds + 1):
        for column in columns if number % 2 else columns[::-1]:
            call(column, "VERSION", "VERSION", {"cniVersion": "1.0.0"})
            for name, conf in CONFS.items():
                subprocess.run(["ip", "netns", "add", "box"], check=True)
                result = json.loads(call(column, f"{name} ADD", "ADD", conf))
                call(column, f"{name} CHECK", "CHECK", {**conf, "prevResult": result})
                call(column, f"{name} DEL", "DEL", conf)
                subprocess.run(["ip", "netns", "del", "box"], check=True)
        if not number:
            rows.clear()  # the first round makes the bridge, and starts what lingers
    return list(rows.values())


class Burst(NamedTuple):
    """Seconds, and megabytes that stay."""

    wall: float
    cpu: float
    memory: float


def burst(column: Column, count: int) -> dict[str, Burst]:
    """So many ADDs at once where nothing runs, then as many DELs."""
    _end_left()
    boxes = [f"box{number}" for number in range(count)]
    for box in boxes:
        subprocess.run(["ip", "netns", "add", box], check=True)
    found = {}
    for command in ("ADD", "DEL"):
        stayed = _cpu_of_left()
        calls = [column.call(command, BRIDGE, box) for box in boxes]
        begun = time.perf_counter()
        running = [timing.start(call) for call in calls]
        done = [node.succeeded(call, one.finish()) for call, one in zip(calls, running, strict=True)]
        wall = time.perf_counter() - begun
        time.sleep(0.3)
        cpu = sum(one.cpu for one in done) + _cpu_of_left() - stayed
        found[command] = Burst(wall, cpu, _memory_of_left())
    for box in boxes:
        subprocess.run(["ip", "netns", "del", box], check=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument(INSIDE, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.inside:
        words = node.command("tests.bench.first_calls", INSIDE, "--rounds", str(options.rounds))
        sys.exit(subprocess.run(words, check=False).returncode)
    node.set_up()
    with resident.running(suites.ours(), None) as agent:
        _report([*node.references(), *node.ours(agent.socket)], options.rounds)


def _report(columns: list[Column], rounds: int) -> None:
    print(report.compared(columns, single_calls(columns, rounds)), end="\n\n")
    together = [column for column in columns if column.label not in (node.COLD, node.AGENT)]
    rows: dict[str, Row] = {}
    memory = 0.0
    for count in (20, 60):
        for _ in range(max(3, rounds // 4)):
            for column in together:
                for command, found in burst(column, count).items():
                    memory = max(memory, found.memory)
                    for kind, value in (("wall", found.wall), ("CPU", found.cpu)):
                        name = f"{count} {command} from nothing, {kind}"
                        rows.setdefault(name, Row(name)).samples[column.label].append(value * 1e3)
    print(report.compared(together, list(rows.values())), end="\n\n")
    print(f"What lingers after a burst, PSS: {memory:.1f} MB.")


if __name__ == "__main__":
    main()
