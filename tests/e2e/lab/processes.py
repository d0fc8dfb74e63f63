"""Processes of a simulated host, as the machine numbers them."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path


def running_in(anchor: int) -> dict[int, str]:
    """Names of the processes in the pid namespace of one, by number; without those that are to be reaped."""
    own = os.readlink(f"/proc/{anchor}/ns/pid")
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            name, state = re.findall(r"\((.*)\) (.)", stat.read_text())[0]
            if state != "Z" and os.readlink(stat.parent / "ns/pid") == own:
                found[int(stat.parent.name)] = name
    return found
