"""Traces recorded ahead of the tests that compare them, several at a time: most of the time is waiting."""

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

from tests.differential import trace
from tests.differential.cases import Case
from tests.differential.hosts import Hosts
from tests.differential.suites import Suite
from tests.differential.trace import Trace

_THREADS = 4  # each can enter a network namespace of its own


class TraceCache:
    """Records each wanted trace once, in the order in which the traces are wanted."""

    def __init__(self, wanted: Iterable[tuple[Suite, Case]]) -> None:
        self._pool = ThreadPoolExecutor(_THREADS)
        self._hosts = Hosts()
        self._traces: dict[tuple[str, str], Future[Trace]] = {}
        for suite, case in wanted:
            self.trace(suite, case)

    def trace(self, suite: Suite, case: Case) -> Future[Trace]:
        """Return the trace of the case; its recording starts now unless it was started before."""
        key = suite.label, case.name
        if key not in self._traces:
            self._traces[key] = self.recorded_anew(suite, case)
        return self._traces[key]

    def recorded_anew(self, suite: Suite, case: Case) -> Future[Trace]:
        """Record the case once more, whatever was recorded before."""
        return self._pool.submit(trace.record, suite, case, self._hosts)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._hosts.close()
