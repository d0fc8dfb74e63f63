"""The order of things: what is checked before the first change, and what a runtime may get wrong."""

import os
import time
from pathlib import Path
from typing import Any

import pytest


def test_a_netns_that_is_gone(bed: Any) -> None:
    conf = bed.conf(ipam=bed.host_local("10.1.0.0/24"))
    before = bed.state()
    for command in ("ADD", "CHECK"):
        code, error = bed.call(command, {**conf, "prevResult": {"cniVersion": "1.1.0"}}, "/run/netns/gone")
        assert (code, error["code"]) == (1, 8)
    assert bed.state() == before


@pytest.mark.parametrize("kind", ["file", "directory", "fifo", "symlink"])
def test_a_netns_that_is_something_else(bed: Any, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "netns"
    makers: dict[str, Any] = {
        "file": path.touch,
        "directory": path.mkdir,
        "fifo": lambda: os.mkfifo(path),
        "symlink": lambda: path.symlink_to("/proc/self/ns/uts"),
    }
    makers[kind]()
    conf = bed.conf(ipam=bed.host_local("10.1.0.0/24"))
    before = bed.state()
    code, error = bed.call("ADD", conf, str(path))
    assert (code, error["code"]) == (1, 8)
    assert error["msg"] == f'"{path}" is not a network namespace'
    assert bed.state() == before
    assert bed.call("DEL", conf, str(path)) == (0, None)


def test_the_plugins_own_netns_is_refused_before_anything_happens(bed: Any) -> None:
    conf = bed.conf(ipam=bed.host_local("10.1.0.0/24"))
    bed.add(conf, bed.sandbox())
    before = bed.state()
    for command in ("ADD", "DEL"):
        code, error = bed.call(command, conf, bed.host.path)
        assert (code, error["code"]) == (1, 8)
        assert error["msg"] == "plugin's netns and netns from CNI_NETNS should not be the same"
    assert bed.state() == before


def test_the_plugins_own_netns_can_be_allowed(bed: Any) -> None:
    conf = {"cniVersion": "1.1.0", "name": "lo", "type": "loopback"}
    assert bed.call("ADD", conf, bed.host.path, CNI_NETNS_OVERRIDE="True")[0] == 0


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_every_version_answers_and_fails_in_its_own_shape(bed: Any, version: str) -> None:
    conf = bed.conf(cniVersion=version, ipam=bed.host_local("10.1.0.0/24"))
    sandbox = bed.sandbox()
    result = bed.add(conf, sandbox)
    assert result["cniVersion"] == version
    assert ("ip4" in result) is (version < "0.3.0")
    code, error = bed.call("ADD", conf, sandbox)
    assert (code, error["cniVersion"]) == (1, version)
    assert bed.call("DEL", {**conf, "prevResult": result}, sandbox) == (0, None)


def test_a_layer_2_network_fails_whole_where_the_version_wants_an_address(bed: Any) -> None:
    """The shape of 0.2.0 cannot say "no address": that must show before the kernel is touched."""
    before = bed.state()
    code, error = bed.call("ADD", bed.conf(cniVersion="0.2.0"), bed.sandbox())
    assert (code, error["code"]) == (1, 7)
    assert bed.state() == before


def test_descriptors_are_closed(bed: Any) -> None:
    conf = bed.conf(isGateway=True, ipMasq=True, ipam=bed.host_local("10.1.0.0/24"))
    sandbox = bed.sandbox()
    bed.add(conf, sandbox)
    bed.call("DEL", conf, sandbox)
    before = _open_descriptors()
    for _ in range(3):
        bed.add(conf, sandbox)
        bed.call("ADD", conf, sandbox)
        bed.call("DEL", conf, sandbox)
        bed.call("GC", {**conf, "cni.dev/valid-attachments": []})
        bed.call("STATUS", {**conf, "vlan": 5})
    assert _open_descriptors() == before


def test_a_host_end_of_somebody_else_is_left_to_him(bed: Any) -> None:
    """It must not get our alias, by which the DEL that follows would know it for ours."""
    conf = bed.conf(ipam=bed.host_local("10.1.0.0/24"))
    sandbox = bed.sandbox()
    made = bed.add(conf, sandbox)["interfaces"][1]["name"]
    bed.call("DEL", conf, sandbox)
    bed.host.run("ip", "link", "add", made, "type", "veth", "peer", "name", "other")
    before = bed.state()
    code, error = bed.call("ADD", conf, sandbox)
    assert (code, error["code"]) == (1, 101)
    assert error["msg"] == f'container veth name ("eth0") peer provided ("{made}") already exists'
    assert bed.state() == before


def test_an_alias_may_be_as_long_as_the_kernel_lets_it(bed: Any) -> None:
    conf, sandbox = bed.conf(), bed.sandbox()
    bed.add(conf, sandbox, container="c" * 255)
    assert max(len(link["ifalias"] or "") for link in bed.state()["links"]) == 255
    assert bed.call("DEL", conf, sandbox, container="c" * 255) == (0, None)


def _open_descriptors() -> int:
    """Count them when threads that only close one (kernel/wire.py) have had the time."""
    count = 0
    while count != (count := len(os.listdir("/proc/self/fd"))):
        time.sleep(0.1)
    return count


def test_gc_without_a_list_of_attachments_takes_nothing(bed: Any) -> None:
    conf = bed.conf(ipMasq=True, ipam=bed.host_local("10.1.0.0/24"))
    bed.add(conf, bed.sandbox())
    before = bed.state()
    assert bed.call("GC", conf) == (0, None)
    assert bed.state() == before


def test_a_name_that_is_no_plugin_of_ours(bed: Any) -> None:
    code, error = bed.call("ADD", bed.conf(type="nothing"), bed.sandbox())
    assert (code, error["code"], error["msg"]) == (1, 7, "this program has no plugin nothing")


@pytest.mark.parametrize("kind", ["bridge", "ptp"])
def test_a_previous_result_stays_in_the_result(bed: Any, kind: str) -> None:
    """SPEC.md, section 4; CHECK finds the plugin's own part in it."""
    sandbox, other = bed.sandbox(), "/run/netns/other"
    before = {
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": other}],
        "ips": [{"address": "192.0.2.7/24", "interface": 0}],
        "routes": [{"dst": "198.51.100.0/24", "gw": "192.0.2.1"}],
        "dns": {"nameservers": ["192.0.2.53"]},
    }
    conf = {"cniVersion": "1.1.0", "name": "net1", "type": kind, "ipam": bed.host_local("10.1.0.0/24")}
    result = bed.add({**conf, "prevResult": before}, sandbox)
    own = bed.add(conf, bed.sandbox(), container="c2")
    assert result["interfaces"][0] == before["interfaces"][0]
    assert [item["name"] for item in result["interfaces"][1:-1]] != []
    assert result["interfaces"][-1]["sandbox"] == sandbox.path
    assert len(result["interfaces"]) == len(own["interfaces"]) + 1
    assert [(ip["address"], ip["interface"]) for ip in result["ips"]] == [
        ("192.0.2.7/24", 0),
        ("10.1.0.2/24", own["ips"][0]["interface"] + 1),
    ]
    assert result["routes"] == before["routes"]
    assert result["dns"] == before["dns"]
    assert bed.call("CHECK", {**conf, "prevResult": result}, sandbox) == (0, None)
    assert bed.call("DEL", {**conf, "prevResult": result}, sandbox) == (0, None)
