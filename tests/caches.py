"""What runtimes leave behind of an attachment: the file in which libcni keeps it, and executables of ours."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BUILD_ID = b"#!/bin/sh\n# @build-id:0123456789abcdef\n"
"""A program that is ours by the id in it."""


def remember(
    directory: Path,
    config: Mapping[str, Any],
    result: Mapping[str, Any] | None,
    netns: str | None,
    *,
    container: str = "c1",
    ifname: str = "eth0",
    **more: Any,
) -> Path:
    """Write what libcni writes after an ADD.

    :param config: of a list, or of one plugin.
    :param more: other keys of the file, or the same by their names.
    """
    entry = {
        "kind": "cniCacheV1",
        "containerId": container,
        "config": base64.b64encode(json.dumps(config).encode()).decode(),
        "ifName": ifname,
        "networkName": config["name"],
        "netns": netns,
        "result": result,
        **more,
    }
    path = directory / "results" / f"{config['name']}-{container}-{ifname}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({key: value for key, value in entry.items() if value is not None}))
    path.chmod(0o600)
    return path


def put_executables(directory: Path, *names: str) -> Path:
    """Make programs that count as ours."""
    directory.mkdir(exist_ok=True)
    for name in names:
        path = directory / name
        path.write_bytes(BUILD_ID)
        path.chmod(0o755)
    return directory
