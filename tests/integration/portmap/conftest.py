"""A host with published ports, a machine outside, and programs that answer with the source they see."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

HOST, OUTSIDE = {4: "192.0.2.1", 6: "fd99::1"}, {4: "192.0.2.2", 6: "fd99::2"}
SERVER = """
import select, socket, sys
name, heard = sys.argv[1], []
for word in sys.argv[2:]:
    port, protocol = word.split("/")
    for family in (socket.AF_INET, socket.AF_INET6):
        kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
        made = socket.socket(family, kind, socket.IPPROTO_SCTP if protocol == "sctp" else 0)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(("", int(port)))
        if kind == socket.SOCK_STREAM:
            made.listen()
        heard.append(made)
print("ready", flush=True)
while True:
    for ready in select.select(heard, [], [])[0]:
        if ready.type == socket.SOCK_DGRAM:
            _, source = ready.recvfrom(100)
            ready.sendto(f"{name} {source[0]}".encode(), source)
        else:
            talk, source = ready.accept()
            talk.sendall(f"{name} {source[0]}".encode())
            talk.close()
"""
CLIENT = """
import socket, sys
address, port, protocol, own_port, patience = sys.argv[1:]
family = socket.AF_INET6 if ":" in address else socket.AF_INET
kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
made = socket.socket(family, kind, socket.IPPROTO_SCTP if protocol == "sctp" else 0)
made.settimeout(float(patience))
if int(own_port):
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("", int(own_port)))
try:
    made.connect((address, int(port)))
    if protocol == "udp":
        made.send(b"?")
    print(made.recv(100).decode())
except OSError as err:
    print("nobody")
"""
NOBODY = "nobody"


class Site:
    """The bed of all integration tests, with a machine outside and servers in sandboxes."""

    def __init__(self, bed: Any) -> None:
        self.bed, self.host = bed, bed.host
        self.outside = bed.sandbox()
        self._servers: list[subprocess.Popen[bytes]] = []
        for place in (self.host, self.outside):
            place.skip_dad()
        fd = self.outside._descriptor
        with self.host.entered():
            words = ["ip", "link", "add", "out0", "type", "veth", "peer", "out1", "netns"]
            subprocess.run([*words, f"/proc/self/fd/{fd}"], pass_fds=[fd], check=True)
        for place, link, addresses in ((self.host, "out0", HOST), (self.outside, "out1", OUTSIDE)):
            place.run("ip", "link", "set", "lo", "up")
            place.run("ip", "link", "set", link, "up")
            place.run("ip", "address", "add", f"{addresses[4]}/24", "dev", link)
            place.run("ip", "address", "add", f"{addresses[6]}/64", "dev", link, "nodad")
            place.run("ping", "-c1", "-W2", "-q", "ff02::1%" + link, check=False)

    @property
    def pools(self) -> dict[str, Any]:
        routes = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
        return self.bed.host_local("10.1.0.0/24", "fd01::/64", routes=routes)  # type: ignore[no-any-return]

    def conf(self, **keys: Any) -> dict[str, Any]:
        """Return the config of the main plugin."""
        return {**self.bed.conf(isGateway=True, hairpinMode=True, ipMasq=True), "ipam": self.pools, **keys}

    def serve(self, sandbox: Any, name: str, *ports: str) -> None:
        with sandbox.entered():
            server = subprocess.Popen([sys.executable, "-c", SERVER, name, *ports], stdout=subprocess.PIPE)
        self._servers.append(server)
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"

    def ask(self, place: Any, address: str, port: int, protocol: str = "tcp", **options: float) -> str:
        """Return who answered, and the source that it saw; NOBODY if nobody did.

        :param options: own_port, and patience in seconds
        """
        own_port, patience = options.get("own_port", 0), options.get("patience", 3)
        words = [sys.executable, "-c", CLIENT, address, str(port), protocol, str(own_port), str(patience)]
        with place.entered():
            return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()

    def close(self) -> None:
        for server in self._servers:
            server.kill()
            server.communicate()


class Publisher:
    """Attaches containers to a bridge, and publishes their ports."""

    def __init__(self, site: Site, **keys: Any) -> None:
        self.site, self.bed, self.keys = site, site.bed, keys
        self.results: dict[str, Any] = {}

    def attach(self, container: str = "c1", **keys: Any) -> Any:
        sandbox = self.bed.sandbox()
        sandbox.skip_dad()
        self.results[container] = self.bed.add(self.site.conf(**keys), sandbox, container=container)
        return sandbox

    def conf(self, *ports: Any, container: str = "c1", **keys: Any) -> dict[str, Any]:
        listed = [published(port) for port in ports]
        return {
            "cniVersion": "1.1.0",
            "name": "net1",
            "type": "portmap",
            "prevResult": self.results.get(container),
            "runtimeConfig": {"portMappings": listed},
            **self.keys,
            **keys,
        }

    def call(
        self, command: str, sandbox: Any, *ports: Any, container: str = "c1", **keys: Any
    ) -> tuple[int, Any]:
        ifname = keys.pop("ifname", "eth0")
        conf = self.conf(*ports, container=container, **keys)
        given = {key: value for key, value in conf.items() if value is not None}
        return self.bed.call(command, given, sandbox, container=container, ifname=ifname)  # type: ignore[no-any-return]

    def publish(self, sandbox: Any, *ports: Any, **more: Any) -> Any:
        code, result = self.call("ADD", sandbox, *ports, **more)
        assert code == 0, result
        return result


def published(port: Any) -> dict[str, Any]:
    """Return a mapping for `[address:]port:port/protocol`, or for what is one already."""
    if isinstance(port, dict):
        return port
    ports, _, protocol = port.partition("/")
    *address, host, inside = ports.rsplit(":", 2)
    mapping = {"hostPort": int(host), "containerPort": int(inside), "protocol": protocol or "tcp"}
    return mapping | ({"hostIP": address[0]} if address else {})


@pytest.fixture
def site(bed: Any) -> Iterator[Site]:
    made = Site(bed)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(params=["nftables", "iptables"])
def publisher(request: Any, site: Site) -> Publisher:
    return Publisher(site, backend=request.param)


@pytest.fixture
def nft(site: Site) -> Publisher:
    return Publisher(site, backend="nftables")
