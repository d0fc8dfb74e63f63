"""Carries plans out: forwards with everything taken back on refusal, or to the end whatever happens.

What each step is to the kernel, `words` knows.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from cni_plugins.errors import CniError, KernelRefused
from cni_plugins.kernel import bridges, words
from cni_plugins.kernel.session import Session
from cni_plugins.kernel.wire import Refused
from cni_plugins.spec.attachment import Attachment
from cni_plugins.steps.links import EnsureBridge
from cni_plugins.steps.macvlans import EnsureHostLink
from cni_plugins.steps.overlays import (
    AttachVxlan,
    EnsureOverlayBridge,
    EnsureOverlayRules,
    EnsurePeers,
    EnsureVxlan,
)
from cni_plugins.steps.plan import ABSENT, Plan, Step, inverse, is_shared, may_be_half_done

_MOST_SHOWN = 8


class Change:
    """Plans carried out one after the other, and all taken back when one of them fails, or anything else.

    A context manager. What could not be taken back stands in the notes of the error.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._done: list[tuple[Step, str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        if err is not None:
            self.take_back(err)

    def carry_out(self, plan: Plan) -> None:
        """Carry out every step.

        :raises KernelRefused: for the step that was refused, after it and all before it were taken back.
        """
        try:
            for step in plan:
                self._session.require_caller()
                if may_be_half_done(step):
                    self._done.append((step, ABSENT))
                with refusals(self._session, step):
                    self._done.append((step, words.carry_out(self._session, step)))
            self._session.require_caller()
        except BaseException as err:
            self.take_back(err)
            raise

    def take_back(self, reason: BaseException) -> None:
        """Undo what has been done so far, if it was not yet."""
        done, self._done = self._done, []
        take_back(self._session, done, reason)


def apply(session: Session, plan: Plan) -> None:
    """Carry out every step, or none.

    :raises KernelRefused: as Change.carry_out.
    """
    Change(session).carry_out(plan)


def take_back(session: Session, done: list[tuple[Step, str]], reason: BaseException) -> None:
    """Undo steps in reverse order; what cannot be undone becomes a note on the reason.

    What others may share is undone last, and only while no other attachment is there and none is being made.
    """
    _undo(session, [item for item in done if not is_shared(item[0])], reason)
    shared = [item for item in done if is_shared(item[0])]
    if not shared:
        return
    with session.host_alone() as alone:
        if alone and not any(_is_relied_on(session, step) for step, _ in shared):
            _undo(session, shared, reason)


def _is_relied_on(session: Session, step: Step) -> bool:
    match step:
        case EnsureBridge(name=name):
            return bridges.has_attachments(session, name)
        case EnsureHostLink(name=name, network=network):
            from cni_plugins.kernel import host_access

            return host_access.has_attachments(session, name, network)
        case EnsureVxlan() | EnsureOverlayBridge() | EnsurePeers() | EnsureOverlayRules():
            from cni_plugins.kernel import overlays

            return overlays.has_attachments(session, step.network)
        case _:
            return False


def _undo(session: Session, done: list[tuple[Step, str]], reason: BaseException) -> None:
    for step, before in reversed(done):
        undo = inverse(step, before)
        if undo is None:
            continue
        try:
            with refusals(session, undo):
                words.carry_out(session, undo)
        except CniError as err:
            reason.add_note(f"could not be taken back: {err.msg} ({err.details})")


def apply_all(session: Session, plan: Plan) -> list[CniError]:
    """Carry out every step that can be; return what could not."""
    failed = []
    for step in plan:
        try:
            with refusals(session, step):
                words.carry_out(session, step)
        except CniError as err:
            failed.append(err)
    return failed


def compare(session: Session, plan: Plan) -> list[str]:
    """Return a sentence for every step whose effect is not in the kernel."""
    found = []
    for step in plan:
        with refusals(session, step):
            found.append(words.differs(session, step))
    return [text for text in found if text]


@contextmanager
def refusals(session: Session, step: Step) -> Iterator[None]:
    """Translate what the operating system says into one error that names the deed."""
    try:
        yield
    except OSError as err:
        hint = err.hint if isinstance(err, Refused) else (err.filename or "")
        details = f"errno {err.errno}" + (f", {hint}" if hint else "")
        raise KernelRefused(f"{_phrase(session, step)}: {err.strerror}", details, err.errno or 0) from err
    except CniError:
        raise
    except Exception as err:  # a fault of ours in one step must not keep the others from being taken away
        raise CniError(f"{_phrase(session, step)}: {err}", type(err).__name__) from err


def _phrase(session: Session, step: Step) -> str:
    """Return a step as words: its name split at capitals, then its first fields."""
    told = 2 if isinstance(step, AttachVxlan | EnsurePeers) else 3  # tables are no words
    name = "".join(f" {char.lower()}" if char.isupper() else char for char in type(step).__name__).strip()
    fields = [_shown(value) for value in step[:told]]
    place = f" (sandbox {session.path})" if session.path else ""
    return f"{name} {' '.join(fields)}{place}"


def _shown(value: object) -> str:
    """Return a field as people write it; a setting's key is a tuple, as are addresses."""
    match value:
        case Attachment():
            return value.ifname
        case (str(), *_):
            return ".".join(map(str, value))
        case tuple():
            return ", ".join(map(str, value)) if len(value) <= _MOST_SHOWN else f"{len(value)} entries"
        case _:
            return str(value)
