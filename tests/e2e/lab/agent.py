"""
The resident agent in a simulated host: started, looked at, and spoken to without an executable between.

A plain host has the machine's own pids and sockets, so the test reaches the agent's through /proc.
"""

from __future__ import annotations

import array
import fcntl
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.e2e.lab.host import Host
from tests.e2e.lab.plugin import BIN, Answer, Call

SOCKET = "/run/cni-plugins/agent.sock"
PROGRAM = f"{BIN}/cnictl"
NO_AGENT = {"CNI_PLUGINS_AGENT": ""}
SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
HEAD = struct.Struct("=III")
MARK = re.compile(rb"@build-id:([0-9a-f]{16})")
PATIENCE = 30.0


def wait_for(what: str, condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Fail if CONDITION does not come true in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.01)


def build_of(program: Path) -> str:
    """The id that freezing wrote into an executable."""
    with program.open("rb") as file:
        found = MARK.search(file.read(1 << 20))
    assert found, f"{program} bears no build id"
    return found[1].decode()


def rebuild(program: Path, copy: Path, build: str) -> None:
    """Write PROGRAM as it would be with another build id, every occurrence of which has the same length."""
    copy.write_bytes(program.read_bytes().replace(build_of(program).encode(), build.encode()))
    copy.chmod(0o755)


@dataclass(frozen=True)
class Look:
    """What a set of processes holds; `pss` in KiB."""

    descriptors: dict[int, int]
    threads: dict[int, int]
    pss: int


def look(pids: Sequence[int]) -> Look:
    """Count descriptors and threads of each process, and the memory of all."""
    roots = {pid: Path(f"/proc/{pid}") for pid in pids}
    return Look(
        {pid: len(list((root / "fd").iterdir())) for pid, root in roots.items()},
        {pid: len(list((root / "task").iterdir())) for pid, root in roots.items()},
        sum(_pss(root) for root in roots.values()),
    )


def _pss(root: Path) -> int:
    lines = (root / "smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Pss:")).split()[1])


# Connects in the host and passes the connection on: the agent looks at who has connected.
CONNECTOR = """
import socket, sys
control = socket.socket(fileno=int(sys.argv[1]))
while path := control.recv(4096).decode():
    seconds, path = path.split(" ", 1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as made:
        made.settimeout(float(seconds))
        try:
            made.connect(path)
        except OSError as err:
            control.send(str(err.errno or 0).encode())
        else:
            socket.send_fds(control, [b"0"], [made.fileno()])
"""


@dataclass
class Speaker:
    """Speaks as packaging/handoff.c does, or worse."""

    host: Host
    socket: str = SOCKET
    program: str = f"{BIN}/bridge"
    build: str = ""

    def __post_init__(self) -> None:
        self.build = self.build or build_of(self.host.path(self.program))
        self.path = str(self.host.path(self.socket))
        self.control: socket.socket | None = None
        self.connecting = threading.Lock()
        anchor = f"/proc/{self.host.anchor}"
        stats = [os.stat(f"{anchor}/{place}") for place in ("ns/net", "ns/mnt", "ns/user", "root/")]
        self.places = " ".join(f"{item.st_dev}:{item.st_ino}" for item in stats)

    def connect(self, seconds: float = PATIENCE) -> socket.socket:
        """:raises OSError: when nobody listens"""
        with self.connecting:
            self.control = self.control or self._connector()
            self.control.send(f"{seconds} {self.socket}".encode())
            answer, fds, _, _ = socket.recv_fds(self.control, 64, 1)
        if not fds:
            number = int(answer or 0)
            raise OSError(number, os.strerror(number))
        agent = socket.socket(fileno=fds[0])
        agent.settimeout(seconds)
        return agent

    def _connector(self) -> socket.socket:
        """Start the process that connects; it ends with this one, or with the control socket."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = self.host.argv(sys.executable, "-S", "-c", CONNECTOR, str(theirs.fileno()))
        self.connector = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *command],
            env=self.host.environment(),
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        return ours

    def close(self) -> None:
        if self.control is not None:
            self.control.close()
            self.connector.wait(30)

    def message(self, name: str, environment: Mapping[str, str]) -> bytes:
        """A call as our executables compose it."""
        variables = (f"{key}={value}" for key, value in environment.items())
        texts = ("cni-handoff 1", f"@build-id:{self.build}", self.places, "22", name, *variables)
        return b"".join(os.fsencode(text) + b"\0" for text in texts)

    @contextmanager
    def descriptors(self, stdin: bytes) -> Iterator[list[int]]:
        """The three that go with a call."""
        kept = sealed(stdin)
        program = os.open(self.host.path(self.program), os.O_PATH | os.O_CLOEXEC)
        directory = os.open(self.host.path("/"), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield [kept, program, directory]
        finally:
            for fd in (kept, program, directory):
                os.close(fd)

    def call(self, call: Call) -> Answer:
        """One call from begin to end; it must be taken."""
        environment = self.host.environment(call.environment)
        with self.connect(60) as agent, self.descriptors(call.stdin) as fds:
            send(agent, self.message(call.program.rsplit("/", 1)[1], environment), fds)
            assert agent.recv(16) == b"T", call
            send(agent, b"G", [2])
            return answer(agent)

    def page(self) -> dict[str, Any]:
        """What `cnictl agent status --json` shows."""
        with self.connect() as agent:
            agent.send(b"cni-status 1\0")
            found = json.loads(answer(agent).out)
        assert isinstance(found, dict)
        return found


def sealed(content: bytes) -> int:
    """A memfd as callers pass it for stdin."""
    fd = os.memfd_create("stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, content)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    return fd


def send(agent: socket.socket, data: bytes, fds: Sequence[int]) -> None:
    """One message with its descriptors."""
    agent.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else [])


def answer(agent: socket.socket) -> Answer:
    """Read an answer to its end."""
    code, out, err = HEAD.unpack(agent.recv(1 << 16))
    text = b""
    while len(text) < out + err:
        part = agent.recv(1 << 16)
        assert part, "the answer is broken off"
        text += part
    return Answer(code, text[:out], text[out:])


@dataclass
class Agent:
    """An agent that was started; `running` makes one."""

    host: Host
    process: subprocess.Popen[bytes]
    log: Path
    speaker: Speaker
    begun_at: int = 0

    @property
    def pid(self) -> int:
        return self.process.pid

    def page(self) -> dict[str, Any]:
        return self.speaker.page()

    def served(self) -> int:
        return int(self.page()["served"])

    def refused(self) -> dict[str, int]:
        return {reason: count for reason, count in self.page()["refused"].items() if count}

    def workers(self) -> list[int]:
        return [worker["pid"] for worker in self.page()["workers"]]

    def busy(self) -> list[int]:
        """Workers in a request; the one that answers this question is not meant."""
        return [worker["pid"] for worker in self.page()["workers"] if worker["busy"] > 0.1]

    def held_worker(self) -> int:
        """The one that is in a request, when there is one for long enough to be sure."""
        wait_for("a busy worker", self.busy)
        [worker] = self.busy()
        return worker

    def processes(self) -> list[int]:
        return [self.pid, *self.workers()]

    def look(self) -> Look:
        """What its processes hold when none of them is in a request, nor asked about one."""
        wait_for("idle workers", lambda: not self.busy())
        pids = self.processes()
        time.sleep(0.1)
        return look(pids)

    def journal(self) -> str:
        return self.log.read_bytes()[self.begun_at :].decode()

    def is_up(self) -> bool:
        """Whether it answers and every worker has begun; until then a worker has no pid on the page."""
        try:
            page = self.page()
            return page["pid"] == self.pid and all(worker["pid"] for worker in page["workers"])
        except (OSError, struct.error, AssertionError):
            return False

    def is_of(self, build: str) -> bool:
        """Whether it is that build; not while it changes from one to another."""
        try:
            return bool(self.page()["build"] == build)
        except (OSError, struct.error):
            return False

    def wait_until_up(self) -> None:
        wait_for("the agent", lambda: self.process.poll() is not None or self.is_up())
        assert self.process.poll() is None, self.journal()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def signal_all(self, number: int) -> None:
        """To the parent, the workers, and what these have started."""
        for pid in self._family():
            with suppress(ProcessLookupError):
                os.killpg(pid, number)

    def _family(self) -> list[int]:
        """Parent and workers, each the leader of a process group, as the kernel knows them."""
        stats = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                stats.append(path.read_text())
        # pid (name) state ppid …
        children = [text for text in stats if int(text.rpartition(")")[2].split()[1]) == self.pid]
        return [self.pid, *(int(text.split()[0]) for text in children)]

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.signal(signal.SIGTERM)
        return self.process.wait(30)


@contextmanager
def running(host: Host, *options: str, **otherwise: Any) -> Iterator[Agent]:
    """An agent that answers, and whose last process is gone afterwards; the rest as `started` has it."""
    with started(host, *options, **otherwise) as agent:
        agent.wait_until_up()
        yield agent


@contextmanager
def started(
    host: Host,
    *options: str,
    program: str = PROGRAM,
    at: str = SOCKET,
    variables: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
    inherited: Sequence[int] = (),
    output: int | None = None,
) -> Iterator[Agent]:
    """
    An agent of which it is not known whether it will come up.

    `prefix`: a command that becomes the agent; `inherited`: descriptors for it; `output`: where its stderr
    goes, which is /run/agent.log of the host otherwise.
    """
    log = host.path("/run/agent.log")
    with log.open("ab") as file:
        begun_at = file.tell()
        # Whatever becomes of this test run, the kernel ends the parent, and its workers end with it.
        process = subprocess.Popen(
            [
                "setpriv",
                "--pdeathsig",
                "KILL",
                "--",
                *host.argv(*prefix, program, "agent", "--no-keeper", "--socket", at, *options),
            ],
            env=host.environment(variables),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file if output is None else output,
            start_new_session=True,
            pass_fds=inherited,
        )
    speaker = Speaker(host, at, program=program)
    try:
        yield Agent(host, process, log, speaker, begun_at)
    finally:
        speaker.close()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


GATED = """#!/bin/sh
# host-local, whose ADD stops while there is a gate: before it reserves, or after. A minute at most.
stop() {{
    [ "$CNI_COMMAND" = ADD ] && [ -e {place}/gate ] || return 0
    echo "$CNI_CONTAINERID" >>{place}/reached
    left=1200
    while [ -e {place}/gate ] && [ $left -gt 0 ]; do left=$((left - 1)); sleep 0.05; done
}}
{before}
/opt/cni/bin/host-local || exit
{after}
"""


@dataclass
class Gate:
    """
    Holds requests in their middle: an IPAM plugin `gated` that waits while the gate is closed.

    Its leases are those of host-local.
    """

    host: Host
    early: bool = False
    """Whether it has reserved nothing yet when it stops."""
    place: str = "/opt/gate"
    met: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        before, after = ("stop", "") if self.early else ("", "stop")
        text = GATED.format(place=self.place, before=before, after=after)
        self.host.write(f"{self.place}/gated", text).chmod(0o755)

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Closed, and open afterwards however that ends, so that nobody waits for a test that has failed."""
        self.host.write(f"{self.place}/gate", "")
        try:
            yield
        finally:
            self.open()

    def open(self) -> None:
        """Let go whoever waits, and whoever comes."""
        self.host.path(f"{self.place}/gate").unlink(missing_ok=True)

    def wait(self, count: int = 1) -> None:
        """Until so many have come to the gate since the last wait."""
        self.met += count
        wait_for("a request at the gate", lambda: self._reached() >= self.met)

    def through(self, call: Call) -> Call:
        """The call with its addresses from behind the gate."""
        assert isinstance(call.conf, Mapping)
        ipam = {**call.conf["ipam"], "type": "gated"}
        variables = {**call.variables, "CNI_PATH": f"{BIN}:{self.place}"}
        return replace(call, conf={**call.conf, "ipam": ipam}, variables=variables)

    def _reached(self) -> int:
        path = self.host.path(f"{self.place}/reached")
        return len(path.read_text().splitlines()) if path.exists() else 0
