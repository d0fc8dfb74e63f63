import time

import pytest

from cni_plugins.leases import boot
from cni_plugins.leases.boot import UNKNOWN, Boot
from cni_plugins.leases.index import Entry

NOW = Boot("b2", began=lambda: 1000)


@pytest.mark.parametrize(
    ("record", "mtime", "old"),
    [
        (Entry("b1", 500, ()), 500, True),
        (Entry("b1", 5000, ()), 5000, True),  # by the record, whatever the clock said
        (Entry("b2", 500, ()), 500, False),
        (Entry("b1", 500, ()), 501, False),  # written again since
        (Entry(UNKNOWN, 2000, ()), 2000, False),  # made by a call that could not tell the boot
        (Entry(UNKNOWN, 999, ()), 999, True),
        (None, 999, True),
        (None, 1000, False),
    ],
)
def test_a_record_decides_and_the_clock_only_without_one(record: Entry | None, mtime: int, old: bool) -> None:
    assert NOW.is_later_than(record, mtime) is old


def test_without_a_boot_id_nothing_is_old() -> None:
    assert not Boot(UNKNOWN, lambda: 1000).is_later_than(Entry("b1", 5, ()), 5)
    assert not Boot(UNKNOWN, lambda: 1000).is_later_than(None, 5)


def test_the_boot_id_is_one_word_and_stays_the_same() -> None:
    name = boot.current().name
    assert name == boot.current().name
    assert name.isalnum() or name == UNKNOWN


def test_the_boot_began_before_now_by_every_clock() -> None:
    assert boot.current().began() <= time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 10**9
