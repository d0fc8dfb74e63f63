"""How long it takes until the rules of all containers are there again after `nft flush ruleset`.

`python -m tests.bench.chain_repair [COMMAND …]` flushes the ruleset of the node that it is on, and prints
the milliseconds until it is complete again; the command is started at once, without one an agent repairs.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from cni_plugins.kernel.firewall import read
from cni_plugins.kernel.netlink import nf_tables as wire
from cni_plugins.kernel.session.session import Session
from tests.bench import node, report, resident, timing
from tests.bench.chain_lives import NFTABLES, Caller, podman
from tests.bench.node import Node
from tests.bench.rows import Row
from tests.differential import suites
from tests.differential.suites import TOOL_PATH

_PATIENCE = 60.0  # seconds
_PORT = 20_000


def table(rounds: int, containers: int) -> str:
    """Return the table; there is no reference."""
    label = f"{containers} containers"
    cnictl, plugins = suites.ours().program(resident.PROGRAM), suites.ours().directory
    rows = {
        "command": Row("`nft flush ruleset`, then `cnictl repair`: until all rules are there"),
        "agent": Row("`nft flush ruleset` beside the agent: until all rules are there"),
        "look": Row("`cnictl repair` that finds nothing to do"),
        "start": Row("… of which the start of `cnictl` (`cnictl --version`)"),
    }
    with tempfile.TemporaryDirectory(prefix="cnib-chain-") as cache, Node() as there:
        _add(there, Path(cache), containers)
        where = ("--cache-dir", cache, "--plugin-dir", str(plugins))
        for _ in range(rounds):
            rows["command"].samples[label].append(_restored(there, cnictl, "repair", *where))
            rows["look"].samples[label].append(_taken(there, cnictl, "repair", *where))
            rows["start"].samples[label].append(_taken(there, cnictl, "--version"))
        for _ in range(rounds):  # each with an agent of its own: it is slower when rules go again and again
            there.start_agent(*where)
            rows["agent"].samples[label].append(_restored(there))
            there.stop_agents()
    return report.plain(list(rows.values()))


def _restored(there: Node, *command: str | Path) -> float:
    return float(there.run(sys.executable, "-m", "tests.bench.chain_repair", *command))


def _taken(there: Node, program: Path, *words: str) -> float:
    return there.measure(timing.Call(program, {"PATH": TOOL_PATH}, b"", words)).wall * 1e3


def _add(there: Node, cache: Path, count: int) -> None:
    """Add containers with masquerading and three ports each, and remember them as libcni does."""
    lingering = next(column for column in node.ours("") if column.label == node.LINGERING)
    caller = Caller(lingering, there, NFTABLES, Counter())
    names = [f"box{number}" for number in range(count)]
    there.run("ip", "-batch", "-", text="".join(f"netns add {name}\n" for name in names))
    (cache / "results").mkdir(mode=0o700)
    for number, name in enumerate(names):
        plugins = podman(NFTABLES, _PORT + 3 * number)[:2]
        result, _ = caller.add(plugins, name)
        _remember(cache / "results", name, plugins, result)


def _remember(directory: Path, name: str, plugins: list[dict[str, Any]], result: dict[str, Any]) -> None:
    main, portmap = plugins
    listed = [main, {**portmap, "capabilities": {"portMappings": True}}]
    conf = {"cniVersion": main["cniVersion"], "name": main["name"], "plugins": listed}
    entry = {
        "kind": "cniCacheV1",
        "containerId": name,
        "config": base64.b64encode(json.dumps(conf).encode()).decode(),
        "ifName": "eth0",
        "networkName": main["name"],
        "netns": f"/run/netns/{name}",
        "capabilityArgs": portmap["runtimeConfig"],
        "result": result,
    }
    path = directory / f"{main['name']}-{name}-eth0"
    path.write_text(json.dumps(entry))
    path.chmod(0o600)


# ------------------------------------------------------------------------------------------- on the node


def _flush(command: list[str]) -> float:
    """:raises RuntimeError: when rules are still missing after a minute."""
    with Session(None) as session:
        before = _state(session)
        subprocess.run(["nft", "flush", "ruleset"], check=True)
        begun = time.perf_counter()
        with subprocess.Popen(command or ["true"], stdout=subprocess.DEVNULL) as repairing:
            while _state(session) != before:
                if time.perf_counter() - begun > _PATIENCE:
                    repairing.kill()
                    raise RuntimeError(f"not the same rules: {_state(session)} instead of {before}")
                time.sleep(0.002)
            taken = time.perf_counter() - begun
    return taken * 1e3


def _state(session: Session) -> dict[str, int | None]:
    """Return for each chain how many rules and elements it has, or lead to it (owner_index)."""
    names = read.chain_names(session, wire.INET)
    return {name: read.uses_of_chain(session, wire.INET, name) for name in names}


if __name__ == "__main__":
    print(_flush(sys.argv[1:]))
