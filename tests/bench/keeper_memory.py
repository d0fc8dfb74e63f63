"""What the keeper of a frozen agent takes of the memory, with the records of many hosts in each store.

`python -m tests.bench.keeper_memory [--records 2000] [etcd|consul|zookeeper …]` needs root, `dist/` and the
servers of .ci/servers. One host joins; the records of the others are written to its store.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from cni_plugins.registries.open import open_store
from cni_plugins.registries.store import ABSENT, Change
from tests.bench.memory import pss
from tests.e2e.lab.fleet import NAME, Fleet, raise_fleet
from tests.e2e.lab.overlay import UPLINK, raise_bed
from tests.servers.clusters import KINDS, section_of

_DIST = Path(__file__).resolve().parents[2] / "dist"
_BATCH = 50  # records of one transaction
_REST = 5.0  # seconds in which the keeper has done what there was to do


class Taken(NamedTuple):
    """Megabytes."""

    rss: float
    pss: float
    peak: float


def keeper_of(agent: int) -> int:
    """Return the pid of the agent's keeper."""
    for child in Path(f"/proc/{agent}/task/{agent}/children").read_text().split():
        if Path(f"/proc/{child}/comm").read_text().strip() == "cni-keeper":
            return int(child)
    raise RuntimeError("the agent has no keeper")


def taken(pid: int) -> Taken:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Vm")}
    return Taken(int(found["VmRSS"]) * 1024 / 1e6, pss(pid), int(found["VmHWM"]) * 1024 / 1e6)


def fill(fleet: Fleet, number: int) -> None:
    """Publish the records of so many hosts that do not exist."""
    changes = []
    for one in range(number):
        high, low = divmod(one, 256)
        vtep, subnet = f"172.16.{high}.{low}", f"10.{200 + high}.{low}.0/24"
        value = f'{{"node":"x{one}","vtep":"{vtep}","subnets":["{subnet}"]}}'
        changes.append(Change(f"v1/{NAME}/nodes/x{one};0", value.encode(), ABSENT))
    with fleet.near():
        store = open_store(section_of(fleet.cluster))
        try:
            for begin in range(0, number, _BATCH):
                store.commit(changes[begin : begin + _BATCH])
        finally:
            store.close()


def measured(kind: str, number: int) -> tuple[Taken, Taken]:
    """Return what the keeper takes with its own record, and with so many others."""
    with (
        tempfile.TemporaryDirectory(prefix="keeper-") as directory,
        raise_bed(_DIST, (0,)) as bed,
        raise_fleet(bed, kind, Path(directory)) as fleet,
    ):
        backend = fleet.registry(1)
        conf = {**fleet.conf(1), "network": "10.128.0.0/9", "keep": True, "backend": backend}
        conf["underlay"] = {"interface": UPLINK}
        fleet.configure(1, conf)
        fleet.start_agent(1)
        fleet.until(lambda: fleet.subnet(1), "the host has a subnet")
        time.sleep(_REST)
        keeper = keeper_of(fleet.agents[1].pid)
        alone = taken(keeper)
        fill(fleet, number)
        fleet.until(lambda: len(fleet.peers(1)) == number + 1, "the host knows all")
        time.sleep(_REST)
        return alone, taken(keeper)


def main(words: list[str]) -> int:
    """Measure, and print a line for each store."""
    parser = argparse.ArgumentParser(prog="keeper_memory", description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help="default: all")
    parser.add_argument("--records", type=int, default=2000)
    wanted = parser.parse_args(words)
    if os.geteuid() != 0 or not (_DIST / "cnictl").exists():
        sys.stderr.write("keeper_memory: needs root, and what make freeze makes\n")
        return 1
    print(f"{'store':>10} {'records':>8} {'RSS':>8} {'PSS':>8} {'highest RSS':>12}")
    for kind in wanted.kinds or KINDS:
        for number, found in zip((1, wanted.records + 1), measured(kind, wanted.records), strict=True):
            print(
                f"{kind:>10} {number:>8} {found.rss:>5.1f} MB {found.pss:>5.1f} MB {found.peak:>9.1f} MB",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
