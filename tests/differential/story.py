"""Run one case with one suite and tell, step by step, everything that can be compared."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.differential import answers, netns, probes, snapshot
from tests.differential.cases import Case, Step
from tests.differential.normalise import Symbols, without_numbers
from tests.differential.suites import Suite
from tests.differential.world import Answer, World, environment, fresh_world

SEPARATOR = " > "  # between the levels of a path; routes and sysctls have slashes
Story = dict[str, str]  # path → JSON text


@dataclass
class Teller:
    """One suite in one world; remembers results as a runtime does."""

    suite: Suite
    case: Case
    world: World
    symbols: Symbols
    results: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    addresses: dict[str, list[str]] = field(default_factory=dict)

    def tell(self, step: Step) -> dict[str, Any]:
        """Do the step and say what came of it."""
        answer = self._act(step)
        outcome = probes.PROBES[step.probe](self.world, self.addresses) if step.probe else None
        facts = snapshot.settled(self.world, rules=self.case.rules)
        self.symbols.learn(self.world, facts)
        told: dict[str, Any] = self.symbols.value(without_numbers(facts))
        if self.case.rules:
            told["rules"] = self._mentions(facts["rules"])
        _forget_what_time_decides(told, after_add=step.do == "ADD")
        if answer is not None:
            told["answer"] = answers.facts(answer, self.symbols)
        return told if outcome is None else told | {"probe": outcome}

    def _act(self, step: Step) -> Answer | None:
        if step.do:
            return self._call(step)
        if step.settle:
            probes.settle(self.world)
        if step.host is not None:
            self._tamper(self.world.host, step.host)
        if step.inside is not None:
            self._tamper(self.world.box(step.box), step.inside)
        return None

    def _tamper(self, where: str, command: str) -> None:
        host_ends = {f"{{{symbol}}}": name for name, symbol in self.symbols.names.items()}
        for symbol, name in host_ends.items():
            command = command.replace(symbol, name)
        with netns.entered(where):
            netns.run("sh", "-c", self.world.fill(command))

    def _call(self, step: Step) -> Answer:
        env = environment(self.suite, step.do, step.box, step.ifname, self._sandbox(step))
        if step.args is not None:
            env["CNI_ARGS"] = step.args
        changed = env | {key: value for key, value in step.env.items() if value is not None}
        final = {key: value for key, value in changed.items() if step.env.get(key, value) is not None}
        answer = self.world.call(self.suite, self.case.plugin, final, self._stdin(step))
        self._remember(step, answer)
        return answer

    def _sandbox(self, step: Step) -> str:
        if step.netns == "file":
            path = self.world.directory / "a-file"
            path.touch()
            return str(path)
        places = {"gone": "/run/netns/cnid-never-made", "own": netns.path_of(self.world.host), "none": ""}
        return places[step.netns] if step.netns != "box" else netns.path_of(self.world.box(step.box))

    def _stdin(self, step: Step) -> str:
        if step.stdin is not None:
            return self.world.fill(step.stdin)
        config = {**self.case.config, **step.config}
        if self._passes_result_on(step) and (step.box, step.ifname) in self.results:
            config.setdefault("prevResult", self.results[step.box, step.ifname])
        return self.world.fill(json.dumps(config))

    def _passes_result_on(self, step: Step) -> bool:
        """Runtimes give CHECK and DEL the result since 0.4.0."""
        if step.prev_result is not None:
            return step.prev_result
        return step.do in ("CHECK", "DEL") and self.case.version >= "0.4.0"

    def _remember(self, step: Step, answer: Answer) -> None:
        result = answers.parsed(answer.stdout)
        if step.do != "ADD" or answer.code != 0 or not isinstance(result, dict):
            return
        self.results[step.box, step.ifname] = result
        self.addresses.setdefault(step.box, []).extend(_addresses_of(result))

    def _mentions(self, rules: str) -> dict[str, bool]:
        """Which of the attachments' marks still stand in some rule."""
        marks = {mark for box, own in self.addresses.items() for mark in (box, *own)}
        return {
            mark: re.search(rf"(?<![\w.:]){re.escape(mark)}(?![\w.:])", rules) is not None for mark in marks
        }


def _addresses_of(result: dict[str, Any]) -> list[str]:
    entries = [entry["address"] for entry in result.get("ips", [])]
    entries += [result[key]["ip"] for key in ("ip4", "ip6") if key in result]
    return [entry.partition("/")[0] for entry in entries]


def _forget_what_time_decides(told: dict[str, Any], *, after_add: bool) -> None:
    """Whether an address is still tentative is only certain right after ADD."""
    if after_add:
        return
    for place in told.values():
        for link in place.get("links", {}).values():
            for address in link["addresses"].values():
                address.pop("tentative", None)
                address.pop("optimistic", None)


def tell(suite: Suite, case: Case) -> Story:
    """The whole story of a case, flat."""
    with fresh_world() as world:
        world.box("box1")
        _lay_out_files(world, case)
        symbols = Symbols(json.dumps([case.config, [vars(step) for step in case.steps]]))
        if case.wire:
            world.lay_wire()
            symbols.learn(world, snapshot.settled(world, rules=False))
        if any(step.probe == "masquerade" for step in case.steps):
            world.outside()  # before ADD, as some probes ask what works right after it
        teller = Teller(suite, case, world, symbols)
        story: Story = {}
        for number, step in enumerate(case.steps, start=1):
            story |= dict(flat(teller.tell(step), f"{number}:{step.label}"))
        return story


def _lay_out_files(world: World, case: Case) -> None:
    for name, content in case.files.items():
        path = world.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode())


def flat(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Every leaf with its path; of empty objects only those in an answer, where runtimes see them."""
    if value == {} and f"{SEPARATOR}answer{SEPARATOR}" not in path:
        return
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from flat(item, f"{path}{SEPARATOR}{key}")
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for number, item in enumerate(value):
            yield from flat(item, f"{path}{SEPARATOR}{number}")
    else:
        yield path, json.dumps(value)
