"""The macvlan plugin on a real kernel, seen from outside: links, addresses, packets, leftovers."""

import errno
import time
from typing import Any

import pytest

from cni_plugins.kernel.session.session import Session

HOST_LINK = "mvhost"


def mode_of(sandbox: Any, name: str = "eth0") -> str:
    mode: str = sandbox.link(name)["linkinfo"]["info_data"]["mode"]
    return mode


def host_link(wire: Any) -> str:
    return next(name for name in wire.host_links() if name.startswith(HOST_LINK))


def test_a_container_is_on_the_wire(wire: Any) -> None:
    sandbox = wire.bed.sandbox()
    wire.bed.add(wire.conf(ipam=wire.static("10.1.0.11/24", "fd00:1::11/64")), sandbox)
    assert all(sandbox.reaches(address) for address in ("10.1.0.9", "fd00:1::9"))
    assert all(wire.far.reaches(address) for address in ("10.1.0.11", "fd00:1::11"))


def test_an_ipv6_address_is_of_use_at_once(wire: Any) -> None:
    sandbox = wire.bed.sandbox()
    wire.bed.add(wire.conf(ipam=wire.static("fd00:1::11/64")), sandbox)
    (shown,) = [
        info
        for link in sandbox.ip("-6", "address", "show", "dev", "eth0")
        for info in link.get("addr_info", ())
        if info["local"] == "fd00:1::11"
    ]
    assert not shown.get("tentative") or shown.get("optimistic")
    assert sandbox.reaches("fd00:1::9")


def test_enabledad_waits_until_no_address_is_tentative(wire: Any) -> None:
    sandbox = wire.bed.sandbox()
    wire.bed.add(wire.conf(enabledad=True, ipam=wire.static("fd00:1::11/64")), sandbox)
    shown = [
        info for link in sandbox.ip("-6", "address", "show", "dev", "eth0") for info in link["addr_info"]
    ]
    assert not any(info.get("tentative") for info in shown if info["local"] == "fd00:1::11")


def test_enabledad_refuses_an_address_that_somebody_has(wire: Any) -> None:
    sandbox = wire.bed.sandbox()
    conf = wire.conf(enabledad=True, ipam=wire.static("fd00:1::9/64"))
    code, error = wire.bed.call("ADD", conf, sandbox)
    assert code == 1
    assert "DADFAILED" in error["msg"]
    assert [link["ifname"] for link in sandbox.ip("link")] == ["lo"]


def test_the_result_names_what_is_in_the_kernel(wire: Any) -> None:
    sandbox = wire.bed.sandbox()
    result = wire.bed.add(wire.conf(mtu=1400, ipam=wire.static("10.1.0.11/24")), sandbox)
    (interface,) = result["interfaces"]
    link = sandbox.link("eth0")
    assert interface == {"name": "eth0", "mac": link["address"], "mtu": 1400, "sandbox": sandbox.path}
    assert link["mtu"] == 1400
    assert [(ip["address"], ip["interface"]) for ip in result["ips"]] == [("10.1.0.11/24", 0)]


@pytest.mark.parametrize("mode", ["bridge", "vepa", "private", "passthru", "source"])
def test_the_link_is_in_the_mode_asked_for(wire: Any, mode: str) -> None:
    sandbox = wire.bed.sandbox()
    more = {"allowedMACs": ["02:00:00:00:00:07", "02:00:00:00:00:08"]} if mode == "source" else {}
    conf = wire.conf(mode=mode, **more)
    result = wire.bed.add(conf, sandbox)
    assert mode_of(sandbox) == mode
    assert result["interfaces"][0]["mac"] == sandbox.link("eth0")["address"]
    assert (result["interfaces"][0]["mac"] == wire.host.link("eth0")["address"]) == (mode == "passthru")
    assert wire.bed.call("CHECK", {**conf, "prevResult": result}, sandbox) == (0, None)
    assert wire.bed.call("DEL", conf, sandbox) == (0, None)
    assert sandbox.link("eth0") is None
    assert wire.host_links() == ["lo", "eth0"]


@pytest.mark.parametrize("mode", ["bridge", "passthru"])
def test_a_mac_address_is_given(wire: Any, mode: str) -> None:
    sandbox = wire.bed.sandbox()
    before = wire.host.link("eth0")["address"]
    conf = wire.conf(mode=mode, runtimeConfig={"mac": "02:00:00:00:00:42"})
    result = wire.bed.add(conf, sandbox)
    assert result["interfaces"][0]["mac"] == sandbox.link("eth0")["address"] == "02:00:00:00:00:42"
    assert wire.bed.call("DEL", conf, sandbox)[0] == 0
    assert wire.host.link("eth0")["address"] == before


def test_passthru_says_who_holds_the_master(wire: Any) -> None:
    first, second = wire.bed.sandbox(), wire.bed.sandbox()
    conf = wire.conf(mode="passthru", ipam=wire.static("10.1.0.11/24"))
    wire.bed.add(conf, first, container="c1")
    for mode in ("passthru", "bridge"):
        code, error = wire.bed.call("ADD", {**conf, "mode": mode}, second, container="c2")
        assert code == 1
        assert "master eth0 is held in mode passthru by net: net1, if: eth0, id: c1" in error["msg"]
        assert second.link("eth0") is None
        status, error = wire.bed.call("STATUS", {**conf, "mode": mode})
        assert (status, error["code"]) == (1, 50)
        assert "id: c1" in error["msg"]


def test_passthru_needs_the_master_alone(wire: Any) -> None:
    first, second = wire.bed.sandbox(), wire.bed.sandbox()
    wire.bed.add(wire.conf(), first, container="c1")
    code, error = wire.bed.call("ADD", wire.conf(mode="passthru"), second, container="c2")
    assert code == 1
    assert "in use by net: net1, if: eth0, id: c1" in error["msg"]
    assert wire.bed.call("STATUS", wire.conf(mode="passthru"))[1]["code"] == 50


def test_the_master_is_the_default_routes(wire: Any) -> None:
    wire.host.run("ip", "route", "add", "default", "via", "10.1.0.9")
    sandbox = wire.bed.sandbox()
    wire.bed.add(wire.conf(master="", ipam=wire.static("10.1.0.11/24")), sandbox)
    assert sandbox.reaches("10.1.0.9")


def test_a_master_in_the_container(wire: Any) -> None:
    sandbox = wire.bed.sandbox()
    wire.bed.add(wire.conf(ipam=wire.static("10.1.0.11/24")), sandbox)
    conf = wire.conf(linkInContainer=True, master="eth0", ipam=wire.static("10.1.0.12/24"))
    result = wire.bed.add(conf, sandbox, ifname="net1")
    assert mode_of(sandbox, "net1") == "bridge"
    assert wire.far.reaches("10.1.0.12")
    assert wire.bed.call("CHECK", {**conf, "prevResult": result}, sandbox, ifname="net1") == (0, None)
    assert wire.bed.call("DEL", conf, sandbox, ifname="net1") == (0, None)
    assert sandbox.link("net1") is None
    assert sandbox.link("eth0")


def test_a_link_of_the_hosts_may_bear_the_containers_name(wire: Any) -> None:
    assert wire.host.link("eth0")
    sandbox = wire.bed.sandbox()
    wire.bed.add(wire.conf(), sandbox, ifname="eth0")
    assert mode_of(sandbox) == "bridge"


def test_a_second_add_is_refused_and_changes_nothing(wire: Any) -> None:
    sandbox = wire.bed.sandbox()
    conf = wire.conf(hostAccess=True, ipam=wire.bed.host_local("10.1.0.0/24"))
    wire.bed.add(conf, sandbox)
    before = wire.bed.state()
    code, error = wire.bed.call("ADD", conf, sandbox)
    assert (code, error["code"]) == (1, 101)
    assert wire.bed.state() == before
    assert sandbox.link("eth0")


def test_a_chain_gives_the_master_and_its_addresses(wire: Any) -> None:
    sandbox = wire.bed.sandbox()
    chain = {
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "eth0", "mac": "02:00:00:00:00:01"}],
        "ips": [{"address": "10.1.0.11/24", "gateway": "10.1.0.9", "interface": 0}],
        "routes": [{"dst": "192.0.2.0/24"}],
    }
    conf = {key: value for key, value in wire.conf(prevResult=chain).items() if key != "master"}
    result = wire.bed.add(conf, sandbox)
    assert [item["name"] for item in result["interfaces"]] == ["eth0", "eth0"]
    assert [(ip["address"], ip["interface"]) for ip in result["ips"]] == [("10.1.0.11/24", 1)]
    assert [route["dst"] for route in sandbox.routes()] == ["10.1.0.0/24", "192.0.2.0/24"]
    assert sandbox.reaches("10.1.0.9")
    assert wire.bed.call("CHECK", {**conf, "prevResult": result}, sandbox) == (0, None)


def test_dns_of_the_ipam_is_kept(wire: Any) -> None:
    ipam = wire.static("10.1.0.11/24", dns={"nameservers": ["10.1.0.53"]})
    assert wire.bed.add(wire.conf(ipam=ipam), wire.bed.sandbox())["dns"] == {"nameservers": ["10.1.0.53"]}
    own = wire.conf(ipam=ipam, dns={"nameservers": ["10.1.0.54"]})
    result = wire.bed.add(own, wire.bed.sandbox(), container="c2")
    assert result["dns"] == {"nameservers": ["10.1.0.54"]}


# ------------------------------------------------------------------------------- the host and its containers


def test_no_machine_takes_the_hosts_address_for_its_links(wire: Any) -> None:
    """Not while the container lives, and not when it is gone: the host never asks who the container is."""
    conf = wire.conf(hostAccess=True, ipam=wire.static("10.1.0.11/24", "fd00:1::11/64"))
    own, other = ("10.1.0.1", "fd00:1::1"), ("10.1.0.11", "fd00:1::11")
    mac = wire.host.link("eth0")["address"]
    sandbox = wire.bed.sandbox()

    def seen() -> list[str]:
        found = wire.far.ip("neigh", "show", "dev", "far0")
        return [item["lladdr"] for item in found if item["dst"] in own]

    assert all(map(wire.far.reaches, own))
    assert seen() == [mac, mac]
    wire.bed.add(conf, sandbox)
    for address in other:
        assert wire.host.reaches(address)
    assert all(map(sandbox.reaches, own))
    assert seen() == [mac, mac]
    assert wire.bed.call("DEL", conf, sandbox) == (0, None)
    assert all(map(wire.far.reaches, own))
    assert seen() == [mac, mac]
    assert not [item for item in wire.host.ip("neigh") if item["dst"] in other]


def test_neighbours_of_the_host_go_with_their_container(wire: Any) -> None:
    """But not those of a successor that has the address already."""
    conf = wire.conf(hostAccess=True, ipam=wire.static("10.1.0.11/24"))
    sandboxes = {name: wire.bed.sandbox() for name in ("c1", "c2", "c3")}
    wire.bed.add(conf, sandboxes["c1"], container="c1")
    other = wire.conf(hostAccess=True, ipam=wire.static("10.1.0.12/24"))
    wire.bed.add(other, sandboxes["c2"], container="c2")
    wire.bed.add(conf, sandboxes["c3"], container="c3")

    def known() -> dict[str, str]:
        return {
            item["dst"]: item["lladdr"] for item in wire.host.ip("neigh") if item["dev"].startswith("mvhost")
        }

    successor = sandboxes["c3"].link("eth0")["address"]
    assert wire.bed.call("DEL", conf, sandboxes["c1"], container="c1") == (0, None)
    assert known() == {"10.1.0.11": successor, "10.1.0.12": sandboxes["c2"].link("eth0")["address"]}
    assert wire.host.reaches("10.1.0.11")
    assert wire.bed.call("DEL", conf, sandboxes["c3"], container="c3") == (0, None)
    assert list(known()) == ["10.1.0.12"]


def test_a_container_whose_mac_another_plugin_changed_is_found_again(wire: Any) -> None:
    conf = wire.conf(hostAccess=True, ipam=wire.static("10.1.0.11/24"))
    sandbox = wire.bed.sandbox()
    wire.bed.add(conf, sandbox)
    sandbox.run("ip", "link", "set", "eth0", "address", "02:00:00:00:00:99")
    end = time.monotonic() + 30
    while not wire.host.reaches("10.1.0.11"):
        assert time.monotonic() < end, "the host goes on with the former MAC address"


def test_host_and_container_reach_each_other(wire: Any) -> None:
    sandbox = wire.bed.sandbox()
    conf = wire.conf(hostAccess=True, ipam=wire.static("10.1.0.11/24", "fd00:1::11/64"))
    result = wire.bed.add(conf, sandbox)
    assert all(wire.host.reaches(address) for address in ("10.1.0.11", "fd00:1::11"))
    assert all(sandbox.reaches(address) for address in ("10.1.0.1", "fd00:1::1"))
    assert all(sandbox.reaches(address) for address in ("10.1.0.9", "fd00:1::9"))
    assert result["interfaces"][1] == {
        "name": host_link(wire),
        "mac": wire.host.link(host_link(wire))["address"],
    }
    assert wire.bed.call("CHECK", {**conf, "prevResult": result}, sandbox) == (0, None)


def test_without_host_access_they_do_not(wire: Any) -> None:
    sandbox = wire.bed.sandbox()
    wire.bed.add(wire.conf(ipam=wire.static("10.1.0.11/24")), sandbox)
    assert not sandbox.reaches("10.1.0.1")


def test_the_wire_does_not_learn_of_the_hosts_link(wire: Any) -> None:
    sandbox = wire.bed.sandbox()
    conf = wire.conf(hostAccess=True, ipam=wire.static("10.1.0.11/24", "fd00:1::11/64"))
    wire.bed.add(conf, sandbox)
    assert sandbox.reaches("10.1.0.1")
    for address in ("10.1.0.1", "fd00:1::1"):
        assert wire.far.reaches(address)
        (known,) = wire.far.ip("neighbour", "show", "to", address)
        assert known["lladdr"] == wire.host.link("eth0")["address"]


def test_the_hosts_link_goes_with_the_last_container(wire: Any) -> None:
    before = wire.bed.state()
    conf = wire.conf(hostAccess=True, ipam=wire.bed.host_local("10.1.0.0/24", "fd00:1::/64"))
    sandboxes = {"c1": wire.bed.sandbox(), "c2": wire.bed.sandbox()}
    for container, sandbox in sandboxes.items():
        wire.bed.add(conf, sandbox, container=container)
    assert len(wire.host.routes("dev", host_link(wire))) == 2
    assert wire.bed.call("DEL", conf, sandboxes["c1"], container="c1") == (0, None)
    assert len(wire.host.routes("dev", host_link(wire))) == 1
    assert wire.bed.call("DEL", conf, "", container="c2") == (0, None)
    assert wire.bed.state() == before


def test_two_networks_on_one_master_are_counted_apart(wire: Any) -> None:
    before = wire.bed.state()
    first = wire.conf(hostAccess=True, ipam=wire.static("10.1.0.11/24"))
    second = wire.conf(name="net2", hostAccess=True, ipam=wire.static("10.1.0.12/24"))
    sandboxes = wire.bed.sandbox(), wire.bed.sandbox()
    wire.bed.add(first, sandboxes[0])
    wire.bed.add(second, sandboxes[1], container="c2")
    assert sum(name.startswith(HOST_LINK) for name in wire.host_links()) == 2
    assert all(wire.host.reaches(address) for address in ("10.1.0.11", "10.1.0.12"))
    valid = {"cni.dev/valid-attachments": []}
    assert wire.bed.call("GC", {**first, **valid}) == (0, None)
    assert sandboxes[0].link("eth0") is None
    assert wire.host.reaches("10.1.0.12")
    assert wire.bed.call("DEL", second, sandboxes[1], container="c2") == (0, None)
    assert wire.bed.state() == before


def test_the_host_routes_and_masquerades_for_containers(wire: Any) -> None:
    wire.host.run("ip", "link", "add", "out0", "type", "veth", "peer", "name", "out1")
    outside = wire.bed.sandbox()
    wire.host.run("ip", "link", "set", "out1", "netns", outside.path)
    wire.host.run("ip", "address", "add", "192.0.2.1/24", "dev", "out0")
    wire.host.run("ip", "link", "set", "out0", "up")
    outside.run("ip", "address", "add", "192.0.2.9/24", "dev", "out1")
    outside.run("ip", "link", "set", "out1", "up")
    ipam = wire.bed.host_local("10.7.0.0/24", routes=[{"dst": "0.0.0.0/0"}])
    conf = wire.conf(hostAccess=True, isGateway=True, ipMasq=True, ipam=ipam)
    sandbox = wire.bed.sandbox()
    before = wire.bed.state()
    result = wire.bed.add(conf, sandbox)
    assert sandbox.reaches("192.0.2.9")
    assert sandbox.reaches("10.7.0.1")
    assert wire.host.reaches("10.7.0.2")
    wire.far.run("ip", "address", "add", "10.7.0.99/24", "dev", "far0")
    assert wire.far.reaches("10.7.0.1")
    assert wire.bed.call("CHECK", {**conf, "prevResult": result}, sandbox) == (0, None)
    assert wire.bed.call("DEL", conf, sandbox) == (0, None)
    after = wire.bed.state()
    assert after.pop("forwarding") == ["1\n", before.pop("forwarding")[1]]
    assert after == before


def test_is_gateway_alone_takes_no_address(wire: Any) -> None:
    """As the reference, which does not know the key: the gateway may be a router on the wire."""
    before = wire.bed.state()
    conf = wire.conf(isGateway=True, ipMasq=True, ipam=wire.static("10.1.0.11/24"))
    wire.bed.add(conf, wire.bed.sandbox())
    assert wire.bed.state() == before


# ----------------------------------------------------------------------------------------------- taking away


def test_del_needs_neither_the_sandbox_nor_a_valid_config(wire: Any) -> None:
    before = wire.bed.state()
    conf = wire.conf(hostAccess=True, ipam=wire.bed.host_local("10.1.0.0/24"))
    sandbox = wire.bed.sandbox()
    wire.bed.add(conf, sandbox)
    assert wire.bed.call("DEL", {**conf, "mode": 7, "master": "none"}, "") == (0, None)
    assert sandbox.link("eth0") is None
    assert wire.bed.state() == before
    assert wire.bed.call("DEL", conf, sandbox) == (0, None)


def test_del_leaves_another_containers_link(wire: Any) -> None:
    sandbox = wire.bed.sandbox()
    wire.bed.add(wire.conf(), sandbox, container="c2")
    assert wire.bed.call("DEL", wire.conf(), sandbox, container="c1") == (0, None)
    assert sandbox.link("eth0")


def test_gc_takes_what_nobody_knows_any_more(wire: Any) -> None:
    conf = wire.conf(hostAccess=True, ipam=wire.bed.host_local("10.1.0.0/24"))
    sandboxes = {name: wire.bed.sandbox() for name in ("c1", "c2", "c3")}
    for container, sandbox in sandboxes.items():
        wire.bed.add(conf, sandbox, container=container)
    sandboxes["c3"].close()
    valid = {"cni.dev/valid-attachments": [{"containerID": "c2", "ifname": "eth0"}]}
    assert wire.bed.call("GC", {**conf, **valid}) == (0, None)
    assert sandboxes["c1"].link("eth0") is None
    assert sandboxes["c2"].link("eth0")
    assert len(wire.host.routes("dev", host_link(wire))) == 1
    assert wire.bed.leased() == {"10.1.0.3"}
    assert wire.bed.call("GC", {**conf, "cni.dev/valid-attachments": []}) == (0, None)
    assert wire.host_links() == ["lo", "eth0"]


def test_ipv6_add_does_not_wait(wire: Any) -> None:
    """A second and more is what duplicate address detection takes; nothing here is near that."""
    started = time.monotonic()
    wire.bed.add(wire.conf(ipam=wire.static("fd00:1::11/64")), wire.bed.sandbox())
    assert time.monotonic() - started < 0.5


# ------------------------------------------------------------------------------------------------- bad input

BAD = {
    "mode": ({"mode": "tunnel"}, "unknown macvlan mode: 'tunnel'"),
    "mtu above the master's": ({"mtu": 9000}, "invalid MTU 9000, must be [0, master MTU(1500)]"),
    "mtu below 68": ({"mtu": 67}, "invalid MTU 67"),
    "mtu below 1280 with IPv6": ({"mtu": 1000}, "invalid MTU 1000, IPv6 needs 1280"),
    "vlan 0": ({"vlan": 0}, "invalid VLAN ID 0"),
    "vlan 4095": ({"vlan": 4095}, "invalid VLAN ID 4095"),
    "vlan x": ({"vlan": "x"}, "invalid VLAN ID 'x'"),
    "vlan of the name": ({"master": "eth0.4095"}, "invalid VLAN ID 4095"),
    "vlan of the name x": ({"master": "eth0.x"}, "invalid VLAN ID 'x'"),
    "loopback": ({"master": "lo"}, "lo is a loopback link"),
    "port": ({"master": "port0"}, "port0 is a port of br7"),
    "no master": ({"master": "eth9"}, "master eth9 does not exist in the host"),
    "no default route": ({"master": ""}, "no default route interface found"),
    "multicast": ({"mac": "01:00:5e:00:00:01"}, "'01:00:5e:00:00:01' is multicast"),
    "zero": ({"mac": "00:00:00:00:00:00"}, "'00:00:00:00:00:00' is all zero"),
    "gateway": (
        {"hostAccess": True, "isGateway": True, "ipam": {"gateway": "10.9.0.1"}},
        "gateway 10.9.0.1 is outside of 10.1.0.0/24",
    ),
    "host access and mode": ({"hostAccess": True, "mode": "vepa"}, "hostAccess needs mode bridge"),
    "vlan in the container": ({"vlan": 7, "linkInContainer": True}, "vlan needs a master in the host"),
    "sources": ({"mode": "source"}, "allowedMACs and mode source need each other"),
    "sources of another mode": ({"allowedMACs": ["02:00:00:00:00:07"]}, "allowedMACs and mode source need"),
    "queue": ({"bcqueuelen": -1}, "invalid queue length -1"),
    "no such kind in this kernel": ({"vlan": 100}, "this kernel has no VLAN links"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_error_and_leaves_nothing(wire: Any, name: str) -> None:
    keys, said = BAD[name]
    if name.startswith("no such kind") and "802.1Q" not in _vlan_error(wire):
        pytest.skip("this kernel has VLAN links")
    wire.host.run("ip", "link", "add", "br7", "type", "bridge")
    wire.host.run("ip", "link", "add", "port0", "type", "veth", "peer", "name", "port1")
    wire.host.run("ip", "link", "set", "port0", "master", "br7")
    ipam = wire.static("10.1.0.11/24", "fd00:1::11/64")
    ipam["addresses"][0].update(keys.get("ipam", {}))
    conf = wire.conf(**{**keys, "ipam": ipam})
    before = wire.bed.state()
    sandbox = wire.bed.sandbox()
    code, error = wire.bed.call("ADD", conf, sandbox)
    assert code == 1
    assert said in f"{error['msg']} {error.get('details', '')}"
    assert wire.bed.state() == before
    assert [link["ifname"] for link in sandbox.ip("link")] == ["lo"]


def _vlan_error(wire: Any) -> str:
    done = wire.bed.call("STATUS", wire.conf(vlan=100))[1]
    return str(done["msg"]) if done else ""


def test_the_hosts_own_link_is_no_master(wire: Any) -> None:
    wire.bed.add(wire.conf(hostAccess=True, ipam=wire.static("10.1.0.11/24")), wire.bed.sandbox())
    code, error = wire.bed.call("ADD", wire.conf(master=host_link(wire)), wire.bed.sandbox(), container="c2")
    assert code == 1
    assert "the host's own link of a macvlan network" in error["msg"]


def test_a_mac_address_in_use_is_told_with_its_holder(wire: Any) -> None:
    mac = "02:00:00:00:00:77"
    wire.bed.add(wire.conf(mac=mac), wire.bed.sandbox())
    second = wire.bed.sandbox()
    before = wire.bed.state()
    code, error = wire.bed.call("ADD", wire.conf(mac=mac), second, container="c2")
    assert (code, error["code"]) == (1, 101)
    assert error["msg"] == f"MAC address {mac} is in use by net: net1, if: eth0, id: c1"
    assert wire.bed.state() == before
    own = wire.host.link("eth0")["address"]
    _, error = wire.bed.call("ADD", wire.conf(mac=own), second, container="c2")
    assert error["msg"] == f"MAC address {own} is in use by eth0 itself"
    wire.bed.add(wire.conf(mac="02:00:00:00:00:78"), second, container="c2")


def test_status_tells_what_keeps_an_add_from_working(wire: Any) -> None:
    assert wire.bed.call("STATUS", wire.conf()) == (0, None)
    assert wire.bed.call("STATUS", wire.conf(master="eth9"))[1]["code"] == 50
    wire.host.run("ip", "link", "set", "eth0", "down")
    assert wire.bed.call("STATUS", wire.conf()) == (0, None)
    wire.bed.add(wire.conf(), wire.bed.sandbox())


# ---------------------------------------------------------------------------------- what others do meanwhile


def test_gc_of_a_host_that_is_a_sandbox_itself_leaves_its_uplink(wire: Any) -> None:
    """The kernel may have numbered a host for itself, and its uplink be a link of a network of that name."""
    bed, outer = wire.bed, wire.host
    nested, inner = bed.sandbox(), bed.sandbox()
    conf = wire.conf(ipam=wire.static("10.1.0.11/24"))
    bed.add(conf, nested)
    bed.host = nested
    try:
        bed.add(conf, inner, container="inner")
        kept = {"cni.dev/valid-attachments": [{"containerID": "inner", "ifname": "eth0"}]}
        for _ in range(2):
            assert bed.call("STATUS", conf) == (0, None)
            assert bed.call("GC", {**conf, **kept}) == (0, None)
        assert nested.link("eth0")
        assert inner.link("eth0")
        assert bed.call("GC", {**conf, "cni.dev/valid-attachments": []}) == (0, None)
        assert inner.link("eth0") is None
    finally:
        bed.host = outer


def test_the_hosts_link_stays_while_there_are_containers_whatever_became_of_their_routes(wire: Any) -> None:
    conf = wire.conf(hostAccess=True, isGateway=True, ipam=wire.bed.host_local("10.7.0.0/24", "fd00:7::/64"))
    wire.host.run("ip", "address", "add", "10.7.0.250/24", "dev", "eth0")
    sandboxes = {name: wire.bed.sandbox() for name in ("c1", "c2")}
    for container, sandbox in sandboxes.items():
        wire.bed.add(conf, sandbox, container=container)
    link = host_link(wire)
    wire.host.run("ip", "address", "del", "10.7.0.250/24", "dev", "eth0")
    wire.host.run("ip", "-6", "route", "flush", "dev", link, "proto", "217")
    assert not wire.host.ip("route", "show", "dev", link, "proto", "217")
    assert wire.bed.call("DEL", conf, sandboxes["c1"], container="c1") == (0, None)
    assert sandboxes["c2"].reaches("10.7.0.1")
    assert wire.bed.call("DEL", conf, sandboxes["c2"], container="c2") == (0, None)
    assert link not in wire.host_links()


def test_an_address_that_moves_between_hosts_is_not_taken_for_the_hosts(wire: Any) -> None:
    wire.host.run("ip", "address", "add", "10.1.0.100/32", "dev", "eth0")
    wire.host.run("ip", "address", "add", "10.1.0.101/24", "dev", "eth0")
    sandbox = wire.bed.sandbox()
    wire.bed.add(wire.conf(hostAccess=True, ipam=wire.static("10.1.0.11/24")), sandbox)
    (route,) = wire.host.routes("10.1.0.11")
    assert route["prefsrc"] == "10.1.0.1"
    known = [entry["dst"] for entry in sandbox.ip("-4", "neighbour") if "PERMANENT" in entry["state"]]
    assert known == ["10.1.0.1"]
    for address in ("10.1.0.100/32", "10.1.0.101/24"):
        wire.host.run("ip", "address", "del", address, "dev", "eth0")
    wire.far.run("ip", "address", "add", "10.1.0.100/24", "dev", "far0")
    assert wire.host.reaches("10.1.0.11")
    assert sandbox.reaches("10.1.0.100")


def test_an_ipv6_address_that_moves_between_hosts_is_not_the_source_either(wire: Any) -> None:
    for address in ("fd00:1::100/128", "fd00:1::101/64"):
        wire.host.run("ip", "address", "add", address, "dev", "eth0", "nodad")
    sandbox = wire.bed.sandbox()
    wire.bed.add(wire.conf(hostAccess=True, ipam=wire.static("fd00:1::11/64")), sandbox)
    assert "src fd00:1::1 " in wire.host.run("ip", "-6", "route", "get", "fd00:1::11")
    assert wire.host.reaches("fd00:1::11")


def test_the_hosts_own_address_may_be_the_gateway(wire: Any) -> None:
    ipam = wire.bed.host_local("10.1.0.0/24", "fd00:1::/64", routes=[{"dst": "0.0.0.0/0"}, {"dst": "::/0"}])
    for subnet, start in zip(ipam["ranges"], ("10.1.0.32", "fd00:1::32"), strict=True):
        subnet[0]["rangeStart"] = start
    sandbox = wire.bed.sandbox()
    conf = wire.conf(hostAccess=True, isGateway=True, ipam=ipam)
    wire.bed.add(conf, sandbox)
    for address in ("10.1.0.1", "fd00:1::1"):
        assert sandbox.reaches(address)
        assert wire.far.reaches(address)
        (known,) = wire.far.ip("neighbour", "show", "to", address)
        assert known["lladdr"] == wire.host.link("eth0")["address"]


def test_a_link_that_was_renamed_in_the_sandbox_goes_all_the_same(wire: Any) -> None:
    sandbox = wire.bed.sandbox()
    wire.bed.add(wire.conf(), sandbox)
    sandbox.run("sh", "-c", "ip link set eth0 down; ip link set eth0 name other0")
    assert wire.bed.call("DEL", wire.conf(), sandbox) == (0, None)
    assert [link["ifname"] for link in sandbox.ip("link")] == ["lo"]


def test_a_link_on_a_master_in_the_container_is_found_without_its_path(wire: Any) -> None:
    sandbox = wire.bed.sandbox()
    sandbox.run("ip", "link", "add", "m0", "type", "veth", "peer", "name", "m1")
    conf = wire.conf(master="m0", linkInContainer=True)
    wire.bed.add(conf, sandbox)
    assert wire.bed.call("DEL", conf, "") == (0, None)
    assert sandbox.link("eth0") is None


def test_a_host_without_netfilter_has_no_rules_to_take_away(wire: Any, monkeypatch: Any) -> None:
    def none(_: Session) -> None:
        raise OSError(errno.EPROTONOSUPPORT, "Protocol not supported")

    monkeypatch.setattr(Session, "nft", none)
    sandbox = wire.bed.sandbox()
    wire.bed.add(wire.conf(), sandbox)
    assert wire.bed.call("DEL", wire.conf(), sandbox) == (0, None)
    assert wire.bed.call("GC", wire.conf(**{"cni.dev/valid-attachments": []})) == (0, None)


def test_the_mtu_of_the_hosts_link_follows_the_masters(wire: Any) -> None:
    conf = wire.conf(hostAccess=True, ipam=wire.bed.host_local("10.1.0.0/24", rangeStart="10.1.0.32"))
    wire.host.run("ip", "link", "set", "eth0", "mtu", "1400")
    wire.bed.add(conf, wire.bed.sandbox())
    wire.host.run("ip", "link", "set", "eth0", "mtu", "1500")
    wire.bed.add(conf, wire.bed.sandbox(), container="c2")
    assert wire.host.link(host_link(wire))["mtu"] == 1500


def test_a_master_held_by_a_link_of_others(wire: Any) -> None:
    taken, sandbox = wire.bed.sandbox(), wire.bed.sandbox()
    options = ("type", "macvlan", "mode", "passthru")
    wire.host.run("ip", "link", "add", "x", "link", "eth0", "netns", taken.path, *options)
    code, error = wire.bed.call("ADD", wire.conf(), sandbox)
    assert (code, error["code"]) == (1, 11)
    assert "takes no more links, as when one in mode passthru holds it" in error["msg"]


@pytest.mark.parametrize("name", ["uplink", "enx-the-one-beside-the-window"], ids=["short", "long"])
def test_a_master_may_be_called_by_another_of_its_names(wire: Any, name: str) -> None:
    if not wire.host.succeeds("ip", "link", "property", "add", "dev", "eth0", "altname", name):
        pytest.skip("this kernel or iproute2 has no alternative names")
    conf = wire.conf(master=name, hostAccess=True, ipam=wire.static("10.1.0.11/24"))
    assert wire.bed.call("STATUS", conf) == (0, None)
    sandbox = wire.bed.sandbox()
    result = wire.bed.add(conf, sandbox)
    assert sandbox.reaches("10.1.0.9")
    assert sandbox.reaches("10.1.0.1")
    assert wire.bed.call("CHECK", {**conf, "prevResult": result}, sandbox) == (0, None)
    assert wire.bed.call("DEL", conf, sandbox) == (0, None)
