"""The firewall plugin beside a firewalld that runs: sources of zones, over a D-Bus of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import cni
from tests.cni import Answer
from tests.e2e.lab.firewalld import Firewalld, bus_and_firewalld
from tests.namespaces import Namespace

pytestmark = pytest.mark.needs("firewalld", "firewall-cmd", "dbus-daemon", "nft", "ip", "setpriv")

ADDRESSES = ["10.1.0.2/32", "fd00:1::2/128"]
RESULT: dict[str, Any] = {
    "cniVersion": "1.1.0",
    "ips": [{"address": "10.1.0.2/24", "interface": 2}, {"address": "fd00:1::2/64", "interface": 2}],
}
CONF: dict[str, Any] = {"cniVersion": "1.1.0", "name": "net1", "type": "firewall"}


class Node:
    """A host with firewalld, a container behind bridge br1, and a machine outside."""

    def __init__(self, dist: Path, directory: Path, host: Namespace, firewalld: Firewalld) -> None:
        self.dist, self.directory, self.host, self.firewalld = dist, directory, host, firewalld
        self.box, self.outside = Namespace(), Namespace()
        self.bus = firewalld.bus
        host.run("ip", "link", "set", "lo", "up")
        host.run("ip", "link", "add", "br1", "type", "bridge")
        self._connect(self.box, "veth1", 1, "10.1.0.2/24", "fd00:1::2/64")
        self._connect(self.outside, "up0", 0, "192.0.2.2/24", "2001:db8::2/64")
        for link, *addresses in (
            ("br1", "10.1.0.1/24", "fd00:1::1/64"),
            ("up0", "192.0.2.1/24", "2001:db8::1/64"),
        ):
            host.run("ip", "link", "set", link, "up")
            for address in addresses:
                host.run("ip", "address", "add", address, "dev", link, *_nodad(address))
        for place, four, six in (
            (self.box, "10.1.0.1", "fd00:1::1"),
            (self.outside, "192.0.2.1", "2001:db8::1"),
        ):
            place.run("ip", "route", "add", "default", "via", four)
            place.run("ip", "-6", "route", "add", "default", "via", six)
        host.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        interfaces = [{"name": "br1"}, {"name": "veth1"}, {"name": "eth0", "sandbox": self.box.path}]
        self.result = {**RESULT, "interfaces": interfaces}

    def _connect(self, place: Namespace, name: str, port: int, *addresses: str) -> None:
        self.host.run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", place.path)
        if port:
            self.host.run("ip", "link", "set", name, "master", "br1", "up")
        for address in addresses:
            place.run("ip", "address", "add", address, "dev", "eth0", *_nodad(address))
        place.run("ip", "link", "set", "eth0", "up")

    def call(self, command: str, container: str = "c1", **keys: Any) -> Answer:
        """Call the plugin; a key that is None is left out."""
        conf = {**CONF, "prevResult": self.result, **keys}
        variables = cni.environment(
            command,
            container=container,
            netns=self.box.path,
            path=self.dist,
            DBUS_SYSTEM_BUS_ADDRESS=self.bus,
            CNI_PLUGINS_LINGER="0",
        )
        with self.host.entered():
            return cni.run(
                [self.dist / "firewall"],
                {key: value for key, value in conf.items() if value is not None},
                cni.on_path(variables),
            )

    def error(self, command: str, **keys: Any) -> tuple[int, str]:
        answer = self.call(command, **keys)
        assert answer.code == 1, answer
        return answer.document["code"], answer.document["msg"]

    def reaches_outside(self) -> bool:
        answers = {
            any(self.box.succeeds("ping", "-c1", "-W1", "-q", item) for _ in range(2))
            for item in ("192.0.2.2", "2001:db8::2")
        }
        assert len(answers) == 1
        return answers.pop()

    def records(self) -> str:
        return self.host.run("nft", "list", "table", "inet", "cni_plugins", check=False)

    def close(self) -> None:
        for place in (self.box, self.outside):
            place.close()


def _nodad(address: str) -> tuple[str, ...]:
    return ("nodad",) if ":" in address else ()


@pytest.fixture
def node(dist: Path, tmp_path: Path) -> Iterator[Node]:
    with Namespace() as host, bus_and_firewalld(host, tmp_path) as firewalld:
        made = Node(dist, tmp_path, host, firewalld)
        firewalld.start()
        try:
            yield made
        finally:
            made.close()


def test_the_life_of_an_attachment(node: Node) -> None:
    """firewalld rejects what is forwarded between zones, unless a zone accepts it."""
    assert not node.reaches_outside()
    assert node.call("ADD").ok().document == node.result
    assert node.firewalld.sources() == ADDRESSES
    assert node.reaches_outside()
    node.call("CHECK").ok()
    node.call("STATUS").ok()
    node.call("ADD").ok()
    assert "firewall_firewalld6" in node.records()
    node.call("DEL").ok()
    assert node.firewalld.sources() == []
    assert node.records() == ""
    assert not node.reaches_outside()
    node.call("DEL").ok()


def test_it_is_chosen_only_while_it_runs(node: Node) -> None:
    node.firewalld.stop()
    node.call("ADD").ok()
    assert "firewall_nftables4" in node.records()
    node.firewalld.start()
    node.call("CHECK").ok()
    assert node.firewalld.sources() == []
    node.call("ADD", container="c2", backend="firewalld", prevResult=_other(node)).ok()
    node.firewalld.stop()
    lost = node.error("CHECK", container="c2", prevResult=_other(node))
    assert lost == (103, "firewall: firewalld does not run")
    node.call("CHECK").ok()
    node.call("DEL", container="c2", prevResult=None).ok()
    node.call("DEL").ok()
    assert node.records() == ""


def _other(node: Node) -> dict[str, Any]:
    ips = [{"address": "10.1.0.9/24", "interface": 2}]
    return {**node.result, "ips": ips}


def test_another_zone(node: Node) -> None:
    node.call("ADD", firewalldZone="internal").ok()
    assert node.firewalld.sources("internal") == ADDRESSES
    node.call("CHECK", firewalldZone="internal").ok()
    assert node.error("CHECK") == (
        103,
        "firewall: firewalld has 10.1.0.2/32 in zone internal, not in trusted",
    )
    node.call("DEL", prevResult=None).ok()
    assert node.firewalld.sources("internal") == []


def test_a_zone_that_does_not_exist(node: Node) -> None:
    assert node.error("ADD", firewalldZone="absent") == (7, "firewalld has no zone absent")
    assert node.error("STATUS", firewalldZone="absent") == (50, "firewalld has no zone absent")
    assert node.records() == ""


def test_an_address_that_somebody_put_into_another_zone_is_left_there(node: Node) -> None:
    node.firewalld("--zone=dmz", "--add-source=fd00:1::2/128")
    assert node.error("ADD") == (101, "firewalld has fd00:1::2/128 in a zone other than trusted")
    assert node.firewalld.sources("dmz") == ["fd00:1::2/128"]
    assert node.firewalld.sources() == []
    assert node.records() == ""
    node.call("DEL").ok()
    assert node.firewalld.sources("dmz") == ["fd00:1::2/128"]


def test_a_reload_drops_sources_and_check_says_so(node: Node) -> None:
    node.call("ADD").ok()
    node.firewalld("--reload")
    assert node.error("CHECK") == (103, "firewall: firewalld has 10.1.0.2/32 in no zone, not in trusted")
    assert not node.reaches_outside()
    node.call("ADD").ok()
    node.call("CHECK").ok()
    assert node.reaches_outside()


@pytest.mark.parametrize("keys", [{}, {"prevResult": None}], ids=["with prevResult", "without"])
def test_a_late_del_leaves_the_source_of_a_successor(node: Node, keys: dict[str, Any]) -> None:
    node.call("ADD").ok()
    node.call("ADD", container="c2").ok()
    node.call("DEL", **keys).ok()
    assert node.firewalld.sources() == ADDRESSES
    node.call("CHECK", container="c2").ok()
    assert node.error("CHECK")[0] == 103
    node.call("DEL", container="c2", **keys).ok()
    assert node.firewalld.sources() == []


def test_what_the_reference_added_is_removed(node: Node) -> None:
    for address in ADDRESSES:
        node.firewalld("--zone=trusted", f"--add-source={address}")
    node.firewalld("--zone=trusted", "--add-source=10.1.0.3/32")
    node.call("CHECK").ok()
    node.call("DEL", prevResult=None).ok()
    assert len(node.firewalld.sources()) == 3
    node.call("DEL").ok()
    assert node.firewalld.sources() == ["10.1.0.3/32"]


def test_gc(node: Node) -> None:
    node.call("ADD").ok()
    node.call("ADD", container="c2", prevResult=_other(node)).ok()
    valid = [{"containerID": "c2", "ifname": "eth0"}]
    node.call("GC", **{"cni.dev/valid-attachments": valid}).ok()
    assert node.firewalld.sources() == ["10.1.0.9/32"]
    node.call("GC", **{"cni.dev/valid-attachments": []}).ok()
    assert node.firewalld.sources() == []


def test_policies_do_not_depend_on_it(node: Node) -> None:
    node.call("ADD", ingressPolicy="isolated").ok()
    assert "apart_isolated" in node.records()
    node.call("CHECK", ingressPolicy="isolated").ok()
    assert node.reaches_outside()
    node.call("DEL", prevResult=None).ok()
    assert node.records() == ""


class TestABusThatIsOutOfOrder:
    """Calls fail soon, and leave nothing; a DEL that needs firewalld may be repeated."""

    def test_firewalld_does_not_answer(self, node: Node) -> None:
        node.call("ADD", container="c2", prevResult=_other(node)).ok()
        process = node.firewalld.process()
        os.kill(process, signal.SIGSTOP)
        try:
            assert node.error("ADD") == (11, "firewalld or the D-Bus system bus does not answer")
            assert node.error("DEL", container="c2", prevResult=None)[0] == 11
        finally:
            os.kill(process, signal.SIGCONT)
        assert "c2" in node.records()
        node.call("DEL", container="c2", prevResult=None).ok()
        assert node.firewalld.sources() == []
        assert node.records() == ""

    def test_the_bus_accepts_and_says_nothing(self, node: Node, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as silent:
            silent.bind(str(tmp_path / "silent"))
            silent.listen()
            node.bus = f"unix:path={tmp_path}/silent"
            assert node.error("ADD") == (11, "firewalld or the D-Bus system bus does not answer")

    @pytest.mark.parametrize(
        "said", [b"", b"REJECTED\r\n", b"OK 0\r\n" + b"\xff" * 64, b"l" * 5000], ids=repr
    )
    def test_what_is_there_speaks_no_dbus(self, node: Node, tmp_path: Path, said: bytes) -> None:
        with socket.socket(socket.AF_UNIX) as rubbish:
            rubbish.bind(str(tmp_path / "rubbish"))
            rubbish.listen()
            thread = threading.Thread(target=_answer, args=(rubbish, said))
            thread.start()
            node.bus = f"unix:path={tmp_path}/rubbish"
            code, _ = node.error("ADD")
            thread.join()
        assert code in (11, 100)
        assert node.records() == ""

    def test_nobody_listens(self, node: Node, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as gone:
            gone.bind(str(tmp_path / "gone"))
        node.bus = f"unix:path={tmp_path}/gone"
        node.call("ADD").ok()
        assert "firewall_nftables4" in node.records()


def _answer(listener: socket.socket, said: bytes) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(4096)
        connection.sendall(said)
        connection.settimeout(0.2)
        with contextlib.suppress(OSError):
            connection.recv(4096)
