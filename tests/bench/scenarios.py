"""What is measured.

A scenario yields rows; in every round each column does the same thing, one after the other.
"""

import itertools
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench import timing
from tests.bench.columns import Column
from tests.differential import netns

Config = dict[str, Any]

V4 = [{"subnet": "10.1.0.0/16"}]
V6 = [{"subnet": "fd00:1::/64"}]
PARALLEL = 60


@dataclass
class Row:
    """One operation and, per column, every sample in the unit's scale."""

    operation: str
    unit: str = "ms"
    samples: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def median(self, label: str) -> float | None:
        """The middle of a column's samples."""
        return statistics.median(self.samples[label]) if self.samples.get(label) else None


@dataclass(frozen=True)
class Scenario:
    """A named measurement; `rounds` are those of a full run."""

    name: str
    rounds: int
    measure: Callable[[list[Column], int], list[Row]]


def bridge_config(*, masquerade: bool = False, dual: bool = False, backend: str | None = None) -> Config:
    """The usual network: default gateway, host-local."""
    ipam = {"type": "host-local", "dataDir": "@DATA@", "ranges": [V4, V6] if dual else [V4]}
    config: Config = {"cniVersion": "1.0.0", "name": "bench", "isDefaultGateway": True, "ipam": ipam}
    if masquerade:
        config["ipMasq"] = True
    return config | ({"ipMasqBackend": backend} if backend else {})


def version(columns: list[Column], rounds: int) -> list[Row]:
    """Process start and nothing else."""
    row = Row("VERSION")
    for column in _in_turn(columns, rounds):
        row.samples[column.label].append(_ms(column.measure(column.call("bridge", "VERSION", {}))))
    return [row]


def attachment(name: str, plugin: str, config: Config) -> Callable[[list[Column], int], list[Row]]:
    """ADD, CHECK and DEL of one container, over and over."""

    def measured(columns: list[Column], rounds: int) -> list[Row]:
        rows = {command: Row(f"{name} {command}") for command in ("ADD", "CHECK", "DEL")}
        for number, column in enumerate(_in_turn(columns, rounds + 1)):
            for command, milliseconds in _one_life(column, plugin, config):
                if number >= len(columns):
                    rows[command].samples[column.label].append(milliseconds)
        return list(rows.values())

    return measured


def _one_life(column: Column, plugin: str, config: Config, box: str = "box1") -> Iterator[tuple[str, float]]:
    added = column.measure(column.call(plugin, "ADD", config, box))
    yield "ADD", _ms(added)
    whole = config | {"prevResult": json.loads(added.stdout)}
    for command in ("CHECK", "DEL"):
        yield command, _ms(column.measure(column.call(plugin, command, whole, box)))


def leases(count: int) -> Callable[[list[Column], int], list[Row]]:
    """host-local among that many leases, whose files are laid out directly."""
    config: Config = {
        "cniVersion": "1.0.0",
        "name": f"leases-{count}",
        "ipam": {"type": "host-local", "dataDir": "@DATA@", "ranges": [V4]},
    }

    def measured(columns: list[Column], rounds: int) -> list[Row]:
        for column in columns:
            lay_out_leases(column.world.data / f"leases-{count}", count)
        once = attachment(f"host-local, {_grouped(count)} leases,", "host-local", config)
        rows = once(columns, rounds)
        return [*rows, _after_foreign_write(columns, config, count)] if count else rows

    return measured


def _after_foreign_write(columns: list[Column], config: Config, count: int) -> Row:
    """The first ADD after someone else wrote into the lease directory: an index must not be trusted then."""
    row = Row(f"host-local, {_grouped(count)} leases, ADD after a foreign write")
    for number, column in enumerate(_in_turn(columns, 3)):
        (column.world.data / config["name"] / f"10.1.255.{200 + number}").write_text("foreign\r\neth0")
        _, added = next(_one_life(column, "host-local", config))
        row.samples[column.label].append(added)
        column.measure(column.call("host-local", "DEL", config))
    return row


def lay_out_leases(directory: Path, count: int) -> None:
    """Write lease files as the reference does, from the second address of 10.1.0.0/16 on."""
    directory.mkdir(parents=True)
    names = (f"10.1.{number // 256}.{number % 256}" for number in itertools.count(2))
    last = "10.1.0.1"
    for number, last in zip(range(count), names, strict=False):
        path = directory / last
        path.write_bytes(f"container-{number:05d}-{'0' * 48}\r\neth0".encode())
        path.chmod(0o600)
    (directory / "last_reserved_ip.0").write_text(last)


def parallel(columns: list[Column], rounds: int) -> list[Row]:
    """Sixty containers at once: the time until the last answer, and the CPU time of all."""
    config = bridge_config(masquerade=True, dual=True)
    name = f"{PARALLEL} parallel dual-stack ipMasq"
    rows = [Row(f"{name} {command}, {what}") for command in ("ADD", "DEL") for what in ("wall", "CPU")]
    for column in _in_turn(columns, rounds):
        samples = (*_together(column, "ADD", config), *_together(column, "DEL", config))
        for row, sample in zip(rows, samples, strict=True):
            row.samples[column.label].append(sample)
    return rows


def _together(column: Column, command: str, config: Config) -> tuple[float, float]:
    """Wall and CPU milliseconds.

    :raises RuntimeError: when a call failed or an address was given twice.
    """
    calls = [column.call("bridge", command, config, f"many{number}") for number in range(PARALLEL)]
    with netns.entered(column.world.host):
        begun = time.perf_counter()
        running = [timing.start(call) for call in calls]
        done = [process.finish() for process in running]
        wall = time.perf_counter() - begun
    failed = [measured.stdout.decode() for measured in done if measured.code != 0]
    if failed:
        raise RuntimeError(
            f"{column.label}: {len(failed)} of {PARALLEL} parallel {command} failed: {failed[0]}"
        )
    if command == "ADD":
        _all_different(column, done)
    return wall * 1000, sum(measured.cpu for measured in done) * 1000


def _all_different(column: Column, done: list[timing.Measured]) -> None:
    given = [entry["address"] for measured in done for entry in json.loads(measured.stdout)["ips"]]
    if len(set(given)) != 2 * PARALLEL:
        raise RuntimeError(f"{column.label}: {len(given)} addresses given, {len(set(given))} different")


def _in_turn(columns: list[Column], rounds: int) -> Iterator[Column]:
    for _ in range(rounds):
        yield from columns


def _grouped(count: int) -> str:
    return f"{count:,}".replace(",", " ")


def _ms(measured: timing.Measured) -> float:
    return measured.wall * 1000


ALL = (
    Scenario("VERSION", 40, version),
    Scenario("loopback", 20, attachment("loopback", "loopback", {"cniVersion": "1.0.0", "name": "bench"})),
    Scenario("bridge", 20, attachment("bridge + host-local", "bridge", bridge_config())),
    Scenario("ipMasq", 12, attachment("… ipMasq", "bridge", bridge_config(masquerade=True))),
    Scenario(
        "ipMasq nftables",
        12,
        attachment("… ipMasq, nftables", "bridge", bridge_config(masquerade=True, backend="nftables")),
    ),
    Scenario(
        "dual-stack ipMasq",
        10,
        attachment("… dual-stack ipMasq", "bridge", bridge_config(masquerade=True, dual=True)),
    ),
    Scenario("leases 0", 15, leases(0)),
    Scenario("leases 1000", 12, leases(1_000)),
    Scenario("leases 16000", 7, leases(16_000)),
    Scenario("leases 60000", 5, leases(60_000)),
    Scenario("parallel", 3, parallel),
)
QUICK_LEAVES_OUT = ("leases 16000", "leases 60000", "ipMasq nftables")
