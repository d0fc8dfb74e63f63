"""Reads the record of an install, by which uninstall knows which files to remove and which to restore.

The file is trusted only after these checks: owned by root, small, and of the form below. No path is taken
from it; it is only looked up by the paths of the layout.
"""

import os
import stat
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from cni_plugins.cli.failure import Failed

_LIMIT = 64 << 10  # bytes
_Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
_Kept = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]*\.orig(\.[0-9]{1,3})?$")]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RecordedFile(_Model):
    """One installed file.

    `digests` are those of the installed file and of the one it replaced: an install that is killed leaves
    either. `kept` is the name under which a foreign file with the same name was kept.
    """

    digests: tuple[_Digest, ...] = Field(min_length=1, max_length=2)
    kept: _Kept | None = None


class InstallRecord(_Model):
    """All installed files, by their paths on the node."""

    version: Literal[1] = 1
    files: dict[str, RecordedFile] = {}

    def text(self) -> bytes:
        return self.model_dump_json(indent=2).encode() + b"\n"


def read(path: Path) -> InstallRecord:
    """Return the record; an empty one when the file does not exist.

    :raises Failed: when the file was not written by an install
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return InstallRecord()
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o022 or status.st_size > _LIMIT:
            raise Failed(f"{path} is not a record that cnictl install wrote")
        if status.st_uid not in (0, os.geteuid()):
            raise Failed(f"{path} belongs to user {status.st_uid}, not to root")
        text = file.read(_LIMIT)
    try:
        return InstallRecord.model_validate_json(text)
    except ValidationError as err:
        first = err.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise Failed(f"{path} is not a record that cnictl install wrote: {where} {first['msg']}") from err
