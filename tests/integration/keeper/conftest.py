"""Hosts on one wire, each with a keeper, and a store that they share."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Namespace
from tests.memory_store import MemoryCluster
from tests.store_server import StoreServer

ROOT = Path(__file__).resolve().parents[3]
RUN = "/run/cni-plugins/overlay"


def wait(condition: Callable[[], Any], seconds: float = 40.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.02)


class Ping:
    """A ping each 10 ms, which must not lose any but those that are still under way when it ends."""

    def __init__(self, source: Namespace, address: str) -> None:
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed when it ends)
        with source.entered():
            self._process = subprocess.Popen(
                ["ping", "-n", "-i", "0.01", "-W", "1", address], stdout=self._log, text=True
            )

    def require_all(self) -> None:
        time.sleep(1.0)  # of any load: enough packets to lose one
        self._process.send_signal(signal.SIGINT)
        self._process.wait(10)
        self._log.seek(0)
        told = self._log.read()
        self._log.close()
        sent = re.search(r"(\d+) packets transmitted", told)
        answered = {int(number) for number in re.findall(r"icmp_seq=(\d+) ", told)}
        assert sent, told
        assert len(answered) > 20
        assert set(range(1, max(answered) + 1)) - answered == set()
        assert int(sent[1]) - max(answered) < 20, "there were no answers in the end"


class Host:
    """One of the hosts, driven from the test."""

    def __init__(self, wire: "Wire", number: int) -> None:
        self.number = number
        self.name = f"h{number}"
        self.namespace = Namespace()
        self.sandboxes: list[Namespace] = []
        self.directory = wire.directory / self.name
        self.conf_dir = self.directory / "net.d"
        self.conf_dir.mkdir(parents=True)
        self._wire = wire
        self._log = (self.directory / "log").open("w")
        wire.connect(self)
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.integration.keeper.host",
                str(self.directory),
                self.namespace.path,
                str(wire.server.path),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=ROOT,
        )

    def tell(self, *words: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, (self.directory / "log").read_text()
        is_done, value = json.loads(answer)
        assert is_done, value
        return value

    def configure(self, network: str = "blue", **keys: Any) -> dict[str, Any]:
        backend = {"type": "etcd", "endpoints": ["http://192.0.2.254:2379"], "node": self.name}
        conf = {
            "cniVersion": "1.0.0",
            "name": network,
            "type": "vxlan",
            "network": "10.0.0.0/16",
            "underlay": {"cidr": "192.0.2.0/24"},
            "backend": {**backend, **keys.pop("backend", {})},
            "ipam": {"dataDir": str(self.directory / "leases")},
            **keys,
        }
        temporary = self.conf_dir / f".{network}"
        temporary.write_text(json.dumps(conf))
        temporary.rename(self.conf_dir / f"{network}.conf")
        return conf

    def add(self, conf: dict[str, Any], container: str = "c1") -> tuple[Namespace, str]:
        """Attach a container; return its namespace and address."""
        sandbox = Namespace()
        self.sandboxes.append(sandbox)
        code, result = self.tell("call", "ADD", conf, container, sandbox.path)
        assert code == 0, result
        return sandbox, result["ips"][0]["address"].split("/")[0]

    @property
    def peers(self) -> dict[str, Any]:
        text = self.tell("read", f"{RUN}/blue/peers.json")
        return {one["node"]: one for one in json.loads(text)["peers"]} if text else {}

    @property
    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.tell("read", f"{RUN}/blue/state.json") or "{}")
        return found

    def fdb(self) -> set[str]:
        """Return the underlay addresses that the kernel sends to."""
        shown = self.namespace.run("bridge", "fdb", "show")
        return set(re.findall(r"dst ([0-9.]+)", shown))

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    def close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()
        for namespace in (*self.sandboxes, self.namespace):
            namespace.close()


class Wire:
    """A switch to which hosts are connected, and a store."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.server = StoreServer(directory / "store")
        self.cluster: MemoryCluster = self.server.cluster
        self.namespace = Namespace()
        self.namespace.run("ip", "link", "add", "wire", "type", "bridge")
        self.namespace.run("ip", "link", "set", "wire", "up")
        self.hosts: list[Host] = []

    def connect(self, host: Host) -> None:
        port = f"p{host.number}"
        with self.namespace.entered():
            words = ["ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns"]
            subprocess.run([*words, host.namespace.path], check=True)
            subprocess.run(["ip", "link", "set", port, "master", "wire", "up"], check=True)
        host.namespace.run("ip", "address", "add", f"192.0.2.{host.number}/24", "dev", "eth0")
        for link in ("lo", "eth0"):
            host.namespace.run("ip", "link", "set", link, "up")

    def host(self, number: int) -> Host:
        self.hosts.append(Host(self, number))
        return self.hosts[-1]

    def close(self) -> None:
        for host in self.hosts:
            host.close()
        self.namespace.close()
        self.server.close()


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    lacking = [tool for tool in ("ip", "bridge", "nft", "ping", "mount") if not shutil.which(tool)]
    if lacking:
        pytest.skip(f"not installed: {', '.join(lacking)} (see packaging/needs.sh)")
    if os.geteuid() != 0:
        pytest.skip("needs root")
    made = Wire(tmp_path)
    try:
        yield made
    finally:
        made.close()
