from pathlib import Path

import pytest

from tests.unit.ipam_hostlocal.host import Host


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "networks")
