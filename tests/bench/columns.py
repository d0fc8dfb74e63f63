"""The columns of the table: each is a suite in a host namespace of its own.

A warm column (our programs with the resident agent listening) will be one more entry of `available`.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.bench import timing
from tests.differential import netns, reference, suites
from tests.differential.suites import TOOL_PATH, Suite
from tests.differential.world import World, environment, fresh_world


@dataclass(frozen=True)
class Column:
    """A suite at work in its own world."""

    label: str
    suite: Suite
    world: World
    is_reference: bool

    def call(self, plugin: str, command: str, config: Mapping[str, Any], box: str = "box1") -> timing.Call:
        """A call as a runtime would make it."""
        env = environment(self.suite, command, box, "eth0", netns.path_of(self.world.box(box)))
        text = self.world.fill(json.dumps({"type": plugin, **config}))
        return timing.Call(self.suite.program(plugin), {"PATH": TOOL_PATH, **env}, text.encode())

    def measure(self, call: timing.Call) -> timing.Measured:
        """Make the call on this column's host.

        :raises RuntimeError: when it fails: a benchmark of failures would flatter.
        """
        with netns.entered(self.world.host):
            measured = timing.measure(call)
        if measured.code != 0:
            raise RuntimeError(f"{self.label}: {call.env['CNI_COMMAND']} failed: {measured.stdout.decode()}")
        return measured


def _wanted() -> list[tuple[str, Suite, bool]]:
    reference.fetch()
    return [
        ("reference 1.1.1 (Debian)", suites.debian(), True),
        (f"reference {reference.VERSION}", suites.newest(), True),
        ("ours, cold", suites.ours(), False),
    ]


def absences() -> list[str]:
    """Why a column is missing from the table."""
    return [suite.absence for _, suite, _ in _wanted() if suite.absence is not None]


@contextlib.contextmanager
def available() -> Iterator[list[Column]]:
    """Every suite that is present, each in a fresh world; the worlds go at the end."""
    with contextlib.ExitStack() as stack:
        yield [
            Column(label, suite, stack.enter_context(fresh_world()), is_reference)
            for label, suite, is_reference in _wanted()
            if suite.absence is None
        ]
