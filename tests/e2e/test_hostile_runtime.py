"""A runtime that calls all at once, one that kills what it called: no address is lost or given twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from statistics import median
from typing import Any

import pytest

from tests.e2e.lab.host import Host
from tests.e2e.lab.network import BRIDGE
from tests.e2e.lab.plugin import Answer, Call, finish, run, start
from tests.e2e.lab.state import State, assert_unchanged, leases, observe

pytestmark = pytest.mark.needs("ip", "nft", "ping")

AT_ONCE = 60
ROUNDS, KILLS_PER_ROUND = 5, 20
LIVING, CAPACITY = 4, 32
WIDE = BRIDGE | {"ipam": {"type": "host-local", "ranges": [[{"subnet": "10.84.0.0/24"}]]}}
NARROW_RANGE = {"subnet": "10.85.0.0/24", "rangeStart": "10.85.0.2", "rangeEnd": f"10.85.0.{CAPACITY + 1}"}
NARROW = BRIDGE | {"ipam": {"type": "host-local", "ranges": [[NARROW_RANGE]]}}


def test_sixty_at_once_get_sixty_addresses(node: Host) -> None:
    idle = _state_after_a_first_attachment(node, WIDE)
    netns = node.netns(*(f"cnie{n}" for n in range(AT_ONCE)))
    adds = [Call("ADD", WIDE, container=f"c{n}", netns=path) for n, path in enumerate(netns)]

    answers = _all_at_once(node, adds)
    addresses = [address for answer in answers for address in answer.ok().addresses]
    assert len(set(addresses)) == AT_ONCE
    assert sorted(f"cnienet/{address}" for address in addresses) == leases(node)
    _each_pings_the_next(node, [f"cnie{n}" for n in range(AT_ONCE)], addresses)

    for answer in _all_at_once(node, [add.but(command="DEL") for add in adds]):
        answer.ok()
    assert_unchanged(node, idle)


@pytest.mark.parametrize("netns_lives", [True, False])
@pytest.mark.parametrize("first_netns", ["/run/netns/cnie1", ""], ids=["as-the-cri-does", "as-ctr-does"])
def test_del_comes_twice_and_late(node: Host, first_netns: str, *, netns_lives: bool) -> None:
    """A second DEL, or the only one, has an empty CNI_NETNS and no prevResult; the netns may live on."""
    idle = _state_after_a_first_attachment(node, WIDE)
    [netns] = node.netns("cnie1")
    add = Call("ADD", WIDE, netns=netns)
    run(node, add).ok()
    if not netns_lives:
        node.remove_netns("cnie1")
    run(node, add.but(command="DEL", netns=first_netns)).ok()
    assert_unchanged(node, idle)
    run(node, add.but(command="DEL", netns="")).ok()
    run(node, add.but(command="DEL", variables={"CNI_NETNS": None})).ok()
    assert_unchanged(node, idle)


@dataclass
class Killer:
    """A runtime that kills ADDs, each at a random point, and cleans up as runtimes do."""

    host: Host
    living: list[str]
    usual_seconds: float
    killed: int = 0

    def play(self, number: int) -> None:
        """
        One ADD, killed, then either DEL or nothing, in which case the netns may be lost too: that is for GC.

        Mostly the plugin's whole process group is killed, every third time only the process that was started.
        Its output is read to the end, as runtimes do, so whatever goes on in its name is over by then.
        """
        chance = random.Random(number)
        name = f"cnie{number % KILLS_PER_ROUND}"
        add = Call("ADD", NARROW, container=f"k{number}", netns=f"/run/netns/{name}")
        process = start(self.host, add)
        _hand_over_stdin(process, add.stdin)
        time.sleep(chance.uniform(0, 1.2 * self.usual_seconds))
        with suppress(ProcessLookupError):
            (os.kill if number % 3 == 0 else os.killpg)(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
        self.killed += process.returncode == -signal.SIGKILL

        if number % 5 < 3:
            run(self.host, add.but(command="DEL")).ok()
        elif number % 5 == 4:
            self.host.remove_netns(name)
            self.host.netns(name)

    def collect(self) -> None:
        """GC with the living as the valid attachments."""
        valid = [{"containerID": name, "ifname": "eth0"} for name in self.living]
        run(self.host, Call("GC", NARROW | {"cni.dev/valid-attachments": valid})).ok()


@pytest.mark.timeout(900)
def test_a_killed_add_leaves_nothing(node: Host) -> None:
    netns = [f"cnie{n}" for n in range(KILLS_PER_ROUND)]
    living = [f"cnieliving{n}" for n in range(LIVING)]
    node.netns(*netns, *living)
    seconds, kept = [], []
    for name in living:
        begun = time.monotonic()
        add = Call("ADD", NARROW, container=name, netns=f"/run/netns/{name}")
        kept += run(node, add).ok().addresses
        seconds.append(time.monotonic() - begun)
    quiet = observe(node)
    killer = Killer(node, living, median(seconds))

    for round_ in range(ROUNDS):
        first = round_ * KILLS_PER_ROUND
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(killer.play, range(first, first + KILLS_PER_ROUND)))
        killer.collect()
        assert_unchanged(node, quiet)
        assert [name for name in netns if _links(node, name) != ["lo"]] == []

    assert killer.killed >= ROUNDS * KILLS_PER_ROUND / 2, "hardly any ADD was killed in flight"
    assert leases(node) == sorted(f"cnienet/{address}" for address in kept)
    assert len({*kept, *_all_that_is_left(node)}) == CAPACITY
    _each_pings_the_next(node, living, kept)


def _state_after_a_first_attachment(host: Host, conf: dict[str, Any]) -> State:
    """The state to come back to: the bridge stays, by design."""
    [netns] = host.netns("cniefirst")
    first = Call("ADD", conf, container="first", netns=netns)
    run(host, first).ok()
    run(host, first.but(command="DEL")).ok()
    return observe(host)


def _all_at_once(host: Host, calls: list[Call]) -> list[Answer]:
    processes = [start(host, call) for call in calls]
    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(finish, processes, calls, [300.0] * len(calls)))


def _each_pings_the_next(host: Host, netns: list[str], addresses: list[str]) -> None:
    following = [*addresses[1:], addresses[0]]
    pings = [
        host.start("ip", "netns", "exec", name, "ping", "-c1", "-W5", address, log=subprocess.DEVNULL)
        for name, address in zip(netns, following, strict=True)
    ]
    assert [name for name, ping in zip(netns, pings, strict=True) if ping.wait(60) != 0] == []


def _hand_over_stdin(process: subprocess.Popen[bytes], data: bytes) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin:
        process.stdin.write(data)
    process.stdin = None


def _links(host: Host, netns: str) -> list[str]:
    return [link["ifname"] for link in json.loads(host.run("ip", "-j", "-n", netns, "link").stdout)]


def _all_that_is_left(host: Host) -> Iterator[str]:
    """Take every address the pool still gives; the refusal that ends it says that there is none."""
    ask = Call("ADD", NARROW, netns="/run/netns/cnie0", plugin="host-local")
    for number in range(CAPACITY + 1):
        answer = run(host, ask.but(container=f"fill{number}"))
        if answer.code != 0:
            return
        yield from answer.addresses
    raise AssertionError("more addresses were given than there are")
