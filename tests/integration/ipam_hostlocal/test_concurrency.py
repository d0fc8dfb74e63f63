"""Many processes on one network: every address is given once."""

from functools import partial
from pathlib import Path

import pytest

from cni_plugins.ipam_hostlocal.plugin import IPAM
from tests.integration.ipam_hostlocal.processes import REFERENCE, ended, forked, leased, reference, request

WORKERS, ROUNDS = 8, 100


def ours(data_dir: Path, name: str, *, kept: bool) -> None:
    IPAM.reserve(request(data_dir, name))
    if not kept:
        IPAM.release(request(data_dir, name))


def theirs(data_dir: Path, name: str, *, kept: bool) -> None:
    assert "code" not in reference("ADD", request(data_dir, name))
    if not kept:
        reference("DEL", request(data_dir, name))


def test_eight_processes_get_eight_hundred_different_addresses(tmp_path: Path) -> None:
    def work(worker: int) -> None:
        for number in range(ROUNDS):
            IPAM.reserve(request(tmp_path, f"c{worker}-{number}", "10.1.0.0/22"))

    pids = [forked(partial(work, worker)) for worker in range(WORKERS)]
    assert [ended(pid) for pid in pids] == [0] * WORKERS
    found = leased(tmp_path)
    assert len(found) == len(set(found.values())) == WORKERS * ROUNDS
    assert set(found) == {f"10.1.{n >> 8}.{n & 255}" for n in range(2, WORKERS * ROUNDS + 2)}


def test_a_small_range_is_fought_over_without_loss(tmp_path: Path) -> None:
    def work(worker: int) -> None:
        for number in range(ROUNDS):
            asked = request(tmp_path, f"c{worker}-{number}", "10.1.0.0/28")
            (address,) = IPAM.reserve(asked).ips
            lease = tmp_path / "net" / str(address.address.ip)
            assert lease.read_bytes() == f"{asked.container_id}\r\neth0".encode()
            IPAM.release(asked)

    pids = [forked(partial(work, worker)) for worker in range(WORKERS)]
    assert [ended(pid) for pid in pids] == [0] * WORKERS
    assert leased(tmp_path) == {}


@pytest.mark.skipif(not REFERENCE.exists(), reason="the reference is not installed")
def test_processes_of_ours_and_of_the_reference_share_a_range(tmp_path: Path) -> None:
    def work(worker: int) -> None:
        for number in range(30):
            (theirs if worker % 2 else ours)(tmp_path, f"c{worker}-{number}", kept=number % 2 == 0)

    pids = [forked(partial(work, worker)) for worker in range(WORKERS)]
    assert [ended(pid) for pid in pids] == [0] * WORKERS
    found = leased(tmp_path)
    assert len(found) == len(set(found.values())) == WORKERS * 15
    for worker in range(WORKERS):
        for number in range(0, 30, 2):
            gone = request(tmp_path, f"c{worker}-{number}")
            if worker % 2:
                IPAM.release(gone)
            else:
                reference("DEL", gone)
    assert leased(tmp_path) == {}
