"""A node whose runtime remembers attachments as libcni does, with chains of the suite's plugins."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.engine import registry
from cni_plugins.upkeep import repair as upkeep
from cni_plugins.upkeep.attachment import Condition
from cni_plugins.upkeep.repair import RepairOutcome, RepairReport, Scope
from tests import caches
from tests.integration.chained.stamp import plugin as stamp

_NUMBER = re.compile(r" \. 0x[0-9a-f]{8}\b|counter packets \d+ bytes \d+ ")
NAMES = ("bridge", "firewall", "macvlan", "portmap", "ptp", "stamp", "tuning", "vxlan", "loopback")


class Attached:
    """One attachment: its list, the sandbox, and the result of the last plugin."""

    def __init__(self, plugins: list[dict[str, Any]], sandbox: Any, container: str, ifname: str) -> None:
        self.plugins = plugins
        self.sandbox = sandbox
        self.container = container
        self.ifname = ifname
        self.result: dict[str, Any] = {}
        self.file = Path()


class Node:
    """A host, and what its runtime does and remembers."""

    def __init__(self, bed: Any, directory: Path) -> None:
        self.bed = bed
        self.cache = directory / "cache"
        self.conf_dir = directory / "net.d"
        self.executables = caches.put_executables(directory / "plugins", *NAMES)
        self.scope = Scope((self.cache,), (self.executables,), self.conf_dir)

    def add(
        self,
        plugins: Iterable[Mapping[str, Any]],
        *,
        network: str = "net1",
        container: str = "c1",
        ifname: str = "eth0",
        version: str = "1.0.0",
        sandbox: Any = None,
        **remembered: Any,
    ) -> Attached:
        """Attach a container through a list of plugins, and remember it."""
        head = {"cniVersion": version, "name": network}
        confs = [{**plugin, **head} for plugin in plugins]
        one = Attached(confs, sandbox or self.bed.sandbox(), container, ifname)
        for conf in confs:
            given = {**conf, "prevResult": one.result} if one.result else conf
            one.result = self.bed.add(given, one.sandbox, container=container, ifname=ifname)
        config = {**head, "plugins": [dict(plugin) for plugin in plugins]}
        named = {"netns": one.sandbox.path, "container": container, "ifname": ifname, **remembered}
        one.file = caches.remember(self.cache, config, one.result, **named)
        return one

    def check(self, *attached: Attached) -> None:
        for one in attached:
            for conf in one.plugins:
                call = {**conf, "cniVersion": "1.0.0", "prevResult": one.result}
                names = {"container": one.container, "ifname": one.ifname}
                assert self.bed.call("CHECK", call, one.sandbox, **names) == (0, None)

    def delete(self, one: Attached, *, plugins: int | None = None) -> None:
        """Delete as libcni does: in reverse order, then the file.

        :param plugins: only so many, from the end of the list, and the file stays.
        """
        for conf in list(reversed(one.plugins))[:plugins]:
            call = {**conf, "prevResult": one.result}
            names = {"container": one.container, "ifname": one.ifname}
            assert self.bed.call("DEL", call, one.sandbox, **names) == (0, None)
        if plugins is None:
            one.file.unlink()

    def repair(self, *networks: str, **keywords: Any) -> RepairReport:
        with self.bed.inside():
            return upkeep.repair(self.scope._replace(networks=networks), **keywords)

    def ruleset(self) -> list[str]:
        """Return the lines of all rules, sorted: tables are listed in the order in which they were made.

        Without counters, and the numbers by which the index counts an owner's elements as they come.
        """
        listed = self.bed.host.run("nft", "list", "ruleset")
        saved = [
            self.bed.host.run(f"{name}-save", "-t", "nat", check=False) for name in ("iptables", "ip6tables")
        ]
        lines = [*listed.splitlines(), *(line for text in saved for line in text.splitlines())]
        plain = (_NUMBER.sub("", line).strip(" \t,{}").removeprefix("elements = { ") for line in lines)
        return sorted(line.split(" [")[0].split("# handle")[0] for line in plain if not line.startswith("#"))


def only(report: RepairReport, condition: Condition = Condition.REPAIRED) -> RepairOutcome:
    """Return the one outcome, which must have this condition."""
    [one] = report.attachments
    assert one.condition == condition, one
    return one


@pytest.fixture
def node(bed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setattr(registry, "PLUGINS", {**registry.PLUGINS, "stamp": lambda: stamp.PLUGIN})
    bed.host.run("ip", "link", "add", "up0", "type", "veth", "peer", "up1")
    for name in ("up0", "up1"):
        bed.host.run("ip", "link", "set", name, "up")
    bed.host.run("ip", "address", "add", "192.0.2.1/24", "dev", "up0")
    return Node(bed, tmp_path)
