"""Implements backend `static`: peers are listed in the config, or in a file that all hosts share.

Every ADD, CHECK and sync looks at the file again, so no notification is needed when it changes. It decides
where a host's packets go: it must be writable by root only, and is treated as untrusted input. A process for
many requests keeps the records of content that it has checked.
"""

import hashlib
import os
import stat
import time
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Self, TypeVar

from pydantic import Field, model_validator

from cni_plugins.contract.model import ClosedModel, ConfigModel, empty, load
from cni_plugins.errors import InvalidNetworkConfig, IoFailed
from cni_plugins.protocol import json_text
from cni_plugins.vxlan.backends.own_subnets import require_parts
from cni_plugins.vxlan.backends.roster import Roster
from cni_plugins.vxlan.records import (
    LONGEST_NAME,
    Extent,
    Networks,
    RecordList,
    RecordModel,
    Records,
    faults,
)

_LARGEST_FILE = 4 << 20  # bytes; ten thousand records take two million
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_MOST_SHOWN = 10
_MOST_LISTS = 4  # that a process keeps
# Nanoseconds. Two changes of a file within one tick of the kernel's clock, 10 ms at most, look alike, so the
# content of one that has just changed is read each time.
_SETTLED = 100_000_000

K = TypeVar("K")
V = TypeVar("V")


class PeersFile(ConfigModel):
    own: str = Field(default="", alias="self", max_length=LONGEST_NAME)
    peers: RecordList


class StaticBackend(ClosedModel):
    """The `backend` section; `self` names this host's record, by default the one with a VTEP of this host."""

    type: Literal["static"]
    own: str = Field(default="", alias="self", max_length=LONGEST_NAME)
    peers: RecordList | None = None
    peers_file: str = ""
    subnet: Networks = Field(default_factory=empty)
    block: Networks = Field(default_factory=empty)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.peers is None) != bool(self.peers_file):
            raise ValueError("one of peers and peersFile is needed, and not both")
        if self.peers_file and (not os.path.isabs(self.peers_file) or "\0" in self.peers_file):
            raise ValueError(f"peersFile {self.peers_file!r} must be an absolute path")
        return self

    def roster(self, _network: str, extent: Extent) -> Roster:
        """:raises InvalidNetworkConfig: naming the records that conflict with others or with the network."""
        origin = self.peers_file or "backend.peers"
        records = (
            listed(self.peers_file, extent).records
            if self.peers is None
            else sound(self.peers, extent, origin)
        )
        parts = require_parts(self.subnet, self.block, extent)
        roster = Roster(own=self.own, records=records, parts=parts, path=self.peers_file)
        if roster.parts and not roster.is_bare:
            raise InvalidNetworkConfig(
                f"invalid network config: backend.{extent.word} is set, but the peers' records list it too",
                f"{roster.parts[0]}, {origin}",
            )
        if extent.mode == "l3" and roster.is_bare and not roster.parts:
            raise InvalidNetworkConfig(
                "invalid network config: no peer has a subnet, and backend.subnet is missing", origin
            )
        return roster

    def doubt(self, _network: str) -> str:
        return ""


def sound(models: Sequence[RecordModel], extent: Extent, origin: str) -> Records:
    """Return the records.

    :raises InvalidNetworkConfig: naming those that conflict with others or with the network.
    """
    if not models:
        raise InvalidNetworkConfig("invalid network config: there are no peers, not even this host", origin)
    found = list(faults(models, extent))
    if found:
        more = [f"and {len(found) - _MOST_SHOWN} more"] if len(found) > _MOST_SHOWN else []
        raise InvalidNetworkConfig(
            f"invalid peers: {found[0]}", f"{origin}: {'; '.join([*found[:_MOST_SHOWN], *more])}"
        )
    return Records(model.record() for model in models)


# ------------------------------------------------------------------------------------------------ the file


class Listed(NamedTuple):
    """What a file says: the records, and the node of this host's if it names one."""

    own: str
    records: Records


_Key = tuple[bytes, Extent]  # digest of the content; what it was checked against
_Identity = tuple[int, ...]

# Of the newest lists, the last used one at the end.
_kept: dict[_Key, Listed] = {}
# By path, what the file there was when it was last read.
_seen: dict[str, tuple[_Identity, bytes]] = {}


def listed(path: str, extent: Extent) -> Listed:
    """Return what a file says now.

    :raises IoFailed: when it cannot be read, or users other than root can write it.
    :raises InvalidNetworkConfig: when it is not valid JSON, a record is invalid, or they conflict.
    """
    try:
        fd = _opened(path)
        try:
            return _listed(fd, path, extent)
        finally:
            os.close(fd)
    except OSError as err:
        raise IoFailed(f"the peers file cannot be read: {err.strerror}", f"peersFile is {path}") from err


def _opened(path: str) -> int:
    # Without O_NONBLOCK, opening a FIFO would block until it has a writer.
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)


def _listed(fd: int, path: str, extent: Extent) -> Listed:
    status = os.fstat(fd)
    _require_safe(status, path)
    identity = _identity(status)
    seen_as, content_digest = _seen.get(path, ((), b""))
    known = _kept.get((content_digest, extent)) if seen_as == identity else None
    if known is not None:
        return known
    is_settled = time.time_ns() - status.st_ctime_ns > _SETTLED
    content = _content(fd, path)
    key = (hashlib.sha512(content).digest(), extent)
    _keep(_kept, key, _kept.get(key) or _checked(content, path, extent))
    if is_settled and _identity(os.fstat(fd)) == identity:
        _keep(_seen, path, (identity, key[0]))
    else:
        _seen.pop(path, None)
    return _kept[key]


def _identity(status: os.stat_result) -> _Identity:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _keep(cache: dict[K, V], key: K, value: V) -> None:
    cache.pop(key, None)
    cache[key] = value
    while len(cache) > _MOST_LISTS:
        del cache[next(iter(cache))]


def _checked(content: bytes, path: str, extent: Extent) -> Listed:
    conf = _decoded(content, path)
    document = {"peers": conf} if isinstance(conf, list) else conf
    if not isinstance(document, dict):
        raise InvalidNetworkConfig("invalid peers file: neither a list nor an object", f"peersFile is {path}")
    found = load(PeersFile, document, f"peers file {path}")
    return Listed(found.own, sound(found.peers, extent, path))


def _content(fd: int, path: str) -> bytes:
    parts = []
    size = 0
    while part := os.read(fd, _LARGEST_FILE + 1):
        parts.append(part)
        size += len(part)
        if size > _LARGEST_FILE:
            raise IoFailed(f"the peers file is larger than {_LARGEST_FILE} bytes", f"peersFile is {path}")
    return b"".join(parts)


def _require_safe(status: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise IoFailed("the peers file is not a regular file", f"peersFile is {path}")
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & _WRITABLE_BY_OTHERS:
        raise IoFailed(
            "users other than root can write the peers file",
            f"peersFile is {path}, owner {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o}",
        )


def _decoded(content: bytes, path: str) -> Any:  # noqa: ANN401 (JSON is anything)
    try:
        return json_text.load(content)
    except ValueError as err:
        raise InvalidNetworkConfig(f"invalid peers file: {err}", f"peersFile is {path}") from err
