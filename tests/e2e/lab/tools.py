"""Where the programs that the tests drive are found. It installs nothing: that is .ci/install's work."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def program(name: str) -> str | None:
    """Absolute path of a program: on PATH, in the system's directories, or where `go install` puts it."""
    go_bin = os.environ.get("GOBIN") or f"{os.environ.get('GOPATH') or Path.home() / 'go'}/bin"
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}:{go_bin}")


def kernel_image() -> Path | None:
    """The newest kernel of the distribution whose modules are installed too."""
    images = sorted(Path("/boot").glob("vmlinuz-*"), key=lambda image: image.stat().st_mtime)
    whole = [image for image in images if Path("/lib/modules", image.name.removeprefix("vmlinuz-")).is_dir()]
    return whole[-1] if whole else None


def missing(needs: tuple[str, ...]) -> list[str]:
    """What of `needs` is absent: a program, `python:MODULE`, `server:NAME` (of .ci/servers), or `kernel`."""
    return [need for need in needs if not _present(need)]


def _present(need: str) -> bool:
    if need.startswith("python:"):
        return importlib.util.find_spec(need.removeprefix("python:")) is not None
    if need.startswith("server:"):
        return importlib.import_module(f"tests.servers.{need.removeprefix('server:')}").PROGRAM.exists()
    if need == "kernel":
        return kernel_image() is not None
    return program(need) is not None
