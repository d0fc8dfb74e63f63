"""The loopback plugin on a real kernel."""

from typing import Any

import pytest

CONF = {"cniVersion": "1.1.0", "name": "lo", "type": "loopback"}


def is_up(sandbox: Any) -> bool:
    return "UP" in sandbox.link("lo")["flags"]


def test_lo_comes_up_and_goes_down(bed: Any) -> None:
    sandbox = bed.sandbox()
    result = bed.add(CONF, sandbox, ifname="anything")
    assert is_up(sandbox)
    assert result["interfaces"] == [{"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": sandbox.path}]
    assert [ip["address"] for ip in result["ips"]] == ["127.0.0.1/8", "::1/128"]
    assert bed.call("CHECK", {**CONF, "prevResult": result}, sandbox) == (0, None)
    assert bed.call("DEL", CONF, sandbox) == (0, None)
    assert not is_up(sandbox)
    code, error = bed.call("CHECK", {**CONF, "prevResult": result}, sandbox)
    assert (code, error["code"]) == (1, 103)


def test_an_ipam_section_is_for_other_plugins(bed: Any) -> None:
    conf = {**CONF, "ipam": {"type": "not-installed"}}
    sandbox = bed.sandbox()
    bed.add(conf, sandbox)
    assert bed.call("CHECK", conf, sandbox) == (0, None)
    assert bed.call("DEL", conf, sandbox) == (0, None)


@pytest.mark.parametrize("netns", ["", "/run/netns/gone"])
def test_del_without_a_sandbox(bed: Any, netns: str) -> None:
    assert bed.call("DEL", CONF, netns) == (0, None)


def test_a_chain_passes_through_unchanged(bed: Any) -> None:
    earlier = {
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "eth0", "sandbox": "/x", "unknown": 5}],
        "ips": [{"address": "10.1.0.2/24", "interface": 0}],
        "example.org/x": [1],
    }
    assert bed.add({**CONF, "prevResult": earlier}, bed.sandbox()) == earlier


def test_without_ipv6_there_is_no_ipv6_address(bed: Any) -> None:
    sandbox = bed.sandbox()
    sandbox.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/lo/disable_ipv6")
    assert [ip["address"] for ip in bed.add(CONF, sandbox)["ips"]] == ["127.0.0.1/8"]


def test_an_address_of_the_outside_world_is_refused(bed: Any) -> None:
    sandbox = bed.sandbox()
    sandbox.run("ip", "address", "add", "192.0.2.1/32", "dev", "lo")
    code, error = bed.call("ADD", CONF, sandbox)
    assert (code, error["code"]) == (1, 100)
    assert error["msg"] == 'loopback interface found with non-loopback address "192.0.2.1/32"'
    assert not is_up(sandbox)


def test_status_and_gc_have_nothing_to_say(bed: Any) -> None:
    assert bed.call("STATUS", CONF) == (0, None)
    assert bed.call("GC", {**CONF, "cni.dev/valid-attachments": []}) == (0, None)
