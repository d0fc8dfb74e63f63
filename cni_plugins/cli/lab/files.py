"""Manages the files and network namespaces of a lab, and runs programs in them.

All of them are found by name, so a lab that was interrupted is found and removed like any other.
"""

import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from cni_plugins.cli.failure import Failed
from cni_plugins.cli.lab.topology import Host, Lab, LabOptions, is_part, plan
from cni_plugins.errors import InvalidNetns
from cni_plugins.kernel.session import netns

NAMESPACES = Path("/run/netns")  # of iproute2
# Not below /run/cni-plugins: every plugin that starts sweeps that directory (packaging/launch.c).
DIRECTORY = Path("/run/cni-plugins-lab")


class Place(NamedTuple):
    """The directory of one lab."""

    directory: Path

    @property
    def name(self) -> str:
        return self.directory.name

    @property
    def order(self) -> Path:
        return self.directory / "lab.json"

    @property
    def peers(self) -> Path:
        return self.directory / "peers.json"

    @property
    def attached(self) -> Path:
        return self.directory / "attached.json"

    def conf(self, host: Host) -> Path:
        return self.directory / host.name / "net.conf"

    def leases(self, host: Host) -> Path:
        return self.directory / host.name / "leases"

    def namespaces(self) -> list[str]:
        """Return the existing network namespaces with names of this lab."""
        listed = os.listdir(NAMESPACES) if NAMESPACES.is_dir() else []
        return sorted(name for name in listed if is_part(name, self.name))

    def is_empty(self) -> bool:
        return not self.directory.exists() and not self.namespaces()


def require_tools() -> None:
    """:raises Failed: when the user is not root or `ip` is missing"""
    if os.geteuid() != 0:
        raise Failed("a lab needs network namespaces: must be run as root, or under unshare -rmn")
    if not shutil.which("ip"):
        raise Failed("ip is not installed (package iproute2)")


@contextmanager
def claimed(place: Place) -> Iterator[None]:
    """Create the directory of a lab, and hold its lock for the block.

    :raises Failed: when a lab of this name exists, or parts of one.
    """
    if place.namespaces():
        raise _taken(place)
    try:
        place.directory.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as err:
        raise Failed(f"{err.filename}: {err.strerror}: choose a directory with --dir") from err
    try:
        place.directory.mkdir(mode=0o700)
    except FileExistsError as err:
        raise _taken(place) from err
    with held(place):
        yield


def _taken(place: Place) -> Failed:
    down = f"cnictl lab down --name {place.name}"
    return Failed(f"a lab named {place.name} already exists, or a part of one: remove it with `{down}`")


@contextmanager
def held(place: Place) -> Iterator[None]:
    """Hold the lock of a lab, so that no other command builds or removes it meanwhile."""
    if not place.directory.exists():  # only namespaces are left: no command can be building the lab
        yield
        return
    fd = os.open(place.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as err:
        raise Failed(f"the lab {place.name} is being built or removed by another command") from err
    finally:
        os.close(fd)


def write(path: Path, content: Any) -> None:  # noqa: ANN401 (JSON)
    """Write JSON to a file atomically, readable only by its owner."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = path.with_name(f".{path.name}.new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(content, file, indent=2)
    new.replace(path)


def read(path: Path) -> Any:  # noqa: ANN401 (JSON)
    """Return what `write` wrote; None when the file does not exist."""
    return json.loads(path.read_text()) if path.exists() else None


def write_order(place: Place, lab: Lab, plugins: Path) -> None:
    write(place.order, {"options": lab.options._asdict(), "plugins": str(plugins)})


def remove_files(place: Place) -> None:
    """Remove the directory of the lab, and the default parent directory if it is empty then."""
    if place.directory.exists():
        shutil.rmtree(place.directory)
    if place.directory.parent == DIRECTORY:
        with suppress(OSError):
            DIRECTORY.rmdir()


def read_order(place: Place) -> tuple[Lab, Path] | None:
    """Return the recorded lab and its plugin directory; None when they are unknown."""
    order = read(place.order)
    try:
        return None if order is None else (plan(LabOptions(**order["options"])), Path(order["plugins"]))
    except (TypeError, KeyError, ValueError):  # written by another version
        return None


def ip(lines: Iterable[str], namespace: str = "") -> None:
    """Run lines of `ip -batch`, in a network namespace.

    :raises Failed: with its message about the first line that fails.
    """
    command = ["ip", *(("-n", namespace) if namespace else ()), "-batch", "-"]
    done = run(command, "".join(f"{line}\n" for line in lines))
    if done.returncode:
        raise Failed(f"ip{f' in {namespace}' if namespace else ''}: {done.stderr.strip()}")


def run(
    command: Sequence[str | Path], text: str = "", environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program, and wait until it exits."""
    return subprocess.run(
        command, input=text, env=environment, capture_output=True, text=True, check=False, errors="replace"
    )


def is_there(namespace: str) -> bool:
    """Say whether the namespace exists: an interrupted `ip netns add` leaves an ordinary file."""
    with suppress(InvalidNetns):
        os.close(netns.open_sandbox(str(NAMESPACES / namespace)))
        return True
    return False


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Move the calling thread, and the programs it starts, into a network namespace for the block."""
    there = netns.open_sandbox(str(NAMESPACES / namespace))
    try:
        back = netns.open_own()
        try:
            with netns.entered(there, back):
                yield
        finally:
            os.close(back)
    finally:
        os.close(there)
