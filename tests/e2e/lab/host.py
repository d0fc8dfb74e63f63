"""
A simulated host: namespaces of its own on this kernel, with private /etc, /opt, /var, /run.

Plugins and runtimes in it use their default paths (/opt/cni/bin, /etc/cni/net.d, /var/lib/cni) and
nothing lands on, or leaks to, the machine: when its first process dies, so does all it held. A plain host has
a network and a mount namespace, enough to call plugins in; one for runtimes has pid, uts, ipc and cgroup
namespaces too.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tests import namespaces
from tests.e2e.lab import cgroups
from tests.e2e.lab.tools import SYSTEM_PATH

SCRIPT = str(Path(__file__).with_name("host.sh"))
PLAIN = "--net --mount"
FOR_RUNTIMES = "--net --mount --uts --ipc --pid --cgroup --fork --kill-child"

Completed = subprocess.CompletedProcess[str]


@dataclass
class Host:
    """A host that is up; `raise_host` makes one."""

    anchor: int
    """The pid, as the machine sees it, of the process that holds the namespaces."""
    procs: list[Path] = field(default_factory=list)
    """The `cgroup.procs` files a process of the host is written to; none on a plain host."""

    def path(self, inside: str | Path) -> Path:
        """What the machine calls the file that the host calls `inside`."""
        return Path(f"/proc/{self.anchor}/root") / str(inside).lstrip("/")

    def write(self, inside: str, text: str) -> Path:
        """Write a file in the host, and the directories above it."""
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def argv(self, *command: str) -> list[str]:
        """The command line that runs COMMAND in the host; on a plain host the process becomes COMMAND."""
        if self.procs:
            return ["sh", SCRIPT, "enter", str(self.anchor), *command]
        return ["nsenter", "-t", str(self.anchor), "--net", "--mount", "--", *command]

    def run(
        self,
        *command: str,
        check: bool = True,
        timeout: float = 60,
        env: Mapping[str, str] | None = None,
        input: str | None = None,  # noqa: A002  as subprocess calls it
    ) -> Completed:
        """Run COMMAND as root in the host, its output as text."""
        done = subprocess.run(
            self.argv(*command),
            input=input,
            env=self.environment(env),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def start(self, *command: str, log: IO[bytes] | int) -> subprocess.Popen[bytes]:
        """Start COMMAND in the host, in a process group of its own, its output to LOG."""
        return subprocess.Popen(
            self.argv(*command),
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """What processes of the host get to see: no variable of the machine."""
        cgroup = {"CNIE_CGROUPS": " ".join(map(str, self.procs))} if self.procs else {}
        return {"PATH": SYSTEM_PATH, "HOME": "/root", "LC_ALL": "C", **cgroup, **(extra or {})}

    def netns(self, *names: str) -> list[str]:
        """Add namespaces; their paths."""
        return namespaces.add(names, self.run)

    def remove_netns(self, *names: str) -> None:
        """Remove namespaces, as a runtime does that has lost or ended its containers."""
        namespaces.remove(names, self.run)

    def outside(self) -> str:
        """
        Add the namespace `outside`, 192.0.2.2 and 2001:db8::2, wired to the host's `uplink`, 192.0.2.1 and
        2001:db8::1, which gets the default routes. It has no route to any container network, so only
        masqueraded traffic gets an answer.
        """
        self.netns("outside")
        self.run(
            "sh",
            "-euc",
            """
            ip link add uplink type veth peer name eth0 netns outside
            ip addr add 192.0.2.1/24 dev uplink
            ip addr add 2001:db8::1/64 dev uplink nodad
            ip link set uplink up
            ip -n outside addr add 192.0.2.2/24 dev eth0
            ip -n outside addr add 2001:db8::2/64 dev eth0 nodad
            ip -n outside link set eth0 up
            ip -n outside link set lo up
            ip route add default via 192.0.2.2
            ip -6 route add default via 2001:db8::2
            """,
        )
        return "192.0.2.2"


@contextmanager
def raise_host(plugins: Path, *, runtimes: bool = False) -> Iterator[Host]:
    """Bring up a host with the executables of PLUGINS in /opt/cni/bin; all of it is gone afterwards."""
    groups = cgroups.make(f"cnie-{os.getpid()}-{os.urandom(2).hex()}") if runtimes else []
    try:
        with tempfile.TemporaryDirectory(prefix="cnie-") as lab, _first_process(plugins, lab, groups) as host:
            host.procs = [cgroups.hand_over(group) for group in groups]
            yield host
    finally:
        cgroups.remove(groups)


@contextmanager
def _first_process(plugins: Path, lab: str, groups: list[Path]) -> Iterator[Host]:
    environment = {
        "PATH": SYSTEM_PATH,
        "CNIE_LAB": lab,
        "CNIE_PLUGINS": str(plugins),
        "CNIE_UNSHARE": FOR_RUNTIMES if groups else PLAIN,
        "CNIE_CGROUPS": " ".join(str(group / "cgroup.procs") for group in groups),
    }
    # Whatever becomes of this test run, the kernel ends the host with it.
    command = ["setpriv", "--pdeathsig", "KILL", "--", "sh", SCRIPT, "boot"]
    with (
        tempfile.TemporaryFile() as complaints,
        subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
            start_new_session=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            anchor = process.stdout.readline()
            if not anchor:
                complaints.seek(0)
                raise RuntimeError(f"the host did not come up: {complaints.read().decode()}")
            yield Host(anchor=int(anchor))
        finally:
            _kill_group(process.pid)


def _kill_group(leader: int) -> None:
    """End the first process; with a pid namespace the kernel ends all the others."""
    os.killpg(leader, signal.SIGKILL)
