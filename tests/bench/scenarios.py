"""What is measured.

A scenario yields rows; in every round each column does the same thing, one after the other.
"""

import itertools
import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench import anatomy, memory, timing
from tests.bench.columns import Column, Kind, Together
from tests.bench.rows import CPU, PARALLEL, RESIDENT, Row

Config = dict[str, Any]

V4 = [{"subnet": "10.1.0.0/16"}]
V6 = [{"subnet": "fd00:1::/64"}]
QUICK_ROUNDS = 2
OVERLAY_L3 = {"mode": "l3", "network": "10.128.0.0/9", "ipMasq": True}
OVERLAY_L2 = {"mode": "l2", "subnet": "10.200.0.0/16", "ipMasq": True}
MASTER = ("ip", "-force", "-batch", "-")  # it may be there from the scenario before
UNDERLAY = "addr add 10.99.0.1/16 dev eth0\n"
WIRE = "link add eth0 type veth peer name wire0\nlink set eth0 up\nlink set wire0 up\n"


@dataclass(frozen=True)
class Scenario:
    """A named measurement; `rounds` are those of a full run, and a quick run may leave it out."""

    name: str
    rounds: int
    measure: Callable[[list[Column], int], list[Row]]
    quick_rounds: int = QUICK_ROUNDS


@dataclass(frozen=True)
class Solo:
    """One whose columns are opened one at a time: what another one maps would be shared, and look smaller."""

    name: str
    rounds: int
    measure: Callable[[list[Kind], int], list[Row]]
    quick_rounds: int = QUICK_ROUNDS


def bridge_config(*, dual: bool = False, **keys: Any) -> Config:
    """The usual network: default gateway, host-local."""
    return network(*([V4, V6] if dual else [V4]), isDefaultGateway=True, **keys)


def network(*ranges: Any, **keys: Any) -> Config:
    """A network with host-local."""
    ipam = {"type": "host-local", "dataDir": "@DATA@", "ranges": list(ranges)}
    return {"cniVersion": "1.0.0", "name": "bench", "ipam": ipam, **keys}


def version(columns: list[Column], rounds: int) -> list[Row]:
    """Process start and nothing else; the first one reads the file from the disk and is not counted."""
    row = Row("VERSION")
    for number, column in enumerate(_in_turn(columns, rounds + 1)):
        done = column.measure(column.call("bridge", "VERSION", {}))
        if number >= len(columns):
            row.samples[column.label].append(_ms(done))
    return [row]


def attachment(
    name: str, plugin: str, config: Config, *, tells_cpu: bool = True
) -> Callable[[list[Column], int], list[Row]]:
    """ADD, CHECK and DEL of one container, over and over; the first round makes the bridge, uncounted."""

    def measured(columns: list[Column], rounds: int) -> list[Row]:
        walls = {command: Row(f"{name} {command}") for command in ("ADD", "CHECK", "DEL")}
        cpus = {command: Row(row.operation, table=CPU) for command, row in walls.items()}
        for number, column in enumerate(_in_turn(columns, rounds + 1)):
            for command, done in _one_life(column, plugin, config):
                if number >= len(columns):
                    walls[command].samples[column.label].append(_ms(done))
                    cpus[command].samples[column.label].append(done.cpu * 1000)
        return [*walls.values(), *(cpus.values() if tells_cpu else ())]

    return measured


def beside_another(config: Config) -> Callable[[list[Column], int], list[Row]]:
    """The same where another container has been on the network all along, as on a node in use."""

    def measured(columns: list[Column], rounds: int) -> list[Row]:
        for column in columns:
            column.measure(column.call("bridge", "ADD", config, "resident"))
        rows = attachment("… dual-stack ipMasq beside another container", "bridge", config)(columns, rounds)
        for column in columns:
            column.measure(column.call("bridge", "DEL", config, "resident"))
        return rows

    return measured


def on_the_wire(name: str, config: Config) -> Callable[[list[Column], int], list[Row]]:
    """ADD, CHECK and DEL of a macvlan link, on a master that stays."""

    def measured(columns: list[Column], rounds: int) -> list[Row]:
        for column in columns:
            with column.fixture.host.entered():
                subprocess.run(MASTER, input=WIRE, text=True, capture_output=True, check=False)
        return attachment(name, "macvlan", {"master": "eth0", **config})(columns, rounds)

    return measured


def over_the_wire(name: str, config: Config, peers: int) -> Callable[[list[Column], int], list[Row]]:
    """ADD, CHECK and DEL in an overlay of so many hosts, beside another container; no reference has one."""
    listed = [_peer(config, number) for number in range(peers)]
    whole = {
        **config,
        "name": "bench",
        "cniVersion": "1.0.0",
        "ipam": {"type": "host-local", "dataDir": "@DATA@"},
    }
    whole["backend"] = {"type": "static", "peersFile": "@DATA@/peers.json"}

    def measured(columns: list[Column], rounds: int) -> list[Row]:
        ours = [column for column in columns if not column.is_reference]
        for column in ours:
            with column.fixture.host.entered():
                subprocess.run(MASTER, input=WIRE + UNDERLAY, text=True, capture_output=True, check=False)
            (column.fixture.data / "peers.json").write_text(json.dumps(listed))
            column.measure(column.call("vxlan", "ADD", whole, "resident"))
        rows = attachment(name, "vxlan", whole)(ours, rounds)
        for column in ours:
            column.measure(column.call("vxlan", "DEL", whole, "resident"))
        return rows

    return measured


def _peer(config: Config, number: int) -> Config:
    high, low = divmod(number, 250)
    own = {"subnet": f"10.{128 + high}.{low}.0/24"}
    if config["mode"] == "l2":
        own = {"block": f"10.200.{number // 16}.{number % 16 * 16}/28"}
    return {"node": f"host{number}", "vtep": f"10.99.{high}.{low + 1}", **own}


def _one_life(
    column: Column, plugin: str, config: Config, box: str = "box1"
) -> Iterator[tuple[str, timing.Measured]]:
    added = column.measure(column.call(plugin, "ADD", config, box))
    yield "ADD", added
    whole = config | {"prevResult": json.loads(added.stdout)}
    for command in ("CHECK", "DEL"):
        yield command, column.measure(column.call(plugin, command, whole, box))


def leases(count: int) -> Callable[[list[Column], int], list[Row]]:
    """host-local among that many leases, whose files are laid out directly."""
    config: Config = {
        "cniVersion": "1.0.0",
        "name": f"leases-{count}",
        "ipam": {"type": "host-local", "dataDir": "@DATA@", "ranges": [V4]},
    }

    def measured(columns: list[Column], rounds: int) -> list[Row]:
        for column in columns:
            lay_out_leases(column.fixture.data / f"leases-{count}", count)
        once = attachment(f"host-local, {_grouped(count)} leases,", "host-local", config, tells_cpu=False)
        rows = once(columns, rounds)
        return [*rows, _after_foreign_write(columns, config, count)] if count else rows

    return measured


def _after_foreign_write(columns: list[Column], config: Config, count: int) -> Row:
    """The first ADD after someone else wrote into the lease directory: an index must not be trusted then."""
    row = Row(f"host-local, {_grouped(count)} leases, ADD after a foreign write")
    for number, column in enumerate(_in_turn(columns, 3)):
        (column.fixture.data / config["name"] / f"10.1.255.{200 + number}").write_text("foreign\r\neth0")
        _, added = next(_one_life(column, "host-local", config))
        row.samples[column.label].append(_ms(added))
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


def parallel(count: int) -> Callable[[list[Column], int], list[Row]]:
    """Many containers at once: the time until the last answer, and the CPU time of all."""
    config = bridge_config(dual=True, ipMasq=True)

    def measured(columns: list[Column], rounds: int) -> list[Row]:
        name = f"{count} parallel dual-stack ipMasq"
        rows = {
            (command, what): Row(f"{name} {command}, {what}", table=PARALLEL)
            for command in ("ADD", "DEL")
            for what in ("wall", "CPU")
        }
        for column in _in_turn(columns, rounds):
            for command in ("ADD", "DEL"):
                together = _together(column, command, config, count)
                rows[command, "wall"].samples[column.label].append(together.wall * 1000)
                rows[command, "CPU"].samples[column.label].append(together.cpu * 1000)
        return list(rows.values())

    return measured


def parallel_memory(count: int) -> Callable[[list[Kind], int], list[Row]]:
    """The same ADDs under the eye of a sampler, which costs time: so apart from those that are timed.

    Nobody waits for the DELs: the hosts are new, and go as they are.
    """

    def measured(kinds: list[Kind], rounds: int) -> list[Row]:
        name = f"{count} parallel dual-stack ipMasq ADD, peak memory"
        row = Row(name, unit="MB", table=PARALLEL)
        for kind in _in_turn(kinds, rounds):
            with kind.opened() as column:
                calls = _calls(column, "ADD", bridge_config(dual=True, ipMasq=True), count)
                with memory.sampled(column.agent.pids if column.agent else ()) as peak:
                    column.measure_together(calls)
            row.samples[kind.label].append(peak.megabytes)
        return [row]

    return measured


def _calls(column: Column, command: str, config: Config, count: int) -> list[timing.Call]:
    return [column.call("bridge", command, config, f"many{number}") for number in range(count)]


def _together(column: Column, command: str, config: Config, count: int) -> Together:
    """:raises RuntimeError: when a call failed or an address was given twice."""
    together = column.measure_together(_calls(column, command, config, count))
    if command == "ADD":
        given = [entry["address"] for done in together.done for entry in json.loads(done.stdout)["ips"]]
        if len(set(given)) != 2 * count:
            raise RuntimeError(f"{column.label}: {len(given)} addresses given, {len(set(given))} different")
    return together


def resident_memory(kinds: list[Kind], rounds: int) -> list[Row]:
    """An agent with two workers, as it starts and after `rounds` attachments have come and gone."""
    rows = [
        Row(name, unit="MB", table=RESIDENT) for name in ("parent", "each worker", "agent with two workers")
    ]
    for kind in kinds:
        if not kind.is_warm:
            continue
        with kind.opened(workers=2) as column:
            assert column.agent is not None
            for label, attachments in (("just started", 0), (f"after {3 * rounds} requests", rounds)):
                for _ in range(attachments):
                    list(_one_life(column, "bridge", bridge_config(dual=True, ipMasq=True)))
                parent, *workers = map(memory.pss, column.agent.pids)
                for row, sizes in zip(rows, ([parent], workers, [parent + sum(workers)]), strict=True):
                    row.samples[label].extend(sizes)
    return [row for row in rows if row.samples]


def warm_add(name: str, config: Config) -> Callable[[list[Column], int], list[Row]]:
    """Where the time of a warm ADD goes."""

    def measured(columns: list[Column], rounds: int) -> list[Row]:
        warm = next((column for column in columns if column.agent), None)
        return anatomy.measure(warm, name, config, rounds) if warm else []

    return measured


def _in_turn(columns: list[Any], rounds: int) -> Iterator[Any]:
    for _ in range(rounds):
        yield from columns


def _grouped(count: int) -> str:
    return f"{count:,}".replace(",", " ")


def _ms(measured: timing.Measured) -> float:
    return measured.wall * 1000


ALL: tuple[Scenario | Solo, ...] = (
    Scenario("VERSION", 40, version),
    Scenario("loopback", 20, attachment("loopback", "loopback", {"cniVersion": "1.0.0", "name": "bench"})),
    Scenario("bridge", 20, attachment("bridge + host-local", "bridge", bridge_config())),
    Scenario("ipMasq", 12, attachment("… ipMasq", "bridge", bridge_config(ipMasq=True))),
    Scenario(
        "ipMasq nftables",
        12,
        attachment("… ipMasq, nftables", "bridge", bridge_config(ipMasq=True, ipMasqBackend="nftables")),
        quick_rounds=0,
    ),
    Scenario(
        "dual-stack ipMasq",
        12,
        attachment("… dual-stack ipMasq", "bridge", bridge_config(dual=True, ipMasq=True)),
    ),
    Scenario("dual-stack ipMasq, others", 12, beside_another(bridge_config(dual=True, ipMasq=True))),
    Scenario("macspoofchk", 12, attachment("… macspoofchk", "bridge", bridge_config(macspoofchk=True))),
    Scenario("macvlan", 12, on_the_wire("macvlan + host-local", network(V4))),
    # The reference waits 2 s for each of these.
    Scenario("macvlan IPv6", 3, on_the_wire("macvlan + host-local, IPv6", network(V6)), quick_rounds=0),
    Scenario(
        "macvlan dual-stack",
        3,
        on_the_wire("macvlan + host-local, dual-stack", network(V4, V6)),
        quick_rounds=0,
    ),
    Scenario("ptp", 12, attachment("ptp + host-local", "ptp", network(V4))),
    Scenario("ptp ipMasq", 12, attachment("ptp, ipMasq", "ptp", network(V4, ipMasq=True)), quick_rounds=0),
    Scenario("ptp IPv6", 3, attachment("ptp + host-local, IPv6", "ptp", network(V6)), quick_rounds=0),
    Scenario(
        "ptp dual-stack",
        3,
        attachment("ptp, dual-stack ipMasq", "ptp", network(V4, V6, ipMasq=True)),
        quick_rounds=0,
    ),
    Scenario("vxlan l3", 12, over_the_wire("vxlan l3, 3 hosts,", OVERLAY_L3, 3)),
    Scenario("vxlan l2", 12, over_the_wire("vxlan l2, 3 hosts,", OVERLAY_L2, 3), quick_rounds=0),
    Scenario("vxlan l3 1000", 5, over_the_wire("vxlan l3, 1 000 hosts,", OVERLAY_L3, 1000), quick_rounds=0),
    Scenario("leases 0", 15, leases(0)),
    Scenario("leases 1000", 12, leases(1_000)),
    Scenario("leases 16000", 7, leases(16_000), quick_rounds=0),
    Scenario("leases 60000", 5, leases(60_000), quick_rounds=0),
    Scenario("warm ADD", 30, warm_add("bridge + host-local", bridge_config())),
    Scenario(
        "warm dual-stack ADD",
        30,
        warm_add("… dual-stack ipMasq", bridge_config(dual=True, ipMasq=True)),
    ),
    Scenario("parallel 60", 2, parallel(60), quick_rounds=1),
    Scenario("parallel 200", 1, parallel(200), quick_rounds=0),
    Solo("memory 60", 1, parallel_memory(60), quick_rounds=1),
    Solo("memory 200", 1, parallel_memory(200), quick_rounds=0),
    Solo("agent memory", 100, resident_memory, quick_rounds=10),
)
