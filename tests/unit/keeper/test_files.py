import json
import threading
from ipaddress import ip_address
from pathlib import Path

import pytest

from cni_plugins.keeper import files as module
from cni_plugins.keeper import identity, overview
from cni_plugins.keeper.files import Busy, NetworkFiles, Places
from cni_plugins.keeper.report import Report, Silent
from cni_plugins.keeper.sift import Sound
from cni_plugins.vxlan.records import Record


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(str(tmp_path / "run" / "x"), str(tmp_path / "kept"))


@pytest.fixture
def blue(places: Places) -> NetworkFiles:
    return NetworkFiles("blue", places)


def sound(node: str) -> Sound:
    text = json.dumps({"node": node, "vtep": "192.0.2.1"}, separators=(",", ":"))
    return Sound(Record(node, ip_address("192.0.2.1")), text)


def test_a_snapshot_is_written_only_when_it_differs(blue: NetworkFiles) -> None:
    assert blue.write_peers("h1", [sound("h1")])
    assert not blue.write_peers("h1", [sound("h1")])
    assert blue.peers() == {"h1": sound("h1").text}
    assert blue.write_peers("h1", [sound("h1"), sound("h2")])
    assert list(blue.peers()) == ["h1", "h2"]


def test_directories_above_are_private_too(blue: NetworkFiles, tmp_path: Path) -> None:
    blue.write_peers("h1", [sound("h1")])
    for path in ("run", "run/x", "run/x/overlay", "run/x/overlay/blue", "kept", "kept/overlay"):
        assert (tmp_path / path).stat().st_mode & 0o777 == 0o700


def test_the_copy_is_used_only_without_a_snapshot(blue: NetworkFiles) -> None:
    assert not blue.seed()
    blue.write_peers("h1", [sound("h1")])
    assert not blue.seed()
    Path(blue.run, "peers.json").unlink()
    assert blue.seed()
    assert list(blue.peers()) == ["h1"]


def test_what_is_forgotten_does_not_include_what_the_host_owns(blue: NetworkFiles) -> None:
    blue.write_peers("h1", [sound("h1")])
    blue.write_own({"node": "h1"})
    with blue.locked():
        pass
    blue.forget_peers()
    assert not Path(blue.run).exists()
    assert blue.own() == {"node": "h1"}
    blue.forget_peers()


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"peers": 1}', '{"peers": [1, null]}', "\0"])
def test_damaged_files_are_as_none(blue: NetworkFiles, content: str) -> None:
    for directory in (blue.run, blue.kept):
        Path(directory).mkdir(parents=True)
        for name in ("peers.json", "state.json", "self.json", "silent.json"):
            Path(directory, name).write_text(content)
    assert blue.peers() == {}
    assert "state" not in blue.state()
    assert "node" not in blue.own()


def test_a_link_is_not_followed(blue: NetworkFiles, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text('{"node": "secret"}')
    Path(blue.kept).mkdir(parents=True)
    Path(blue.kept, "self.json").symlink_to(tmp_path / "secret")
    assert blue.own() == {}


def test_the_lock_makes_others_wait(blue: NetworkFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOCK_TIMEOUT", 0.1)
    with blue.locked(), pytest.raises(Busy), blue.locked():
        pass
    with blue.locked():
        pass


def test_a_host_has_one_number_for_ever(tmp_path: Path) -> None:
    kept = str(tmp_path / "a" / "kept")
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(identity.host_id(kept))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({*found}) == 1
    assert len(found[0]) == 32
    path = tmp_path / "a" / "kept" / "host-id"
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("damaged")
    again = identity.host_id(kept)
    assert again != found[0]
    assert identity.host_id(kept) == again


def test_a_report_is_told_to_plugins_status_and_metrics(blue: NetworkFiles, places: Places) -> None:
    report = Report(blue, "etcd", Silent())
    report.say("following")
    report.know(node="h1", peers=3)
    report.silent(["h2"])
    report.applied(changed=True)
    (state,) = overview.states(places)
    assert state["network"] == "blue"
    assert (state["registry"], state["node"], state["state"], state["peers"]) == (
        "etcd",
        "h1",
        "following",
        3,
    )
    assert (state["silent"], state["silentCount"], state["applied"]) == (["h2"], 1, 1)
    report.applied(changed=False, trouble="no link")
    report.say("held", "too few")
    assert overview.state_of("blue", places)["trouble"] == "too few; no link"
    assert overview.state_of("red", places) == {"network": "red"}


def test_a_state_keeps_its_beginning_over_a_restart(blue: NetworkFiles) -> None:
    first = Report(blue, "etcd", Silent())
    first.say("following")
    first.confirmed()
    begun = blue.state()["since"]
    second = Report(blue, "etcd", Silent())
    second.load()
    second.say("following")
    assert blue.state()["since"] == begun
    second.say("broken", "away")
    assert blue.state()["since"] > begun


def test_confirmation_alone_is_rarely_written(blue: NetworkFiles) -> None:
    report = Report(blue, "etcd", Silent())
    report.say("following")
    report.confirmed()
    first = Path(blue.run, "state.json").stat().st_ino
    for _ in range(20):
        report.confirmed()
    assert Path(blue.run, "state.json").stat().st_ino == first


def test_the_first_confirmation_after_a_restart_is_written_at_once(blue: NetworkFiles) -> None:
    first = Report(blue, "etcd", Silent())
    first.say("following")
    first.confirmed()
    before = blue.state()["confirmed"]
    second = Report(blue, "etcd", Silent())
    second.load()
    second.say("following")
    second.confirmed()
    assert blue.state()["confirmed"] > before
