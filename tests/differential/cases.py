"""The table of cases, read from tests/data/differential/*.json.

A case names a plugin, a network configuration and the steps to run; with "wire", as all of macvlan, the host
has a link eth0. A step is a CNI verb ("ADD"), a verb
with particulars ({"do": "ADD", "box": "box2", "args": "MAC=…"}), a command that tampers
({"host": "ip link …"}, {"inside": "ip addr …"}), a behaviour to watch ({"probe": "masquerade"}), or
{"settle": true}. In a configuration "@OMIT@" leaves a key out, @DATA@, @FILES@ and @HOST@ are places.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TABLES = Path(__file__).resolve().parents[1] / "data" / "differential"
_DEFAULTS = {"cniVersion": "1.0.0", "name": "net"}


@dataclass(frozen=True)
class Step:
    """One thing done in a case."""

    do: str = ""
    box: str = "box1"
    ifname: str = "eth0"
    netns: str = "box"
    args: str | None = None
    env: dict[str, str | None] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    stdin: str | None = None
    prev_result: bool | None = None
    host: str | None = None
    inside: str | None = None
    probe: str | None = None
    settle: bool = False

    @property
    def label(self) -> str:
        """What a difference calls this step."""
        return self.do or self.probe or ("settle" if self.settle else "tamper")


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    name: str
    plugin: str
    config: dict[str, Any]
    steps: tuple[Step, ...]
    files: dict[str, str] = field(default_factory=dict)
    rules: bool = False
    wire: bool = False
    needs: str | None = None

    @property
    def version(self) -> str:
        """The protocol version the case speaks."""
        return str(self.config.get("cniVersion", "0.1.0"))


def load() -> tuple[Case, ...]:
    """Every case of every table, in file order."""
    return tuple(_case(row) for path in sorted(TABLES.glob("*.json")) for row in json.loads(path.read_text()))


def _case(row: dict[str, Any]) -> Case:
    config = _with_defaults(row["plugin"], row.get("config", {}))
    steps = tuple(_step(step) for step in row.get("steps", ["ADD", "CHECK", "DEL", "DEL"]))
    extras = {key: row[key] for key in ("files", "rules", "wire", "needs") if key in row}
    extras.setdefault("wire", row["plugin"] == "macvlan")
    return Case(row["name"], row["plugin"], config, steps, **extras)


def _with_defaults(plugin: str, config: dict[str, Any]) -> dict[str, Any]:
    whole = {**_DEFAULTS, "type": plugin, **config}
    if plugin == "host-local" and "ipam" not in config and "noIPAM" not in config:
        whole["ipam"] = {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}]]}
    ipam = whole.get("ipam")
    if isinstance(ipam, dict) and ipam.get("type") == "host-local":
        whole["ipam"] = {"dataDir": "@DATA@", **ipam}
    return {key: value for key, value in whole.items() if value != "@OMIT@"}


def _step(raw: str | dict[str, Any]) -> Step:
    return Step(do=raw) if isinstance(raw, str) else Step(**raw)
