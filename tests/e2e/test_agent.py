"""The resident agent when all is well: what it answers, what it shows, how it is started and ended."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.lab.agent import NO_AGENT, PROGRAM, SOCKET, Agent, Gate, running, started, wait_for
from tests.e2e.lab.host import Host, raise_host
from tests.e2e.lab.plugin import BIN, Answer, Call, finish, run, start
from tests.e2e.lab.state import leases, observe

pytestmark = [pytest.mark.needs("ip", "nft", "setpriv", "nsenter"), pytest.mark.timeout(180)]

PLAIN: dict[str, Any] = {
    "cniVersion": "1.1.0",
    "name": "cnienet",
    "type": "bridge",
    "bridge": "cniebr0",
    "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.84.0.0/16"}]]},
}
DUAL = PLAIN | {
    "isGateway": True,
    "ipMasq": True,
    "macspoofchk": True,
    "ipam": {
        "type": "host-local",
        "ranges": [[{"subnet": "10.84.0.0/24"}], [{"subnet": "fd00:84::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
    },
}
ADDRESS = {"cniVersion": "1.1.0", "name": "cnienet", "type": "host-local", "ipam": PLAIN["ipam"]}
LOOPBACK = {"cniVersion": "1.1.0", "name": "lo", "type": "loopback"}
STATUS = Call("STATUS", ADDRESS)
CROWD = 300
PSS_GROWTH = 2048  # KiB
MAC = re.compile(r"\b[0-9a-f]{2}(:[0-9a-f]{2}){5}\b")


@pytest.fixture
def agent(node: Host) -> Iterator[Agent]:
    with running(node, "--workers", "2") as agent:
        yield agent


@dataclass(frozen=True)
class Step:
    """What one call answered, and the host and the container after it."""

    name: str
    code: int
    out: str
    err: str
    state: list[str]


class Story:
    """One attachment's life, well and badly; link-layer addresses are named by the order they turn up in."""

    def __init__(self, node: Host, variables: Mapping[str, str]) -> None:
        self.node = node
        self.variables = variables
        self.steps: list[Step] = []
        self._macs: dict[str, str] = {}

    def tell(self) -> list[Step]:
        [netns] = self.node.netns("cnie1")
        add = Call("ADD", DUAL, netns=netns, variables=self.variables)
        other = add.but(container="cnie2")
        self._step("status", add.but(command="STATUS"))
        result = self._step("add", add).ok().document
        check = add.but(command="CHECK", conf=DUAL | {"prevResult": result})
        self._step("check", check).ok()
        self._step("add twice", add)
        self.node.run("ip", "-n", "cnie1", "addr", "flush", "dev", "eth0", "scope", "global")
        self._step("check of what has changed", check)
        self._step("no such netns", other.but(netns="/run/netns/none"))
        self._step("no such field", other.but(conf=DUAL | {"mtu": "wide"}))
        self._step("no JSON", other.but(conf=b"{"))
        self._step("no such command", add.but(command="NONSENSE"))
        self._step("no such version", add.but(conf=DUAL | {"cniVersion": "9.0.0"}))
        self._step("no such IPAM plugin", other.but(conf=DUAL | {"ipam": {"type": "absent"}}))
        self._step("check by an IPAM plugin", other.but(plugin="host-local", command="CHECK"))
        self._step("gc that names nobody", add.but(command="GC"))
        self._step("gc of all", add.but(command="GC", conf=DUAL | {"cni.dev/valid-attachments": []}))
        self._step("add again", add)
        self._step("del", add.but(command="DEL", conf=DUAL | {"prevResult": result}))
        self._step("del twice", add.but(command="DEL", netns=""))
        return self.steps

    def _step(self, name: str, call: Call) -> Answer:
        answer = run(self.node, call)
        out, err = (self._plain(text.decode()) for text in (answer.out, answer.err))
        state = [f"{what}: {thing}" for what, things in observe(self.node).items() for thing in things]
        state += [f"container: {thing}" for thing in sandbox(self.node)]
        self.steps.append(Step(name, answer.code, out, err, sorted(map(self._plain, state))))
        return answer

    def _plain(self, text: str) -> str:
        return MAC.sub(lambda found: self._macs.setdefault(found[0], f"MAC{len(self._macs)}"), text)


def sandbox(node: Host) -> list[str]:
    """Links, addresses and routes of the container, without what differs from one boot to the next."""
    links = json.loads(node.run("ip", "-n", "cnie1", "-j", "addr").stdout)
    words = [f"{link['ifname']} {link['address']} {link['mtu']} {link['operstate']}" for link in links]
    words += [
        f"{link['ifname']} {item['local']}/{item['prefixlen']} {item['scope']}"
        for link in links
        for item in link["addr_info"]
        if item["scope"] == "global"
    ]
    for family in ("-4", "-6"):
        routes = json.loads(node.run("ip", family, "-n", "cnie1", "-j", "route").stdout or "[]")
        words += [f"{route['dst']} {route.get('gateway')} {route['dev']}" for route in routes]
    return sorted(words)


def test_warm_and_cold_give_the_same_answers_and_the_same_state(dist: Path) -> None:
    with raise_host(dist) as node:
        cold = Story(node, NO_AGENT).tell()
    with raise_host(dist) as node, running(node, "--workers", "2") as agent:
        warm = Story(node, {}).tell()
        assert (agent.served(), agent.refused()) == (len(warm), {})
    for before, after in zip(cold, warm, strict=True):
        assert before == after
    assert [step.name for step in warm if step.err] == []
    assert [step.state for step in warm if step.name == "del"] == [warm[-1].state]


def test_status_counts_the_served_and_the_refused(node: Host, agent: Agent) -> None:
    run(node, STATUS).ok()
    run(node, Call("ADD", b"nonsense")).document["code"]
    with agent.speaker.connect() as stranger:
        stranger.send(b"hello\0")
    wait_for("the refusal", lambda: agent.refused() == {"message": 1})
    shown = json.loads(node.run(PROGRAM, "agent", "status", "--json").stdout)
    assert shown["pid"] == agent.pid
    assert shown["build"] == agent.speaker.build
    assert shown["served"] == 2
    assert shown["refused"] == dict.fromkeys(shown["refused"], 0) | {"message": 1}
    assert sum(worker["served"] for worker in shown["workers"]) == 2
    assert [error["text"].split(" msg=")[0].split(" ms=")[0] for error in shown["errors"]] == [
        "container=cnie1 ifname=eth0 plugin=bridge command=ADD"
    ]
    text = node.run(PROGRAM, "agent", "status").stdout
    assert f"pid {agent.pid}" in text
    assert "served   2" in text
    assert str(agent.workers()[0]) in text


def test_status_without_an_agent_is_one_line(node: Host) -> None:
    done = node.run(PROGRAM, "agent", "status", "--json", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"cnictl: no agent at {SOCKET}: No such file or directory\n"


def test_the_journal_has_one_line_for_each_request(node: Host, agent: Agent) -> None:
    [netns] = node.netns("cnie1")
    run(node, Call("ADD", PLAIN, netns=netns)).ok()
    run(node, Call("DEL", PLAIN, netns=netns)).ok()
    run(node, STATUS).ok()
    run(node, Call("ADD", PLAIN, container="two words\nand = lines", netns=netns))
    wait_for("the last line", lambda: len(agent.journal().splitlines()) >= 5)
    _, *lines = [re.sub(r"\bms=\d+\.\d\b", "ms=…", line) for line in agent.journal().splitlines()]
    assert lines[:3] == [
        "network=cnienet container=cnie1 ifname=eth0 plugin=bridge command=ADD ms=… code=0",
        "network=cnienet container=cnie1 ifname=eth0 plugin=bridge command=DEL ms=… code=0",
        "network=cnienet plugin=host-local command=STATUS ms=… code=0",
    ]
    assert len(lines) == 4
    assert lines[3].startswith(
        r'network=cnienet container="two words\nand = lines" ifname=eth0 plugin=bridge'
    )
    assert " code=4 msg=" in lines[3]


def test_what_a_delegate_says_and_sees_is_the_callers(node: Host, agent: Agent) -> None:
    node.write("/opt/spy/spy", "#!/bin/sh\necho 'a word of the spy' >&2\npwd >/run/seen\nenv >>/run/seen\n")
    node.path("/opt/spy/spy").chmod(0o755)
    node.write("/opt/cwd/file", "")
    variables = {"CNI_PATH": "/opt/spy", "LD_LIBRARY_PATH": "/of/the/caller", "EMPTY": "", "TWO": "a=b\nc"}
    call = Call("DEL", PLAIN | {"ipam": {"type": "spy"}}, netns="", variables=variables)
    seen = []
    for word in (NO_AGENT, {}):
        done = node.run(
            *("sh", "-c", f"cd /opt/cwd && exec {BIN}/bridge"),
            env={**call.environment, **word},
            input=call.stdin.decode(),
        )
        assert (done.stdout, done.stderr) == ("", "a word of the spy\n")
        seen.append(node.path("/run/seen").read_text().splitlines())
    assert agent.served() == 1
    cold, warm = ([line for line in lines if not line.startswith("_=")] for lines in seen)
    assert warm[0] == "/opt/cwd"
    # A delegate of ours must not wait for a worker, so it is told that there is no agent.
    assert sorted(warm) == sorted(cold)


def test_relative_paths_are_the_callers(node: Host, agent: Agent) -> None:
    """Warm or cold: in the directory of one caller and then of another."""
    for number in (1, 2):
        node.write(f"/opt/place{number}/file", "")
        [netns] = node.netns(f"cnie{number}")
        node.path(f"/opt/place{number}/netns").symlink_to(netns)
        call = Call("ADD", PLAIN, container=f"c{number}", netns="netns")
        command = ("sh", "-c", f"cd /opt/place{number} && exec {BIN}/bridge")
        done = node.run(*command, env=call.environment, input=call.stdin.decode())
        assert json.loads(done.stdout)["ips"][0]["address"] == f"10.84.0.{number + 1}/16"
        assert "eth0" in node.run("ip", "-n", f"cnie{number}", "link").stdout
    assert {os.readlink(f"/proc/{pid}/cwd") for pid in agent.workers()} == {"/"}


def test_files_have_the_modes_that_a_cold_call_gives_them(node: Host, agent: Agent) -> None:
    modes = []
    for number, variables in enumerate((NO_AGENT, {})):
        conf = ADDRESS | {"ipam": PLAIN["ipam"] | {"dataDir": f"/opt/leases{number}"}}
        call = Call("ADD", conf, netns="/run/netns/none", variables=variables)
        run(node, call).ok()
        root = node.path(f"/opt/leases{number}")
        files = [root, *(path for path in root.rglob("*") if "/." not in str(path))]
        modes.append(sorted((str(path.relative_to(root)), oct(path.lstat().st_mode)) for path in files))
    assert agent.served() == 1
    assert modes[0] == modes[1]


def test_three_hundred_callers_at_once_are_answered(node: Host, agent: Agent) -> None:
    calls = [Call("ADD", ADDRESS, container=f"c{n}", netns="/run/netns/none") for n in range(CROWD)]
    addresses = [address for answer in _all_at_once(node, calls) for address in answer.ok().addresses]
    assert len(set(addresses)) == CROWD
    assert leases(node) == sorted(f"cnienet/{address}" for address in addresses)
    for answer in _all_at_once(node, [call.but(command="DEL") for call in calls]):
        answer.ok()
    assert leases(node) == []
    assert agent.served() + sum(agent.refused().values()) >= CROWD


def _all_at_once(node: Host, calls: list[Call]) -> list[Answer]:
    processes = [start(node, call) for call in calls]
    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(finish, processes, calls))


def test_recycling_loses_no_call(node: Host) -> None:
    with running(node, "--workers", "2", "--recycle-after", "5") as agent:
        first = agent.workers()
        calls = [Call("ADD", ADDRESS, container=f"c{n}", netns="/run/netns/none") for n in range(40)]
        with ThreadPoolExecutor(4) as pool:
            for answer in pool.map(lambda call: run(node, call), calls):
                answer.ok()
        assert len(leases(node)) == 40
        wait_for("workers to be replaced", lambda: not set(first) & set(agent.workers()))
        page = agent.page()
        assert sum(worker["recycled"] for worker in page["workers"]) >= 2
        assert (page["served"] + sum(page["refused"].values())) <= 40
        assert page["served"] > 10
        wait_for("both", lambda: len(agent.processes()) == len(_children(agent.pid)) + 1)


def test_two_thousand_requests_leave_the_workers_as_they_were(node: Host, agent: Agent) -> None:
    """Two callers at a time; every 25th attachment is a whole one, the others are quick."""
    netns = node.netns("cnie0", "cnie1")
    wait_for("the workers", lambda: all(agent.processes()))
    pids = agent.processes()

    def attach(caller: int, pairs: int) -> None:
        for number in range(pairs):
            whole = Call("ADD", DUAL, container=f"c{caller}", netns=netns[caller])
            quick = whole.but(conf=LOOPBACK if number % 2 else ADDRESS, ifname="lo")
            add = quick if number % 25 else whole
            agent.speaker.call(add).ok()
            agent.speaker.call(add.but(command="DEL")).ok()

    looks = []
    for pairs in (20, 230, 750):
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(attach, range(2), [pairs // 2] * 2))
        looks.append(agent.look())
    early, middle, late = looks
    assert agent.processes() == pids
    assert agent.served() == 2000
    assert early.descriptors == middle.descriptors == late.descriptors
    assert early.threads == late.threads == dict.fromkeys(pids, 1)
    assert late.pss - middle.pss < PSS_GROWTH
    assert leases(node) == []


def test_sigterm_lets_a_request_finish_and_sends_the_waiting_cold(node: Host) -> None:
    gate = Gate(node)
    with running(node, "--workers", "1") as agent:
        [netns] = node.netns("cnie1")
        add = gate.through(Call("ADD", DUAL, netns=netns))
        held = start(node, add)
        with ThreadPoolExecutor(4) as pool, gate.closed():
            answer = pool.submit(finish, held, add)
            gate.wait()
            waiting = [pool.submit(run, node, STATUS) for _ in range(3)]
            time.sleep(0.3)
            agent.signal(signal.SIGTERM)
            time.sleep(0.3)
            assert agent.process.poll() is None
            assert held.poll() is None
            gate.open()
            assert answer.result().ok().addresses == ["10.84.0.2", "fd00:84::2"]
            assert agent.process.wait(30) == 0
            assert [one.result().code for one in waiting] == [0, 0, 0]
    assert "finishing the requests under way" in agent.journal()
    assert agent.journal().count(" command=") == 1, "somebody who waited was served by an agent that ends"
    assert not node.path(SOCKET).exists()
    run(node, gate.through(Call("CHECK", DUAL | {"prevResult": answer.result().document}, netns=netns))).ok()


def test_sighup_keeps_the_process_and_the_socket(node: Host, agent: Agent) -> None:
    inode = node.path(SOCKET).stat().st_ino
    for turn in range(1, 4):
        before = agent.workers()
        agent.signal(signal.SIGHUP)
        wait_for(f"turn {turn} of the agent", lambda: agent.journal().count("workers at") == turn + 1, 10)  # noqa: B023
        agent.wait_until_up()
        assert node.path(SOCKET).stat().st_ino == inode
        assert not set(before) & set(agent.workers())
        run(node, STATUS).ok()
        assert agent.served() == 1
    assert agent.stop() == 0
    assert not node.path(SOCKET).exists()


def test_sigint_ends_it_too(node: Host, agent: Agent) -> None:
    """To all of a terminal's processes at once."""
    agent.signal_all(signal.SIGINT)
    assert agent.process.wait(30) == 0
    run(node, STATUS).ok()


def test_a_second_agent_on_the_socket_is_refused_in_one_line(node: Host, agent: Agent) -> None:
    # It answers before it has written its first line, and both write into one file.
    wait_for("the first agent's line", lambda: "workers at" in agent.journal(), 10)
    with started(node) as second:
        assert second.process.wait(30) == 1
        assert second.journal() == f"agent: another agent listens at {SOCKET}\n"
    run(node, STATUS).ok()
    assert agent.served() == 1


def test_a_stale_socket_is_replaced(node: Host) -> None:
    with running(node) as agent:
        agent.signal_all(signal.SIGKILL)
        agent.process.wait(30)
    assert node.path(SOCKET).exists()
    with running(node) as agent:
        run(node, STATUS).ok()
        assert agent.served() == 1
        assert oct(node.path(SOCKET).stat().st_mode & 0o777) == "0o600"
        assert oct(node.path(SOCKET).parent.stat().st_mode & 0o777) == "0o700"


@pytest.mark.parametrize("fault", ["writable by all", "writable by the group", "somebody else's", "a link"])
def test_a_directory_that_is_not_private_is_refused(node: Host, fault: str) -> None:
    directory = node.path("/run/place")
    directory.mkdir()
    match fault:
        case "writable by all":
            directory.chmod(0o777)
        case "writable by the group":
            directory.chmod(0o770)
        case "somebody else's":
            os.chown(directory, 12345, 12345)
        case "a link":
            directory.rmdir()
            directory.symlink_to("/run/other")
            node.path("/run/other").mkdir(mode=0o700)
    with started(node, at="/run/place/agent.sock") as agent:
        assert agent.process.wait(30) == 1
        assert agent.journal() == "agent: /run/place is not a directory that only this user can write to\n"


@pytest.mark.parametrize("kind", ["file", "directory", "link", "fifo"])
def test_what_is_no_socket_is_not_removed_from_the_path(node: Host, kind: str) -> None:
    directory = node.path("/run/place")
    directory.mkdir(mode=0o700)
    path = directory / "agent.sock"
    match kind:
        case "file":
            path.write_text("somebody's")
        case "directory":
            path.mkdir()
        case "link":
            path.symlink_to("treasure")
            (directory / "treasure").write_text("somebody's")
        case "fifo":
            os.mkfifo(path)
    os.chown(path, 12345, 12345, follow_symlinks=False)
    before = path.lstat()
    with started(node, at="/run/place/agent.sock") as agent:
        assert agent.process.wait(30) == 1, agent.journal()
        assert agent.journal().count("\n") == 1
        assert path.lstat() == before


class Supervisor:
    """Starts the agent as systemd does a unit with a socket and Type=notify."""

    def __init__(self, node: Host, place: Path) -> None:
        directory = node.path("/run/cni-plugins")
        directory.mkdir(mode=0o700, exist_ok=True)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(node.path(SOCKET)))
        self.listener.listen(64)
        self.notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notified.bind(str(place / "notify"))
        self.notified.settimeout(10)
        self.variables = {"NOTIFY_SOCKET": str(place / "notify"), "WATCHDOG_USEC": "3000000"}
        # The pid is known only once the process is there; the wrapper becomes the agent.
        wrapper = "import os, sys; os.dup2(int(sys.argv[1]), 3)\n"
        wrapper += (
            "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()), WATCHDOG_PID=str(os.getpid()))\n"
        )
        wrapper += "os.execv(sys.argv[2], sys.argv[2:])"
        self.prefix = [sys.executable, "-c", wrapper, str(self.listener.fileno())]

    def hears(self, wanted: str, seconds: float = 10) -> None:
        end = time.monotonic() + seconds
        while wanted not in self.notified.recv(4096).decode().splitlines():
            assert time.monotonic() < end, f"{wanted} did not come"

    def close(self) -> None:
        self.listener.close()
        self.notified.close()


def test_a_supervisor_hands_over_the_socket_and_is_told(node: Host, tmp_path: Path) -> None:
    supervisor = Supervisor(node, tmp_path)
    early = start(node, STATUS)  # waits in the backlog, as after the boot of a machine
    try:
        with _supervised(node, supervisor) as agent:
            supervisor.hears("READY=1")
            finish(early, STATUS).ok()
            assert agent.served() == 1
            supervisor.hears("WATCHDOG=1")
            for _ in range(2):  # a successor must find what its predecessor found
                agent.signal(signal.SIGHUP)
                supervisor.hears("RELOADING=1")
                supervisor.hears("READY=1")
                supervisor.hears("WATCHDOG=1")
                run(node, STATUS).ok()
                assert agent.served() == 1
            agent.signal(signal.SIGTERM)
            supervisor.hears("STOPPING=1")
            assert agent.process.wait(30) == 0
        # It is the supervisor's: the next caller waits for the next agent.
        assert node.path(SOCKET).exists()
        late = start(node, STATUS)
        with _supervised(node, supervisor) as agent:
            finish(late, STATUS).ok()
            assert agent.served() == 1
    finally:
        supervisor.close()


def _supervised(node: Host, supervisor: Supervisor) -> Any:
    return started(
        node,
        *("--workers", "2"),
        variables=supervisor.variables,
        prefix=supervisor.prefix,
        inherited=[supervisor.listener.fileno()],
    )


def test_a_handed_over_descriptor_that_is_none_is_refused(node: Host) -> None:
    with started(node, variables={"LISTEN_FDS": "1"}) as agent:
        assert agent.process.wait(30) == 1
        assert agent.journal().count("\n") == 1
        assert "LISTEN_FDS is set" in agent.journal()


def test_without_a_supervisor_that_listens_it_runs_all_the_same(node: Host) -> None:
    with started(node, variables={"NOTIFY_SOCKET": "/run/nobody", "WATCHDOG_USEC": "1000000"}) as agent:
        agent.wait_until_up()
        run(node, STATUS).ok()
        assert agent.served() == 1


def test_version_and_usage_do_not_ask_the_agent(node: Host, agent: Agent) -> None:
    done = node.run(f"{BIN}/bridge", env={"CNI_COMMAND": "VERSION"})
    assert "supportedVersions" in done.stdout
    assert "protocol versions" in node.run(f"{BIN}/bridge").stderr
    assert (agent.served(), agent.refused()) == (0, {})


def test_cnictl_is_itself_whatever_is_in_the_environment(node: Host, agent: Agent) -> None:
    """A shell in which somebody has tried out a plugin has CNI_COMMAND set."""
    done = node.run(PROGRAM, "--version", env=Call("ADD", PLAIN).environment, check=False)
    assert done.stdout.startswith("cnictl ")
    assert agent.served() == 0


def test_no_zombie_and_no_stranger_is_left_by_delegates(node: Host, agent: Agent) -> None:
    gate = Gate(node)
    for number in range(5):
        call = gate.through(Call("DEL", PLAIN, container=f"c{number}", netns=""))
        run(node, call).ok()
    assert [_children(pid) for pid in agent.workers()] == [[], []]
    # Beside the workers there is the process that watches the ruleset.
    [watcher] = set(_children(agent.pid)) - {*agent.workers()}
    assert _children(watcher) == []


def _children(pid: int) -> list[int]:
    done = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, timeout=10)
    return [int(word) for word in done.stdout.split()]
