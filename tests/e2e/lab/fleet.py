"""
Hosts that find each other in a real store, which is on the router that all of them reach.

Each host has an agent, which serves its plugins as well. A test stops, wipes and lies to the store, or kills
an agent, while packets go from one container to another every 10 ms.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from cni_plugins.contract import snapshot
from tests.cni import Answer
from tests.e2e.lab.flannel import pinging, until
from tests.e2e.lab.host import Completed
from tests.e2e.lab.overlay import OUTSIDE, UPLINK, Bed, Container, Node, at_once, attach, detach
from tests.e2e.lab.plugin import BIN, Call, run
from tests.namespaces import entered
from tests.servers.clusters import cluster_of
from tests.servers.member import Cluster

NAME = "ovkestore"
NETWORK = "10.77.0.0/16"
CNICTL = f"{BIN}/cnictl"
_CONFS = "/etc/cni/net.d"
_PATIENCE = 60.0  # seconds, on a machine under load


@dataclass
class Fleet:
    """:ivar agents, containers: by number of the host."""

    bed: Bed
    cluster: Cluster
    logs: Path
    agents: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    containers: dict[int, Container] = field(default_factory=dict)

    # -------------------------------------------------------------------------------------------- agents

    def start_agent(self, number: int) -> None:
        with (self.logs / f"agent{number}").open("ab") as log:
            self.agents[number] = self.bed.node(number).host.start(CNICTL, "agent", "--workers", "1", log=log)

    def kill_agent(self, number: int) -> None:
        """Kill the agent itself; what it started has to end by itself."""
        self.agents[number].kill()
        self.agents.pop(number).wait(_PATIENCE)

    def freeze(self, number: int) -> None:
        """Let the agent and all that it started stand still."""
        for pid in family(self.agents[number].pid):
            os.kill(pid, signal.SIGSTOP)

    def thaw(self, number: int) -> None:
        for pid in family(self.agents[number].pid):
            os.kill(pid, signal.SIGCONT)

    def join(self, *numbers: int) -> None:
        """Give hosts the config and an agent, and wait until they have their subnets."""
        for number in numbers:
            self.configure(number, self.conf(number))
            if number not in self.agents:
                self.start_agent(number)
        for number in numbers:
            self.until(lambda number=number: self.subnet(number), f"h{number} has a subnet")

    # -------------------------------------------------------------------------------------------- config

    def registry(self, number: int) -> dict[str, Any]:
        """The keys of a section that names the store."""
        return {"type": self.cluster.kind, "endpoints": self.cluster.endpoints, "node": f"h{number}"}

    def conf(self, number: int) -> dict[str, Any]:
        keys = {"network": NETWORK, "subnetLen": 24, "underlay": {"interface": UPLINK}}
        return {
            "cniVersion": "1.0.0",
            "name": NAME,
            "type": "vxlan",
            **keys,
            "backend": self.registry(number),
        }

    def configure(self, number: int, conf: dict[str, Any]) -> None:
        path = f"{_CONFS}/10-{conf['name']}.conf"
        self.bed.node(number).host.write(f"{path}.new", json.dumps(conf)).rename(
            self.bed.node(number).host.path(path)
        )

    # -------------------------------------------------------------------------------- what a host knows

    def state(self, number: int) -> snapshot.KeeperState | None:
        return snapshot.read_state(str(self.bed.node(number).host.path(snapshot.overlay_dir(NAME))))

    def peers(self, number: int) -> dict[str, dict[str, Any]]:
        path = self.bed.node(number).host.path(snapshot.overlay_dir(NAME)) / "peers.json"
        with suppress(FileNotFoundError):
            return {one["node"]: one for one in json.loads(path.read_text())["peers"]}
        return {}

    def subnet(self, number: int) -> str:
        found = self.peers(number).get(f"h{number}", {}).get("subnets", [""])
        return str(found[0])

    def routes(self, number: int) -> set[str]:
        """The subnets of others that the kernel sends into the overlay."""
        listed = json.loads(self.bed.node(number).host.run("ip", "-j", "route").stdout)
        return {one["dst"] for one in listed if one.get("gateway") and one["dev"].startswith("vx")}

    def is_calm(self, *numbers: int, since: float = 0.0) -> bool:
        """Say whether these hosts follow the store, and have heard of it later than a time."""
        states = [self.state(number) for number in numbers]
        return all(one and one.state == "following" and one.confirmed > since for one in states)

    def status(self, number: int) -> Answer:
        return run(self.bed.node(number).host, Call("STATUS", {**self.conf(number), "cniVersion": "1.1.0"}))

    # ---------------------------------------------------------------------------------------- containers

    def attach(self, number: int, name: str = "") -> Container:
        made = attach(self.bed.node(number), name or f"ovkeft{number}", self.conf(number))
        if not name:
            self.containers[number] = made
        return made

    def require_reach(self, *numbers: int) -> None:
        """Wait until every container of these hosts reaches the others."""
        reach_each_other(self.containers[number] for number in numbers)

    @contextmanager
    def losing_nothing(self, source: int = 1, destination: int = 2) -> Iterator[None]:
        """Ping every 10 ms for a block, which must not lose a packet."""
        with pinging(self.containers[source], self.containers[destination].addresses[0]) as counts:
            time.sleep(0.3)
            yield
        sent, lost = counts
        assert sent > 20
        assert lost == 0, f"{lost} of {sent} were lost"

    # --------------------------------------------------------------------------------------------- store

    @contextmanager
    def near(self) -> Iterator[None]:
        """Be where the store is."""
        with entered(self.bed.routers()[0]):
            yield

    def stop_store(self) -> None:
        self.cluster.close()

    def start_store(self, *, wiped: bool = False) -> None:
        with self.near():
            self.cluster.restart(wiped=wiped)

    def put_record(self, node: str, value: bytes) -> None:
        with self.near():
            self.cluster.put(f"/cni-plugins/v1/{NAME}/nodes/{node};0", value)

    # ------------------------------------------------------------------------------------------ commands

    def cnictl(self, number: int, *words: str) -> Completed:
        done = self.bed.node(number).host.run(CNICTL, *words, check=False)
        assert "Traceback" not in done.stderr
        return done

    def until(self, test: Callable[[], Any], what: str) -> None:
        until(test, what, self._told)

    def _told(self) -> str:
        """What hosts say of themselves, for a test that waits in vain."""
        lines = [f"h{number}: {self.state(number)} {sorted(self.peers(number))}" for number in self.agents]
        lines += [f"{path.name}: {path.read_text()[-1500:]}" for path in sorted(self.logs.glob("agent*"))]
        return "\n".join(lines)

    def close(self) -> None:
        for container in self.containers.values():
            detach(container)
        for process in self.agents.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def raise_fleet(bed: Bed, kind: str, directory: Path) -> Iterator[Fleet]:
    """Start a store; no host has joined yet."""
    with ExitStack() as stack:
        near = bed.routers()[0]
        cluster = cluster_of(kind, directory, addresses=[OUTSIDE[4]], netns=[near])
        stack.callback(cluster.close)
        with entered(near):
            cluster.start()
        fleet = Fleet(bed, cluster, directory)
        stack.callback(fleet.close)
        yield fleet


def family(pid: int) -> list[int]:
    """Return a process, which has not ended, and its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in family(int(child)))]


def reach_each_other(containers: Iterable[Container]) -> None:
    """Wait until each of them reaches all others."""
    listed = list(containers)

    def reach(one: Container) -> None:
        others = [address for other in listed if other is not one for address in other.addresses]
        until(lambda: not one.unreached(others, seconds=1), f"{one.name} reaches {others}")

    at_once(reach, listed)


def are_apart(subnets: Iterable[str]) -> bool:
    listed = [ip_network(subnet) for subnet in subnets]
    return not any(a.overlaps(b) for number, a in enumerate(listed) for b in listed[:number])


def conf_from(node: Node, network: str) -> dict[str, Any]:
    """The config of the first plugin of a network that `cnictl network` wrote."""
    document = json.loads(node.host.path(f"{_CONFS}/80-{network}.conflist").read_text())
    return {"cniVersion": "1.0.0", "name": network, **document["plugins"][0]}
