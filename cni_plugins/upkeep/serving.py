"""Says which plugins of a node are this suite's: a program of the same type may be another one's."""

import os
from collections.abc import Iterable
from pathlib import Path

from cni_plugins.engine import registry
from cni_plugins.engine.build import build_of

# The directories that containerd, CRI-O, nerdctl and podman search.
DEFAULT = tuple(
    map(
        Path,
        (
            "/opt/cni/bin",
            "/usr/local/libexec/cni",
            "/usr/libexec/cni",
            "/usr/local/lib/cni",
            "/usr/lib/cni",
        ),
    )
)


class ServedTypes:
    """The types that executables of this suite serve, of whatever build; the first on the path counts."""

    def __init__(self, directories: Iterable[Path]) -> None:
        self.directories = tuple(directories)
        self._known: dict[str, bool] = {}

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str) or name not in registry.PLUGINS:
            return False
        if name not in self._known:
            self._known[name] = self._is_ours(name)
        return self._known[name]

    def _is_ours(self, name: str) -> bool:
        paths = (directory / name for directory in self.directories)
        first = next((path for path in paths if path.is_file() and os.access(path, os.X_OK)), None)
        try:
            return first is not None and bool(build_of(str(first)))
        except OSError:
            return False
