"""Defines the files of an install and their paths; reads only the source directory."""

import hashlib
import sys
from pathlib import Path
from typing import NamedTuple

from cni_plugins.cli.failure import Failed
from cni_plugins.cli.install.replace import Batch
from cni_plugins.engine.build import build_of
from cni_plugins.engine.registry import NAMES

AGENT_UNITS = ("cni-plugins-agent.socket", "cni-plugins-agent.service")
# Installed but not enabled: only for nodes with overlay networks whose peers change.
SYNC_UNITS = ("cni-overlay-sync.timer", "cni-overlay-sync.service")
UNITS = (*AGENT_UNITS, *SYNC_UNITS)
# With this suffix no runtime loads the file: an active config would change the network of a node in use.
EXAMPLE = "10-containers.conflist.example"
_UNIT_PREFIXES = ("/usr", "/usr/local")
_WRITTEN_FOR = b"/usr/local/bin/cnictl"


class Places(NamedTuple):
    """The paths of an install, from its options."""

    destdir: str
    prefix: str
    bin_dir: str

    @property
    def plugins(self) -> Path:
        return self._at(self.bin_dir)

    @property
    def programs(self) -> Path:
        return self._at(f"{self.prefix}/bin")

    @property
    def units(self) -> Path:
        """Return a path below the prefix if systemd reads it; /etc is for `systemctl edit` and `mask`."""
        root = self.prefix.rstrip("/")
        return self._at(f"{root}/lib/systemd/system" if root in _UNIT_PREFIXES else "/etc/systemd/system")

    @property
    def configs(self) -> Path:
        return self._at("/etc/cni/net.d")

    @property
    def notes(self) -> Path:
        return self._at(f"{self.prefix}/share/cni-plugins")

    @property
    def record(self) -> Path:
        return self.notes / "installed.json"

    def directories(self) -> tuple[Path, ...]:
        return self.plugins, self.programs, self.units, self.configs, self.notes

    def on_node(self, path: Path) -> str:
        """Return the path on the node, without destdir."""
        return str(Path("/") / path.relative_to(self.destdir or "/"))

    def _at(self, path: str) -> Path:
        return Path(self.destdir or "/", path.lstrip("/"))

    def names(self) -> tuple[Path, ...]:
        """Return the path of every file that an install creates."""
        return (
            *(self.plugins / name for name in NAMES),
            self.programs / "cnictl",
            *(self.units / name for name in UNITS),
            self.configs / EXAMPLE,
        )


def batches(places: Places, source: Path) -> tuple[Batch, ...]:
    """Return all files to install.

    :raises Failed: when the programs of the source are missing, or not of the same build
    """
    plugins = {path.stat().st_ino: path for path in (_program(source / name) for name in NAMES)}
    program, *others = plugins.values()
    if any(digest(other) != digest(program) for other in others):
        raise Failed(f"the plugins in {source} are not of the same build")
    cnictl = _program(source / "cnictl")
    if build_of(str(program)) != build_of(str(cnictl)):
        raise Failed(f"cnictl and the plugins in {source} are not of the same build")
    own = f"{places.prefix.rstrip('/')}/bin/cnictl".encode()
    units = {name: _text(f"systemd/{name}").replace(_WRITTEN_FOR, own) for name in UNITS}
    return (
        Batch(places.plugins, NAMES, program, 0o755),
        Batch(places.programs, ("cnictl",), cnictl, 0o755),
        *(Batch(places.units, (name,), text, 0o644) for name, text in units.items()),
        Batch(places.configs, (EXAMPLE,), _text("conf/10-bridge.conflist"), 0o644),
    )


def digest(content: Path | bytes) -> str:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _program(path: Path) -> Path:
    if not path.is_file() or path.is_symlink():
        raise Failed(f"{path} does not exist: name the directory of the frozen executables with --from")
    return path


def _text(name: str) -> bytes:
    """Return a file that freeze.py packed into this program, or from the source tree."""
    if getattr(sys, "frozen", False):
        content: bytes = sys.meta_path[-1].content(name)  # type: ignore[attr-defined]  # packaging/importer.py
        return content
    root = Path(__file__).parents[3]
    return next(place / name for place in (root, root / "packaging") if (place / name).exists()).read_bytes()
