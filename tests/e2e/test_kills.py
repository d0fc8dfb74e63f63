"""
What is broken off in its middle or fails there, of macvlan and ptp: nothing of it is left anywhere.

Nowhere means: links, addresses, routes, permanent neighbours, rules and nf_tables objects of the host, MAC
and promiscuity of masters, links of the sandbox, leases; and no address has two owners.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from tests.e2e.lab import network
from tests.e2e.lab.agent import NO_AGENT, Gate, running
from tests.e2e.lab.host import Host
from tests.e2e.lab.killer import killed_after
from tests.e2e.lab.plugin import BIN, Answer, Call, run, start
from tests.e2e.lab.state import State, differences, leases, observe, settled
from tests.namespaces import entered

pytestmark = [pytest.mark.needs("ip", "nft"), pytest.mark.timeout(900)]

NAME = "cniknet"
COLD_KILLS, WARM_KILLS, KILLS_PER_ROUND = 16, 48, 16
SLOTS, LIVING = 10, 2
CAPACITY = 28
RANGES = (
    {"subnet": "10.84.0.0/24", "rangeStart": "10.84.0.2", "rangeEnd": f"10.84.0.{CAPACITY + 1}"},
    {"subnet": "fd00:84::/64", "rangeStart": "fd00:84::2", "rangeEnd": f"fd00:84::{CAPACITY + 1:x}"},
)
ADDRESSES = network.host_local(*RANGES)
ROUTED_ADDRESSES = network.host_local(*RANGES, routes=network.default_routes("0.0.0.0/0", "::/0"))
MASTER = "cnikm0"


def conf(kind: str, ipam: Mapping[str, Any], **main: Any) -> dict[str, Any]:
    return {"cniVersion": "1.1.0", "name": NAME, "type": kind, "ipam": ipam, **main}


ACCESS = conf(
    "macvlan", ROUTED_ADDRESSES, master=MASTER, hostAccess=True, isGateway=True, ipMasq=True, mtu=1400
)
PASSTHRU = conf("macvlan", ADDRESSES, master=MASTER, mode="passthru", mac="02:84:00:00:00:84")
ROUTED = conf("ptp", ADDRESSES, routed=True, ipMasq=True)
MASQUERADE = conf("ptp", ROUTED_ADDRESSES, ipMasq=True)
CONFS = {
    "macvlan-access": ACCESS,
    "macvlan-passthru": PASSTHRU,
    "ptp-routed": ROUTED,
    "ptp-masquerade": MASQUERADE,
}
EACH = pytest.mark.parametrize("conf", CONFS.values(), ids=CONFS)
WARMTH = pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])

RAISE_MASTERS = """
i=0
while [ $i -lt {count} ]; do
    ip link add cnikm$i type veth peer name cnikf$i
    ip link set cnikm$i up
    ip link set cnikf$i up
    i=$((i + 1))
done
ip addr add 10.84.0.201/24 dev cnikm0
ip addr add fd00:84::c9/64 dev cnikm0 nodad
"""
NEIGHBOURS = "ip -j neigh show nud permanent; echo; ip -j -d link"


@dataclass
class Bed:
    """A host with masters, sandboxes, and attachments that live through everything."""

    host: Host
    conf: dict[str, Any]
    living: list[tuple[Call, dict[str, Any]]] = field(default_factory=list)
    victims: Mapping[str, str] = field(default_factory=dict)
    """Variables of the calls that are killed: cold ones have no agent."""
    seconds: dict[str, float] = field(default_factory=dict)
    """How long a command takes at least, from its start."""
    quiet: State = field(default_factory=dict)

    def call(self, command: str, slot: int, container: str) -> Call:
        """Mode passthru needs a master alone, so there each sandbox has its own."""
        own = {"master": f"cnikm{slot}"} if self.conf.get("mode") == "passthru" else {}
        return Call(command, self.conf | own, container, f"/run/netns/cnik{slot}")

    def look(self) -> State:
        """What `observe` sees, neighbours, and how masters are."""
        answers = self.host.run("sh", "-c", NEIGHBOURS).stdout.split("\n", 1)
        neighbours, links = (json.loads(answer or "[]") for answer in answers)
        return observe(self.host) | {
            "neighbours": sorted(f"{item['dst']} {item['dev']}" for item in neighbours),
            "masters": sorted(
                f"{link['ifname']} {link['address']} {link.get('promiscuity')} {link.get('allmulti')}"
                for link in links
            ),
        }

    def assert_as_before(self) -> None:
        changes = differences(self.quiet, settled(self.look, self.quiet))
        inside = [f"in a sandbox: {link}" for link in self.inside()]
        assert not [*changes, *inside], "\n".join([*changes, *inside])

    def inside(self) -> list[str]:
        """The links of the sandboxes of those who do not live on, but `lo`."""
        found = []
        for slot in range(SLOTS):
            with entered(self.host.path(f"/run/netns/cnik{slot}")):
                found += [f"{slot}: {name}" for _, name in socket.if_nameindex() if name != "lo"]
        return found

    def collect(self) -> None:
        """GC with the living as the valid attachments."""
        valid = [{"containerID": call.container, "ifname": call.ifname} for call, _ in self.living]
        run(self.host, Call("GC", self.conf | {"cni.dev/valid-attachments": valid})).ok()

    def lose(self, slot: int) -> None:
        """The sandbox ends, and another comes in its place."""
        self.host.remove_netns(f"cnik{slot}")
        self.host.netns(f"cnik{slot}")

    def addresses(self) -> list[str]:
        """Those of the living."""
        return [ip["address"].split("/")[0] for _, result in self.living for ip in result["ips"]]

    def assert_all_is_well(self) -> None:
        """The living are as they were made, and the addresses are theirs, or free."""
        kept = self.addresses()
        for call, result in self.living:
            run(self.host, call.but(command="CHECK", conf={**_conf(call), "prevResult": result})).ok()
        assert leases(self.host) == sorted(f"{NAME}/{address}" for address in kept)
        ask = Call("ADD", self.conf, netns="/run/netns/cnik0", plugin="host-local")
        fill = [run(self.host, ask.but(container=f"fill{n}")).ok() for n in range(CAPACITY - LIVING)]
        left = [address for answer in fill for address in answer.addresses]
        assert len({*kept, *left}) == 2 * CAPACITY
        assert run(self.host, ask.but(container="too-much")).document["code"] == 102


@contextmanager
def _bed(host: Host, conf: dict[str, Any], *, warm: bool) -> Iterator[Bed]:
    """What is killed runs as `warm` says; what comes before and cleans up is warm, which is quicker."""
    bed = Bed(host, conf, victims={} if warm else NO_AGENT)
    _furnish(bed)
    with running(host, "--workers", "2"):
        _time(bed)
        for number in range(LIVING):
            add = bed.call("ADD", SLOTS + number, f"living{number}")
            bed.living.append((add, run(host, add).ok().document))
        bed.quiet = bed.look()
        yield bed


def _furnish(bed: Bed) -> None:
    bed.host.netns(*(f"cnik{slot}" for slot in range(SLOTS + LIVING)))
    bed.host.run("sh", "-euc", RAISE_MASTERS.format(count=SLOTS + LIVING))


def _time(bed: Bed) -> None:
    took: dict[str, list[float]] = {"ADD": [], "DEL": []}
    for number in range(2):
        for command, seconds in took.items():
            begun = time.monotonic()
            run(bed.host, bed.call(command, 0, f"timed{number}").but(variables=bed.victims)).ok()
            seconds.append(time.monotonic() - begun)
    bed.seconds = {command: min(seconds) for command, seconds in took.items()}


def _conf(call: Call) -> Mapping[str, Any]:
    assert isinstance(call.conf, Mapping)
    return call.conf


def _killed(bed: Bed, call: Call, chance: random.Random) -> Answer:
    """
    What came of a call that is killed at a random point.

    Mostly the plugin's whole process group is killed, every third time only the process that was started.
    Its output is read to the end, as runtimes do, so whatever goes on in its name is over by then.
    """
    process = start(bed.host, call.but(variables=bed.victims))
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin:
        process.stdin.write(call.stdin)
    process.stdin = None
    time.sleep(chance.uniform(0, 1.2 * bed.seconds[call.command]))
    with suppress(ProcessLookupError):
        chance.choice((os.kill, os.killpg, os.killpg))(process.pid, signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    return Answer(process.returncode, out, err)


# ---------------------------------------------------------------------------------- at random points


@WARMTH
@EACH
def test_an_add_that_is_killed_at_random(node: Host, conf: dict[str, Any], *, warm: bool) -> None:
    """One half is cleaned up by DEL, the other by GC; now and then the sandbox is not there any more."""
    kills = WARM_KILLS if warm else COLD_KILLS
    killed = 0
    with _bed(node, conf, warm=warm) as bed:
        for first in range(0, kills, KILLS_PER_ROUND):
            numbers = range(first, min(first + KILLS_PER_ROUND, kills))
            with ThreadPoolExecutor(2) as pool:
                turns = pool.map(partial(_turns, bed), (numbers[0::2], numbers[1::2]), (0, 1))
                answers = [answer for turn in turns for answer in turn]
            killed += sum(answer.code == -signal.SIGKILL for answer in answers)
            bed.collect()
            bed.assert_as_before()
        assert killed >= kills / 10, "hardly any ADD was killed in flight"
        bed.assert_all_is_well()


def _turns(bed: Bed, numbers: range, first_slot: int) -> list[Answer]:
    """
    One ADD after the other, in every second sandbox.

    What is left to GC stays in the way of who comes next into the sandbox: so in one where something may be,
    the next one is removed too.
    """
    answers = []
    slots = range(first_slot, SLOTS, 2)
    for turn, number in enumerate(numbers):
        chance = random.Random(number)
        slot = slots[turn % len(slots)]
        add = bed.call("ADD", slot, f"k{number}")
        answers.append(_killed(bed, add, chance))
        if number // 2 % 2 == 0:
            run(bed.host, add.but(command="DEL")).ok()
        elif chance.random() < 0.5:
            bed.lose(slot)
    return answers


@WARMTH
@EACH
def test_a_del_that_is_killed_at_random(node: Host, conf: dict[str, Any], *, warm: bool) -> None:
    """Another one follows, which may have an empty CNI_NETNS."""
    killed, kills = 0, 30 if warm else 10
    with _bed(node, conf, warm=warm) as bed:
        for number in range(kills):
            add = bed.call("ADD", number % SLOTS, f"k{number}")
            run(node, add).ok()
            remove = add.but(command="DEL")
            killed += _killed(bed, remove, random.Random(number)).code == -signal.SIGKILL
            run(node, remove.but(netns="") if number % 2 else remove).ok()
            if number % SLOTS == SLOTS - 1:
                bed.assert_as_before()
        assert killed >= kills / 10, "hardly any DEL was killed in flight"
    assert leases(node) == sorted(f"{NAME}/{address}" for address in bed.addresses())


# ----------------------------------------------------------------------------- after every change

MOST_CHANGES = 40
WAYS = {
    "del": lambda bed, add: run(bed.host, add.but(command="DEL")).ok(),
    "del-without-netns": lambda bed, add: run(bed.host, add.but(command="DEL", netns="")).ok(),
    "gc": lambda bed, _: bed.collect(),
}
HALVES = {
    "del": (1, MOST_CHANGES, 2),
    "del-without-netns": (2, MOST_CHANGES, 2),
    "gc": (1, MOST_CHANGES, 1),
}
"""The changes after which ADD is killed: from, up to, by."""


def _ways() -> list[Any]:
    return [
        pytest.param(
            conf,
            clean_up,
            HALVES[way] if name.startswith("macvlan") else (1, MOST_CHANGES, 1),
            id=f"{name}-{way}",
        )
        for name, conf in CONFS.items()
        for way, clean_up in WAYS.items()
        if name.startswith("macvlan") or way != "del"
    ]


@pytest.mark.needs("gcc", "setpriv", "nsenter")
@pytest.mark.parametrize(("conf", "clean_up", "numbers"), _ways())
def test_an_add_that_is_killed_after_each_change(
    node: Host,
    killer: str,
    conf: dict[str, Any],
    clean_up: Callable[[Bed, Call], object],
    numbers: tuple[int, int, int],
) -> None:
    """DEL has each second change to clean up after without the netns, where it has the others with it."""
    with _bed(node, conf, warm=False) as bed:
        for changes in range(*numbers):
            variables = {**NO_AGENT, **killed_after(killer, changes)}
            add = bed.call("ADD", changes % SLOTS, f"k{changes}")
            answer = run(node, add.but(variables=variables))
            clean_up(bed, add)
            bed.assert_as_before()
            if answer.code == 0:
                break
        else:
            raise AssertionError("it never came to its end")
    assert changes > 5


# --------------------------------------------------------------------------------- errors in the middle


@dataclass
class Failing:
    """A host on which nothing has been attached, and a call that is to fail there."""

    bed: Bed
    add: Call

    @property
    def host(self) -> Host:
        return self.bed.host

    def fails(self, *codes: int, call: Call | None = None) -> None:
        before = self.bed.look(), self.bed.inside()
        answer = run(self.host, call or self.add)
        self.assert_failed(answer, codes, before)

    def assert_failed(self, answer: Answer, codes: tuple[int, ...], before: tuple[State, list[str]]) -> None:
        assert (answer.code, answer.err) == (1, b""), answer
        assert answer.document["code"] in codes, answer
        changes = differences(before[0], settled(self.bed.look, before[0]))
        assert not changes, "\n".join(changes)
        assert self.bed.inside() == before[1]

    def assert_clean_after_del(self, *others: Call) -> None:
        """What a runtime does after a failure as well."""
        for call in (self.add, *others):
            run(self.host, call.but(command="DEL")).ok()
        self.bed.assert_as_before()


@pytest.fixture
def failing(node: Host, conf: dict[str, Any]) -> Failing:
    bed = Bed(node, conf)
    _furnish(bed)
    first = bed.call("ADD", 1, "first")  # forwarding stays on, by design
    for command in ("ADD", "DEL"):
        run(node, first.but(command=command)).ok()
    bed.quiet = bed.look()
    return Failing(bed, bed.call("ADD", 0, "failing"))


MACVLANS = pytest.mark.parametrize("conf", [ACCESS, PASSTHRU], ids=["access", "passthru"])


@EACH
def test_the_name_is_taken_in_the_sandbox(failing: Failing) -> None:
    failing.host.run("ip", "-n", "cnik0", "link", "add", "eth0", "type", "veth", "peer", "name", "eth9")
    failing.fails(101)
    failing.host.run("ip", "-n", "cnik0", "link", "del", "eth0")
    failing.assert_clean_after_del()


@EACH
def test_the_second_range_is_exhausted(failing: Failing) -> None:
    """Of the first nothing is taken for good."""
    narrow = {"subnet": "fd00:84::/64", "rangeStart": "fd00:84::2", "rangeEnd": "fd00:84::2"}
    failing.add = failing.add.but(conf={**_conf(failing.add), "ipam": network.host_local(RANGES[0], narrow)})
    other = failing.bed.call("ADD", 1, "other")
    other = other.but(conf={**_conf(other), "ipam": _conf(failing.add)["ipam"]})
    run(failing.host, other).ok()
    failing.fails(102)
    failing.assert_clean_after_del(other)


@EACH
@pytest.mark.parametrize("answer", ['{"cniVersion": "1.1.0", "ips": []}', '{"cniVersion": "1.1.0"}'])
def test_the_ipam_gives_no_address(failing: Failing, answer: str) -> None:
    failing.host.write("/run/fake/fake", f"#!/bin/sh\ncat >/dev/null; echo '{answer}'\n").chmod(0o755)
    call = failing.add.but(
        conf={**_conf(failing.add), "ipam": {"type": "fake"}}, variables={"CNI_PATH": f"{BIN}:/run/fake"}
    )
    failing.fails(100, call=call)
    failing.assert_clean_after_del()


@MACVLANS
def test_the_master_goes_between_two_adds(failing: Failing) -> None:
    """With it the kernel takes every link on it away; DEL finds the rest."""
    other = failing.bed.call("ADD", 1, "other")
    run(failing.host, other).ok()
    master = _conf(other)["master"]
    failing.host.run("ip", "link", "del", master)
    failing.fails(7, call=failing.add.but(conf=_conf(other)))
    run(failing.host, other.but(command="DEL")).ok()
    changes = differences(failing.bed.quiet, settled(failing.bed.look, failing.bed.quiet, 0))
    ours = (master, f"cnikf{master.removeprefix('cnikm')}", "10.84.0.", "fd00:84:")
    assert [change for change in changes if not change.split(": - ")[-1].startswith(ours)] == []
    assert failing.bed.inside() == []


@pytest.mark.needs("setpriv", "nsenter")
@WARMTH
@MACVLANS
def test_the_master_goes_while_the_ipam_works(failing: Failing, *, warm: bool) -> None:
    gate, host = Gate(failing.host), failing.host
    add = gate.through(failing.add)
    with (
        running(host, "--workers", "2") if warm else nullcontext(),
        ThreadPoolExecutor(1) as pool,
        gate.closed(),
    ):
        future = pool.submit(run, host, add)
        gate.wait()
        host.run("ip", "link", "del", MASTER)
        gate.open()
        answer = future.result()
        assert (answer.code, answer.err) == (1, b""), answer
        assert answer.document["code"] in (7, 100), answer
    assert leases(host) == []
    assert failing.bed.inside() == []
    changes = differences(failing.bed.quiet, failing.bed.look())
    assert [change for change in changes if ": + " in change] == []


@pytest.mark.needs("setpriv", "nsenter")
@WARMTH
@EACH
def test_the_name_is_taken_while_the_ipam_works(failing: Failing, *, warm: bool) -> None:
    """Another attachment may have it by then, so the addresses of one that ran elsewhere are left to DEL."""
    gate, host = Gate(failing.host), failing.host
    add = gate.through(failing.add)
    with (
        running(host, "--workers", "2") if warm else nullcontext(),
        ThreadPoolExecutor(1) as pool,
        gate.closed(),
    ):
        future = pool.submit(run, host, add)
        gate.wait()
        host.run("ip", "-n", "cnik0", "link", "add", "eth0", "type", "veth", "peer", "name", "eth9")
        before = failing.bed.look() | {"leases": []}, failing.bed.inside()
        gate.open()
        answer = future.result()
        host.run("ip", "-n", "cnik0", "link", "del", "eth0")
        run(host, add.but(command="DEL")).ok()
    failing.assert_failed(answer, (101,), (before[0], []))


@pytest.mark.parametrize("conf", [PASSTHRU], ids=["passthru"])
@pytest.mark.parametrize("mode", ["passthru", "bridge", "private"])
def test_the_master_is_taken(failing: Failing, mode: str) -> None:
    """By one in mode passthru, from any other; by any other, from one in mode passthru."""
    other = failing.bed.call("ADD", 1, "other")
    main = {"master": MASTER, "mode": mode}
    other = other.but(conf={**_conf(other), **main, "mac": "02:84:00:00:00:85"})
    run(failing.host, other).ok()
    failing.fails(11)
    third = failing.add.but(conf={**_conf(failing.add), "mode": "vepa"})
    if mode == "passthru":
        failing.fails(11, call=third)
    failing.assert_clean_after_del(other)


@pytest.mark.parametrize("conf", [ROUTED, MASQUERADE], ids=["routed", "masquerade"])
def test_the_address_is_routed_elsewhere(failing: Failing) -> None:
    """Its last step but a few finds that out, as another network gave the same address."""
    other = failing.bed.call("ADD", 1, "other")
    other = other.but(conf={**_conf(other), "name": "cnikother"})
    taken = run(failing.host, other).ok().addresses
    asked = {"runtimeConfig": {"ips": taken}}
    failing.fails(101, call=failing.add.but(conf={**_conf(failing.add), **asked}))
    failing.assert_clean_after_del(other)
