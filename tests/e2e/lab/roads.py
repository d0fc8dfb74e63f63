"""
Which modules a call loads, told by the frozen program itself.

The interpreter in the executable cannot be asked, so this interpreter is given the executable's archive of
modules and its importer, and nothing else to import from. `python -m tests.e2e.lab.roads` writes the lists
anew (as root, after `make freeze`).
"""

from __future__ import annotations

import json
import os
import struct
import sys
from pathlib import Path
from typing import Any

from PyInstaller.archive.readers import CArchiveReader  # type: ignore[import-untyped]

from tests.e2e.lab.host import Host, raise_host
from tests.e2e.lab.plugin import BIN, Call
from tests.e2e.lab.tools import REPOSITORY

LISTS = Path(__file__).with_name("roads.json")
ROAD = REPOSITORY / "packaging" / "road.txt"
"""What the frozen program imports at once for an attachment, in the order in which modules are complete."""
ATTACHMENTS = ("bridge ADD", "macvlan ADD", "ptp ADD", "vxlan ADD")
OURS = "cni_plugins"
TRAILER = struct.Struct("=QQQQ8s")
INSIDE = """
import ctypes, os, sys
program, offset, home, name, packaging = sys.argv[1:]
sys.path.insert(0, packaging)
import importer
sys._pyinstaller_pyz, sys._MEIPASS, sys.executable, sys.argv = f"{program}?{offset}", home, program, [name]
if not hasattr(os, "setns"):  # as in the executables, by packaging/inside.c
    libc = ctypes.CDLL(None, use_errno=True)
    os.setns = lambda fd, kind=0: libc.setns(fd, kind)
    os.unshare = lambda kinds: libc.unshare(kinds)
for name in [name for name in sys.modules if name.split(".")[0].lstrip("_") in ("ctypes", "struct")]:
    del sys.modules[name]
before = set(sys.modules)
importer.install()
end = os._exit
order = []
execute = importer.Archive.exec_module
def note(self, module):
    execute(self, module)
    order.append(module.__name__)
importer.Archive.exec_module = note
def tell(code):
    others = sorted(set(sys.modules) - before - {"importer"} - set(order))
    os.write(2, " ".join([*order, "|", *others]).encode())
    end(code)
os._exit = tell
from cni_plugins.front.main import main
main()
"""
HOST_LOCAL = {"type": "host-local", "ranges": [[{"subnet": "10.7.0.0/24"}], [{"subnet": "fd07::/64"}]]}
PLAIN = {"cniVersion": "1.1.0", "name": "cnie", "type": "bridge", "bridge": "cnie0", "isGateway": True}
BRIDGE = {**PLAIN, "ipam": HOST_LOCAL}
FULL = {**BRIDGE, "ipMasq": True, "macspoofchk": True, "isDefaultGateway": True}
WIRE = {"cniVersion": "1.1.0", "name": "cniew", "type": "macvlan", "master": "eth0", "ipam": HOST_LOCAL}
ROUTER = {**WIRE, "hostAccess": True, "isGateway": True, "ipMasq": True}
PTP = {"cniVersion": "1.1.0", "name": "cniep", "type": "ptp", "ipam": HOST_LOCAL}
PEERS = [
    {"vtep": "192.0.2.1", "subnet": "10.8.1.0/24"},
    {"vtep": "192.0.2.2", "subnet": "10.8.2.0/24"},
]
OVERLAY = {
    "cniVersion": "1.1.0",
    "name": "cniev",
    "type": "vxlan",
    "network": "10.8.0.0/16",
    "backend": {"type": "static", "peers": PEERS},
}
CHAINED = {"cniVersion": "1.1.0", "name": "cnie", "type": "sbr"}
TUNING = {
    "cniVersion": "1.1.0",
    "name": "cnie",
    "type": "tuning",
    "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"},
    "mtu": 1400,
    "prevResult": {"cniVersion": "1.1.0", "interfaces": [{"name": "eth4", "sandbox": "/run/netns/cnie1"}]},
}
FILTERED = {"cniVersion": "1.1.0", "name": "cnie", "type": "firewall", "ingressPolicy": "isolated"}
PORTS = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]
PUBLISHED = {
    "cniVersion": "1.1.0",
    "name": "cnie",
    "type": "portmap",
    "runtimeConfig": {"portMappings": PORTS},
}
LIMITED = {
    "cniVersion": "1.1.0",
    "name": "cnie",
    "type": "bandwidth",
    "ingressRate": 10**6,
    "ingressBurst": 10**6,
}
STALE = {"cni.dev/valid-attachments": []}
BROKEN = b"{"
LOOPBACK = {"cniVersion": "1.1.0", "name": "cnie", "type": "loopback"}
ROADS = {
    "VERSION": Call("VERSION", PLAIN),
    "error": Call("ADD", BROKEN),
    "loopback ADD": Call("ADD", LOOPBACK),
    "host-local ADD": Call("ADD", BRIDGE, plugin="host-local", container="ipam"),
    "cluster DEL": Call("DEL", {**PLAIN, "ipam": {"type": "cluster"}}, plugin="cluster", container="ipam"),
    "static ADD": Call("ADD", {**PLAIN, "ipam": {"type": "static"}}, plugin="static"),
    "bridge ADD": Call("ADD", BRIDGE, container="plain", ifname="eth1"),
    "bridge ADD, everything on": Call("ADD", FULL),
    "bridge CHECK": Call("CHECK", FULL),
    "portmap ADD": Call("ADD", PUBLISHED),
    "portmap CHECK": Call("CHECK", PUBLISHED),
    "portmap DEL": Call("DEL", PUBLISHED),
    "bandwidth ADD": Call("ADD", LIMITED),
    "bandwidth DEL": Call("DEL", LIMITED),
    "sbr ADD": Call("ADD", CHAINED),
    "sbr CHECK": Call("CHECK", CHAINED),
    "sbr DEL": Call("DEL", CHAINED),
    "firewall ADD": Call("ADD", FILTERED),
    "firewall DEL": Call("DEL", FILTERED),
    "bridge DEL": Call("DEL", FULL),
    "bridge GC": Call("GC", {**FULL, **STALE}),
    "bridge STATUS": Call("STATUS", FULL),
    "macvlan ADD": Call("ADD", WIRE, container="wire", ifname="eth2"),
    "macvlan ADD, everything on": Call("ADD", ROUTER, ifname="eth3"),
    "macvlan DEL": Call("DEL", ROUTER, ifname="eth3"),
    "ptp ADD": Call("ADD", PTP, ifname="eth4"),
    "tuning ADD": Call("ADD", TUNING, ifname="eth4"),
    "tuning DEL": Call("DEL", TUNING, ifname="eth4"),
    "ptp DEL": Call("DEL", PTP, ifname="eth4"),
    "vxlan ADD": Call("ADD", OVERLAY, ifname="eth5"),
    "vxlan DEL": Call("DEL", OVERLAY, ifname="eth5"),
}


def walk(host: Host, home: Path) -> dict[str, list[str]]:
    """Take every road on a host; the modules of each."""
    host.netns("cnie1")
    host.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "wire0")
    host.run("ip", "addr", "add", "192.0.2.1/24", "dev", "wire0")
    result: dict[str, Any] = {}
    found = {}
    for name, call in ROADS.items():
        follows = isinstance(call.conf, dict) and (
            call.command == "CHECK" or call.conf in (CHAINED, FILTERED, LIMITED, PUBLISHED)
        )
        said, found[name] = _take(
            host, home, call.but(conf={**call.conf, "prevResult": result}) if follows else call
        )
        if name == "bridge ADD, everything on":
            result = json.loads(said)
    return found


def modules_of(program: Path) -> int:
    """Where the archive of modules begins in an executable: packaging/bundle.h, or PyInstaller's table."""
    with program.open("rb") as file:
        file.seek(-TRAILER.size, os.SEEK_END)
        offset, *_, magic = TRAILER.unpack(file.read())
    if magic == b"CNIFROZE":
        return int(offset)
    archive = CArchiveReader(str(program))
    return int(next(archive._start_offset + entry[0] for entry in archive.toc.values() if entry[4] in "zZ"))


def _take(host: Host, home: Path, call: Call) -> tuple[str, list[str]]:
    program = f"{BIN}/bridge"
    offset = modules_of(host.path(program))
    name = Path(call.program).name
    words = [program, str(offset), str(home), name, str(REPOSITORY / "packaging")]
    done = host.run(
        sys.executable,
        *("-I", "-S", "-OO", "-c", INSIDE),
        *words,
        env=call.environment,
        input=call.stdin.decode(),
        check=False,
    )
    for unpacked in home.iterdir():
        unpacked.unlink()
    *trace, modules = done.stderr.splitlines() or [""]
    if done.returncode != (call.conf == BROKEN) or trace:
        raise AssertionError(f"{name} {call.command}: {done.stdout}{done.stderr}")
    return done.stdout, modules.split()


def common(roads: dict[str, list[str]]) -> list[str]:
    """What all attachments import of the archive's own code."""
    complete = {name: modules[: modules.index("|")] for name, modules in roads.items()}
    return [name for name in complete[ATTACHMENTS[0]] if all(name in complete[road] for road in ATTACHMENTS)]


def main() -> None:
    """Write down the roads as they are now."""
    import tempfile

    with raise_host(REPOSITORY / "dist") as host, tempfile.TemporaryDirectory() as home:
        roads = walk(host, Path(home))
    ROAD.write_text("".join(f"{name}\n" for name in common(roads)))
    lists = {name: " ".join(sorted(set(modules) - {"|"})) for name, modules in roads.items()}
    LISTS.write_text(json.dumps(lists, indent=1) + "\n")


if __name__ == "__main__":
    main()
