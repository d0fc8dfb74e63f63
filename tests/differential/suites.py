"""The plugin suites that are put side by side: Debian's reference, the newest reference, ours."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.differential import reference

REPOSITORY = Path(__file__).resolve().parents[2]
_VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
TOOL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Suite:
    """A directory of CNI executables under the label that tables and test ids use."""

    label: str
    directory: Path
    newest_version: str = "1.1.0"

    def speaks(self, version: str) -> bool:
        """Whether the suite knows that protocol version; what nobody knows is for every suite to refuse."""
        return version not in _VERSIONS or _VERSIONS.index(version) <= _VERSIONS.index(self.newest_version)

    def program(self, name: str) -> Path:
        """The executable of that plugin."""
        return self.directory / name

    @cached_property
    def absence(self) -> str | None:
        """Why this suite cannot run here, or None."""
        missing = [name for name in reference.PROGRAMS if not self.program(name).is_file()]
        return f"{self.label}: {', '.join(missing)} not installed in its directory" if missing else None


def debian() -> Suite:
    """The reference as Debian 12 packages it (containernetworking-plugins 1.1.1)."""
    return Suite("debian", Path(os.environ.get("CNI_DEBIAN_DIR", "/usr/lib/cni")), newest_version="1.0.0")


def newest() -> Suite:
    """The newest reference that the Go module proxy has been asked for."""
    return Suite("v1.9", reference.directory())


def ours() -> Suite:
    """Our frozen programs."""
    return Suite("ours", Path(os.environ.get("CNI_DIST", str(REPOSITORY / "dist"))))
