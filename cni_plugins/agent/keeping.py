"""Runs the keeper in a child of the agent, and writes what it tells into the journal."""

import gc
import signal
from collections.abc import Mapping

from cni_plugins.agent.journal import Journal, pairs_line
from cni_plugins.keeper import run as keeper
from cni_plugins.registries.open import open_store


class KeeperJournal:
    """Writes lines of the keeper, in the form that those of repairs have."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def note(self, pairs: Mapping[str, str], text: str) -> None:
        self._journal.note(pairs_line(pairs, text))

    def warn(self, pairs: Mapping[str, str], text: str) -> None:
        self._journal.warn(pairs_line(pairs, text))


def run(conf_dir: str, lifeline: int, journal: Journal) -> None:
    """Follow until the lifeline is closed.

    :param conf_dir: empty for the usual one.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the parent acts on them
    gc.enable()
    keeper.run(
        keeper.KeeperOptions(lifeline, KeeperJournal(journal), open_store, conf_dir or keeper.CONF_DIR)
    )
