"""Side by side with the reference on one directory: each honours and frees what the other leased."""

from pathlib import Path

import pytest

from cni_plugins.errors import PoolExhausted, StateDrifted
from cni_plugins.ipam_hostlocal.plugin import IPAM
from cni_plugins.protocol.request import Request
from tests.integration.ipam_hostlocal.processes import REFERENCE, leased, reference, request

pytestmark = pytest.mark.skipif(not REFERENCE.exists(), reason="the reference is not installed")


def ours(asked: Request) -> list[str]:
    return [str(ip.address) for ip in IPAM.reserve(asked).ips]


def theirs(asked: Request) -> list[str]:
    return [ip["address"] for ip in reference("ADD", asked)["ips"]]


def test_the_two_take_turns_in_one_ring(tmp_path: Path) -> None:
    subnets = "10.1.0.0/29 fd00::/125"
    given = []
    for number in range(4):
        give = theirs if number % 2 else ours
        given.append(give(request(tmp_path, f"c{number}", subnets)))
    assert given == [[f"10.1.0.{n}/29", f"fd00::{n}/125"] for n in (2, 3, 4, 5)]


def test_the_files_are_the_same_byte_by_byte(tmp_path: Path) -> None:
    found = []
    for name, give in (("ours", ours), ("theirs", theirs)):
        (tmp_path / name).mkdir()
        give(request(tmp_path / name, "c1", "10.1.0.0/24 fd00:0:0:1::/64"))
        files = (tmp_path / name / "net").iterdir()
        found.append({path.name: path.read_bytes() for path in files})
        assert (tmp_path / name / "net").stat().st_mode == 0o40755
        assert (tmp_path / name / "net" / "lock").stat().st_mode == 0o100750
    assert found[0] == found[1]


def test_each_frees_what_the_other_leased(tmp_path: Path) -> None:
    theirs(request(tmp_path, "theirs"))
    ours(request(tmp_path, "ours"))
    IPAM.check(request(tmp_path, "theirs"))
    assert reference("CHECK", request(tmp_path, "ours")) == {}
    IPAM.release(request(tmp_path, "theirs"))
    assert reference("DEL", request(tmp_path, "ours")) == {}
    assert leased(tmp_path) == {}
    with pytest.raises(StateDrifted):
        IPAM.check(request(tmp_path, "ours"))


def test_each_refuses_to_attach_twice_what_the_other_attached(tmp_path: Path) -> None:
    theirs(request(tmp_path, "theirs"))
    ours(request(tmp_path, "ours"))
    with pytest.raises(PoolExhausted) as refused:
        ours(request(tmp_path, "theirs"))
    answer = reference("ADD", request(tmp_path, "ours"))
    assert refused.value.msg == answer["msg"].replace("10.1.0.3", "10.1.0.2").replace("ours", "theirs")


def test_a_full_range_is_refused_in_the_same_words(tmp_path: Path) -> None:
    theirs(request(tmp_path, "c1", "10.1.0.0/30"))
    with pytest.raises(PoolExhausted) as refused:
        ours(request(tmp_path, "c2", "10.1.0.0/30"))
    assert reference("ADD", request(tmp_path, "c2", "10.1.0.0/30"))["msg"] == refused.value.msg


def test_a_long_story_of_both_never_gives_an_address_twice(tmp_path: Path) -> None:
    for number in range(60):
        asked = request(tmp_path, f"c{number}", "10.1.0.0/28")
        (theirs if number % 3 else ours)(asked)
        found = leased(tmp_path)
        assert len(found) == len(set(found.values()))
        if len(found) == 13:
            for old in range(number - 12, number + 1):
                gone = request(tmp_path, f"c{old}", "10.1.0.0/28")
                if old % 2:
                    IPAM.release(gone)
                else:
                    reference("DEL", gone)
            assert leased(tmp_path) == {}
