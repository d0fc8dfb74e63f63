"""Disks that refuse: nothing is changed, and the error names path and reason."""

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cni_plugins.errors import IoFailed, NotAvailable
from cni_plugins.ipam_hostlocal.plugin import IPAM
from tests.integration.ipam_hostlocal.processes import leased, request


class Disk:
    """A file system with room for very few files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self) -> None:
        for number in range(100):
            try:
                (self.path / f"filler{number}").touch()
            except OSError:
                return

    def make_room(self, files: int) -> None:
        for path, _ in zip(self.path.glob("filler*"), range(files), strict=False):
            path.unlink()

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", self.path], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    options = "size=64k,nr_inodes=40"
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "none", tmp_path], capture_output=True
    ).returncode:
        pytest.skip("needs the right to mount")
    yield Disk(tmp_path)
    subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.parametrize("room", range(5))
def test_a_full_disk_is_an_error_and_changes_nothing(disk: Disk, room: int) -> None:
    subnets = "10.1.0.0/24 fd00::/64"
    IPAM.reserve(request(disk.path, "c1", "10.1.0.0/24"))
    before = leased(disk.path)
    disk.fill()
    disk.make_room(room)
    try:
        IPAM.reserve(request(disk.path, "c2", subnets))
    except IoFailed as err:
        refusal = err
    else:
        assert room >= 3
        return
    assert "No space left on device" in refusal.msg
    assert str(disk.path) in refusal.msg
    assert leased(disk.path) == before
    IPAM.check(request(disk.path, "c1"))
    IPAM.release(request(disk.path, "c1"))
    assert leased(disk.path) == {}


def test_the_state_of_a_full_disk_is_unavailable(disk: Disk) -> None:
    IPAM.reserve(request(disk.path, "c1"))
    IPAM.status(request(disk.path, ""))
    disk.fill()
    with pytest.raises(NotAvailable, match="No space left on device"):
        IPAM.status(request(disk.path, ""))


def test_a_read_only_disk_is_an_error_for_all_but_a_check(disk: Disk) -> None:
    IPAM.reserve(request(disk.path, "c1"))
    before = leased(disk.path)
    disk.remount("ro")
    IPAM.check(request(disk.path, "c1"))
    for deed in (IPAM.reserve, IPAM.release, IPAM.gc):
        with pytest.raises(IoFailed, match="Read-only file system"):
            deed(request(disk.path, "c1" if deed is IPAM.release else "c2"))
    with pytest.raises(NotAvailable, match="Read-only file system"):
        IPAM.status(request(disk.path, ""))
    assert leased(disk.path) == before


@pytest.mark.parametrize("files", [["lock"], []])
def test_a_read_only_disk_is_no_obstacle_where_nothing_is_to_be_freed(disk: Disk, files: list[str]) -> None:
    (disk.path / "net").mkdir()
    for name in files:
        (disk.path / "net" / name).touch()
    (disk.path / "net" / "10.1.0.2").write_bytes(b"c1\r\neth0")
    disk.remount("ro")
    IPAM.check(request(disk.path, "c1"))
    IPAM.release(request(disk.path, "nobody"))
    IPAM.gc(request(disk.path, "", valid=[("c1", "eth0")]))
    with pytest.raises(IoFailed, match="Read-only file system"):
        IPAM.release(request(disk.path, "c1"))


@pytest.mark.parametrize("room", range(4))
def test_leases_of_the_reference_are_freed_on_a_full_disk(disk: Disk, room: int) -> None:
    (disk.path / "net").mkdir()
    (disk.path / "net" / "lock").touch()
    for number in range(2, 5):
        (disk.path / "net" / f"10.1.0.{number}").write_bytes(f"c{number}\r\neth0".encode())
    disk.fill()
    disk.make_room(room)
    IPAM.check(request(disk.path, "c2"))
    IPAM.release(request(disk.path, "c2"))
    IPAM.gc(request(disk.path, "", valid=[("c4", "eth0")]))
    assert leased(disk.path) == {"10.1.0.4": "c4\r\neth0"}


def test_the_state_of_a_disk_without_blocks_is_unavailable(disk: Disk) -> None:
    IPAM.reserve(request(disk.path, "c1"))
    with suppress(OSError), (disk.path / "big").open("wb", buffering=0) as big:
        while big.write(bytes(4096)):
            pass
    with pytest.raises(NotAvailable, match="No space left on device"):
        IPAM.status(request(disk.path, ""))


def test_a_network_directory_on_a_disk_of_its_own_does_without_links(
    disk: Disk, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data_dir = tmp_path_factory.mktemp("networks")
    (data_dir / "net").mkdir()
    subprocess.run(["mount", "--bind", disk.path, data_dir / "net"], check=True)
    try:
        IPAM.reserve(request(data_dir, "c1", "10.1.0.0/24 fd00::/64"))
        assert leased(data_dir) == {"10.1.0.2": "c1\r\neth0", "fd00::2": "c1\r\neth0"}
        disk.fill()
        with pytest.raises(IoFailed, match="No space left on device"):
            IPAM.reserve(request(data_dir, "c2"))
        IPAM.release(request(data_dir, "c1"))
        disk.make_room(100)
        assert leased(data_dir) == {}
    finally:
        subprocess.run(["umount", data_dir / "net"], check=True)
