"""
Nodes that are not like the build machine: another C library, an older one, or none.

The reference's static programs run on all of them. Each node is a root file system with processes, mounts and
a network of its own, in which its first process does nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.engine.registry import NAMES
from tests import cni
from tests.cni import Answer
from tests.e2e.lab.agent import wait_for
from tests.e2e.lab.bare import unpack_release
from tests.e2e.lab.processes import running_in
from tests.e2e.lab.tools import program

pytestmark = [
    pytest.mark.needs("unshare", "nsenter", "busybox", "/lib/ld-musl-x86_64.so.1", "debootstrap"),
    pytest.mark.timeout(300),
]

NODES = ("busybox", "musl", "glibc-2.31")
DIRECTORIES = ("bin", "dev", "etc", "lib", "opt/cni/bin", "proc", "run", "sys", "tmp", "var/lib")
BIN = "/opt/cni/bin"
RANGES = [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]]
NETWORK: dict[str, Any] = {
    "cniVersion": "1.0.0",
    "name": "cnienet",
    "type": "bridge",
    "bridge": "cniebr0",
    "isGateway": True,
    "ipam": {"type": "host-local", "ranges": RANGES},
}
KEYS: dict[str, dict[str, Any]] = {
    "macvlan": {"master": "lo"},
    "portmap": {
        "runtimeConfig": {"portMappings": [{"hostPort": 80, "containerPort": 80, "protocol": "udp"}]},
        "prevResult": {"ips": [{"address": "10.1.0.2/24"}]},
    },
    "sbr": {"prevResult": {"ips": [{"address": "10.1.0.2/24"}]}},
    "tuning": {
        "sysctl": {"net.core.somaxconn": "500"},
        "mtu": 1400,
        "prevResult": {"cniVersion": "1.0.0", "interfaces": [{"name": "eth0"}]},
    },
    "firewall": {"prevResult": {"ips": [{"address": "10.1.0.2/24"}]}},
    "static": {"ipam": {"type": "static", "addresses": [{"address": "10.1.0.2/24"}]}},
    "vxlan": {
        "network": "10.9.0.0/16",
        "mtu": 1400,
        "backend": {"type": "static", "peers": [{"node": "h", "vtep": "192.0.2.1", "subnet": "10.9.1.0/24"}]},
    },
}


@dataclass
class Node:
    root: Path
    anchor: int

    def argv(self, *command: str) -> list[str]:
        return ["nsenter", "-t", str(self.anchor), "-m", "-n", "-p", "-r", "-w", *command]

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": "/bin", **variables}
        return subprocess.run(
            self.argv(*command), env=environment, capture_output=True, text=True, timeout=60
        )

    def call(self, name: str, conf: Any, command: str, **variables: str) -> Answer:
        environment = cni.environment(command, netns="/run/netns/c1", path=BIN, **variables)
        return cni.run(self.argv(f"{BIN}/{name}"), conf, environment)

    def left(self) -> dict[int, str]:
        """What processes run beside the first one, which reaps none, as the machine numbers them."""
        return {pid: name for pid, name in running_in(self.anchor).items() if pid != self.anchor}

    def end(self, name: str) -> None:
        """Send SIGTERM to processes, and wait until nothing is left."""
        for pid, found in self.left().items():
            if found == name:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
        wait_for("their end", lambda: not self.left())


@contextmanager
def booted(root: Path, *first: str) -> Iterator[Node]:
    """Start the first process of a node, of which the kernel ends all others with it."""
    words = ["setpriv", "--pdeathsig", "KILL", "--", "unshare", "--mount", "--net", "--pid", "--fork"]
    words += ["--kill-child", "--propagation", "private", f"--root={root}", "--mount-proc", *first]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            wait_for("the first process", lambda: (root / "proc/1").exists() or children.read_text().strip())
            anchor = int(children.read_text().split()[0])
            wait_for("its root", lambda: Path(f"/proc/{anchor}/root").readlink() == root)
            yield Node(root, anchor)
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def install(dist: Path, root: Path, kind: str) -> None:
    for directory in DIRECTORIES:
        (root / directory).mkdir(parents=True, exist_ok=True)
    for name in (*NAMES, "cnictl"):
        shutil.copy(dist / name, root / BIN[1:] / name)
    if kind != "nothing":
        shutil.copy(program("busybox"), root / "bin/busybox")
    if kind == "musl":
        shutil.copy("/lib/ld-musl-x86_64.so.1", root / "lib/ld-musl-x86_64.so.1")


@pytest.fixture(scope="module", params=NODES)
def node(
    request: pytest.FixtureRequest, dist: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Node]:
    root = tmp_path_factory.mktemp("node") / "root"
    root.mkdir()
    if request.param == "glibc-2.31":
        unpack_release("bullseye", root)
    install(dist, root, request.param)
    with booted(root, "/bin/busybox", "sleep", "3600") as node:
        node.run("/bin/busybox", "mount", "-t", "sysfs", "sysfs", "/sys")
        node.run("/bin/busybox", "mount", "-t", "tmpfs", "tmpfs", "/run")
        node.run("/bin/busybox", "mknod", "/dev/null", "c", "1", "3")
        node.run("/bin/busybox", "mkdir", "/run/netns")
        node.run("/bin/busybox", "touch", "/run/netns/c1")
        mount = "busybox mount --bind /proc/self/ns/net /run/netns/c1"
        done = node.run("/bin/busybox", "unshare", "-n", "/bin/busybox", "sh", "-c", mount)
        assert done.returncode == 0, done
        yield node


@pytest.fixture
def cold() -> dict[str, str]:
    return {"CNI_PLUGINS_LINGER": "0"}


def test_the_node_lacks_what_our_programs_were_linked_with(node: Node) -> None:
    """Or this module shows nothing."""
    assert not (node.root / "lib64/libc.so.6").exists()
    found = list(node.root.glob("lib/*/libc.so.6"))
    assert all(b"GLIBC_2.35" not in library.read_bytes() for library in found)


@pytest.mark.parametrize("name", NAMES)
def test_every_command_of_every_plugin_comes_to_its_end(node: Node, cold: dict[str, str], name: str) -> None:
    conf = {**NETWORK, "cniVersion": "1.1.0", "type": name, **KEYS.get(name, {})}
    for command in ("VERSION", "STATUS", "ADD", "CHECK", "DEL", "GC"):
        more = {"cni.dev/valid-attachments": []} if command == "GC" else {}
        answer = node.call(name, {**conf, **more}, command, CNI_IFNAME="eth7", **cold)
        assert b"Traceback" not in answer.err, answer
        document = json.loads(answer.out or b"{}")
        assert document.get("code") != 999, answer
        if command in ("VERSION", "DEL", "GC"):
            assert answer.code == 0, (command, answer)


@pytest.mark.parametrize("seconds", ["0", "300"])
def test_a_container_is_attached_checked_and_detached(node: Node, seconds: str) -> None:
    way = {"CNI_PLUGINS_LINGER": seconds}
    for _ in range(2):
        answer = node.call("bridge", NETWORK, "ADD", **way).ok()
        assert len(answer.addresses) == 2
        node.call("bridge", {**NETWORK, "prevResult": answer.document}, "CHECK", **way).ok()
        node.call("bridge", NETWORK, "DEL", **way).ok()
    if seconds == "0":
        assert node.left() == {}
    else:
        assert set(node.left().values()) == {"cni-lingering"}
        node.end("cni-lingering")


def test_it_lingers_and_then_nothing_is_left(node: Node) -> None:
    for _ in range(3):
        conf = {**NETWORK, "cniVersion": "1.1.0"}
        node.call("host-local", conf, "STATUS", CNI_PLUGINS_LINGER="1").ok()
    assert set(node.left().values()) == {"cni-lingering"}
    wait_for("its end", lambda: not node.left())
    assert node.run("/bin/busybox", "ls", "/run/cni-plugins").stdout == ""


def test_the_agent_serves(node: Node) -> None:
    with subprocess.Popen(
        node.argv(f"{BIN}/cnictl", "agent", "--workers", "2"),
        env={"PATH": "/bin"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            assert "2 workers" in process.stdout.readline()
            node.call("bridge", NETWORK, "ADD").ok()
            node.call("bridge", NETWORK, "DEL").ok()
            status = node.run(f"{BIN}/cnictl", "agent", "status", "--json")
            assert json.loads(status.stdout)["served"] == 2, status
        finally:
            node.end("cnictl")
            process.wait(30)


def test_a_refusal_is_the_same_document(node: Node, cold: dict[str, str], dist: Path) -> None:
    faulty: dict[str, Any] = {**NETWORK, "mtu": "x", "ipMasq": 7, "vlan": 5000}
    here = cni.run([dist / "bridge"], faulty, cni.environment("ADD", netns="/proc/1/ns/net", **cold))
    there = node.call("bridge", faulty, "ADD", CNI_NETNS="/proc/1/ns/net", **cold)
    assert (there.code, there.out, there.err) == (here.code, here.out, here.err)
    assert there.document["code"] == 7


def test_the_operators_program(node: Node) -> None:
    for words in (["--help"], ["--version"], ["overlay", "sync", "--help"], ["overlay", "status"]):
        done = node.run(f"{BIN}/cnictl", *words)
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == 0, done.stderr


def test_what_a_delegate_gets_has_no_trace_of_the_loader(node: Node, cold: dict[str, str]) -> None:
    spy = node.root / BIN[1:] / "spy"
    spy.write_text("#!/bin/busybox sh\n/bin/busybox env > /tmp/seen\n")
    spy.chmod(0o755)
    node.call("bridge", {**NETWORK, "ipam": {"type": "spy"}}, "DEL", **cold)
    seen = dict(line.split("=", 1) for line in (node.root / "tmp/seen").read_text().splitlines())
    assert not {"LD_PRELOAD", "LD_LIBRARY_PATH"} & set(seen)


@pytest.mark.parametrize("library_path", ["", "/nowhere:relative:", "/proc/self/cwd"])
def test_a_node_without_anything(dist: Path, tmp_path: Path, library_path: str) -> None:
    """No shell, no library, no device: a directory with our programs and /proc."""
    root = tmp_path / "root"
    install(dist, root, "nothing")
    script = 'mount -t proc proc "$ROOT/proc"; exec chroot "$ROOT" "$@"'
    words = ["unshare", "-mn", "--propagation", "private", "sh", "-ec", script, "sh"]
    attachment = cni.environment("ADD", netns="/proc/1/ns/net", path=BIN, LD_LIBRARY_PATH=library_path)
    for name, command in (
        ("bridge", "ADD"),
        ("bridge", "DEL"),
        ("host-local", "STATUS"),
        ("loopback", "VERSION"),
    ):
        done = subprocess.run(
            [*words, f"{BIN}/{name}"],
            env={**attachment, "ROOT": str(root), "PATH": os.environ["PATH"], "CNI_COMMAND": command},
            input=json.dumps({**NETWORK, "cniVersion": "1.1.0"}),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.stderr == "", done
        assert done.returncode == (command == "ADD"), done
        assert json.loads(done.stdout or "{}").get("code", 100) != 999


def test_without_proc_it_says_so(dist: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    install(dist, root, "nothing")
    done = subprocess.run(
        [str(program("chroot")), root, f"{BIN}/bridge"],
        env={"CNI_COMMAND": "ADD"},
        input="{}",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (1, "")
    document = json.loads(done.stdout)
    assert document["code"] == 5
    assert "/proc" in document["details"]
