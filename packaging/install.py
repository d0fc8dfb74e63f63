"""Put executables into a directory that a running node uses: `install.py SRC DESTDIR`.

A runtime may start a plugin at any moment, so no name ever points at a file half written: the program is
copied once under a name no runtime asks for, then linked and renamed over every plugin name.
"""

import argparse
import fcntl
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = ".cni-plugins-"


def place(program: Path, directory: Path, names: Iterable[str]) -> None:
    """Copy `program` into `directory` once, and make every one of `names` a hard link to the copy."""
    directory.mkdir(parents=True, exist_ok=True)
    with workshop(directory) as own:
        copy, link = own / "copy", own / "link"
        shutil.copyfile(program, copy)
        copy.chmod(0o755)
        # On disk before a name leads to it: power lost now would boot a node without network.
        with copy.open("rb") as written:
            os.fsync(written.fileno())
        for name in names:
            link.hardlink_to(copy)
            link.replace(directory / name)


@contextmanager
def workshop(directory: Path) -> Iterator[Path]:
    """Make a directory of our own in there, and remove those of installs that were killed.

    What a killed one left is linked with the plugins themselves, so nothing of it may ever be written to.
    """
    for left in directory.glob(f"{PREFIX}*"):
        with suppress(OSError), locked(left):
            shutil.rmtree(left)
    own = Path(tempfile.mkdtemp(prefix=PREFIX, dir=directory))
    try:
        with locked(own):
            yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """:raises BlockingIOError: when a running install holds it"""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)


def install(source: Path, directory: Path) -> list[str]:
    """:return: the names installed; files that are one file in `source` are one in `directory`"""
    programs: dict[int, list[Path]] = defaultdict(list)
    for path in sorted(source.iterdir()):
        if path.is_file() and os.access(path, os.X_OK):
            programs[path.stat().st_ino].append(path)
    for paths in programs.values():
        place(paths[0], directory, [path.name for path in paths])
    return [path.name for paths in programs.values() for path in paths]


def main() -> None:
    parser = argparse.ArgumentParser(description="Install the frozen plugins.")
    parser.add_argument("source", metavar="SRC", type=Path)
    parser.add_argument("directory", metavar="DESTDIR", type=Path)
    options = parser.parse_args()
    names = install(options.source, options.directory)
    if not names:
        parser.error(f"no executables in {options.source}: run make freeze first")
    print(f"{options.directory}: {' '.join(names)}")


if __name__ == "__main__":
    main()
