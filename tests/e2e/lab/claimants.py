"""Many processes that claim blocks of one network at once, and are killed meanwhile and started anew.

`python -m tests.e2e.lab.claimants SECTION NETWORK PROCESSES BLOCKS KILLS` prints, as JSON, what each of them
was told it owns. One process imports the client, and forks, as 50 imports would take a minute.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

from cni_plugins.contract.registry_config import RegistrySection
from cni_plugins.registries.network_registry import Member, NetworkRegistry
from cni_plugins.registries.open import open_store
from cni_plugins.registries.store import StoreFailed

_GIVES_UP_AFTER = 120.0
_SOON = 1.5  # seconds; 50 processes on two cores have claimed by then


def blocks(number: int) -> list[str]:
    return [f"10.64.{i}.0/24" for i in range(number)]


def _claim(section: RegistrySection, network: str, number: int, candidates: list[str], report: Path) -> None:
    """Claim one block, whatever fails meanwhile, as a keeper does."""
    chosen = random.Random(os.getpid())
    end = time.monotonic() + _GIVES_UP_AFTER
    while True:
        store = open_store(section)
        try:
            me = Member(f"node{number}", f"host{number}")
            found = NetworkRegistry(store, network).claim(me, chosen.sample(candidates, len(candidates)))
            temporary = report.with_suffix(".new")
            temporary.write_text(json.dumps(found))
            temporary.rename(report)
            return
        except StoreFailed:
            if time.monotonic() > end:
                raise
            time.sleep(chosen.uniform(0.1, 1))
        finally:
            store.close()


def _fork(
    section: RegistrySection, network: str, number: int, report: Path, *, candidates: list[str], stays: bool
) -> int:
    """:param stays: the process does not end when it has what it wants: it will be killed."""
    pid = os.fork()
    if pid:
        return pid
    try:
        _claim(section, network, number, candidates, report)
        while stays:
            signal.pause()
        os._exit(0)
    except BaseException:  # noqa: BLE001 (a fork ends here)
        traceback.print_exc()
        os._exit(1)


def main() -> None:
    section = RegistrySection(**json.loads(sys.argv[1]))
    network, (processes, number, kills) = sys.argv[2], map(int, sys.argv[3:])
    open_store(section).close()  # imports the client
    candidates = blocks(number)
    with tempfile.TemporaryDirectory() as directory:
        reports = [Path(directory, f"{i}.json") for i in range(processes)]
        running: dict[int, int] = {}
        doomed: dict[int, float] = {}  # when each is killed: before, while or after it claims
        for i in range(processes):
            pid = _fork(section, network, i, reports[i], candidates=candidates, stays=i < kills)
            running[pid] = i
            if i < kills:
                doomed[pid] = time.monotonic() + random.uniform(0, _SOON)
        killed = 0
        while running:
            for pid in [pid for pid, end in doomed.items() if end < time.monotonic()]:
                os.kill(pid, signal.SIGKILL)
                del doomed[pid]
                killed += 1
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                time.sleep(0.002)
                continue
            i = running.pop(pid)
            if os.WIFSIGNALED(status):
                again = _fork(section, network, i, reports[i], candidates=candidates, stays=False)
                running[again] = i
            elif status:
                sys.exit(f"node{i} failed")
        told = {f"node{i}": json.loads(report.read_text()) for i, report in enumerate(reports)}
    print(json.dumps({"told": told, "killed": killed}))


if __name__ == "__main__":
    main()
