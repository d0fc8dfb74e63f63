"""A cgroup of its own for a simulated host, in every hierarchy of the machine: v1, v2 or both."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path


def make(name: str) -> list[Path]:
    """Make the cgroup NAME everywhere; the directories, which `remove` takes back."""
    made = []
    unified_only = not _mounts("cgroup")
    for root in _mounts("cgroup") + _mounts("cgroup2"):
        group = root / name
        group.mkdir(exist_ok=True)
        made.append(group)
        for file in ("cpuset.cpus", "cpuset.mems"):
            if not unified_only and (group / file).exists():
                (group / file).write_text((root / file).read_text())
        if unified_only:
            _hand_down_controllers(root)
    return made


def hand_over(group: Path) -> Path:
    """
    Where processes of the host belong, once its first one has been booted in `group`.

    v2 allows no processes where controllers are handed down ("no internal processes" in the kernel's
    cgroup-v2.rst), so there they sit in a leaf.
    """
    if _mounts("cgroup"):
        return group / "cgroup.procs"
    leaf = group / "init"
    leaf.mkdir(exist_ok=True)
    for pid in (group / "cgroup.procs").read_text().split():
        with suppress(ProcessLookupError):
            (leaf / "cgroup.procs").write_text(pid)
    _hand_down_controllers(group)
    return leaf / "cgroup.procs"


def remove(groups: list[Path]) -> None:
    """Remove the cgroups with all below; their processes are dead already, the kernel may lag behind."""
    for group in groups:
        for _ in range(50):
            _remove_tree(group)
            if not group.exists():
                break
            time.sleep(0.1)
        else:
            raise RuntimeError(f"cgroup {group} cannot be removed")


def _remove_tree(group: Path) -> None:
    for below in sorted(group.rglob("*"), reverse=True):
        if below.is_dir():
            with suppress(OSError):
                below.rmdir()
    with suppress(OSError):
        group.rmdir()


def _hand_down_controllers(group: Path) -> None:
    for controller in (group / "cgroup.controllers").read_text().split():
        with suppress(OSError):
            (group / "cgroup.subtree_control").write_text(f"+{controller}")


def _mounts(kind: str) -> list[Path]:
    lines = (line.split() for line in Path("/proc/mounts").read_text().splitlines())
    return sorted({Path(at) for _, at, fs, *_ in lines if fs == kind and at.startswith("/sys/fs/cgroup")})
