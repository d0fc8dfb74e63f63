"""Names and MAC addresses that differ from run to run become symbols that say whose they are."""

import re
from dataclasses import dataclass, field
from typing import Any

from tests.differential.fixture import Fixture
from tests.differential.snapshot import Facts

_MAC = re.compile(r"\b[0-9a-f]{2}(?::[0-9a-f]{2}){5}\b")
_VETH = re.compile(r"\bveth[0-9a-f]{8}\b")
_UNCOMPARED = ("index", "peer", "away", "unsettled")
_KEEP = {"00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff"}


@dataclass
class Symbols:
    """What the names and addresses of a fixture stand for; the first meaning stays."""

    literal: str
    names: dict[str, str] = field(default_factory=dict)
    macs: dict[str, str] = field(default_factory=dict)

    def learn(self, fixture: Fixture, facts: Facts) -> None:
        """Give every link its role: the box's end, its host end, then the bridges in order of appearance.

        A bridge that nobody pinned takes the lowest MAC address of its ports, so which port's is chance.
        """
        self.names[fixture.host.path] = "netns(host)"
        for box, namespace in fixture.boxes.items():
            self.names[namespace.path] = f"netns({box})"
            for ifname, link in facts[box]["links"].items():
                self._mac(link, f"mac({box}:{ifname})")
                self._host_end(facts, link, f"{box}:{ifname}")
        for ifname, link in sorted(facts["host"]["links"].items(), key=lambda pair: pair[1]["index"]):
            self._mac(link, f"mac({ifname})")

    def _host_end(self, facts: Facts, link: Facts, owner: str) -> None:
        for ifname, host_end in facts["host"]["links"].items():
            ends = {link["kind"], host_end["kind"]}
            if ends == {"veth"} and (link["peer"], link["index"]) == (host_end["index"], host_end["peer"]):
                self.names[ifname] = f"veth({owner})"
                self._mac(host_end, "mac(a host end)")

    def _mac(self, link: Facts, role: str) -> None:
        if link["mac"] and link["mac"] not in self.literal:
            self.macs.setdefault(link["mac"], role)

    def text(self, raw: str) -> str:
        """The text with symbols; what was never seen in the kernel is `mac(?)` or `veth(?)`."""
        for name, symbol in self.names.items():
            raw = raw.replace(name, symbol)
        return _VETH.sub("veth(?)", _MAC.sub(self._symbol, raw))

    def _symbol(self, match: re.Match[str]) -> str:
        mac = match.group()
        return mac if mac in _KEEP or mac in self.literal else self.macs.get(mac, "mac(?)")

    def value(self, raw: Any) -> Any:
        """The same for a JSON value, keys included."""
        if isinstance(raw, str):
            return self.text(raw)
        if isinstance(raw, list):
            return [self.value(item) for item in raw]
        return (
            {self.text(key): self.value(item) for key, item in raw.items()} if isinstance(raw, dict) else raw
        )


def without_numbers(facts: Any) -> Any:
    """Facts as they are compared: no link indexes, nor what they refer to."""
    if not isinstance(facts, dict):
        return facts
    return {key: without_numbers(item) for key, item in facts.items() if key not in _UNCOMPARED}
