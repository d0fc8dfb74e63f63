"""A host with containers on bridges, and a machine outside that it forwards to."""

from __future__ import annotations

import time
from typing import Any

import pytest

NO_BUS = "unix:path=/nowhere/system_bus_socket"
"""The D-Bus system bus of a host that has none: the machine's own, if it has one, must not be asked."""


class Container:
    """One attachment of a main plugin, and of the firewall plugin behind it."""

    def __init__(self, host: Host, name: str, main: dict[str, Any], **keys: Any) -> None:
        self.host, self.name = host, name
        self.sandbox = host.bed.sandbox()
        self.sandbox.skip_dad()
        common = {"cniVersion": "1.1.0", "name": main["name"]}
        self.main = {**common, **main}
        self.conf = {**common, "type": "firewall", **keys}
        self.result = host.bed.add(self.main, self.sandbox, container=name)

    def add(self) -> Container:
        answer = self.call("ADD")
        assert answer == (0, self.result)
        return self

    def call(self, command: str, *, sandbox: bool = True, **keys: Any) -> tuple[int, Any]:
        """Call the firewall plugin; a key that is None is left out."""
        conf = {**self.conf, "prevResult": self.result, **keys}
        return self.host.call(
            command,
            {key: value for key, value in conf.items() if value is not None},
            self.sandbox if sandbox else "",
            self.name,
        )

    def check(self) -> str:
        """Return what CHECK finds, empty if nothing."""
        code, error = self.call("CHECK")
        assert (code, error and error["code"]) in ((0, None), (1, 103)), error
        return error["msg"] if error else ""

    def delete(self, **keys: Any) -> None:
        assert self.call("DEL", **keys) == (0, None)

    def detach(self) -> None:
        """Remove what the main plugin made."""
        conf = {**self.main, "prevResult": self.result}
        assert self.host.bed.call("DEL", conf, self.sandbox, container=self.name) == (0, None)

    @property
    def addresses(self) -> list[str]:
        return [ip["address"].split("/")[0] for ip in self.result["ips"]]

    def reaches(self, *addresses: str) -> bool:
        return _all_reached(self.sandbox, addresses, expected=True)

    def is_cut_off_from(self, *addresses: str) -> bool:
        return not _all_reached(self.sandbox, addresses, expected=False)


class Host:
    """The bed's host, which forwards between bridges and to a machine outside."""

    far = ("192.0.2.2", "2001:db8::2")

    def __init__(self, bed: Any) -> None:
        self.bed, self.outside = bed, bed.sandbox()
        self.bus = NO_BUS
        self.run(
            "ip", "link", "add", "up0", "type", "veth", "peer", "name", "eth0", "netns", self.outside.path
        )
        for place, name, number in ((bed.host, "up0", 1), (self.outside, "eth0", 2)):
            place.run("sh", "-c", f"echo 0 > /proc/sys/net/ipv6/conf/{name}/accept_dad")
            place.run("ip", "address", "add", f"192.0.2.{number}/24", "dev", name)
            place.run("ip", "address", "add", f"2001:db8::{number}/64", "dev", name)
            place.run("ip", "link", "set", name, "up")
        self._await_link_local()
        self.outside.run("ip", "route", "add", "10.0.0.0/8", "via", "192.0.2.1")
        self.outside.run("ip", "-6", "route", "add", "fd00::/8", "via", "2001:db8::1")

    def _await_link_local(self) -> None:
        """Wait for what the kernel adds by itself once it knows of the carrier, or states would differ."""
        while not self.run("ip", "-6", "-o", "address", "show", "dev", "up0", "scope", "link"):
            time.sleep(0.01)

    def container(
        self, name: str = "c1", bridge: int = 1, *, families: tuple[int, ...] = (4, 6), **keys: Any
    ) -> Container:
        """Return a container on bridge br1, br2, …, each of which has a network and a gateway of its own."""
        subnets = {4: f"10.{bridge}.0.0/24", 6: f"fd00:{bridge}::/64"}
        pools = self.bed.host_local(*(subnets[family] for family in families))
        main = {"type": "bridge", "bridge": f"br{bridge}", "isDefaultGateway": True, "ipam": pools}
        return Container(self, name, {"name": f"net{bridge}", **main}, **keys)

    def call(
        self, command: str, conf: dict[str, Any], sandbox: Any = "", container: str = "c1"
    ) -> tuple[int, Any]:
        return self.bed.call(command, conf, sandbox, container=container, DBUS_SYSTEM_BUS_ADDRESS=self.bus)

    def run(self, *words: str) -> str:
        return self.bed.host.run(*words)

    def both(self, *words: str) -> None:
        """Run iptables and ip6tables with the same words."""
        for command in ("iptables", "ip6tables"):
            self.run(command, *words)

    def chain(self, name: str, command: str = "iptables") -> list[str]:
        """Return the rules of a chain of iptables, without its own line."""
        listed = self.bed.host.run(command, "-S", name, check=False).splitlines()
        return [line.removeprefix(f"-A {name} ") for line in listed if line.startswith("-A ")]

    def ours(self) -> str:
        """Return our own tables of nf_tables."""
        tables = (("inet", "cni_plugins"), ("bridge", "cni_plugins"))
        return "".join(self.bed.host.run("nft", "list", "table", *table, check=False) for table in tables)

    def reaches(self, *addresses: str) -> bool:
        return _all_reached(self.bed.host, addresses, expected=True)

    def is_reached_from_outside(self, *addresses: str) -> bool:
        return _all_reached(self.outside, addresses, expected=True)


def _all_reached(place: Any, addresses: tuple[str, ...], *, expected: bool) -> bool:
    """Say whether all addresses answer; some that do and some that do not are a failure."""
    answers = {item: _answers(place, item, expected=expected) for item in addresses}
    assert len(set(answers.values())) == 1, answers
    return answers.popitem()[1]


def _answers(place: Any, address: str, *, expected: bool) -> bool:
    """Ping; one that should be answered is asked several times, as a neighbour may be unknown yet."""
    ping = ("ping", "-c1", "-W", "2" if expected else "0.3", "-q", address)
    return any(place.succeeds(*ping) for _ in range(4 if expected else 1))


@pytest.fixture
def host(bed: Any) -> Host:
    return Host(bed)
