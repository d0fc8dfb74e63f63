import pytest

from cni_plugins.keeper.belief import Answer, Pending, is_suspicious, judge


def nodes(count: int) -> frozenset[str]:
    return frozenset(f"h{number}" for number in range(count))


def answer(count: int, *, canary: bool = True, emptied: bool = False) -> Answer:
    return Answer(dict.fromkeys(nodes(count), b"{}"), canary, emptied)


@pytest.mark.parametrize(
    ("before", "now", "doubted"),
    [
        (0, 0, False),
        (0, 5, False),
        (3, 2, False),
        (2, 1, False),
        (3, 1, True),
        (1, 0, True),
        (10, 8, False),
        (10, 7, True),
        (100, 80, False),
        (100, 79, True),
        (1000, 1500, False),
    ],
)
def test_which_lists_are_doubted(before: int, now: int, doubted: bool) -> None:
    assert bool(judge(nodes(before), answer(now), None, 0.0).doubt) == doubted


def test_hosts_that_were_replaced_count_as_lost() -> None:
    found = Answer({f"x{number}": b"" for number in range(10)}, has_canary=True)
    assert judge(nodes(10), found, None, 0.0).doubt


def test_a_list_is_believed_when_it_stays_the_same() -> None:
    first = judge(nodes(10), answer(3), None, 100.0, 30.0)
    assert "7 of 10 hosts" in first.doubt
    early = judge(nodes(10), answer(3), first.pending, 129.0, 30.0)
    assert early.doubt
    assert early.pending == first.pending
    assert not judge(nodes(10), answer(3), early.pending, 130.0, 30.0).doubt


def test_another_short_list_starts_anew() -> None:
    first = judge(nodes(10), answer(3), None, 100.0, 30.0)
    second = judge(nodes(10), answer(2), first.pending, 131.0, 30.0)
    assert second.pending is not None
    assert second.pending.since == 131.0


def test_a_full_list_is_believed_at_once_and_ends_the_doubt() -> None:
    first = judge(nodes(10), answer(3), None, 100.0)
    verdict = judge(nodes(10), answer(10), first.pending, 101.0)
    assert verdict == ("", None)


def test_without_the_canary_nothing_is_believed_ever() -> None:
    pending = None
    for now in range(0, 10_000, 100):
        verdict = judge(nodes(10), answer(0, canary=False), pending, float(now))
        assert "canary" in verdict.doubt
        pending = verdict.pending


def test_an_emptied_store_must_convince_for_longer_and_of_every_single_loss() -> None:
    assert is_suspicious(10, 1, was_emptied=True)
    first = judge(nodes(10), answer(9, emptied=True), None, 0.0, 30.0)
    assert first.pending is not None
    assert first.pending.due == 300.0
    assert judge(nodes(10), answer(9, emptied=True), first.pending, 299.0, 30.0).doubt
    assert not judge(nodes(10), answer(9, emptied=True), first.pending, 300.0, 30.0).doubt


def test_a_time_from_the_future_does_not_count() -> None:
    found = answer(3)
    verdict = judge(nodes(10), found, Pending(found.digest(), 500.0, 30.0), 100.0)
    assert verdict.pending is not None
    assert verdict.pending.since == 100.0
