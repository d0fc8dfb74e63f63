"""When a call is not for the agent, the executable goes on as if it had never asked, with all of stdin."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.protocol.request import STDIN_LIMIT
from tests import cni
from tests.integration.agent.rig import COLD, Agent, Answer, call

STDIN = os.urandom(200_000)
STATUS = {"cniVersion": "1.1.0", "name": "n", "ipam": {"type": "static", "addresses": []}}


def assert_cold(answer: Answer, stdin: bytes = STDIN) -> None:
    assert answer == (COLD, b"COLD\n" + stdin, b"")


def refusals(agent: Agent) -> dict[str, int]:
    return {reason: count for reason, count in agent.page()["refused"].items() if count}


def assert_refused(agent: Agent, reason: str, program: Path, stdin: bytes = STDIN, **more: Any) -> None:
    before = agent.page()
    assert_cold(call(program, "ADD", stdin, **agent.variables(), **more), stdin)
    after = agent.page()
    assert after["refused"] == {**before["refused"], reason: before["refused"][reason] + 1}
    assert after["served"] == before["served"]


def test_a_call_for_the_agent_is_served_by_it(agent: Agent, warm: Path) -> None:
    answer = call(warm / "static", "STATUS", json.dumps(STATUS).encode(), **agent.variables())
    assert answer == (0, b"", b"")


@pytest.mark.parametrize("variable", ["", "/nowhere", "relative", "/" + "x" * 200, "/etc/passwd", "/"])
def test_no_agent_there(warm: Path, variable: str) -> None:
    assert_cold(call(warm / "bridge", "ADD", STDIN, environment={"CNI_PLUGINS_AGENT": variable}))


def test_nobody_listens_any_more(warm: Path, tmp_path: Path) -> None:
    path = tmp_path / "stale"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as gone:
        gone.bind(str(path))
        gone.listen()
    assert_cold(call(warm / "bridge", "ADD", STDIN, CNI_PLUGINS_AGENT=str(path)))


@contextmanager
def listening(
    path: Path, body: Callable[[socket.socket], None], kind: socket.SocketKind = socket.SOCK_SEQPACKET
) -> Iterator[dict[str, str]]:
    """Serve one caller with somebody else's program."""
    with socket.socket(socket.AF_UNIX, kind) as server:
        server.bind(str(path))
        server.listen()
        server.settimeout(20)

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                body(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield {"CNI_PLUGINS_AGENT": str(path)}
        thread.join()


def _packets(*packets: bytes) -> Callable[[socket.socket], None]:
    def send(connection: socket.socket) -> None:
        connection.recv(1 << 17)
        for packet in packets:
            connection.send(packet)

    return send


def _silent(connection: socket.socket) -> None:
    while connection.recv(1 << 17):
        pass


def _deaf(connection: socket.socket) -> None:
    assert connection


@pytest.mark.parametrize(
    "body", [_deaf, _packets(), _packets(b"garbage"), _packets(b"t"), _packets(b"\0" * 1000)]
)
def test_a_wrong_program(warm: Path, tmp_path: Path, body: Callable[[socket.socket], None]) -> None:
    with listening(tmp_path / "s", body) as variables:
        assert_cold(call(warm / "bridge", "ADD", STDIN, **variables))


def test_a_wrong_program_that_never_answers(warm: Path, tmp_path: Path) -> None:
    begun = time.monotonic()
    with listening(tmp_path / "s", _silent) as variables:
        assert_cold(call(warm / "bridge", "ADD", STDIN, **variables))
    assert 4 < time.monotonic() - begun < 8


def test_a_wrong_program_with_a_stream(warm: Path, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen()
        assert_cold(call(warm / "bridge", "ADD", STDIN, CNI_PLUGINS_AGENT=str(path)))


@pytest.mark.parametrize("packets", [[], [b"garbage"], [b"\xff" * 12], [b"\0\0\0\0\5\0\0\0\0\0\0\0", b"{}"]])
def test_after_the_go_there_is_an_error_and_no_second_road(
    warm: Path, tmp_path: Path, packets: Sequence[bytes]
) -> None:
    def body(connection: socket.socket) -> None:
        connection.recv(1 << 17)
        connection.send(b"T")
        assert connection.recv(10) == b"G"
        for packet in packets:
            connection.send(packet)

    with listening(tmp_path / "s", body) as variables:
        answer = call(warm / "bridge", "ADD", STDIN, **variables)
    assert answer.code == 1
    assert json.loads(answer.out)["code"] == 11


_NOBODY = """
import os, socket, sys
server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
server.bind(sys.argv[1])
try:
    os.setuid(65534)
except OSError:
    sys.exit(print("no"))
server.listen()
print("yes", flush=True)
connection = server.accept()[0]
print(len(connection.recv(1 << 17)), flush=True)
"""


def test_a_socket_that_another_user_listens_on(warm: Path, tmp_path: Path) -> None:
    path = tmp_path / "s"
    command = [sys.executable, "-S", "-c", _NOBODY, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as nobody:
        assert nobody.stdout
        if nobody.stdout.readline() != "yes\n":
            pytest.skip("there is one user in this user namespace")
        assert_cold(call(warm / "bridge", "ADD", STDIN, CNI_PLUGINS_AGENT=str(path)))
        assert nobody.stdout.readline() == "0\n"  # it was told nothing


def test_another_build(start: Callable[..., Agent], warm: Path) -> None:
    agent = start(build="1" * 16)
    agent.wait()
    assert_refused(agent, "build", warm / "bridge")


@pytest.mark.parametrize("namespace", ["--net", "--mount", "--map-root-user"])
def test_another_namespace(agent: Agent, warm: Path, namespace: str) -> None:
    assert_refused(agent, "place", warm / "bridge", inside=["unshare", namespace])


_CLAIM = """
import os, socket, sys
path, build, *files = sys.argv[1:]
places = " ".join(f"{item.st_dev}:{item.st_ino}" for item in map(os.stat, files))
stdin = os.memfd_create("stdin", os.MFD_ALLOW_SEALING)
import fcntl; fcntl.fcntl(stdin, 1033, 15)
texts = ["cni-handoff 1", "@build-id:" + build, places, "22", "bridge", "CNI_COMMAND=STATUS"]
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as made:
    made.connect(path)
    fds = [stdin, os.open("/proc/self/exe", os.O_PATH), os.open(".", os.O_PATH)]
    socket.send_fds(made, ["".join(text + chr(0) for text in texts).encode()], fds)
    print(made.recv(9).decode())
"""


@pytest.mark.parametrize("namespace", [[], ["--net"], ["--mount"]])
def test_namespaces_that_the_caller_only_claims(agent: Agent, namespace: list[str]) -> None:
    """It sends those of the agent, as a container could that was given the socket."""
    pid = agent.process.pid
    files = [f"/proc/{pid}/ns/{kind}" for kind in ("net", "mnt", "user")] + [f"/proc/{pid}/root"]
    inside = ["unshare", *namespace] if namespace else []
    claim = [
        sys.executable,
        "-S",
        "-c",
        _CLAIM,
        agent.variables()["CNI_PLUGINS_AGENT"],
        agent.page()["build"],
        *files,
    ]
    before = agent.page()["refused"]["place"]
    answer = subprocess.run([*inside, *claim], capture_output=True, text=True, check=True).stdout
    assert answer == ("\n" if namespace else "T\n")
    assert agent.page()["refused"]["place"] == before + bool(namespace)


_SECOND_ROOT = """
for each in /*; do
    if [ -L "$each" ]; then cp -P "$each" "$0/"
    elif [ -d "$each" ]; then mkdir "$0$each" && mount --rbind "$each" "$0$each"
    fi
done
exec "$@"
"""


def test_another_root_directory(start: Callable[..., Agent], warm: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    agent = start(inside=["unshare", "--mount", "sh", "-c", _SECOND_ROOT, str(root)])
    agent.wait()
    there = ["nsenter", f"--mount=/proc/{agent.process.pid}/ns/mnt"]
    conf = json.dumps(STATUS).encode()
    assert call(warm / "static", "STATUS", conf, inside=there, **agent.variables()).code == 0
    assert_refused(agent, "place", warm / "bridge", inside=[*there, "chroot", str(root)])


@pytest.mark.parametrize("path", ["/proc/self/ns/net", "/proc/thread-self/ns/net", "/proc/self/fd/3"])
def test_a_sandbox_that_only_the_caller_can_name(agent: Agent, warm: Path, path: str) -> None:
    assert_refused(agent, "place", warm / "bridge", CNI_NETNS=path)


def test_a_relative_sandbox(agent: Agent, warm: Path) -> None:
    assert_refused(agent, "place", warm / "bridge", CNI_NETNS="self/ns/net", directory="/proc")


def test_a_large_environment(agent: Agent, warm: Path) -> None:
    large = {f"V{n}": "x" * 10_000 for n in range(7)}
    before = refusals(agent)
    assert_cold(call(warm / "bridge", "ADD", STDIN, environment=large, **agent.variables()))
    assert refusals(agent).keys() - before.keys() <= {"message"}


def test_the_largest_environment_is_served(agent: Agent, warm: Path) -> None:
    large = {f"V{n}": "x" * 10_000 for n in range(6)}
    conf = json.dumps(STATUS).encode()
    assert call(warm / "static", "STATUS", conf, environment=large, **agent.variables()).code == 0


def test_a_large_stdin(agent: Agent, warm: Path) -> None:
    stdin = os.urandom(STDIN_LIMIT + 100_000)
    before = refusals(agent)
    answer = call(warm / "bridge", "ADD", stdin, **agent.variables())
    # As much as the cold road reads, to find that it is too much.
    assert answer.code == COLD
    assert answer.out[5:].startswith(stdin[: STDIN_LIMIT + 1])
    assert refusals(agent) == before  # it was not asked


@pytest.mark.parametrize("closed", ["<&-", "2>&-"])
def test_a_closed_descriptor(agent: Agent, warm: Path, closed: str) -> None:
    answer = call(
        warm / "bridge", "ADD", b"", inside=["sh", "-c", f'exec "$0" {closed}'], **agent.variables()
    )
    assert_cold(answer, b"")


def test_a_stdin_that_cannot_be_read(agent: Agent, warm: Path) -> None:
    answer = call(warm / "bridge", "ADD", b"", inside=["sh", "-c", 'exec "$0" </'], **agent.variables())
    assert_cold(answer, b"")


@pytest.mark.parametrize("command", ["", "VERSION"])
def test_what_is_answered_at_once_is_not_handed_over(agent: Agent, warm: Path, command: str) -> None:
    before = agent.page()["served"]
    assert_cold(call(warm / "bridge", command, STDIN, **agent.variables()))
    assert agent.page()["served"] == before


def test_a_caller_that_waits_for_its_stdin_keeps_no_worker(agent: Agent, warm: Path) -> None:
    environment = cni.environment("ADD", **agent.variables())
    waiting = [
        subprocess.Popen([warm / "bridge"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment)
        for _ in range(2)
    ]
    time.sleep(0.2)
    begun = time.monotonic()
    agent.page()
    spent = time.monotonic() - begun
    for one in waiting:
        one.communicate(b"{}")
    assert spent < 1
