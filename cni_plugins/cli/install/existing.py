"""What is there already, under the names that an install uses. Changes nothing."""

import os
import stat
from pathlib import Path
from typing import NamedTuple

from cni_plugins.cli.failure import Failed
from cni_plugins.cli.install.layout import Places, build, digest
from cni_plugins.cli.install.record import RecordedFile

_OVERFLOW = 65534  # root of the host, seen from a user namespace


class Present(NamedTuple):
    """A file under one of our names; a symbolic link has no digest and is nobody's but its maker's."""

    digest: str
    build: str
    mode: int
    inode: tuple[int, int]

    def is_ours(self, entry: RecordedFile | None) -> bool:
        return bool(self.build) or (entry is not None and self.digest in entry.digests)


def look(path: Path) -> Present | None:
    """:raises Failed: when what is there cannot be replaced by a file"""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    inode = (status.st_dev, status.st_ino)
    if stat.S_ISLNK(status.st_mode):
        return Present("", "", 0, inode)
    if not stat.S_ISREG(status.st_mode):
        raise Failed(f"{path} is no file, and is left alone: move it away first")
    return Present(digest(path), build(path), stat.S_IMODE(status.st_mode), inode)


def require_safe(places: Places) -> None:
    """Refuse directories through which somebody else would decide what root writes or where.

    :raises Failed: when a symbolic link leads out of destdir, or anybody may write to a directory on the way
    """
    for directory in places.directories():
        real = directory.resolve()
        if places.destdir:
            if not real.is_relative_to(Path(places.destdir).resolve()):
                raise Failed(f"{directory} leads out of {places.destdir}, to {real}")
            continue
        for way in (real, *real.parents):
            if way.exists() and not _is_safe(way.stat()):
                raise Failed(f"{way} can be changed by other users: nothing is installed below it")


def _is_safe(status: os.stat_result) -> bool:
    # A group may have been given /usr/local on purpose, as Debian does; everybody never is.
    everybody = bool(status.st_mode & stat.S_IWOTH) and not status.st_mode & stat.S_ISVTX
    return status.st_uid in (0, os.geteuid(), _OVERFLOW) and not everybody
