"""Installs the plugins into a directory that a running node uses: `install.py SRC DESTDIR`.

It installs only the plugins, and writes no record: see `cnictl install` for the rest.
"""

import argparse
import os
from collections import defaultdict
from pathlib import Path

from cni_plugins.cli.install.replace import place
from cni_plugins.engine.registry import NAMES


def install(source: Path, directory: Path) -> list[str]:
    """Copy the plugins; hard links of one file in `source` are hard links in `directory`.

    :return: the names installed
    """
    programs: dict[int, list[Path]] = defaultdict(list)
    for path in sorted(source / name for name in NAMES):
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
