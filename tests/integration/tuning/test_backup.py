"""The backup of what tuning changes: never lost, never left behind, never believed when it is another's."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.kernel import apply
from cni_plugins.ownership import Attachment
from tests.integration.tuning.conftest import MAINS, List, link_state, set_sysctl, sysctl

MAC = "02:11:22:33:44:55"
KEY, PATH = "net.core.somaxconn", "core/somaxconn"
TUNING = {"sysctl": {KEY: "500"}, "mac": MAC, "promisc": True, "mtu": 1400, "allmulti": True, "txQLen": 77}
NAME = "c1_eth0.json"


def seen(sandbox: Any) -> tuple[Any, ...]:
    return sysctl(sandbox, PATH), link_state(sandbox)


@pytest.fixture
def network(bed: Any, data_dir: Path) -> List:
    """Call ADD of a bridge, not yet that of tuning."""
    made = List(bed, data_dir, MAINS["bridge"], TUNING)
    made.add_main(bed.sandbox())
    return made


def test_it_has_the_references_keys_and_ours(network: List) -> None:
    before = link_state(network.sandbox)
    old = sysctl(network.sandbox, PATH)
    assert network.tune()[0] == 0
    backup = network.backup()
    assert {key: backup.pop(key) for key in ("mac", "promisc", "mtu", "allmulti", "txQLen")} == {
        "mac": before["address"],
        "promisc": False,
        "mtu": 1500,
        "allmulti": False,
        "txQLen": 1000,
    }
    assert backup.pop("sysctl") == {"core/somaxconn": old}
    assert set(backup) == {"network", "containerID", "ifname", "sandbox", "ifindex"}
    assert network.files() == [NAME]


def test_only_what_changes_is_in_it(network: List) -> None:
    network.sandbox.run("ip", "link", "set", "eth0", "mtu", "1400")
    set_sysctl(network.sandbox, PATH, "500")
    assert network.tune()[0] == 0
    assert not network.backup().keys() & {"mtu", "sysctl"}


def test_a_second_add_keeps_the_first_values(network: List) -> None:
    before = seen(network.sandbox)
    assert network.tune()[0] == 0
    first = network.backup()
    assert network.tune()[0] == 0
    other = {**network.tuning, "mtu": 1300, "sysctl": {KEY: "600", "net.ipv4.conf.IFNAME.arp_filter": "1"}}
    assert network.tune(other)[0] == 0
    whole = {**first["sysctl"], "ipv4/conf/eth0/arp_filter": "0"}
    assert network.backup() == {**first, "sysctl": whole}
    network.delete(main=False)
    assert seen(network.sandbox) == before
    assert sysctl(network.sandbox, "ipv4/conf/eth0/arp_filter") == "0"
    assert network.files() == []


def test_two_tunings_in_one_list(bed: Any, data_dir: Path) -> None:
    first = {"mtu": 1400, "sysctl": {KEY: "500"}}
    second = {"mtu": 1300, "mac": MAC, "sysctl": {KEY: "600"}}
    network = List(bed, data_dir, MAINS["bridge"], first, second)
    network.add_main(bed.sandbox())
    before = seen(network.sandbox)
    for tuning in network.tunings:
        assert network.tune(tuning)[0] == 0
    assert seen(network.sandbox) == ("600", {**before[1], "mtu": 1300, "address": MAC})
    assert network.files() == [NAME]
    network.delete(main=False)
    assert seen(network.sandbox) == before
    assert network.files() == []


def test_a_refused_second_tuning_takes_back_its_own_changes_only(bed: Any, data_dir: Path) -> None:
    first, second = {"mtu": 1400, "sysctl": {KEY: "500"}}, {"sysctl": {KEY: "600"}, "mac": MAC, "mtu": 70000}
    network = List(bed, data_dir, MAINS["bridge"], first, second)
    network.add_main(bed.sandbox())
    original = seen(network.sandbox)
    assert network.tune(network.tunings[0])[0] == 0
    before, backup = seen(network.sandbox), network.backup()
    code, error = network.tune(network.tunings[1])
    assert (code, error["code"]) == (1, 100)
    assert (seen(network.sandbox), network.backup()) == (before, backup)
    network.delete(main=False)
    assert seen(network.sandbox) == original


# ------------------------------------------------------------------------------------------ what is refused


def refuse_at(count: int, how: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the step after so many be refused."""
    carry_out, done = apply.dispatch.carry_out, []

    def refusing(session: Any, step: Any) -> str:
        done.append(step)
        if len(done) == count + 1:
            how()
        return carry_out(session, step)

    monkeypatch.setattr(apply.dispatch, "carry_out", refusing)


def _no_space() -> None:
    raise OSError(5, "Input/output error")


@pytest.mark.parametrize("count", range(7))
def test_every_step_can_be_refused(network: List, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    before = seen(network.sandbox)
    refuse_at(count, _no_space, monkeypatch)
    code, error = network.tune()
    assert (code, error["code"]) == (1, 100)
    assert "could not be undone" not in error["details"]
    assert seen(network.sandbox) == before
    assert network.files() == []


@pytest.mark.parametrize("count", range(7))
def test_a_killed_add_is_undone_by_del(network: List, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    before = seen(network.sandbox)
    child = os.fork()
    if child == 0:
        refuse_at(count, lambda: os._exit(9), monkeypatch)
        network.tune()
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert len(network.files()) == (count > 0)
    monkeypatch.undo()
    network.delete(main=False)
    assert seen(network.sandbox) == before
    assert network.files() == []


def test_an_add_that_is_killed_while_it_writes_leaves_nothing_for_del_to_trip_over(
    network: List, data_dir: Path
) -> None:
    data_dir.mkdir(parents=True)
    unfinished = data_dir / f".{Attachment('net1', 'c1', 'eth0').tag}.new"
    unfinished.write_text('{"mac": "02:')
    assert network.tune()[0] == 0
    assert network.files() == [NAME]
    unfinished.write_text('{"mac": "02:')
    network.delete(main=False)
    assert network.files() == []


# ------------------------------------------------------------------------------------- where it is, and whose


def test_without_a_sandbox_it_is_removed(network: List) -> None:
    assert network.tune()[0] == 0
    network.delete("", main=False)
    assert network.files() == []
    assert network.tune({**network.tuning, "mtu": 1300})[0] == 0
    network.delete("/nowhere")
    assert network.files() == []


def test_another_sandbox_at_the_same_path_is_left_alone(bed: Any, network: List) -> None:
    assert network.tune()[0] == 0
    other = bed.sandbox()
    bed.host.run("ip", "link", "add", "x1", "type", "veth", "peer", "name", "eth0", "netns", other.path)
    before = seen(other)
    network.delete(other, main=False)
    assert seen(other) == before
    assert network.files() == []


def test_a_backup_from_an_earlier_life_of_the_attachment_does_not_count(bed: Any, network: List) -> None:
    """The sandbox was killed, and its container is started again under its id."""
    assert network.tune()[0] == 0
    old = network.backup()
    network.delete("", main=True)
    (network.data_dir / NAME).write_text(json.dumps({**old, "mtu": 1234, "sysctl": {"core/somaxconn": "7"}}))
    network.add_main(bed.sandbox())
    before = seen(network.sandbox)
    assert network.tune()[0] == 0
    network.delete(main=False)
    assert seen(network.sandbox) == before


def test_a_link_that_took_the_name_keeps_its_settings(network: List) -> None:
    old = sysctl(network.sandbox, PATH)
    assert network.tune()[0] == 0
    network.sandbox.run("ip", "link", "del", "eth0")
    network.sandbox.run("ip", "link", "add", "eth0", "index", "99", "type", "veth", "peer", "name", "x0")
    before = link_state(network.sandbox)
    network.delete(main=False)
    assert seen(network.sandbox) == (old, before)


def test_the_link_may_be_gone_already(network: List) -> None:
    old = sysctl(network.sandbox, PATH)
    assert network.tune()[0] == 0
    network.sandbox.run("ip", "link", "del", "eth0")
    network.delete(main=False)
    assert sysctl(network.sandbox, PATH) == old
    assert network.files() == []


def test_a_refused_value_does_not_keep_the_others_from_being_restored(bed: Any, data_dir: Path) -> None:
    """An error would keep the runtime from calling DEL of the main plugin."""
    network = List(bed, data_dir, MAINS["macvlan"], TUNING)
    network.add_main(bed.sandbox())
    before = seen(network.sandbox)
    assert network.tune()[0] == 0
    bed.host.run("ip", "link", "set", "up0", "mtu", "1400")
    network.delete(main=False)
    assert seen(network.sandbox) == (before[0], {**before[1], "mtu": 1400})
    assert network.files() == []


def test_files_of_two_networks_for_one_container(bed: Any, data_dir: Path) -> None:
    """The reference's name is the same for both: the second gets a name of its own."""
    first = List(bed, data_dir, MAINS["bridge"], TUNING)
    second = List(bed, data_dir, {**MAINS["bridge"], "bridge": "br1"}, TUNING, name="net2")
    for network in (first, second):
        network.add_main(bed.sandbox())
    before = [seen(network.sandbox) for network in (first, second)]
    for network in (first, second):
        assert network.tune()[0] == 0
    own = f"{Attachment('net2', 'c1', 'eth0').tag}.json"
    assert first.files() == sorted([NAME, own])
    first.delete(main=False)
    assert first.files() == [own]
    assert seen(first.sandbox) == before[0]
    second.delete(main=False)
    assert second.files() == []
    assert seen(second.sandbox) == before[1]


def test_names_that_read_the_same(bed: Any, data_dir: Path) -> None:
    network = List(bed, data_dir, MAINS["bridge"], TUNING)
    network.add(bed.sandbox(), container="a_b", ifname="eth0")
    first = network.sandbox, network.result
    network.add(bed.sandbox(), container="a", ifname="b_eth0")
    assert len(network.files()) == 2
    network.delete(container="a", ifname="b_eth0")
    assert network.files() == ["a_b_eth0.json"]
    network.sandbox, network.result = first
    network.delete(container="a_b")
    assert network.files() == []


def test_a_container_id_that_is_too_long_for_a_name(bed: Any, data_dir: Path) -> None:
    container = "c" * 255
    network = List(bed, data_dir, MAINS["bridge"], TUNING)
    network.add_main(bed.sandbox(), container=container)
    before = seen(network.sandbox)
    assert network.tune(container=container)[0] == 0
    assert network.files() == [f"{Attachment('net1', container, 'eth0').tag}.json"]
    network.delete(main=False, container=container)
    assert network.files() == []
    assert seen(network.sandbox) == before


@pytest.mark.parametrize(
    "change",
    [{"mtu": "x"}, {"sysctl": 5}, {"dataDir": None, "mtu": 1}, {"dataDir": 5}, {"dataDir": "/a" * 5000}],
)
def test_del_needs_no_valid_config(bed: Any, network: List, change: dict[str, Any]) -> None:
    before = seen(network.sandbox)
    tuning = network.tuning
    if "dataDir" in change:  # the default is tried, too
        tuning = {key: value for key, value in tuning.items() if key != "dataDir"}
    assert network.tune(tuning)[0] == 0
    conf = {**{key: value for key, value in tuning.items() if key not in TUNING}, **change, "type": "tuning"}
    assert bed.call("DEL", conf, network.sandbox) == (0, None)
    assert seen(network.sandbox) == before
    assert network.files() == []


def test_del_finds_the_default_directory_when_another_is_configured(
    bed: Any, network: List, tmp_path: Path
) -> None:
    before = seen(network.sandbox)
    assert network.tune({key: value for key, value in network.tuning.items() if key != "dataDir"})[0] == 0
    assert [path.name for path in (tmp_path / "default").iterdir()] == [NAME]
    network.delete(main=False)
    assert seen(network.sandbox) == before
    assert list((tmp_path / "default").iterdir()) == []


# ---------------------------------------------------------------------------------- files of the reference


def of_reference(network: List, **keys: Any) -> None:
    """Write a file as the reference does."""
    network.data_dir.mkdir(parents=True, exist_ok=True)
    path = network.data_dir / NAME
    path.write_text(json.dumps(keys, indent=1))
    path.chmod(0o600)
    network.data_dir.chmod(0o600)


def test_a_file_of_the_reference_is_understood(network: List) -> None:
    before = link_state(network.sandbox)
    old = {"mac": before["address"], "promisc": False, "mtu": 1500, "allmulti": False, "txQLen": 1000}
    for words in (("promisc", "on"), ("mtu", "1400"), ("allmulticast", "on"), ("txqueuelen", "5")):
        network.sandbox.run("ip", "link", "set", "eth0", *words)
    network.sandbox.run("ip", "link", "set", "eth0", "address", MAC)
    of_reference(network, **old)
    network.delete(main=False)
    assert link_state(network.sandbox) == before
    assert network.files() == []


def test_an_add_after_the_references_keeps_its_values(network: List) -> None:
    of_reference(network, mtu=1450)
    assert network.tune()[0] == 0
    backup = network.backup()
    assert (backup["mtu"], backup["txQLen"], backup["network"]) == (1450, 1000, "net1")
    network.delete(main=False)
    assert link_state(network.sandbox)["mtu"] == 1450


def test_an_add_that_is_refused_after_the_references_leaves_its_file(network: List) -> None:
    of_reference(network, mtu=1450)
    content = (network.data_dir / NAME).read_text()
    assert network.tune({**network.tuning, "mtu": 70000})[0] == 1
    assert (network.data_dir / NAME).read_text() == content


# ------------------------------------------------------------------------------------ damaged and hostile


def _good(network: List, **keys: Any) -> str:
    return json.dumps({**network.backup(), **keys})


def _symlink(path: Path, network: List) -> None:
    target = path.parent.parent / "target.json"
    path.rename(target)
    path.symlink_to(target)


def _directory(path: Path, network: List) -> None:
    path.unlink()
    path.mkdir()


def _fifo(path: Path, network: List) -> None:
    path.unlink()
    os.mkfifo(path)


def _anothers(path: Path, network: List) -> None:
    try:
        os.chown(path, 12345, 12345)
    except OSError as err:
        pytest.skip(f"this user namespace has no other user: {err.strerror}")


DAMAGES: dict[str, Callable[[Path, List], Any]] = {
    "not JSON": lambda path, _: path.write_text("{"),
    "empty": lambda path, _: path.write_text(""),
    "not UTF-8": lambda path, _: path.write_bytes(b'{"mtu": 1500, "mac": "\xff"}'),
    "a list": lambda path, _: path.write_text("[]"),
    "nested": lambda path, _: path.write_text("[" * 100_000),
    "huge": lambda path, network: path.write_text(_good(network, x="x" * (1 << 22))),
    "a symbolic link": _symlink,
    "a directory": _directory,
    "a fifo": _fifo,
    "another user's": _anothers,
    "writable for the group": lambda path, _: path.chmod(0o660),
    "writable for others": lambda path, _: path.chmod(0o602),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_removed_and_nothing_of_it_believed(
    network: List, damage: Callable[[Path, List], Any]
) -> None:
    assert network.tune()[0] == 0
    tuned = seen(network.sandbox)
    damage(network.data_dir / NAME, network)
    network.delete(main=False)
    assert seen(network.sandbox) == tuned
    assert network.files() == []
    network.delete()


@pytest.mark.parametrize("damage", [DAMAGES[name] for name in ("not JSON", "a symbolic link", "a fifo")])
def test_a_damaged_file_does_not_keep_add_from_working(
    network: List, damage: Callable[[Path, List], Any]
) -> None:
    assert network.tune()[0] == 0
    network.delete(main=False)
    before = seen(network.sandbox)
    (network.data_dir / NAME).write_text("")
    damage(network.data_dir / NAME, network)
    assert network.tune()[0] == 0
    assert not (network.data_dir / NAME).is_symlink()
    network.delete(main=False)
    assert seen(network.sandbox) == before


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
def test_a_directory_that_others_can_write_to(network: List, mode: int) -> None:
    assert network.tune()[0] == 0
    tuned = seen(network.sandbox)
    network.data_dir.chmod(mode)
    code, error = network.tune({**network.tuning, "mtu": 1300})
    assert (code, error["code"]) == (1, 5)
    assert error["msg"] == f"dataDir is not safe: {network.data_dir} can be written to by others"
    network.delete(main=False)
    assert seen(network.sandbox) == tuned
    assert network.files() == []


@pytest.mark.parametrize("above", [False, True])
def test_a_directory_that_cannot_be_used(network: List, above: bool) -> None:
    before = seen(network.sandbox)
    blocker = network.data_dir.parent if above else network.data_dir
    blocker.parent.mkdir(parents=True, exist_ok=True)
    blocker.write_text("")
    code, error = network.tune()
    assert (code, error["code"]) == (1, 5)
    assert error["msg"] == "dataDir cannot be used: Not a directory"
    assert seen(network.sandbox) == before
    network.delete()


def test_hostile_values_are_skipped_and_the_others_restored(bed: Any, network: List, tmp_path: Path) -> None:
    old = seen(network.sandbox)
    assert network.tune()[0] == 0
    backup, host = network.backup(), bed.state()
    trap = tmp_path / "trap"
    trap.write_text("as it was")
    to_root = "../" * 20
    hostile = {
        f"{to_root}{trap}": "x",
        f"/{trap}": "x",
        f"core/../../../../..{trap}": "x",
        "../kernel/hostname": "x",
        "core/./somaxconn": "9",
        "": "x",
        "core//somaxconn": "9",
        "core/somaxconn\u0000": "9",
        "core/xfrm_larval_drop": 5,
        "no/such": "1",
        "core": "1",
    }
    changed = {
        "sysctl": {**hostile, **backup["sysctl"]},
        "mac": "zz:zz",
        "mtu": -5,
        "promisc": "no",
        "allmulti": 1,
        "txQLen": 1 << 40,
        "hostMtu": 1 << 70,
    }
    (network.data_dir / NAME).write_text(json.dumps({**backup, **changed}))
    tuned = link_state(network.sandbox)
    network.delete(main=False)
    assert seen(network.sandbox) == (old[0], tuned)
    assert trap.read_text() == "as it was"
    assert bed.state() == host
    assert network.files() == []


def test_a_host_mtu_in_a_file_concerns_the_own_host_end_only(bed: Any, network: List) -> None:
    assert network.tune()[0] == 0
    (network.data_dir / NAME).write_text(_good(network, hostMtu=1234, host_end="up0", hostEnd="up0"))
    mtus = {link["ifname"]: link["mtu"] for link in bed.host.ip("link")}
    network.delete(main=False)
    host_end = Attachment("net1", "c1", "eth0").host_end
    now = {link["ifname"]: link["mtu"] for link in bed.host.ip("link")}
    assert {name for name in now if now[name] != mtus[name]} <= {host_end, "br0"}
    assert now[host_end] == 1234


# ------------------------------------------------------------------------------------------------------ GC


def gc(network: List, *valid: tuple[str, str]) -> None:
    listed = [{"containerID": container, "ifname": ifname} for container, ifname in valid]
    conf = {**network.tuning, "cni.dev/valid-attachments": listed}
    assert network.bed.call("GC", conf) == (0, None)


def test_gc_removes_files_of_the_networks_stale_attachments_only(bed: Any, data_dir: Path) -> None:
    network = List(bed, data_dir, MAINS["bridge"], TUNING)
    other = List(bed, data_dir, {**MAINS["bridge"], "bridge": "br1"}, TUNING, name="net2")
    network.add(bed.sandbox(), container="c1")
    network.add(bed.sandbox(), container="c2")
    other.add(bed.sandbox(), container="c3")
    other.add(bed.sandbox(), container="c2")
    tag = Attachment("net2", "c2", "eth0").tag
    (data_dir / "c4_eth0.json").write_text('{"mtu": 1500}')  # the reference's, of any network
    (data_dir / "c5_eth0.json").write_text("{")  # perhaps one that the reference is writing
    (data_dir / "notes.txt").write_text("")
    (data_dir / f".{Attachment('net1', 'c9', 'eth0').tag}.new").write_text("{")
    (data_dir / f".{Attachment('net1', 'c1', 'eth0').tag}.new").write_text("{")
    (data_dir / f".{Attachment('net2', 'c9', 'eth0').tag}.new").write_text("{")
    kept = {"c3_eth0.json", "c4_eth0.json", "c5_eth0.json", "notes.txt", f"{tag}.json"}
    kept.add(f".{Attachment('net2', 'c9', 'eth0').tag}.new")
    gc(network, ("c1", "eth0"), ("c2", "eth0"))
    assert set(network.files()) == kept | {
        "c1_eth0.json",
        "c2_eth0.json",
        f".{Attachment('net1', 'c1', 'eth0').tag}.new",
    }
    gc(network, ("c2", "eth0"))
    assert set(network.files()) == kept | {"c2_eth0.json"}
    gc(network, ("c1", "eth0"), ("c2", "eth1"))
    assert set(network.files()) == kept
    gc(other, ("c3", "eth0"))
    assert set(network.files()) == {"c3_eth0.json", "c4_eth0.json", "c5_eth0.json", "notes.txt"}


def test_gc_without_a_directory(bed: Any, data_dir: Path) -> None:
    network = List(bed, data_dir, MAINS["bridge"], TUNING)
    gc(network)
    assert not data_dir.exists()


# ------------------------------------------------------------------------------------------------ shortages


@pytest.mark.parametrize("command", ["ADD", "DEL"])
def test_where_descriptors_run_out_nothing_is_lost(
    network: List, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """Wherever it happens, the call fails and can be repeated."""
    before, opened = seen(network.sandbox), os.open
    number, left = 0, 0

    def scarce(path: Any, *arguments: Any, **more: Any) -> int:
        nonlocal left
        left -= "/proc/sys/net" in str(path) or str(network.data_dir) in str(path) or "dir_fd" in more
        if left < 0:
            raise OSError(errno.EMFILE, "Too many open files")
        return opened(path, *arguments, **more)

    while True:
        if command == "DEL":
            assert network.tune()[0] == 0
        with monkeypatch.context() as patched:
            patched.setattr(os, "open", scarce)
            left = number
            conf = {**network.tuning, "prevResult": network.result}
            code, error = network.bed.call(command, conf, network.sandbox)
            was_short = left < 0
        if not was_short:
            break
        if code:
            assert error["code"] in (11, 100), error
        network.delete(main=False)
        assert (seen(network.sandbox), network.files()) == (before, [])
        number += 1
    assert (code, number > 3) == (0, True)
