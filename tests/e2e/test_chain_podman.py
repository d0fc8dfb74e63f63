"""podman with the networks that it writes itself, of bridge, portmap, firewall and tuning: `run -p`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.lab import image
from tests.e2e.lab.agent import PROGRAM, wait_for
from tests.e2e.lab.chain import look, netns_of_host
from tests.e2e.lab.host import Host, raise_host
from tests.e2e.lab.lives import agent_if
from tests.e2e.lab.podman import Podman, install
from tests.e2e.lab.ports import NOBODY, Servers, ask, serving
from tests.e2e.lab.state import State, differences, settled

pytestmark = pytest.mark.needs("podman", "conmon", "runc", "busybox", "nft", "iptables")

# Debian's podman 4.3 installs this as 87-podman-bridge.conflist.
DEFAULT = {
    "cniVersion": "0.4.0",
    "name": "podman",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni-podman0",
            "isGateway": True,
            "ipMasq": True,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "routes": [{"dst": "0.0.0.0/0"}],
                "ranges": [[{"subnet": "10.88.0.0/16", "gateway": "10.88.0.1"}]],
            },
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
        {"type": "firewall"},
        {"type": "tuning"},
    ],
}
CREATED, APART = "cniecreated", "cnieapart"
GATEWAYS = {"podman": "10.88.0.1", CREATED: "10.77.0.1"}
MAC = "02:00:00:00:88:77"
HOST, OUTSIDE, HOST6, OUTSIDE6 = "192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"
FLUSH_IPTABLES = "iptables -F; iptables -X; iptables -t nat -F; iptables -t nat -X"
PORTS = ("8080:80", "8053:53/udp", f"{HOST}:8081:81", "127.0.0.1:8082:82/udp")


class Machine:
    """A host with podman, where its containers answer, and who may ask them."""

    def __init__(self, podman: Podman, servers: Servers) -> None:
        self.podman, self.servers, self.host = podman, servers, podman.host
        self.here = netns_of_host(self.host)
        self.outside = self.host.path("/run/netns/outside")
        servers.add(self.outside, "outside", "7777/tcp")

    def netns(self, name: str) -> Path:
        settings = json.loads(self.podman("inspect", name).stdout)[0]["NetworkSettings"]
        return self.host.path(settings["SandboxKey"])

    def run(self, name: str, net: str, *options: str) -> Path:
        """Run a container that waits; its namespace."""
        self.podman("run", "-d", "--name", name, "--network", net, *options, image.NAME)
        return self.netns(name)

    @contextmanager
    def web(self, net: str, *options: str) -> Iterator[Path]:
        """A container `web` with PORTS, behind all of which something answers."""
        published = [word for port in PORTS for word in ("-p", port)]
        try:
            yield self.serve(self.run("web", net, *published, *options))
        finally:
            self.remove("web")

    def serve(self, netns: Path) -> Path:
        self.servers.remove("web")
        self.servers.add(netns, "web", "80/tcp", "53/udp", "81/tcp", "82/udp")
        return netns

    def remove(self, *names: str) -> None:
        self.servers.remove(*names)
        self.podman("rm", "-f", "-t0", *names)

    def is_reached(self) -> bool:
        """Whether the outside reaches what is published; it waits for no answer long."""
        answers = {
            ask(self.outside, HOST, 8080, patience=0.6),
            ask(self.outside, HOST, 8053, "udp", patience=0.6),
        }
        assert answers <= {f"web {OUTSIDE}", NOBODY}
        assert len(answers) == 1, answers
        return answers != {NOBODY}

    def reaches_outside(self) -> bool:
        """Whether `web` does, masqueraded."""
        answer = ask(self.netns("web"), OUTSIDE, 7777, patience=0.6)
        assert answer in (f"outside {HOST}", NOBODY)
        return answer != NOBODY


@pytest.fixture(scope="module")
def machine(dist: Path, busybox: Path) -> Iterator[Machine]:
    with raise_host(dist, runtimes=True) as host, serving() as servers:
        host.write("/etc/cni/net.d/87-podman-bridge.conflist", json.dumps(DEFAULT))
        host.outside()
        podman = install(host, busybox, "podman")
        podman("network", "create", "--ipv6", "--subnet", "10.77.0.0/24", "--subnet", "fd00:77::/64", CREATED)
        podman("network", "create", "--subnet", "10.78.0.0/24", "--opt", "isolate=true", APART)
        for name in (CREATED, APART):
            kinds = [plugin["type"] for plugin in written(host, name)["plugins"]]
            assert kinds == ["bridge", "portmap", "firewall", "tuning"]
        yield Machine(podman, servers)


def written(host: Host, name: str) -> dict[str, object]:
    return json.loads(host.path(f"/etc/cni/net.d/{name}.conflist").read_text())  # type: ignore[no-any-return]


@pytest.fixture
def idle(machine: Machine) -> State:
    """The state to come back to: after a container with ports in each network, as bridges and chains stay."""
    for net in ("podman", CREATED, APART):
        machine.podman("run", "--rm", "--network", net, "-p", "9999:99", image.NAME, "true")
    return look(machine.host)


def assert_idle(machine: Machine, idle: State) -> None:
    changes = differences(idle, settled(lambda: look(machine.host), idle))
    assert not changes, "\n".join(changes)


@pytest.mark.parametrize("net", GATEWAYS)
def test_a_published_port_is_reached_from_everywhere(machine: Machine, idle: State, net: str) -> None:
    """From outside with its source kept, by every address of the host, from others, and from itself."""
    gateway = GATEWAYS[net]
    with machine.web(net) as web:
        other = machine.run("other", net)
        for port, protocol in ((8080, "tcp"), (8053, "udp")):
            assert ask(machine.outside, HOST, port, protocol) == f"web {OUTSIDE}"
            for address in ("127.0.0.1", HOST, gateway):
                assert ask(machine.here, address, port, protocol).startswith("web ")
            for address in (HOST, gateway):
                assert ask(other, address, port, protocol).startswith("web ")
                assert ask(web, address, port, protocol).startswith("web ")
        if net == CREATED:
            assert ask(machine.outside, HOST6, 8080) == f"web {OUTSIDE6}"
            assert ask(other, HOST6, 8053, "udp").startswith("web ")
        machine.remove("other")
    assert_idle(machine, idle)


def test_a_port_of_one_address_is_reached_by_that_alone(machine: Machine, idle: State) -> None:
    """podman listens on what it publishes, so a connection may come about, to be answered by nobody."""
    with machine.web("podman"):
        assert ask(machine.outside, HOST, 8081) == f"web {OUTSIDE}"
        assert ask(machine.here, HOST, 8081).startswith("web ")
        assert ask(machine.here, "127.0.0.1", 8082, "udp").startswith("web ")
        for place, address, port, protocol in (
            (machine.here, "127.0.0.1", 8081, "tcp"),
            (machine.here, "10.88.0.1", 8081, "tcp"),
            (machine.here, HOST, 8082, "udp"),
            (machine.outside, HOST, 8082, "udp"),
        ):
            assert ask(place, address, port, protocol, patience=0.6) == NOBODY
    assert_idle(machine, idle)


@pytest.mark.parametrize("flush", ["nft flush ruleset", FLUSH_IPTABLES], ids=["nft", "iptables"])
def test_network_reload_brings_back_ports_that_a_flush_took(
    machine: Machine, idle: State, flush: str
) -> None:
    """`iptables -F` takes none: they are in tables of ours."""
    with machine.web("podman"):
        assert machine.is_reached()
        machine.host.run("sh", "-euc", flush)
        assert machine.is_reached() == (flush == FLUSH_IPTABLES)
        machine.podman("network", "reload", "web")
        assert machine.is_reached()
        assert ask(machine.here, "127.0.0.1", 8080).startswith("web ")
    assert_idle(machine, idle)


@pytest.mark.parametrize("by_itself", [False, True], ids=["command", "agent"])
def test_repair_brings_them_back_without_touching_the_container(
    machine: Machine, idle: State, tmp_path: Path, *, by_itself: bool
) -> None:
    with agent_if(machine.host, tmp_path / "log", warm=by_itself), machine.web("podman") as web:
        links = machine.podman.execute("web", "ip", "addr")
        machine.host.run("nft", "flush", "ruleset")
        if by_itself:
            wait_for("the ports", lambda: ask(machine.outside, HOST, 8080, patience=0.3) != NOBODY)
        else:
            assert not machine.is_reached()
            assert "1 repaired" in machine.host.run(PROGRAM, "repair").stdout
        assert machine.is_reached()
        assert machine.reaches_outside()
        for address in ("127.0.0.1", HOST):
            assert ask(machine.here, address, 8080).startswith("web ")
        assert ask(web, HOST, 8053, "udp").startswith("web ")
        assert machine.podman.execute("web", "ip", "addr") == links
    assert_idle(machine, idle)


@pytest.mark.parametrize("flush", ["nft flush ruleset", FLUSH_IPTABLES], ids=["nft", "iptables"])
def test_network_reload_brings_back_the_way_through_a_forward_chain_that_drops(
    machine: Machine, forward_drops: None, flush: str
) -> None:
    """There firewall uses iptables, for what containers send. What others send is up to the administrator."""
    with machine.web("podman"):
        assert machine.reaches_outside()
        assert not machine.is_reached()
        machine.host.run(
            "iptables", "-A", "CNI-ADMIN", "-m", "conntrack", "--ctstate", "DNAT", "-j", "ACCEPT"
        )
        assert machine.is_reached()
        machine.host.run("sh", "-euc", flush)
        machine.host.run("iptables", "-P", "FORWARD", "DROP")
        assert not machine.reaches_outside()
        machine.podman("network", "reload", "web")
        assert machine.reaches_outside()
    assert_nothing_of_containers(machine.host)


@pytest.fixture
def forward_drops(machine: Machine) -> Iterator[None]:
    machine.host.run("iptables", "-P", "FORWARD", "DROP")
    yield
    machine.host.run("sh", "-euc", f"iptables -P FORWARD ACCEPT; {FLUSH_IPTABLES}")


def assert_nothing_of_containers(host: Host) -> None:
    """A flush takes what stays between containers too, so the state before is no measure."""
    state = look(host)
    assert state["leases"] == state["results"] == state["settings"] == state["files"] == []
    assert not [line for line in state["links"] if line.startswith("veth")]
    assert not [line for line in state["nft"] if "10.88.0." in line or "id: " in line or "element" in line]


def test_a_mac_address_survives_stop_and_start(machine: Machine, idle: State) -> None:
    """While it is stopped, nothing of it is left but podman's record."""
    with machine.web("podman", "--mac-address", MAC):
        assert machine.is_reached()
        machine.servers.remove("web")
        machine.podman("stop", "-t0", "web")
        assert_idle(machine, idle)
        assert not machine.is_reached()
        machine.podman("start", "web")
        machine.serve(machine.netns("web"))
        assert MAC in machine.podman.execute("web", "ip", "link", "show", "eth0")
        assert machine.is_reached()
    assert_idle(machine, idle)


def test_ports_move_to_the_next_container(machine: Machine, idle: State) -> None:
    """UDP flows that a sender keeps up go to the new one, not to the address of the old one."""
    for _ in range(2):
        with machine.web("podman"):
            assert machine.is_reached()
    assert not machine.is_reached()
    assert_idle(machine, idle)


def test_an_isolated_network_is_not_reached_from_another(machine: Machine, idle: State) -> None:
    """But its published ports are reached from outside, and containers of other networks by each other."""
    machine.podman("network", "create", "--subnet", "10.79.0.0/24", "--opt", "isolate=true", "cnieapart2")
    try:
        with machine.web(APART):
            address = machine.podman.execute("web", "ip", "-4", "-o", "addr", "show", "eth0").split()[3]
            inside = address.split("/")[0]
            beside, apart = machine.run("beside", APART), machine.run("apart", "cnieapart2")
            assert ask(beside, inside, 80).startswith("web ")
            assert ask(apart, inside, 80, patience=0.6) == NOBODY
            assert machine.is_reached()
            machine.remove("beside", "apart")
    finally:
        machine.podman("network", "rm", "-f", "cnieapart2")
    assert_idle(machine, idle)
