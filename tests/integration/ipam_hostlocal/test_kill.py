"""Killed anywhere, host-local neither loses an address nor gives one twice."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cni_plugins.errors import PoolExhausted
from cni_plugins.ipam_hostlocal import config
from cni_plugins.ipam_hostlocal.plugin import IPAM
from cni_plugins.protocol.request import Request
from tests.integration.ipam_hostlocal.processes import ended, forked, killed_at, leased, request

assert config  # loaded before the forks, so that the lines counted are those of the room at work
BOTH = "10.1.0.0/28 fd00::/64"
LIVE = {"10.1.0.2": "live\r\neth0", "fd00::2": "live\r\neth0"}


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    IPAM.reserve(request(tmp_path, "live", BOTH))
    return tmp_path


def victim(data_dir: Path) -> Request:
    return request(data_dir, "victim", BOTH)


def add(asked: Request) -> None:
    IPAM.reserve(asked)


def no_trace_of_the_victim(data_dir: Path) -> None:
    assert leased(data_dir) == LIVE
    IPAM.check(request(data_dir, "live", BOTH))
    result = IPAM.reserve(request(data_dir, "next", BOTH))
    assert {str(ip.address.ip) for ip in result.ips}.isdisjoint(LIVE)
    IPAM.release(request(data_dir, "next", BOTH))


@pytest.mark.parametrize("how", ["DEL", "GC", "DEL after others"])
def test_an_add_killed_at_any_line_leaves_nothing_after(data_dir: Path, how: str) -> None:
    for line in range(1, 10_000):
        if not killed_at(line, lambda: add(victim(data_dir))):
            assert line > 100
            break
        if how == "DEL after others":
            IPAM.reserve(request(data_dir, "other", BOTH))
            IPAM.release(request(data_dir, "other", BOTH))
        if how == "GC":
            IPAM.gc(request(data_dir, "", valid=[("live", "eth0")]))
        else:
            IPAM.release(victim(data_dir))
        no_trace_of_the_victim(data_dir)


def test_a_removal_killed_at_any_line_is_finished_by_the_next(data_dir: Path) -> None:
    for line in range(1, 10_000):
        IPAM.reserve(victim(data_dir))
        if not killed_at(line, lambda: IPAM.release(victim(data_dir))):
            break
        IPAM.release(victim(data_dir))
        no_trace_of_the_victim(data_dir)


@pytest.mark.parametrize("deed", [IPAM.release, IPAM.gc])
def test_a_reading_of_all_leases_killed_at_any_line_is_done_again(
    data_dir: Path, deed: Callable[[Request], None]
) -> None:
    nobody = request(data_dir, "nobody", valid=[("live", "eth0")])
    for line in range(1, 10_000):
        for number in range(3):
            (data_dir / "net" / f"10.1.0.{number + 8}").write_bytes(b"victim\r\neth0")
        if not killed_at(line, lambda: deed(nobody)):
            assert line > 100
            break
        IPAM.release(victim(data_dir))
        no_trace_of_the_victim(data_dir)


def test_hundreds_of_kills_at_random_moments_leave_nothing(data_dir: Path) -> None:
    def add_and_remove_for_ever() -> None:
        while True:
            IPAM.reserve(victim(data_dir))
            IPAM.release(victim(data_dir))

    dice = random.Random(7)
    for _ in range(300):
        pid = forked(add_and_remove_for_ever)
        time.sleep(dice.uniform(0.001, 0.006))
        os.kill(pid, signal.SIGKILL)
        assert ended(pid) == -signal.SIGKILL
        assert LIVE.items() <= leased(data_dir).items()
        IPAM.release(victim(data_dir))
        no_trace_of_the_victim(data_dir)


def test_kills_never_use_up_a_range(tmp_path: Path) -> None:
    small = request(tmp_path, "victim", "10.1.0.0/29")
    for line in range(1, 10_000):
        if not killed_at(line, lambda: add(small)):
            break
        IPAM.release(small)
    IPAM.release(small)
    for number in range(5):
        IPAM.reserve(request(tmp_path, f"c{number}", "10.1.0.0/29"))
    with pytest.raises(PoolExhausted):
        IPAM.reserve(request(tmp_path, "c5", "10.1.0.0/29"))
