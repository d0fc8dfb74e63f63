"""Applies snapshots to the kernel, and repairs what somebody removes, each network at its own pace."""

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from cni_plugins.errors import CniError, TryAgainLater
from cni_plugins.keeper.followed import Followed
from cni_plugins.keeper.report import Tell
from cni_plugins.kernel.links.notifications import Notice, What
from cni_plugins.ownership import network_mark
from cni_plugins.protocol.fields import Conf
from cni_plugins.upkeep import overlay
from cni_plugins.upkeep.overlay import State, View
from cni_plugins.upkeep.pacing import Pacing

_MOST_TOLD = 5  # differences in one line of the journal
_OF_LINKS = (What.ADDRESS_GONE, What.NEIGHBOUR_GONE)


class Told(Protocol):
    """Where the outcome is kept; see report.Report."""

    def applied(self, *, changed: bool, trouble: str = "") -> None: ...


class _Work:
    """One network: when it is looked at, and why."""

    def __init__(self, of: Followed, report: Told | None, now: float) -> None:
        self.of = of
        self.report = report
        self.pacing = Pacing(now)
        self.has_news = False
        self.trouble = ""
        self.is_fight = False
        self.indexes: set[int] = set()


class Outcome(NamedTuple):
    """What a look did."""

    changed: bool = False
    differences: tuple[str, ...] = ()
    trouble: str = ""


class Applier:
    """The networks that are kept in line; used by one thread."""

    def __init__(self, tell: Tell, sync: Callable[[str, Conf], View] = overlay.sync) -> None:
        self._tell = tell
        self._sync = sync
        self._works: dict[str, _Work] = {}
        self._states: dict[int, bytes] = {}

    def follow(self, of: Followed, report: Told | None) -> None:
        """Keep a network in line from now on; it is looked at soon."""
        self._works[of.network] = _Work(of, report, time.monotonic())

    def forget(self, network: str) -> None:
        self._works.pop(network, None)

    def news(self, network: str) -> None:
        """There is a new snapshot, or a new file: no pause between repairs delays it."""
        if network in self._works:
            self._works[network].has_news = True

    def look(self) -> None:
        """Look at all networks soon, but not sooner than repairs of what is fought over."""
        for work in self._works.values():
            work.pacing.changed(time.monotonic())

    def notice(self, notices: Iterable[Notice]) -> bool:
        """Take note of what has changed; say whether addresses of the host, as of the underlay, have."""
        now = time.monotonic()
        is_underlay = False
        for notice in notices:
            concerned = [work for work in self._works.values() if self._concerns(work, notice)]
            for work in concerned:
                work.pacing.changed(now)
            is_address = notice.what in (What.ADDRESS, What.ADDRESS_GONE, What.LINK, What.ANYTHING)
            is_underlay = is_underlay or (is_address and not concerned and self._is_new(notice))
            if notice.what == What.ANYTHING:
                is_underlay = True
        return is_underlay

    def _concerns(self, work: _Work, notice: Notice) -> bool:
        """Say whether a change is one of what a network has in the host; a new address is none."""
        is_link = notice.name in work.of.links
        if notice.what == What.LINK and is_link:
            work.indexes.add(notice.ifindex)
            return self._is_new(notice)
        return (
            notice.what == What.ANYTHING
            or (notice.what == What.LINK_GONE and (is_link or notice.ifindex in work.indexes))
            or (notice.what == What.ROUTE_GONE and notice.metric == network_mark(work.of.network))
            or (notice.what in _OF_LINKS and notice.ifindex in work.indexes)
        )

    def _is_new(self, notice: Notice) -> bool:
        """Say whether a link is not as it was when it was last told of."""
        if notice.what != What.LINK:
            return notice.ifindex not in {index for work in self._works.values() for index in work.indexes}
        before = self._states.get(notice.ifindex)
        self._states[notice.ifindex] = notice.state
        return before is not None and before != notice.state

    def remember_indexes(self, indexes: Callable[[str], int]) -> None:
        """Look up the indexes of the links that are there, of which later notices are."""
        for work in self._works.values():
            work.indexes |= {found for found in map(indexes, work.of.links) if found}

    def due(self) -> float | None:
        """Return when something is to be done, None: when something has changed."""
        dues = [work.pacing.due() for work in self._works.values()]
        if any(work.has_news for work in self._works.values()):
            return 0.0
        return min((due for due in dues if due is not None), default=None)

    def act(self) -> None:
        """Bring in line what is due."""
        for work in list(self._works.values()):
            due = work.pacing.due()
            if work.has_news or (due is not None and due <= time.monotonic()):
                self._act(work)

    def _act(self, work: _Work) -> None:
        is_repair, work.has_news = not work.has_news, False
        begun = time.monotonic()
        work.pacing.begun()
        outcome = self._outcome(work)
        now = time.monotonic()
        # What could not be brought in line may have been removed again meanwhile: no reason for haste.
        repaired = is_repair and (outcome.changed or bool(outcome.trouble))
        work.pacing.ended(now, now - begun, repaired=repaired, failed=bool(outcome.trouble))
        self._say(work, outcome, "repaired" if is_repair else "applied")
        if work.report is not None:
            work.report.applied(changed=outcome.changed, trouble=work.trouble)

    def _outcome(self, work: _Work) -> Outcome:
        try:
            seen = self._sync(work.of.network, work.of.of.conf)
        except TryAgainLater:  # there is no snapshot yet: the state says why
            return Outcome()
        except Exception as err:  # noqa: BLE001 (a fault in one network must not end the others)
            return Outcome(trouble=_why(err))
        if seen.state == State.DRIFTED:
            return Outcome(trouble="; ".join(seen.differences[:_MOST_TOLD]))
        return Outcome(seen.state in (State.REPAIRED, State.CREATED), seen.differences)

    def _say(self, work: _Work, outcome: Outcome, word: str) -> None:
        network = work.of.network
        if outcome.trouble != work.trouble:
            work.trouble = outcome.trouble
            if outcome.trouble:
                self._tell.warn({"keeper": "not-applied", "network": network}, outcome.trouble)
        if outcome.changed and not work.is_fight:
            more = len(outcome.differences) - _MOST_TOLD
            told = [*outcome.differences[:_MOST_TOLD], *([f"and {more} more"] if more > 0 else [])]
            self._tell.note({"keeper": word, "network": network}, "; ".join(told))
        if work.pacing.is_fight != work.is_fight:
            work.is_fight = work.pacing.is_fight
            text = "what is repaired keeps being removed; the next repair waits longer each time"
            self._tell.warn({"keeper": "fight" if work.is_fight else "peace", "network": network}, text)


def _why(err: Exception) -> str:
    if isinstance(err, CniError):
        details = err.full_details()
        return f"{err.msg}{f' ({details})' if details else ''}"
    reason = (err.strerror or str(err)) if isinstance(err, OSError) else f"internal error: {err!r}"
    return f"not applied: {reason}"
