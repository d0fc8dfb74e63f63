"""The columns of the table: each is a suite in a host namespace of its own, one with a resident agent."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from tests import cni
from tests.bench import resident, timing
from tests.bench.resident import Agent
from tests.differential import reference, suites
from tests.differential.fixture import Fixture, fresh_fixture
from tests.differential.suites import TOOL_PATH, Suite

COLD, WARM = "ours, cold", "ours, warm"


@dataclass(frozen=True)
class Column:
    """A suite at work on a host of its own."""

    label: str
    suite: Suite
    fixture: Fixture
    is_reference: bool
    agent: Agent | None = None

    def call(self, plugin: str, command: str, config: Mapping[str, Any], box: str = "box1") -> timing.Call:
        """A call as a runtime would make it.

        Ours are told which agent to ask; none when cold, so that the machine's own one cannot flatter.
        """
        netns = self.fixture.box(box).path
        env = cni.environment(command, container=box, netns=netns, path=self.suite.directory)
        socket = {} if self.is_reference else {resident.VARIABLE: self.agent.socket if self.agent else ""}
        text = self.fixture.fill(json.dumps({"type": plugin, **config}))
        return timing.Call(self.suite.program(plugin), {"PATH": TOOL_PATH, **env, **socket}, text.encode())

    def measure(self, call: timing.Call) -> timing.Measured:
        """Make the call on this column's host; the CPU time includes what the agent spent.

        :raises RuntimeError: when it fails: a benchmark of failures would flatter.
        """
        done, _, agent_cpu = self._timed(lambda: [timing.measure(call)], [call])
        return replace(done[0], cpu=done[0].cpu + agent_cpu)

    def measure_together(self, calls: Sequence[timing.Call]) -> "Together":
        """Start all, then wait for all.

        :raises RuntimeError: when one of them fails.
        """
        done, wall, agent_cpu = self._timed(
            lambda: [running.finish() for running in [timing.start(call) for call in calls]], calls
        )
        return Together(done, wall, sum(measured.cpu for measured in done) + agent_cpu)

    def _timed(
        self, make: Callable[[], list[timing.Measured]], calls: Sequence[timing.Call]
    ) -> tuple[list[timing.Measured], float, float]:
        before = self.agent.cpu() if self.agent else 0.0
        with self.fixture.host.entered():
            begun = time.perf_counter()
            done = make()
            wall = time.perf_counter() - begun
        self._require_success(calls, done)
        if self.agent is None:
            return done, wall, 0.0
        # VERSION is answered by the executable itself.
        self.agent.calls += sum(call.env["CNI_COMMAND"] != "VERSION" for call in calls)
        return done, wall, self.agent.settled_cpu() - before

    def _require_success(self, calls: Sequence[timing.Call], done: list[timing.Measured]) -> None:
        failed = [measured.stdout.decode() for measured in done if measured.code != 0]
        if failed:
            command = calls[0].env["CNI_COMMAND"]
            raise RuntimeError(f"{self.label}: {len(failed)} of {len(calls)} {command} failed: {failed[0]}")

    def confirm(self) -> None:
        """:raises RuntimeError: when a warm column was not."""
        if self.agent:
            self.agent.confirm()


class Together(NamedTuple):
    """Calls at the same time: seconds until the last answer, and the CPU seconds of all."""

    done: list[timing.Measured]
    wall: float
    cpu: float


class Kind(NamedTuple):
    """What a column is before it stands anywhere."""

    label: str
    suite: Suite
    is_reference: bool = False
    is_warm: bool = False

    @property
    def absence(self) -> str | None:
        """Why there cannot be such a column here, or None."""
        return self.suite.absence or (resident.absence(self.suite) if self.is_warm else None)

    @contextlib.contextmanager
    def opened(self, workers: int | None = None) -> Iterator[Column]:
        """The column on a fresh host, with a fresh agent when it is warm; both go at the end.

        :raises RuntimeError: in the end, when a warm column was not.
        """
        with contextlib.ExitStack() as stack:
            fixture = stack.enter_context(fresh_fixture())
            agent = (
                stack.enter_context(resident.running(self.suite, fixture.host, workers))
                if self.is_warm
                else None
            )
            column = Column(self.label, self.suite, fixture, self.is_reference, agent)
            yield column
            column.confirm()


def _wanted() -> list[Kind]:
    reference.fetch()
    return [
        Kind("reference 1.1.1 (Debian)", suites.debian(), is_reference=True),
        Kind(f"reference {reference.VERSION}", suites.newest(), is_reference=True),
        Kind(COLD, suites.ours()),
        Kind(WARM, suites.ours(), is_warm=True),
    ]


def absences() -> list[str]:
    """Why a column is missing from the table."""
    return list(dict.fromkeys(kind.absence for kind in _wanted() if kind.absence is not None))


def present() -> list[Kind]:
    """Every column that there can be."""
    return [kind for kind in _wanted() if kind.absence is None]


@contextlib.contextmanager
def opened(kinds: list[Kind]) -> Iterator[list[Column]]:
    """All of them side by side."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(kind.opened()) for kind in kinds]
