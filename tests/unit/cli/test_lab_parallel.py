"""The same work for many, several at a time."""

import threading

import pytest

from cni_plugins.cli.lab.parallel import each


def test_results_come_in_the_order_of_the_items() -> None:
    assert each(lambda number: number * 2, range(50), 7) == [number * 2 for number in range(50)]
    assert each(str, [], 4) == []


def test_as_many_work_at_once_as_may() -> None:
    together = threading.Barrier(3, timeout=10)  # none gets past it alone
    assert len(each(lambda _: together.wait(), range(3), 3)) == 3


def test_after_a_failure_nothing_new_is_begun_and_the_first_is_raised() -> None:
    begun: list[int] = []

    def work(number: int) -> None:
        begun.append(number)
        if number == 2:
            raise LookupError(f"number {number}")

    with pytest.raises(LookupError, match="number 2"):
        each(work, range(100), 1)
    assert begun == [0, 1, 2]


def test_what_runs_at_a_failure_comes_to_its_end() -> None:
    failing, ended = threading.Event(), list[str]()

    def work(item: str) -> None:
        if item == "fails":
            failing.set()
            raise LookupError(item)
        failing.wait(10)
        ended.append(item)

    with pytest.raises(LookupError):
        each(work, ["slow", "fails", "never begun"], 2)
    assert ended == ["slow"]
