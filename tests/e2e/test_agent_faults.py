"""What befalls the agent, its callers and the socket between them: a call is answered, or says why not."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.lab.agent import HEAD, NO_AGENT, SOCKET, Agent, Gate, answer, running, sealed, send, wait_for
from tests.e2e.lab.host import Host
from tests.e2e.lab.network import BRIDGE
from tests.e2e.lab.plugin import BIN, Answer, Call, finish, run, start
from tests.e2e.lab.state import State, assert_unchanged, leases, observe

pytestmark = [pytest.mark.needs("ip", "nft", "setpriv", "nsenter", "unshare"), pytest.mark.timeout(60)]

DUAL = BRIDGE | {
    "macspoofchk": True,
    "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.84.0.0/24"}], [{"subnet": "fd00:84::/64"}]]},
}
ADDRESS = {"cniVersion": "1.1.0", "name": "cnienet", "type": "host-local", "ipam": DUAL["ipam"]}
STATUS = Call("STATUS", ADDRESS)
RESERVE = Call("ADD", ADDRESS, netns="/run/netns/none")
TRY_AGAIN_LATER = 11
PATIENCE = 5  # seconds, as packaging/handoff.c has it
HOSTILE = 8000
HONEST = 2000
PSS_GROWTH = 2048  # KiB


@pytest.fixture
def agent(node: Host) -> Iterator[Agent]:
    with running(node, "--workers", "2") as agent:
        yield agent


@pytest.fixture
def add(node: Host) -> Call:
    """An attachment whose network has been there before; what a network leaves by design is left already."""
    [netns] = node.netns("cnie1")
    add = Call("ADD", DUAL, netns=netns)
    run(node, add.but(variables=NO_AGENT)).ok()
    run(node, add.but(command="DEL", variables=NO_AGENT)).ok()
    return add


@pytest.fixture
def idle(node: Host, add: Call) -> State:
    """The state to come back to."""
    return observe(node)


def is_lost(answer: Answer) -> bool:
    return (answer.code, answer.document["code"]) == (1, TRY_AGAIN_LATER)


# Agent or worker die.


def test_a_dead_agent_is_as_good_as_none(node: Host, add: Call, idle: State) -> None:
    """Killed before a request and after one."""
    with running(node) as agent:
        run(node, add).ok()
        assert agent.served() == 1
        agent.signal_all(signal.SIGKILL)
        agent.process.wait(30)
    assert node.path(SOCKET).exists()
    run(node, add.but(command="DEL")).ok()
    run(node, add).ok()
    run(node, add.but(command="DEL")).ok()
    assert_unchanged(node, idle)


@pytest.mark.parametrize("early", [True, False], ids=["before-the-lease", "after-the-lease"])
@pytest.mark.parametrize("who", ["worker", "agent"])
def test_death_in_the_middle_is_code_11_and_del_leaves_nothing(
    node: Host, add: Call, idle: State, who: str, *, early: bool
) -> None:
    gate = Gate(node, early=early)
    with running(node, "--workers", "2") as agent:
        held = start(node, gate.through(add))
        with ThreadPoolExecutor(1) as pool, gate.closed():
            lost = pool.submit(finish, held, gate.through(add))
            gate.wait()
            worker = agent.held_worker()
            if who == "worker":
                os.kill(worker, signal.SIGKILL)
            else:
                agent.signal_all(signal.SIGKILL)
            # Not only when the IPAM plugin, which lives on, lets go of the caller's stderr.
            assert held.wait(10) == 1
            gate.open()
            assert is_lost(lost.result())
        run(node, gate.through(add.but(command="DEL"))).ok()
        assert_unchanged(node, idle)
        if who == "worker":
            wait_for("another worker", lambda: worker not in agent.workers() and agent.process.poll() is None)
            assert f"worker {worker} ended: SIGKILL" in agent.journal()
            assert len(agent.workers()) == 2
        run(node, add).ok()
        run(node, add.but(command="DEL")).ok()
        assert_unchanged(node, idle)


def test_a_worker_outlives_the_parent_for_its_request_only(node: Host, add: Call, idle: State) -> None:
    gate = Gate(node)
    with running(node, "--workers", "2") as agent:
        workers = agent.workers()
        with ThreadPoolExecutor(1) as pool, gate.closed():
            held = pool.submit(run, node, gate.through(add))
            gate.wait()
            agent.process.kill()
            agent.process.wait(30)
            gate.open()
            held.result().ok()
        wait_for("the workers to end", lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
        run(node, gate.through(add.but(command="DEL"))).ok()
        assert_unchanged(node, idle)


def test_an_idle_worker_that_dies_is_replaced(node: Host, agent: Agent) -> None:
    for _ in range(3):
        [first, _] = agent.workers()
        os.kill(first, signal.SIGKILL)
        wait_for("another worker", lambda: first not in agent.workers())  # noqa: B023
        run(node, STATUS).ok()
    assert agent.served() == 3
    assert sum(worker["recycled"] for worker in agent.page()["workers"]) == 3


def test_a_worker_that_hangs_is_killed_and_its_caller_told(node: Host, add: Call, idle: State) -> None:
    gate = Gate(node)
    with running(node, "--workers", "2", "--request-timeout", "1") as agent:
        held = start(node, gate.through(add))
        with ThreadPoolExecutor(1) as pool, gate.closed():
            lost = pool.submit(finish, held, gate.through(add))
            gate.wait()
            worker = agent.held_worker()
            assert held.wait(10) == 1
            gate.open()
            assert is_lost(lost.result())
        assert f"worker {worker} is hung in a request: killing it" in agent.journal()
        run(node, gate.through(add.but(command="DEL"))).ok()
        assert_unchanged(node, idle)
        wait_for("another worker", lambda: worker not in agent.workers())
        run(node, add).ok()
        run(node, add.but(command="DEL")).ok()
    assert_unchanged(node, idle)


def test_what_a_killed_worker_had_started_does_not_run_on(node: Host, add: Call) -> None:
    """Or a hanging IPAM plugin holds the runtime, which reads stderr to its end, as if nobody was killed."""
    gate = Gate(node)
    with running(node, "--workers", "2", "--request-timeout", "1"), gate.closed():
        call = gate.through(add)
        opener = threading.Timer(8, gate.open)
        opener.start()
        begun = time.monotonic()
        assert is_lost(finish(start(node, call), call))
        opener.cancel()
        assert time.monotonic() - begun < 7


# The caller dies.


@pytest.mark.parametrize("deleted", ["netns-lives", "netns-gone", "never"])
@pytest.mark.parametrize("early", [True, False], ids=["before-the-lease", "after-the-lease"])
def test_a_killed_caller_leaves_nothing_though_the_worker_goes_on(
    node: Host, add: Call, idle: State, deleted: str, *, early: bool
) -> None:
    """The runtime's DEL comes before the worker is done, or never."""
    gate = Gate(node, early=early)
    with running(node, "--workers", "2") as agent:
        with gate.closed():
            _begin_and_be_killed(node, gate, add)
            if deleted != "never":
                run(node, gate.through(add.but(command="DEL"))).ok()
            if deleted == "netns-gone":
                node.remove_netns("cnie1")
        wait_for("the worker", lambda: not agent.busy())
        assert_unchanged(node, idle)
        if deleted != "netns-gone":
            assert [link["ifname"] for link in _links(node, "cnie1")] == ["lo"]


def test_an_attachment_made_anew_is_not_taken_back_for_a_dead_caller(
    node: Host, add: Call, idle: State
) -> None:
    """ADD, killed; DEL; ADD again under the same name, while the first is still in its worker."""
    gate = Gate(node)
    with running(node, "--workers", "2") as agent:
        with gate.closed():
            _begin_and_be_killed(node, gate, add)
            run(node, add.but(command="DEL")).ok()
            result = run(node, add).ok().document
        wait_for("the worker", lambda: not agent.busy())
        run(node, add.but(command="CHECK", conf=DUAL | {"prevResult": result})).ok()
        run(node, add.but(command="DEL")).ok()
        assert_unchanged(node, idle)


def test_ipam_plugins_that_hang_hold_no_worker_when_their_callers_are_gone(
    node: Host, add: Call, idle: State
) -> None:
    gate = Gate(node)
    [other] = node.netns("cnie2")
    with running(node, "--workers", "2") as agent:
        with gate.closed():
            for call in (add, add.but(container="cnie-other", netns=other)):
                _begin_and_be_killed(node, gate, call)
            wait_for("the workers", lambda: not agent.busy(), seconds=15)
            run(node, STATUS).ok()
        assert_unchanged(node, idle)
    node.remove_netns("cnie2")


SLOW = """#!/bin/sh
[ "$CNI_COMMAND" = ADD ] && sleep 1
exec /opt/cni/bin/host-local
"""


def test_callers_wait_for_an_agent_that_makes_progress(node: Host, add: Call) -> None:
    """Ten calls of one second each for one worker: none of them starts an interpreter of its own."""
    node.write("/opt/slow/slow", SLOW).chmod(0o755)
    conf = {**DUAL, "ipam": {**DUAL["ipam"], "type": "slow"}}
    names = [f"cniew{number}" for number in range(10)]
    calls = [
        add.but(conf=conf, container=name, netns=netns, variables={"CNI_PATH": f"{BIN}:/opt/slow"})
        for name, netns in zip(names, node.netns(*names), strict=True)
    ]
    with running(node, "--workers", "1") as agent:
        waiting = [_start(node, call) for call in calls]
        assert [one.wait(60) for one in waiting] == [0] * len(calls)
        assert agent.served() == len(calls)
        for call in calls:
            run(node, call.but(command="DEL")).ok()
    node.remove_netns(*names)


def _begin_and_be_killed(node: Host, gate: Gate, add: Call) -> None:
    """A runtime that kills what it called, and reads no more of it."""
    call = gate.through(add)
    with start(node, call) as caller:
        assert caller.stdin
        caller.stdin.write(call.stdin)
        caller.stdin.close()
        gate.wait()
        caller.kill()


def test_a_caller_that_never_says_go_changes_nothing(
    node: Host, agent: Agent, add: Call, idle: State
) -> None:
    environment = node.environment(add.environment)
    for word in (b"", b"X", None):
        with agent.speaker.connect() as caller, agent.speaker.descriptors(add.stdin) as fds:
            send(caller, agent.speaker.message("bridge", environment), fds)
            assert caller.recv(16) == b"T"
            if word:
                caller.send(word)
            if word is None:  # stays, and is silent
                assert caller.recv(16) == b""
    wait_for("the refusals", lambda: agent.refused() == {"left": 2, "message": 1})
    assert agent.served() == 0
    assert_unchanged(node, idle)


# The agent hangs.


@contextmanager
def stopped(agent: Agent, seconds: float = 15) -> Iterator[None]:
    """SIGSTOP; the end comes in any case, as a caller that is held for ever would hold the test too."""
    timer = threading.Timer(seconds, agent.signal_all, [signal.SIGCONT])
    timer.start()
    agent.signal_all(signal.SIGSTOP)
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        agent.signal_all(signal.SIGCONT)


def test_a_hung_agent_costs_five_seconds_and_no_call(
    node: Host, agent: Agent, add: Call, idle: State
) -> None:
    with stopped(agent):
        begun = time.monotonic()
        waiting = [_start(node, call) for call in (STATUS, STATUS, add)]
        assert [one.wait(30) for one in waiting] == [0] * 3
        assert PATIENCE - 0.1 < time.monotonic() - begun < PATIENCE + 5
    # Those who gave up are not served behind their backs.
    wait_for("the refusals", lambda: agent.refused() == {"left": 3})
    assert agent.served() == 0
    run(node, add.but(command="DEL")).ok()
    assert agent.served() == 1
    assert_unchanged(node, idle)


def test_a_hung_agent_does_not_hold_the_stderr_of_who_gave_it_up(node: Host, agent: Agent) -> None:
    """A runtime reads stderr to its end; what lies unread in the agent's socket must not keep it open."""
    with stopped(agent):
        begun = time.monotonic()
        run(node, STATUS).ok()
        assert time.monotonic() - begun < PATIENCE + 5


def test_a_worker_stopped_in_the_middle_goes_on(node: Host, agent: Agent, add: Call) -> None:
    gate = Gate(node)
    with ThreadPoolExecutor(1) as pool, gate.closed():
        held = pool.submit(run, node, gate.through(add))
        gate.wait()
        worker = agent.held_worker()
        os.kill(worker, signal.SIGSTOP)
        gate.open()
        time.sleep(0.3)
        assert not held.done()
        os.kill(worker, signal.SIGCONT)
        held.result().ok()


def test_callers_slow_with_stdin_are_served_and_keep_nobody_waiting(node: Host, agent: Agent) -> None:
    """More of them than there are workers."""
    slow = [start(node, RESERVE.but(container=f"slow{n}")) for n in range(3)]
    time.sleep(0.3)
    begun = time.monotonic()
    run(node, STATUS).ok()
    waited = time.monotonic() - begun
    time.sleep(max(0, 3 - waited))  # longer than a worker waits for a message
    for process in slow:
        finish(process, RESERVE).ok()
    assert len(leases(node)) == 6
    assert waited < 1


# Another program behind the socket, or none.

Script = Callable[[socket.socket], None]


@contextmanager
def impostor(path: Path, script: Script, *, backlog: int = 16) -> Iterator[None]:
    """A program that listens at PATH and does to each caller what SCRIPT says."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen(backlog)
        listener.settimeout(0.1)
        ended = threading.Event()

        def serve() -> None:
            while not ended.is_set():
                with suppress(OSError):
                    caller, _ = listener.accept()
                    with caller:
                        caller.settimeout(20)
                        script(caller)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(30)
            path.unlink()


def _hang_up(_caller: socket.socket) -> None:
    pass


def _reads_and_hangs_up(caller: socket.socket) -> None:
    caller.recv(1 << 16)


def _is_silent(caller: socket.socket) -> None:
    caller.recv(1 << 16)
    caller.recv(1)


def _talks_nonsense(caller: socket.socket) -> None:
    caller.send(b"HTTP/1.0 400 Bad Request\r\n")
    caller.recv(1 << 16)


def _takes_and_hangs_up_at_once(caller: socket.socket) -> None:
    caller.recv(1 << 16)
    caller.shutdown(socket.SHUT_RD)
    caller.send(b"T")


def _after_go(*packets: bytes) -> Script:
    def script(caller: socket.socket) -> None:
        caller.recv(1 << 16)
        caller.send(b"T")
        assert caller.recv(16) == b"G"
        for packet in packets:
            caller.send(packet)

    return script


@pytest.mark.parametrize(
    "script", [_hang_up, _reads_and_hangs_up, _is_silent, _talks_nonsense, _takes_and_hangs_up_at_once]
)
def test_a_program_that_takes_no_call_is_left_alone(node: Host, script: Script) -> None:
    node.path(SOCKET).parent.mkdir(mode=0o700)
    with impostor(node.path(SOCKET), script):
        run(node, RESERVE).ok()
    assert leases(node) == ["cnienet/10.84.0.2", "cnienet/fd00:84::2"]


@pytest.mark.parametrize(
    "packets",
    [
        (),
        (b"?",),
        (HEAD.pack(0, 1 << 31, 0),),
        (HEAD.pack(0, 0, 0xFFFFFFFF),),
        (HEAD.pack(0, 100, 0), b"{}"),
    ],
    ids=["nothing", "no-answer", "huge-stdout", "huge-stderr", "broken-off"],
)
def test_a_program_that_takes_a_call_and_does_not_answer_is_code_11(
    node: Host, packets: tuple[bytes, ...]
) -> None:
    node.path(SOCKET).parent.mkdir(mode=0o700)
    with impostor(node.path(SOCKET), _after_go(*packets)):
        lost = run(node, RESERVE)
    assert is_lost(lost)
    assert lost.err == b""
    assert leases(node) == []


def test_a_full_backlog_costs_five_seconds_and_no_call(node: Host) -> None:
    node.path(SOCKET).parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener, ExitStack() as stack:
        listener.bind(str(node.path(SOCKET)))
        listener.listen(0)
        for _ in range(64):
            one = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            one.setblocking(False)
            if one.connect_ex(str(node.path(SOCKET))) == errno.EAGAIN:
                break
        begun = time.monotonic()
        run(node, RESERVE).ok()
        assert time.monotonic() - begun > PATIENCE - 0.1


@pytest.mark.parametrize("kind", ["stream", "datagram", "file", "directory", "dangling link", "loop", "fifo"])
def test_whatever_is_at_the_path_the_call_is_answered(node: Host, kind: str) -> None:
    path = node.path(SOCKET)
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX, _kind(kind)) as other:
        match kind:
            case "stream":
                other.bind(str(path))
                other.listen(1)
            case "datagram":
                other.bind(str(path))
            case "file":
                path.touch()
            case "directory":
                path.mkdir()
            case "dangling link":
                path.symlink_to("nowhere")
            case "loop":
                path.symlink_to(path.name)
            case "fifo":
                os.mkfifo(path)
        run(node, RESERVE).ok()


def _kind(kind: str) -> int:
    return socket.SOCK_DGRAM if kind == "datagram" else socket.SOCK_STREAM


@pytest.mark.parametrize("path", ["/run/" + "x" * 200, "relative.sock", "/run/none/agent.sock"])
def test_a_path_without_an_agent_is_no_error(node: Host, path: str) -> None:
    run(node, RESERVE.but(variables={"CNI_PLUGINS_AGENT": path})).ok()


def test_a_socket_of_another_user_is_not_spoken_to(node: Host) -> None:
    """Not one byte: the environment of a call is nobody's business."""
    path = node.path("/run/theirs")
    heard: list[bytes] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        os.seteuid(12345)  # SO_PEERCRED of who listens is that of when it began to
        try:
            listener.listen(16)
        finally:
            os.seteuid(0)

        def hear() -> None:
            caller, _ = listener.accept()
            with caller:
                heard.append(caller.recv(1 << 16))

        thread = threading.Thread(target=hear)
        thread.start()
        run(node, RESERVE.but(variables={"CNI_PLUGINS_AGENT": "/run/theirs"})).ok()
        thread.join(10)
    assert heard == [b""]


def test_a_caller_of_another_user_is_refused(node: Host, agent: Agent) -> None:
    """Even if somebody has opened socket and directory to all."""
    node.path(SOCKET).parent.chmod(0o755)
    node.path(SOCKET).chmod(0o666)
    environment = node.environment(STATUS.environment)
    with agent.speaker.descriptors(STATUS.stdin) as fds:
        message = agent.speaker.message("host-local", environment)
        for data in (message, b"cni-status 1\0"):
            caller = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with caller:
                caller.settimeout(10)
                directory = os.open(node.path(SOCKET).parent, os.O_PATH)
                os.seteuid(12345)
                try:
                    caller.connect(f"/proc/self/fd/{directory}/{Path(SOCKET).name}")
                finally:
                    os.seteuid(0)
                    os.close(directory)
                with suppress(OSError):
                    send(caller, data, fds)
                assert _hung_up(caller)
    wait_for("the refusals", lambda: agent.refused() == {"user": 2})
    assert agent.served() == 0


def _hung_up(caller: socket.socket) -> bool:
    try:
        return caller.recv(16) == b""
    except ConnectionResetError:
        return True


# A caller elsewhere.


@pytest.mark.parametrize(
    "elsewhere",
    [
        ("unshare", "--net"),
        ("unshare", "--mount"),
        ("ip", "netns", "exec", "cnie1"),
        ("unshare", "--user", "--map-root-user"),
    ],
    ids=["netns", "mount", "ip-netns-exec", "user"],
)
def test_a_caller_that_stands_elsewhere_goes_cold(
    node: Host, agent: Agent, elsewhere: tuple[str, ...]
) -> None:
    node.netns("cnie1")
    done = node.run(*elsewhere, f"{BIN}/host-local", env=STATUS.environment, input=STATUS.stdin.decode())
    assert (done.stdout, done.stderr) == ("", "")
    wait_for("the refusal", lambda: agent.refused() == {"place": 1})
    assert agent.served() == 0


def test_a_caller_in_another_network_is_served_there(node: Host, agent: Agent) -> None:
    """What it makes is where it stands: a bridge in that network namespace, none in the agent's."""
    node.netns("cnie1", "cnie2")
    conf = DUAL | {"ipMasq": False, "macspoofchk": False}
    call = Call("ADD", conf, netns="/run/netns/cnie2")
    node.run(
        "nsenter", "--net=/run/netns/cnie1", f"{BIN}/bridge", env=call.environment, input=call.stdin.decode()
    )
    assert "cniebr0" in {link["ifname"] for link in _links(node, "cnie1")}
    assert "cniebr0" not in node.run("ip", "link").stdout
    assert (agent.served(), agent.refused()) == (0, {"place": 1})


def test_a_caller_under_another_root_goes_cold(node: Host, agent: Agent) -> None:
    tops = "bin dev etc lib lib64 opt proc run/netns sys usr var"
    script = f"""
        mkdir /run/root
        for top in {tops} run/cni-plugins; do
            [ -e /$top ] || continue
            mkdir -p /run/root/$top
            mount --rbind /$top /run/root/$top
        done
        exec chroot /run/root """
    done = node.run(
        *("sh", "-ec", f"{script}{BIN}/host-local"), env=STATUS.environment, input=STATUS.stdin.decode()
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert (agent.served(), agent.refused()) == (0, {"place": 1})


@pytest.mark.parametrize(
    "path",
    ["/proc/self/fd/9", "/proc/thread-self/fd/9", "/dev/fd/9", "//proc/self/fd/9", "/proc/./self/fd/9"],
)
def test_a_netns_named_by_a_descriptor_of_the_caller_is_found(node: Host, agent: Agent, path: str) -> None:
    node.netns("cnie1")
    call = Call("ADD", DUAL | {"ipMasq": False, "macspoofchk": False}, netns=path)
    done = node.run(
        *("sh", "-c", f"exec {BIN}/bridge 9</run/netns/cnie1"),
        env=call.environment,
        input=call.stdin.decode(),
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert {link["ifname"] for link in _links(node, "cnie1")} == {"lo", "eth0"}


# The caller's own descriptors and environment.


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_descriptor_is_answered_as_without_an_agent(node: Host, agent: Agent, closed: str) -> None:
    answers = []
    for variables in (NO_AGENT, {}):
        call = RESERVE.but(container=f"c{len(answers)}", variables=variables)
        command = ("sh", "-c", f'exec "$0" {closed}', f"{BIN}/host-local")
        done = node.run(*command, env=call.environment, input=call.stdin.decode(), check=False)
        answers.append((done.returncode, done.stdout.count("address"), done.stderr))
    assert answers[0] == answers[1]
    assert agent.served() == 0


def test_a_full_pipe_holds_the_caller_and_not_the_worker(node: Host) -> None:
    with running(node, "--workers", "1") as agent:
        readable, writable = os.pipe()
        fcntl.fcntl(writable, fcntl.F_SETPIPE_SZ, 4096)
        os.write(writable, b"x" * 4096)
        stuck = _start(node, RESERVE, stdout=writable)
        wait_for("the answer", lambda: agent.served() == 1)
        run(node, STATUS).ok()
        assert stuck.poll() is None
        os.close(writable)
        with os.fdopen(readable, "rb") as reader:
            text = reader.read()
        assert json.loads(text[4096:])["ips"]
        assert stuck.wait(10) == 0


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_pipe_that_nobody_reads_ends_as_without_an_agent(node: Host, agent: Agent, stream: str) -> None:
    codes = []
    for variables in (NO_AGENT, {}):
        readable, writable = os.pipe()
        os.close(readable)
        with os.fdopen(writable, "wb") as pipe:
            call = RESERVE.but(container=f"c{len(codes)}", variables=variables)
            codes.append(_start(node, call, **{stream: pipe}).wait(10))
    assert codes[0] == codes[1] == (1 if stream == "stdout" else 0)
    assert agent.served() == 1


def test_an_answer_larger_than_any_socket_buffer_arrives_whole(node: Host, agent: Agent) -> None:
    """An error document quotes what is wrong; a result can have thousands of addresses."""
    addresses = [{"address": f"10.{n >> 8}.{n & 255}.1/32"} for n in range(5000)]
    conf = {"cniVersion": "1.1.0", "name": "cnienet", "type": "static"}
    call = Call("ADD", conf | {"ipam": {"type": "static", "addresses": addresses}}, netns="/run/netns/none")
    assert len(call.stdin) < 1 << 20
    cold = run(node, call.but(variables=NO_AGENT))
    warm = run(node, call)
    assert agent.served() == 1
    assert len(cold.ok().out) > 1 << 18  # more than net.core.wmem_default
    assert warm == cold


def _start(node: Host, call: Call, **streams: Any) -> subprocess.Popen[bytes]:
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **streams}
    with os.fdopen(sealed(call.stdin), "rb") as stdin:
        os.lseek(stdin.fileno(), 0, os.SEEK_SET)
        return subprocess.Popen(
            node.argv(call.program), stdin=stdin, env=node.environment(call.environment), **pipes
        )


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (STATUS.but(variables={"LARGE": "x" * (1 << 16)}), 0),
        (STATUS.but(conf=json.dumps(ADDRESS).encode() + b" " * (1 << 20), plugin="host-local"), 1),
    ],
    ids=["environment", "stdin"],
)
def test_what_is_too_large_for_a_message_is_answered_as_without_an_agent(
    node: Host, agent: Agent, call: Call, code: int
) -> None:
    cold = run(node, call.but(variables={**call.variables, **NO_AGENT}))
    assert cold.code == code
    assert run(node, call) == cold


ODD = (
    (b"CNI_IFNAME=eth1",),
    (b"=x",),
    (b"no equals sign",),
    (b"\xff\xfe=\xff",),
    (b"EMPTY=",),
)


@pytest.mark.parametrize("odd", ODD, ids=["twice", "no-name", "no-equals", "no-utf8", "empty"])
def test_an_odd_environment_is_understood_as_without_an_agent(
    node: Host, agent: Agent, odd: tuple[bytes, ...]
) -> None:
    """execve(2) takes any texts; which of two of a name counts, the C library decides: the first."""
    call = RESERVE.but(plugin="bridge", conf=DUAL | {"ipMasq": False, "macspoofchk": False})
    answers = []
    for number, word in enumerate((b"CNI_PLUGINS_AGENT=", b"OTHER=")):
        [netns] = node.netns(f"cnie{number}")
        variables = {**call.environment, "CNI_NETNS": netns, "PATH": "/usr/bin:/bin"}
        del variables["CNI_IFNAME"]
        usual = [f"{key}={value}".encode() for key, value in variables.items()]
        texts = [*usual, word, b"CNI_IFNAME=eth0", *odd]
        code, out = _exec(node, f"{BIN}/bridge", texts, call.stdin)
        names = sorted(link["ifname"] for link in _links(node, f"cnie{number}"))
        document = json.loads(out)
        answers.append((code, document.get("code"), document.get("msg"), names))
        run(node, call.but(command="DEL", netns=netns, variables=NO_AGENT)).ok()
    assert answers[0] == answers[1]
    assert agent.served() + sum(agent.refused().values()) == 1


EXEC = """
import ctypes, os, sys
texts = os.fsencode(sys.argv[2]).split(b"\\n")
kind = ctypes.c_char_p * (len(texts) + 1)
own = (ctypes.c_char_p * 2)(os.fsencode(sys.argv[1]), None)
ctypes.CDLL(None).execve(own[0], own, kind(*texts, None))
"""


def _exec(node: Host, program: str, texts: list[bytes], stdin: bytes) -> tuple[int, bytes]:
    """Run a program with exactly these texts for its environment."""
    done = subprocess.run(
        node.argv(sys.executable, "-c", EXEC, program, os.fsdecode(b"\n".join(texts))),
        env=node.environment(),
        input=stdin,
        capture_output=True,
        timeout=30,
    )
    return done.returncode, done.stdout


# Hostile messages.


class Fuzz:
    """Messages that no caller of ours sends; which ones, a number says."""

    def __init__(self, agent: Agent, call: Call) -> None:
        self.speaker = agent.speaker
        self.good = self.speaker.message("host-local", agent.host.environment(call.environment))
        self.stack = ExitStack()
        fds = self.stack.enter_context(self.speaker.descriptors(call.stdin))
        self.fds = fds
        unsealed = os.memfd_create("unsealed")
        readable, writable = os.pipe()
        unix = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        large = sealed(b" " * ((1 << 20) + 2))
        self.wrong = [unsealed, readable, writable, unix.fileno(), large, fds[1], fds[2]]
        for fd in (unsealed, readable, writable, large):
            self.stack.callback(os.close, fd)
        self.stack.callback(unix.close)

    def play(self, number: int) -> None:
        """One connection of a hostile root."""
        chance = random.Random(number)
        with self.speaker.connect() as caller, suppress(BrokenPipeError, ConnectionResetError):
            [
                self._truncated,
                self._changed,
                self._noise,
                self._missing_descriptors,
                self._wrong_descriptors,
                self._many_descriptors,
                self._oversized,
                self._nothing,
                self._status_with_descriptors,
                self._no_go,
            ][number % 10](caller, chance)

    def _truncated(self, caller: socket.socket, chance: random.Random) -> None:
        send(caller, self.good[: chance.randrange(1, len(self.good) - 1)], self.fds)

    def _changed(self, caller: socket.socket, chance: random.Random) -> None:
        data = bytearray(self.good)
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(120)] = chance.randrange(256)
        send(caller, bytes(data), self.fds)

    def _noise(self, caller: socket.socket, chance: random.Random) -> None:
        send(caller, chance.randbytes(chance.randrange(1, 3000)), self.fds[: chance.randrange(5)])

    def _missing_descriptors(self, caller: socket.socket, chance: random.Random) -> None:
        send(caller, self.good, self.fds[: chance.randrange(4)])

    def _wrong_descriptors(self, caller: socket.socket, chance: random.Random) -> None:
        fds = [*self.fds]
        fds[chance.randrange(3)] = chance.choice(self.wrong[:5])
        send(caller, self.good, fds)

    def _many_descriptors(self, caller: socket.socket, chance: random.Random) -> None:
        send(caller, self.good, [self.fds[0]] * chance.choice([5, 15, 16, 17, 18, 19, 64, 253]))

    def _oversized(self, caller: socket.socket, chance: random.Random) -> None:
        send(caller, self.good + b"x=y\0" * chance.choice([16380, 16500, 30000]), self.fds)

    def _nothing(self, caller: socket.socket, chance: random.Random) -> None:
        if chance.random() < 0.5:
            caller.send(b"")

    def _status_with_descriptors(self, caller: socket.socket, chance: random.Random) -> None:
        send(caller, b"cni-status 1" + chance.randbytes(3), self.fds * chance.randrange(1, 5))
        if chance.random() < 0.5:
            answer(caller)

    def _no_go(self, caller: socket.socket, chance: random.Random) -> None:
        send(caller, self.good, self.fds)
        if chance.random() < 0.5:
            caller.recv(1)
            send(caller, chance.choice([b"T", b"\0", b"GG"[1:] + b"!"]), self.fds)


def test_ten_thousand_requests_most_of_them_hostile_leave_the_agent_as_it_was(
    node: Host, agent: Agent
) -> None:
    fuzz = Fuzz(agent, RESERVE)
    honest = [STATUS, RESERVE.but(netns=""), Call("ADD", b"{", plugin="bridge"), STATUS.but(command="DEL")]

    def speak(caller: int, count: int) -> None:
        for number in range(count):
            if number % 5 == 4:
                agent.speaker.call(honest[number // 5 % 4].but(plugin="host-local"))
            else:
                fuzz.play(caller * 1_000_000 + number)

    with fuzz.stack:
        looks = []
        for count in (600, 2000, 7400):
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(speak, range(2), [count // 2] * 2))
            looks.append(agent.look())
    early, middle, late = looks
    # The same processes: none has died or was replaced.
    assert early.descriptors == middle.descriptors == late.descriptors
    assert early.threads == late.threads
    assert late.pss - middle.pss < PSS_GROWTH
    page = agent.page()
    assert page["served"] == HONEST
    assert HOSTILE * 0.9 < sum(page["refused"].values()) <= HOSTILE
    assert sum(worker["recycled"] for worker in page["workers"]) == 0
    assert leases(node) == []
    assert "Traceback" not in agent.journal()
    run(node, STATUS).ok()
    assert agent.served() == HONEST + 1


def test_a_journal_that_nobody_reads_costs_lines_and_not_time(node: Host) -> None:
    """Long values in it, which are longer still as JSON: more than a pipe takes at once."""
    readable, writable = os.pipe()
    fcntl.fcntl(writable, fcntl.F_SETPIPE_SZ, 8192)
    wide = "\U0001f600" * 200
    call = Call("ADD", DUAL, container=wide, ifname=wide, netns=f"/run/netns/{wide}")
    with running(node, "--workers", "1", output=writable) as agent:
        os.close(writable)
        for _ in range(10):
            assert run(node, call).code == 1
        assert agent.served() == 10
        assert agent.stop() == 0
    os.close(readable)


def _links(node: Host, netns: str) -> list[dict[str, Any]]:
    links = json.loads(node.run("ip", "-n", netns, "-j", "link").stdout)
    assert isinstance(links, list)
    return links
