"""Which networks are found in the files of a node."""

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.cli.failure import Failed
from cni_plugins.cli.overlay.select import in_directory, select
from cni_plugins.upkeep import caches, overlay_configs
from cni_plugins.upkeep.overlay_configs import FoundConfigs, in_file, merge, parse_config

OURS: dict[str, Any] = {"type": "vxlan", "network": "10.244.0.0/16"}
BLUE = {"cniVersion": "1.0.0", "name": "blue", "plugins": [OURS, {"type": "portmap"}]}


def read(document: object, file: str = "f") -> FoundConfigs:
    return parse_config(json.dumps(document).encode(), file)


def test_an_entry_of_a_list_gets_name_and_version_of_the_list() -> None:
    entry = {"NAME": "other", "cniversion": "0.1.0", **OURS}
    [one] = read({**BLUE, "plugins": [{"type": "bridge"}, entry]}).networks
    assert (one.network, one.file) == ("blue", "f")
    assert one.conf == {"cniVersion": "1.0.0", "name": "blue", **OURS}


def test_a_config_of_one_plugin_is_a_network() -> None:
    [one] = read({"cniVersion": "1.1.0", "name": "blue", **OURS}).networks
    assert one.conf == {"cniVersion": "1.1.0", "name": "blue", **OURS}


def test_a_list_without_a_version_gives_none() -> None:
    [one] = read({"name": "blue", "plugins": [OURS]}).networks
    assert one.conf == {"name": "blue", **OURS}


@pytest.mark.parametrize(
    "document",
    [
        {"name": "green", "type": "bridge"},
        {"name": "green", "plugins": [{"type": "ptp"}]},
        {"name": "green", "plugins": []},
        {"name": "*", "plugins": [{"type": "bridge"}]},
        {},
    ],
)
def test_networks_of_other_plugins_are_passed_over(document: object) -> None:
    assert read(document) == FoundConfigs()


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "f: not JSON: "),
        (b"\xff\xff", "f: not JSON: "),
        (b"{", "f: not JSON: "),
        (b"[" * 100_000, "f: not JSON: "),
        (b"[]", "f: not an object"),
        (b'{"plugins": {}}', "f: plugins is not a list of objects"),
        (b'{"plugins": ["vxlan"]}', "f: plugins is not a list of objects"),
        (b'{"plugins": [{"type": "vxlan"}]}', "f: invalid network name: name is null"),
        (b'{"name": "a/b", "type": "vxlan"}', "f: invalid network name: name is 'a/b'"),
        (b'{"name": "a\\n", "type": "vxlan"}', "f: invalid network name: "),
        (b'{"name": 1, "type": "vxlan"}', "f: invalid network name: name is 1"),
    ],
)
def test_what_cannot_be_understood_is_one_sentence(content: bytes, fault: str) -> None:
    found = parse_config(content, "f")
    assert found.networks == ()
    [told] = found.faults
    assert told.startswith(fault)
    assert "\n" not in told


def test_of_one_name_the_first_counts_and_only_a_different_one_is_told_of() -> None:
    other = {**BLUE, "plugins": [{**OURS, "vni": 7}]}
    found = merge([read(BLUE, "1"), read(BLUE, "2"), read(other, "3")])
    assert [one.file for one in found.networks] == ["1"]
    assert found.faults == ("3: network blue is configured also in 1, which comes first",)
    twice = read({**BLUE, "plugins": [OURS, {**OURS, "vni": 7}]})
    assert [one.conf.get("vni") for one in twice.networks] == [None]
    assert twice.faults == ("f: network blue is configured twice",)


# ------------------------------------------------------------------------------------------------- choosing


def three() -> FoundConfigs:
    named = [read({**BLUE, "name": name}, name) for name in ("red", "green", "blue")]
    return merge([*named, FoundConfigs(faults=("x: broken",))])


def test_all_are_taken_with_the_faults_of_all_files() -> None:
    assert select(three(), (), "d") == three()._replace(place="d")


def test_who_asks_for_some_gets_them_once_in_his_order_and_hears_of_no_other_file() -> None:
    found = select(three(), ("blue", "red", "blue"), "d")
    assert [one.network for one in found.networks] == ["blue", "red"]
    assert found.faults == ()


def test_an_unknown_name_is_told_with_those_there_are_and_what_could_not_be_read() -> None:
    with pytest.raises(Failed) as failure:
        select(three(), ("blue", "pink"), "d")
    assert str(failure.value) == "no overlay network 'pink' in d, only red, green, blue (x: broken)"


@pytest.mark.parametrize(("names", "is_asked_for"), [((), True), (("blue",), False), (("blue",), True)])
def test_none_at_all_is_told_with_the_reason(names: tuple[str, ...], *, is_asked_for: bool) -> None:
    with pytest.raises(Failed, match=r"^no overlay network in d: no file there has a plugin of type vxlan$"):
        select(FoundConfigs(), names, "d", is_asked_for=is_asked_for)
    with pytest.raises(Failed, match=r"^no overlay network in d: x: broken$"):
        select(FoundConfigs(faults=("x: broken",)), names, "d", is_asked_for=is_asked_for)


def test_a_node_in_no_overlay_is_no_failure(tmp_path: Path) -> None:
    assert select(FoundConfigs(), (), "d") == FoundConfigs(place="d")
    assert select(FoundConfigs(faults=("x: broken",)), (), "d").faults == ("x: broken",)
    assert in_directory(tmp_path / "none", may_be_absent=True) == FoundConfigs()
    with pytest.raises(Failed, match="No such file"):
        in_directory(tmp_path / "none")


# ------------------------------------------------------------------------------------------------- files


def test_files_are_read_in_lexical_order_by_suffix(tmp_path: Path) -> None:
    for name in ("30-c.json", "10-a.conflist", "9-z.conf", "05-no.conflist.example", "no"):
        (tmp_path / name).write_text(json.dumps({**BLUE, "name": f"n{name[:2]}"}))
    (tmp_path / "20-b.conf").mkdir()
    assert [one.network for one in in_directory(tmp_path).networks] == ["n10", "n30", "n9-"]


def test_a_broken_file_keeps_no_other_from_being_read(tmp_path: Path) -> None:
    (tmp_path / "1.conf").write_text("{")
    (tmp_path / "2.conf").symlink_to("nowhere")
    (tmp_path / "3.conf").write_bytes(b" " * (2 << 20))
    (tmp_path / "4.conf").write_text(json.dumps(BLUE))
    found = in_directory(tmp_path)
    assert [one.network for one in found.networks] == ["blue"]
    assert [fault.partition(": ")[0] for fault in found.faults] == [
        str(tmp_path / f"{number}.conf") for number in (1, 2, 3)
    ]


def test_a_directory_that_cannot_be_read_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(Failed, match=f"^{tmp_path}/none: No such file or directory$"):
        in_directory(tmp_path / "none")


def test_a_file_that_cannot_be_read_is_a_fault(tmp_path: Path) -> None:
    assert in_file(tmp_path).faults == (f"{tmp_path}: Is a directory",)


# ---------------------------------------------------------------------------------------- libcni's cache


def remember(directory: Path, conf: dict[str, Any], container: str = "c1", when: int = 1) -> None:
    """Write an attachment into the cache as libcni does."""
    entry = {
        "kind": "cniCacheV1",
        "containerId": container,
        "config": base64.b64encode(json.dumps(conf).encode()).decode(),
        "ifName": "eth0",
        "networkName": conf["name"],
        "result": {},
    }
    path = directory / "results" / f"{conf['name']}-{container}-eth0"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entry))
    os.utime(path, (when, when))


def overlay(name: str, **keys: object) -> dict[str, Any]:
    return {"cniVersion": "1.0.0", "name": name, "plugins": [{"type": "vxlan", **keys}]}


def in_caches(*directories: Path) -> FoundConfigs:
    return overlay_configs.of_attachments(caches.read(directories).attachments)


def test_networks_without_a_file_are_known_by_their_attachments(tmp_path: Path) -> None:
    """The newest config of each; one that is configured in a file is that of the file."""
    multus, own = tmp_path / "multus", tmp_path / "own"
    remember(multus, overlay("blue", vni=1), "c1", 1)
    remember(multus, overlay("blue", vni=2), "c2", 9)
    remember(multus, overlay("blue", vni=3), "c3", 5)
    remember(own, overlay("red", vni=4))
    remember(own, {"cniVersion": "1.0.0", "name": "cbr", "type": "bridge"})
    found = in_caches(multus, own, tmp_path / "none")
    assert {one.network: one.conf["vni"] for one in found.networks} == {"blue": 2, "red": 4}
    both = overlay_configs.with_remembered(read(overlay("red", vni=7)), found)
    assert {one.network: one.conf["vni"] for one in both.networks} == {"red": 7, "blue": 2}


def test_a_broken_config_in_a_cache_is_passed_over(tmp_path: Path) -> None:
    remember(tmp_path, overlay("fine"))
    remember(tmp_path, {"name": "odd", "plugins": {}})
    assert [one.network for one in in_caches(tmp_path).networks] == ["fine"]
