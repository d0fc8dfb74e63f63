"""
Make a bare Debian and run commands in it.

It has a root file system, processes and mounts of its own. Its network is the machine's, and so is how it
reaches packages: mirror, proxies, pip's settings, certificates. The file system is kept in
~/.cache/cni-plugins for a month.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.lab.tools import REPOSITORY, SYSTEM_PATH, program

RELEASE = "bookworm"
PACKAGES = ("git", "make", "python3")
HOME = "/srv/cni-plugins"
SCRIPT = str(Path(__file__).with_name("bare.sh"))
NAMESPACES = ("--mount", "--pid", "--ipc", "--fork", "--kill-child", "--propagation", "private")
CERTIFICATES = Path("/usr/local/share/ca-certificates")
SETTINGS = ("/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf", "/etc/apt/auth.conf", CERTIFICATES)
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "cni-plugins")
A_MONTH = 30 * 24 * 3600.0


@dataclass(frozen=True)
class Bare:
    """A bare Debian with a clone of this repository."""

    root: Path

    def run(self, *command: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command as root in the clone; return its output, with what it wrote to stderr."""
        words = ["setpriv", "--pdeathsig", "KILL", "--", "unshare", *NAMESPACES, "sh", SCRIPT, str(self.root)]
        words += ["env", f"--chdir={HOME}", *command]
        with subprocess.Popen(
            words,
            env={"PATH": SYSTEM_PATH, "HOME": "/root", "LC_ALL": "C.UTF-8", **_settings()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                output, _ = process.communicate(timeout=timeout)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        return subprocess.CompletedProcess(command, process.returncode, output)


@contextmanager
def bare_machine() -> Iterator[Bare]:
    """Unpack a bare Debian, clone what is committed here into it, and remove both afterwards."""
    archive = _archive(RELEASE, PACKAGES)
    # Not pytest's tmp_path, which it keeps.
    with tempfile.TemporaryDirectory(prefix="cnie-bare-") as directory:
        root = Path(directory, "root")
        root.mkdir()
        _call("tar", "-C", str(root), "-xpf", str(archive), "--numeric-owner")
        _hand_over(root)
        clone = ("git", "-c", f"safe.directory={REPOSITORY}/.git", "clone", "--quiet", "--no-hardlinks")
        _call(*clone, str(REPOSITORY), f"{root}{HOME}")
        try:
            yield Bare(root)
        finally:
            _call("rm", "-rf", "--one-file-system", str(root))  # twice as fast as Python


def unpack_release(release: str, root: Path) -> None:
    """Unpack a release of Debian with nothing but what every one has."""
    _call("tar", "-C", str(root), "-xpf", str(_archive(release, ())), "--numeric-owner")


def _archive(release: str, wanted: tuple[str, ...]) -> Path:
    """Return the file system as an archive, made anew once a month."""
    archive = CACHE / f"{release}.tar"
    if not archive.exists() or time.time() - archive.stat().st_mtime > A_MONTH:
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="cnie-bare-") as directory:
            mirror = _mirror()
            packages = (*wanted, "ca-certificates") if mirror.startswith("https:") else wanted
            options = ("--variant=minbase", *([f"--include={','.join(packages)}"] if packages else []))
            root = f"{directory}/root"
            _call("debootstrap", *options, release, root, *([mirror] if mirror else []))
            _call("tar", "-C", root, "-cf", f"{archive}.{os.getpid()}", "--numeric-owner", ".")
        Path(f"{archive}.{os.getpid()}").replace(archive)
    return archive


def _mirror() -> str:
    """Return the mirror that this machine takes the release from, or nothing: debootstrap has a default."""
    targets = _call("apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)", "Created-By: Packages")
    return dict(line.split(" ", 1) for line in targets.splitlines()[::-1]).get(RELEASE, "")


def _hand_over(root: Path) -> None:
    """Let the bare machine reach packages as this one does."""
    wanted = [Path(path) for path in (*SETTINGS, *_settings().values()) if path and str(path).startswith("/")]
    for path in wanted:
        copy = Path(f"{root}{path}")
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, copy, dirs_exist_ok=True)
        elif path.exists():
            shutil.copy(path, copy)
    lines = _call("apt-config", "dump", "Acquire::http", "Acquire::https").splitlines()
    Path(root, "etc/apt/apt.conf.d/90machine").write_text("\n".join(lines) + "\n")


def _settings() -> dict[str, str]:
    """Return the variables by which pip and apt reach packages."""
    names = [name for name in os.environ if name.startswith("PIP_") or name.lower().endswith("_proxy")]
    return {name: os.environ[name] for name in names}


def _call(*words: str) -> str:
    path = program(words[0])
    assert path is not None
    environment = os.environ | {"PATH": SYSTEM_PATH}
    done = subprocess.run(
        [path, *words[1:]], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {(done.stdout + done.stderr)[-2000:]}")
    return done.stdout
