"""Where a lab is on this machine: its network namespaces by their names, and its files.

The names alone lead to all of it, so a lab that was interrupted is found and removed like any other.
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
# Not below /run/cni-plugins: what stands there is swept by every plugin that starts (packaging/launch.c).
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
        """Return those that are there, whoever made them."""
        listed = os.listdir(NAMESPACES) if NAMESPACES.is_dir() else []
        return sorted(name for name in listed if is_part(name, self.name))

    def is_empty(self) -> bool:
        return not self.directory.exists() and not self.namespaces()


def require_tools() -> None:
    """:raises Failed: when a lab cannot be built or removed here at all"""
    if os.geteuid() != 0:
        raise Failed("a lab is made of network namespaces, and those of root: be root, or use unshare -rmn")
    if not shutil.which("ip"):
        raise Failed("ip is not installed: it is in the package iproute2")


@contextmanager
def claimed(place: Place) -> Iterator[None]:
    """Make the directory, and keep it to ourselves for the block.

    :raises Failed: when there is a lab of this name, or what is left of one.
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
    return Failed(
        f"there is a lab named {place.name} already, or what is left of one: remove it with `{down}`"
    )


@contextmanager
def held(place: Place) -> Iterator[None]:
    """Have no other command build or remove the lab meanwhile."""
    if not place.directory.exists():  # namespaces alone: there is nothing that anybody could be building
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
    """Write it so that a reader sees all of it or nothing, and no other user any."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = path.with_name(f".{path.name}.new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(content, file, indent=2)
    new.replace(path)


def read(path: Path) -> Any:  # noqa: ANN401 (JSON)
    """Return what `write` wrote; None when there is no such file."""
    return json.loads(path.read_text()) if path.exists() else None


def write_order(place: Place, lab: Lab, plugins: Path) -> None:
    write(place.order, {"options": lab.options._asdict(), "plugins": str(plugins)})


def remove_files(place: Place) -> None:
    """Remove the directory, and the one of all labs with the last of them, if it is ours."""
    if place.directory.exists():
        shutil.rmtree(place.directory)
    if place.directory.parent == DIRECTORY:
        with suppress(OSError):
            DIRECTORY.rmdir()


def read_order(place: Place) -> tuple[Lab, Path] | None:
    """Return the lab that was to be built, and where its plugins are; None when nothing tells."""
    order = read(place.order)
    try:
        return None if order is None else (plan(LabOptions(**order["options"])), Path(order["plugins"]))
    except (TypeError, KeyError, ValueError):  # another version of ours ordered it
        return None


def ip(lines: Iterable[str], namespace: str = "") -> None:
    """Have `ip` do all of the lines, in a namespace.

    :raises Failed: with what it says of the first that fails.
    """
    command = ["ip", *(("-n", namespace) if namespace else ()), "-batch", "-"]
    done = run(command, "".join(f"{line}\n" for line in lines))
    if done.returncode:
        raise Failed(f"ip{f' in {namespace}' if namespace else ''}: {done.stderr.strip()}")


def run(
    command: Sequence[str | Path], text: str = "", environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    return subprocess.run(
        command, input=text, env=environment, capture_output=True, text=True, check=False, errors="replace"
    )


def is_there(namespace: str) -> bool:
    """Say whether it is one: `ip netns add`, interrupted, leaves a file that is none."""
    with suppress(InvalidNetns):
        os.close(netns.open_sandbox(str(NAMESPACES / namespace)))
        return True
    return False


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Have the calling thread, and the programs it starts, be in a network namespace by its name."""
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
