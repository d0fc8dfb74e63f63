"""Inspects existing files under the names that an install uses, and the safety of its directories."""

import os
import stat
from pathlib import Path
from typing import NamedTuple

from cni_plugins.cli.failure import Failed
from cni_plugins.cli.install.layout import Places, digest
from cni_plugins.cli.install.record import RecordedFile
from cni_plugins.engine.build import build_of

_OVERFLOW = 65534  # the overflow uid: root of the host, as seen from a user namespace


class Present(NamedTuple):
    """An existing file under one of our names; a symbolic link has no digest, and never counts as ours."""

    digest: str
    build: str
    mode: int
    inode: tuple[int, int]

    def is_ours(self, entry: RecordedFile | None) -> bool:
        return bool(self.build) or (entry is not None and self.digest in entry.digests)


def existing_file(path: Path) -> Present | None:
    """:raises Failed: when the path is not a regular file or a symbolic link, which could be replaced"""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    inode = (status.st_dev, status.st_ino)
    if stat.S_ISLNK(status.st_mode):
        return Present("", "", 0, inode)
    if not stat.S_ISREG(status.st_mode):
        raise Failed(f"{path} is not a regular file: move it away first")
    return Present(digest(path), build_of(str(path)), stat.S_IMODE(status.st_mode), inode)


def require_safe(places: Places) -> None:
    """Refuse directories in which another user could change the target of a write by root.

    :raises Failed: when a symbolic link leads out of destdir, or a directory on the path is world-writable
    """
    for directory in places.directories():
        real = directory.resolve()
        if places.destdir:
            if not real.is_relative_to(Path(places.destdir).resolve()):
                raise Failed(f"{directory} leads out of {places.destdir}, to {real}")
            continue
        for part in (real, *real.parents):
            if part.exists() and not _is_safe(part.stat()):
                raise Failed(f"{part} can be changed by other users: nothing is installed below it")


def _is_safe(status: os.stat_result) -> bool:
    # Group-writable is accepted: Debian gives /usr/local to the group staff. World-writable never is.
    world_writable = bool(status.st_mode & stat.S_IWOTH) and not status.st_mode & stat.S_ISVTX
    return status.st_uid in (0, os.geteuid(), _OVERFLOW) and not world_writable
