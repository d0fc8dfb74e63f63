"""Carries out plans: all or nothing, with every step undone on failure, or as far as possible."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import NamedTuple, Self

from cni_plugins.errors import CniError, KernelRefused
from cni_plugins.kernel import dispatch
from cni_plugins.kernel.netlink.socket import Refused
from cni_plugins.kernel.session.session import Session
from cni_plugins.steps.step import ABSENT, UNHEARD, Plan, Removal, Step, undo


class Change:
    """Carries out plans one after the other, and undoes all of them when one, or the enclosing block, fails.

    A context manager. A step that could not be undone becomes a note on the error.

    :ivar still_in_use: whether a link that could not be removed again may use the attachment's addresses.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._done: list[tuple[Step, str]] = []
        self.still_in_use = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        if err is not None:
            self.take_back(err)

    def carry_out(self, plan: Plan) -> None:
        """Carry out every step.

        :raises KernelRefused: for the refused step, after it and all steps before it have been undone.
        """
        try:
            for step in plan:
                self._session.require_caller()
                self._carry_out(step)
            self._session.require_caller()
        except BaseException as err:
            self.take_back(err)
            raise

    def _carry_out(self, step: Step) -> None:
        if step.may_be_half_done:
            self._done.append((step, ABSENT))
        with refusals(self._session, step):
            try:
                before = dispatch.carry_out(self._session, step)
            except OSError as err:
                if not isinstance(err, Refused):
                    self._done.append((step, UNHEARD))
                raise
        if not step.may_be_half_done:
            self._done.append((step, before))

    def take_back(self, reason: BaseException) -> None:
        """Undo the steps carried out so far, unless they have already been undone."""
        done, self._done = self._done, []
        self.still_in_use |= not take_back(self._session, done, reason)


def apply(session: Session, plan: Plan) -> None:
    """Carry out every step, or none.

    :raises KernelRefused: see Change.carry_out.
    """
    Change(session).carry_out(plan)


def take_back(session: Session, done: list[tuple[Step, str]], reason: BaseException) -> bool:
    """Undo steps in reverse order; each failure to undo one becomes a note on the reason.

    Steps whose effect others may share are undone last, and only if no other attachment exists or is being
    created.

    :returns: whether no link is left that may use the attachment's addresses.
    """
    is_unused = _undo(session, [item for item in done if not item[0].is_shared], reason)
    shared = [item for item in done if item[0].is_shared]
    if not shared:
        return is_unused
    try:
        with session.host_alone() as alone:
            if alone and not any(dispatch.is_relied_on(session, step) for step, _ in shared):
                _undo(session, shared, reason)
    except OSError as err:
        reason.add_note(f"what may be shared was not undone: {err.strerror} (errno {err.errno})")
    return is_unused


def _undo(session: Session, done: list[tuple[Step, str]], reason: BaseException) -> bool:
    is_unused = True
    for step, before in reversed(done):
        opposite = undo(step, before)
        if opposite is None:
            continue
        try:
            with refusals(session, opposite):
                dispatch.carry_out(session, opposite)
        except CniError as err:
            reason.add_note(f"could not be undone: {err.msg} ({err.details})")
            is_unused &= not _ends_use(opposite)
    return is_unused


class Removed(NamedTuple):
    """The errors of a plan that removes, and whether all that uses an attachment's addresses is gone."""

    errors: list[CniError]
    is_unused: bool


def remove(session: Session, plan: Plan) -> Removed:
    """Carry out every step, even after failures."""
    errors, is_unused = [], True
    for step in plan:
        try:
            with refusals(session, step):
                dispatch.carry_out(session, step)
        except CniError as err:
            errors.append(err)
            is_unused &= not _ends_use(step)
    return Removed(errors, is_unused)


def _ends_use(step: Step) -> bool:
    return isinstance(step, Removal) and step.ends_use


def holds(session: Session, plan: Plan) -> bool:
    """Say whether what the plan says of whole networks is in the kernel already.

    That stays true while their locks are held.
    """
    found = ((dispatch.find(type(step)).whole, step) for step in plan)
    return all(whole.holds(session, step) for whole, step in found if whole is not None)


def forget(session: Session, plan: Plan) -> None:
    """Have everything looked at that the plan says of whole networks, as it is about to be changed."""
    for step in plan:
        whole = dispatch.find(type(step)).whole
        if whole is not None:
            with refusals(session, step):
                whole.forget(session, step)


def compare(session: Session, plan: Plan) -> list[str]:
    """Return a sentence for every step whose effect is not in the kernel."""
    found = []
    for step in plan:
        with refusals(session, step):
            found.append(dispatch.differs(session, step))
    return [text for text in found if text]


@contextmanager
def refusals(session: Session, step: Step) -> Iterator[None]:
    """Translate an error of the operating system into one that names the step."""
    try:
        yield
    except OSError as err:
        hint = err.hint if isinstance(err, Refused) else (err.filename or "")
        where = f"CNI_NETNS is {session.path}" if session.path else ""
        details = ", ".join(filter(None, (f"errno {err.errno}", hint, where)))
        raise KernelRefused(f"{step.phrase()}: {err.strerror}", details, err.errno or 0) from err
    except CniError:
        raise
    except Exception as err:  # a bug in one step must not keep the others from being carried out
        raise CniError(f"{step.phrase()}: {err}", type(err).__name__) from err
