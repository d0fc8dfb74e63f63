"""What a runtime waits for: the calls of chained plugins, and of the whole list that podman creates."""

from __future__ import annotations

import contextlib
import json
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tests.bench import node, report
from tests.bench.node import Column, Node
from tests.bench.rows import Row

Conf = dict[str, Any]

IPTABLES, NFTABLES = "iptables", "nftables"
CHAINED = ("portmap", "firewall", "bandwidth", "tuning", "sbr")
BOX = "box"
_IDLE = 3600  # seconds that what lingers may wait for its next call: containers are added meanwhile
_PORT, _PORT_OF_OTHERS = 8080, 20_000
_COMMON = {"cniVersion": "1.0.0", "name": "bench"}
_SUBNETS = ([{"subnet": "10.201.0.0/16"}], [{"subnet": "fd00:201::/64"}])
_ROUTES = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]

# ------------------------------------------------------------------------------------------------- configs


def bridge(backend: str, *, masquerade: bool, versions: int = 2) -> Conf:
    """The main plugin; IPv4, and the second version is IPv6."""
    own = {"ipMasqBackend": backend} if masquerade else {}
    ipam = {
        "type": "host-local",
        "dataDir": "/run/data",
        "ranges": _SUBNETS[:versions],
        "routes": _ROUTES[:versions],
    }
    gateway = {"bridge": "bench0", "isGateway": True, "hairpinMode": True}
    return {**_COMMON, "type": "bridge", **gateway, "ipMasq": masquerade, **own, "ipam": ipam}


def portmap(backend: str, ports: Sequence[tuple[str, int, int]]) -> Conf:
    """:param ports: protocol, port of the host and of the container."""
    listed = [{"protocol": a, "hostPort": b, "containerPort": c} for a, b, c in ports]
    runtime = {"runtimeConfig": {"portMappings": listed}}
    return {**_COMMON, "type": "portmap", "backend": backend, **runtime}


def _three_ports(backend: str, first: int) -> Conf:
    return portmap(backend, [("tcp", first, 80), ("tcp", first + 1, 443), ("udp", first + 2, 53)])


def _firewall(backend: str, _first: int) -> Conf:
    return {**_COMMON, "type": "firewall", "backend": backend}


def _bandwidth(_backend: str, _first: int) -> Conf:
    limits = {"ingressRate": 100_000_000, "ingressBurst": 8_000_000}
    return {**_COMMON, "type": "bandwidth", **limits, "egressRate": 50_000_000, "egressBurst": 4_000_000}


def _tuning(_backend: str, _first: int) -> Conf:
    sysctls = {"net.core.somaxconn": "500", "net.ipv4.conf.eth0.rp_filter": "2"}
    return {**_COMMON, "type": "tuning", "sysctl": sysctls, "mtu": 1400, "txQLen": 500, "allmulti": True}


def _sbr(_backend: str, _first: int) -> Conf:
    return {**_COMMON, "type": "sbr"}


def podman(backend: str, first: int) -> list[Conf]:
    """The list that podman creates, with IPv6 as well."""
    return [
        bridge(backend, masquerade=True),
        _three_ports(backend, first),
        _firewall(backend, first),
        {**_COMMON, "type": "tuning"},
    ]


_CONFS = {
    "portmap": _three_ports,
    "firewall": _firewall,
    "bandwidth": _bandwidth,
    "tuning": _tuning,
    "sbr": _sbr,
}


# It looks for the rules of IPv6 among those of IPv4.
_CANNOT_CHECK = ("portmap", node.DEBIAN)


class Life(NamedTuple):
    """What is measured of a container's life.

    :param is_whole: the calls of all plugins of podman's list; otherwise those of one, after bridge.
    :param has_backends: whether ours have a row for each backend, and one beside other containers.
    :param references: the backends that the reference has.
    """

    name: str
    is_whole: bool = False
    has_backends: bool = False
    references: tuple[str, ...] = (IPTABLES,)

    def is_of(self, caller: Caller) -> bool:
        if caller.is_reference:
            return caller.backend in self.references
        return self.has_backends or caller.backend == NFTABLES

    def plugins(self, backend: str) -> list[Conf]:
        """Return the configs of the list, the main plugin's first."""
        if self.is_whole:
            return podman(backend, _PORT)
        return [bridge(backend, masquerade=False), _CONFS[self.name](backend, _PORT)]

    def row(self, backend: str, command: str, beside: int) -> str:
        name = "podman's chain" if self.is_whole else self.name
        ours = f", {backend}" if backend == IPTABLES else ""
        return f"{name}{ours} {command}{f', beside {beside} others' if beside else ''}"


ALL = (
    Life("portmap", has_backends=True, references=(IPTABLES, NFTABLES)),
    Life("firewall", has_backends=True),
    Life("podman", is_whole=True, has_backends=True, references=(IPTABLES, NFTABLES)),
    Life("bandwidth"),
    Life("tuning"),
    Life("sbr"),
)

# ------------------------------------------------------------------------------------------------- columns


class Caller(NamedTuple):
    """A column, on the node where its containers are, and the backend that its plugins use."""

    column: Column
    node: Node
    backend: str
    made: Counter[str]

    @property
    def label(self) -> str:
        return self.column.label

    @property
    def is_reference(self) -> bool:
        return self.column.is_reference

    def call(self, command: str, conf: Mapping[str, Any], box: str) -> tuple[Conf, float]:
        """Return the result, and the milliseconds until the process has ended."""
        done = self.node.measure(self.column.call(command, conf, box))
        self.made[self.label] += 1
        return json.loads(done.stdout or b"{}"), done.wall * 1e3

    def add(self, plugins: Sequence[Conf], box: str) -> tuple[Conf, list[float]]:
        """Add a container as libcni does; return the result, and the time of each plugin."""
        result: Conf = {}
        times = []
        for conf in plugins:
            result, taken = self.call("ADD", {**conf, "prevResult": result} if result else conf, box)
            times.append(taken)
        return result, times

    def delete(self, plugins: Sequence[Conf], result: Conf, box: str) -> list[float]:
        """Delete it; return the time of each plugin, in the order of the list."""
        times = [self.call("DEL", {**conf, "prevResult": result}, box)[1] for conf in reversed(plugins)]
        return times[::-1]

    def confirm(self) -> None:
        """:raises RuntimeError: when calls were not served in the way that the column says."""
        expected = self.made[self.label]
        if not expected:
            return
        if self.label == node.LINGERING:  # the first one leaves behind what serves the others
            served, expected = self.node.served(), expected - 1
        elif self.label == node.AGENT:
            served = self.node.served(self.column.variables[node.resident.VARIABLE])
        else:
            return
        if served != expected:
            raise RuntimeError(f"{self.label}: {served} of {expected} calls were served")


@contextlib.contextmanager
def callers() -> Iterator[list[Caller]]:
    """The references with each backend, and ours with each backend in three ways."""
    found = []
    with contextlib.ExitStack() as stack:
        for column in node.references():
            found.append(Caller(column, stack.enter_context(Node()), IPTABLES, Counter()))
            if column.label == node.NEWEST:
                other = column._replace(label=f"{column.label}, {NFTABLES}")
                found.append(Caller(other, stack.enter_context(Node()), NFTABLES, Counter()))
        for backend in (NFTABLES, IPTABLES):
            there = stack.enter_context(Node())
            made: Counter[str] = Counter()
            socket = there.start_agent()
            found += [Caller(column, there, backend, made) for column in node.ours(socket, _IDLE)]
        for one in {id(one.node): one.node for one in found}.values():
            one.run("ip", "netns", "add", BOX)
        yield found
        for one in found:
            one.confirm()


# ------------------------------------------------------------------------------------------------ measuring

Key = tuple[str, str, str, int]
"""Life, backend of ours, command, other containers."""


def tables(lives: Sequence[Life], rounds: int, others: int) -> str:
    """Return the tables of these lives, those with backends also beside other containers."""
    rows: dict[Key, Row] = {}
    with callers() as columns:
        for life in lives:
            rows |= _measured(life, columns, rounds, 0)
        crowded = [life for life in lives if life.has_backends]
        if crowded and others:
            for one in columns:
                if one.label not in (node.COLD, node.LINGERING):  # they share the agent's node
                    _add_others(one, others)
            for life in crowded:
                rows |= _measured(life, columns, rounds, others)
    return "\n\n".join(_printed(lives, columns, rows))


def _add_others(caller: Caller, count: int) -> None:
    names = [f"other{number}" for number in range(count)]
    caller.node.run("ip", "-batch", "-", text="".join(f"netns add {name}\n" for name in names))
    for number, name in enumerate(names):
        caller.add(podman(caller.backend, _PORT_OF_OTHERS + 3 * number), name)


def _measured(life: Life, columns: Sequence[Caller], rounds: int, others: int) -> dict[Key, Row]:
    """The first round makes the bridge, and starts what lingers; it is not counted."""
    rows: dict[Key, Row] = {}
    chosen = [one for one in columns if life.is_of(one)]
    for number in range(rounds + 1):
        for caller in chosen if number % 2 else chosen[::-1]:
            for command, taken in _lived(life, caller):
                for backend in _rows_of(caller):
                    key = (life.name, backend, command, others)
                    row = rows.setdefault(key, Row(life.row(backend, command, others)))
                    if number:
                        row.samples[caller.label].append(taken)
    return rows


def _rows_of(caller: Caller) -> tuple[str, ...]:
    """Return the backends of ours with which a column is compared: iptables only with iptables."""
    is_for_both = caller.is_reference and caller.backend == IPTABLES
    return (NFTABLES, IPTABLES) if is_for_both else (caller.backend,)


def _lived(life: Life, caller: Caller) -> Iterator[tuple[str, float]]:
    """One container: added, checked and deleted."""
    plugins = life.plugins(caller.backend)
    result, times = caller.add(plugins, BOX)
    yield "ADD", sum(times) if life.is_whole else times[-1]
    if not life.is_whole and (life.name, caller.label) != _CANNOT_CHECK:
        _, taken = caller.call("CHECK", {**plugins[-1], "prevResult": result}, BOX)
        yield "CHECK", taken
    times = caller.delete(plugins, result, BOX)
    yield "DEL", sum(times) if life.is_whole else times[-1]


# ------------------------------------------------------------------------------------------------- printing


def _printed(lives: Sequence[Life], columns: Sequence[Caller], rows: Mapping[Key, Row]) -> Iterator[str]:
    heads = list({one.label: one for one in columns}.values())
    for has_backends in (True, False):
        names = [life.name for life in lives if life.has_backends == has_backends]
        found = {key: rows[key] for key in _ordered(rows) if key[0] in names and _is_told(key, lives)}
        used = [head for head in heads if any(row.samples.get(head.label) for row in found.values())]
        if found:
            yield report.compared(used, list(found.values()))
        growth = _growth(used, found)
        if growth:
            yield growth


def _is_told(key: Key, lives: Sequence[Life]) -> bool:
    """Say whether a row has columns of ours: without backends there is one row only."""
    return key[1] == NFTABLES or any(life.has_backends for life in lives if life.name == key[0])


def _ordered(rows: Mapping[Key, Row]) -> list[Key]:
    names = [life.name for life in ALL]
    commands = ("ADD", "CHECK", "DEL")
    return sorted(
        rows, key=lambda key: (names.index(key[0]), key[1] != NFTABLES, commands.index(key[2]), key[3])
    )


def _growth(heads: Sequence[Caller], rows: Mapping[Key, Row]) -> str:
    """How many times as long a call takes beside other containers."""
    lines = []
    for key, crowded in rows.items():
        if key[3]:
            alone = rows[(*key[:3], 0)]
            lines.append([crowded.operation, *(_times(alone, crowded, head.label) for head in heads)])
    labels = [head.label for head in heads]
    return report.table(["times as long as without others", *labels], lines) if lines else ""


def _times(alone: Row, crowded: Row, label: str) -> str:
    before, after = alone.samples.get(label), crowded.samples.get(label)
    return f"{statistics.median(after) / statistics.median(before):.2f}" if before and after else "-"
