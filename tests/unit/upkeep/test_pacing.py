"""When the agent looks whether something is missing."""

import itertools

import pytest

from cni_plugins.upkeep.pacing import Pacing


def calm(now: float = 0.0) -> Pacing:
    """Return the state after the look at the start, which found nothing."""
    pacing = Pacing(now)
    pacing.begun()
    pacing.ended(now, 0.01, repaired=False, failed=False)
    return pacing


def look(pacing: Pacing, *, repaired: bool = False, failed: bool = False, seconds: float = 0.01) -> float:
    """Look when it is due, and return when that is."""
    due = pacing.due()
    assert due is not None
    pacing.begun()
    pacing.ended(due, seconds, repaired=repaired, failed=failed)
    return due


def test_the_first_look_is_at_once_and_then_none_without_a_reason() -> None:
    assert Pacing(5.0).due() == 5.0
    assert calm().due() is None


def test_a_change_is_looked_at_when_it_is_quiet() -> None:
    pacing = calm()
    pacing.changed(100.0)
    assert pacing.due() == 100.1
    pacing.changed(100.05)
    assert pacing.due() == pytest.approx(100.15)


def test_changes_without_end_are_looked_at_within_half_a_second() -> None:
    pacing = calm()
    for step in range(100):
        pacing.changed(100.0 + step / 50)
    assert pacing.due() == 100.5


def test_a_change_during_a_look_needs_another_one() -> None:
    pacing = calm()
    pacing.changed(100.0)
    pacing.begun()
    pacing.changed(100.2)
    pacing.ended(100.3, 0.1, repaired=True, failed=False)
    assert pacing.due() is not None


def test_repairs_that_do_not_last_become_rare() -> None:
    pacing = calm()
    now, waits = 100.0, []
    for _ in range(14):
        pacing.changed(now)
        done = look(pacing, repaired=True)
        waits.append(round(done - now))
        now = done
    assert waits == [0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]
    assert pacing.is_fight


def test_one_repair_or_two_are_no_fight() -> None:
    pacing = calm()
    for now in (100.0, 105.0):
        pacing.changed(now)
        look(pacing, repaired=True)
        assert not pacing.is_fight


def test_a_repair_that_has_lasted_makes_the_next_one_quick_again() -> None:
    pacing = calm()
    now = 100.0
    for _ in range(6):
        pacing.changed(now)
        now = look(pacing, repaired=True)
    assert pacing.delay == 16.0
    pacing.changed(now + 43)
    assert look(pacing, repaired=True) == pytest.approx(now + 43.1)
    assert pacing.delay == 0.0


def test_what_fails_is_tried_again_ever_later() -> None:
    pacing = calm()
    pacing.changed(100.0)
    times = [look(pacing, failed=True) for _ in range(6)]
    waits = [round(later - earlier) for earlier, later in itertools.pairwise(times)]
    assert waits == [1, 2, 4, 8, 16]
    look(pacing)
    assert pacing.due() is None


def test_what_fails_does_not_delay_what_can_be_repaired() -> None:
    pacing = calm()
    pacing.changed(100.0)
    for _ in range(12):
        last = look(pacing, failed=True)
    pacing.changed(last + 20)
    assert look(pacing, repaired=True, failed=True) == pytest.approx(last + 20.1)


def test_looks_that_find_nothing_take_a_tenth_of_the_time_at_most() -> None:
    pacing = calm()
    now = 100.0
    for _ in range(4):
        pacing.changed(now)
        now = look(pacing, seconds=0.5) + 0.01
    pacing.changed(now)
    assert pacing.due() == pytest.approx(now - 0.01 + 4.5)
    pacing.begun()
    pacing.ended(now + 100, 0.5, repaired=False, failed=False)
    pacing.changed(now + 200)
    assert pacing.due() == pytest.approx(now + 200.1)
