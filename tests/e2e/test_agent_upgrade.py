"""One build is replaced by another while calls come in: a mixture is slow for a moment and never wrong."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.lab.agent import SOCKET, Agent, Gate, build_of, rebuild, running, wait_for
from tests.e2e.lab.host import Host
from tests.e2e.lab.network import BRIDGE
from tests.e2e.lab.plugin import BIN, Call, finish, run, start
from tests.e2e.lab.state import assert_unchanged, leases, observe

pytestmark = [pytest.mark.needs("ip", "nft", "setpriv", "nsenter"), pytest.mark.timeout(180)]

PLUGINS = ("bridge", "host-local", "loopback", "static")
OTHER = "0123456789abcdef"
LOAD = 500
CALLERS = 4
NETWORK = BRIDGE | {"ipam": {"type": "host-local", "ranges": [[{"subnet": "10.84.0.0/16"}]]}}
ADDRESS = {"cniVersion": "1.1.0", "name": "cnienet", "type": "host-local", "ipam": NETWORK["ipam"]}
STATUS = Call("STATUS", ADDRESS)


class Node:
    """A host whose plugins and cnictl can be replaced: each at once, by rename, as often as one likes."""

    def __init__(self, host: Host, dist: Path) -> None:
        """Both builds are written beforehand: a file that is open for writing cannot be run."""
        self.host = host
        self.first = build_of(dist / "bridge")
        self.program = f"{BIN}/cnictl"
        host.run("mount", "-t", "tmpfs", "tmpfs", BIN)
        self._bin = host.path(BIN)
        for build in (self.first, OTHER):
            for name in ("bridge", "cnictl"):
                rebuild(dist / name, self._bin / f".{name}.{build}", build)
        self.put(self.first)

    def put_plugins(self, build: str) -> None:
        for name in PLUGINS:
            self._put("bridge", build, name)

    def put_cnictl(self, build: str) -> None:
        self._put("cnictl", build, "cnictl")

    def put(self, build: str) -> None:
        self.put_plugins(build)
        self.put_cnictl(build)

    def _put(self, program: str, build: str, name: str) -> None:
        link = self._bin / ".link"
        link.hardlink_to(self._bin / f".{program}.{build}")
        link.replace(self._bin / name)
        link.unlink(missing_ok=True)  # rename(2) of two names of one file does nothing


@pytest.fixture
def installed(node: Host, dist: Path) -> Node:
    return Node(node, dist)


@pytest.fixture
def agent(installed: Node) -> Iterator[Agent]:
    with running(installed.host, "--workers", "2") as agent:
        yield agent


def test_the_other_build_of_these_tests_is_another(node: Host, installed: Node) -> None:
    assert f"build {installed.first})" in node.run(installed.program, "--version").stdout
    installed.put(OTHER)
    assert f"build {OTHER})" in node.run(installed.program, "--version").stdout
    assert build_of(node.path(f"{BIN}/bridge")) == OTHER
    run(node, STATUS).ok()


def test_a_caller_of_another_build_goes_cold_and_no_agent_ends_for_it(
    node: Host, installed: Node, agent: Agent
) -> None:
    before = agent.processes()
    installed.put_plugins(OTHER)
    for _ in range(3):
        run(node, STATUS).ok()
    time.sleep(1.5)  # looks are taken every second
    assert agent.processes() == before
    assert (agent.served(), agent.refused()) == (0, {"build": 3})
    assert "finishing" not in agent.journal()


def test_the_agent_becomes_what_replaced_it_when_a_strange_caller_comes(
    node: Host, installed: Node, agent: Agent
) -> None:
    """And does so every time."""
    inode = node.path(SOCKET).stat().st_ino
    for turn, build in enumerate((OTHER, installed.first, OTHER), 1):
        installed.put(build)
        run(node, STATUS).ok()
        wait_for(f"turn {turn}", lambda: agent.is_of(build), 10)  # noqa: B023
        run(node, STATUS).ok()
        assert (agent.served(), agent.refused()) == (1, {})
        assert agent.page()["pid"] == agent.pid
        assert node.path(SOCKET).stat().st_ino == inode
    assert Path(f"/proc/{agent.pid}/exe").readlink() == Path(installed.program)


def test_a_replaced_agent_that_nobody_strange_calls_stays(node: Host, installed: Node, agent: Agent) -> None:
    installed.put_cnictl(OTHER)
    run(node, STATUS).ok()
    time.sleep(1.5)
    assert agent.page()["build"] == installed.first
    assert agent.served() == 1


def test_what_was_begun_is_finished_by_the_old_build(node: Host, installed: Node, agent: Agent) -> None:
    gate = Gate(node)
    [netns] = node.netns("cnie1")
    add = gate.through(Call("ADD", NETWORK, netns=netns))
    with ThreadPoolExecutor(2) as pool, gate.closed():
        held = pool.submit(finish, start(node, add), add)
        gate.wait()
        installed.put(OTHER)
        agent.signal(signal.SIGHUP)
        time.sleep(0.5)
        assert not held.done()
        waiting = pool.submit(run, node, STATUS)
        gate.open()
        held.result().ok()
        waiting.result().ok()
    agent.wait_until_up()
    wait_for("the new build", lambda: agent.is_of(OTHER))
    run(node, add.but(command="DEL")).ok()
    assert agent.served() in (1, 2)
    assert leases(node) == []


@pytest.mark.parametrize("fault", ["gone", "empty", "not executable"])
def test_a_broken_successor_costs_no_call(node: Host, installed: Node, agent: Agent, fault: str) -> None:
    """The agent stays what it is, or ends; whichever, callers are answered and none of them waits."""
    path = node.path(installed.program)
    path.unlink()
    if fault != "gone":
        path.write_text("")
        path.chmod(0o755 if fault == "empty" else 0o644)
    agent.signal(signal.SIGHUP)
    begun = time.monotonic()
    for _ in range(3):
        run(node, STATUS).ok()
    assert time.monotonic() - begun < 4
    assert "Traceback" not in agent.journal()


def test_five_hundred_calls_under_three_upgrades_and_none_fails(
    node: Host, installed: Node, agent: Agent
) -> None:
    """Plugins first and agent first, SIGHUP and strange callers; half the calls are ADDs, half are DELs."""
    netns = node.netns("cniefirst", *(f"cnie{n}" for n in range(CALLERS)))
    first = Call("ADD", NETWORK, container="first", netns=netns[0])
    run(node, first).ok()
    run(node, first.but(command="DEL")).ok()
    idle = observe(node)
    numbers = itertools.count()
    done = 0
    counted = threading.Lock()

    def attach(caller: int) -> None:
        nonlocal done
        while (number := next(numbers)) < LOAD // 2:
            whole = Call("ADD", NETWORK, container=f"c{number}", netns=netns[caller + 1])
            add = whole if number % 4 == 0 else whole.but(conf=ADDRESS)
            run(node, add).ok()
            run(node, add.but(command="DEL")).ok()
            with counted:
                done += 2

    def reached(share: float) -> bool:
        return done >= LOAD * share

    with ThreadPoolExecutor(CALLERS) as pool:
        callers = [pool.submit(attach, caller) for caller in range(CALLERS)]
        over = lambda: all(caller.done() for caller in callers)  # noqa: E731
        wait_for("a quarter", lambda: reached(0.25) or over(), 60)
        installed.put(OTHER)  # found out by a stranger
        wait_for("a half", lambda: reached(0.5) or over(), 60)
        installed.put_cnictl(installed.first)
        agent.signal(signal.SIGHUP)
        installed.put_plugins(installed.first)
        wait_for("three quarters", lambda: reached(0.75) or over(), 60)
        agent.signal(signal.SIGHUP)
        for caller in callers:
            caller.result()
    assert done == LOAD
    agent.wait_until_up()
    assert agent.process.poll() is None
    assert agent.journal().count(": becoming ") == 3
    assert "Traceback" not in agent.journal()
    before = agent.served()
    run(node, STATUS).ok()
    assert agent.served() == before + 1, "warm again"
    assert agent.page()["build"] == installed.first
    assert agent.journal().count(" command=") > LOAD / 2, "hardly any call was warm"
    assert_unchanged(node, idle)


def test_five_hundred_calls_while_the_agent_dies_and_is_started_anew(node: Host, dist: Path) -> None:
    """As systemd would; a call that was in a worker's hands ends with code 11, and its DEL leaves nothing."""
    stop = threading.Event()
    deaths = 0

    def kill() -> None:
        nonlocal deaths
        while not stop.is_set():
            with running(node, "--workers", "2") as agent:
                stop.wait(0.7)
                agent.signal_all(signal.SIGKILL)
                agent.process.wait(30)
                deaths += 1

    def attach(caller: int) -> int:
        lost = 0
        for number in range(LOAD // 4):
            add = Call("ADD", ADDRESS, container=f"c{caller}-{number}", netns="/run/netns/none")
            for call in (add, add.but(command="DEL")):
                answer = run(node, call)
                while answer.code:
                    assert answer.document["code"] == 11, answer
                    lost += 1
                    answer = run(node, add.but(command="DEL"))
        return lost

    with ThreadPoolExecutor(3) as pool:
        killer = pool.submit(kill)
        try:
            list(pool.map(attach, range(2)))
        finally:
            stop.set()
        killer.result()
    assert deaths > 1
    assert leases(node) == []
    assert not os.listdir(node.path("/run/netns"))
