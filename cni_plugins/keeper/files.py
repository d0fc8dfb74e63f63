"""Reads and writes the files of one network: the snapshot for plugins, its copy, and what this host is.

run/peers.json     the snapshot; kept/peers.json is its copy, for a boot while the store is away
run/state.json     what plugins, `cnictl` and metrics are told, and a list that is held back
run/.lock          held while a list is turned into a snapshot, by the keeper and by `cnictl overlay sync`
kept/self.json     what this host has published last
kept/silent.json   for how long nodes have been seen to be silent
"""

import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from cni_plugins.contract import snapshot
from cni_plugins.contract.snapshot import KEPT, RUN
from cni_plugins.keeper.sift import Sound
from cni_plugins.protocol import json_text

_LARGEST = 8 << 20  # bytes: twice what plugins read
_SAFE = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
_LOCK_TIMEOUT = 15.0  # seconds
_PAUSE = 0.02


class Places(NamedTuple):
    """Base directories: what plugins read, and copies that survive a boot; tests have others."""

    run: str = RUN
    kept: str = KEPT


USUAL = Places()


class Busy(Exception):
    """Another process turns a list of this network into a snapshot, and does not end."""


class NetworkFiles:
    """The files of one network."""

    def __init__(self, network: str, places: Places) -> None:
        self.network = network
        self.run = snapshot.overlay_dir(network, places.run)
        self.kept = snapshot.overlay_dir(network, places.kept)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock during the block.

        :raises Busy: when another process holds it for too long.
        """
        snapshot.make_private(self.run)
        fd = os.open(f"{self.run}/.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            _lock(fd)
            yield
        finally:
            os.close(fd)

    # ------------------------------------------------------------------------------------------- the peers

    def peers(self) -> dict[str, str]:
        """Return the records of the snapshot, as JSON by node; empty without one, or if it is damaged."""
        found = _read(f"{self.run}/peers.json")
        listed = found.get("peers") if isinstance(found, dict) else None
        records = (one for one in listed if isinstance(one, dict)) if isinstance(listed, list) else ()
        return {str(one.get("node")): _text(one) for one in records}

    def write_peers(self, node: str, records: Iterable[Sound]) -> bool:
        """Write the snapshot if it differs, and say whether it did."""
        lines = ",\n".join(one.text for one in records)
        text = f'{{"self":{json.dumps(node)},"peers":[\n{lines}\n]}}\n'
        if _content(f"{self.run}/peers.json") == text.encode():
            return False
        snapshot.write_text(self.kept, "peers.json", text, durable=True)
        snapshot.write_text(self.run, "peers.json", text)
        return True

    def seed(self) -> bool:
        """Use the copy if there is no snapshot, as after a boot; say whether there was one."""
        if os.path.exists(f"{self.run}/peers.json"):
            return False
        content = _content(f"{self.kept}/peers.json")
        if not content:
            return False
        snapshot.write_text(self.run, "peers.json", content.decode(errors="replace"))
        return True

    def forget_peers(self) -> None:
        """Remove the snapshot and what is said of it; what this host owns is still known."""
        for path in (
            f"{self.run}/peers.json",
            f"{self.run}/state.json",
            f"{self.run}/.lock",
            f"{self.kept}/peers.json",
        ):
            with suppress(FileNotFoundError):
                os.unlink(path)
        for directory in (self.run, self.kept):
            with suppress(OSError):  # it is not empty
                os.rmdir(directory)

    # ---------------------------------------------------------------------------------------- other files

    def own(self) -> dict[str, Any]:
        """Return the record that this host has published last, empty if it has not."""
        return _object(f"{self.kept}/self.json")

    def write_own(self, document: Mapping[str, Any]) -> None:
        if document != self.own():
            snapshot.write_text(self.kept, "self.json", _text(document), durable=True)

    def silence(self) -> dict[str, Any]:
        return _object(f"{self.kept}/silent.json")

    def write_silence(self, seconds: Mapping[str, float]) -> None:
        if seconds or os.path.exists(f"{self.kept}/silent.json"):
            snapshot.write(self.kept, "silent.json", {node: round(value) for node, value in seconds.items()})

    def state(self) -> dict[str, Any]:
        return _object(f"{self.run}/state.json")

    def write_state(self, document: Mapping[str, Any]) -> None:
        snapshot.write(self.run, "state.json", document)


def networks_with_files(places: Places) -> list[str]:
    """Return the networks of which something is told."""
    try:
        return sorted(name for name in os.listdir(f"{places.run}/overlay") if not name.startswith("."))
    except OSError:
        return []


def _lock(fd: int) -> None:
    end = time.monotonic() + _LOCK_TIMEOUT
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise Busy("another process works on this network's peers") from None
            time.sleep(_PAUSE)
        else:
            return


def _text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"), sort_keys=True)


def _object(path: str) -> dict[str, Any]:
    found = _read(path)
    return found if isinstance(found, dict) else {}


def _read(path: str) -> Any:  # noqa: ANN401 (JSON is anything)
    content = _content(path)
    if not content:
        return None
    try:
        return json_text.load(content)
    except ValueError:
        return None


def _content(path: str) -> bytes:
    """Return what a file contains, nothing if it cannot be read."""
    try:
        with open(os.open(path, _SAFE), "rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError:
        return b""
    return content if len(content) <= _LARGEST else b""
