"""A fresh pair of namespaces with a fresh data directory, in which one suite answers one case."""

import contextlib
import functools
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.differential import netns
from tests.differential.suites import TOOL_PATH, Suite

UPLINK = f"{netns.PREFIX}-up"
WIRE, WIRE_END = "eth0", f"{netns.PREFIX}-wire"
HOST_ADDRESSES = {4: "198.51.100.1", 6: "2001:db8:51::1"}
OUTSIDE_ADDRESSES = {4: "198.51.100.2", 6: "2001:db8:51::2"}


@dataclass(frozen=True)
class Answer:
    """What a program said."""

    code: int
    stdout: str
    stderr: str


@dataclass
class World:
    """The host a plugin runs on, the boxes it attaches, and the outside."""

    directory: Path
    host: str
    boxes: dict[str, str] = field(default_factory=dict)
    outside_name: str | None = None

    @property
    def data(self) -> Path:
        """The IPAM's data directory; made by the plugin, not by us."""
        return self.directory / "leases"

    def box(self, name: str) -> str:
        """The netns of that container, made when it is first asked for."""
        if name not in self.boxes:
            self.boxes[name] = netns.add(netns.fresh_name(name))
        return self.boxes[name]

    def lay_wire(self) -> None:
        """Give the host a link like a physical one, which containers can share."""
        with netns.entered(self.host):
            netns.run("ip", "link", "add", WIRE, "mtu", "1500", "type", "veth", "peer", "name", WIRE_END)
            for end in (WIRE, WIRE_END):
                netns.run("ip", "link", "set", end, "up")

    def outside(self) -> str:
        """A netns beyond the host, reached over an uplink; made when it is first asked for."""
        if self.outside_name is None:
            self.outside_name = netns.add(netns.fresh_name("outside"))
            self._connect(self.outside_name)
        return self.outside_name

    def _connect(self, outside: str) -> None:
        with netns.entered(self.host):
            netns.run("ip", "link", "add", UPLINK, "type", "veth", "peer", "name", UPLINK, "netns", outside)
            _address(HOST_ADDRESSES)
        with netns.entered(outside):
            _address(OUTSIDE_ADDRESSES)
            for family, address in HOST_ADDRESSES.items():
                netns.run("ip", f"-{family}", "route", "add", "default", "via", address)
        for name in (self.host, outside):
            _await_carrier(name)

    def fill(self, text: str) -> str:
        """Put this world's places into the text of a configuration."""
        places = {
            "@DATA@": str(self.data),
            "@FILES@": str(self.directory),
            "@HOST@": netns.path_of(self.host),
        }
        for mark, place in places.items():
            text = text.replace(mark, place)
        return text

    def call(self, suite: Suite, plugin: str, env: dict[str, str], stdin: str) -> Answer:
        """Run a plugin in the host namespace with nothing in its environment but what CNI gives it."""
        with netns.entered(self.host):
            done = subprocess.run(
                [suite.program(plugin)],
                input=stdin.encode(),
                env={"PATH": TOOL_PATH, **env},
                capture_output=True,
                timeout=60,
                check=False,
            )
        return Answer(
            done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        )

    def close(self) -> None:
        """Take everything away."""
        for name in (*self.boxes.values(), self.host, self.outside_name):
            if name is not None:
                netns.remove(name)
        shutil.rmtree(self.directory, ignore_errors=True)


def _address(addresses: dict[int, str]) -> None:
    # Without duplicate address detection, or the uplink would be silent for the seconds a probe looks at.
    Path(f"/proc/sys/net/ipv6/conf/{UPLINK}/accept_dad").write_text("0")
    netns.run("ip", "link", "set", UPLINK, "up")
    for family, address in addresses.items():
        netns.run("ip", "address", "add", f"{address}/{24 if family == 4 else 64}", "dev", UPLINK)


def _await_carrier(name: str) -> None:
    """Only once the kernel has told IPv6 of the carrier is there a link-local address, and IPv6 at all."""
    deadline = time.monotonic() + 2
    words = ("ip", "-6", "-o", "address", "show", "dev", UPLINK, "scope", "link", "-tentative")
    with netns.entered(name):
        while not netns.run(*words) and time.monotonic() < deadline:
            time.sleep(0.02)


@contextlib.contextmanager
def fresh_world() -> Iterator[World]:
    """A world of its own, removed at the end."""
    directory = Path(tempfile.mkdtemp(prefix=netns.PREFIX))
    world = World(directory, netns.fresh_name("host"))
    try:
        netns.add(world.host)
        with netns.entered(world.host):
            netns.run("ip", "link", "set", "lo", "up")
        yield world
    finally:
        world.close()


def environment(suite: Suite, command: str, box: str, ifname: str, sandbox: str) -> dict[str, str]:
    """The variables of one call."""
    return {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": box,
        "CNI_NETNS": sandbox,
        "CNI_IFNAME": ifname,
        "CNI_PATH": os.fspath(suite.directory),
    }


@functools.cache
def lacks(need: str | None) -> str | None:
    """Why this kernel cannot run a case with that need, or None."""
    if need is None:
        return None
    with fresh_world() as world, netns.entered(world.host):
        try:
            netns.run("ip", "link", "add", "cnid-try", "type", "bridge", need, "1")
        except RuntimeError:
            return f"the kernel has no bridge {need}"
    return None
