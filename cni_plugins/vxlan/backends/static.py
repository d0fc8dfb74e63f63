"""Implements backend `static`: peers are listed in the config, or in a file that all hosts share.

Every ADD, CHECK and sync reads the file again, so no notification is needed when it changes. It decides where
a host's packets go: it must be writable by root only, and is treated as untrusted input.
"""

import os
import stat
from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from cni_plugins.contract.model import ClosedModel, ConfigModel, empty, load
from cni_plugins.errors import InvalidNetworkConfig, IoFailed
from cni_plugins.protocol import json_text
from cni_plugins.vxlan.backends.own_subnets import require_parts
from cni_plugins.vxlan.backends.roster import Roster
from cni_plugins.vxlan.records import LONGEST_NAME, Extent, Networks, RecordList, RecordModel, faults

_LARGEST_FILE = 4 << 20  # bytes; ten thousand records take two million
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_MOST_SHOWN = 10


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
        models = read(self.peers_file).peers if self.peers is None else self.peers
        require_sound(models, extent, origin)
        records = tuple(model.record() for model in models)
        roster = Roster(own=self.own, records=records, parts=require_parts(self.subnet, self.block, extent))
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


def require_sound(models: Sequence[RecordModel], extent: Extent, origin: str) -> None:
    if not models:
        raise InvalidNetworkConfig("invalid network config: there are no peers, not even this host", origin)
    found = list(faults(models, extent))
    if found:
        more = [f"and {len(found) - _MOST_SHOWN} more"] if len(found) > _MOST_SHOWN else []
        raise InvalidNetworkConfig(
            f"invalid peers: {found[0]}", f"{origin}: {'; '.join([*found[:_MOST_SHOWN], *more])}"
        )


def read(path: str) -> PeersFile:
    """Return what a file says.

    :raises IoFailed: when it cannot be read, or users other than root can write it.
    :raises InvalidNetworkConfig: when it is not valid JSON, or a record is invalid.
    """
    try:
        conf = _decoded(_content(path), path)
    except OSError as err:
        raise IoFailed(f"the peers file cannot be read: {err.strerror}", f"peersFile is {path}") from err
    listed = {"peers": conf} if isinstance(conf, list) else conf
    if not isinstance(listed, dict):
        raise InvalidNetworkConfig("invalid peers file: neither a list nor an object", f"peersFile is {path}")
    return load(PeersFile, listed, f"peers file {path}")


def _content(path: str) -> bytes:
    # Without O_NONBLOCK, opening a FIFO would block until it has a writer.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        status = os.fstat(fd)
        _require_safe(status, path)
        parts = []
        size = 0
        while part := os.read(fd, _LARGEST_FILE + 1):
            parts.append(part)
            size += len(part)
            if size > _LARGEST_FILE:
                raise IoFailed(f"the peers file is larger than {_LARGEST_FILE} bytes", f"peersFile is {path}")
    finally:
        os.close(fd)
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
