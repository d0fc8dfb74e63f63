"""A suite to install, small, and an image of a node to install it into."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cni_plugins.cli.install.layout import Places
from cni_plugins.engine.registry import NAMES

Suite = Callable[[str], Path]


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    """Make what `make freeze` would for a build: programs that are nothing but its id."""

    def made(build: str) -> Path:
        source = tmp_path / f"dist-{build}"
        source.mkdir()
        (source / NAMES[0]).write_bytes(f"plugins @build-id:{build * 16}".encode())
        (source / NAMES[0]).chmod(0o755)
        for name in NAMES[1:]:
            (source / name).hardlink_to(source / NAMES[0])
        (source / "cnictl").write_bytes(f"cnictl @build-id:{build * 16}".encode())
        return source

    return made


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(str(tmp_path / "image"), "/usr/local", "/opt/cni/bin")
