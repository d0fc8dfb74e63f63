"""A test bed of network namespaces: one is the host the plugins run in, others are sandboxes."""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.engine.program import Program
from tests import cni, namespaces


class Namespace(namespaces.Namespace):
    """A network namespace, and what iproute2 says of it."""

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
        return self.succeeds("ping", "-c1", "-W2", "-q", address)

    def skip_dad(self) -> None:
        """Let links made from now on have IPv6 addresses that are never tentative."""
        self.run("sh", "-c", "for f in /proc/sys/net/ipv6/conf/*/accept_dad; do echo 0 > $f; done")


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
        variables = cni.environment(
            command, container=container, netns=path, ifname=ifname, path=self.bin, **environment
        )
        with self.inside():
            answer = cni.run_engine(conf, cni.on_path(variables), self.program)
        return answer.code, answer.document if answer.out else None

    def add(self, conf: dict[str, Any], sandbox: Namespace, **more: Any) -> dict[str, Any]:
        code, result = self.call("ADD", conf, sandbox, **more)
        assert code == 0, result
        return result

    def request(self, conf: dict[str, Any], sandbox: Namespace, container: str = "c1") -> Any:
        """Return an ADD as the engine sees it, for tests that replace a part of a plugin."""
        return cni.request(self.bin, conf, "ADD", sandbox.path, container=container)

    def inside(self) -> contextlib.AbstractContextManager[None]:
        """Run a block with this process in the host's namespace, as a plugin would be."""
        return self.host.entered()

    def leased(self, network: str = "net1") -> set[str]:
        """Return the leased addresses of a network."""
        directory = self.leases / network
        names = {item.name for item in directory.iterdir()} if directory.is_dir() else set()
        return {name for name in names if name != "lock" and not name.startswith("last_reserved_ip")}

    def state(self) -> dict[str, Any]:
        """Return everything in the host that a plugin may change, in comparable form."""
        self._await_addresses()
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

    def _await_addresses(self) -> None:
        """Wait until the kernel has accepted the addresses it makes: their routes come with that."""
        for _ in range(40):
            if not self.host.run("ip", "-6", "-o", "address", "show", "tentative"):
                return
            time.sleep(0.05)

    def _saved(self, name: str) -> list[str]:
        saved = self.host.run(f"{name}-save", check=False).splitlines()
        return [line.split(" [")[0] for line in saved if not line.startswith("#")]

    def close(self) -> None:
        for namespace in (*self._sandboxes, self.host):
            namespace.close()


_TOOLS = ("ip", "nft", "ping")


@pytest.fixture
def bed(tmp_path: Path) -> Iterator[Bed]:
    """Build the bed, or say which tool of the test's own is not installed."""
    lacking = [tool for tool in _TOOLS if not shutil.which(tool)]
    if lacking:
        pytest.skip(f"not installed: {', '.join(lacking)} (see packaging/needs.sh)")
    made = Bed(tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def needs() -> Callable[[str], None]:
    """Skip where a tool is not installed, with its name in sight."""

    def check(tool: str) -> None:
        if not shutil.which(tool):
            pytest.skip(f"{tool} is not installed")

    return check
