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
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from tests.differential import suites

INSIDE = "--inside"
DIST = Path(__file__).parents[2] / "dist"
SETUP = """
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run && mkdir -p /run/netns /run/data
ip link set lo up
ip link add up0 type veth peer name up1
ip addr add 192.0.2.1/24 dev up0 && ip link set up0 up && ip link set up1 up
ip route add default via 192.0.2.2
"""
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


class Column(NamedTuple):
    """A directory of plugins and how they are called."""

    label: str
    directory: Path
    variables: Mapping[str, str] = {}
    is_reference: bool = False


COLD, LINGERING, AGENT = "first call", "lingering", "agent"
SOCKET = "/run/bench/agent.sock"


def _columns() -> list[Column]:
    known = (suites.debian(), suites.newest())
    found = [
        Column(f"reference {suite.label}", Path(suite.directory), is_reference=True)
        for suite in known
        if not suite.absence
    ]
    return [
        *found,
        Column(COLD, DIST, {"CNI_PLUGINS_LINGER": "0"}),
        Column(LINGERING, DIST, {"CNI_PLUGINS_LINGER": "600"}),
        Column(AGENT, DIST, {"CNI_PLUGINS_AGENT": SOCKET}),
    ]


class Running(NamedTuple):
    pid: int
    out: int

    def finish(self) -> tuple[bytes, float]:
        """Return stdout and the CPU seconds of the process and what it waited for."""
        text = b""
        while part := os.read(self.out, 1 << 16):
            text += part
        os.close(self.out)
        _, status, used = os.wait4(self.pid, 0)
        if status:
            raise RuntimeError(text.decode())
        return text, used.ru_utime + used.ru_stime


def _start(
    column: Column, command: str, conf: Mapping[str, Any], box: str, plugin: str = "bridge"
) -> Running:
    own = dict(conf)
    if "ipam" in conf:
        own["ipam"] = {**conf["ipam"], "dataDir": f"/run/data/{column.label}"}
    program = str(column.directory / conf.get("type", plugin))
    env = {
        "PATH": os.environ["PATH"],
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": box,
        "CNI_NETNS": f"/run/netns/{box}",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": str(column.directory),
        **column.variables,
    }
    stdin, feed = os.pipe()
    out, stdout = os.pipe()
    os.write(feed, json.dumps(own, separators=(",", ":")).encode())  # as libcni does
    os.close(feed)
    actions = [(os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, stdout, 1)]
    pid = os.posix_spawn(program, [program], env, file_actions=actions)
    os.close(stdin)
    os.close(stdout)
    return Running(pid, out)


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


def single_calls(columns: list[Column], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Wall-clock milliseconds of single calls, by row and column."""
    rows: dict[str, dict[str, list[float]]] = {}

    def call(column: Column, row: str, command: str, conf: Mapping[str, Any]) -> bytes:
        begun = time.perf_counter()
        text, _ = _start(column, command, conf, "box").finish()
        rows.setdefault(row, {}).setdefault(column.label, []).append((time.perf_counter() - begun) * 1e3)
        return text

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
    return rows


class Burst(NamedTuple):
    wall: float
    cpu: float
    memory: float


def burst(column: Column, count: int) -> dict[str, Burst]:
    """So many ADDs at once where nothing runs, then as many DELs; milliseconds, and megabytes that stay."""
    _end_left()
    boxes = [f"box{number}" for number in range(count)]
    for box in boxes:
        subprocess.run(["ip", "netns", "add", box], check=True)
    found = {}
    for command in ("ADD", "DEL"):
        before, stayed = resource.getrusage(resource.RUSAGE_CHILDREN), _cpu_of_left()
        begun = time.perf_counter()
        for running in [_start(column, command, BRIDGE, box) for box in boxes]:
            running.finish()
        wall = time.perf_counter() - begun
        time.sleep(0.3)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        own = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        found[command] = Burst(wall * 1e3, (own + _cpu_of_left() - stayed) * 1e3, _memory_of_left())
    for box in boxes:
        subprocess.run(["ip", "netns", "del", box], check=True)
    return found


def _table(columns: list[Column], rows: Mapping[str, Mapping[str, list[float]]], unit: str = "ms") -> str:
    labels = [column.label for column in columns]
    mine = [column.label for column in columns if not column.is_reference]
    theirs = [column.label for column in columns if column.is_reference]
    heads = ["operation", *labels, *(f"{label} ÷ reference" for label in mine)]
    lines = [heads, ["---", *["--:"] * (len(heads) - 1)]]
    for name, samples in rows.items():
        middle = {label: statistics.median(samples[label]) for label in labels if samples.get(label)}
        best = min((middle[label] for label in theirs if label in middle), default=0.0)
        amounts = [f"{middle[label]:.1f} {unit}" if label in middle else "-" for label in labels]
        ratios = [f"{middle[label] / best:.2f}" if best and label in middle else "-" for label in mine]
        lines.append([name, *amounts, *ratios])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument(INSIDE, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.inside:
        words = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
        words += ["--propagation", "private", sys.executable, "-m", "tests.bench.first_calls", INSIDE]
        sys.exit(subprocess.run([*words, "--rounds", str(options.rounds)], check=False).returncode)
    subprocess.run(["sh", "-ec", SETUP], check=True)
    columns = _columns()
    agent = subprocess.Popen(
        [DIST / "cnictl", "agent", "--socket", SOCKET, "--no-repair"], stderr=subprocess.DEVNULL
    )
    try:
        while not Path(SOCKET).exists():
            if agent.poll() is not None:
                raise RuntimeError("the agent does not start")
            time.sleep(0.05)
        _report(columns, options.rounds)
    finally:
        agent.terminate()
        agent.wait()


def _report(columns: list[Column], rounds: int) -> None:
    print(_table(columns, single_calls(columns, rounds)), end="\n\n")
    together = [column for column in columns if column.label not in (COLD, AGENT)]
    rows: dict[str, dict[str, list[float]]] = {}
    kinds: list[tuple[str, Callable[[Burst], float]]] = [("wall", lambda b: b.wall), ("CPU", lambda b: b.cpu)]
    memory = 0.0
    for count in (20, 60):
        for _ in range(max(3, rounds // 4)):
            for column in together:
                for command, found in burst(column, count).items():
                    memory = max(memory, found.memory)
                    for kind, value in kinds:
                        row = rows.setdefault(f"{count} {command} from nothing, {kind}", {})
                        row.setdefault(column.label, []).append(value(found))
    print(_table(together, rows), end="\n\n")
    print(f"What lingers after a burst, PSS: {memory:.1f} MB.")


if __name__ == "__main__":
    main()
