"""Decides whether a list of hosts that a store returned is believed, or held back: a pure state machine.

A store that was emptied, a token without rights and a wrong prefix all look like a network that most hosts
have left. Acting on that would cut off every container, so a list that is much smaller than the one before is
applied only when the canary key is there, and the same list is seen again after a pause.
"""

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

PAUSE = 30.0  # seconds
_FEW = 2
_SHARE = 5  # of the hosts, a fifth may disappear at once
_EMPTIED = 10  # times the pause, if the canary key was missing


class Pending(NamedTuple):
    """A list that is held back.

    :param digest: of the list.
    :param since: when it was first seen, on the clock of the caller.
    :param pause: for so long it must stay the same.
    """

    digest: str
    since: float
    pause: float

    @property
    def due(self) -> float:
        return self.since + self.pause


class Verdict(NamedTuple):
    """:param doubt: why the list is held back, empty if it is believed."""

    doubt: str = ""
    pending: Pending | None = None


class Answer(NamedTuple):
    """A list as a store returned it.

    :param records: values by node.
    :param has_canary: whether the network's canary key is there.
    :param was_emptied: whether it, or what this host had published, was missing before it wrote that again.
    """

    records: Mapping[str, bytes]
    has_canary: bool
    was_emptied: bool = False

    def digest(self) -> str:
        found = hashlib.sha512()
        for node, value in sorted(self.records.items()):
            for part in (node.encode(errors="surrogateescape"), value):
                found.update(b"%d:" % len(part) + part)
        return found.hexdigest()[:16]


def judge(
    before: frozenset[str], answer: Answer, pending: Pending | None, now: float, pause: float = PAUSE
) -> Verdict:
    """Say whether to believe an answer.

    :param before: the nodes that were believed last.
    :param pending: what was held back before this answer.
    """
    lost = len(before - answer.records.keys())
    if not is_suspicious(len(before), lost, was_emptied=answer.was_emptied):
        return Verdict()
    digest = answer.digest()
    wait = pause * _EMPTIED if answer.was_emptied or not answer.has_canary else pause
    if pending is None or pending.digest != digest or pending.since > now:
        pending = Pending(digest, now, max(wait, pending.pause if pending else 0.0))
    elif now >= pending.due and answer.has_canary:
        return Verdict()
    else:
        pending = pending._replace(pause=max(wait, pending.pause))
    why = f"{lost} of {len(before)} hosts are not in the store any more"
    if not answer.has_canary:
        why += ", nor is the network's canary key: it was emptied, or may not be read"
    return Verdict(f"{why}; their entries stay until this has been so for {pending.pause:.0f} s", pending)


def is_suspicious(before: int, lost: int, *, was_emptied: bool = False) -> bool:
    """Say whether more hosts disappeared at once than leave by themselves; from an emptied store none did."""
    return lost > max(_FEW, before // _SHARE) or before - lost < before / 2 or (was_emptied and lost > 0)
