"""The page of shared memory of each worker."""

import os
from collections.abc import Callable

import pytest

from cni_plugins.agent.protocol import REASONS
from cni_plugins.agent.scoreboard import Scoreboard


def test_a_new_table_knows_nothing() -> None:
    page = Scoreboard(2).status("b", 7)
    assert (page["build"], page["pid"], page["served"], page["errors"]) == ("b", 7, 0, [])
    assert page["refused"] == dict.fromkeys(REASONS, 0)
    assert [worker["served"] for worker in page["workers"]] == [0, 0]


def test_each_worker_has_counts_of_its_own() -> None:
    table = Scoreboard(3)
    for number, slot in enumerate(table.slots):
        slot.begin(100 + number)
        for _ in range(number):
            slot.served()
            slot.refused("build")
        slot.refused(REASONS[-1])
    page = table.status("b", 7)
    assert [(worker["pid"], worker["served"]) for worker in page["workers"]] == [(100, 0), (101, 1), (102, 2)]
    assert page["served"] == 3
    assert table.refusals() == {**dict.fromkeys(REASONS, 0), "build": 3, REASONS[-1]: 3}


def test_what_a_forked_worker_writes_its_parent_sees() -> None:
    slot = Scoreboard(1).slots[0]
    _as_worker(lambda: (slot.begin(7), slot.served(), slot.failed("failed")))
    assert (slot.pid, slot.status()["served"], slot.errors()[0].text) == (7, 1, "failed")


def test_a_successor_keeps_the_counts_and_is_idle() -> None:
    slot = Scoreboard(1).slots[0]
    slot.begin(1)
    slot.served()
    slot.busy()
    assert slot.busy_since > 0
    slot.recycled()
    slot.begin(2)
    assert slot.busy_since == 0
    assert {key: slot.status()[key] for key in ("pid", "served", "recycled")} == {
        "pid": 2,
        "served": 1,
        "recycled": 1,
    }


def test_busy_ends() -> None:
    slot = Scoreboard(1).slots[0]
    slot.busy()
    assert slot.status()["busy"] >= 0
    slot.idle()
    assert (slot.busy_since, slot.status()["busy"]) == (0, 0)


def test_the_newest_errors_are_kept_in_order() -> None:
    table = Scoreboard(2)
    for number in range(30):
        table.slots[number % 2].failed(f"error {number}")
    assert [error["text"] for error in table.status("b", 7)["errors"]] == [
        f"error {n}" for n in range(22, 30)
    ]


def test_a_successors_first_error_does_not_displace_a_newer_one() -> None:
    table = Scoreboard(1)
    _as_worker(lambda: [table.slots[0].failed(f"error {number}") for number in range(9)])
    _as_worker(lambda: table.slots[0].failed("error 9"))
    assert [error["text"] for error in table.status("b", 7)["errors"]] == [f"error {n}" for n in range(2, 10)]


def _as_worker(body: Callable[[], object]) -> None:
    pid = os.fork()
    if pid == 0:
        body()
        os._exit(0)
    os.waitpid(pid, 0)


@pytest.mark.parametrize(
    "text", ["", "x" * 10_000, "\u20ac" * 200, "\udcff lone", "\0", 'msg="a\\n"', "\U0001f600" * 94]
)
def test_any_text_of_an_error_fits_and_stays_within_its_slot(text: str) -> None:
    table = Scoreboard(2)
    for slot in table.slots:
        for _ in range(9):
            slot.failed(text)
    errors = table.status("b", 7)["errors"]
    assert len(errors) == 8
    assert all(len(error["text"].encode()) < 400 for error in errors)
    assert table.refusals() == dict.fromkeys(REASONS, 0)
    assert [slot.pid for slot in table.slots] == [0, 0]


def test_looks_and_repairs_are_counted() -> None:
    table = Scoreboard(1)
    _as_worker(lambda: (table.repairs.looked(0, 0), table.repairs.looked(3, 1), table.repairs.looked(2, 0)))
    assert table.status("b", 7)["repair"] == {"looks": 3, "repairs": 2, "steps": 5, "failures": 1}
    assert table.slots[0].served_count == 0
