"""ZooKeeper servers."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from kazoo.client import KazooClient

from tests.namespaces import entered
from tests.servers.certificates import Certificates
from tests.servers.member import CACHE, Cluster, Member, free_ports, until

JARS = CACHE / "zookeeper"
PROGRAM = JARS / "zookeeper-3.9.5.jar"


class ZooKeeper(Cluster):
    """:param tls: clients must have certificates."""

    kind = "zookeeper"

    def __init__(
        self,
        directory: Path,
        number: int = 1,
        *,
        addresses: list[str] | None = None,
        netns: list[str] | None = None,
        tls: Certificates | None = None,
    ) -> None:
        self._addresses = addresses or ["127.0.0.1"] * number
        ports = free_ports(4 * number) if netns is None else [2181, 2888, 3888, 2182] * number
        self._tls = tls
        self._ports = [ports[4 * i : 4 * i + 4] for i in range(number)]
        self._spaces: list[str | None] = [*netns] if netns else [None] * number
        which = 3 if tls else 0
        endpoints = [f"{a}:{p[which]}" for a, p in zip(self._addresses, self._ports, strict=True)]
        members = [
            Member(directory / f"m{i}", self._command(directory / f"m{i}", i), self._spaces[i])
            for i in range(number)
        ]
        super().__init__(members, endpoints)

    def _command(self, directory: Path, number: int) -> Callable[[], list[str]]:
        client, *_, secure = self._ports[number]
        address = self._addresses[number]
        lines = ["tickTime=500", "minSessionTimeout=1000", "maxSessionTimeout=60000"]
        lines += ["initLimit=20", "syncLimit=10"]
        lines += [f"dataDir={directory}/data", f"clientPort={client}", f"clientPortAddress={address}"]
        lines += ["admin.enableServer=false", "4lw.commands.whitelist=*", "maxClientCnxns=0"]
        if len(self._addresses) > 1:
            lines += [
                f"server.{i + 1}={a}:{p[1]}:{p[2]}"
                for i, (a, p) in enumerate(zip(self._addresses, self._ports, strict=True))
            ]
        if self._tls:
            lines += [f"secureClientPort={secure}", f"secureClientPortAddress={address}"]
            lines += ["serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory"]
            lines += [f"ssl.keyStore.location={self._tls.server_both}"]
            lines += [f"ssl.trustStore.location={self._tls.ca}"]
            lines += ["ssl.clientAuth=need", "ssl.hostnameVerification=false"]

        def command() -> list[str]:
            (directory / "data").mkdir(parents=True, exist_ok=True)
            (directory / "data/myid").write_text(f"{number + 1}\n")
            (directory / "zoo.cfg").write_text("\n".join(lines) + "\n")
            words = ["java", "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{JARS}/*"]
            # A standalone server is another class than a member.
            words += ["org.apache.zookeeper.server.quorum.QuorumPeerMain"]
            return [*words, f"{directory}/zoo.cfg"]

        return command

    def wait(self) -> None:
        running = [m for m in self.members if m._process is not None]
        for member in running:
            number = self.members.index(member)
            until(lambda n=number: "Mode: " in self._four(n, b"srvr"), "ZooKeeper is ready", running)

    def _four(self, number: int, word: bytes) -> str:
        address = (self._addresses[number], self._ports[number][0])
        space = self._spaces[number]
        with entered(space) if space else nullcontext(), socket.create_connection(address, 2) as asked:
            asked.sendall(word)
            return asked.recv(4096).decode()

    def put(self, path: str, value: bytes) -> None:
        hosts = ",".join(f"{a}:{p[0]}" for a, p in zip(self._addresses, self._ports, strict=True))
        client = KazooClient(hosts=hosts)
        client.start(timeout=20)
        try:
            client.ensure_path(path)
            client.set(path, value)
        finally:
            client.stop()
            client.close()
