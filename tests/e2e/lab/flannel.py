"""
A fleet of flannel's hosts and ours on one bed, with etcd on the router that all of them reach.

flanneld is the real one (.ci/servers builds it). Hosts of ours have an agent, whose keeper joins them;
plugins are called without it.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cni_plugins.contract import snapshot
from cni_plugins.registries.network_registry import Refused
from tests.e2e.lab.host import Host
from tests.e2e.lab.overlay import UPLINK, Bed, Container, Node, attach, detach
from tests.namespaces import entered
from tests.servers.etcd import Etcd
from tests.servers.member import CACHE

CNICTL = ("/opt/cni/bin/cnictl",)
FLANNELD = CACHE / "flannel/flanneld"
ETCD = "10.99.0.254"
ENDPOINT = f"http://{ETCD}:2379"
NETWORK = "10.5.0.0/16"
NAME = "ovkeflannel"
SUBNET_ENV = "/run/flannel/subnet.env"
_SUBNETS = "/coreos.com/network/subnets/"
_PATIENCE = 60.0  # seconds, on a machine under load
_LEFT = ("cni0", "flannel.1")


@dataclass
class Fleet:
    """:ivar daemons, keepers, containers: by number of the host."""

    bed: Bed
    etcd: Etcd
    logs: Path
    daemons: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    keepers: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    containers: dict[int, Container] = field(default_factory=dict)

    # ------------------------------------------------------------------------------------------- flannel

    def start_flannel(self, number: int) -> None:
        """Start flanneld on a host, and wait until it has its subnet."""
        node = self.bed.node(number)
        node.host.run("rm", "-f", SUBNET_ENV)
        with (self.logs / f"flanneld{number}").open("ab") as log:
            self.daemons[number] = node.host.start(
                str(FLANNELD), "-etcd-endpoints", ENDPOINT, "-iface", UPLINK, "-v", "2", log=log
            )
        until(node.host.path(SUBNET_ENV).exists, f"flanneld of h{number} has a subnet", self.log_of(number))

    def stop_flannel(self, number: int, *, how: int = signal.SIGTERM) -> None:
        process = self.daemons.pop(number)
        process.send_signal(how)
        process.wait(_PATIENCE)

    def log_of(self, number: int) -> Callable[[], str]:
        return lambda: (self.logs / f"flanneld{number}").read_text()[-3000:]

    def environment(self, number: int) -> dict[str, str]:
        """What flanneld of a host tells the CNI plugin `flannel`."""
        lines = self.bed.node(number).host.path(SUBNET_ENV).read_text().split()
        return dict(line.split("=", 1) for line in lines)

    def convert(self, number: int) -> None:
        """Take flannel off a host as docs/overlay.md says."""
        self.detach(number)
        self.stop_flannel(number)
        for link in _LEFT:
            self.bed.node(number).host.run("ip", "link", "delete", link, check=False)

    # ---------------------------------------------------------------------------------------------- ours

    def start_ours(self, number: int) -> None:
        """Let a host join, and wait until it has the peers."""
        node = self.bed.node(number)
        node.host.write(f"/etc/cni/net.d/10-{NAME}.conf", json.dumps(conf_of(node)))
        directory = node.host.path(snapshot.overlay_dir(NAME))
        words = [*CNICTL, "agent", "--workers", "1", "--no-repair", "--socket", "/run/cni-plugins/other.sock"]
        with (self.logs / f"agent{number}").open("ab") as log:
            self.keepers[number] = node.host.start(*words, log=log)
        until(lambda: self._knows(directory), f"h{number} knows its peers", self._agents_log(number))

    @staticmethod
    def _knows(directory: Path) -> bool:
        """:raises Refused: when the keeper says that it cannot be in the network."""
        state = snapshot.read_state(str(directory))
        if state is not None and state.state == "refused":
            raise Refused(state.trouble)
        return (directory / "peers.json").exists()

    def _agents_log(self, number: int) -> Callable[[], str]:
        return lambda: (self.logs / f"agent{number}").read_text()[-3000:]

    def stop_ours(self, number: int) -> None:
        process = self.keepers.pop(number)
        process.terminate()
        process.wait(_PATIENCE)

    def release(self, number: int, by: int) -> None:
        """Take a host out of the network for good, from another one."""
        words = ["overlay", "release", f"h{number}", NAME, "--force"]
        self.bed.node(by).host.run(*CNICTL, *words)

    # ---------------------------------------------------------------------------------------- containers

    def attach(self, number: int) -> Container:
        """A container of a host, by our plugin or, as flannel's plugin does it, by bridge."""
        node = self.bed.node(number)
        conf = conf_of(node) if number in self.keepers else self._bridge(number)
        self.containers[number] = attach(node, f"ovkefl{number}", conf)
        return self.containers[number]

    def detach(self, number: int) -> None:
        detach(self.containers.pop(number))

    def _bridge(self, number: int) -> dict[str, Any]:
        said = self.environment(number)
        subnet = re.sub(r"\.1/", ".0/", said["FLANNEL_SUBNET"])
        ipam = {"type": "host-local", "subnet": subnet, "routes": [{"dst": NETWORK}]}
        return {
            "cniVersion": "1.0.0",
            "name": "cbr0",
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "mtu": int(said["FLANNEL_MTU"]),
            "ipam": ipam,
        }

    def require_reach(self, *numbers: int) -> None:
        """Wait until every container of these hosts reaches the others."""
        listed = [self.containers[number] for number in numbers or self.containers]
        for one in listed:
            others = [address for other in listed if other is not one for address in other.addresses]
            until(lambda one=one, others=others: not one.unreached(others), f"{one.name} reaches {others}")

    def reaches(self, source: int, destination: int) -> bool:
        return not self.containers[source].unreached(self.containers[destination].addresses, seconds=1)

    # ---------------------------------------------------------------------------------------------- etcd

    def keys(self) -> dict[str, dict[str, Any]]:
        """Return flannel's keys: the value, and `lease`, 0 for none, by subnet."""
        with self.near():
            found = self.etcd.call(
                "kv/range", {"key": _text(_SUBNETS), "range_end": _text(_SUBNETS[:-1] + "0")}
            )
        return {
            base64.b64decode(item["key"]).decode().removeprefix(_SUBNETS): {
                **json.loads(base64.b64decode(item["value"])),
                "lease": int(item.get("lease", 0)),
            }
            for item in found.get("kvs", [])
        }

    def key_of(self, number: int) -> tuple[str, dict[str, Any]]:
        """Return the name and value of a host's key."""
        address = self.bed.node(number).vteps[4]
        return next((name, value) for name, value in self.keys().items() if value["PublicIP"] == address)

    def expire(self, lease: int) -> None:
        """Let a lease end now, as it does a day after flanneld was stopped."""
        with self.near():
            self.etcd.call("lease/revoke", {"ID": str(lease)})

    @contextmanager
    def near(self) -> Iterator[None]:
        with entered(self.bed.routers()[0]):
            yield

    def close(self) -> None:
        for process in (*self.keepers.values(), *self.daemons.values()):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def raise_fleet(bed: Bed, directory: Path, backend: Mapping[str, Any] | None = None) -> Iterator[Fleet]:
    """Start etcd with a config of flannel."""
    with ExitStack() as stack:
        near = bed.routers()[0]
        etcd = Etcd(directory, addresses=[ETCD], netns=[near])
        stack.callback(etcd.close)
        with entered(near):
            etcd.start()
            config = {"Network": NETWORK, "Backend": {"Type": "vxlan", **(backend or {})}}
            etcd.put("/coreos.com/network/config", json.dumps(config).encode())
        fleet = Fleet(bed, etcd, directory)
        stack.callback(fleet.close)
        yield fleet


def conf_of(node: Node) -> dict[str, Any]:
    """The config of a host of ours."""
    backend = {"type": "etcd", "endpoints": [ENDPOINT], "layout": "flannel", "node": node.name}
    network = {"vni": 1, "port": 8472, "network": NETWORK, "ipMasq": True}
    return {"cniVersion": "1.0.0", "name": NAME, "type": "vxlan", **network, "backend": backend}


@contextmanager
def pinging(source: Container, address: str) -> Iterator[list[int]]:
    """Ping every 10 ms for a block; afterwards the list has the numbers of packets sent and lost."""
    counts: list[int] = []
    words = ["ip", "netns", "exec", source.name, "ping", "-n", "-q", "-i", "0.01", "-W", "5", address]
    process = subprocess.Popen(_argv(source.node.host, words), stdout=subprocess.PIPE, text=True)
    try:
        yield counts
    finally:
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=_PATIENCE)
    found = re.search(r"(\d+) packets transmitted, (\d+) received", said)
    assert found is not None, said
    sent, received = int(found[1]), int(found[2])
    counts += [sent, max(0, sent - received)]


def _argv(host: Host, words: Iterable[str]) -> list[str]:
    return host.argv(*words)


def until(test: Callable[[], Any], what: str, more: Callable[[], str] = lambda: "") -> None:
    """Wait until a test returns something true."""
    end = time.monotonic() + _PATIENCE
    while not test():
        assert time.monotonic() < end, f"{what}\n{more()}"
        time.sleep(0.05)


def _text(key: str) -> str:
    return base64.b64encode(key.encode()).decode()
