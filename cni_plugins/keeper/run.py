"""Runs the keeper: follows the networks of a directory of configs until the agent ends.

One thread acts on the kernel, files and configs; each network in a store has two more.
"""

import os
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from cni_plugins.contract.registry_config import RegistrySection
from cni_plugins.contract.snapshot import KEPT, RUN
from cni_plugins.keeper import beside, followed, identity, own_record
from cni_plugins.keeper.applier import Applier
from cni_plugins.keeper.files import NetworkFiles, Places, networks_with_files
from cni_plugins.keeper.followed import Followed, Signature
from cni_plugins.keeper.follower import Follower, Surroundings, Timing
from cni_plugins.keeper.membership import Host
from cni_plugins.keeper.report import Tell
from cni_plugins.kernel.links.notifications import NetworkListener
from cni_plugins.registries.store import Store
from cni_plugins.upkeep import caches
from cni_plugins.upkeep.networks import registry_file

NAME = "cni-keeper"  # in /proc/PID/comm
CONF_DIR = "/etc/cni/net.d"
_TICK = 0.5  # seconds between two looks at files
_GATHERING = 0.02  # seconds in which notifications of the kernel are left to come together
_PATIENCE = 1.0  # seconds for a store to answer when a network is not followed any more
_UNDERLAY = 0.3  # seconds after which a change of the host's addresses is looked at
_FIRST_ROUND = 5.0  # seconds until the first of these
_ROUND = 60.0  # seconds between looks at everything, whatever was told


class KeeperOptions(NamedTuple):
    """:param lifeline: a descriptor that is closed at its other end when the agent ends."""

    lifeline: int
    tell: Tell
    open_store: Callable[[RegistrySection], Store]
    conf_dir: str = CONF_DIR
    places: Places = Places(RUN, KEPT)
    timing: Timing = Timing()
    registry_file: Path = registry_file.DEFAULT
    cache_dirs: tuple[Path, ...] = caches.DEFAULT


def surroundings(options: KeeperOptions, changed: Callable[[str], None]) -> Surroundings:
    epoch = identity.boot_id()
    return Surroundings(
        open_store=options.open_store,
        host=lambda section: Host(identity.member(section, options.places.kept), epoch),
        tell=options.tell,
        changed=changed,
        places=options.places,
        timing=options.timing,
    )


def run(options: KeeperOptions) -> None:
    """Follow until the lifeline is closed; returns at once then, whatever stores are doing."""
    with suppress(OSError), open("/proc/self/comm", "w") as file:
        file.write(NAME)
    keeper = _Keeper(options)
    while keeper.step():
        pass


class _Wakeup:
    """Lets other threads wake the one that waits, with the name of a network."""

    def __init__(self) -> None:
        self.read, self._write = os.pipe()
        os.set_blocking(self.read, False)
        os.set_blocking(self._write, False)
        self._lock = threading.Lock()
        self._names: set[str] = set()

    def call(self, network: str) -> None:
        with self._lock:
            self._names.add(network)
        with suppress(BlockingIOError):
            os.write(self._write, b".")

    def names(self) -> set[str]:
        with suppress(BlockingIOError):
            os.read(self.read, 1 << 16)
        with self._lock:
            names, self._names = self._names, set()
        return names


class _Keeper:
    def __init__(self, options: KeeperOptions) -> None:
        self._options = options
        self._wakeup = _Wakeup()
        self._around = surroundings(options, self._wakeup.call)
        self._applier = Applier(options.tell)
        self._listener = self._listening()
        self._beside = beside.Beside(
            beside.Surroundings(
                options.open_store,
                options.tell,
                Path(options.conf_dir),
                options.places,
                options.registry_file,
                options.cache_dirs,
            )
        )
        self._followers: dict[str, Follower] = {}
        self._known: dict[str, Followed] = {}
        self._faults: tuple[str, ...] = ()
        self._configs: Signature | None = None
        self._peers_files: dict[str, Signature] = {}
        self._underlay_due: float | None = None
        self._next_tick = 0.0
        self._next_round = time.monotonic() + _FIRST_ROUND

    def _listening(self) -> NetworkListener | None:
        try:
            return NetworkListener()
        except OSError as err:
            self._options.tell.warn({"keeper": "failed"}, f"the kernel does not notify: {err.strerror}")
            return None

    def step(self) -> bool:
        """Wait for something to happen, and act on it; return False when the agent ends."""
        ready = self._wait()
        if self._options.lifeline in ready:
            return False
        for network in self._wakeup.names():
            self._applier.news(network)
        if self._listener and self._listener.fileno() in ready:
            time.sleep(_GATHERING)
            if self._applier.notice(self._listener.notices()):
                self._underlay_due = self._underlay_due or time.monotonic() + _UNDERLAY
        self._tick(time.monotonic())
        self._applier.act()
        return True

    def _wait(self) -> set[int]:
        events = select.poll()
        events.register(self._options.lifeline, 0)
        events.register(self._wakeup.read, select.POLLIN)
        if self._listener:
            events.register(self._listener, select.POLLIN)
        dues = [self._next_tick, self._applier.due(), self._underlay_due]
        until = min(due for due in dues if due is not None)
        return {fd for fd, _ in events.poll(int(max(0.0, until - time.monotonic()) * 1000) + 1)}

    def _tick(self, now: float) -> None:
        if self._underlay_due is not None and now >= self._underlay_due:
            self._underlay_due = None
            self._look_at_underlay()
        if now < self._next_tick:
            return
        self._next_tick = now + _TICK
        configs = followed.directory_signature(Path(self._options.conf_dir))
        self._look_at_configs(configs)
        self._look_at_peers_files()
        self._beside.look(configs)
        if now >= self._next_round:
            self._next_round = now + _ROUND
            self._forget_strangers()
            self._applier.look()

    def _look_at_underlay(self) -> None:
        for follower in self._followers.values():
            follower.look_again()
        self._applier.look()

    # -------------------------------------------------------------------------------------------- files

    def _look_at_configs(self, configs: Signature) -> None:
        """Follow the networks that have come, and no longer those that are gone or changed."""
        if configs == self._configs:
            return
        self._configs = configs
        listed = followed.in_directory(Path(self._options.conf_dir))
        self._tell_faults(listed.faults)
        networks = {one.network: one for one in listed.networks}
        for network, before in list(self._known.items()):
            if networks.get(network) != before:
                self._drop(network, is_gone=network not in networks)
        for network, one in networks.items():
            if network not in self._known:
                self._take_up(one)
        self._applier.remember_indexes(_index)

    def _tell_faults(self, faults: tuple[str, ...]) -> None:
        for fault in faults:
            if fault not in self._faults:
                self._options.tell.warn({"keeper": "failed"}, fault)
        self._faults = faults

    def _take_up(self, one: Followed) -> None:
        self._known[one.network] = one
        report = None
        if one.section is not None:
            try:
                follower = Follower(one, one.section, self._around)
                follower.start()
            except OSError as err:
                self._options.tell.warn({"keeper": "failed", "network": one.network}, str(err))
                self._configs = None  # it is tried again
                del self._known[one.network]
                return
            self._followers[one.network] = follower
            report = follower.report
        self._applier.follow(one, report)

    def _drop(self, network: str, *, is_gone: bool) -> None:
        del self._known[network]
        self._applier.forget(network)
        self._peers_files.pop(network, None)
        follower = self._followers.pop(network, None)
        if follower is not None:
            follower.stop(_PATIENCE)
            if is_gone:
                self._options.tell.note({"keeper": "left", "network": network}, "its config is gone")
                self._forget(follower.files)

    def _forget_strangers(self) -> None:
        """Remove snapshots of networks whose configs were removed when it was in use, or unseen."""
        for name in networks_with_files(self._options.places):
            files = NetworkFiles(name, self._options.places)
            if name not in self._known and files.state().get("confDir") == self._options.conf_dir:
                self._forget(files)

    def _forget(self, files: NetworkFiles) -> None:
        """Remove a snapshot, unless containers depend on it."""
        try:
            if not own_record.is_in_use(files.network):
                files.forget_peers()
        except OSError as err:
            self._options.tell.warn({"keeper": "failed", "network": files.network}, str(err))

    def _look_at_peers_files(self) -> None:
        for network, one in self._known.items():
            if one.peers_file:
                found = followed.signature((one.peers_file,))
                if self._peers_files.setdefault(network, found) != found:
                    self._peers_files[network] = found
                    self._applier.news(network)


def _index(name: str) -> int:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0
