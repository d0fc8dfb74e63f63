"""Waits until another program removes rules of this suite, and has them repaired.

A child of the agent's parent. It looks once when it starts, as something may have happened before. From then
on it acts on notifications, on those of other programs only: requests and repairs of this suite leave the
ruleset as it must be.
"""

import select
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from cni_plugins.agent.journal import Journal, pairs_line
from cni_plugins.agent.repair.job import NAME, Event, Job, JobResult
from cni_plugins.agent.scoreboard import Scoreboard
from cni_plugins.engine.registry import NAMES
from cni_plugins.kernel.firewall.notifications import UNKNOWN, Author, RulesetListener
from cni_plugins.upkeep.pacing import Pacing
from cni_plugins.upkeep.repair import Scope

# What the processes of this suite are called in /proc/PID/comm, which has room for 15 characters.
_OWN_NAMES = frozenset(name[:15] for name in (*NAMES, "cnictl", "cni-lingering", "cni-keeper", NAME))
_LEGACY = ("/proc/net/ip_tables_names", "/proc/net/ip6_tables_names")
_ROUND = 60.0  # seconds between looks where no notification comes
_REMEMBERED = 1000  # things said once


class WatchContext(NamedTuple):
    """What the process gets from the agent."""

    scope: Scope
    scoreboard: Scoreboard
    lifeline: int
    journal: Journal


def scope(cache_dirs: Iterable[str], plugin_dirs: Iterable[str], conf_dir: str) -> Scope:
    """Return where to look, by the agent's options, which are empty for the defaults."""
    usual = Scope()
    return Scope(
        tuple(map(Path, cache_dirs)) or usual.cache_dirs,
        tuple(map(Path, plugin_dirs)) or usual.plugin_dirs,
        Path(conf_dir) if conf_dir else usual.conf_dir,
    )


def run(context: WatchContext) -> None:
    """Watch until the lifeline is closed."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the parent acts on them
    watch = _Watch(context)
    while watch.step():
        pass


class _Watch:
    def __init__(self, context: WatchContext) -> None:
        self._context = context
        self._listener = self._listening()
        self._pacing = Pacing(time.monotonic())
        self._next_round = time.monotonic() + _ROUND
        self._jobs: list[Job] = []
        self._author = UNKNOWN
        self._said: set[object] = set()
        self._is_fight = False

    def _listening(self) -> RulesetListener | None:
        try:
            return RulesetListener()
        except OSError as err:
            reason = f"nf_tables does not notify of changes: {err.strerror}"
            self._context.journal.warn(f"repair: {reason}; looking every {_ROUND:.0f} s")
            return None

    def step(self) -> bool:
        """Wait for something to happen, and act on it; return False when the agent ends."""
        ready = self._wait()
        if self._context.lifeline in ready:
            return False
        for job in [job for job in self._jobs if job.fileno() in ready]:
            self._take_results(job)
        now = time.monotonic()
        if self._listener and self._listener.fileno() in ready:
            self._notice(self._listener.authors(), now)
        if now >= self._next_round:
            self._next_round = now + _ROUND
            if self._listener is None or _has_legacy_tables():
                self._pacing.changed(now)
        due = self._pacing.due()
        if due is not None and due <= now and not self._is_looking:
            self._look()
        return True

    @property
    def _is_looking(self) -> bool:
        return any(job.is_looking for job in self._jobs)

    def _wait(self) -> set[int]:
        events = select.poll()
        events.register(self._context.lifeline, 0)
        for job in self._jobs:
            events.register(job, select.POLLIN)
        if self._listener:
            events.register(self._listener, select.POLLIN)
        due = None if self._is_looking else self._pacing.due()
        until = self._next_round if due is None else min(due, self._next_round)
        timeout = max(0.0, until - time.monotonic())
        return {fd for fd, _ in events.poll(int(timeout * 1000) + 1)}

    def _notice(self, authors: Iterable[Author], now: float) -> None:
        own = {slot.pid for slot in self._context.scoreboard.slots} | {job.pid for job in self._jobs}
        for author in authors:
            if author.pid not in own and author.name not in _OWN_NAMES:
                self._author = author
                self._pacing.changed(now)

    def _look(self) -> None:
        self._pacing.begun()
        try:
            self._jobs.append(Job(self._context.scope))
        except OSError as err:
            self._context.journal.warn(f"repair: cannot start a process: {err.strerror}")
            self._pacing.ended(time.monotonic(), 0.0, repaired=False, failed=True)

    def _take_results(self, job: Job) -> None:
        results = job.results()
        for result in results or ():
            for gone in result.departed:
                self._context.journal.note(f"repair: {gone}: deleted meanwhile, and so are its rules")
            if job.is_looking:
                job.is_looking = False
                self._finish(result)
        if results is None:
            self._jobs.remove(job)
            if job.is_looking:  # it was killed
                self._pacing.ended(time.monotonic(), 0.0, repaired=False, failed=True)

    def _finish(self, result: JobResult) -> None:
        journal, pacing = self._context.journal, self._pacing
        now = time.monotonic()
        pacing.ended(now, result.seconds, repaired=bool(result.repaired), failed=bool(result.failed))
        for event in result.repaired if not self._is_fight else ():
            journal.note(_line("repaired", event, self._author))
        for event in (event for event in result.failed if self._is_new(event)):
            journal.warn(_line("not-repaired", event, UNKNOWN))
        for problem in (problem for problem in result.problems if self._is_new(problem)):
            journal.warn(f"repair: {problem}")
        steps = sum(len(event.what) for event in result.repaired)
        self._context.scoreboard.repairs.looked(steps, len(result.failed))
        self._tell_of_fight(result)

    def _tell_of_fight(self, result: JobResult) -> None:
        """Say once that repairs do not last, and once that they do again."""
        if self._pacing.is_fight and not self._is_fight and result.repaired:
            by = f" by {self._author.name}" if self._author.name else ""
            delay = f"{self._pacing.delay:.0f} s now, and up to 10 min"
            self._context.journal.warn(
                f"repair: what was repaired keeps being removed{by}; the next repair waits {delay}"
            )
            self._is_fight = True
        elif self._is_fight and not self._pacing.delay:
            self._context.journal.note("repair: what was repaired lasts again")
            self._is_fight = False

    def _is_new(self, said: object) -> bool:
        if said in self._said:
            return False
        if len(self._said) >= _REMEMBERED:
            self._said.clear()
        self._said.add(said)
        return True


def _line(word: str, event: Event, author: Author) -> str:
    return pairs_line(
        {
            "repair": word,
            "network": event.network,
            "container": event.container,
            "ifname": event.ifname,
            "plugin": event.plugins,
            "after": author.name,
        },
        "; ".join(event.what),
    )


def _has_legacy_tables() -> bool:
    """Say whether iptables-legacy, which sends no notifications, has tables."""
    for path in _LEGACY:
        try:
            with open(path) as file:
                if file.read(1):
                    return True
        except OSError:
            continue
    return False
