"""Follows one network in a store: LISTING, WATCHING, BROKEN, and again.

Lists that arrive are judged, sifted and written as a snapshot. The store's connection is used by one thread,
but for the feed, which has one of its own that only waits.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from cni_plugins.contract.registry_config import RegistrySection
from cni_plugins.errors import CniError
from cni_plugins.keeper import belief
from cni_plugins.keeper.back_off import BackOff
from cni_plugins.keeper.belief import Answer, Pending
from cni_plugins.keeper.files import Busy, NetworkFiles, Places
from cni_plugins.keeper.followed import Followed
from cni_plugins.keeper.identity import boot_time
from cni_plugins.keeper.mailbox import Letter, Mailbox
from cni_plugins.keeper.membership import Host, Membership
from cni_plugins.keeper.report import Report, Tell
from cni_plugins.keeper.sift import Sieve, Sifted, Sound
from cni_plugins.keeper.silence import Silence
from cni_plugins.protocol import json_text
from cni_plugins.registries.layouts import registry_of
from cni_plugins.registries.network_registry import NetworkRegistry, Refused, TakenByOther, records_of
from cni_plugins.registries.store import Store, StoreFailed

LIFE = 60.0  # seconds that a sign of life is valid
_MOST_FAULTS = 3
_REFUSED = 8.0  # seconds


class Timing(NamedTuple):
    """Seconds between two of each.

    :param settle: looks whether the store has what this host is.
    :param relist: lists read anew although the feed says nothing.
    :param pause: see belief.
    """

    life: float = 20.0
    settle: float = 60.0
    relist: float = 600.0
    pause: float = belief.PAUSE
    blocks: float = 2.0


class Surroundings(NamedTuple):
    """What a follower uses of the process it is in.

    :param changed: called with the network when there is a new snapshot.
    """

    open_store: Callable[[RegistrySection], Store]
    host: Callable[[RegistrySection], Host]
    tell: Tell
    changed: Callable[[str], None]
    places: Places = Places()
    timing: Timing = Timing()
    clock: Callable[[], float] = boot_time


class Follower:
    """One network."""

    def __init__(self, of: Followed, section: RegistrySection, around: Surroundings) -> None:
        self.of = of
        self._section = section
        self._around = around
        self.files = NetworkFiles(of.network, around.places)
        self.report = Report(self.files, section.type, around.tell)
        self._host = around.host(section)
        self._member = Membership(of, self.files, self._host)
        self._sieve = Sieve(of.extent)
        self._silence = Silence(self.files.silence())
        self._pending: Pending | None = None
        self._was_emptied = False
        self._has_joined = False
        self._is_underlay_new = False
        self._trouble = ""
        self._own: Sound | None = None
        self._found: Mapping[str, bytes] = {}
        self._mail = Mailbox()
        self._retry = BackOff(_REFUSED)
        self._due: dict[str, float] = {}
        self._has_ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name=f"keeper {of.network}")

    # ---------------------------------------------------------------------------------------- in a thread

    def start(self) -> None:
        """Seed the snapshot if there is none, and follow in threads of their own until `stop`."""
        self._begin()
        self.report.know(confDir=os.path.dirname(self.of.of.file))
        self._thread.start()

    def stop(self, patience: float = 0.0) -> None:
        """Follow no longer.

        :param patience: seconds to wait for a store that does not answer.
        """
        self._has_ended.set()
        self._mail.wake()
        self._thread.join(patience)

    def look_again(self) -> None:
        """Look whether this host is what it has published: its underlay may have changed."""
        self._is_underlay_new = True
        self._due["settle"] = 0.0
        self._mail.wake()

    def _begin(self) -> None:
        self.report.load()
        self._pending = _pending(self.files.state().get("pending"), self._host.epoch)
        self.report.know(node=self._host.me.node)
        if self.files.seed():
            self._around.changed(self.of.network)

    def _run(self) -> None:
        back_off = BackOff()
        while not self._has_ended.is_set():
            begun = time.monotonic()
            try:
                self._session(back_off)
            except StoreFailed as err:
                self.report.say("broken", f"{self._section.type}: {err}")
            except Refused as err:
                self.report.say("refused", str(err))
            except Exception as err:  # noqa: BLE001 (a fault in one network must not end the others)
                self.report.say("broken", f"internal error: {err} ({type(err).__name__})")
            if time.monotonic() - begun > LIFE:
                back_off.succeeded()
            self._has_ended.wait(back_off.failed())

    def _session(self, back_off: BackOff) -> None:
        """Follow until the store fails, or is to be reached from another address."""
        store = self._around.open_store(self._section)
        try:
            registry = registry_of(store, self._section, self.of.network, self.of.of.conf)
            self._settle(registry, registry.records())
            self._mail = Mailbox()
            self._mail.pump(registry.follow)
            self._due = {"relist": self._around.clock() + self._around.timing.relist}
            while self._step(registry):
                back_off.succeeded()
        finally:
            self._mail.close()
            store.close()

    def _step(self, registry: NetworkRegistry) -> bool:
        """Wait for something to do, and do it; return False when nothing is to be done in this session."""
        letter = self._mail.wait(self._patience())
        if self._has_ended.is_set() or self._has_moved():
            return False
        self._open(letter)
        now = self._around.clock()
        if self._take_turn("relist", now, self._around.timing.relist):
            self._found = registry.records()
            letter = letter._replace(found={})
        if self._must_settle(now):
            self._settle(registry, self._found)
            letter = letter._replace(found={})
        if letter.found is not None or (self._pending is not None and now >= self._pending.due):
            self._look(registry, self._found)
        if self._take_turn("life", now, self._around.timing.life):
            self._show_life(registry, now)
        return True

    def _has_moved(self) -> bool:
        """Say whether connections may be from an address that is gone: no answer would come, for seconds."""
        is_new, self._is_underlay_new = self._is_underlay_new, False
        return is_new and self._member.has_moved()

    def _open(self, letter: Letter) -> None:
        """Take note of what has arrived."""
        if letter.failure is not None:
            raise letter.failure
        if letter.found is not None:
            self._found = records_of(letter.found)
        if letter.is_alive and not self._pending:
            self.report.confirmed()

    def _patience(self) -> float:
        """Return how long nothing is to be done."""
        dues = [*self._due.values()]
        if self._pending is not None:
            dues.append(self._pending.due)
        if self.of.config.mode == "l2":
            dues.append(self._around.clock() + self._around.timing.blocks)
        return max(0.0, min(dues, default=0.0) - self._around.clock())

    def _take_turn(self, what: str, now: float, every: float) -> bool:
        if self._due.setdefault(what, now) > now:
            return False
        self._due[what] = now + every
        return True

    def _must_settle(self, now: float) -> bool:
        """Say whether the store may lack what this host is; one that keeps losing it is asked ever less."""
        is_lost = self._own is not None and self._host.me.node not in self._found
        if is_lost and not self._trouble:
            if self._due.get("retry", 0.0) <= now:
                self._due["retry"] = now + self._retry.failed()
                return True
        elif self._due.pop("retry", None) is not None:
            self._retry.succeeded()
        if self._due.setdefault("settle", now + self._around.timing.settle) <= now:
            return True
        return not self._trouble and self._member.is_block_short()

    # ------------------------------------------------------------------------------------------ the work

    def _settle(self, registry: NetworkRegistry, listed: Mapping[str, bytes]) -> None:
        """Join, or say why that is not possible; what runs already goes on."""
        self._due["settle"] = self._around.clock() + self._around.timing.settle
        self._own = self._own or self._member.former()
        is_missing = self._own is not None and self._host.me.node not in listed
        if is_missing or not registry.is_confirmed():
            self._was_emptied = True
        try:
            self._require_unique(listed)
            with self.files.locked():
                self._own = self._member.settle(registry, listed)
            self._trouble, self._has_joined = "", True
        except (Refused, CniError, Busy, ValueError) as err:
            self._trouble = f"{err}{f' ({err.details})' if isinstance(err, CniError) and err.details else ''}"
            self._due["settle"] = self._around.clock() + self._retry.failed()
            self.report.say("refused", self._trouble)

    def _require_unique(self, listed: Mapping[str, bytes]) -> None:
        """:raises TakenByOther: when a clone of this host, with its number, publishes under the same name."""
        value = listed.get(self._host.me.node)
        if not self._has_joined or value is None:
            return
        found = _document(value)
        if found.get("host") == self._host.me.host and found.get("epoch") != self._host.epoch:
            raise TakenByOther(
                f"another host has the name {self._host.me.node} and this host's number, at "
                f"{found.get('vtep')}: remove host-id and self.json from one of them"
            )

    def _look(self, registry: NetworkRegistry, found: Mapping[str, bytes]) -> None:
        """Turn a list into a snapshot, unless it is not believed."""
        own = self._own
        if own is None:
            return
        try:
            with self.files.locked():
                before = self.files.peers()
                if not self._is_believed(registry, found, frozenset(before)):
                    return
                sifted = self._sieve.sift(found, own, before)
                changed = self.files.write_peers(self._host.me.node, sifted.records.values())
        except Busy as err:
            self._due["relist"] = self._around.clock() + 1.0
            self.report.know(trouble=str(err))
            return
        self.report.know(peers=len(sifted.records) - 1)
        self._say(sifted)
        self.report.confirmed()
        if changed:
            self._around.changed(self.of.network)

    def _is_believed(
        self, registry: NetworkRegistry, found: Mapping[str, bytes], before: frozenset[str]
    ) -> bool:
        missing = len(before - found.keys())
        is_usual = not belief.is_suspicious(len(before), missing, was_emptied=self._was_emptied)
        answer = Answer(found, is_usual or registry.is_confirmed(), self._was_emptied)
        verdict = belief.judge(before, answer, self._pending, self._around.clock(), self._around.timing.pause)
        if verdict.pending != self._pending:
            self._pending = verdict.pending
            self.report.pending(verdict.pending, self._host.epoch)
        if verdict.doubt:
            if self._trouble:  # an operator has to end that first
                self.report.say("refused", f"{self._trouble}; {verdict.doubt}")
            else:
                self.report.say("held", verdict.doubt)
            return False
        self._was_emptied = False
        return True

    def _say(self, sifted: Sifted) -> None:
        if self._trouble:
            self.report.say("refused", self._trouble)
            return
        more = len(sifted.faults) - _MOST_FAULTS
        named = [*sifted.faults[:_MOST_FAULTS], *([f"and {more} more"] if more > 0 else [])]
        self.report.say("following", "; ".join(named))

    def _show_life(self, registry: NetworkRegistry, now: float) -> None:
        """Show that this host is there, and note who else is."""
        me = self._host.me
        if self._trouble:
            return
        registry.show_life(me, LIFE)
        self._silence.observe(self._found, registry.live(), me.node, now)
        self._reclaim(registry)
        self.report.silent(self._silence.silent())
        self.files.write_silence(self._silence.seconds)

    def _reclaim(self, registry: NetworkRegistry) -> None:
        """Release the nodes that have been silent for too long."""
        after = self._section.reclaim_after
        for node in self._silence.reclaimable(after, self._found):
            if registry.release(node):
                pairs = {"keeper": "released", "network": self.of.network, "node": node}
                text = f"silent for {self._silence.seconds[node]:.0f} s, reclaimAfter is {after}"
                self._around.tell.warn(pairs, text)

    # ------------------------------------------------------------------------------------------ one round

    def once(self) -> None:
        """Do one round and return: join, list, write the snapshot.

        :raises StoreFailed:
        """
        self._begin()
        store = self._around.open_store(self._section)
        try:
            registry = registry_of(store, self._section, self.of.network, self.of.of.conf)
            self._settle(registry, registry.records())
            self._found = registry.records()
            self._look(registry, self._found)
            if not self._trouble:
                registry.show_life(self._host.me, LIFE)
                self._silence.observe(self._found, registry.live(), self._host.me.node, self._around.clock())
                self.report.silent(self._silence.silent())
        except StoreFailed as err:
            self.report.say("broken", f"{self._section.type}: {err}")
            raise
        except Refused as err:
            self.report.say("refused", str(err))
        finally:
            store.close()


def _pending(found: Any, epoch: str) -> Pending | None:  # noqa: ANN401 (JSON is anything)
    """Return what an earlier process of this boot held back."""
    if not isinstance(found, dict) or found.get("boot") != epoch:
        return None
    digest, since, pause = found.get("digest"), found.get("since"), found.get("pause")
    if isinstance(digest, str) and isinstance(since, int | float) and isinstance(pause, int | float):
        return Pending(digest, float(since), float(pause))
    return None


def _document(value: bytes) -> dict[str, Any]:
    try:
        found = json_text.load(value)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
