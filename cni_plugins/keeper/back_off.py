"""Decides how long to wait before a store is tried again: full jitter, so that hosts come one by one."""

import random
from collections.abc import Callable

_FIRST, _LONGEST = 0.1, 30.0  # seconds
_MOST_DOUBLINGS = 16


class BackOff:
    """Waiting times between tries that fail.

    :param longest: seconds.
    """

    def __init__(
        self, longest: float = _LONGEST, uniform: Callable[[float, float], float] = random.uniform
    ) -> None:
        self._longest = longest
        self._uniform = uniform
        self._failures = 0

    def failed(self) -> float:
        """Return how many seconds to wait after one more failure."""
        ceiling = min(self._longest, _FIRST * 2 ** min(self._failures + 1, _MOST_DOUBLINGS))
        self._failures += 1
        return self._uniform(_FIRST, ceiling)

    def succeeded(self) -> None:
        self._failures = 0
