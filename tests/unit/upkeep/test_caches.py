"""What is read of libcni's files, of which nothing is believed before it is parsed."""

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.ownership import Attachment
from cni_plugins.upkeep import caches
from cni_plugins.upkeep.caches import CachedAttachment, plugin_confs
from tests.caches import remember

LIST: dict[str, Any] = {
    "cniVersion": "1.0.0",
    "name": "net1",
    "plugins": [
        {"type": "bridge", "capabilities": {"mac": True, "ips": False}, "name": "other"},
        {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
    ],
}
RESULT: dict[str, Any] = {"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": "/run/netns/a"}]}


def one_of(tmp_path: Path, config: Any = LIST, result: Any = RESULT, **more: Any) -> CachedAttachment:
    remember(tmp_path, config, result, **{"netns": "/run/netns/x", **more})
    found = caches.read([tmp_path])
    assert found.faults == ()
    [one] = found.attachments
    return one


def test_an_attachment_is_read(tmp_path: Path) -> None:
    one = one_of(tmp_path, capabilityArgs={"mac": "m"}, cniArgs=[["A", "1"], ["K8S_POD_NAME", "p"]])
    assert one.attachment == Attachment("net1", "c1", "eth0")
    assert (one.netns, one.args, one.capability_args) == ("/run/netns/x", "A=1;K8S_POD_NAME=p", {"mac": "m"})
    assert json.loads(one.config) == LIST
    assert one.result == RESULT
    assert one.is_kept()
    one.file.unlink()
    assert not one.is_kept()


def test_a_file_that_was_written_anew_is_another_one(tmp_path: Path) -> None:
    one = one_of(tmp_path)
    os.utime(one.file, ns=(1, 1))
    assert not one.is_kept()


def test_older_releases_keep_the_sandbox_in_the_result_only(tmp_path: Path) -> None:
    assert one_of(tmp_path, netns=None).netns == "/run/netns/a"
    for interfaces in (None, {}, [None, {"name": "eth1", "sandbox": "/b"}, {"name": "eth0", "sandbox": 7}]):
        assert one_of(tmp_path, result={"interfaces": interfaces}, netns=None).netns == ""


def test_the_newest_of_several_caches_counts(tmp_path: Path) -> None:
    paths = [remember(tmp_path / name, LIST, RESULT, f"/{name}") for name in ("a", "b", "c")]
    for path, when in zip(paths, (1, 3, 2), strict=True):
        os.utime(path, (when, when))
    found = caches.read([tmp_path / name for name in ("a", "b", "c", "none")])
    assert [one.netns for one in found.attachments] == ["/b"]


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "no container": ({"containerId": ""}, "containerId is ''"),
    "a number": ({"networkName": 7}, "networkName is 7"),
    "another name": ({"containerId": "c2"}, "is about 'net1-c2-eth0'"),
    "config no text": ({"config": {}}, "config is {}"),
    "config no base64": ({"config": "%%%"}, "config is not base64: "),
    "config missing": ({"config": None}, "config is null"),
    "netns no text": ({"netns": ["/x"]}, "netns is "),
    "netns with a NUL": ({"netns": "/x\0y"}, "netns is "),
    "result no object": ({"result": []}, "result is []"),
    "arguments no pairs": ({"cniArgs": [["a"]]}, "cniArgs is "),
    "arguments no texts": ({"cniArgs": [["a", 1]]}, "cniArgs is "),
    "arguments an object": ({"cniArgs": {"a": "b"}}, "cniArgs is "),
    "capabilities a list": ({"capabilityArgs": [1]}, "capabilityArgs is [1]"),
}


@pytest.mark.parametrize(("keys", "fault"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_one_sentence_and_stops_no_other(
    tmp_path: Path, keys: dict[str, Any], fault: str
) -> None:
    path = remember(tmp_path, LIST, RESULT, "/x")
    remember(tmp_path, LIST, RESULT, "/y", container="c9")
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))
    found = caches.read([tmp_path])
    assert [one.netns for one in found.attachments] == ["/y"]
    [told] = found.faults
    assert told.startswith(f"{path}: {fault}")
    assert "\n" not in told


def test_files_of_other_kinds_are_passed_over_and_damaged_ones_told(tmp_path: Path) -> None:
    fine = remember(tmp_path, LIST, RESULT, "/x")
    results = fine.parent
    (results / "old").write_text(json.dumps({"cniVersion": "0.4.0", "ips": []}))
    (results / "kind").write_text(json.dumps({"kind": ["cniCacheV1"]}))
    (results / "directory").mkdir()
    (results / "link").symlink_to(fine)
    os.mkfifo(results / "fifo")
    (results / "text").write_text("not JSON")
    (results / "list").write_text("[]")
    (results / "large").write_bytes(b" " * (1 << 20) + b"{}")
    (results / "deep").write_text("[" * 100_000)
    found = caches.read([tmp_path])
    assert [one.file for one in found.attachments] == [fine]
    assert [fault.removeprefix(f"{results}/").split(":")[0] for fault in found.faults] == [
        "deep",
        "large",
        "list",
        "text",
    ]


def test_a_file_that_others_can_write_to_is_not_believed(tmp_path: Path) -> None:
    path = remember(tmp_path, LIST, RESULT, "/x")
    for mode in (0o620, 0o602, 0o666):
        path.chmod(mode)
        found = caches.read([tmp_path])
        assert found.attachments == ()
        assert found.faults == (f"{path}: others than the own user can write to it",)
    path.chmod(0o644)
    assert caches.read([tmp_path]).faults == ()


# ------------------------------------------------------------------------------------------------ configs


def test_each_plugin_gets_what_libcni_sends(tmp_path: Path) -> None:
    given = {"mac": "m", "ips": ["10.0.0.1/8"], "portMappings": [{"hostPort": 1}]}
    bridge, portmap = plugin_confs(one_of(tmp_path, capabilityArgs=given))
    head = {"cniVersion": "1.0.0", "name": "net1", "prevResult": RESULT}
    assert bridge == {**LIST["plugins"][0], **head, "runtimeConfig": {"mac": "m"}}
    assert portmap == {**LIST["plugins"][1], **head, "runtimeConfig": {"portMappings": [{"hostPort": 1}]}}


def test_a_config_without_a_list_is_one_plugin(tmp_path: Path) -> None:
    single = {"cniVersion": "0.3.1", "name": "net1", "type": "ptp", "runtimeConfig": {"a": 1}}
    [conf] = plugin_confs(one_of(tmp_path, single))
    assert conf == {**single, "prevResult": RESULT}


@pytest.mark.parametrize(
    ("chosen", "version"), [("1.1.0", "1.1.0"), ("9.9.9", "0.4.0"), (None, "0.4.0"), ([], "0.4.0")]
)
def test_of_several_versions_the_results_counts(tmp_path: Path, chosen: Any, version: str) -> None:
    config = {**LIST, "cniVersion": "0.4.0", "cniVersions": ["1.0.0", "1.1.0"]}
    [conf, _] = plugin_confs(one_of(tmp_path, config, {"cniVersion": chosen}))
    assert conf["cniVersion"] == version


@pytest.mark.parametrize("content", [b" ", b"{", b'{"plugins": {}}', b'{"plugins": [1]}', b"7", b"[]"])
def test_a_config_that_is_none_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    one = one_of(tmp_path, config={"name": "net1"})
    text = base64.b64encode(content).decode()
    one.file.write_text(json.dumps({**json.loads(one.file.read_text()), "config": text}))
    [again] = caches.read([tmp_path]).attachments
    with pytest.raises(ValueError):
        plugin_confs(again)
