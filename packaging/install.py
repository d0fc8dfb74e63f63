"""Put executables into a directory that a running node uses: `install.py SRC DESTDIR`.

A runtime may start a plugin at any moment, so no name ever points at a file half written: the program is
copied once under a name no runtime asks for, then linked and renamed over every plugin name.
"""

import argparse
import os
import shutil
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path


def place(program: Path, directory: Path, names: Iterable[str]) -> None:
    """Copy `program` into `directory` once, and make every one of `names` a hard link to the copy."""
    directory.mkdir(parents=True, exist_ok=True)
    copy, link = (directory / f".cni-plugins-{os.getpid()}.{part}" for part in ("copy", "link"))
    try:
        shutil.copyfile(program, copy)
        copy.chmod(0o755)
        # On disk before a name leads to it: power lost now would boot a node without network.
        with copy.open("rb") as written:
            os.fsync(written.fileno())
        for name in names:
            link.hardlink_to(copy)
            link.replace(directory / name)
    finally:
        link.unlink(missing_ok=True)
        copy.unlink(missing_ok=True)


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
