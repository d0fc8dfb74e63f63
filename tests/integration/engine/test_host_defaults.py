"""Hosts whose settings for new links differ from those of the host: what a plugin says works, works."""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

SUBNETS = "10.7.0.0/24", "fd00:7::/64"
ROUTES = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
OUTSIDE = "192.0.2.2", "2001:db8::2"
KINDS: dict[str, dict[str, Any]] = {
    "bridge": {"bridge": "br0", "isGateway": True},
    "ptp": {},
    "macvlan": {"master": "wire0", "hostAccess": True, "isGateway": True},
}


def write(place: Any, key: str, value: str) -> None:
    place.run("sh", "-c", f"echo {value} > /proc/sys/net/{key}")


def outside(bed: Any) -> Any:
    """Give the host a neighbour with routes to the containers, and a wire that leads nowhere."""
    far = bed.sandbox()
    for place in (bed.host, far):
        place.skip_dad()
    bed.host.run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "far0", "netns", far.path)
    bed.host.run("ip", "link", "add", "wire0", "type", "veth", "peer", "name", "wire1")
    for place, link, end in ((bed.host, "up0", "1"), (far, "far0", "2")):
        place.run("ip", "link", "set", link, "up")
        place.run("ip", "address", "add", f"192.0.2.{end}/24", "dev", link)
        place.run("ip", "address", "add", f"2001:db8::{end}/64", "dev", link, "nodad")
    for link in ("wire0", "wire1"):
        bed.host.run("ip", "link", "set", link, "up")
    far.run("ip", "route", "add", SUBNETS[0], "via", "192.0.2.1")
    far.run("ip", "route", "add", SUBNETS[1], "via", "2001:db8::1")
    return far


@pytest.mark.parametrize("kind", KINDS)
def test_containers_reach_the_world_where_new_links_forward_nothing(bed: Any, kind: str) -> None:
    outside(bed)
    for key in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        write(bed.host, key, "1")
    write(bed.host, "ipv4/conf/default/forwarding", "0")
    write(bed.host, "ipv6/conf/default/forwarding", "0")
    write(bed.host, "ipv6/conf/default/disable_ipv6", "1")
    ipam = bed.host_local(*SUBNETS, routes=ROUTES)
    conf = {"cniVersion": "1.1.0", "name": "net1", "type": kind, **KINDS[kind], "ipam": ipam}
    assert bed.call("STATUS", conf) == (0, None)
    sandbox = bed.sandbox()
    result = bed.add(conf, sandbox)
    for address in OUTSIDE:
        assert sandbox.reaches(address)
    with_result = {**conf, "prevResult": result}
    assert bed.call("CHECK", with_result, sandbox) == (0, None)
    gateway = json.loads(bed.host.run("ip", "-j", "route", "get", result["ips"][0]["address"][:-3]))[0]["dev"]
    write(bed.host, f"ipv4/conf/{gateway}/forwarding", "0")
    code, error = bed.call("CHECK", with_result, sandbox)
    assert (code, error["code"]) == (1, 103)
    assert f"sysctl net.ipv4.conf.{gateway}.forwarding is 0, not 1" in json.dumps(error)
    assert bed.call("DEL", conf, sandbox) == (0, None)


_ADVERTISE = """
import socket, struct, sys
index = socket.if_nametoindex("far0")
with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as made:
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
    made.sendto(struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, int(sys.argv[1]), 0, 0), ("ff02::1", 0, 0, index))
"""


@pytest.mark.parametrize("kind", KINDS)
def test_a_router_that_the_host_learned_stays_when_it_becomes_a_router_itself(bed: Any, kind: str) -> None:
    far = outside(bed)
    for key in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        write(bed.host, key, "0")
    write(bed.host, "ipv6/conf/up0/accept_ra", "1")
    write(bed.host, "ipv6/conf/wire0/accept_ra", "1")

    def learned(lifetime: int | None = None) -> list[str]:
        """Return the links of learned default routes, if asked after one advertisement more."""
        if lifetime is not None:
            far.run(sys.executable, "-S", "-c", _ADVERTISE, str(lifetime))
        return [route["dev"] for route in bed.host.ip("-6", "route", "show", "default", "proto", "ra")]

    until(lambda: learned(600) == ["up0"])
    ipam = bed.host_local(*SUBNETS, routes=ROUTES)
    conf = {"cniVersion": "1.1.0", "name": "net1", "type": kind, **KINDS[kind], "ipam": ipam}
    bed.add(conf, bed.sandbox())
    assert bed.host.run("cat", "/proc/sys/net/ipv6/conf/all/forwarding").strip() == "1"
    assert learned() == ["up0"]
    for link, value in (("up0", "2"), ("wire0", "1")):
        assert bed.host.run("cat", f"/proc/sys/net/ipv6/conf/{link}/accept_ra").strip() == value
    until(lambda: learned(0) == [])  # the router says that it is none any more


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end, "in vain"
        time.sleep(0.1)
