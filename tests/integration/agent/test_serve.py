"""The agent as an operator sees it: status, journal, signals, a socket handed over."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cni_plugins.agent import status
from tests import cni
from tests.integration.agent.rig import BUILD, ROOT, Agent, call

Start = Callable[..., Agent]
CONF = {
    "cniVersion": "1.1.0",
    "name": "net1",
    "type": "static",
    "ipam": {"type": "static", "addresses": [{"address": "10.1.0.2/24"}]},
}
GOOD, BAD = json.dumps(CONF).encode(), json.dumps({**CONF, "name": 'a "b"\nc'}).encode()


def ask(agent: Agent, warm: Path, stdin: bytes = GOOD, command: str = "ADD", **variables: str) -> int:
    return call(warm / "static", command, stdin, **agent.variables(), **variables).code


@pytest.fixture
def own(start: Start) -> Agent:
    agent = start()
    agent.wait()
    return agent


def test_the_status_page_counts(own: Agent, warm: Path) -> None:
    assert [ask(own, warm) for _ in range(3)] == [0, 0, 0]
    assert ask(own, warm, BAD) == 1
    assert ask(own, warm, CNI_NETNS="/proc/self/ns/net") != 0
    page = own.page()
    assert (page["build"], page["pid"], page["served"]) == (BUILD, own.process.pid, 4)
    assert {reason: count for reason, count in page["refused"].items() if count} == {"place": 1}
    assert sum(worker["served"] for worker in page["workers"]) == 4
    assert len({worker["pid"] for worker in page["workers"]}) == 2
    assert [worker["recycled"] for worker in page["workers"]] == [0, 0]
    (error,) = page["errors"]
    assert "code=7" in error["text"]
    assert abs(error["time"] - time.time()) < 60


def test_the_journal_has_a_line_for_each_request(own: Agent, warm: Path) -> None:
    ask(own, warm)
    line = own.wait("command=ADD")
    pattern = r"network=net1 container=c1 ifname=eth0 plugin=static command=ADD ms=\d+\.\d code=0"
    assert re.fullmatch(pattern, line)
    ask(own, warm, BAD, "DEL")
    line = own.wait("command=DEL")
    assert line.startswith('network="a \\"b\\"\\nc" container=c1 ')
    assert line.endswith(' code=7 msg="invalid characters found in network name"')
    own.stop()
    assert len(own.journal()) == 4  # one at the start, one at the end


def test_lines_bear_priorities_for_the_journal(start: Start, warm: Path) -> None:
    agent = start(environment={"JOURNAL_STREAM": "8:1"})
    assert agent.wait().startswith("<6>agent ")
    ask(agent, warm)
    assert agent.wait("command=ADD").startswith("<6>network=net1 ")


def test_requests_are_served_at_the_same_time(own: Agent, warm: Path, tmp_path: Path) -> None:
    """What they find in their environment is their own."""
    stdin = tmp_path / "stdin"
    stdin.write_bytes(GOOD)
    callers = []
    for number in range(40):
        address = f"IP=10.1.9.{number}/24"
        variables = cni.environment("ADD", container=f"c{number}", CNI_ARGS=address, **own.variables())
        with stdin.open("rb") as text:
            program = [warm / "static"]
            made = subprocess.Popen(program, stdin=text, stdout=subprocess.PIPE, env=variables)
        callers.append(made)
    for number, caller in enumerate(callers):
        out, _ = caller.communicate(timeout=20)
        assert {"address": f"10.1.9.{number}/24"} in json.loads(out)["ips"]
    assert own.has_served(40)


def test_a_worker_that_has_served_enough_is_replaced(start: Start, warm: Path) -> None:
    agent = start(recycle_after=5)
    agent.wait()
    assert [ask(agent, warm) for _ in range(40)] == [0] * 40
    page = agent.page()
    assert page["served"] == 40
    assert sum(worker["recycled"] for worker in page["workers"]) >= 3


def test_a_killed_worker_is_replaced(own: Agent, warm: Path) -> None:
    pids = {worker["pid"] for worker in own.page()["workers"]}
    time.sleep(1)  # one that lived for less is not replaced at once
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    own.wait("SIGKILL", 2)
    assert ask(own, warm) == 0
    assert not pids & {worker["pid"] for worker in own.page()["workers"]}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_the_socket_is_gone(start: Start, number: signal.Signals) -> None:
    agent = start()
    agent.wait()
    assert agent.stop(number) == 0
    assert not agent.socket.exists()
    with pytest.raises(status.NoAgent):
        agent.page()


def test_a_hangup_makes_it_anew_with_the_same_socket(own: Agent, warm: Path) -> None:
    before = own.page()
    inode = own.socket.stat().st_ino
    own.process.send_signal(signal.SIGHUP)
    own.wait("workers at", 2)
    assert ask(own, warm) == 0
    after = own.page()
    assert (after["pid"], after["served"]) == (before["pid"], 1)
    assert own.socket.stat().st_ino == inode


def test_after_a_hangup_it_still_takes_its_socket_away(own: Agent) -> None:
    own.process.send_signal(signal.SIGHUP)
    own.wait("workers at", 2)
    assert own.stop() == 0
    assert not own.socket.exists()


def test_a_second_agent_does_not_start(own: Agent, warm: Path, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    second = Agent(tmp_path / "second", socket=str(own.socket))
    assert second.process.wait(20) == 1
    assert second.journal() == [f"agent: another agent listens at {own.socket}"]
    assert ask(own, warm) == 0


_HAND_OVER = """
import os, socket, sys
kind, *command = sys.argv[1:]
os.closerange(3, 10)
if kind == "file":
    made = os.open("/dev/null", os.O_RDONLY)
elif kind == "pipe":
    made, other = os.pipe()
elif kind != "none":
    name, _, path = kind.partition(":")
    one = socket.socket(socket.AF_INET if name == "tcp" else socket.AF_UNIX,
                        socket.SOCK_SEQPACKET if name.startswith("seq") else socket.SOCK_STREAM)
    one.bind(("127.0.0.1", 0) if name == "tcp" else path)
    if name != "seqdeaf":
        one.listen()
    made = one.detach()
if kind != "none":
    assert made == 3
    os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(command[0], command)
"""


def _handing(kind: str) -> list[str]:
    return [sys.executable, "-S", "-c", _HAND_OVER, kind]


def test_a_socket_handed_over_is_served_and_left(start: Start, warm: Path, tmp_path: Path) -> None:
    path = tmp_path / "run" / "agent.sock"
    path.parent.mkdir()
    agent = start(inside=_handing(f"seq:{path}"))
    agent.wait()
    assert ask(agent, warm) == 0
    assert agent.stop() == 0
    assert path.exists()


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("none", "agent: LISTEN_FDS is set, but descriptor 3 is not a socket: "),
        ("file", "agent: LISTEN_FDS is set, but descriptor 3 is not a socket: "),
        ("pipe", "agent: LISTEN_FDS is set, but descriptor 3 is not a socket: "),
        ("stream", "agent: the socket handed over is not one of ListenSequentialPacket="),
        ("tcp", "agent: the socket handed over is not one of ListenSequentialPacket="),
        ("seqdeaf", "agent: the socket handed over is not one of ListenSequentialPacket="),
    ],
)
def test_a_wrong_descriptor_handed_over_is_refused(
    start: Start, tmp_path: Path, kind: str, said: str
) -> None:
    agent = start(inside=_handing(f"{kind}:{tmp_path / 's'}" if kind in ("stream", "seqdeaf") else kind))
    assert agent.process.wait(20) == 1
    (line,) = agent.journal()
    assert line.startswith(said)


def test_a_socket_made_despite_variables_of_another_process_is_taken_away(start: Start) -> None:
    agent = start(environment={"LISTEN_FDS": "1", "LISTEN_PID": "1"})
    agent.wait()
    assert agent.stop() == 0
    assert not agent.socket.exists()


def test_a_supervisor_hears_when_it_is_ready(start: Start, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as hears:
        hears.bind(str(tmp_path / "notify"))
        hears.settimeout(20)
        agent = start(environment={"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "2000000"})
        assert hears.recv(100) == b"READY=1\nSTATUS=2 workers"
        assert hears.recv(100) == b"WATCHDOG=1"
        agent.stop()
        heard = [hears.recv(100)]
        while heard[-1] == b"WATCHDOG=1":
            heard.append(hears.recv(100))
        assert heard[-1] == b"STOPPING=1"


def test_no_worker_holds_the_library_of_the_exporter() -> None:
    program = "import sys, cni_plugins.agent.serve; print('prometheus_client' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "False\n"
