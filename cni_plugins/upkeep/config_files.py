"""Reads the network configs in a directory: in the order of libcni, no larger than a plugin's stdin."""

import os
from pathlib import Path
from typing import Any

from cni_plugins.protocol import json_text

_SUFFIXES = (".conf", ".conflist", ".json")
_LIMIT = 1 << 20  # bytes, as for a plugin's stdin


class NoConfig(ValueError):
    """A file is no network config; the message is the rest of a sentence that begins with its path."""


def listed(directory: Path) -> list[Path]:
    """Return the files that libcni would read, and directories with such names.

    :raises OSError: when the directory cannot be read.
    """
    return sorted(path for path in directory.iterdir() if path.suffix in _SUFFIXES)


def content(path: Path) -> bytes:
    """Return what a file contains.

    :raises OSError: when it cannot be read.
    :raises NoConfig: when it is too large.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO must not stop us
    with open(fd, "rb") as file:
        found = file.read(_LIMIT + 1)
    if len(found) > _LIMIT:
        raise NoConfig(f"larger than {_LIMIT} bytes")
    return found


def parsed(text: bytes) -> dict[str, Any]:
    """:raises NoConfig: when a text is not a JSON object"""
    try:
        document = json_text.load(text)
    except ValueError as err:
        raise NoConfig(f"not JSON: {err}") from err
    if not isinstance(document, dict):
        raise NoConfig("not an object")
    return document
