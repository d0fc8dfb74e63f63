"""tuning after a main plugin: what it sets, what its result says, what CHECK finds, and what DEL undoes."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.integration.tuning.conftest import MAINS, List, each_main, link_state, set_sysctl, sysctl

MAC, OTHER_MAC = "02:11:22:33:44:55", "02:11:22:33:44:66"
SYSCTLS = {
    "net.core.somaxconn": "500",
    "net.ipv4.ip_local_port_range": "1024 65000",
    "net.ipv4.conf.IFNAME.arp_filter": "1",
    "net.ipv6.conf.IFNAME.accept_ra": "0",
}
PATHS = {
    "core/somaxconn": "500",
    "ipv4/ip_local_port_range": "1024\t65000",
    "ipv4/conf/eth0/arp_filter": "1",
    "ipv6/conf/eth0/accept_ra": "0",
}
EVERYTHING = {"sysctl": SYSCTLS, "mac": MAC, "promisc": True, "mtu": 1400, "allmulti": True, "txQLen": 77}
TUNED = {"address": MAC, "mtu": 1400, "txqlen": 77, "PROMISC": True, "ALLMULTI": True}


def seen(sandbox: Any) -> tuple[Any, ...]:
    return ({path: sysctl(sandbox, path) for path in PATHS}, link_state(sandbox))


@each_main
def test_everything_is_set_checked_and_given_back(bed: Any, data_dir: Path, main: dict[str, Any]) -> None:
    network, sandbox = List(bed, data_dir, main, EVERYTHING), bed.sandbox()
    network.add_main(sandbox)
    before = seen(sandbox)
    code, result = network.tune()
    assert code == 0, result
    network.result = result
    assert seen(sandbox) == (PATHS, TUNED)
    own = next(item for item in result["interfaces"] if item["name"] == "eth0")
    assert (own["mac"], own["mtu"]) == (MAC, 1400)
    assert network.check() == []
    network.delete(main=False)
    assert seen(sandbox) == before
    assert network.files() == []
    network.delete()
    assert network.files() == []


def test_only_the_own_interface_changes_in_the_result(bed: Any, data_dir: Path) -> None:
    network = List(bed, data_dir, MAINS["bridge"], {"mac": MAC, "mtu": 1400})
    network.add_main(bed.sandbox())
    # Another sandbox has an interface of this name, and so has the host.
    network.result["interfaces"] += [{"name": "eth0"}, {"name": "eth0", "sandbox": "/elsewhere"}]
    first = network.result
    _, result = network.tune()
    changed = {"mac": MAC, "mtu": 1400}
    expected = [
        {**item, **changed}
        if item["name"] == "eth0" and item.get("sandbox") == network.sandbox.path
        else item
        for item in first["interfaces"]
    ]
    assert result == {**first, "interfaces": expected}


@pytest.mark.parametrize("version", ["0.2.0", "0.3.1", "0.4.0", "1.0.0"])
def test_older_versions(bed: Any, data_dir: Path, version: str) -> None:
    network = List(bed, data_dir, MAINS["ptp"], EVERYTHING, cniVersion=version)
    result = network.add(bed.sandbox())
    assert result["cniVersion"] == version
    listed = result.get("interfaces", [])
    assert [item["mac"] for item in listed if item["name"] == "eth0"] == ([MAC] if listed else [])
    assert link_state(network.sandbox) == TUNED
    assert version < "0.4.0" or network.check() == []
    network.delete()
    assert network.files() == []


def test_a_result_without_the_interface_is_passed_on(bed: Any, data_dir: Path) -> None:
    """Some main plugins list only the host's link."""
    network = List(bed, data_dir, MAINS["bridge"], {"mac": MAC, "mtu": 1400})
    network.add_main(bed.sandbox())
    network.result = {
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "cali1234"}],
        "ips": [{"address": "10.1.0.2/32"}],
    }
    assert network.tune() == (0, network.result)
    assert link_state(network.sandbox)["mtu"] == 1400


def test_without_keys_nothing_is_done(bed: Any, data_dir: Path) -> None:
    """podman's default network has such an entry."""
    network = List(bed, data_dir, MAINS["bridge"], {"capabilities": {"mac": True}, "promisc": False})
    network.add_main(bed.sandbox())
    before = bed.state(), seen(network.sandbox)
    assert network.tune() == (0, network.result)
    assert (bed.state(), seen(network.sandbox)) == before
    assert network.files() == []
    assert network.check() == []
    network.delete()


@each_main
def test_the_mac_that_podman_asks_for(bed: Any, data_dir: Path, main: dict[str, Any]) -> None:
    """In CNI_ARGS, for every plugin of the list: the main plugin has set it already."""
    args = {"CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAME=p;MAC={MAC}"}
    network = List(bed, data_dir, main, {"capabilities": {"mac": True}})
    network.add(bed.sandbox(), **args)
    assert link_state(network.sandbox)["address"] == MAC
    assert network.files() == []
    assert network.check(**args) == []
    network.delete(**args)


def test_the_mac_of_the_runtime_config(bed: Any, data_dir: Path) -> None:
    network = List(bed, data_dir, MAINS["bridge"], {"runtimeConfig": {"mac": MAC}, "mac": OTHER_MAC})
    network.add(bed.sandbox(), CNI_ARGS="MAC=02:00:00:00:00:09")
    assert link_state(network.sandbox)["address"] == MAC
    network.delete()


def test_loopback_can_be_tuned(bed: Any, data_dir: Path) -> None:
    network = List(bed, data_dir, {"type": "loopback"}, {"sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}})
    network.add(bed.sandbox(), ifname="lo")
    assert sysctl(network.sandbox, "ipv4/conf/lo/arp_filter") == "1"
    assert network.check(ifname="lo") == []
    network.delete(main=False, ifname="lo")
    assert sysctl(network.sandbox, "ipv4/conf/lo/arp_filter") == "0"
    network.delete(ifname="lo")


# ------------------------------------------------------------------------------------------------- sysctls


def test_sysctls_are_written_in_the_order_given(bed: Any, data_dir: Path) -> None:
    """Writing `all` sets every link, so the one after it decides."""
    paths = ("ipv6/conf/all/forwarding", "ipv6/conf/eth0/forwarding")
    names = [f"net/{path}" for path in paths]
    for order, expected in ((names, ["1", "0"]), (names[::-1], ["1", "1"])):
        values = {name: "1" if "all" in name else "0" for name in order}
        network = List(bed, data_dir, MAINS["macvlan"], {"sysctl": values})
        network.add(bed.sandbox())
        assert [sysctl(network.sandbox, path) for path in paths] == expected
        network.delete(main=False)
        assert [sysctl(network.sandbox, path) for path in paths] == ["0", "0"]
        network.delete()


def test_settings_that_others_change_are_given_back_whatever_the_order(bed: Any, data_dir: Path) -> None:
    paths = ("ipv6/conf/all/forwarding", "ipv6/conf/eth0/forwarding")
    for order in (paths, paths[::-1]):
        network = List(bed, data_dir, MAINS["macvlan"], {"sysctl": {f"net/{path}": "1" for path in order}})
        network.add_main(bed.sandbox())
        set_sysctl(network.sandbox, "ipv6/conf/eth0/forwarding", "1")
        set_sysctl(network.sandbox, "ipv6/conf/eth0/accept_ra", "2")
        assert network.tune()[0] == 0
        network.delete(main=False)
        assert [sysctl(network.sandbox, path) for path in paths] == ["0", "1"]
        network.delete()


def test_a_link_whose_name_has_dots(bed: Any, data_dir: Path) -> None:
    sysctls = {
        "net.ipv4.conf.IFNAME.arp_filter": "1",
        "net/ipv4/conf/eth0.5/arp_ignore": "2",
        "net.ipv4.conf.eth0/5.rp_filter": "2",
    }
    network = List(bed, data_dir, MAINS["ptp"], {"sysctl": sysctls})
    network.add(bed.sandbox(), ifname="eth0.5")
    for name, value in (("arp_filter", "1"), ("arp_ignore", "2"), ("rp_filter", "2")):
        assert sysctl(network.sandbox, f"ipv4/conf/eth0.5/{name}") == value
    assert network.check(ifname="eth0.5") == []
    set_sysctl(network.sandbox, "ipv4/conf/eth0.5/arp_ignore", "1")
    (error,) = network.check(ifname="eth0.5")
    assert error["msg"] == "sysctl net/ipv4/conf/eth0.5/arp_ignore is '1', not '2'"
    network.delete(ifname="eth0.5")


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("net.ipv4.ip_local_port_range", " 1024   65000\n", "1024\t65000"),
        ("net.ipv4.tcp_rmem", "4096 131072 6291456", "4096\t131072\t6291456"),
        ("net.ipv4.ping_group_range", "0 0", "0\t0"),
        ("net.ipv4.ip_local_reserved_ports", "8080,30000-32767,8081", "8080-8081,30000-32767"),
        ("net.ipv4.conf.IFNAME.rp_filter", "0x2", "2"),
        ("net.ipv4.conf.IFNAME.arp_ignore", "010", "8"),
        ("net.ipv6.conf.IFNAME.stable_secret", "2001:db8::1", "2001:0db8:0000:0000:0000:0000:0000:0001"),
        ("net.ipv6.conf.IFNAME.router_solicitations", "-1", "-1"),
    ],
)
def test_check_accepts_a_value_as_the_kernel_shows_it(
    bed: Any, data_dir: Path, name: str, value: str, shown: str
) -> None:
    network = List(bed, data_dir, MAINS["bridge"], {"sysctl": {name: value}})
    network.add(bed.sandbox())
    path = name.replace("IFNAME", "eth0").replace(".", "/").removeprefix("net/")
    assert sysctl(network.sandbox, path) == shown
    assert network.check() == []
    network.delete()


def test_a_long_value_is_given_back_whole(bed: Any, data_dir: Path) -> None:
    path, ports = "ipv4/ip_local_reserved_ports", ",".join(str(port) for port in range(1000, 9000, 2))
    network = List(bed, data_dir, MAINS["bridge"], {"sysctl": {f"net/{path}": "80"}})
    network.add_main(bed.sandbox())
    set_sysctl(network.sandbox, path, ports)
    assert len(sysctl(network.sandbox, path)) > 4096
    assert network.tune()[0] == 0
    network.delete(main=False)
    assert sysctl(network.sandbox, path) == ports
    network.delete()


def test_an_empty_value_is_written_and_given_back(bed: Any, data_dir: Path) -> None:
    path = "ipv4/ip_local_reserved_ports"
    network = List(
        bed, data_dir, MAINS["bridge"], {"sysctl": {f"net/{path}": "80"}}, {"sysctl": {f"net/{path}": ""}}
    )
    network.add(bed.sandbox())
    assert sysctl(network.sandbox, path) == ""
    network.delete(main=False)
    assert sysctl(network.sandbox, path) == ""
    network.delete()


def test_a_setting_that_can_only_be_written(bed: Any, data_dir: Path) -> None:
    network = List(bed, data_dir, MAINS["bridge"], {"sysctl": {"net.ipv4.route.flush": "1"}})
    network.add(bed.sandbox())
    assert network.files() == []
    assert network.check() == []
    network.delete()


def test_the_ipv6_mtu_is_set_after_that_of_the_link(bed: Any, data_dir: Path) -> None:
    """The kernel sets both when the link's is set, and takes no larger one for IPv6."""
    tuning = {"sysctl": {"net.ipv6.conf.IFNAME.mtu": "8000"}, "mtu": 9000}
    network = List(bed, data_dir, MAINS["bridge"], tuning)
    network.add(bed.sandbox())
    assert sysctl(network.sandbox, "ipv6/conf/eth0/mtu") == "8000"
    assert network.check() == []
    network.delete(main=False)
    assert sysctl(network.sandbox, "ipv6/conf/eth0/mtu") == "1500"
    assert link_state(network.sandbox)["mtu"] == 1500
    network.delete()


REFUSED = [
    ("net.ipv4.conf.IFNAME.no_such_key", "1", "No such file or directory"),
    ("net.core.somaxconn", "many", "Invalid argument"),
    ("net.core.somaxconn", "1 2", "Invalid argument"),
    ("net.core.somaxconn", "", "Invalid argument"),
    ("net.ipv4.ip_local_port_range", "3000 2000", "Invalid argument"),
    ("net.ipv4.tcp_rmem", "4096 x", "Invalid argument"),
    ("net.ipv4.tcp_congestion_control", "no-such", "No such file or directory"),
    ("net.ipv4.conf", "1", "Is a directory"),
    ("net.core.somaxconn.x", "1", "Not a directory"),
    (f"net.{'x' * 300}", "1", "No such file or directory"),
    ("net.ipv4.tcp_available_congestion_control", "reno", "Permission denied"),
]


@pytest.mark.parametrize(("name", "value", "reason"), REFUSED, ids=[f"{n[:30]}={v}" for n, v, _ in REFUSED])
def test_a_value_the_kernel_refuses(bed: Any, data_dir: Path, name: str, value: str, reason: str) -> None:
    """It is the last: what was written before it is taken back, and so is the backup."""
    sysctls = {
        "net.ipv4.tcp_rmem": "8192 131072 6291456",
        "net.ipv4.conf.IFNAME.arp_filter": "1",
        name: value,
    }
    tuning = {**EVERYTHING, "sysctl": sysctls}
    network = List(bed, data_dir, MAINS["bridge"], tuning)
    network.add_main(bed.sandbox())
    paths = [*PATHS, "ipv4/tcp_rmem", "ipv4/tcp_congestion_control"]
    before = [sysctl(network.sandbox, path) for path in paths], link_state(network.sandbox), bed.state()
    code, error = network.tune()
    shown = name.replace("IFNAME", "eth0")
    assert (code, error["code"]) == (1, 100)
    assert error["msg"] == f"set sysctl {shown} to {value!r} in the sandbox: {reason}"
    after = [sysctl(network.sandbox, path) for path in paths], link_state(network.sandbox), bed.state()
    assert after == before
    assert network.files() == []


@pytest.mark.parametrize("change", [{"mtu": 70000}, {"mtu": 70000, "allmulti": True, "txQLen": 5}])
def test_a_link_setting_the_kernel_refuses(bed: Any, data_dir: Path, change: dict[str, Any]) -> None:
    network = List(bed, data_dir, MAINS["bridge"], {**EVERYTHING, **change})
    network.add_main(bed.sandbox())
    before = seen(network.sandbox), bed.state()
    code, error = network.tune()
    assert (code, error["code"]) == (1, 100)
    assert error["msg"].startswith("set the MTU of eth0 to 70000 in the sandbox: ")
    assert (seen(network.sandbox), bed.state()) == before
    assert network.files() == []


def test_a_link_that_is_missing(bed: Any, data_dir: Path) -> None:
    network = List(bed, data_dir, MAINS["bridge"], {**EVERYTHING})
    network.add_main(bed.sandbox())
    network.sandbox.run("ip", "link", "del", "eth0")
    code, error = network.tune()
    assert (code, error["code"], error["msg"]) == (1, 100, "link eth0 not found")
    assert sysctl(network.sandbox, "core/somaxconn") != "500"
    assert network.files() == []


def test_an_mtu_too_small_for_ipv6_is_refused_before_anything_is_done(bed: Any, data_dir: Path) -> None:
    network = List(bed, data_dir, MAINS["bridge"], {**EVERYTHING, "mtu": 1279})
    network.add_main(bed.sandbox())
    before = seen(network.sandbox)
    code, error = network.tune()
    assert (code, error["code"], error["msg"]) == (1, 7, "invalid MTU 1279, IPv6 needs 1280")
    assert seen(network.sandbox) == before


# ------------------------------------------------------------------------------------------------ both ends


@pytest.mark.parametrize("kind", ["bridge", "ptp"])
def test_both_ends_of_a_veth_get_the_mtu(bed: Any, data_dir: Path, kind: str) -> None:
    network = List(bed, data_dir, MAINS[kind], {"mtu": 1400, "mtuBothEnds": True})
    # Another container's link has the same index.
    other = List(bed, data_dir, MAINS[kind])
    other.add(bed.sandbox(), container="c2")
    network.add_main(bed.sandbox())
    ends = {item["name"] for item in network.result["interfaces"] if item["name"].startswith("veth")}
    (host_end,) = ends
    code, network.result = network.tune()
    assert code == 0, network.result
    assert (link_state(network.sandbox)["mtu"], bed.host.link(host_end)["mtu"]) == (1400, 1400)
    listed = {item["name"]: item.get("mtu") for item in network.result["interfaces"]}
    assert (listed["eth0"], listed[host_end]) == (1400, 1400)
    assert network.check() == []
    assert other.check(container="c2") == []
    bed.host.run("ip", "link", "set", host_end, "mtu", "1300")
    assert [error["msg"] for error in network.check()] == [f"link {host_end} has mtu 1300, not 1400"] * 2
    network.delete(main=False)
    assert (link_state(network.sandbox)["mtu"], bed.host.link(host_end)["mtu"]) == (1500, 1500)
    network.delete()


def test_both_ends_need_a_veth(bed: Any, data_dir: Path) -> None:
    network = List(bed, data_dir, MAINS["macvlan"], {"mtu": 1400, "mtuBothEnds": True})
    network.add_main(bed.sandbox())
    code, error = network.tune()
    assert (code, error["code"]) == (1, 7)
    assert error["msg"] == "eth0 is not a veth with its other end in the host"
    assert link_state(network.sandbox)["mtu"] == 1500


def test_a_veth_between_two_sandboxes_has_no_host_end(bed: Any, data_dir: Path) -> None:
    """The index of its other end is also that of a veth in the host, whose own end has its index as well."""
    sandbox, elsewhere, third = bed.sandbox(), bed.sandbox(), bed.sandbox()
    for namespace, (first, second), moved, to in (
        (sandbox, ("eth0", "y0"), "y0", elsewhere),
        (bed.host, ("x0", "veth0"), "x0", third),
    ):
        pair = f"link add {first} index 5 type veth peer name {second} index 77"
        namespace.run("ip", *pair.split())
        namespace.run("ip", "link", "set", moved, "netns", to.path)
    network = List(bed, data_dir, None, {"mtu": 1400, "mtuBothEnds": True})
    network.sandbox, network.result = sandbox, {"cniVersion": "1.1.0"}
    assert (sandbox.link("eth0")["link_index"], bed.host.link("veth0")["ifindex"]) == (77, 77)
    code, error = network.tune()
    assert (code, error["msg"]) == (1, "link veth0 is not the host end of eth0")
    assert (bed.host.link("veth0")["mtu"], link_state(sandbox)["mtu"]) == (1500, 1500)
    assert network.files() == []


def test_the_mtu_of_one_end_alone(bed: Any, data_dir: Path) -> None:
    network = List(bed, data_dir, MAINS["bridge"], {"mtu": 1400})
    network.add(bed.sandbox())
    (host_end,) = (item for item in network.result["interfaces"] if item["name"].startswith("veth"))
    assert bed.host.link(host_end["name"])["mtu"] == 1500
    assert host_end["mtu"] == 1500
    assert network.check() == []
    network.delete()


# --------------------------------------------------------------------------------------------------- CHECK

TAMPERINGS = [
    (("sh", "-c", "echo 1 > /proc/sys/net/core/somaxconn"), "sysctl net.core.somaxconn is '1', not '500'"),
    (
        ("sh", "-c", "echo 1024 65001 > /proc/sys/net/ipv4/ip_local_port_range"),
        "sysctl net.ipv4.ip_local_port_range is '1024 65001', not '1024 65000'",
    ),
    (("ip", "link", "set", "eth0", "address", OTHER_MAC), f"link eth0 has address {OTHER_MAC}, not {MAC}"),
    (("ip", "link", "set", "eth0", "promisc", "off"), "link eth0 is not in promiscuous mode"),
    (("ip", "link", "set", "eth0", "allmulticast", "off"), "link eth0 is not in all-multicast mode"),
    (("ip", "link", "set", "eth0", "mtu", "1401"), "link eth0 has mtu 1401, not 1400"),
    (("ip", "link", "set", "eth0", "txqueuelen", "78"), "link eth0 has a transmit queue of 78, not 77"),
]


@pytest.mark.parametrize(("command", "message"), TAMPERINGS, ids=[message for _, message in TAMPERINGS])
def test_check_finds_a_tampering(bed: Any, data_dir: Path, command: tuple[str, ...], message: str) -> None:
    network = List(bed, data_dir, MAINS["bridge"], EVERYTHING)
    network.add(bed.sandbox())
    network.sandbox.run(*command)
    code, error = bed.call("CHECK", {**network.tuning, "prevResult": network.result}, network.sandbox)
    assert (code, error["code"], error["msg"], error["details"]) == (1, 103, message, message)


def test_check_finds_a_missing_link(bed: Any, data_dir: Path) -> None:
    network = List(bed, data_dir, MAINS["bridge"], {**EVERYTHING, "mtuBothEnds": True})
    network.add(bed.sandbox())
    network.sandbox.run("ip", "link", "del", "eth0")
    code, error = bed.call("CHECK", {**network.tuning, "prevResult": network.result}, network.sandbox)
    assert (code, error["code"]) == (1, 103)
    assert "link eth0 is missing in the sandbox" in error["details"]
    assert "sysctl net.ipv4.conf.eth0.arp_filter does not exist in the sandbox" in error["details"]


def test_check_asks_only_for_what_is_configured(bed: Any, data_dir: Path) -> None:
    """The reference's fails for any promiscuous link."""
    network = List(bed, data_dir, MAINS["bridge"], {"mtu": 1400, "promisc": False})
    network.add(bed.sandbox())
    for words in (("promisc", "on"), ("allmulticast", "on"), ("txqueuelen", "5")):
        network.sandbox.run("ip", "link", "set", "eth0", *words)
    assert network.check() == []


def test_allmulti_can_be_switched_off(bed: Any, data_dir: Path) -> None:
    network = List(bed, data_dir, MAINS["bridge"], {"allmulti": False})
    network.add_main(bed.sandbox())
    network.sandbox.run("ip", "link", "set", "eth0", "allmulticast", "on")
    assert network.tune()[0] == 0
    assert link_state(network.sandbox)["ALLMULTI"] is False
    network.delete(main=False)
    assert link_state(network.sandbox)["ALLMULTI"] is True
    network.delete()


# --------------------------------------------------------------------------------------------- the allow-list


@pytest.fixture
def allowed(tmp_path: Path) -> Path:
    return tmp_path / "allowlist.conf"  # as in conftest.py


def test_a_sysctl_that_is_not_on_the_list(bed: Any, data_dir: Path, allowed: Path) -> None:
    allowed.write_text("^net.core.somaxconn$\n\n  ^net\\.ipv4\\.conf\\.IFNAME\\..*$\n")
    network = List(bed, data_dir, MAINS["bridge"], {"sysctl": {"net.core.somaxconn": "500"}})
    network.add(bed.sandbox())
    assert network.check() == []
    listed = "[^net.core.somaxconn$ ^net\\.ipv4\\.conf\\.IFNAME\\..*$]"
    refused = f"Sysctl net.ipv4.ip_forward is not allowed. Only the following sysctls are allowed: {listed}"
    bad = {**network.tuning, "sysctl": {"net.core.somaxconn": "600", "net.ipv4.ip_forward": "1"}}
    for command, code in (("ADD", 7), ("CHECK", 7), ("STATUS", 50)):
        conf = {**bad, "prevResult": network.result}
        answer = bed.call(command, conf, network.sandbox)
        assert (answer[1]["code"], answer[1]["msg"]) == (code, refused)
    assert sysctl(network.sandbox, "core/somaxconn") == "500"
    # What is not allowed any more is given back all the same.
    allowed.write_text("nothing\n")
    before = sysctl(bed.sandbox(), "core/somaxconn")
    network.delete(main=False)
    assert sysctl(network.sandbox, "core/somaxconn") == before


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_list_allows_nothing(bed: Any, data_dir: Path, allowed: Path, content: str) -> None:
    allowed.write_text(content)
    network = List(bed, data_dir, MAINS["bridge"], {"sysctl": SYSCTLS})
    network.add_main(bed.sandbox())
    code, error = network.tune()
    assert (code, error["code"]) == (1, 7)
    assert error["msg"].endswith("Only the following sysctls are allowed: []")


def test_without_sysctls_the_list_does_not_matter(bed: Any, data_dir: Path, allowed: Path) -> None:
    allowed.write_bytes(b"\xff(")
    network = List(bed, data_dir, MAINS["bridge"], {"mtu": 1400})
    network.add(bed.sandbox())
    assert network.check() == []
    network.delete()


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (b"net\n(net\n", 7, "line 2: missing closing ): `(net`"),
        (b"net\\Z\n", 7, "line 1: invalid escape sequence: `\\Z`"),
        (b"net(?=x)\n", 7, "line 1: invalid or unsupported Perl syntax: `(?=`"),
        (b"\xff\n", 7, "the list of allowed sysctls is not UTF-8"),
        (b"n" * (1 << 20) + b"\n", 5, "the list of allowed sysctls is too large"),
    ],
)
def test_a_broken_list(
    bed: Any, data_dir: Path, allowed: Path, content: bytes, code: int, message: str
) -> None:
    allowed.write_bytes(content)
    network = List(bed, data_dir, MAINS["bridge"], {"sysctl": SYSCTLS})
    network.add_main(bed.sandbox())
    answer = network.tune()
    assert (answer[0], answer[1]["code"]) == (1, code)
    assert message in answer[1]["msg"]
    assert bed.call("STATUS", network.tuning)[1]["code"] == 50
    network.delete()


def test_a_list_that_is_a_directory(bed: Any, data_dir: Path, allowed: Path) -> None:
    allowed.mkdir()
    network = List(bed, data_dir, MAINS["bridge"], {"sysctl": SYSCTLS})
    network.add_main(bed.sandbox())
    code, error = network.tune()
    assert (code, error["code"], error["msg"]) == (1, 5, "the list of allowed sysctls is not a file")


# -------------------------------------------------------------------------------------------------- STATUS


def test_status(bed: Any, data_dir: Path) -> None:
    network = List(bed, data_dir, MAINS["bridge"], EVERYTHING)
    assert bed.call("STATUS", network.tuning) == (0, None)
    assert not data_dir.exists()
    data_dir.mkdir(parents=True)
    assert bed.call("STATUS", network.tuning) == (0, None)
    data_dir.chmod(0o777)
    _, error = bed.call("STATUS", network.tuning)
    reason = f"dataDir cannot be used: {data_dir} can be written to by others"
    assert (error["code"], error["msg"]) == (50, reason)
    data_dir.rmdir()
    data_dir.write_text("")
    _, error = bed.call("STATUS", network.tuning)
    assert (error["code"], error["msg"]) == (50, f"dataDir cannot be used: {data_dir}: Not a directory")
    _, error = bed.call("STATUS", {**network.tuning, "dataDir": f"{data_dir}/below"})
    assert (error["code"], error["msg"]) == (50, f"dataDir cannot be used: {data_dir}/below: Not a directory")


def test_the_directory_is_created_for_root_alone(bed: Any, data_dir: Path) -> None:
    network = List(bed, data_dir, MAINS["bridge"], {"mtu": 1400})
    old = os.umask(0)
    try:
        network.add(bed.sandbox())
    finally:
        os.umask(old)
    modes = [
        stat.S_IMODE(path.stat().st_mode) for path in (data_dir.parent, data_dir, data_dir / "c1_eth0.json")
    ]
    assert modes == [0o755, 0o700, 0o600]
    network.delete()
