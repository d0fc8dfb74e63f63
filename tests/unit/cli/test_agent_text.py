"""The page that `cnictl agent status` shows."""

from typing import Any

import pytest

from cni_plugins.agent.protocol import REASONS
from cni_plugins.cli.agent.text import duration, lines

QUIET: dict[str, Any] = {
    "build": "0123456789abcdef",
    "pid": 41,
    "uptime": 3700.0,
    "served": 7,
    "refused": dict.fromkeys(REASONS, 0),
    "workers": [{"pid": 42, "uptime": 90.4, "served": 7, "recycled": 1, "busy": 0.0}],
    "errors": [],
}


def test_a_quiet_agent_fits_in_a_few_lines() -> None:
    assert list(lines(QUIET)) == [
        "agent    build 0123456789abcdef, pid 41, up 1 h 1 min",
        "served   7",
        "refused  0",
        "",
        "WORKER  UP          SERVED  RECYCLED  NOW",
        "42      1 min 30 s  7       1         idle",
        "",
        "errors   none",
    ]


def test_refusals_are_told_in_words_and_only_those_that_happened() -> None:
    told = list(lines({**QUIET, "refused": {**QUIET["refused"], "build": 3, "left": 1}}))
    assert told[2:5] == [
        "refused  4",
        "         3 called from another build",
        "         1 disconnected before the request began",
    ]


def test_every_reason_of_the_agent_has_words() -> None:
    told = "\n".join(lines({**QUIET, "refused": dict.fromkeys(REASONS, 1)}))
    assert not [reason for reason in REASONS if f"1 {reason}\n" in told]


def test_a_worker_at_work_says_for_how_long() -> None:
    worker = {**QUIET["workers"][0], "busy": 12.34}
    assert any("busy for 12.3 s" in line for line in lines({**QUIET, "workers": [worker]}))


def test_an_error_shows_its_day() -> None:
    told = list(lines({**QUIET, "errors": [{"time": 1.7e9, "text": "ADD c1 eth0: code 7"}]}))
    assert told[-2] == "errors"
    assert told[-1].startswith("  2023-11-")
    assert told[-1].endswith("  ADD c1 eth0: code 7")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (61, "1 min 1 s"), (3600, "1 h 0 min"), (200000, "2 d 7 h")],
)
def test_a_duration_has_two_units_at_most(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_repairs_are_told_if_there_were_any() -> None:
    none = {"looks": 1, "repairs": 0, "steps": 0, "failures": 0}
    assert list(lines({**QUIET, "repair": none})) == list(lines(QUIET))
    told = list(lines({**QUIET, "repair": {**none, "repairs": 2, "steps": 7}}))
    assert told[3] == "repaired 2 times, 7 differences, 0 failures"
