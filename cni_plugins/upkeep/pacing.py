"""Decides when to look whether something is missing: soon after a change, and ever later if it does not last.

A pure state machine; times are those of the monotonic clock, in seconds.
"""

_QUIET = 0.1  # after the last change
_LONGEST = 0.5  # after the first one
_FIRST_DELAY, _LONGEST_DELAY = 1.0, 600.0  # between repairs that do not last, and between tries that fail
_LASTING = 10.0  # a repair has lasted if nothing was missing for this time, and twice the delay
_FIGHT = 2.0  # from this delay on it is no accident
_SHARE = 9  # looks that find nothing may take a tenth of the time,
_VAIN = 3  # but for the first ones in a row, and those after a pause
_PAUSE = 60.0


class Pacing:
    """When the next look is due."""

    def __init__(self, now: float) -> None:
        self._first: float | None = now - _LONGEST  # the agent has started, and may have missed something
        self._last = self._first
        self._not_before = now
        self._delay = 0.0
        self._repaired_at: float | None = None
        self._retry: float | None = None
        self._retry_delay = 0.0
        self._vain = 0
        self._looked_at = now

    @property
    def delay(self) -> float:
        """Seconds between two repairs, as the last ones did not last; 0: they did."""
        return self._delay

    @property
    def is_fight(self) -> bool:
        """Whether another program keeps removing what is repaired."""
        return self._delay >= _FIGHT

    def changed(self, now: float) -> None:
        if self._first is None:
            self._first = now
        self._last = now

    def due(self) -> float | None:
        """Return the time of the next look, None if there is no reason for one."""
        if self._first is None:
            return self._retry
        soon = max(min(self._last + _QUIET, self._first + _LONGEST), self._not_before)
        return soon if self._retry is None else min(soon, self._retry)

    def begun(self) -> None:
        """A look has begun: what changes from now on needs another one."""
        self._first = self._retry = None

    def ended(self, now: float, seconds: float, *, repaired: bool, failed: bool) -> None:
        """A look has ended.

        :param seconds: how long it took.
        :param failed: whether something could not be repaired, so that it is tried again.
        """
        lasted = self._repaired_at is None or now - self._repaired_at > _LASTING + 2 * self._delay
        if lasted:
            self._delay = 0.0
        if repaired:
            self._delay = 0.0 if lasted else _doubled(self._delay)
            self._repaired_at = now
            self._not_before = now + self._delay
            self._vain = 0
        else:
            self._vain = self._vain + 1 if now - self._looked_at < _PAUSE else 1
            if self._vain > _VAIN:
                self._not_before = max(self._not_before, now + _SHARE * seconds)
        self._looked_at = now
        self._retry_delay = _doubled(self._retry_delay) if failed else 0.0
        self._retry = now + self._retry_delay if failed else None


def _doubled(delay: float) -> float:
    return min(max(2 * delay, _FIRST_DELAY), _LONGEST_DELAY)
