"""Keeps what is told of one network: in state.json for plugins and operators, and in the journal.

Used by the thread that follows the network and the one that applies what it found.
"""

import threading
import time
from collections.abc import Mapping
from typing import Any, Protocol

from cni_plugins.contract.snapshot import StateName
from cni_plugins.keeper.belief import Pending
from cni_plugins.keeper.files import NetworkFiles

_REFRESH = 30.0  # seconds between two writes of `confirmed` alone
_LONGEST = 2000  # characters
_MOST_NAMED = 50  # nodes


_LASTING = {
    "state": str,
    "since": float,
    "confirmed": float,
    "peers": int,
    "silent": list,
    "silentCount": int,
    "pending": dict,
}


class Tell(Protocol):
    """The journal: lines of pairs of keys and values, and a text."""

    def note(self, pairs: Mapping[str, str], text: str) -> None: ...

    def warn(self, pairs: Mapping[str, str], text: str) -> None: ...


class Silent:
    """Tells nobody."""

    def note(self, pairs: Mapping[str, str], text: str) -> None: ...

    def warn(self, pairs: Mapping[str, str], text: str) -> None: ...


class Report:
    """What is told of one network."""

    def __init__(self, files: NetworkFiles, kind: str, tell: Tell) -> None:
        self._files = files
        self._kind = kind
        self._tell = tell
        self._lock = threading.Lock()
        self._known: dict[str, Any] = {}
        self._written: dict[str, Any] = {}
        self._written_at = float("-inf")
        self._is_confirmed = False
        self._applied = 0
        self._apply_trouble = ""
        self._state_told = ("", "")
        self._facts: dict[str, Any] = {
            "state": "broken",
            "trouble": "",
            "since": time.time(),
            "confirmed": 0.0,
        }

    @property
    def state(self) -> str:
        return str(self._facts["state"])

    def load(self) -> None:
        """Take over what an earlier process has told, so that times go on."""
        found = self._files.state()
        with self._lock:
            for key, kind in _LASTING.items():
                if isinstance(found.get(key), kind):
                    self._facts[key] = found[key]
            self._applied = found["applied"] if isinstance(found.get("applied"), int) else 0

    def say(self, state: StateName, trouble: str = "") -> None:
        """Say how things stand with the store."""
        with self._lock:
            if self._facts["state"] != state:
                self._facts["since"] = time.time()
            self._facts |= {"state": state, "trouble": trouble[:_LONGEST]}
            self._write()

    def confirmed(self) -> None:
        """Say that the store confirms what the snapshot says."""
        with self._lock:
            self._facts["confirmed"] = time.time()
            if not self._is_confirmed:
                # What an earlier process has left in the file may be as it is now, but for the time.
                self._is_confirmed, self._written_at = True, float("-inf")
            self._write()

    def know(self, **facts: Any) -> None:  # noqa: ANN401 (JSON is anything)
        with self._lock:
            self._facts |= facts
            self._write()

    def silent(self, nodes: list[str]) -> None:
        self.know(silent=nodes[:_MOST_NAMED], silentCount=len(nodes))

    def pending(self, pending: Pending | None, boot: str) -> None:
        """Remember a list that is held back, for the next process."""
        self.know(pending=None if pending is None else {**pending._asdict(), "boot": boot})

    def applied(self, *, changed: bool, trouble: str = "") -> None:
        """Say what became of the snapshot in the kernel."""
        with self._lock:
            self._applied += int(changed)
            self._apply_trouble = trouble[:_LONGEST]
            self._write()

    def _write(self) -> None:
        """Write the file if there is something new; the lock is held."""
        troubles = [one for one in (self._facts["trouble"], self._apply_trouble) if one]
        document = {
            **self._facts,
            "trouble": "; ".join(troubles),
            "registry": self._kind,
            "applied": self._applied,
        }
        self._tell_change(str(document["state"]), str(document["trouble"]))
        is_same = _without_time(document) == _without_time(self._written)
        now = time.monotonic()
        if document == self._written or (is_same and now - self._written_at < _REFRESH):
            return
        try:
            self._files.write_state(document)
        except OSError as err:
            pairs = {"keeper": "failed", "network": self._files.network}
            self._tell.warn(pairs, f"state.json: {err.strerror}")
            return
        self._written, self._written_at = document, now

    def _tell_change(self, state: str, trouble: str) -> None:
        is_start = self._state_told == ("", "") and state == "broken" and not trouble
        if (state, trouble) != self._state_told and not is_start:
            self._state_told = state, trouble
            pairs = {"keeper": state, "network": self._files.network, "registry": self._kind}
            (self._tell.warn if trouble else self._tell.note)(pairs, trouble)


def _without_time(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != "confirmed"}
