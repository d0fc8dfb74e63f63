"""Does rounds with a store in a thread of its own: for what is kept there beside the peers of overlays."""

import threading
from collections.abc import Callable, Iterable
from typing import NamedTuple

from cni_plugins.errors import CniError
from cni_plugins.keeper.back_off import BackOff
from cni_plugins.keeper.report import Tell
from cni_plugins.registries.store import Store, StoreFailed


class Session(NamedTuple):
    """What is done while a store is connected.

    :param round: does one round, and returns a sentence for each thing that is wrong; None: none was due.
    :param wait: returns when the next round is due; soon after it is asked whether the thread is to end.
    :param close: called when no further round is done.
    """

    round: Callable[[], Iterable[str] | None]
    wait: Callable[[threading.Event], object]
    close: Callable[[], object] = lambda: None


class Rounds:
    """A thread that does rounds until it is stopped, and connects again when the store fails."""

    def __init__(
        self,
        subject: str,
        open_store: Callable[[], Store],
        begin: Callable[[Store], Session],
        tell: Tell,
    ) -> None:
        self._subject = subject
        self._open_store = open_store
        self._begin = begin
        self._tell = tell
        self._told: frozenset[str] = frozenset()
        self._has_ended = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, daemon=True, name=f"keeper {self._subject}").start()

    def stop(self) -> None:
        """Do no further round; does not wait for a store that does not answer."""
        self._has_ended.set()

    def _run(self) -> None:
        back_off = BackOff()
        while not self._has_ended.is_set():
            try:
                self._session(back_off)
            except (StoreFailed, OSError) as err:
                self._say([str(err)])
            except CniError as err:
                self._say([f"{err.msg}{f' ({err.full_details()})' if err.full_details() else ''}"])
            except Exception as err:  # noqa: BLE001 (a fault here must not end what other threads keep)
                self._say([f"internal error: {err} ({type(err).__name__})"])
            self._has_ended.wait(back_off.failed())

    def _session(self, back_off: BackOff) -> None:
        """Do rounds until the store fails."""
        store = self._open_store()
        try:
            session = self._begin(store)
            try:
                self._do_rounds(session, back_off)
            finally:
                session.close()
        finally:
            store.close()

    def _do_rounds(self, session: Session, back_off: BackOff) -> None:
        while not self._has_ended.is_set():
            wrong = session.round()
            if wrong is not None:
                self._say(wrong)
                back_off.succeeded()
            session.wait(self._has_ended)

    def _say(self, sentences: Iterable[str]) -> None:
        """Tell the journal what it has not been told by the round before."""
        found = frozenset(sentences)
        for sentence in sorted(found - self._told):
            self._tell.warn({"keeper": "trouble", "of": self._subject}, sentence)
        if self._told and not found:
            self._tell.note({"keeper": "well", "of": self._subject}, "no trouble any more")
        self._told = found
