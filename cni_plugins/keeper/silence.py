"""Counts for how long nodes have been silent, by this host's own observation alone.

No clock of another host is believed, and the time in which this host saw nothing does not count. What has
been counted survives a restart of this process.
"""

from collections.abc import Collection, Mapping
from typing import Any

_LONGEST_STEP = 60.0  # seconds that one observation can count: between two, it may not have been there
_HALF = 2


class Silence:
    """The silent nodes of one network."""

    def __init__(self, kept: Mapping[str, Any]) -> None:
        self._seconds = {
            str(node): float(value)
            for node, value in kept.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        self._last: float | None = None

    @property
    def seconds(self) -> Mapping[str, float]:
        return self._seconds

    def observe(self, nodes: Collection[str], live: Collection[str], me: str, now: float) -> None:
        """Take note of who is there.

        :param nodes: that have records.
        :param live: that show life. Without this host among them nothing is to be concluded from it.
        """
        if me not in live:
            self._last = None
            return
        step = 0.0 if self._last is None else max(0.0, min(now - self._last, _LONGEST_STEP))
        self._last = now
        silent = {node for node in nodes if node not in live and node != me}
        self._seconds = {node: self._seconds.get(node, 0.0) + step for node in sorted(silent)}

    def silent(self) -> list[str]:
        return list(self._seconds)

    def reclaimable(self, after: float, nodes: Collection[str]) -> list[str]:
        """Return the nodes that have been silent for so long; none if most are silent: that is another fault.

        :param after: seconds, 0: never.
        """
        if not after or len(self._seconds) * _HALF > len(nodes):
            return []
        return [node for node, seconds in self._seconds.items() if seconds >= after]
