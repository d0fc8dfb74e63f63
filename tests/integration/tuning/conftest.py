"""A list of a main plugin and tuning after it, called as libcni does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.tuning import allow_list, data_dir

POOL = "10.1.0.0/24"
MAINS: Mapping[str, dict[str, Any]] = {
    "bridge": {"type": "bridge", "bridge": "br0", "isGateway": True, "ipMasq": True},
    "ptp": {"type": "ptp", "ipMasq": True},
    "macvlan": {"type": "macvlan", "master": "up0"},
}
each_main = pytest.mark.parametrize("main", MAINS.values(), ids=MAINS)


class List:
    """A network of a main plugin and any number of tunings."""

    def __init__(
        self, bed: Any, data_dir: Path, main: dict[str, Any] | None, *tunings: Any, **keys: Any
    ) -> None:
        self.bed, self.data_dir = bed, data_dir
        version = keys.get("cniVersion", "1.1.0")
        self.common = {"cniVersion": version, "name": keys.get("name", "net1")}
        if main is not None:
            main = {"ipam": bed.host_local(POOL, "fd00:1::/64"), **main, **self.common}
        self.main = main
        self.tunings = [{"type": "tuning", "dataDir": str(data_dir), **own, **self.common} for own in tunings]
        self.result: Any = None
        self.sandbox: Any = None

    @property
    def tuning(self) -> dict[str, Any]:
        return self.tunings[0]

    def add_main(self, sandbox: Any, **more: Any) -> None:
        self.sandbox = sandbox
        self.result = self.bed.add(self.main, sandbox, **more)

    def tune(self, tuning: dict[str, Any] | None = None, **more: Any) -> tuple[int, Any]:
        conf = {**(tuning or self.tuning), "prevResult": self.result}
        return self.bed.call("ADD", conf, self.sandbox, **more)

    def add(self, sandbox: Any, **more: Any) -> Any:
        """Call ADD of all, which must succeed; return the last result."""
        self.add_main(sandbox, **more)
        for tuning in self.tunings:
            code, answer = self.tune(tuning, **more)
            assert code == 0, answer
            self.result = answer
        return self.result

    def check(self, **more: Any) -> list[Any]:
        """Call CHECK of all; return the errors."""
        answers = [
            self.bed.call("CHECK", {**conf, "prevResult": self.result}, self.sandbox, **more)
            for conf in (self.main, *self.tunings)
        ]
        return [answer for code, answer in answers if code]

    def delete(self, sandbox: Any = None, *, main: bool = True, **more: Any) -> None:
        """Call DEL of all in reverse order, which must succeed."""
        where = self.sandbox if sandbox is None else sandbox
        for conf in (*reversed(self.tunings), *((self.main,) if main else ())):
            answer = self.bed.call("DEL", {**conf, "prevResult": self.result}, where, **more)
            assert answer == (0, None)

    def files(self) -> list[str]:
        return sorted(item.name for item in self.data_dir.iterdir()) if self.data_dir.is_dir() else []

    def backup(self, name: str = "c1_eth0.json") -> dict[str, Any]:
        return dict(json.loads((self.data_dir / name).read_text()))


def sysctl(namespace: Any, path: str) -> str:
    return str(namespace.run("cat", f"/proc/sys/net/{path}").rstrip("\n"))


def set_sysctl(namespace: Any, path: str, value: str) -> None:
    namespace.run("sh", "-c", f"echo '{value}' > /proc/sys/net/{path}")


def link_state(namespace: Any, name: str = "eth0") -> dict[str, Any]:
    """Return what tuning may change of a link, as `ip` shows it."""
    shown = namespace.link(name)
    flags = {flag: flag in shown["flags"] for flag in ("PROMISC", "ALLMULTI")}
    return {**{key: shown.get(key) for key in ("address", "mtu", "txqlen")}, **flags}


@pytest.fixture
def bed(bed: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Add an uplink for macvlan; the machine's own list of allowed sysctls and backups stay out of it."""
    monkeypatch.setattr(allow_list, "PATH", str(tmp_path / "allowlist.conf"))
    monkeypatch.setattr(data_dir, "DEFAULT", str(tmp_path / "default"))
    bed.host.run("ip", "link", "add", "up0", "type", "veth", "peer", "up1")
    for name in ("up0", "up1"):
        bed.host.run("ip", "link", "set", name, "up")
    return bed


@pytest.fixture(name="data_dir")
def _data_dir(tmp_path: Path) -> Path:
    return tmp_path / "run" / "tuning"
