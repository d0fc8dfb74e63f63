"""How long after a host has been started all the others reach it: real flanneld, and ours, on one etcd.

`python -m tests.bench.overlay_join flannel|ours|ours-running [--at 10 30 100]` needs root and the servers
of .ci/servers. Hosts are network namespaces on one bridge, started one after the other. Measured is from the
start of a host's process to the first answer that each of the others gets to a ping of the new host's address
in the overlay; with `ours-running` from the moment in which the config arrives at a host whose agent runs.
"""

import argparse
import contextlib
import json
import os
import selectors
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network, ip_address
from pathlib import Path
from typing import NamedTuple

from tests.namespaces import Namespace, run
from tests.servers.etcd import PROGRAM as ETCD
from tests.servers.etcd import Etcd
from tests.servers.member import CACHE

REPOSITORY = Path(__file__).resolve().parents[2]
FLANNELD = CACHE / "flannel/flanneld"
CNICTL = REPOSITORY / "dist/cnictl"
_NETWORK = "10.5.0.0/16"
_STORE = "10.98.255.1"
_ENDPOINT = f"http://{_STORE}:2379"
_UPLINK = "uplink"
_CONFIG, _SUBNETS = "/coreos.com/network/config", "/coreos.com/network/subnets/"
_OURS = "join"
_PATIENCE = 120.0  # seconds
_REST = 1.0  # seconds until a started agent has nothing more to do
_EVERY = 0.01  # seconds between two echo requests of a host
# A host's own files: what is written there lies in memory, and goes with the process.
_PRIVATE = """
for dir in /run /etc/cni /var/lib; do mount -t tmpfs -o mode=755 tmpfs $dir; done
mkdir -p /etc/cni/net.d
[ -z "$CONF" ] || printf %s "$CONF" >/etc/cni/net.d/10-join.conf
exec "$0" agent --workers 1 --no-repair
"""


class Joined(NamedTuple):
    """Seconds, of one host that joined.

    :param known: until it had its subnet.
    :param reached: until each of the others reached it.
    """

    known: float
    reached: list[float]


class Host:
    """A namespace with an address of the underlay, and the process of one host."""

    def __init__(self, number: int, directory: Path) -> None:
        self.number, self.directory = number, directory
        self.address = str(ip_address("10.98.0.0") + number)
        self.namespace = Namespace()
        self.process: subprocess.Popen[bytes] | None = None
        self.prober: socket.socket | None = None
        port = f"j{number}"
        run("ip", "link", "add", port, "master", "br0", "up", "type", "veth", "peer", "name", _UPLINK)
        run("ip", "link", "set", _UPLINK, "netns", self.namespace.path)
        with self.namespace.entered():
            run("ip", "link", "set", "lo", "up")
            run("ip", "address", "add", f"{self.address}/16", "dev", _UPLINK)
            run("ip", "link", "set", _UPLINK, "up")
            run("sysctl", "-qw", "net.ipv4.ip_forward=1")
            self.prober = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
            self.prober.setblocking(False)

    def start(self, *words: str, conf: str = "") -> None:
        with self.namespace.entered(), (self.directory / f"log{self.number}").open("wb") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "CONF": conf},
                start_new_session=True,
            )

    def inside(self, path: str) -> Path:
        """Return what this process calls a file of the host's process."""
        assert self.process is not None
        return Path(f"/proc/{self.process.pid}/root") / path

    def close(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.prober is not None:
            self.prober.close()
        self.namespace.close()


# ---------------------------------------------------------------------------------------------- the two kinds


def start_flannel(host: Host) -> None:
    """Run flanneld without its rules for iptables: a hundred of it would compare them every 5 s."""
    words = [str(FLANNELD), "-etcd-endpoints", _ENDPOINT, "-iface", _UPLINK, "-iptables-forward-rules=false"]
    host.start(*words, "-subnet-file", f"{host.directory}/subnet{host.number}.env")


def _conf(host: Host) -> str:
    """The config of a host; `keep`, as there is no container."""
    backend = {"type": "etcd", "endpoints": [_ENDPOINT], "node": f"h{host.number}"}
    network = {"network": _NETWORK, "subnetLen": 24, "keep": True, "underlay": {"interface": _UPLINK}}
    conf = {"cniVersion": "1.1.0", "name": _OURS, "type": "vxlan", **network, "backend": backend}
    return json.dumps(conf)


def _start_agent(host: Host, conf: str = "") -> None:
    host.start("unshare", "-m", "sh", "-euc", _PRIVATE, str(CNICTL), conf=conf)


def start_ours(host: Host) -> None:
    """Run the agent, whose keeper does all of it."""
    _start_agent(host, _conf(host))


def run_agent(host: Host) -> None:
    """Run the agent of a host that has no network yet."""
    _start_agent(host)
    assert host.process is not None
    _until(lambda: "agent" if host.inside("run/cni-plugins/agent.sock").exists() else None, host)
    time.sleep(_REST)


def configure(host: Host) -> None:
    """Give the config to a host whose agent runs."""
    path = host.inside("etc/cni/net.d/10-join.conf")
    path.with_suffix(".new").write_text(_conf(host))
    path.with_suffix(".new").rename(path)


def flannels_address(etcd: Etcd, host: Host) -> str | None:
    for name, value in _keys(etcd, _SUBNETS).items():
        if json.loads(value)["PublicIP"] == host.address:
            return name.partition("-")[0]
    return None


def our_address(etcd: Etcd, host: Host) -> str | None:
    """A host's own end of the overlay is the first address of its subnet, as flannel's is."""
    for value in _keys(etcd, f"/cni-plugins/v1/{_OURS}/nodes/").values():
        record = json.loads(value)
        if record["vtep"] == host.address:
            listed = record.get("subnet") or record.get("subnets") or []
            subnet = listed if isinstance(listed, str) else next(iter(listed), "")
            return str(IPv4Network(subnet).network_address) if subnet else None
    return None


class Kind(NamedTuple):
    """:param prepare: what is done before the time is taken."""

    start: Callable[[Host], None]
    address_of: Callable[[Etcd, Host], str | None]
    program: Path
    prepare: Callable[[Host], None] = lambda _host: None


KINDS = {
    "flannel": Kind(start_flannel, flannels_address, FLANNELD),
    "ours": Kind(start_ours, our_address, CNICTL),
    "ours-running": Kind(configure, our_address, CNICTL, run_agent),
}


# -------------------------------------------------------------------------------------------------- measuring


def measured(etcd: Etcd, kind: str, host: Host, others: list[Host]) -> Joined:
    """Start a host, and wait until all the others reach it."""
    of = KINDS[kind]
    of.prepare(host)
    begun = time.monotonic()
    of.start(host)
    address = _until(lambda: of.address_of(etcd, host), host)
    known = time.monotonic() - begun
    return Joined(known, [at - begun for at in _answers(address, others, host)])


def _answers(address: str, others: list[Host], host: Host) -> list[float]:
    """Return when each of the others got its first answer from an address."""
    found: list[float] = []
    with selectors.DefaultSelector() as waiting:
        for other in others:
            assert other.prober is not None
            _drain(other.prober)
            waiting.register(other.prober, selectors.EVENT_READ, other)
        end = time.monotonic() + _PATIENCE
        while waiting.get_map():
            if time.monotonic() > end:
                raise RuntimeError(f"{len(waiting.get_map())} hosts do not reach {address}\n{_log(host)}")
            for key in list(waiting.get_map().values()):
                with contextlib.suppress(OSError):  # there is no route yet
                    key.fileobj.sendto(_request(key.data.number), (address, 0))  # type: ignore[union-attr]
            for key, _ in waiting.select(_EVERY):
                if _is_answer(key.fileobj, address):  # type: ignore[arg-type]
                    found.append(time.monotonic())
                    waiting.unregister(key.fileobj)
            time.sleep(_EVERY)
    return found


def _request(number: int) -> bytes:
    head = struct.pack("!BBHHH", 8, 0, 0, os.getpid() & 0xFFFF, number)
    total = sum(struct.unpack("!4H", head))
    total = (total & 0xFFFF) + (total >> 16)
    return head[:2] + struct.pack("!H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF) + head[4:]


def _is_answer(prober: socket.socket, address: str) -> bool:
    with contextlib.suppress(BlockingIOError):
        while True:
            packet, (sender, _) = prober.recvfrom(2048)
            if sender == address and packet[(packet[0] & 15) * 4] == 0:
                return True
    return False


def _drain(prober: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while True:
            prober.recvfrom(2048)


def _keys(etcd: Etcd, prefix: str) -> dict[str, bytes]:
    key, end = (
        b64encode(text.encode()).decode() for text in (prefix, prefix[:-1] + chr(ord(prefix[-1]) + 1))
    )
    found = etcd.call("kv/range", {"key": key, "range_end": end}).get("kvs", [])
    return {b64decode(one["key"]).decode().removeprefix(prefix): b64decode(one["value"]) for one in found}


def _until(test: Callable[[], str | None], host: Host) -> str:
    end = time.monotonic() + _PATIENCE
    while True:
        found = test()
        if found is not None:
            return found
        if time.monotonic() > end:
            raise RuntimeError(f"host {host.number} gets no subnet\n{_log(host)}")
        time.sleep(_EVERY)


def _log(host: Host) -> str:
    return (host.directory / f"log{host.number}").read_text(errors="replace")[-3000:]


# ---------------------------------------------------------------------------------------------------- a fleet


@contextlib.contextmanager
def fleet(directory: Path) -> Iterator[Etcd]:
    """The calling thread is in the namespace of the switch, with etcd, for a block."""
    with Namespace() as switch, switch.entered():
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "br0", "up", "type", "bridge")
        run("ip", "address", "add", f"{_STORE}/16", "dev", "br0")
        etcd = Etcd(directory / "etcd", addresses=[_STORE], netns=[switch.path])
        try:
            etcd.start()
            config = {"Network": _NETWORK, "Backend": {"Type": "vxlan"}}
            etcd.put(_CONFIG, json.dumps(config).encode())
            yield etcd
        finally:
            etcd.close()


def joins(kind: str, at: list[int]) -> Iterator[tuple[int, Joined]]:
    """Yield what was measured of the hosts with these numbers."""
    hosts: list[Host] = []
    with tempfile.TemporaryDirectory(prefix="join-") as name, fleet(Path(name)) as etcd:
        try:
            for number in range(1, max(at) + 1):
                host = Host(number, Path(name))
                others = [*hosts]
                hosts.append(host)
                # Also where nothing is asked: each host joins a fleet that is at rest.
                joined = measured(etcd, kind, host, others)
                if number in at:
                    yield number, joined
        finally:
            for host in hosts:
                host.close()


def main(words: list[str]) -> int:
    """Measure, and print a line for each host that was asked for."""
    parser = argparse.ArgumentParser(prog="overlay_join", description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--at", type=int, nargs="+", default=[10, 30, 100], metavar="NUMBER")
    wanted = parser.parse_args(words)
    lacking = [str(file) for file in (ETCD, KINDS[wanted.kind].program) if not file.exists()]
    if os.geteuid() != 0 or lacking:
        sys.stderr.write(f"overlay_join: needs root, and {', '.join(lacking) or 'nothing else'}\n")
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    print(
        f"{'host':>5} {'subnet after':>13} {'half reach it':>14} {'all reach it':>13} {'from the subnet':>16}"
    )
    for number, joined in joins(wanted.kind, sorted(wanted.at)):
        half, last = statistics.median(joined.reached or [joined.known]), max(joined.reached, default=0.0)
        rest = max(0.0, last - joined.known)
        times = f"{joined.known:>11.2f} s {half:>12.2f} s {last:>11.2f} s {rest:>14.2f} s"
        print(f"{number:>5} {times}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
