"""Nodes: pid, network and mount namespaces of their own, as a process lingers only where the first one is.

A benchmark runs inside of one (`command`, `set_up`), or has several side by side (`Node`) and asks them one
after the other: `python -m tests.bench.node` answers in each. Columns say how plugins are called.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from cni_plugins.agent import status
from tests import cni
from tests.bench import resident, timing
from tests.differential import reference, suites
from tests.differential.suites import TOOL_PATH, Suite

DEBIAN, NEWEST = "reference 1.1.1 (Debian)", f"reference {reference.VERSION}"
COLD, LINGERING, AGENT = "first call", "lingering", "agent"
OUTSIDE = "192.0.2.2"
"""Where the default route of a node leads: to `up1`, which others may take and give this address."""

_SETUP = """
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run && mkdir -p /run/netns /run/data
[ ! -d /var/lib/cni ] || mount -t tmpfs tmpfs /var/lib/cni
ip link set lo up
ip link add up0 type veth peer name up1
ip addr add 192.0.2.1/24 dev up0 && ip link set up0 up && ip link set up1 up
ip route add default via 192.0.2.2
"""
_UNSHARE = ("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
_LINGERING = Path("/run/cni-plugins")


def command(module: str, *words: str) -> list[str]:
    """Return the command that runs a module on a new node."""
    return [*_UNSHARE, "--propagation", "private", sys.executable, "-m", module, *words]


def set_up() -> None:
    """Give the node that this process is in its own files and links."""
    subprocess.run(["sh", "-ec", _SETUP], check=True)


class Column(NamedTuple):
    """A suite, and how its plugins are called."""

    label: str
    suite: Suite
    variables: Mapping[str, str] = {}
    is_reference: bool = False

    def call(self, kind: str, conf: Mapping[str, Any], box: str, plugin: str = "") -> timing.Call:
        """Return a call for a namespace of `ip netns`.

        :param kind: the command.
        :param plugin: instead of the config's own type.
        """
        ipam = {"dataDir": f"/run/data/{self.label}", **conf["ipam"]} if "ipam" in conf else None
        text = json.dumps({**conf, "ipam": ipam} if ipam else conf, separators=(",", ":"))  # as libcni does
        netns = f"/run/netns/{box}"
        env = cni.environment(kind, container=box, netns=netns, path=self.suite.directory, **self.variables)
        program = self.suite.program(plugin or conf["type"])
        return timing.Call(program, {"PATH": TOOL_PATH, **env}, text.encode())


def references() -> list[Column]:
    """Return a column for each of the references that there are."""
    known = {DEBIAN: suites.debian(), NEWEST: suites.newest()}
    return [Column(name, suite, is_reference=True) for name, suite in known.items() if not suite.absence]


def ours(socket: str, idle: int = 600) -> list[Column]:
    """Return a column for each way in which ours are called.

    :param socket: of the agent.
    :param idle: seconds after which what lingers ends.
    """
    linger = resident.LINGER
    return [
        Column(COLD, suites.ours(), {linger: "0"}),
        Column(LINGERING, suites.ours(), {linger: str(idle)}),
        Column(AGENT, suites.ours(), {resident.VARIABLE: socket}),
    ]


def measure(call: timing.Call) -> timing.Measured:
    """Make a call in the namespaces of this process.

    :raises RuntimeError: when it fails: a benchmark of failures would flatter.
    """
    return succeeded(call, timing.measure(call))


def succeeded(call: timing.Call, done: timing.Measured) -> timing.Measured:
    """:raises RuntimeError: when the call failed."""
    if done.code != 0:
        told = call.env.get("CNI_COMMAND", " ".join(call.words))
        raise RuntimeError(f"{call.program} {told}: {done.stdout.decode()}")
    return done


# --------------------------------------------------------------------------------------- nodes side by side


class Node:
    """A node, and the process in it that does what it is asked."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            command(__name__), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def measure(self, call: timing.Call) -> timing.Measured:
        """:raises RuntimeError: when the call fails."""
        given = {"program": str(call.program), "env": dict(call.env), "stdin": call.stdin.decode()}
        found = self._ask("measure", **given, words=call.words)
        return timing.Measured(found["wall"], found["cpu"], 0, found["stdout"].encode())

    def run(self, *words: str | Path, text: str = "") -> str:
        """Run a program and return what it printed.

        :raises RuntimeError: when it fails.
        """
        return str(self._ask("run", words=list(map(str, words)), text=text))

    def start_agent(self, *words: str) -> str:
        """Start an agent with further options and return its socket."""
        return str(self._ask("start_agent", words=list(words)))

    def stop_agents(self) -> None:
        self._ask("stop_agents")

    def served(self, socket: str = "") -> int:
        """Return how many calls an agent has served; without a socket: what lingers."""
        return int(self._ask("served", socket=socket))

    def _ask(self, what: str, **words: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([what, words]) + "\n")
        self._process.stdin.flush()
        error, answer = json.loads(self._process.stdout.readline() or '["the node is gone", null]')
        if error:
            raise RuntimeError(error)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


class _Server:
    """What a node does; each method is one of `Node`."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack

    def measure(self, program: str, env: Mapping[str, str], stdin: str, words: list[str]) -> dict[str, Any]:
        done = measure(timing.Call(Path(program), env, stdin.encode(), tuple(words)))
        return {"wall": done.wall, "cpu": done.cpu, "stdout": done.stdout.decode()}

    def run(self, words: Sequence[str], text: str) -> str:
        done = subprocess.run(words, input=text, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def start_agent(self, words: Sequence[str]) -> str:
        return self._stack.enter_context(resident.running(suites.ours(), None, words=words)).socket

    def stop_agents(self) -> None:
        self._stack.close()

    def served(self, socket: str) -> int:
        found = [socket] if socket else map(str, _LINGERING.glob("*.sock"))
        return sum(status.ask(path)["served"] for path in found)


def _serve() -> None:
    set_up()
    with contextlib.ExitStack() as stack:
        server = _Server(stack)
        for line in sys.stdin:
            what, words = json.loads(line)
            do: Callable[..., Any] = getattr(server, what)
            try:
                answer = [None, do(**words)]
            except (RuntimeError, OSError, status.NoAgent) as err:
                answer = [f"{type(err).__name__}: {err}", None]
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve()
