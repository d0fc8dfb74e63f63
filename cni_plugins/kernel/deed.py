"""Maps each step to the functions that carry it out, compare it with the kernel, and say who relies on it.

The module of an object lists the steps it serves in `DEEDS`; `dispatch` finds them there.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from cni_plugins.kernel.session.session import Session
from cni_plugins.steps.step import Step

S = TypeVar("S", bound=Step)


class Whole(NamedTuple):
    """How a step about a whole network is recognised as done, which is only sure under the network's lock.

    :param holds: returns whether carrying it out would change nothing.
    :param forget: makes `holds` and `carry_out` look at everything the next time.
    """

    holds: Callable[[Session, Any], bool]
    forget: Callable[[Session, Any], None]


class Deed(NamedTuple):
    """The functions of one step.

    :param carry_out: returns the previous state: ABSENT (or None) if the step created the object, UNCHANGED,
        or the old value.
    :param differs: returns a sentence if the kernel differs from what the step creates, else an empty string.
    :param is_relied_on: whether other attachments use what a shared step created, so that it must not be
        undone.
    :param restore: carries out steps of many attachments in few transactions, for repair: all or none, and
        without replacing anything of another attachment. None: they are carried out one by one.
    :param whole: of a step about what all attachments of a network share.
    """

    carry_out: Callable[[Session, Any], str | None]
    differs: Callable[[Session, Any], str]
    is_relied_on: Callable[[Session, Any], bool]
    restore: Callable[[Session, Sequence[Any]], None] | None = None
    whole: Whole | None = None


Deeds = dict[type[Step], Deed]


class Uncompared:
    """Replaces the comparison for a step that leaves nothing to compare; `reason` says why."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __call__(self, _session: Session, _step: Step) -> str:
        return ""


REMOVES = Uncompared("removes something, and a plan that CHECK compares has no such step")


def _never(_session: Session, _step: Step) -> bool:
    return False


def deed(
    step: type[S],
    carry_out: Callable[[Session, S], str | None],
    differs: Callable[[Session, S], str],
    is_relied_on: Callable[[Session, S], bool] = _never,
    restore: Callable[[Session, Sequence[S]], None] | None = None,
    whole: Whole | None = None,
) -> Deeds:
    """Return the table with one step; `a | b` joins tables."""
    return {step: Deed(carry_out, differs, is_relied_on, restore, whole)}
