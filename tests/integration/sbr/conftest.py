"""A sandbox with two networks, of which the second is routed by source, and what iproute2 says of it."""

import json
import time
from typing import Any

import pytest

GATEWAYS = {"10.2.0.0/24": "10.2.0.1", "fd00:2::/64": "fd00:2::1"}
MAINS: dict[str, dict[str, Any]] = {
    "bridge": {"type": "bridge", "bridge": "br2", "isGateway": True},
    "ptp": {"type": "ptp"},
    "macvlan": {"type": "macvlan", "master": "up0"},
}


def settle(namespace: Any, link: str) -> None:
    """Wait until the kernel has added all routes that it adds by itself."""
    shown = ("ip", "-6", "address", "show", "dev", link, "scope", "link", "-tentative")
    deadline = time.monotonic() + 10
    while not namespace.run(*shown):
        assert time.monotonic() < deadline, f"{link} has no link-local address"
        time.sleep(0.02)


class Network:
    """A list of a main plugin and sbr, called as libcni does."""

    def __init__(self, bed: Any, main: dict[str, Any], ipam: dict[str, Any], **keys: Any) -> None:
        self.bed = bed
        self.name = keys.pop("name", "net2")
        self.ifname = keys.pop("ifname", "net1")
        version = keys.pop("cniVersion", "1.1.0")
        self.main = {"cniVersion": version, "name": self.name, "ipam": ipam, **main}
        self.sbr = {"cniVersion": version, "name": self.name, "type": "sbr", **keys}
        self.first: dict[str, Any] = {}
        self.result: dict[str, Any] = {}

    def attach(self, sandbox: Any) -> None:
        """Call the main plugin alone."""
        self.first = self.result = self.bed.add(self.main, sandbox, ifname=self.ifname)
        settle(sandbox, self.ifname)

    def add(self, sandbox: Any) -> tuple[int, Any]:
        self.attach(sandbox)
        code, answer = self.call("ADD", self.sbr, sandbox)
        if code == 0:
            self.result = answer
        return code, answer

    def check(self, sandbox: Any) -> list[tuple[int, Any]]:
        return [self.call("CHECK", conf, sandbox) for conf in (self.main, self.sbr)]

    def call(self, command: str, conf: dict[str, Any], sandbox: Any = "", **more: Any) -> tuple[int, Any]:
        whole = {"prevResult": self.result, **conf, **more}
        whole = {key: value for key, value in whole.items() if value is not None}
        return self.bed.call(command, whole, sandbox, ifname=self.ifname)


def static(*addresses: str, routes: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """Return an IPAM section with the addresses of the second network, and their gateways."""
    listed = []
    for address in addresses:
        gateway = next(gw for net, gw in GATEWAYS.items() if (":" in net) == (":" in address))
        listed.append({"address": address, "gateway": gateway})
    return {"type": "static", "addresses": listed, "routes": routes or []}


DUAL = static("10.2.0.2/24", "fd00:2::2/64", routes=[{"dst": "0.0.0.0/0"}, {"dst": "::/0"}])


def rules(namespace: Any) -> set[tuple[str, int]]:
    """Return source address and table of the rules that have a source."""
    found: list[dict[str, Any]] = []
    for family in ("-4", "-6"):
        found += json.loads(namespace.run("ip", family, "-json", "rule") or "[]")
    return {(rule["src"], int(rule["table"])) for rule in found if rule.get("src", "all") != "all"}


def routes(namespace: Any, family: str, table: int | str, link: str = "net1") -> list[str]:
    """Return the routes of a table out of a link, as `ip` prints them, without the suite's protocol."""
    shown = namespace.run("ip", family, "route", "show", "table", str(table), "dev", link, check=False)
    return [" ".join(line.replace("proto 217", "").split()) for line in shown.splitlines()]


def routing(namespace: Any) -> list[str]:
    """Return all rules and routes, in the kernel's order."""
    return [
        namespace.run("ip", family, *words)
        for family in ("-4", "-6")
        for words in (("rule",), ("-details", "route", "show", "table", "all"))
    ]


@pytest.fixture
def bed(bed: Any) -> Any:
    bed.host.run("ip", "link", "add", "up0", "type", "veth", "peer", "up1")
    for link in ("up0", "up1"):
        bed.host.run("ip", "link", "set", link, "up")
    return bed


@pytest.fixture
def sandbox(bed: Any) -> Any:
    """A sandbox that has a first network already, with default routes."""
    made = bed.sandbox()
    made.skip_dad()
    pools = bed.host_local("10.1.0.0/24", "fd00:1::/64")
    bed.add(bed.conf(bridge="br1", isDefaultGateway=True, ipam=pools), made)
    settle(made, "eth0")
    return made
