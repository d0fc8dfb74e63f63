"""What a new connection costs where many ports are published: only its first packet passes rules of nat."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.bench import node, report, resident
from tests.bench.chain_lives import BOX, IPTABLES, NFTABLES, Conf, bridge, portmap
from tests.bench.node import OUTSIDE, Column, Node
from tests.bench.rows import Row
from tests.differential import suites

_CONNECTIONS = 20_000
_STEPS = (1, 100)
_PORTS_OF_ONE = 10  # that one container publishes
_HOST, _FIRST, _RECEIVER = "192.0.2.1", 20_000, 7000
_CLIENT = (
    "ip netns add client",
    "ip link set up1 netns client",
    f"ip -n client address add {OUTSIDE}/24 dev up1",
    "ip -n client link set up1 up",
    f"ip -n client route add default via {_HOST}",
    f"ip netns add {BOX}",
)


class Publisher(NamedTuple):
    """A column: who makes the rules, on a node of its own, with which backend."""

    label: str
    is_reference: bool
    column: Column
    node: Node
    backend: str

    def attach(self) -> Conf:
        """Create one container, which has the addresses of all, and return its result."""
        for words in _CLIENT:
            self.node.run(*words.split())
        return self._add(bridge(self.backend, masquerade=False, versions=1), BOX)

    def publish(self, result: Conf, published: int, count: int) -> None:
        """Publish ports of one more container, after so many that are published already."""
        address = f"10.201.{100 + published // 200}.{published % 200 + 1}/16"
        self.node.run("ip", "-n", BOX, "address", "add", address, "dev", "eth0")
        ports = [("udp", _FIRST + number, _RECEIVER) for number in range(published, published + count)]
        own = {**result["ips"][0], "address": address}
        prev = {**result, "ips": [own]}
        self._add({**portmap(self.backend, ports), "prevResult": prev}, f"{BOX}{published}")

    def _add(self, conf: Conf, box: str) -> Conf:
        call = self.column.call("ADD", conf, box)
        in_box = {**call.env, "CNI_NETNS": f"/run/netns/{BOX}"}
        found: Conf = json.loads(self.node.measure(dataclasses.replace(call, env=in_box)).stdout)
        return found

    def cost(self, program: Path, address: str, port: int, ports: int) -> float:
        """Return nanoseconds of CPU time for each connection.

        :raises RuntimeError: when datagrams did not arrive.
        """
        before = self._dropped()
        paths = ("/run/netns/client", f"/run/netns/{BOX}", str(_RECEIVER))
        taken = self.node.run(program, *paths, address, str(port), str(ports), str(_CONNECTIONS))
        arrived = self._dropped() - before
        if arrived < _CONNECTIONS * 0.9:  # a few are in the receiver's buffer
            raise RuntimeError(f"{self.label}: {arrived} of {_CONNECTIONS} datagrams arrived")
        return float(taken)

    def _dropped(self) -> int:
        """Return how many datagrams the receiver had no room for."""
        lines = self.node.run("ip", "netns", "exec", BOX, "cat", "/proc/net/snmp").splitlines()
        names, values = (line.split() for line in lines if line.startswith("Udp:"))
        return int(values[names.index("RcvbufErrors")])


def table(rounds: int, most: int) -> str:
    """Return the table: connections to published ports, and such that only pass the rules.

    :param most: ports that are published in the end.
    """
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cnib-chain-")))
        program = directory / "packets"
        subprocess.run(["cc", "-O2", "-o", program, Path(__file__).with_suffix(".c")], check=True)
        publishers = _publishers(stack)
        results = [one.attach() for one in publishers]
        own = results[0]["ips"][0]["address"].split("/")[0]  # the first lease of a node is the same on all
        direct = (own, _RECEIVER, 1)
        row = Row("no rules, to the container's own address", unit="ns")
        rows = [_measured(row, publishers, rounds, program, direct)]
        published = 0
        for wanted in sorted({1, *(step for step in _STEPS if step < most), most}):
            while published < wanted:
                count = min(_PORTS_OF_ONE, wanted - published)
                for one, result in zip(publishers, results, strict=True):
                    one.publish(result, published, count)
                published += count
            row = Row(f"{wanted} published port{'s' if wanted > 1 else ''}", unit="ns")
            rows.append(_measured(row, publishers, rounds, program, (_HOST, _FIRST, wanted)))
        row = Row("past all of them, to the container's own address", unit="ns")
        rows.append(_measured(row, publishers, rounds, program, direct))
    return report.compared(publishers, rows)


def _publishers(stack: contextlib.ExitStack) -> list[Publisher]:
    newest = [one for one in node.references() if one.label == node.NEWEST]
    ours = Column("ours", suites.ours(), {resident.LINGER: "600"})
    return [
        Publisher(
            f"{column.label}, {backend}", column.is_reference, column, stack.enter_context(Node()), backend
        )
        for column in (*newest, ours)
        for backend in (IPTABLES, NFTABLES)
    ]


def _measured(
    row: Row, publishers: Sequence[Publisher], rounds: int, program: Path, where: tuple[str, int, int]
) -> Row:
    """The first round finds neighbours and fills caches; it is not counted."""
    for number in range(rounds + 1):
        for one in publishers if number % 2 else publishers[::-1]:
            taken = one.cost(program, *where)
            if number:
                row.samples[one.label].append(taken)
    return row
