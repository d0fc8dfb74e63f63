"""Stories told ahead of the tests that compare them, several at a time: most of a story is waiting."""

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

from tests.differential import story
from tests.differential.cases import Case
from tests.differential.story import Story
from tests.differential.suites import Suite

_TELLERS = 4  # each is a thread, as a thread can stand in a netns of its own


class Library:
    """Every story that is wanted, told once, in the order they are wanted in."""

    def __init__(self, wanted: Iterable[tuple[Suite, Case]]) -> None:
        self._pool = ThreadPoolExecutor(_TELLERS)
        self._stories: dict[tuple[str, str], Future[Story]] = {}
        for suite, case in wanted:
            self.story(suite, case)

    def story(self, suite: Suite, case: Case) -> Future[Story]:
        """The story of that case, which begins now unless it has begun."""
        key = suite.label, case.name
        if key not in self._stories:
            self._stories[key] = self.told_anew(suite, case)
        return self._stories[key]

    def told_anew(self, suite: Suite, case: Case) -> Future[Story]:
        """The story of that case, once more."""
        return self._pool.submit(story.tell, suite, case)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
