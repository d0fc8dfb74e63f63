from cni_plugins.keeper.back_off import BackOff


def ceilings(count: int, longest: float = 30.0) -> list[float]:
    back_off = BackOff(longest, lambda _, high: high)
    return [back_off.failed() for _ in range(count)]


def test_waits_grow_to_a_limit() -> None:
    assert ceilings(10) == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]
    assert ceilings(100, 8.0)[-1] == 8.0


def test_every_wait_is_at_random_above_a_tenth_of_a_second() -> None:
    back_off = BackOff()
    waits = [back_off.failed() for _ in range(50)]
    assert all(0.1 <= wait <= 30 for wait in waits)
    assert len(set(waits)) > 40


def test_success_begins_anew() -> None:
    back_off = BackOff(uniform=lambda _, high: high)
    back_off.failed()
    back_off.succeeded()
    assert back_off.failed() == 0.2
