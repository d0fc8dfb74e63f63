"""What one suite answers one case in: namespaces for host and containers, and a data directory."""

import contextlib
import functools
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import cni, namespaces
from tests.cni import Answer
from tests.differential.suites import TOOL_PATH, Suite
from tests.namespaces import Namespace

PREFIX = "cnid"
UPLINK = f"{PREFIX}-up"
WIRE, WIRE_END = "eth0", f"{PREFIX}-wire"
HOST_ADDRESSES = {4: "198.51.100.1", 6: "2001:db8:51::1"}
OUTSIDE_ADDRESSES = {4: "198.51.100.2", 6: "2001:db8:51::2"}


@dataclass
class Fixture:
    """The host that a plugin runs on, the containers it attaches, and the outside."""

    directory: Path
    host: Namespace
    boxes: dict[str, Namespace] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    """What calls have in their environment besides: where our agent is."""
    beyond: Namespace | None = None

    @property
    def data(self) -> Path:
        """The IPAM's data directory; made by the plugin, not here."""
        return self.directory / "leases"

    def box(self, name: str) -> Namespace:
        """Return the namespace of that container, which the first question for it makes."""
        if name not in self.boxes:
            self.boxes[name] = Namespace()
        return self.boxes[name]

    def add_wire(self) -> None:
        """Give the host a link like a physical one, which containers can share."""
        with self.host.entered():
            namespaces.run("ip", "link", "add", WIRE, "mtu", "1500", "type", "veth", "peer", "name", WIRE_END)
            for end in (WIRE, WIRE_END):
                namespaces.run("ip", "link", "set", end, "up")

    def outside(self) -> Namespace:
        """Return a namespace beyond the host, behind an uplink, which the first question for it makes."""
        if self.beyond is None:
            self.beyond = Namespace()
            self._connect(self.beyond)
        return self.beyond

    def _connect(self, outside: Namespace) -> None:
        with self.host.entered():
            peer = ("peer", "name", UPLINK, "netns", outside.path)
            namespaces.run("ip", "link", "add", UPLINK, "type", "veth", *peer)
            _address(HOST_ADDRESSES)
        with outside.entered():
            _address(OUTSIDE_ADDRESSES)
            for family, address in HOST_ADDRESSES.items():
                namespaces.run("ip", f"-{family}", "route", "add", "default", "via", address)
        for place in (self.host, outside):
            _await_carrier(place)

    def fill(self, text: str) -> str:
        """Put the paths of this fixture into the text of a configuration."""
        places = {
            "@DATA@": str(self.data),
            "@FILES@": str(self.directory),
            "@HOST@": self.host.path,
        }
        for mark, place in places.items():
            text = text.replace(mark, place)
        return text

    def call(self, suite: Suite, plugin: str, variables: Mapping[str, str], conf: Any) -> Answer:
        """Run a plugin on the host with nothing in its environment but what CNI gives it."""
        stdin = conf.encode() if isinstance(conf, str) else conf
        with self.host.entered():
            return cni.run([suite.program(plugin)], stdin, {"PATH": TOOL_PATH, **self.variables, **variables})

    def close(self) -> None:
        """Take everything away."""
        for place in (*self.boxes.values(), *([self.beyond] if self.beyond else ())):
            place.close()
        shutil.rmtree(self.directory, ignore_errors=True)


def _address(addresses: dict[int, str]) -> None:
    # Without duplicate address detection, or the uplink would be silent for the seconds a probe looks at.
    Path(f"/proc/sys/net/ipv6/conf/{UPLINK}/accept_dad").write_text("0")
    namespaces.run("ip", "link", "set", UPLINK, "up")
    for family, address in addresses.items():
        namespaces.run("ip", "address", "add", f"{address}/{24 if family == 4 else 64}", "dev", UPLINK)


def _await_carrier(place: Namespace) -> None:
    """Wait for the link-local address: only then has the kernel told IPv6 of the carrier."""
    deadline = time.monotonic() + 2
    words = ("ip", "-6", "-o", "address", "show", "dev", UPLINK, "scope", "link", "-tentative")
    with place.entered():
        while not namespaces.run(*words) and time.monotonic() < deadline:
            time.sleep(0.02)


@contextlib.contextmanager
def fresh_fixture() -> Iterator[Fixture]:
    """Make a fixture on a new host and remove both at the end."""
    with Namespace() as host:
        with host.entered():
            namespaces.run("ip", "link", "set", "lo", "up")
        with fixture_on(host) as fixture:
            yield fixture


@contextlib.contextmanager
def fixture_on(host: Namespace, variables: Mapping[str, str] | None = None) -> Iterator[Fixture]:
    """Make a fixture on a host and remove it at the end, but for what is on the host."""
    fixture = Fixture(Path(tempfile.mkdtemp(prefix=PREFIX)), host, variables=variables or {})
    try:
        yield fixture
    finally:
        fixture.close()


@functools.cache
def lacks(need: str | None) -> str | None:
    """Say why this kernel cannot run a case with that need, or return None."""
    if need is None:
        return None
    with fresh_fixture() as fixture, fixture.host.entered():
        try:
            namespaces.run("ip", "link", "add", f"{PREFIX}-try", "type", "bridge", need, "1")
        except RuntimeError:
            return f"the kernel has no bridge {need}"
    return None
