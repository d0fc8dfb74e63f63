"""A test bed of network namespaces: one is the host the plugins run in, others are sandboxes.

Namespaces live as long as the processes that hold them, so nothing is left whatever a test does, and no root
is needed beyond that of a user namespace (`unshare -rmn`).
"""

import contextlib
import ctypes
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.engine import run as engine
from cni_plugins.engine.program import Program

_CLONE_NEWNET = 0x40000000
_HOLD = 'import sys; print("up", flush=True); sys.stdin.read()'


class Namespace:
    """A network namespace held by a process of ours."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(
            ["unshare", "--net", sys.executable, "-S", "-c", _HOLD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "up\n"
        self.path = f"/proc/{self._holder.pid}/ns/net"

    def run(self, *command: str, check: bool = True) -> str:
        done = subprocess.run(["nsenter", f"--net={self.path}", *command], capture_output=True, text=True)
        assert not check or done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def ip(self, *arguments: str) -> Any:
        """Return what `ip -json` says."""
        return json.loads(self.run("ip", "-json", "-details", *arguments) or "[]")

    def link(self, name: str) -> dict[str, Any] | None:
        return next((link for link in self.ip("link") if link.get("ifname") == name), None)

    def addresses(self, name: str) -> set[str]:
        """Return the addresses of a link but for the link-local ones the kernel makes."""
        shown = [item for item in self.ip("address", "show", "dev", name) if item]
        listed = [info for item in shown for info in item["addr_info"] if info["scope"] != "link"]
        return {f"{info['local']}/{info['prefixlen']}" for info in listed}

    def routes(self, *arguments: str) -> list[dict[str, Any]]:
        return self.ip("route", "show", *arguments)

    def reaches(self, address: str) -> bool:
        command = ["nsenter", f"--net={self.path}", "ping", "-c1", "-W2", "-q", address]
        return subprocess.run(command, capture_output=True).returncode == 0

    def skip_dad(self) -> None:
        """Let links made from now on have IPv6 addresses that are never tentative."""
        self.run("sh", "-c", "for f in /proc/sys/net/ipv6/conf/*/accept_dad; do echo 0 > $f; done")

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait()
        for pipe in (self._holder.stdin, self._holder.stdout):
            if pipe:
                pipe.close()


class Bed:
    """A host, its sandboxes, a lease directory, and the suite as a runtime calls it."""

    def __init__(self, directory: Path) -> None:
        self.host = Namespace()
        self.host.run("ip", "link", "set", "lo", "up")
        self._sandboxes: list[Namespace] = []
        self.leases = directory / "leases"
        self.bin = directory / "bin"
        self.bin.mkdir()
        program = self.bin / "bridge"
        program.write_text("")
        for name in ("host-local", "static", "loopback"):
            os.link(program, self.bin / name)
        status = program.stat()
        self.program = Program(status.st_dev, status.st_ino)

    def sandbox(self) -> Namespace:
        made = Namespace()
        self._sandboxes.append(made)
        return made

    def host_local(self, *subnets: str, **more: Any) -> dict[str, Any]:
        ranges = [[{"subnet": subnet}] for subnet in subnets]
        return {"type": "host-local", "dataDir": str(self.leases), "ranges": ranges, **more}

    def conf(self, **keys: Any) -> dict[str, Any]:
        return {"cniVersion": "1.1.0", "name": "net1", "type": "bridge", "bridge": "br0", **keys}

    def call(
        self,
        command: str,
        conf: dict[str, Any],
        sandbox: Namespace | str = "",
        *,
        container: str = "c1",
        ifname: str = "eth0",
        **environment: str,
    ) -> tuple[int, Any]:
        """Run one command in the host; return exit code and what was printed, as JSON."""
        path = sandbox.path if isinstance(sandbox, Namespace) else sandbox
        variables = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": path,
            "CNI_IFNAME": ifname,
            "CNI_PATH": str(self.bin),
            "PATH": os.environ["PATH"],
            **environment,
        }
        text = json.dumps(conf).encode()
        with self.inside():
            outcome = engine.run(conf["type"], variables, lambda limit: text[:limit], self.program)
        return outcome.code, json.loads(outcome.stdout) if outcome.stdout else None

    def add(self, conf: dict[str, Any], sandbox: Namespace, **more: Any) -> dict[str, Any]:
        code, result = self.call("ADD", conf, sandbox, **more)
        assert code == 0, result
        return result

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Run a block with this process in the host's namespace, as a plugin would be."""
        libc = ctypes.CDLL(None, use_errno=True)
        back = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(self.host.path, os.O_RDONLY)
        try:
            assert libc.setns(there, _CLONE_NEWNET) == 0
            yield
        finally:
            assert libc.setns(back, _CLONE_NEWNET) == 0
            os.close(back)
            os.close(there)

    def leased(self, network: str = "net1") -> set[str]:
        """Return the leased addresses of a network."""
        directory = self.leases / network
        names = {item.name for item in directory.iterdir()} if directory.is_dir() else set()
        return {name for name in names if name != "lock" and not name.startswith("last_reserved_ip")}

    def state(self) -> dict[str, Any]:
        """Return everything in the host that a plugin may change, in comparable form."""
        links = [
            {
                key: link.get(key)
                for key in ("ifname", "link_type", "mtu", "flags", "ifalias", "master", "address")
            }
            for link in self.host.ip("link")
        ]
        for link in links:
            link["flags"] = sorted(set(link["flags"] or ()) - {"LOWER_UP", "NO-CARRIER"})
        return {
            "links": links,
            "addresses": {link["ifname"]: self.host.addresses(link["ifname"]) for link in links},
            "routes": [
                self.host.ip("-4", "route"),
                self.host.run("ip", "-6", "route", "show", "table", "all"),
            ],
            "nft": self.host.run("nft", "list", "ruleset"),
            "iptables": [self._saved(name) for name in ("iptables", "ip6tables")],
            "forwarding": [
                self.host.run("cat", f"/proc/sys/net/{key}")
                for key in ("ipv4/ip_forward", "ipv6/conf/all/forwarding")
            ],
            "leases": self.leased(),
        }

    def _saved(self, name: str) -> list[str]:
        saved = self.host.run(f"{name}-save", check=False).splitlines()
        return [line.split(" [")[0] for line in saved if not line.startswith("#")]

    def close(self) -> None:
        for namespace in (*self._sandboxes, self.host):
            namespace.close()


_TOOLS = {"ip": "iproute2", "nft": "nftables", "ping": "iputils-ping", "nsenter": "util-linux"}


@pytest.fixture
def bed(tmp_path: Path) -> Iterator[Bed]:
    """Build the bed, or say which tool of the test's own is not installed."""
    lacking = [f"{tool} ({package})" for tool, package in _TOOLS.items() if not shutil.which(tool)]
    if lacking:
        pytest.skip(f"not installed: {', '.join(lacking)}")
    made = Bed(tmp_path)
    yield made
    made.close()


@pytest.fixture
def needs() -> Callable[[str], None]:
    """Skip where a tool is not installed, with its name in sight."""

    def check(tool: str) -> None:
        if not shutil.which(tool):
            pytest.skip(f"{tool} is not installed")

    return check
