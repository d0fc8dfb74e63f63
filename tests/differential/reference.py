"""Fetch the newest reference plugins: `python -m tests.differential.reference [plugin …]`.

They are built by `go install` through the Go module proxy, once, into CNI_REF_DIR (default: build/reference).
"""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

VERSION = "v1.9.1"
MODULE = "github.com/containernetworking/plugins"
PROGRAMS = ("bridge", "firewall", "macvlan", "ptp", "host-local", "static", "loopback", "sbr")
_PATIENCE = 300.0  # seconds for one plugin, its modules downloaded
_ROOMS = {
    **dict.fromkeys(("host-local", "static", "dhcp"), "ipam"),
    **dict.fromkeys(("portmap", "firewall", "bandwidth", "tuning", "sbr", "vrf"), "meta"),
}


def directory() -> Path:
    """Where the reference's executables are kept."""
    default = Path(__file__).resolve().parents[2] / "build" / "reference"
    return Path(os.environ.get("CNI_REF_DIR", str(default)))


def fetch(names: tuple[str, ...] = PROGRAMS) -> str | None:
    """Build what is missing.

    Returns why that could not be done, or None.
    """
    if not _missing(names):
        return None
    if shutil.which("go") is None:
        return f"the reference {VERSION} is not built ({', '.join(_missing(names))}) and Go is not installed"
    directory().mkdir(parents=True, exist_ok=True)
    with (directory() / ".lock").open("w") as lock:  # test processes come here at the same time
        fcntl.flock(lock, fcntl.LOCK_EX)
        return next((reason for name in _missing(names) if (reason := _install(name))), None)


def _missing(names: tuple[str, ...]) -> list[str]:
    return [name for name in names if not (directory() / name).is_file()]


def _install(name: str) -> str | None:
    """Build one plugin; the version is linked in so that the program can tell it."""
    stamp = f"-s -w -X {MODULE}/pkg/utils/buildversion.BuildVersion={VERSION}"
    package = f"{MODULE}/plugins/{_ROOMS.get(name, 'main')}/{name}@{VERSION}"
    done = subprocess.run(
        ["go", "install", "-trimpath", "-ldflags", stamp, package],
        env=os.environ | {"GOBIN": str(directory().resolve())},
        capture_output=True,
        text=True,
        check=False,
        timeout=_PATIENCE,
    )
    return None if done.returncode == 0 else f"{package} could not be built: {done.stderr.strip()[-300:]}"


if __name__ == "__main__":
    reason = fetch(tuple(sys.argv[1:]) or PROGRAMS)
    sys.stdout.write(f"{reason or f'{MODULE} {VERSION}: ready'}\n")
    sys.exit(1 if reason else 0)
