import errno
import os
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.errors import IoFailed, PoolExhausted
from cni_plugins.ipam_hostlocal.plugin import IPAM
from cni_plugins.leases import boot, store
from cni_plugins.leases.boot import Boot
from cni_plugins.leases.index import key
from cni_plugins.leases.leases import Leases
from cni_plugins.leases.store import SIDE
from tests.unit.ipam_hostlocal.host import Host, addresses


def test_a_lease_of_somebody_else_is_found_though_it_was_written_in_the_same_instant(host: Host) -> None:
    # Twenty rounds fall into a few ticks of the kernel's clock: a recorded time of writing would be fooled.
    for number in range(20):
        IPAM.reserve(host.request(f"c{number}"))
        path = host.lease("10.1.0.200", "theirs\r\neth0")
        IPAM.release(host.request("theirs"))
        assert not path.exists()


def test_an_address_that_somebody_else_freed_is_not_held_any_more(host: Host) -> None:
    IPAM.reserve(host.request())
    (host.leases / "10.1.0.2").unlink()
    assert IPAM.reserve(host.request()).ips


def test_a_network_directory_that_was_removed_begins_anew(host: Host) -> None:
    IPAM.reserve(host.request())
    shutil.rmtree(host.leases)
    IPAM.reserve(host.request())
    assert host.leased() == {"10.1.0.2": "c1\r\neth0"}


@pytest.mark.parametrize("rubbish", ["missing", "empty", "files", "directories"])
def test_an_index_that_was_tampered_with_is_made_again(host: Host, rubbish: str) -> None:
    IPAM.reserve(host.request())
    side = host.data_dir / SIDE / "net"
    entries = [path.name for path in side.iterdir()]
    shutil.rmtree(side)
    if rubbish != "missing":
        side.mkdir()
    for name in entries:
        if rubbish == "files":
            (side / name).write_text("1 2 3")
        elif rubbish == "directories" and name != "state":
            (side / name).mkdir()
    IPAM.release(host.request())
    assert host.leased() == {}


@pytest.mark.parametrize("others", [0, 2])
def test_records_that_were_tidied_away_are_missed(host: Host, others: int) -> None:
    """By a program that removes what was not touched for long; what it leaves is trusted no more."""
    for number in range(others):
        IPAM.reserve(host.request(f"other{number}"))
    IPAM.reserve(host.request())
    os.unlink(host.data_dir / SIDE / "net" / key("c1\r\neth0"))
    IPAM.release(host.request())
    assert "c1\r\neth0" not in host.leased().values()
    assert len(host.leased()) == others


@pytest.mark.parametrize("content", ["c1", "c1\r\neth0\n", "c1\r\neth1"])
def test_a_lease_that_was_rewritten_in_place_is_its_new_owners(host: Host, content: str) -> None:
    """As by a script that converts leases; the first of these is how releases before 0.7 wrote them."""
    IPAM.reserve(host.request())
    (host.leases / "10.1.0.2").write_text(content)
    IPAM.release(host.request())
    IPAM.release(host.request(ifname="eth1"))
    assert host.leased() == {}


def test_hot_calls_do_not_list_the_directory(host: Host) -> None:
    IPAM.reserve(host.request())
    called = []
    sys.setprofile(lambda _frame, event, what: called.append(what) if event == "c_call" else None)
    try:
        IPAM.reserve(host.request("c2"))
        IPAM.check(host.request("c2"))
        IPAM.release(host.request("c2"))
        IPAM.release(host.request("nobody"))
    finally:
        sys.setprofile(None)
    assert os.readlink in called
    assert os.listdir not in called


def test_a_long_row_of_taken_addresses_is_passed_with_one_listing(host: Host) -> None:
    host.ipam = {"subnet": "10.0.0.0/16"}
    for number in range(2, 3000):
        host.lease(f"10.0.{number >> 8}.{number & 255}", f"c{number}\r\neth0")
    assert addresses(IPAM.reserve(host.request("new"))) == ["10.0.11.184/16"]


PLANTS: dict[str, Callable[[str], object]] = {
    "symlink": lambda path: os.symlink("/etc/hostname", path),
    "dangling symlink": lambda path: os.symlink("/nowhere", path),
    "directory": os.mkdir,
    "fifo": os.mkfifo,
    "empty": lambda path: os.close(os.open(path, os.O_CREAT)),
    "huge": lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 1 << 40),
    "binary": lambda path: os.write(os.open(path, os.O_CREAT | os.O_WRONLY), bytes(range(256))),
}


def test_what_a_killed_writer_left_is_passed_over_and_cleared_when_needed(host: Host) -> None:
    host.ipam = {"subnet": "10.1.0.0/29"}
    host.leases.mkdir(parents=True)
    PLANTS["empty"](str(host.leases / "10.1.0.2"))
    assert addresses(IPAM.reserve(host.request())) == ["10.1.0.3/29"]
    assert addresses(IPAM.reserve(host.request("c2", args="IP=10.1.0.2"))) == ["10.1.0.2/29"]


@pytest.mark.parametrize("kind", sorted(PLANTS.keys() - {"empty"}))
def test_other_rubbish_at_an_address_keeps_it_and_is_named(host: Host, kind: str) -> None:
    host.ipam = {"subnet": "10.1.0.0/30"}
    host.leases.mkdir(parents=True)
    PLANTS[kind](str(host.leases / "10.1.0.2"))
    with pytest.raises(PoolExhausted) as refused:
        IPAM.reserve(host.request())
    assert "10.1.0.2 " in refused.value.full_details()
    assert os.path.lexists(host.leases / "10.1.0.2")


@pytest.mark.parametrize("kind", PLANTS)
def test_rubbish_at_an_address_is_collected(host: Host, kind: str) -> None:
    host.leases.mkdir(parents=True)
    PLANTS[kind](str(host.leases / "10.1.0.2"))
    IPAM.release(host.request())
    IPAM.gc(host.request(""))
    assert host.leased() == {}
    assert os.path.exists("/etc/hostname")


def test_what_cannot_be_cleared_is_named_when_addresses_run_out(host: Host) -> None:
    host.ipam = {"subnet": "10.1.0.0/30"}
    (host.leases / "10.1.0.2").mkdir(parents=True)
    (host.leases / "10.1.0.2" / "inside").touch()
    with pytest.raises(PoolExhausted) as refused:
        IPAM.reserve(host.request())
    assert "10.1.0.2 is not a regular file" in refused.value.full_details()


@pytest.mark.parametrize("name", ["lock", "last_reserved_ip.0", "../.cni-plugins", "../.cni-plugins/net"])
@pytest.mark.parametrize("kind", ["symlink", "directory", "fifo"])
def test_rubbish_in_place_of_our_own_files_is_an_error_that_names_it_and_reserves_nothing(
    host: Host, name: str, kind: str
) -> None:
    host.leases.mkdir(parents=True)
    path = os.path.normpath(host.leases / name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    PLANTS[kind](path)
    # A lock is a lock whatever it lies on, and a directory of ours is one whoever made it.
    harmless = {("fifo", "lock"), ("directory", "../.cni-plugins"), ("directory", "../.cni-plugins/net")}
    if (kind, name) in harmless:
        IPAM.reserve(host.request())
        return
    with pytest.raises(IoFailed) as refused:
        IPAM.reserve(host.request())
    assert os.path.basename(path) in refused.value.details
    assert host.leased() == {}


def test_a_network_directory_that_is_a_symbolic_link_is_not_followed(host: Host, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    host.data_dir.mkdir()
    host.leases.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IoFailed, match="leases in"):
        IPAM.reserve(host.request())
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_data_directory_that_is_a_symbolic_link_is_the_operators_choice(host: Host, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    host.data_dir.symlink_to(tmp_path / "elsewhere")
    IPAM.reserve(host.request())
    assert (tmp_path / "elsewhere" / "net" / "10.1.0.2").exists()


@pytest.mark.parametrize("kind", ["empty", "fifo"])
def test_a_data_directory_that_is_a_file_is_an_error(host: Host, kind: str) -> None:
    PLANTS[kind](str(host.data_dir))
    with pytest.raises(IoFailed, match="Not a directory"):
        IPAM.reserve(host.request())


def test_a_failure_after_the_first_address_takes_it_back(host: Host) -> None:
    host.ipam = {"ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.2.0.0/24"}]]}
    IPAM.reserve(host.request("c0"))
    (host.leases / "last_reserved_ip.1").unlink()
    (host.leases / "last_reserved_ip.1").mkdir()
    before = host.leased()
    with pytest.raises(IoFailed, match="Is a directory"):
        IPAM.reserve(host.request())
    assert host.leased() == before


OURS, OLD = "c1\r\neth0", "10.1.0.2"


def booted(host: Host, name: str, began: int = 0) -> AbstractContextManager[Leases]:
    return store.opened(str(host.data_dir), "net", Boot(name, lambda: began))


def test_leases_of_an_earlier_boot_are_reaped(host: Host) -> None:
    with booted(host, "b1") as leases:
        leases.reserve(OURS, [OLD], {})
    with booted(host, "b1") as leases:
        assert leases.held(OURS) == (OLD,)
    with booted(host, "b2") as leases:
        assert leases.held(OURS) == ()
        leases.reserve("c2", [OLD], {})
    with booted(host, "b2") as leases:
        assert leases.held("c2") == (OLD,)


def test_a_lease_the_reference_renewed_after_the_boot_stays(host: Host) -> None:
    with booted(host, "b1") as leases:
        leases.reserve(OURS, [OLD], {})
    host.lease(OLD, OURS, time.time_ns() + 10**9)
    with booted(host, "b2", began=time.time_ns()) as leases:
        assert leases.held(OURS) == (OLD,)


def test_without_a_record_the_time_of_writing_decides(host: Host) -> None:
    now = time.time_ns()
    host.lease("10.1.0.7", "old\r\neth0", now - 1)
    host.lease("10.1.0.8", "", now - 1)
    host.lease("10.1.0.9", "new\r\neth0", now)
    with booted(host, "b2", began=now):
        assert set(host.leased()) == {"10.1.0.9"}


def test_a_lease_without_a_record_that_was_seen_in_one_boot_is_reaped_in_the_next(host: Host) -> None:
    host.lease("10.1.0.7", "theirs\r\neth0")
    with booted(host, "b1"):
        assert set(host.leased()) == {"10.1.0.7"}
    with booted(host, "b2"):
        assert host.leased() == {}


def test_without_a_boot_id_nothing_is_reaped(host: Host) -> None:
    with booted(host, "b1") as leases:
        leases.reserve(OURS, [OLD], {})
    with booted(host, "-", began=time.time_ns() + 10**12) as leases:
        assert leases.held(OURS) == (OLD,)


def test_one_call_without_a_boot_id_costs_no_lease(host: Host) -> None:
    with booted(host, "b1") as leases:
        leases.reserve(OURS, [OLD], {})
    with booted(host, "-") as leases:
        assert leases.held(OURS) == (OLD,)
        leases.reserve("c2", ["10.1.0.3"], {})
        assert leases.held("c2") == ("10.1.0.3",)
    with booted(host, "b1") as leases:
        assert leases.held(OURS) == (OLD,)
        assert leases.held("c2") == ("10.1.0.3",)


def test_a_lease_of_an_earlier_boot_is_still_known_as_one_after_a_call_without_a_boot_id(host: Host) -> None:
    with booted(host, "b1") as leases:
        leases.reserve(OURS, [OLD], {})
    with booted(host, "-"):
        pass
    with booted(host, "b2"):
        assert host.leased() == {}


def test_a_record_says_nothing_about_the_lease_of_another_owner(host: Host) -> None:
    with booted(host, "b1") as leases:
        leases.reserve(OURS, [OLD], {})
    (host.leases / OLD).unlink()
    host.lease(OLD, "theirs\r\neth0", 10**9)
    with booted(host, "b2") as leases:
        assert leases.held("theirs\r\neth0") == (OLD,)


Refuse = Callable[[str, int], None]


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Refuse:
    """Make the kernel refuse to open one name: root is not kept out by rights."""
    real = os.open

    def planted(refused: str, number: int) -> None:
        def opened(path: str, *rest: Any, **more: Any) -> int:
            if path == refused:
                raise OSError(number, os.strerror(number), path)
            return real(path, *rest, **more)

        monkeypatch.setattr(os, "open", opened)

    return planted


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EMFILE, errno.ENOMEM])
def test_a_lease_that_cannot_be_opened_stays_and_is_named(
    host: Host, refuse: Refuse, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    IPAM.reserve(host.request())
    IPAM.reserve(host.request("c2"))
    refuse(OLD, number)
    for valid in ((("c1", "eth0"),), ()):
        with pytest.raises(IoFailed) as refused:
            IPAM.gc(host.request("", valid=valid))
        assert f"{OLD} cannot be read" in refused.value.full_details()
        assert set(host.leased()) == {OLD}
    with pytest.raises(IoFailed):
        IPAM.release(host.request())
    IPAM.reserve(host.request("c3"))
    IPAM.release(host.request("c3"))
    monkeypatch.undo()
    IPAM.check(host.request())
    IPAM.release(host.request())
    assert host.leased() == {}


def test_a_lease_nobody_recorded_and_nobody_could_open_is_found_later(
    host: Host, refuse: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.lease(OLD, OURS)
    refuse(OLD, errno.EIO)
    IPAM.release(host.request())
    monkeypatch.undo()
    IPAM.release(host.request())
    assert host.leased() == {}


def test_a_boot_spares_a_lease_that_cannot_be_opened_until_it_can(
    host: Host, refuse: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    with booted(host, "b1") as leases:
        leases.reserve(OURS, [OLD], {})
    refuse(OLD, errno.EIO)
    with booted(host, "b2"):
        assert set(host.leased()) == {OLD}
    monkeypatch.undo()
    with booted(host, "b2"):
        assert host.leased() == {}


def test_an_owner_of_more_addresses_than_a_record_holds_stops_nobody(host: Host) -> None:
    host.ipam = {"subnet": "10.0.0.0/16"}
    for number in range(600):
        host.lease(f"10.0.{100 + number // 200}.{number % 200}", "many\r\neth0")
    for _ in range(2):
        IPAM.reserve(host.request())
        IPAM.status(host.request(""))
        IPAM.check(host.request())
        IPAM.gc(host.request("", valid=(("many", "eth0"), ("c1", "eth0"))))
        IPAM.release(host.request())
    IPAM.reserve(host.request("many", "eth1"))
    IPAM.release(host.request("many"))
    assert list(host.leased().values()) == ["many\r\neth1"]


def test_a_record_that_cannot_be_written_is_not_spelled_out(host: Host) -> None:
    IPAM.reserve(host.request())
    with booted(host, boot.current().name):
        pass
    many = [f"10.1.{number // 200}.{number % 200}" for number in range(600)]
    with pytest.raises(IoFailed) as refused, store.opened(str(host.data_dir), "net") as leases:
        leases.reserve("many", many, {})
    assert "10.1.0.7" not in refused.value.full_details()
    assert set(host.leased()) == {OLD}


@pytest.mark.parametrize("name", ["anything", "next", "state", key("c1\r\neth0")])
def test_a_foreign_directory_in_the_index_stops_nobody(host: Host, name: str) -> None:
    IPAM.reserve(host.request("c0"))
    side = host.data_dir / SIDE / "net"
    shutil.rmtree(side)
    (side / name / "inside").mkdir(parents=True)
    host.lease("10.1.0.9", OURS)
    IPAM.check(host.request())
    IPAM.gc(host.request("", valid=(("c1", "eth0"),)))
    IPAM.status(host.request(""))
    IPAM.reserve(host.request("c2"))
    IPAM.release(host.request("c2"))
    IPAM.release(host.request())
    assert host.leased() == {}


def test_the_parents_of_the_data_directory_are_not_left_to_the_umask(host: Host, tmp_path: Path) -> None:
    host.data_dir = tmp_path / "a" / "b" / "c"
    before = os.umask(0)
    try:
        IPAM.reserve(host.request())
    finally:
        os.umask(before)
    for path in (tmp_path / "a", tmp_path / "a" / "b", host.data_dir, host.data_dir / "net"):
        assert path.stat().st_mode & 0o777 == 0o755


def test_without_a_place_for_the_index_leases_are_checked_and_freed(host: Host) -> None:
    host.lease(OLD, OURS)
    host.lease("10.1.0.3", "c2\r\neth0")
    (host.data_dir / SIDE).touch()
    IPAM.check(host.request())
    IPAM.gc(host.request("", valid=(("c1", "eth0"),)))
    IPAM.release(host.request("nobody"))
    assert set(host.leased()) == {OLD}
    with pytest.raises(IoFailed):
        IPAM.reserve(host.request("c3"))
    IPAM.release(host.request())
    assert host.leased() == {}
