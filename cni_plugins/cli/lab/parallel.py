"""Runs a function for many hosts of a lab, several at a time."""

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def processors() -> int:
    return len(os.sched_getaffinity(0))


def each(work: Callable[[Item], Made], items: Iterable[Item], width: int) -> list[Made]:
    """Return the results of `work` for all items, in their order.

    After a failure, or Ctrl-C, no further item is started; those running are waited for, and the first
    failure is raised.
    """
    numbered = list(enumerate(items))
    waiting = iter(numbered)  # threads may share a list iterator: next() on it is atomic in CPython
    made, failed = dict[int, Made](), list[BaseException]()

    def serve() -> None:
        for number, item in waiting:
            try:
                made[number] = work(item)
            except BaseException as err:  # noqa: BLE001 (raised again below)
                failed.append(err)
            if failed:
                return

    threads = [threading.Thread(target=serve) for _ in range(min(width, len(numbered)))]
    for thread in threads:
        thread.start()
    _join(threads, failed)
    if failed:
        raise failed[0]
    return [made[number] for number, _ in numbered]


def _join(threads: Sequence[threading.Thread], failed: list[BaseException]) -> None:
    try:
        for thread in threads:
            thread.join()
    except BaseException as err:  # noqa: BLE001 (Ctrl-C reaches the main thread alone; raised by each())
        failed.insert(0, err)
        _join(threads, failed)
