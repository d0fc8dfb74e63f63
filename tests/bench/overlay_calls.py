"""Attachments of overlays with a few and with many peers, warm and cold, on the frozen executables."""

import contextlib
import json
import os
import statistics
import tempfile
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from tests import cni
from tests.bench import resident
from tests.bench.timing import Call, measure
from tests.differential.suites import TOOL_PATH, Suite
from tests.namespaces import Namespace

PEERS = (3, 1000, 10_000)
LIMIT = 1.5  # a warm ADD with many peers, to one with few
_UNDERLAY = (
    "link add eth0 type veth peer name wire0",
    "link set eth0 up",
    "link set wire0 up",
    "address add 10.99.0.1/16 dev eth0",
)


class Times(NamedTuple):
    """Seconds: of the ADD that fills the tables, and of those that find them filled, and their DELs."""

    fresh: float
    adds: list[float]
    dels: list[float]


class _Place(NamedTuple):
    """A host with the peers file of so many hosts, and what its calls need."""

    suite: Suite
    host: Namespace
    directory: Path
    agent: str

    def call(self, command: str, container: str, sandbox: Namespace) -> float:
        """:raises RuntimeError: when the call fails."""
        own = {resident.VARIABLE: self.agent, resident.LINGER: "0", "PATH": TOOL_PATH}
        variables = cni.environment(
            command, container=container, netns=sandbox.path, path=self.suite.directory, **own
        )
        conf = {
            "cniVersion": "1.1.0",
            "name": "bench",
            "type": "vxlan",
            "network": "10.128.0.0/9",
            "ipam": {"dataDir": str(self.directory / "leases")},
            "backend": {"type": "static", "peersFile": str(self.directory / "peers.json")},
        }
        with self.host.entered():
            done = measure(Call(self.suite.program("vxlan"), variables, json.dumps(conf).encode()))
        if done.code:
            raise RuntimeError(done.stdout.decode(errors="replace"))
        return done.wall


def report(directory: Path, rounds: int) -> tuple[list[str], bool]:
    """Return lines of a table, and whether warm ADDs with many peers take too long."""
    suite = Suite("ours", directory)
    lines, warm = [], {}
    for is_warm in (True, False):
        with contextlib.ExitStack() as open_places:
            places = {count: open_places.enter_context(_place(suite, count, is_warm)) for count in PEERS}
            found = _alternating(places, rounds)
        for count, times in found.items():
            add, gone = statistics.median(times.adds), statistics.median(times.dels)
            if is_warm:
                warm[count] = add
            few = statistics.median(found[PEERS[0]].adds)
            lines.append(
                f"{'warm' if is_warm else 'cold'}, {count:>6} peers: first ADD {times.fresh * 1000:8.1f} ms, "
                f"ADD {add * 1000:7.1f} ms ({add / few:.2f}), DEL {gone * 1000:6.1f} ms"
            )
    return lines, max(warm.values()) > LIMIT * warm[PEERS[0]]


def _alternating(places: dict[int, _Place], rounds: int) -> dict[int, Times]:
    found = {}
    with Namespace() as sandbox, contextlib.ExitStack() as stay:
        for count, place in places.items():  # the host stays in the overlay while this container is there
            found[count] = Times(place.call("ADD", "first", stay.enter_context(Namespace())), [], [])
        for number in range(rounds + 1):  # the first round fills what a worker keeps
            for count, place in places.items():
                added, gone = (place.call(command, "c1", sandbox) for command in ("ADD", "DEL"))
                if number:
                    found[count].adds.append(added)
                    found[count].dels.append(gone)
    return found


@contextlib.contextmanager
def _place(suite: Suite, count: int, is_warm: bool) -> Iterator[_Place]:
    with (
        tempfile.TemporaryDirectory() as name,
        Namespace() as host,
        resident.running(suite, host, 1) if is_warm else contextlib.nullcontext() as agent,
    ):
        for words in _UNDERLAY:
            host.run("ip", *words.split())
        peers = [
            {
                "node": f"h{number}",
                "vtep": str(ip_address("10.99.0.0") + number),
                "subnet": f"{ip_address('10.128.0.0') + number * 256}/24",
            }
            for number in range(1, count + 1)
        ]
        path = Path(name, "peers.json")
        path.write_text(json.dumps(peers))
        os.chmod(path, 0o600)
        yield _Place(suite, host, Path(name), agent.socket if agent else "")
