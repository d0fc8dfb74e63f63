"""Run one case with one suite and record after each step everything that can be compared."""

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests import cni, namespaces
from tests.bench import resident
from tests.cni import Answer
from tests.differential import answers, probes, snapshot
from tests.differential.cases import Case, Step
from tests.differential.fixture import Fixture, fixture_on, fresh_fixture
from tests.differential.hosts import Hosts
from tests.differential.normalise import Symbols, without_numbers
from tests.differential.suites import Suite
from tests.namespaces import Namespace

SEPARATOR = " > "  # between the levels of a path; routes and sysctls have slashes
Trace = dict[str, str]  # path → JSON text


@dataclass
class Recorder:
    """Runs a case with one suite in one fixture; keeps results as a runtime does."""

    suite: Suite
    case: Case
    fixture: Fixture
    symbols: Symbols
    results: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    addresses: dict[str, list[str]] = field(default_factory=dict)

    def record(self, step: Step) -> dict[str, Any]:
        """Do the step; return what is there afterwards."""
        answer = self._act(step)
        outcome = probes.PROBES[step.probe](self.fixture, self.addresses) if step.probe else None
        facts = snapshot.settled(self.fixture, rules=self.case.rules)
        self.symbols.learn(self.fixture, facts)
        seen: dict[str, Any] = self.symbols.value(without_numbers(facts))
        if self.case.rules:
            seen["rules"] = self._mentions(facts["rules"])
        _drop_what_time_decides(seen, after_add=step.do == "ADD")
        if answer is not None:
            seen["answer"] = answers.facts(answer, self.symbols)
        return seen if outcome is None else seen | {"probe": outcome}

    def _act(self, step: Step) -> Answer | None:
        if step.do:
            return self._call(step)
        if step.settle:
            probes.settle(self.fixture)
        if step.host is not None:
            self._tamper(self.fixture.host, step.host)
        if step.inside is not None:
            self._tamper(self.fixture.box(step.box), step.inside)
        return None

    def _tamper(self, where: Namespace, command: str) -> None:
        host_ends = {f"{{{symbol}}}": name for name, symbol in self.symbols.names.items()}
        for symbol, name in host_ends.items():
            command = command.replace(symbol, name)
        with where.entered():
            namespaces.run("sh", "-c", self.fixture.fill(command))

    def _call(self, step: Step) -> Answer:
        variables = cni.environment(
            step.do,
            container=step.box,
            netns=self._sandbox(step),
            ifname=step.ifname,
            path=self.suite.directory,
            **{"CNI_ARGS": step.args, **step.env},
        )
        answer = self.fixture.call(self.suite, self.case.plugin, variables, self._stdin(step))
        self._remember(step, answer)
        return answer

    def _sandbox(self, step: Step) -> str:
        if step.netns == "file":
            path = self.fixture.directory / "a-file"
            path.touch()
            return str(path)
        places = {"gone": "/run/netns/cnid-never-made", "own": self.fixture.host.path, "none": ""}
        return places[step.netns] if step.netns != "box" else self.fixture.box(step.box).path

    def _stdin(self, step: Step) -> str:
        if step.stdin is not None:
            return self.fixture.fill(step.stdin)
        config = {**self.case.config, **step.config}
        if self._passes_result_on(step) and (step.box, step.ifname) in self.results:
            config.setdefault("prevResult", self.results[step.box, step.ifname])
        return self.fixture.fill(json.dumps(config))

    def _passes_result_on(self, step: Step) -> bool:
        """Runtimes give CHECK and DEL the result since 0.4.0."""
        if step.prev_result is not None:
            return step.prev_result
        return step.do in ("CHECK", "DEL") and self.case.version >= "0.4.0"

    def _remember(self, step: Step, answer: Answer) -> None:
        result = answers.parsed(answer.out)
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


def _drop_what_time_decides(seen: dict[str, Any], *, after_add: bool) -> None:
    """Whether an address is still tentative is only certain right after ADD."""
    if after_add:
        return
    for place in seen.values():
        for link in place.get("links", {}).values():
            for address in link["addresses"].values():
                address.pop("tentative", None)
                address.pop("optimistic", None)


def record(suite: Suite, case: Case, hosts: Hosts) -> Trace:
    """Return the whole trace of a case, flat."""
    with contextlib.ExitStack() as stack:
        if suite.label == "ours" and not resident.absence(suite):
            host = stack.enter_context(hosts.lent(suite, case))
            fixture = stack.enter_context(fixture_on(host.namespace, host.variables))
        else:
            fixture = stack.enter_context(fresh_fixture())
        fixture.box("box1")
        _lay_out_files(fixture, case)
        symbols = Symbols(json.dumps([case.config, [vars(step) for step in case.steps]]))
        if case.wire:
            fixture.add_wire()
            symbols.learn(fixture, snapshot.settled(fixture, rules=False))
        if any(step.probe == "masquerade" for step in case.steps):
            fixture.outside()  # before ADD, as some probes ask what works right after it
        recorder = Recorder(suite, case, fixture, symbols)
        trace: Trace = {}
        for number, step in enumerate(case.steps, start=1):
            trace |= dict(flat(recorder.record(step), f"{number}:{step.label}"))
        return trace


def _lay_out_files(fixture: Fixture, case: Case) -> None:
    for name, content in case.files.items():
        path = fixture.directory / name
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
