"""Published ports side by side with the reference, and a swap of the executables under them."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests import cni
from tests.cni import Answer
from tests.differential.fixture import Fixture, fresh_fixture
from tests.differential.suites import Suite
from tests.differential.swap import Config

PORTS = [
    {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
    {"hostPort": 8081, "containerPort": 81, "protocol": "udp"},
    {"hostPort": 8443, "containerPort": 443, "protocol": "tcp"},
]
BACKENDS = ("iptables", "nftables")
_SERVER = """
import socket, time
for family in (socket.AF_INET, socket.AF_INET6):
    made = socket.socket(family)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    made.bind(("", 80))
    made.listen()
    globals()[f"kept{int(family)}"] = made
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def fixture() -> Iterator[Fixture]:
    with fresh_fixture() as made:
        yield made


class Published:
    """A container on a bridge whose ports one suite publishes."""

    def __init__(self, fixture: Fixture, suite: Suite, backend: str, **keys: Any) -> None:
        self.fixture = fixture
        common = {"cniVersion": "1.0.0", "name": "net"}
        addresses = [{"address": "10.1.0.5/24", "gateway": "10.1.0.1"}, {"address": "fd01::5/64"}]
        routes = [{"dst": "0.0.0.0/0"}]
        ipam = {"type": "static", "addresses": addresses, "routes": routes}
        main = {
            **common,
            "type": "bridge",
            "bridge": "br0",
            "isGateway": True,
            "hairpinMode": True,
            "ipam": ipam,
        }
        result = self.call(suite, "ADD", main).document
        chosen = {} if suite.label == "debian" else {"backend": backend}
        runtime = {"portMappings": keys.pop("ports", PORTS)}
        self.config = {
            **common,
            "type": "portmap",
            **chosen,
            **keys,
            "runtimeConfig": runtime,
            "prevResult": result,
        }

    def call(self, suite: Suite, command: str, config: Config | None = None) -> Answer:
        conf = self.config if config is None else config
        netns = self.fixture.box("box1").path
        variables = cni.environment(command, container="box1", netns=netns, path=suite.directory)
        return self.fixture.call(suite, conf["type"], variables, conf)

    def answers(self, *addresses: str) -> list[bool]:
        """Say which of the host's addresses have the first port, for the host itself."""
        with self.fixture.box("box1").entered():
            server = subprocess.Popen([sys.executable, "-c", _SERVER], stdout=subprocess.PIPE)
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            with self.fixture.host.entered():
                return [_connects(address) for address in addresses]
        finally:
            server.kill()
            server.communicate()

    def left(self) -> list[str]:
        """Return the lines of all rules that name the container, one of its ports or addresses."""
        with self.fixture.host.entered():
            lines = [
                line
                for words in (("nft", "list", "ruleset"), ("iptables-save",), ("ip6tables-save",))
                for line in subprocess.run(words, capture_output=True, text=True).stdout.splitlines()
            ]
        return [line for line in lines if any(part in line for part in ("8080", "10.1.0.5", "CNI-DN-"))]


def _connects(address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as made:
        made.settimeout(1)
        try:
            made.connect((address, 8080))
        except OSError:
            return False
    return True


each_backend = pytest.mark.parametrize("backend", BACKENDS)


@each_backend
def test_both_publish_the_same_ports(fixture: Fixture, their: Suite, ours: Suite, backend: str) -> None:
    places = ("127.0.0.1", "10.1.0.1", "::1")
    with fresh_fixture() as other:
        mine, his = Published(fixture, ours, backend), Published(other, their, backend)
        first, second = mine.call(ours, "ADD").document, his.call(their, "ADD").document
        for result in (first, second):
            result.pop("dns", None)
        assert {**first, "interfaces": 0} == {**second, "interfaces": 0}
        assert mine.answers(*places) == his.answers(*places) == [True, True, False]


@each_backend
def test_ours_checks_and_deletes_what_the_reference_added(
    fixture: Fixture, their: Suite, ours: Suite, backend: str
) -> None:
    """With and without a backend in the config, which may be another one after the swap."""
    published = Published(fixture, their, backend)
    published.call(their, "ADD").ok()
    chosen = {key: value for key, value in published.config.items() if key != "backend"}
    for conf in (published.config, chosen):
        published.call(ours, "CHECK", conf).ok()
    missing = {**chosen, "runtimeConfig": {"portMappings": [{**PORTS[0], "hostPort": 9999}]}}
    assert published.call(ours, "CHECK", missing).code == 1
    published.call(ours, "DEL", chosen).ok()
    assert published.left() == []
    published.call(ours, "DEL", chosen).ok()


def test_the_reference_checks_and_deletes_what_ours_added(
    fixture: Fixture, their: Suite, ours: Suite
) -> None:
    published = Published(fixture, ours, "iptables", snat=False)
    published.call(ours, "ADD").ok()
    if their.label != "debian":  # whose CHECK of two IP versions fails for its own rules too
        published.call(their, "CHECK").ok()
    published.call(their, "DEL").ok()
    assert published.left() == []


def test_a_port_stays_published_through_a_swap(fixture: Fixture, their: Suite, ours: Suite) -> None:
    """A container of the reference keeps its port while ours adds and deletes beside it."""
    published = Published(fixture, their, "iptables")
    published.call(their, "ADD").ok()
    netns = fixture.box("box2").path
    main = {
        "cniVersion": "1.0.0",
        "name": "net",
        "type": "bridge",
        "bridge": "br0",
        "ipam": {"type": "static", "addresses": [{"address": "10.1.0.6/24", "gateway": "10.1.0.1"}]},
    }
    variables = cni.environment("ADD", container="box2", netns=netns, path=ours.directory)
    result = fixture.call(ours, "bridge", variables, main).document
    ports = {"portMappings": [{"hostPort": 8090, "containerPort": 80, "protocol": "tcp"}]}
    conf = {
        "cniVersion": "1.0.0",
        "name": "net",
        "type": "portmap",
        "runtimeConfig": ports,
        "prevResult": result,
    }
    fixture.call(ours, "portmap", variables, conf).ok()
    assert published.answers("127.0.0.1", "10.1.0.1") == [True, True]
    fixture.call(ours, "portmap", {**variables, "CNI_COMMAND": "DEL"}, conf).ok()
    assert published.answers("127.0.0.1", "10.1.0.1") == [True, True]


def test_what_the_reference_cannot_see_is_removed_by_a_collection(
    fixture: Fixture, their: Suite, ours: Suite
) -> None:
    """It does not know our maps: its DEL succeeds, and their elements stay until ours collects them."""
    published = Published(fixture, ours, "nftables")
    published.call(ours, "ADD").ok()
    published.call(their, "DEL").ok()
    assert published.left()
    collected = {**published.config, "cniVersion": "1.1.0", "cni.dev/valid-attachments": []}
    published.call(ours, "GC", {key: value for key, value in collected.items() if key != "prevResult"}).ok()
    assert published.left() == []


BAD = {
    "port 0": {**PORTS[0], "hostPort": 0},
    "port 70000": {**PORTS[0], "hostPort": 70000},
    "no protocol": {**PORTS[0], "protocol": ""},
}


@pytest.mark.parametrize("bad", BAD)
def test_both_refuse_what_cannot_be(fixture: Fixture, their: Suite, ours: Suite, bad: str) -> None:
    published = Published(fixture, ours, "iptables", ports=[PORTS[0], BAD[bad]])
    assert published.call(their, "ADD").code == 1
    answer = published.call(ours, "ADD")
    assert (answer.code, answer.document["code"]) == (1, 7)
